"""Random small nets, driven through random events: captured and replayed passes against eager ones.

A seed gives a program: a net's definition, and a list of events, passes and whatever may happen between passes.  The
program is run once with replays and once without (``fast_paths.without("replay")``): all blobs, gradients, params and
histories must agree to the bit after every pass.  A net of float64 runs a third time without fused layers either, and
must then agree to rounding.

``python tests/random_nets.py --count 3000 --seed 0`` runs many, and shows of each that fails the seed, the definition,
and the fewest events that still make it fail.

Each event draws what it needs from a seed of its own, so any of them can be left out without a change to the others.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import random
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

import minicaffe
from minicaffe import backend, proto, solvers
from minicaffe.blob import Blob
from minicaffe.errors import MinicaffeError
from minicaffe.kernels import fast_paths
from minicaffe.layers import Layer
from minicaffe.layers.base import same
from minicaffe.net import Net
from minicaffe.proto import text

# --- layers of users --------------------------------------------------------------------------------------------------


class Multiplied(Layer):
    """Multiply by what a list holds, in NumPy: nothing of it can be captured.  It may be told to fail."""

    reads_bottoms = reads_tops = ()
    fails = False

    def setup(self, bottom, top):
        self.factors = [1.5]

    def reshape(self, bottom, top):
        top[0].reshape_like(bottom[0])

    def forward(self, bottom, top):
        if self.fails:
            raise ValueError("told to fail")
        top[0].data[...] = bottom[0].data * self.factors[0]

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff * self.factors[0]


class Shifted(Layer):
    """Add the product of two numbers, by ops only: it says that it can be captured."""

    capturable = True
    in_place = "always"
    reads_bottoms = reads_tops = ()

    def setup(self, bottom, top):
        self.amounts = [0.25, 0.5]

    def reshape(self, bottom, top):
        top[0].reshape_like(bottom[0])

    def forward(self, bottom, top):
        self.ops.elementwise(Shifted.value, (bottom[0].xdata,), tuple(self.amounts), top[0].xdata)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0] and top[0] is not bottom[0]:
            self.ops.elementwise(same, (top[0].xdiff,), (), bottom[0].xdiff)

    @staticmethod
    def value(x, a, b):
        return x + a * b


# --- nets -------------------------------------------------------------------------------------------------------------


class Unfit(Exception):
    """No blob so far is one that a layer of this kind takes."""


class Draft:
    """A definition that grows layer by layer; a layer that minicaffe refuses is left out, and counted."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.head = "force_backward: true\n" if rng.random() < 0.5 else ""
        self.inputs: list[str] = []
        self.layers: list[str] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.unread: list[str] = []
        self.named: list[tuple[tuple[int, ...], str, str, str]] = []
        """Layers whose params have names: the shape of their bottom, type, options and names."""
        self.refused: list[str] = []
        self._count = 0

    @property
    def text(self) -> str:
        return self.head + "".join([*self.inputs, *self.layers])

    def name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"

    def input(self, shape: Sequence[int], stem: str = "x") -> str:
        """Another Input blob."""
        name, dims = self.name(stem), " ".join(f"dim: {size}" for size in shape)
        self.inputs.append(
            f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'
        )
        self.shapes[name] = tuple(shape)
        return name

    def pick(self, *axes: int) -> str:
        """A blob with as many axes as one of these says (none: any), mostly one that nothing reads yet."""
        fit = [name for name, shape in self.shapes.items() if not axes or len(shape) in axes]
        fit = [name for name in fit if not name.startswith(("label", "target"))]
        fresh = [name for name in fit if name in self.unread]
        if not fit:
            raise Unfit
        return self.rng.choice(fresh[-2:]) if fresh and self.rng.random() < 0.75 else self.rng.choice(fit)

    def like(self, name: str) -> str:
        """Another blob of the same shape, or if there is none perhaps a new input, perhaps the same blob."""
        fit = [other for other, shape in self.shapes.items() if shape == self.shapes[name] and other != name]
        if fit:
            return self.rng.choice(fit)
        return name if self.rng.random() < 0.5 else self.input(self.shapes[name])

    def add(self, kind: str, bottoms: Sequence[str], options: str = "", tops: int = 1, in_place: bool = False) -> None:
        """A layer, if minicaffe takes it."""
        name = self.name(kind.lower()[:4])
        made = [bottoms[0]] if in_place else [f"{name}_{k}" if k else name for k in range(tops)]
        blobs = " ".join([*(f'bottom: "{b}"' for b in bottoms), *(f'top: "{t}"' for t in made)])
        self.layers.append(f'layer {{ name: "{name}" type: "{kind}" {blobs} {options} }}\n')
        try:
            net = build(self.text)
        except MinicaffeError as error:
            self.layers.pop()
            self.refused.append(str(error))
            return
        self.unread = [name for name in self.unread if name not in bottoms] + made
        self.shapes.update((name, net.blobs[name].shape) for name in (*made, *bottoms))

    def maybe(self, probability: float = 0.5) -> bool:
        return self.rng.random() < probability


def build(definition: str, phase: int = proto.TRAIN, dtype: str = "f4", seed: int = 1) -> Net:
    backend.random.seed(seed)
    return Net(text.parse(definition, proto.NetParameter()), phase, dtype=dtype)


WEIGHTS = 'weight_filler { type: "gaussian" std: 0.4 }'
BIASES = 'bias_filler { type: "gaussian" std: 0.4 }'


def with_params(draft: Draft, kind: str, bottom: str, options: str) -> None:
    """A layer with weights and biases, some of them with names or without gradients."""
    specs = ""
    if draft.maybe(0.4):
        names = draft.name("w"), draft.name("b")
        specs = " ".join(f'param {{ name: "{name}" }}' for name in names)
        draft.named.append((draft.shapes[bottom], kind, options, specs))
    elif draft.maybe(0.3):
        specs = " ".join(f"param {{ lr_mult: {draft.rng.choice([0, 1, 2])} }}" for _ in range(2))
    draft.add(kind, [bottom], f"{specs} {options}")


