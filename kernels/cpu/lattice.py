"""A permutohedral lattice (Adams, Baek and Davis 2010): Gaussian filters over points that lie anywhere in d dimensions.

A point lies in a simplex of d + 1 vertices and shares its values among them; they are blurred along the d + 1
directions of the lattice, and each point takes its shares back.  Vertices that no point touches are left out.
"""

from __future__ import annotations

import math

import numpy as np

from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts


@kernel(internal=True)
def _enclose(point, scales, elevated, rest, rank, weights):
    """The simplex around a point (d,): the multiples of d + 1 nearest to its d + 1 coordinates, which sum to 0, their
    order, and the point's share of each vertex."""
    d = len(point)
    total = 0.0
    for axis in range(d, 0, -1):
        step = point[axis - 1] * scales[axis - 1]
        elevated[axis] = total - axis * step
        total += step
    elevated[0] = total
    off = 0
    for axis in range(d + 1):
        whole = np.rint(elevated[axis] / (d + 1))
        rest[axis] = np.int64(whole) * (d + 1)
        off += np.int64(whole)
        rank[axis] = 0
    for a in range(d):
        for b in range(a + 1, d + 1):
            if elevated[a] - rest[a] < elevated[b] - rest[b]:
                rank[a] += 1
            else:
                rank[b] += 1
    weights[:] = 0
    for axis in range(d + 1):
        rank[axis] += off
        turn = (rank[axis] < 0) - (rank[axis] > d)
        rank[axis] += turn * (d + 1)
        rest[axis] += turn * (d + 1)
        part = (elevated[axis] - rest[axis]) / (d + 1)
        weights[d - rank[axis]] += part
        weights[d + 1 - rank[axis]] -= part
    weights[0] += 1 + weights[d + 1]


@kernel(internal=True)
def _slot(key, keys, table):
    """Where a key (d,) is in the table of numbers of keys, or where it may be put; that slot holds 0."""
    mask = np.uint64(len(table) - 1)
    mixed = np.uint64(0)
    for value in key:
        mixed = (mixed + np.uint64(value)) * np.uint64(0x9E3779B97F4A7C15)
    slot = (mixed ^ (mixed >> np.uint64(32))) & mask
    while True:
        number = table[slot]
        if number == 0:
            return slot
        same = True
        for i in range(len(key)):
            same &= keys[number, i] == key[i]
        if same:
            return slot
        slot = (slot + np.uint64(1)) & mask


@kernel()
def _lattice(points, scales, vertices, shares, keys, table):
    """Fill vertices (n, d + 1), numbers from 1 on, and shares; the number of vertices is returned."""
    d = points.shape[1]
    elevated, weights = np.empty(d + 1), np.empty(d + 2)
    rest, rank = np.empty(d + 1, np.int64), np.empty(d + 1, np.int64)
    key = np.empty(d, np.int64)
    count = 0
    for n in range(len(points)):
        _enclose(points[n], scales, elevated, rest, rank, weights)
        for color in range(d + 1):
            for axis in range(d):
                key[axis] = rest[axis] + color - (d + 1 if rank[axis] > d - color else 0)
            slot = _slot(key, keys, table)
            if table[slot] == 0:
                count += 1
                table[slot] = count
                keys[count] = key
            vertices[n, color] = table[slot]
            shares[n, color] = weights[color]
    return count


@kernel()
def _neighbours(keys, table, found):
    """Fill found (d + 1, count + 1, 2): along each direction the vertices beside each, 0 where there is none."""
    d = keys.shape[1]
    key = np.empty(d, np.int64)
    for direction in range(d + 1):
        for number in range(1, found.shape[1]):
            for side in range(2):
                step = 2 * side - 1
                for axis in range(d):
                    key[axis] = keys[number, axis] + step
                if direction < d:
                    key[direction] -= step * (d + 1)
                found[direction, number, side] = table[_slot(key, keys, table)]


@part_kernel()
def _filter_part(part, parts, values, vertices, shares, neighbours, backward, old, new, out):
    directions, count = len(neighbours), len(old)
    low, high = share(part, parts, values.shape[1])
    old[:, low:high] = 0
    new[0, low:high] = 0
    for n in range(len(values)):
        for color in range(directions):
            vertex, weight = vertices[n, color], values.dtype.type(shares[n, color])
            for c in range(low, high):
                old[vertex, c] += weight * values[n, c]
    for turn in range(directions):
        beside = neighbours[directions - 1 - turn if backward else turn]
        for number in range(1, count):
            left, right = beside[number, 0], beside[number, 1]
            for c in range(low, high):
                new[number, c] = old[number, c] + values.dtype.type(0.5) * (old[left, c] + old[right, c])
        old, new = new, old
    size = 1 / (1 + 2.0 ** (1 - directions))
    for n in range(len(values)):
        for c in range(low, high):
            out[n, c] = 0
        for color in range(directions):
            vertex, weight = vertices[n, color], values.dtype.type(shares[n, color] * size)
            for c in range(low, high):
                out[n, c] += weight * old[vertex, c]


@kernel()
def _filter(values, vertices, shares, neighbours, backward, old, new, out, parts):
    parallel(_filter_part, parts, (values, vertices, shares, neighbours, backward, old, new, out))


class Lattice:
    """The lattice of points (n, d), whose Gaussian has a standard deviation of 1 in each dimension.

    Coordinates must be finite, and less than 1e8.
    """

    def __init__(self, points: np.ndarray) -> None:
        n, d = points.shape
        axes = np.arange(d)
        scales = math.sqrt(2 / 3) * (d + 1) / np.sqrt((axes + 1) * (axes + 2))
        self.vertices, self.shares = np.empty((n, d + 1), np.int32), np.empty((n, d + 1))
        keys = np.empty((n * (d + 1) + 1, d), np.int64)
        table = np.zeros(1 << (2 * n * (d + 1)).bit_length(), np.int32)
        count = _lattice(points.astype(np.float64), scales, self.vertices, self.shares, keys, table)
        self.neighbours = np.empty((d + 1, count + 1, 2), np.int32)
        _neighbours(keys, table, self.neighbours)

    def filter(self, values: np.ndarray, backward: bool = False) -> np.ndarray:
        """Each point's sum of the values (n, C) of all, weighed by the Gaussian of their distance; or the gradient of
        values, given that of such sums."""
        out = np.empty_like(values)
        old, new = (np.empty((self.neighbours.shape[1], values.shape[1]), values.dtype) for _ in range(2))
        workers = min(values.shape[1], parts(values.size * self.shares.shape[1]))
        _filter(values, self.vertices, self.shares, self.neighbours, backward, old, new, out, workers)
        return out
