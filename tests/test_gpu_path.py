"""The siamese net trained through the GPU path on the strict stand-in for CuPy: the losses of the CPU, nothing
allocated, no waiting.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from minicaffe import backend, proto
from minicaffe.proto.files import read_net
from minicaffe.solvers import create

NET = Path(__file__).parent / "golden" / "nets" / "siamese_train.prototxt"
BATCH = 3

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ builds the CUDA kernels for the CPU")


def solver(**options):
    """A solver of the siamese net with a batch of three pairs, filled from seed 3; ``options`` are fields of its own."""
    net, _ = read_net(NET)
    for layer in net.layer:
        for shape in layer.input_param.shape:
            shape.dim[0] = BATCH
    return create(
        proto.SolverParameter(
            net_param=net,
            base_lr=0.01,
            lr_policy="fixed",
            momentum=0.9,
            weight_decay=0.0005,
            random_seed=3,
            snapshot_after_train=False,
            **options,
        )
    )


def feed(net, iteration):
    rng = np.random.default_rng(iteration)
    for name in net.inputs:
        blob = net.blobs[name]
        pair = blob.data.ndim == 4
        blob.data[...] = rng.random(blob.shape) if pair else rng.integers(0, 2, blob.shape)


def losses_on(where, iterations):
    with backend.use(where):
        trained, losses = solver(), []
        trained.add_callback(lambda: feed(trained.net, trained.iter), lambda: losses.append(trained.net.loss))
        trained.step(iterations)
        return losses, [blob.data.copy() for blobs in trained.net.params.values() for blob in blobs]


def test_siamese_net_trains_to_the_losses_of_the_cpu():
    from strict_gpu import StrictBackend

    cpu_losses, cpu_weights = losses_on(backend.current(), 6)
    gpu_losses, gpu_weights = losses_on(StrictBackend(), 6)
    assert len(set(cpu_losses)) == 6
    np.testing.assert_allclose(gpu_losses, cpu_losses, rtol=1e-4)
    for a, b in zip(gpu_weights, cpu_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_iteration_neither_allocates_nor_waits():
    import strict_cupy
    from strict_gpu import StrictBackend

    with backend.use(StrictBackend()):
        trained = solver()
        feed(trained.net, 0)
        trained.step(2)
        feed(trained.net, 1)
        before = strict_cupy.allocations()
        with strict_cupy.no_sync():
            trained.step(1)
        assert strict_cupy.allocations() == before