def convolution(draft: Draft, kind: str = "Convolution") -> None:
    bottom = draft.pick(3, 4, 4, 4, 5)
    channels = draft.shapes[bottom][1]
    groups = draft.rng.choice([1, 1, channels, 2])
    outputs = draft.rng.choice([1, 2, 3]) * groups if groups > 1 else draft.rng.choice([2, 4, 6])
    kernel = draft.rng.choice([1, 2, 3, 3, 5])
    if draft.maybe(0.15):  # the whole image: an inner product
        sizes = " ".join(f"kernel_size: {size}" for size in draft.shapes[bottom][2:])
        options = f"convolution_param {{ num_output: {outputs} {sizes} {WEIGHTS} {BIASES} }}"
        with_params(draft, kind, bottom, options)
        return
    with_params(
        draft, kind, bottom,
        f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} group: {groups} {WEIGHTS} {BIASES} "
        f"stride: {draft.rng.choice([1, 1, 2])} pad: {draft.rng.choice([0, kernel // 2])} "
        f"dilation: {draft.rng.choice([1, 1, 2])} }}",
    )  # fmt: skip


def deconvolution(draft: Draft) -> None:
    convolution(draft, "Deconvolution")


def inner_product(draft: Draft) -> None:
    transposed = draft.rng.choice(["", "transpose: true"])
    outputs = draft.rng.choice([2, 4, 6])
    options = f"inner_product_param {{ num_output: {outputs} {transposed} {WEIGHTS} {BIASES} }}"
    with_params(draft, "InnerProduct", draft.pick(2, 3, 4), options)


def twin(draft: Draft) -> None:
    """A layer with the params of an earlier one."""
    if not draft.named:
        raise Unfit
    shape, kind, options, specs = draft.rng.choice(draft.named)
    bottoms = [name for name, found in draft.shapes.items() if found == shape] or [draft.input(shape)]
    draft.add(kind, [draft.rng.choice(bottoms)], f"{specs} {options}")


def pooling(draft: Draft) -> None:
    method = draft.rng.choice(["MAX", "MAX", "AVE"])
    window = draft.rng.choice(["kernel_size: 2 stride: 2", "kernel_size: 3 stride: 2 pad: 1", "global_pooling: true"])
    tops = 2 if method == "MAX" and draft.maybe(0.1) else 1
    draft.add("Pooling", [draft.pick(4)], f"pooling_param {{ pool: {method} {window} }}", tops)


def lrn(draft: Draft) -> None:
    region = draft.rng.choice(["ACROSS_CHANNELS", "WITHIN_CHANNEL"])
    draft.add("LRN", [draft.pick(4)], f"lrn_param {{ local_size: 3 alpha: 0.5 norm_region: {region} }}")


def normalize(draft: Draft) -> None:
    """In SSD's dialect, with a scale to learn, or in happynear's, perhaps with the norm as a second top."""
    if draft.maybe():
        said = [f"{name}: {draft.rng.choice(['true', 'false'])}" for name in ("across_spatial", "channel_shared")]
        scale = 'eps: 0.01 scale_filler { type: "gaussian" mean: 1 std: 0.4 }'
        options, tops = f"norm_param {{ {' '.join(said)} {scale} }}", 1
    else:
        kind, counts = draft.rng.choice(["L1", "L2"]), draft.rng.choice(["", "bp_norm: true"])
        options, tops = f'normalize_param {{ normalize_type: "{kind}" {counts} }}', draft.rng.choice([1, 2])
    bottom = draft.pick(2, 3, 4, 5)
    draft.add("Normalize", [bottom], options, tops)


def batch_norm(draft: Draft, in_place: float = 0.5) -> None:
    global_stats = draft.rng.choice(["", "", "use_global_stats: true"])
    options = f"batch_norm_param {{ eps: 0.01 {global_stats} }}"
    draft.add("BatchNorm", [draft.pick(2, 3, 4)], options, in_place=draft.maybe(in_place))


SCALE = 'scale_param { bias_term: true filler { type: "gaussian" std: 1 } bias_filler { type: "gaussian" std: 1 } }'


def norm_and_scale(draft: Draft) -> None:
    """What fuses: BatchNorm, Scale in place, perhaps ReLU in place, perhaps a sum; mostly after a convolution."""
    if draft.maybe(0.7):
        convolution(draft)
    batch_norm(draft, in_place=0.75)
    top = draft.unread[-1] if draft.unread else draft.pick()
    frozen = "param { lr_mult: 0 } " * draft.rng.choice([0, 0, 0, 0, 1, 2])
    draft.add("Scale", [top], frozen + SCALE, in_place=True)
    if draft.maybe():
        draft.add("ReLU", [top], in_place=True)
    if draft.maybe(0.3):
        bottoms = [top, draft.like(top)]
        draft.add("Eltwise", bottoms if draft.maybe() else bottoms[::-1])


def sum_and_relu(draft: Draft) -> None:
    """What fuses: a sum of two blobs, ReLU in place, and two readers of that."""
    first = draft.pick()
    coefficients = draft.rng.choice(["", "eltwise_param { coeff: 1 coeff: -0.5 }"])
    draft.add("Eltwise", [first, draft.like(first)], coefficients)
    top = draft.unread[-1]
    draft.add("ReLU", [top], "relu_param { negative_slope: 0.1 }" if draft.maybe(0.3) else "", in_place=True)
    for kind in ("TanH", "ReLU") if draft.maybe() else ():
        draft.add(kind, [top])


def scale(draft: Draft) -> None:
    draft.add("Scale", [draft.pick(2, 3, 4)], SCALE, in_place=draft.maybe())


def bias(draft: Draft) -> None:
    options = 'bias_param { filler { type: "gaussian" std: 1 } }'
    draft.add("Bias", [draft.pick(2, 3, 4)], options, in_place=draft.maybe())


