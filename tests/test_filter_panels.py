"""Convolutions that multiply images with panels of filters, packed once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_kernels_cpu import Case, positions, tolerance, use, window

from minicaffe.kernels import cpu, fast_paths, reference
from minicaffe.kernels.cpu.conv import filter_panels, implicit_gemm, select
from minicaffe.kernels.cpu.conv.problem import FORWARD, WEIGHT_GRAD, Problem
from minicaffe.kernels.cpu.matmul.microkernel import PANEL

# shape of x, filters, window, groups
IN_PLACE = [
    ((1, 1, 1, 1), 1, window((1, 1)), 1),
    ((2, 17, 1, 5), 10, window((1, 1)), 1),
    ((1, 300, 7, 7), 130, window((1, 1)), 1),
    ((3, 3, 14, 14), 16, window((1, 1)), 1),
    ((2, 34, 7, 7), 96, window((1, 1)), 2),
    ((1, 5, 9, 13), 48, window((1, 1), stride=2), 1),
    ((2, 6, 3, 2), 100, window((1, 1), pad=1), 1),
    ((2, 3, 11), 5, window((1,)), 1),
    ((1, 2, 3, 4, 5), 7, window((1, 1, 1)), 1),
]
GATHERED = [
    ((1, 17, 7, 7), 64, window((3, 3), pad=1), 1),
    ((2, 6, 5, 9), 42, window((3, 2), stride=2, pad=1), 2),
    ((1, 20, 9, 11), 33, window((2, 3), dilation=2), 1),
    ((2, 3, 6, 4), 10, window((6, 4)), 1),
    ((1, 2, 30), 3, window((5,), stride=3, pad=2), 1),
    ((1, 2, 4, 5, 3), 9, window((3, 2, 1), pad=1), 1),
    ((1, 4, 8, 8), 20, window((1, 1), stride=3), 2),
]


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def case(request) -> Case:
    return Case(request.param)


def problem_of(shape, filters, w, group, dtype, threads=1, **more) -> Problem:
    y_shape = (shape[0], filters, *positions(shape[2:], w))
    return Problem(FORWARD, shape, y_shape, w, group, np.dtype(dtype), threads, packed=True, **more)


def solved(problem, x, weights, bias, y, slope):
    """The result, in a workspace of its own size, whose numbers must not matter, nor what lies around it."""
    packing, y = filter_panels.bind_packed(problem), y.copy()
    count = filter_panels.workspace(problem)
    room = np.full(count + 64, np.nan, y.dtype)
    packed = packing.pack(weights)
    packing.solve(x, packed, bias, y, room[:count], slope)
    assert np.isnan(room[count:]).all()
    return y


@pytest.mark.parametrize("shape, filters, w, group", IN_PLACE + GATHERED)
def test_every_bit_is_that_of_an_implicit_gemm(case, shape, filters, w, group):
    """On one thread and on two, added to what was there or not."""
    x, bias = case.normal(*shape), case.normal(filters)
    weights = case.normal(filters, shape[1] // group, *w.kernel)
    for accumulate, slope in ((False, 1.0), (False, 0.25), (True, 0.0)):
        problem = problem_of(shape, filters, w, group, case.dtype, accumulate=accumulate)
        start = case.normal(*problem.y_shape)
        expected = start.copy()
        memory = np.zeros(implicit_gemm.workspace(problem), case.dtype)
        implicit_gemm.bind(problem)(x, weights, bias, expected, memory, slope)
        for threads in (1, 2):
            with use(threads):
                found = solved(problem._replace(threads=threads), x, weights, bias, start, slope)
            np.testing.assert_array_equal(found, expected)
        by_definition = start.copy()
        columns = np.zeros(x[0].size * w.taps * problem.positions * len(x) + 64, case.dtype)
        reference.convolve(x, weights, bias, by_definition, w, group, columns, slope, None, accumulate)
        np.testing.assert_allclose(found, by_definition, **tolerance(case.dtype))


@pytest.mark.parametrize("shape, filters, w, group", [IN_PLACE[4], IN_PLACE[5], GATHERED[0], GATHERED[1]])
def test_numbers_around_the_arrays_do_not_leak(case, shape, filters, w, group):
    """Those that fill up tiles and panels are not read from there, and none are written."""
    problem = problem_of(shape, filters, w, group, case.dtype)

    def inside(values):
        room = np.full(values.size + 128, np.nan, case.dtype)
        room[64:-64] = values.reshape(-1)
        return room, room[64:-64].reshape(values.shape)

    rooms, (x, weights, bias, y) = zip(
        *(
            inside(case.normal(*shape))
            for shape in (shape, (filters, shape[1] // group, *w.kernel), (filters,), problem.y_shape)
        ),
        strict=True,
    )
    packing = filter_panels.bind_packed(problem)
    packing.solve(x, packing.pack(weights), bias, y, np.full(filter_panels.workspace(problem), np.nan, case.dtype), 1.0)
    assert np.isfinite(y).all()
    assert all(np.isnan(room[:64]).all() and np.isnan(room[-64:]).all() for room in rooms)


def test_a_filter_that_is_not_a_number_spoils_its_own_channel_only(case):
    shape, filters, w, group = IN_PLACE[2]
    problem = problem_of(shape, filters, w, group, case.dtype)
    x, weights, bias = case.normal(*shape), case.normal(filters, shape[1], 1, 1), case.normal(filters)
    weights[-1, 3], x[0, 5, 2, 2] = np.nan, np.inf
    spoilt = ~np.isfinite(solved(problem, x, weights, bias, np.zeros(problem.y_shape, case.dtype), 1.0))
    expected = np.zeros_like(spoilt)
    expected[:, -1], expected[:, :, 2, 2] = True, True
    np.testing.assert_array_equal(spoilt, expected)


@pytest.mark.parametrize("accumulate", [False, True])
def test_it_is_taken_for_small_images_and_weights_that_stay_the_same(accumulate):
    shape, filters, w = (1, 512, 7, 7), 512, window((1, 1))
    small = problem_of(shape, filters, w, 1, np.float32, accumulate=accumulate)
    assert select._chosen(small, frozenset()) is filter_panels
    assert select._chosen(small, frozenset({"filter_panels"})) is implicit_gemm
    assert filter_panels.cycles(small._replace(packed=False)) is None
    assert filter_panels.cycles(small._replace(kind=WEIGHT_GRAD)) is None
    assert select._chosen(problem_of((1, 64, 56, 56), 256, w, 1, np.float32), frozenset()) is implicit_gemm


def test_a_window_of_too_many_elements_is_left_to_others():
    wide = problem_of((1, 512, 25, 25), 64, window((25, 25)), 1, np.float32)
    assert filter_panels.cycles(wide) is None


@pytest.mark.parametrize("stride", [1, 2])
def test_the_op_keeps_what_it_made_of_the_weights(case, stride):
    """And makes no use of the weights again; with a stride it goes by way of the pixels that are read."""
    w, shape, filters = window((1, 1), stride=stride), (1, 256, 7 * stride, 7 * stride), 256
    x, weights, bias = case.normal(*shape), case.normal(filters, 256, 1, 1), case.normal(filters)
    y_shape = (1, filters, *positions(shape[2:], w))
    memory = np.zeros(cpu.convolution_workspace(shape, y_shape, w, 1, case.dtype), case.dtype)
    expected = np.zeros(y_shape, case.dtype)
    with fast_paths.without("filter_panels"):
        empty: dict = {}
        cpu.convolve(x, weights, bias, expected, w, 1, memory, 0.0, empty)
        assert not empty
    packed: dict = {}
    for _ in range(2):
        y = np.zeros(y_shape, case.dtype)
        cpu.convolve(x, weights, bias, y, w, 1, memory, 0.0, packed)
        assert len(packed) == 1
        np.testing.assert_array_equal(y, expected)
        weights = np.full_like(weights, np.nan)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_shares_of_the_threads_cover_all_of_the_work_once(threads):
    """Which ``launch.share`` makes of the numbers of parts; here these must fit."""
    for (shape, filters, w, group), dtype in itertools.product(IN_PLACE + GATHERED, (np.float32, np.float64)):
        problem = problem_of(shape, filters, w, group, dtype, threads)
        split = filter_panels._split(problem)
        assert split.parts % split.filter_parts == 0
        assert split.filter_parts <= -(-problem.filters * problem.dtype.itemsize // PANEL)
        pieces = filter_panels._pieces(problem, split.rows)
        assert sum(pieces) == problem.positions
        assert 1 <= split.together <= filter_panels._most_together(problem, len(pieces))


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_each_thread_has_work_of_its_own(threads):
    """Where there are fewer positions than parts: else it is chance which thread computes which filters, and none
    finds in its cache what the layer after needs of it.
    """
    for shape in ((1, 512, 14, 14), (1, 1024, 7, 7), (1, 128, 13, 13)):
        problem = problem_of(shape, 64 * 3 * threads, window((1, 1)), 1, np.float32, threads)
        split = filter_panels._split(problem)
        blocks = -(-len(filter_panels._pieces(problem, split.rows)) // split.together)
        assert threads <= split.parts
        assert split.parts // split.filter_parts <= blocks
