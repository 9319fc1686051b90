"""The part "training": solvers and nets on the GPU against the CPU, equal bits, snapshots from one to the other."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe import backend, graph, models, proto
from minicaffe.backend import random
from minicaffe.backend.base import RandomSource
from minicaffe.backend.gpu import GpuBackend
from minicaffe.kernels import fast_paths
from minicaffe.proto.files import read_net
from minicaffe.solvers import Solver, create
from minicaffe.testing.gpu import target
from minicaffe.testing.gpu.checks import Check, Options, Skip
from minicaffe.testing.kernel_cases import random as philox

CLASSES = 10
FIRST = 10
"""Iterations over which only rounding can differ; after them the differences have grown by what was learned since."""
CLOSE, FAR = 2e-4, 0.1
"""How far losses may be apart over the first iterations and over all of them, relative to the largest.

Weights changed by their rounding error move the losses of these nets by up to 2e-5 over the first ten iterations and by
up to 0.03 over 200.
"""

IN_16_BITS = {"fp16": 0.02, "bf16": 0.1}
"""How far losses over a few iterations may be from those of float32, relative to the largest."""

TOO_LARGE = 2.0**24
"""A loss scale that makes gradients of these nets infinite in fp16, until it has been halved some times."""

SOLVERS: dict[str, dict[str, float]] = {
    "SGD": {"base_lr": 0.01, "momentum": 0.9, "weight_decay": 0.0005},
    "Nesterov": {"base_lr": 0.01, "momentum": 0.9},
    "AdaGrad": {"base_lr": 0.001},
    "RMSProp": {"base_lr": 0.001, "rms_decay": 0.9},
    "AdaDelta": {"base_lr": 0.1, "momentum": 0.9, "delta": 1e-6},
    "Adam": {"base_lr": 0.001, "momentum": 0.9, "momentum2": 0.999},
}


@dataclass(frozen=True)
class Task:
    """A shipped net to train; its data layers are replaced by ``inputs``, shapes without the batch."""

    model: str
    inputs: dict[str, tuple[int, ...]]
    rate: float
    dropout: str = ""

    def net(self, batch: int) -> proto.NetParameter:
        """The definition; with a Dropout layer in place behind the top ``dropout``."""
        shapes = {name: (batch, *shape) for name, shape in self.inputs.items()}
        net = graph.with_inputs(read_net(models.find(self.model))[0], shapes)
        if self.dropout:
            layers = list(net.layer)
            behind = max(i for i, layer in enumerate(layers) if self.dropout in layer.top)
            drop = proto.LayerParameter(name="drop", type="Dropout", bottom=[self.dropout], top=[self.dropout])
            del net.layer[:]
            net.layer.extend([*layers[: behind + 1], drop, *layers[behind + 1 :]])
        return net


LENET = Task("lenet/lenet_train_test.prototxt", {"data": (1, 28, 28), "label": ()}, 0.01)
SIAMESE = Task("siamese/mnist_siamese_train_test.prototxt", {"pair_data": (2, 28, 28), "sim": ()}, 0.01)
DROPOUT = Task(LENET.model, LENET.inputs, 0.01, dropout="ip1")
NORMALISED = "CIFAR-10 with BatchNorm"
NETS = {
    "siamese": SIAMESE,
    "LeNet with dropout": DROPOUT,
    NORMALISED: Task("cifar10/cifar10_full_sigmoid_train_test_bn.prototxt", {"data": (3, 32, 32), "label": ()}, 0.001),
}


def batch(options: Options) -> int:
    """Images, or pairs, of an iteration."""
    return 2 if options.small else 32


def checks(options: Options) -> Iterator[Check]:
    """See the module."""
    where, size = target.open_backend(options), batch(options)
    few, many = (5, 4) if options.small else (20, 200)
    for name, task in NETS.items():
        yield Check(f"{name}, the same bits by graphs", partial(_by_graphs, where, task, size, few))
    yield Check("Adam, the same bits by graphs", partial(_by_graphs, where, LENET, size, few, "Adam"))
    for precision in ("fp16", "bf16"):
        by_graphs = partial(_by_graphs, where, DROPOUT, size, few, precision=precision)
        yield Check(f"LeNet with dropout in {precision}, the same bits by graphs", by_graphs)
        # the siamese net's losses are too far apart after a few iterations of any rounding
        for name, task in (("LeNet", LENET), (NORMALISED, NETS[NORMALISED])):
            yield Check(f"{name} in {precision}", partial(_in_16_bits, where, task, size, few, precision))
    yield Check("a loss scale that is too large", partial(_too_large_a_scale, where, LENET, size))
    for kind in SOLVERS:
        yield Check(f"solver {kind}", partial(_against_cpu, where, LENET, size, few, kind))
    for name, task in NETS.items():
        yield Check(f"{name}, {many} iterations", partial(_against_cpu, where, task, size, many))
    yield Check("two runs to the same bits", partial(_same_bits, where, size, few))
    host = backend.host_backend()
    for name, task, start, end in (
        ("snapshot on the GPU, resumed there", DROPOUT, where, where),
        ("snapshot on the GPU, resumed on the CPU", SIAMESE, where, host),
        ("snapshot on the CPU, resumed on the GPU", SIAMESE, host, where),
    ):
        yield Check(name, partial(_resumed, task, start, end, size, few))


class PhiloxOnHost(RandomSource):
    """The random numbers of a GPU on the CPU, so that both drop the same units."""

    def __init__(self) -> None:
        self._seed = self._counter = 0
        self._seeded_from: random.Stream | None = None

    def _start(self) -> None:
        if self._seeded_from is not random.stream():
            self._seed, self._counter, self._seeded_from = random.stream().draw(), 0, random.stream()

    def uniform(self, out: NDArray) -> None:
        self._do(lambda: philox.uniform(self._seed, self._counter, out))

    def bernoulli(self, out: NDArray, keep: float) -> None:
        self._do(lambda: philox.bernoulli(self._seed, self._counter, out, keep))

    def _do(self, draw: Callable[[], int]) -> None:
        def fill() -> None:
            self._start()
            self._counter = draw()

        backend.host_backend().at_replay(fill)
        fill()

    def get_state(self) -> bytes:
        self._start()
        return np.array([self._seed, self._counter], "<u8").tobytes()

    def set_state(self, state: bytes) -> None:
        self._seed, self._counter = map(int, np.frombuffer(state, "<u8"))
        self._seeded_from = random.stream()


@contextlib.contextmanager
def gpus_random_numbers() -> Iterator[None]:
    """Inside, the CPU draws as a GPU does."""
    host = backend.host_backend()
    own, host.random = host.random, PhiloxOnHost()
    try:
        yield
    finally:
        host.random = own


def make(task: Task, batch: int, kind: str = "SGD", prefix: str = "") -> Solver:
    """A solver, its net filled from a fixed seed, whose inputs are drawn anew for each iteration."""
    settings = SOLVERS[kind] if kind != "SGD" else {**SOLVERS["SGD"], "base_lr": task.rate}
    param = proto.SolverParameter(
        net_param=task.net(batch), type=kind, lr_policy="fixed", random_seed=3, snapshot_after_train=False, **settings
    )
    if prefix:
        param.snapshot_prefix = prefix
    solver = create(param)
    solver.add_callback(lambda: feed(solver), lambda: None)
    return solver


def feed(solver: Solver) -> None:
    """Images that look like their class, or pairs of them, and noise; the same for the same iteration."""
    rng, net = np.random.default_rng(solver.iter), solver.net
    image, label = (net.blobs[name] for name in net.inputs)
    n, channels, *size = image.shape
    patterns = np.random.default_rng(7).random((CLASSES, *size), np.float32)
    if label.shape == (n,) and net.inputs[1] == "sim":
        first = rng.integers(0, CLASSES, n)
        second = np.where(rng.random(n) < 0.5, first, rng.integers(0, CLASSES, n))
        shown, answer = patterns[np.stack([first, second], axis=1)], first == second
    else:
        answer = rng.integers(0, CLASSES, n)
        shown = np.repeat(patterns[answer][:, None], channels, axis=1)
    image.data[...] = (shown + rng.random(image.shape, np.float32)) / 2
    label.data[...] = answer


def train(solver: Solver, iterations: int) -> list[float]:
    """The losses of so many iterations."""
    losses: list[float] = []
    for _ in range(iterations):
        solver.step(1)
        losses.append(float(solver.net.loss))
    return losses


def weights(solver: Solver) -> list[NDArray]:
    """Copies of all params."""
    return [blob.data.copy() for blobs in solver.net.params.values() for blob in blobs]


def _against_cpu(where: Any, task: Task, batch: int, iterations: int, kind: str = "SGD") -> dict[str, Any]:
    """The same losses on both, as far as rounding goes; AssertionError naming the first iteration that differs."""
    with gpus_random_numbers(), backend.use(backend.host_backend()):
        expected = train(make(task, batch, kind), iterations)
    with backend.use(where):
        found = train(make(task, batch, kind), iterations)
    largest = max(map(abs, expected))
    for i, (want, got) in enumerate(zip(expected, found, strict=True)):
        limit = (CLOSE if i < FIRST else FAR) * largest
        assert abs(got - want) <= limit, f"loss of iteration {i}: found {got:.9g}, on the CPU {want:.9g}"
    apart = [abs(got - want) / largest for want, got in zip(expected, found, strict=True)]
    return {"first loss": found[0], "last loss": found[-1], "first apart": max(apart[:FIRST]), "apart": max(apart)}


def _in_16_bits(where: GpuBackend, task: Task, batch: int, iterations: int, precision: str) -> dict[str, Any]:
    """Losses near those of float32, and not the same; none of the steps is left out."""
    runs = []
    with backend.use(where):
        for name in ("fp32", precision):
            solver = make(task, batch)
            solver.use_precision(name)
            runs.append(train(solver, iterations))
    apart = np.abs(np.array(runs[0]) - runs[1]) / max(runs[0])
    assert 0 < apart.max() < IN_16_BITS[precision], f"the losses are {apart.max():g} of the largest apart"
    left_out = solver.loss_scale.left_out if solver.loss_scale else 0
    assert left_out == 0, f"{left_out} steps were left out"
    return {"apart": float(apart.max())}


def _too_large_a_scale(where: GpuBackend, task: Task, batch: int) -> dict[str, Any]:
    """Steps are left out until the loss scale has been halved often enough, and then are none."""
    with backend.use(where):
        solver = make(task, batch)
        solver.use_precision("fp16")
        assert solver.loss_scale is not None
        solver.loss_scale.storage.host()[0] = TOO_LARGE
        moved, scales = [], []
        for _ in range(14):
            before = weights(solver)
            train(solver, 1)
            scales.append(solver.loss_scale.value)
            moved.append(not all(map(np.array_equal, before, weights(solver))))
        left_out = solver.loss_scale.left_out
    assert 0 < left_out < len(moved), f"{left_out} of {len(moved)} steps were left out"
    assert left_out == moved.count(False), f"{left_out} steps were left out, {moved.count(False)} changed nothing"
    assert scales[-1] == TOO_LARGE / 2**left_out, f"the scales were {scales}"
    return {"left out": left_out}


def _by_graphs(
    where: GpuBackend, task: Task, batch: int, iterations: int, kind: str = "SGD", precision: str = "fp32"
) -> dict[str, Any]:
    """With CUDA graphs and without, one seed gives the same weights and losses, bit for bit; with a rate that falls."""
    if target.multiplies_by_cupy(where):
        raise Skip("products by CuPy cannot be captured; install nvmath-python")
    runs, made = [], where.graphs
    with backend.use(where):
        for left_out in (["replay"], []):
            with fast_paths.without(*left_out):
                solver = make(task, batch, kind)
                solver.use_precision(precision)
                solver.param.MergeFrom(proto.SolverParameter(lr_policy="inv", gamma=0.1, power=0.75))
                runs.append((train(solver, iterations), weights(solver)))
            assert not left_out or where.graphs == made, "a graph was made though MINICAFFE_WITHOUT says replay"
    assert where.graphs > made, f"no graph was made: {where.not_captured}"
    _require_same(*runs)
    return {"graphs": where.graphs - made, "not captured": where.not_captured}


def _require_same(one: tuple[list[float], list[NDArray]], other: tuple[list[float], list[NDArray]]) -> None:
    """AssertionError naming the first loss or param of two runs that differs in a bit."""
    for i, (a, b) in enumerate(zip(one[0], other[0], strict=True)):
        assert a == b, f"loss of iteration {i}: {a:.9g} in one run, {b:.9g} in the other"
    for i, (x, y) in enumerate(zip(one[1], other[1], strict=True)):
        assert np.array_equal(x, y), f"param {i}, shape {x.shape}: {(x != y).sum()} of {x.size} elements differ"


def _same_bits(where: Any, batch: int, iterations: int) -> dict[str, Any]:
    """Two runs from one seed give the same weights and losses, bit for bit."""
    runs = []
    with backend.use(where):
        for _ in range(2):
            solver = make(DROPOUT, batch)
            runs.append((train(solver, iterations), weights(solver)))
    _require_same(*runs)
    return {"last loss": runs[0][0][-1]}


def _resumed(task: Task, start: Any, end: Any, batch: int, iterations: int) -> dict[str, Any]:
    """A run that is interrupted on ``start`` and resumed on ``end`` comes where one without interruption comes."""
    with tempfile.TemporaryDirectory() as folder:
        with backend.use(start):
            solver = make(task, batch, prefix=f"{folder}/net")
            train(solver, iterations)
            solver.snapshot()
            expected, state = train(solver, iterations), f"{folder}/net_iter_{iterations}.solverstate"
            assert Path(state).exists(), "no solver state was written"
        with backend.use(end):
            resumed = make(task, batch)
            resumed.restore(state)
            assert resumed.iter == iterations, f"resumed at iteration {resumed.iter}, written at {iterations}"
            found = train(resumed, iterations)
    largest = max(map(abs, expected))
    limit = 0.0 if start is end else CLOSE * largest
    for i, (want, got) in enumerate(zip(expected, found, strict=True)):
        assert abs(got - want) <= limit, f"loss {i} after resuming: found {got:.9g}, without interruption {want:.9g}"
    return {"last loss": found[-1]}