NEURONS = {
    "ReLU": ["", "relu_param { negative_slope: 0.25 }"],
    "PReLU": ["", "prelu_param { channel_shared: true }"],
    "ELU": ["elu_param { alpha: 0.5 }"],
    "TanH": [""],
    "Sigmoid": ["", "loss_weight: 0.3"],
    "Power": ["power_param { power: 2 shift: 0.5 }", "power_param { scale: 0.5 shift: 1 }", "power_param { power: 0 }"],
    "Exp": ["exp_param { scale: 0.1 }"],
    "Log": ["log_param { scale: 0.01 shift: 50 }"],
    "AbsVal": [""],
    "BNLL": [""],
    "Clip": ["clip_param { min: -1 max: 1 }"],
    "Dropout": ["", "dropout_param { dropout_ratio: 0.25 }"],
    "Swish": [""],
}


def neuron(draft: Draft) -> None:
    kind = draft.rng.choice([*NEURONS, "ReLU", "ReLU"])
    draft.add(kind, [draft.pick()], draft.rng.choice(NEURONS[kind]), in_place=draft.maybe())


def of_users(draft: Draft) -> None:
    draft.add("Python", [draft.pick()], 'python_param { module: "random_nets" layer: "Multiplied" }')


def of_users_captured(draft: Draft) -> None:
    options = 'python_param { module: "random_nets" layer: "Shifted" }'
    draft.add("Python", [draft.pick()], options, in_place=draft.maybe())


def eltwise(draft: Draft) -> None:
    first = draft.pick()
    bottoms = [first, *(draft.like(first) for _ in range(draft.rng.choice([1, 1, 2])))]
    operation = draft.rng.choice(["SUM", "SUM", "MAX", "PROD"])
    weighted = operation == "SUM" and draft.maybe()
    coefficients = " ".join(f"coeff: {draft.rng.choice([1, 1, -2, 0.5])}" for _ in bottoms) if weighted else ""
    draft.add("Eltwise", bottoms, f"eltwise_param {{ operation: {operation} {coefficients} }}")


def concat(draft: Draft) -> None:
    first = draft.pick(2, 3, 4)
    draft.add("Concat", [first, draft.like(first)] if draft.maybe(0.8) else [first])


def cut(draft: Draft) -> None:
    bottom = draft.pick(2, 3, 4)
    draft.add("Slice", [bottom], tops=1 if draft.maybe(0.2) else draft.rng.choice([2, 3]))


def readers(draft: Draft) -> None:
    """Several layers that read one blob, some in place."""
    bottom = draft.pick()
    for kind in draft.rng.sample(["ReLU", "TanH", "Sigmoid", "AbsVal", "Softmax"], draft.rng.choice([2, 3])):
        draft.add(kind, [bottom], in_place=draft.maybe(0.2))


def view(draft: Draft) -> None:
    """Flatten or Reshape, and perhaps a layer in place behind it."""
    bottom = draft.pick(3, 4)
    if draft.maybe():
        draft.add("Flatten", [bottom])
    else:
        draft.add("Reshape", [bottom], "reshape_param { shape { dim: 0 dim: -1 dim: 1 dim: 1 } }")
    if draft.maybe() and draft.unread:
        kind = draft.rng.choice(["ReLU", "Sigmoid", "Dropout", "PReLU"])
        draft.add(kind, [draft.unread[-1]], in_place=True)


def softmax(draft: Draft) -> None:
    draft.add("Softmax", [draft.pick(2, 4)], in_place=draft.maybe(0.3))


LAYERS: dict[Callable[[Draft], None], int] = {
    convolution: 6, deconvolution: 2, inner_product: 4, twin: 2, pooling: 3, lrn: 2, normalize: 2, batch_norm: 2,
    norm_and_scale: 5, sum_and_relu: 3, scale: 2, bias: 1, neuron: 8, eltwise: 3, concat: 1, cut: 1, readers: 2, view: 2, softmax: 1,
    of_users: 1, of_users_captured: 1,
}  # fmt: skip
"""What adds layers to a draft, and how often."""

FUSED_LAYERS = {norm_and_scale: 4, sum_and_relu: 3, convolution: 2, neuron: 1, readers: 1}
"""As ``LAYERS``, for nets that are mostly made of layers that run as one."""


def softmax_loss(draft: Draft) -> None:
    scores = draft.pick(2, 4)
    n, classes, *inner = draft.shapes[scores]
    label = draft.input((n, *inner), f"label{classes}_")
    draft.add("SoftmaxWithLoss", [scores, label], draft.rng.choice(["", "loss_weight: 0.5"]))


def euclidean(draft: Draft) -> None:
    bottom = draft.pick(2, 3, 4)
    draft.add("EuclideanLoss", [bottom, draft.like(bottom)])


def contrastive(draft: Draft) -> None:
    bottom = draft.pick(2)
    label = draft.input(draft.shapes[bottom][:1], "label2_")
    draft.add("ContrastiveLoss", [bottom, draft.like(bottom), label])


def cross_entropy(draft: Draft) -> None:
    bottom = draft.pick(2, 4)
    draft.add("SigmoidCrossEntropyLoss", [bottom, draft.input(draft.shapes[bottom], "target")])


LOSSES = {softmax_loss: 5, euclidean: 2, contrastive: 2, cross_entropy: 2}


def draw(rng: random.Random, weighted: dict) -> Any:
    return rng.choices(list(weighted), list(weighted.values()))[0]


def draw_net(rng: random.Random) -> Draft:
    draft = Draft(rng)
    kinds = LAYERS if rng.random() < 0.6 else FUSED_LAYERS
    axes = rng.choice([2, 3, 4, 4, 4, 4, 4, 5]) if kinds is LAYERS else rng.choice([2, 4, 4])
    draft.unread.append(
        draft.input((rng.choice([1, 2, 3]), rng.choice([2, 4]), *rng.choices([4, 5, 7, 8], k=axes - 2)))
    )
    wanted, losses = rng.randint(2, 7), rng.choice([0, 1, 1, 1, 1, 2])
    for kind in [*(draw(rng, kinds) for _ in range(wanted)), *(draw(rng, LOSSES) for _ in range(losses))]:
        with contextlib.suppress(Unfit):
            kind(draft)
    return draft


