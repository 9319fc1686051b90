"""The deploy form on a GPU's stand-in: folded and without what does nothing, as on the CPU."""

from __future__ import annotations

import shutil

import pytest
import test_deploy as on_cpu

from minicaffe import backend

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ builds the CUDA kernels for the CPU")


def test_folded_joined_and_written_to():
    from strict_gpu import StrictBackend

    definition = (
        on_cpu.input_of(1, 16, 4, 4) + on_cpu.conv("data", "x", "num_output: 16 kernel_size: 3 pad: 1") + on_cpu.BN_SCALE
        + on_cpu.RELU + on_cpu.layer("Concat", "x data", "c") + on_cpu.layer("Slice", "c", "d e")
    )  # fmt: skip
    with backend.use(StrictBackend()):
        net = on_cpu.net_of(definition)
        deployed = net.deploy()
        assert on_cpu.difference(net, deployed) < on_cpu.ROUNDING
        assert on_cpu.types(deployed) == ["Input", "Convolution", "ReLU", "Concat", "Slice"]
        for each in (net, deployed):
            each.params["Scale_x"][0].data *= 3
        assert on_cpu.difference(net, deployed) < on_cpu.ROUNDING
        parts = deployed.run_apart()
        for part in parts:
            part.run()
        assert [step.layer.type for part in parts for step in part.steps] == on_cpu.types(deployed)
        assert on_cpu.difference(net, deployed) < on_cpu.ROUNDING
        held = deployed.params["Convolution_x"][0].data
    assert on_cpu.difference(net, deployed) < on_cpu.ROUNDING  # back on the host
    held += 1
    net.params["Convolution_x"][0].data += 1
    with backend.use(StrictBackend()):
        assert on_cpu.difference(net, deployed) < on_cpu.ROUNDING
