"""The nearest of many points in few dimensions.  Single-threaded and without the interpreter's lock."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.runtime.compile import kernel


@kernel()
def nearest(points: np.ndarray, others: np.ndarray, numbers: np.ndarray, starts: np.ndarray, found: np.ndarray) -> None:
    """The k nearest of n points for each of m, nearest first; of points that are equally far the lowest number first.

    points (m, d); others (n, d), sorted by their first coordinate, and their numbers (n,); starts (m,), where each of
    ``points`` would be among them; found (m, k), k <= n, numbers.

    Others are looked at in the order of their distance in the first coordinate, until that alone is too far.
    """
    k = found.shape[1]
    distances = np.empty(k)
    for m in range(len(points)):
        point, nearest_ones = points[m], found[m]
        below, above, count = starts[m] - 1, starts[m], 0
        while below >= 0 or above < len(others):
            if above == len(others) or (below >= 0 and point[0] - others[below, 0] < others[above, 0] - point[0]):
                at, below = below, below - 1
            else:
                at, above = above, above + 1
            gap = others[at, 0] - point[0]
            if count == k and gap * gap > distances[k - 1]:
                break
            distance = 0.0
            for axis in range(len(point)):
                gap = others[at, axis] - point[axis]
                distance += gap * gap
            if count == k and not _before(distance, numbers[at], distances[k - 1], nearest_ones[k - 1]):
                continue
            place = min(count, k - 1)
            while place > 0 and _before(distance, numbers[at], distances[place - 1], nearest_ones[place - 1]):
                distances[place], nearest_ones[place] = distances[place - 1], nearest_ones[place - 1]
                place -= 1
            distances[place], nearest_ones[place] = distance, numbers[at]
            count = min(count + 1, k)


@kernel(inline=True)
def _before(distance, number, other_distance, other_number):
    return distance < other_distance or (distance == other_distance and number < other_number)