# --- a run of a program
# ------------------------------------------------------------------------------------------------


@dataclass
class Program:
    """A definition and the events that a net made from it is driven through: names, each with a seed."""

    definition: str
    dtype: str
    events: list[tuple[str, int]]
    solver: bool
    seed: int
    refused: list[str] = field(default_factory=list)


class Run:
    """A program while it runs; ``seen`` is what was found after each pass."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.rng = random.Random(program.seed)
        self.seen: list[dict[str, Any]] = []
        self.solver = make_solver(program) if program.solver and program.dtype == "f4" else None
        self.net = self.solver.net if self.solver else self.make(program.seed)
        self.values = np.random.default_rng(program.seed)
        self.left_out: set[str] = set()
        self.others: dict[str, Any] = {}
        """Nets, arrays and memory that events leave for later ones."""
        self.folder = tempfile.TemporaryDirectory()
        self.calls = 0
        self.failures: list[str] = []
        self.looks = True
        for blob in self.params():
            if not blob.data.any():
                blob.data[...] = self.values.random(blob.shape)

    def make(self, seed: int, phase: int = proto.TRAIN) -> Net:
        return build(self.program.definition, phase, self.program.dtype, seed)

    def params(self) -> list[Blob]:
        return [blob for blobs in self.net.params.values() for blob in blobs]

    def choose(self, items: Sequence[Any]) -> Any:
        """One of these; without any the event does nothing."""
        if not items:
            raise Unfit
        return self.rng.choice(items)

    def fill(self, net: Net | None = None, bad: bool = False, inputs: bool = True) -> None:
        """Draw new inputs, and gradients for the outputs that are no losses."""
        net = net or self.net
        for name in net.inputs if inputs else ():
            blob = net.blobs[name]
            if name.startswith("label"):
                classes = int(name[5:].split("_")[0])
                blob.data[...] = self.values.integers(0, classes, blob.shape)
                if bad and blob.count:
                    blob.data.reshape(-1)[-1] = classes + self.rng.choice([0, 3, 10**6])
            elif name.startswith("target"):
                blob.data[...] = self.values.random(blob.shape)
            else:
                blob.data[...] = self.values.standard_normal(blob.shape)
        for name in net.outputs:
            if not net.blob_loss_weights[name]:
                net.blobs[name].diff[...] = self.values.standard_normal(net.blobs[name].shape)

    def attempt(self, work: Callable[[], Any]) -> None:
        """Do this; an error is noted as part of what is seen."""
        with fast_paths.without(*self.left_out):
            try:
                work()
            except Unfit:
                raise
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")

    def run_pass(self, work: Callable[[], Any], times: int = 1, inputs: bool = True) -> None:
        """Run passes on new inputs, and look at all numbers after each.

        A backward pass alone goes with the inputs of the forward pass before: layers need not keep copies of them.
        """
        for _ in range(times):
            self.fill(inputs=inputs)
            self.attempt(work)
            self.look()

    def look(self) -> None:
        """Note all numbers; those of params' gradients not always, for looking ends their counting as zero."""
        self.seen.append(
            found := {
                "failures": [*self.failures],
                "calls": self.calls,
                "loss": self.net._executor.loss.peek_data().copy(),
            }
        )
        for name, blob in self.net._blob_list if not self.net.forward_only else self.net.blobs.items():
            found[f"{name}.data"], found[f"{name}.diff"] = blob.peek_data().copy(), blob.peek_diff().copy()
        for layer in self.net.layers:
            for i, blob in enumerate(layer.blobs):
                found[f"{layer.name}[{i}].data"] = blob.peek_data().copy()
                if self.looks:
                    found[f"{layer.name}[{i}].diff"] = blob.peek_diff().copy()
        for i, slot in enumerate(self.solver.history if self.solver else ()):
            found[f"history {i}"] = slot.peek().copy()
        for i, guard in enumerate(self.others.get("guards", ())):
            if (guard != GUARD).any():
                found["failures"].append(f"guard {i} of {guard.size} bytes was written to")

    def run(self) -> list[dict[str, Any]]:
        threads = minicaffe.get_num_threads()
        minicaffe.set_num_threads(1 if self.rng.random() < 0.7 else threads)
        try:
            for name, seed in self.program.events:
                self.rng, self.values = random.Random(seed), np.random.default_rng(seed)
                with contextlib.suppress(Unfit):
                    EVENTS[name](self)
        finally:
            minicaffe.set_num_threads(threads)
            self.folder.cleanup()
        return self.seen


def make_solver(program: Program) -> solvers.Solver:
    backend.random.seed(program.seed)
    rng = random.Random(program.seed)
    return solvers.create(
        proto.SolverParameter(
            net_param=text.parse(program.definition, proto.NetParameter()), base_lr=0.001, lr_policy="fixed",
            momentum=0.9, weight_decay=0.001, random_seed=program.seed, snapshot_after_train=False,
            iter_size=rng.choice([1, 1, 2, 3]), type=rng.choice(["SGD", "Adam"]),
        )
    )  # fmt: skip


# --- events: passes
# ----------------------------------------------------------------------------------------------------


def forward(run: Run) -> None:
    run.run_pass(lambda: run.net.run_forward())


def backward(run: Run) -> None:
    run.run_pass(lambda: run.net.run_backward(), inputs=False)


def there_and_back(run: Run) -> None:
    run.run_pass(lambda: (run.net.run_forward(), run.net.run_backward()), run.rng.choice([1, 3, 4]))


def forward_backward(run: Run) -> None:
    run.run_pass(lambda: run.net.forward_backward(), run.rng.choice([1, 3, 4]))


def forward_only(run: Run) -> None:
    run.run_pass(lambda: run.net.run_forward(), run.rng.choice([1, 3, 4]))


def cleared_first(run: Run) -> None:
    """As a solver does: gradients start from zero, some of which only count as zero."""
    lazily, passes = run.rng.random() < 0.7, run.rng.choice([1, 2])
    run.looks = run.rng.random() < 0.5

    def work() -> None:
        for net in (run.net, run.others.get("shared")):  # which may have gradients in common
            if net is not None:
                net.clear_param_diffs(lazily)
        for _ in range(passes):
            run.net.forward_backward()

    run.run_pass(work, run.rng.choice([1, 3, 4]))
    run.looks = True


