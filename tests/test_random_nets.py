"""Random nets under random events: a replay gives what an eager pass gives, fused layers what plain ones give."""

from __future__ import annotations

from types import SimpleNamespace

import cuda_host
import pytest
import random_nets
from strict_cuda import FakeCublas, FakeCupy

from minicaffe import backend, compat
from minicaffe.backend.gpu import GpuBackend

PROGRAMS, BATCH = 30, 5


@pytest.mark.parametrize("first", range(0, PROGRAMS, BATCH))
@pytest.mark.filterwarnings("ignore:(divide by zero|overflow|invalid value):RuntimeWarning")
def test_replays_and_fused_layers_give_the_same_numbers(first):
    """``python tests/random_nets.py --count 1 --seed SEED`` shows the fewest events with which a seed fails."""
    faults = {}
    for seed in range(first, first + BATCH):
        if problem := random_nets.fault(random_nets.draw_program(seed, changes=6)):
            faults[seed] = problem
    assert not faults


@pytest.mark.skipif(not cuda_host.have_compiler(), reason="g++ builds the CUDA kernels for the CPU")
@pytest.mark.parametrize("first", range(0, 12, 4))
def test_cuda_graphs_give_the_same_numbers(first, monkeypatch):
    """On the models of CuPy and cuBLAS, which run a graph with the arguments that it was captured with."""
    modules = {"cupy": FakeCupy(), "nvmath": SimpleNamespace(), "nvmath.bindings.cublas": FakeCublas()}
    monkeypatch.setattr(compat, "require", modules.__getitem__)
    monkeypatch.setattr(GpuBackend, "_of_device", {})
    faults = {}
    with backend.use(GpuBackend.on_device(0)) as where:
        for seed in range(first, first + 4):
            program = random_nets.draw_program(seed, changes=6)
            eager = random_nets.run_without(program, "replay")
            if problem := random_nets.differing(random_nets.run_without(program), eager):
                faults[seed] = problem
    assert not faults and where.graphs and not where.not_captured


def test_what_programs_are_made_of():
    """They hold layers and events of every kind, and hardly a layer that minicaffe refuses."""
    programs = [random_nets.draw_program(seed) for seed in range(150)]
    text = "".join(program.definition for program in programs)
    others = """Convolution Deconvolution InnerProduct Pooling LRN Normalize BatchNorm Scale Bias Eltwise Concat Slice Flatten Reshape
        Softmax SoftmaxWithLoss EuclideanLoss ContrastiveLoss SigmoidCrossEntropyLoss Python"""
    kinds = {*random_nets.NEURONS, *others.split()}
    assert {kind for kind in kinds if f'type: "{kind}"' not in text} == set()
    events = {name for program in programs for name, _ in program.events}
    assert events == random_nets.EVENTS.keys()
    assert sum(len(program.refused) for program in programs) < 0.1 * text.count("layer {")
