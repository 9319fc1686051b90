"""The product of few rows with a transposed matrix, C = A B^T: inner products along the rows of B.

With so few rows there is nothing to win by panels of B: reading B takes most of the time.  Each of its rows is read
once, from one end to the other, some at a time, so that what is read of A serves all of them.
"""

from __future__ import annotations

from minicaffe.kernels.cpu.runtime.compile import REASSOCIATE, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel_queue, share

MOST_ROWS = 4
"""Of A: with more, panels of B take less time."""
_TOGETHER = 4  # rows of B that are read at a time


@kernel(fastmath=REASSOCIATE)
def _inner_products(a, first, second, third, fourth):
    """Of a with each of four arrays; there are as many sums as rows, so that none waits for another."""
    s = t = u = v = a.dtype.type(0)
    for i in range(a.size):
        s += a[i] * first[i]
        t += a[i] * second[i]
        u += a[i] * third[i]
        v += a[i] * fourth[i]
    return s, t, u, v


@part_kernel()
def _few_rows_part(part, parts, worker, a, b, c):
    low, high = share(part, parts, len(b))
    for n in range(low, high, _TOGETHER):
        last = high - 1  # rows beyond it repeat it
        n1, n2, n3 = min(n + 1, last), min(n + 2, last), min(n + 3, last)
        for m in range(len(a)):
            s, t, u, v = _inner_products(a[m], b[n], b[n1], b[n2], b[n3])
            c[m, n3], c[m, n2], c[m, n1], c[m, n] = v, u, t, s


@kernel()
def few_rows(parts, threads, a, b, c):
    """c (m, n) = a (m, k) times the transpose of b (n, k), in so many parts."""
    parallel_queue(_few_rows_part, parts, threads, (a, b, c))