def some_layers(run: Run) -> None:
    """Some layers forward, or backward."""
    first, last = sorted(run.rng.choices(range(len(run.net.layers)), k=2))
    back = run.rng.random() < 0.5
    work = partial(run.net.run_backward, last, first) if back else partial(run.net.run_forward, first, last)
    run.run_pass(work, inputs=not back and not first)


def in_two_parts(run: Run) -> None:
    """All layers, but with a pause in between, in which a layer may be given the attribute that it has."""
    middle, last = run.rng.randrange(len(run.net.layers)), len(run.net.layers) - 1
    layer = run.choose(run.net.layers) if run.rng.random() < 0.3 else None

    def work() -> None:
        run.net.run_forward(0, middle)
        run.net.run_forward(middle + 1, last)
        run.net.run_backward(last, middle + 1)
        if layer is not None:
            layer.loss_weights = layer.loss_weights
        run.net.run_backward(middle, 0)

    run.run_pass(work, run.rng.choice([1, 3]))


def one_layer_again(run: Run) -> None:
    place = run.rng.randrange(len(run.net.layers))
    run.run_pass(
        lambda: (run.net.run_forward(), run.net.run_forward(place, place), run.net.run_backward()),
        run.rng.choice([1, 3]),
    )


def in_another_thread(run: Run) -> None:
    times, both = run.rng.choice([1, 2, 3]), run.rng.random() < 0.5

    def passes() -> None:
        for _ in range(times):
            run.fill()
            run.attempt(lambda: run.net.forward_backward() if both else (run.net.run_forward(), run.net.run_backward()))

    thread = threading.Thread(target=passes)
    thread.start()
    thread.join()
    run.look()


OTHER = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 12 dim: 12 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param { num_output: 3 } }
"""


def beside_a_builder(run: Run) -> None:
    """Another thread makes and reshapes nets while this one runs."""
    done = threading.Event()
    definition = text.parse(OTHER, proto.NetParameter())

    def work() -> None:
        with contextlib.closing(Net(definition, proto.TEST)) as net:
            while not done.is_set():
                net.blobs["x"].reshape(1 + net.blobs["x"].shape[0] % 9, 3, 12, 12)
                net.reshape()
                time.sleep(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        forward_backward(run)
    finally:
        done.set()
        thread.join()


def bad_label(run: Run) -> None:
    """A label that is no class is an error; what follows is as if it had not been."""
    if not any(name.startswith("label") for name in run.net.inputs):
        raise Unfit
    run.fill(bad=True)
    both = run.rng.random() < 0.5
    run.attempt(lambda: run.net.forward_backward() if both else run.net.run_forward())
    run.look()


def layer_that_fails(run: Run) -> None:
    layer = run.choose([layer for layer in run.net.layers if hasattr(layer, "fails")])
    layer.fails = True
    forward_backward(run)
    layer.fails = False


def solver_steps(run: Run) -> None:
    if run.solver is None:
        raise Unfit
    if not run.others.get("callback"):
        run.others["callback"] = True
        run.solver.add_callback(run.fill, run.look)
    run.looks = run.rng.random() < 0.5
    run.attempt(lambda: run.solver.step(run.rng.choice([1, 3, 4])))
    run.looks = True
    run.look()


PASSES: dict[Callable[[Run], None], int] = {
    there_and_back: 5, forward_backward: 5, forward_only: 3, cleared_first: 3, some_layers: 2, in_two_parts: 2,
    one_layer_again: 2, in_another_thread: 2, beside_a_builder: 1, bad_label: 2, layer_that_fails: 2, solver_steps: 3,
}  # fmt: skip
"""What runs passes, and how often."""


# --- events: what happens between passes
# ---------------------------------------------------------------------------------


def other_batch_size(run: Run) -> None:
    inputs = [run.net.blobs[name] for name in run.net.inputs]
    before, rows = [blob.shape for blob in inputs], run.rng.choice([0, 1, 1, 2, 2, 3, 3, 4])
    counts = [(blob, blob.count) for _, blob in run.net._blob_list]
    for blob in inputs:
        blob.reshape(rows, *blob.shape[1:])
    try:
        run.net.reshape()
    except MinicaffeError:  # a net for batches of one size
        for blob, shape in zip(inputs, before, strict=True):
            blob.reshape(*shape)
        run.net.reshape()
    clear_if_grown(run, counts)


def clear_if_grown(run: Run, counts: list[tuple[Blob, int]]) -> None:
    """Zero all gradients between layers if one of the blobs has more elements than it had: growing loses the contents,
    also those of others that are the same memory, and which are follows from what is fused."""
    if not run.net.forward_only and any(blob.count > count for blob, count in counts):
        for _, blob in run.net._blob_list:
            if blob.diff_storage.touched:
                blob.diff[...] = 0


def reshaped_and_back(run: Run) -> None:
    blob = run.choose([run.net.blobs[name] for name in run.net.inputs])
    shape = blob.shape
    blob.reshape(*[size + run.rng.choice([0, 1, 9]) for size in shape])
    if run.rng.random() < 0.5:
        blob.data[...] = 5
    blob.reshape(*shape)


def reshape_any_blob(run: Run) -> None:
    """One between layers: the next forward pass gives it its shape back."""
    blobs = [blob for name, blob in run.net.blobs.items() if name not in run.net.inputs]
    blob, counts = run.choose(blobs), [(blob, blob.count) for _, blob in run.net._blob_list]
    blob.reshape(*run.rng.choice([(1,), (2, 3), (100,), (2000,), blob.shape[::-1]]))
    clear_if_grown(run, counts)
    run.net.reshape()
    clear_if_grown(run, counts)


ATTRIBUTES: dict[str, dict[str, list]] = {
    "ReLU": {"negative_slope": [0.0, 0.1, 0.5]},
    "ELU": {"alpha": [0.1, 1.0]},
    "Eltwise": {"coefficients": [[1.0, 1.0, 1.0], [2.0, -1.0, 0.5], (1.0, 3.0, 1.0)]},
    "Multiplied": {"factors": [0.5, 2.0]},
    "Shifted": {"amounts": [[0.5, 0.5], (1.0, -1.0)]},
    "Dropout": {"dropout_ratio": [0.1, 0.5]},
    "BatchNorm": {"use_global_stats": [False, True], "moving_average_fraction": [0.5, 0.9], "eps": [0.1, 0.01]},
    "LRN": {"alpha": [0.1, 1.0], "beta": [0.5, 0.75], "local_size": [3, 5]},
    "Power": {"scale": [0.5, 2.0], "shift": [0.5, 1.0]},
    "Exp": {"scale": [0.05, 0.1], "shift": [0.0, 0.5]},
    "Log": {"scale": [0.01, 0.02]},
    "Clip": {"max": [0.5, 2.0]},
    "Pooling": {"pool": [0, 1]},
    "Convolution": {"bias_term": [False, True]},
    "Deconvolution": {"bias_term": [False, True]},
    "InnerProduct": {"bias_term": [False, True]},
    "ContrastiveLoss": {"margin": [0.5, 2.0], "legacy_version": [False, True]},
    "SoftmaxWithLoss": {"normalization": [0, 1, 2, 3], "ignore_label": [0, None], "loss_weights": [[2.0], [1.0]]},
    "EuclideanLoss": {"loss_weights": [[2.0], [1.0]]},
}
"""Attributes of layers that events set, and to what."""


def set_attribute(run: Run) -> None:
    layer = run.choose([layer for layer in run.net.layers if type(layer).__name__ in ATTRIBUTES])
    name, values = run.choose(list(ATTRIBUTES[type(layer).__name__].items()))
    value = run.choose(values)
    if name == "coefficients":
        value = value[: len(layer.coefficients)]
    if name == "factors":
        layer.factors[0] = value  # a layer that is not captured may change what it likes
        return
    if name == "bias_term" and len(layer.blobs) < 2:
        raise Unfit
    try:
        setattr(layer, name, value)
    except MinicaffeError:  # it does not go with the other options
        raise Unfit from None


def mutate_attribute(run: Run) -> None:
    """A list that was assigned is changed afterwards, and so is the attribute: neither may go unnoticed."""
    layer = run.choose([layer for layer in run.net.layers if layer.type == "Eltwise"])
    if layer.operation == layer.PROD:
        raise Unfit
    values = [run.rng.choice([1.0, 2.0, -1.0]) for _ in layer.coefficients]
    layer.coefficients = values
    forward_backward(run)
    values[0] = 7.0
    try:
        layer.coefficients[0] = 5.0
    except TypeError:
        layer.coefficients = (5.0, *layer.coefficients[1:])


def flip_param_gradient(run: Run) -> None:
    layer = run.choose([layer for layer in run.net.layers if layer.blobs])
    flags = layer.param_propagate_down
    if run.rng.random() < 0.3:
        flags = layer.param_propagate_down = [*flags]
    place = run.rng.randrange(len(flags))
    flags[place] = not flags[place]


def flip_bottom_gradient(run: Run) -> None:
    """Off, or on again what was on at first."""
    places = [(i, k) for i, step in enumerate(run.net.steps) for k, down in enumerate(step.propagate_down) if down]
    off = run.others.setdefault("off", [])
    if off and run.rng.random() < 0.6:
        i, k = off.pop()
        run.net.steps[i].propagate_down[k] = True
    else:
        off.append(run.choose(places))
        run.net.steps[off[-1][0]].propagate_down[off[-1][1]] = False


def wrap_method(run: Run) -> None:
    """Another function in the place of a layer's own."""
    layer, name = run.choose(run.net.layers), run.rng.choice(["forward", "backward"])
    own = getattr(layer, name)

    def wrapper(*arguments: Any) -> None:
        run.calls += 1
        own(*arguments)

    setattr(layer, name, wrapper)


