"""The reference, the CPU kernels and the CUDA kernels offer the same functions with the same parameters."""

from __future__ import annotations

import inspect

import pytest

from minicaffe.kernels import cpu, reference
from minicaffe.kernels.cuda import CudaOps


def parameters(function):
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values() if p.name != "self"]


def is_primitive(value):
    """Primitives write into arrays, or tell what others need; a function that returns an array helps others."""
    return (
        inspect.isfunction(value)
        and not value.__name__.startswith("_")
        and inspect.signature(value).return_annotation in ("None", "int", "Hashable")
    )


PRIMITIVES = {name: parameters(value) for name, value in inspect.getmembers(reference, is_primitive)}


def test_there_are_primitives():
    assert {"gemm", "convolve", "contrastive_loss", "sgd_update"} <= PRIMITIVES.keys()


@pytest.mark.parametrize("name", PRIMITIVES)
@pytest.mark.parametrize("ops", [cpu, CudaOps], ids=["cpu", "cuda"])
def test_signature(ops, name):
    function = getattr(ops, name, None)
    assert function is not None, f"{ops.__name__} lacks {name}"
    assert parameters(function) == PRIMITIVES[name]


def test_cuda_has_nothing_else():
    names = {name for name, value in inspect.getmembers(CudaOps, inspect.isfunction) if not name.startswith("_")}
    assert names == PRIMITIVES.keys()
