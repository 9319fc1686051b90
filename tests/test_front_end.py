"""Kernels are the same whether Numba's front end is hastened or not."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import fresh_kernels
import pytest
from numba import types

from minicaffe.kernels.cpu.runtime import front_end, launch

KERNELS = """
import numpy as np
from minicaffe.kernels.cpu.runtime.compile import as_written, kernel
@as_written
def square(x):
    return x * x
@kernel(inline=True)
def clipped(x, low):
    found = low
    if x > low:
        found = min(x, 4 * low)
    return found
@kernel(internal=True)
def total(x, first):
    found = 0.0
    for i in range(first, len(x)):
        found += square(x[i])
    return found
@kernel()
def mixed(x, sizes, scale):
    scratch = np.empty(len(x))
    for i in range(len(x)):
        scratch[i] = clipped(x[i], scale) - clipped(-x[i], scale) if i % sizes[0] else x[i] / sizes[1]
    return total(scratch, sizes[0]), sizes
"""
CONTEXTS = launch.run_launches.typingctx, launch.run_launches.targetctx


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A module of kernels that have never been compiled."""
    return fresh_kernels.load(KERNELS, tmp_path, monkeypatch)


def _in_a_fork(work: Callable[[], str]) -> str:
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(read)
        try:
            told = work()
        except BaseException as error:  # noqa: BLE001
            told = f"failed: {error!r}"
        with os.fdopen(write, "w") as file:
            file.write(told)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        told = file.read()
    os.waitpid(pid, 0)
    return told


def test_code_is_the_same(fresh, monkeypatch):
    signature = types.Array(types.float32, 1, "C"), types.UniTuple(types.intp, 2), types.float64

    def assembly() -> str:
        for kernel in (fresh.mixed, fresh.total, fresh.clipped):
            kernel._cache._cache_file.load = lambda _: None
            kernel._cache.save_overload = lambda *_: None
        fresh.mixed.compile(signature)
        code = fresh.mixed.overloads[signature].library.get_asm_str()
        return "\n".join(re.findall(r"^\t([a-z].*?)(?:[_$.]\w+.*)?$", code, re.MULTILINE))  # without names

    def hastened() -> str:
        front_end.hasten(*CONTEXTS)
        return assembly()

    usual = _in_a_fork(assembly)
    assert len(usual.splitlines()) > 100
    assert _in_a_fork(hastened) == usual


def test_all_of_it_is_for_this_version_of_numba():
    def steps() -> str:
        for step in front_end._steps(*CONTEXTS):
            step()
        return "all"

    assert _in_a_fork(steps) == "all"