def unwrap_method(run: Run) -> None:
    layer = run.choose([layer for layer in run.net.layers if "forward" in layer.__dict__])
    del layer.forward


def replace_param(run: Run) -> None:
    name = run.choose(list(run.net.params))
    place = run.rng.randrange(len(run.net.params[name]))
    blob = Blob(run.net.params[name][place].shape, run.program.dtype)
    blob.data[...] = run.values.random(blob.shape)
    run.net.params[name][place] = blob
    run.others["replaced"] = blob


def write_replaced_param(run: Run) -> None:
    blob = run.choose([run.others["replaced"]] if "replaced" in run.others else [])
    blob.data[...] *= 1.5


def exchange_blobs(run: Run) -> None:
    """Another list of params in the place of a layer's own."""
    layer = run.choose([layer for layer in run.net.layers if layer.blobs and layer.type != "BatchNorm"])
    blobs = []
    for old in layer.blobs:
        blobs.append(Blob(old.shape, run.program.dtype))
        blobs[-1].data[...] = run.values.random(old.shape)
    layer.blobs = blobs


def write_param(run: Run) -> None:
    blob = run.choose(run.params())
    if run.rng.random() < 0.5:
        blob.data[...] = run.values.random(blob.shape)
    else:
        blob.data = run.values.random(blob.shape)


def write_kept_array(run: Run) -> None:
    """Through an array that was taken some time before."""
    if "kept" in run.others:
        run.others["kept"] *= 1.25
    run.others["kept"] = run.choose(run.params()).data


def write_gradient(run: Run) -> None:
    run.choose(run.params()).diff[...] = 0.5


def write_blob(run: Run) -> None:
    blob = run.choose([run.net.blobs[name] for name in run.net.inputs])
    blob.data = run.values.standard_normal(blob.shape)


def load_weights(run: Run) -> None:
    path = os.path.join(run.folder.name, "net.caffemodel")
    if not os.path.exists(path):
        run.net.save(path)
        run.make(99).save(path)
    run.net.copy_from(path)


def share_weights(run: Run) -> None:
    other = run.others.setdefault("shared", run.make(7))
    run.net.share_with(other)
    for blobs in other.params.values():
        blobs[0].data[...] *= 1.1


def share_one_param(run: Run) -> None:
    other = run.others.setdefault("shared", run.make(7))
    if run.rng.random() < 0.5:
        other.pack_params()
    name = run.choose(list(run.net.params))
    place = run.rng.randrange(len(run.net.params[name]))
    ours, theirs = run.net.params[name][place], other.params[name][place]
    if run.rng.random() < 0.5:
        ours.share_data(theirs)
    else:
        ours.share_diff(theirs)


def other_clears(run: Run) -> None:
    """The net that this one may share gradients with is trained in between."""
    other = run.others.setdefault("shared", run.make(7))
    other.pack_params()
    other.clear_param_diffs(lazily=True)
    if run.rng.random() < 0.5:
        run.fill(other)
        run.attempt(other.forward_backward)


def unshare_gradient(run: Run) -> None:
    run.choose(run.params()).unshare_diff()


def share_gradient(run: Run) -> None:
    """The gradient of a blob between layers in memory from elsewhere."""
    blob = run.choose([blob for blob in run.net.blobs.values() if blob.shape])
    elsewhere = run.others["gradient"] = Blob(blob.shape, run.program.dtype)
    elsewhere.diff[...] = 0
    blob.share_diff(elsewhere)


def share_value(run: Run) -> None:
    """An input's value in memory from elsewhere."""
    blob = run.choose([run.net.blobs[name] for name in run.net.inputs])
    elsewhere = run.others["value"] = Blob(blob.shape, run.program.dtype)
    elsewhere.data[...] = 0
    blob.share_data(elsewhere)


def pack_params(run: Run) -> None:
    run.net.pack_params()


def clear_gradients(run: Run) -> None:
    run.net.clear_param_diffs(lazily=run.rng.random() < 0.5)


def same_net_between(run: Run) -> None:
    other = run.others.setdefault("same", run.make(3))
    run.fill(other)
    run.attempt(other.forward_backward)


def larger_net_between(run: Run) -> None:
    """One of other shapes, for which the shared workspace may grow."""
    other = build(OTHER, proto.TRAIN, run.program.dtype)
    other.blobs["x"].reshape(2, 3, 12 + run.rng.choice([0, 20]), 12 + run.rng.choice([0, 20]))
    other.params.pop("ip")
    run.fill(other)
    run.attempt(lambda: other.run_forward(0, 2))


def grow_workspace(run: Run) -> None:
    where, dtype = backend.current(), run.program.dtype
    where.reserve(1, dtype)
    where.reserve(where.workspace(dtype).size + run.rng.choice([100, 10000]), dtype)


def test_net_between(run: Run) -> None:
    net = run.others.get("test")
    if net is None:
        net = run.others["test"] = run.make(5, proto.TEST)
        net.share_with(run.net)
        if run.rng.random() < 0.5:
            net.reuse_memory()
    for _ in range(run.rng.choice([1, 3])):
        for name in net.inputs:
            blob = net.blobs[name]
            blob.data[...] = 0 if name.startswith("label") else run.values.random(blob.shape)
        run.attempt(net.run_forward)
    found = {name: net.blobs[name].data.copy() for name in net.outputs}
    run.seen.append({"failures": [*run.failures], **found})


def add_callback(run: Run) -> None:
    def call(place: int) -> None:
        run.calls += 1

    getattr(run.net, f"{run.rng.choice(['before', 'after'])}_{run.rng.choice(['forward', 'backward'])}")(call)


def remove_callbacks(run: Run) -> None:
    for calls in run.net._executor.callbacks.values():
        calls.clear()


def forward_otherwise(run: Run) -> None:
    """Twice: passes that are replayed, then a forward pass layer by layer, which is replayed backward."""
    for _ in range(2):
        run.run_pass(lambda: (run.net.run_forward(), run.net.run_backward()), 3)
        how, calls = run.rng.choice(["watched", "not fused", "in parts"]), run.net._executor.callbacks["after_forward"]
        if how == "watched":
            calls.append(lambda place: None)
        with fast_paths.without(*(["fusion"] if how == "not fused" else [])):
            forward(run)
        if how == "watched":
            calls.pop()
        elif how == "in parts":
            for place in range(len(run.net.layers)):
                run.attempt(partial(run.net.run_forward, place, place))
        backward(run)


def switch_debug_info(run: Run) -> None:
    run.net.debug_info = not run.net.debug_info


def other_threads(run: Run) -> None:
    minicaffe.set_num_threads(1 if minicaffe.get_num_threads() > 1 else len(os.sched_getaffinity(0)))


def switch_fusion(run: Run) -> None:
    run.left_out ^= {"fusion"}


def switch_algorithm(run: Run) -> None:
    run.left_out ^= {
        run.rng.choice(["depthwise", "filter_panels", "rotated", "row_dot", "strided_1x1", "whole_image", "winograd"])
    }


GUARD = 0xA5
"""What memory is filled with that nobody may write to."""


def refill_memory(run: Run) -> None:
    """Free what can be freed, and take its place."""
    gc.collect()
    sizes = [run.rng.choice([64, 256, 700, 1500, 4000, 9000, 20000, 70000]) for _ in range(60)]
    run.others["guards"] = [np.full(size, GUARD, np.uint8) for size in sizes]
    rubbish = [np.full(size // 4, np.nan, np.float32) for size in sizes]
    del rubbish[::2]


def reshape_net(run: Run) -> None:
    run.net.reshape()


CHANGES: dict[Callable[[Run], None], int] = {
    other_batch_size: 3, reshaped_and_back: 2, reshape_any_blob: 2, set_attribute: 5, mutate_attribute: 1,
    flip_param_gradient: 3, flip_bottom_gradient: 1, wrap_method: 1, unwrap_method: 1, replace_param: 2,
    write_replaced_param: 1, exchange_blobs: 1, write_param: 2, write_kept_array: 2, write_gradient: 1, write_blob: 1,
    load_weights: 1, share_weights: 1, share_one_param: 2, other_clears: 2, unshare_gradient: 1, share_gradient: 1,
    share_value: 1, pack_params: 2, clear_gradients: 3, same_net_between: 1, larger_net_between: 1, grow_workspace: 1,
    test_net_between: 2, add_callback: 1, remove_callbacks: 2, forward_otherwise: 5, switch_debug_info: 1, other_threads: 1,
    switch_fusion: 2, switch_algorithm: 1, refill_memory: 3, reshape_net: 1,
}  # fmt: skip
"""What happens between passes, and how often."""

INPUTS = {write_blob, share_value, reshaped_and_back, other_batch_size}
"""Changes of what a forward pass read, which its backward pass may read again, or have kept."""

EVENTS = {event.__name__: event for event in (*PASSES, *CHANGES, forward, backward)}


def draw_events(rng: random.Random, changes: int, fused: bool) -> list[tuple[str, int]]:
    """Passes of one kind until they are replayed, then changes, each followed by a few more passes, mostly of that
    kind.

    ``fused``: the numbers are to be those of layers that do not run as one, too.
    """

    def event(kind: Callable[[Run], None]) -> tuple[str, int]:
        return kind.__name__, rng.randrange(2**32)

    usual = draw(rng, PASSES)
    found = [event(usual), event(usual)]
    for _ in range(changes):
        if rng.random() < 0.2:
            usual = draw(rng, PASSES)
            found += [event(usual), event(usual)]
        kind = draw(rng, CHANGES)
        change = event(kind)
        if rng.random() < 0.2 and not (fused and kind in INPUTS):  # after forward, before backward
            found += [event(forward), change, event(backward)]
        else:
            begins_backward = fused and kind in INPUTS and usual is some_layers  # perhaps
            found += [change, *([event(forward)] if begins_backward else [])]
            found += [event(usual) for _ in range(rng.choice([1, 2]))]
    return found


def draw_program(seed: int, changes: int = 10) -> Program:
    rng = random.Random(seed)
    draft = draw_net(rng)
    dtype, solver = rng.choice(["f4", "f4", "f8"]), rng.random() < 0.3
    return Program(draft.text, dtype, draw_events(rng, changes, dtype == "f8"), solver, seed, draft.refused)


# --- comparison
# --------------------------------------------------------------------------------------------------------


def run_without(program: Program, *left_out: str) -> list[dict[str, Any]]:
    with fast_paths.without(*left_out):
        return Run(program).run()


def differing(found: list[dict[str, Any]], expected: list[dict[str, Any]], rounding: float = 0) -> str:
    """Where two runs of a program part, or nothing."""
    for place, (left, right) in enumerate(zip(found, expected, strict=True)):
        if left.keys() != right.keys():
            return f"look {place}: {sorted(left.keys() ^ right.keys())} in one run only"
        for name, value in left.items():
            other = right[name]
            if not isinstance(value, np.ndarray):
                same = value == other
            elif rounding and value.shape == other.shape:
                limit = rounding * max(1.0, float(np.abs(other[np.isfinite(other)]).max(initial=0)))
                same = np.allclose(value, other, rounding, limit, equal_nan=True)
            else:
                same = value.shape == other.shape and value.tobytes() == other.tobytes()
            if not same:
                return f"look {place}: {name} is {_brief(value)}, expected {_brief(other)}"
    return ""


def _brief(value: Any) -> str:
    return repr(value.reshape(-1)[:6].tolist() if isinstance(value, np.ndarray) else value)


def fault(program: Program) -> str:
    """What is wrong with the replays, or the fused layers, of a program; nothing if they are right."""
    try:
        return _fault(program)
    except Exception as error:
        return f"raised: {type(error).__name__}: {error}"


def _fault(program: Program) -> str:
    eager = run_without(program, "replay")
    found = differing(run_without(program), eager)
    if found:
        return f"replayed: {found}"
    if program.dtype == "f8":
        plain = run_without(program, "fusion", "replay")
        found = differing(eager, plain, 1e-8)
        if found:
            return f"fused: {found}"
    return ""


def minimised(program: Program) -> Program:
    """The program with the fewest events that still fails."""
    kind, events, size = fault(program).partition(":")[0], [*program.events], len(program.events)

    def fails(fewer: list[tuple[str, int]]) -> bool:
        return fault(_with_events(program, fewer)).partition(":")[0] == kind

    while size := size // 2:
        for start in range(len(events) - size, -1, -1):
            fewer = events[:start] + events[start + size :]
            if len(fewer) < len(events) and fails(fewer):
                events = fewer
    return _with_events(program, events)


def _with_events(program: Program, events: list[tuple[str, int]]) -> Program:
    return Program(program.definition, program.dtype, events, program.solver, program.seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=100, help="programs to run")
    parser.add_argument("--seed", type=int, default=0, help="the first one's seed")
    parser.add_argument("--changes", type=int, default=10, help="events between passes of each")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="when to stop")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first fault")
    options = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore", RuntimeWarning)  # numbers that overflow do so in every run
    gc.freeze()
    start, faults, refused, ran = time.perf_counter(), 0, 0, 0
    for seed in range(options.seed, options.seed + options.count):
        if time.perf_counter() - start > options.seconds:
            break
        program, ran = draw_program(seed, options.changes), ran + 1
        refused += len(program.refused)
        problem = fault(program)
        if problem:
            faults += 1
            small = minimised(program)
            print(f"seed {seed}: {problem}\nevents {small.events}, dtype {small.dtype}, solver {small.solver}")
            print(f"{fault(small)}\n{small.definition}", flush=True)
            if not options.keep_going:
                break
        if seed % 100 == 99:
            took = time.perf_counter() - start
            print(f"up to seed {seed}: {faults} faults, {refused} layers refused, {took:.0f} s", flush=True)
    print(f"done: {ran} programs, {faults} faults, {refused} layers refused")


if __name__ == "__main__":
    main()
