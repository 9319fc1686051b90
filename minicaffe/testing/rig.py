"""Run one layer alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from minicaffe import backend, proto
from minicaffe.backend import random
from minicaffe.errors import LayerError, ShapeError
from minicaffe.net import Net
from minicaffe.testing.definition import Definition, define, least_tops


def own_stream(seed: int, use: str = "") -> np.random.Generator:
    """Random numbers for one ``use``: others than ``default_rng(seed)`` gives, from which the bottoms may come."""
    return np.random.default_rng([seed, *f"minicaffe {use}".encode()])


@dataclass
class Result:
    """What a layer made of its bottoms: NumPy arrays, copies of its own."""

    layer: Any
    """The layer as it stands after the run; for a Python layer the object of the user's class."""
    tops: list[NDArray]
    """Values of the tops."""
    loss: float
    """Sum of the tops weighted by ``loss_weight``, as a net adds it to its loss; 0 for a layer that is no loss."""
    bottom_diffs: list[NDArray | None]
    """Gradients of the bottoms; None for one that gets none."""
    param_diffs: list[NDArray]
    """Gradients of the learnable blobs."""
    params: list[NDArray]
    """Values of the learnable blobs after the run."""


class Rig:
    """A net of one layer and the inputs that it reads, to run it again and again; ``run`` says what the arguments are.

    Attributes: ``net``; ``layer``, the engine's, which holds the object of a Python layer's class as ``unwrapped``;
    ``bottom`` and ``top``, its blobs; ``wanted``, one bool a bottom, whether it is to get a gradient.  What a net may
    not do with a layer, such as working in place where backward needs the input, is the net's own NetError here.
    """

    def __init__(
        self,
        layer: Definition,
        bottoms: Sequence[ArrayLike] = (),
        /,
        *,
        params: Sequence[ArrayLike] | None = None,
        tops: int | Sequence[str] | None = None,
        backward: bool = True,
        phase: str | int = "TRAIN",
        dtype: DTypeLike = np.float32,
        in_place: bool = False,
        seed: int | None = None,
        **fields: Any,
    ) -> None:
        if seed is not None:
            random.seed(seed)
        test = define(layer, fields)
        arrays = [np.asarray(values) for values in bottoms]
        _name_blobs(test, len(arrays), tops, in_place)
        definition = proto.NetParameter(name=f"{test.name} alone", force_backward=backward)
        for name, values in zip(test.bottom, arrays, strict=True):
            shape = proto.BlobShape(dim=values.shape)
            definition.layer.add(
                name=f"input {name}", type="Input", top=[name], input_param=proto.InputParameter(shape=[shape])
            )
        definition.layer.append(test)
        self.net = Net(definition, proto.Phase.Value(phase) if isinstance(phase, str) else phase, dtype=dtype)
        self._step = self.net.steps[-1]
        self.layer, self.bottom, self.top = self._step.layer, self._step.bottom, self._step.top
        self.wanted = self._wanted(list(test.propagate_down)) if backward else [False] * len(arrays)
        for param in self.net.learnable:
            for _, i in param.users:
                self.layer.param_propagate_down[i] = param.lr_mult != 0
        if params is not None:
            self.set_params(params)
        self.feed(arrays)

    def _wanted(self, asked: list[bool]) -> list[bool]:
        """Bottoms to give a gradient: those that ``propagate_down`` asks for, or all that a net can turn on."""
        facts = [self.layer.differentiable, self.layer.forcible]
        return asked or [all(fact is None or i in fact for fact in facts) for i in range(len(self.bottom))]

    @property
    def learned(self) -> list[int]:
        """Which learnable blobs get a gradient: those whose ``lr_mult`` is not 0."""
        return [i for i, flag in enumerate(self.layer.param_propagate_down) if flag]

    def feed(self, bottoms: Sequence[ArrayLike]) -> None:
        """Put these arrays into the bottoms, which take their shapes."""
        for blob, values in zip(self.bottom, bottoms, strict=True):
            blob.reshape(*np.shape(values))
            blob.data[...] = values

    def set_params(self, values: Sequence[ArrayLike]) -> None:
        """Set the learnable blobs; LayerError or ShapeError if their number or shapes are others."""
        blobs = self.layer.blobs
        if len(values) != len(blobs):
            raise self.layer.error(f"has {len(blobs)} learnable blob(s); found {len(values)} in params")
        for i, (blob, given) in enumerate(zip(blobs, values, strict=True)):
            if np.shape(given) != blob.shape:
                raise self.layer.error(
                    f"params[{i}] must have shape {blob.shape}; found {np.shape(given)}", kind=ShapeError
                )
            blob.data[...] = given

    def fill_zero_params(self, rng: np.random.Generator) -> None:
        """Draw the learned blobs that are all zero, as without a filler, from N(0, 1): zero weights hide most
        faults.
        """
        for i in self.learned:
            data = self.layer.blobs[i].data
            if not data.any():
                data[...] = rng.standard_normal(data.shape)

    def forward(self) -> float:
        """Run forward; the loss."""
        self.net.run_forward()
        return self.net.loss

    def backward(self, top_diffs: Sequence[ArrayLike] | None = None) -> None:
        """Run backward with these gradients of the tops; without, with the loss weights of a loss, else with ones.

        Gradients of learnable blobs start from zero.
        """
        weights = self.layer.loss_weights if self.layer.layer_param.loss_weight else [1.0] * len(self.top)
        given: Sequence[Any] = weights if top_diffs is None else top_diffs
        if len(given) != len(self.top):
            raise self.layer.error(
                f"top_diffs must hold one array for each of the {len(self.top)} tops; found {len(given)}"
            )
        for i, (blob, values) in enumerate(zip(self.top, given, strict=True)):
            if np.shape(values) not in ((), blob.shape):
                raise self.layer.error(
                    f"top_diffs[{i}] must have shape {blob.shape}; found {np.shape(values)}", kind=ShapeError
                )
            blob.diff[...] = values
        self.net.clear_param_diffs()
        self.add_backward()

    def add_backward(self) -> None:
        """Run backward with the tops' gradients as they are, adding to those of the learnable blobs."""
        self._step.propagate_down = self.wanted
        with backend.current().running(user_layers=True):
            self.net.backward_layer(len(self.net.steps) - 1)

    def result(self) -> Result:
        """Copies of what the last passes computed."""
        return Result(
            layer=self.layer.unwrapped,
            tops=[blob.data.copy() for blob in self.top],
            loss=self.net.loss,
            bottom_diffs=[b.diff.copy() if flag else None for b, flag in zip(self.bottom, self.wanted, strict=True)],
            param_diffs=[blob.diff.copy() for blob in self.layer.blobs],
            params=[blob.data.copy() for blob in self.layer.blobs],
        )


def run(
    layer: Definition,
    bottoms: Sequence[ArrayLike] = (),
    /,
    *,
    params: Sequence[ArrayLike] | None = None,
    tops: int | Sequence[str] | None = None,
    top_diffs: Sequence[ArrayLike] | None = None,
    backward: bool = True,
    phase: str | int = "TRAIN",
    dtype: DTypeLike = np.float32,
    in_place: bool = False,
    seed: int | None = None,
    **fields: Any,
) -> Result:
    """Make a layer, run it forward on ``bottoms`` and, unless told not to, backward, on the current backend.

    ``run("ContrastiveLoss", [a, b, similar], margin=1.0).loss``

    Args:
        layer: a registered type, a class of yours (see ``minicaffe.Layer``), or the text of a prototxt ``layer { … }``.
        bottoms: one array for each bottom, of any shape the layer takes.
        params: values for all learnable blobs; without, they are as the layer's fillers leave them.
        tops: how many tops, or their names; the least that the layer can make, unless given.
        top_diffs: gradients of the tops, one array or number each.  Default: a loss layer's loss weights, else ones.
        backward: whether to run backward.  The bottoms that a net can turn on get a gradient, or those that
            ``propagate_down`` names.
        phase: "TRAIN" or "TEST".
        dtype: float32 or float64, of all blobs.
        in_place: whether the first top is the first bottom.
        seed: restart the random stream with it first (``minicaffe.set_random_seed``).
        **fields: options of the layer (of its own ``…_param``) or fields of the LayerParameter (``loss_weight``,
            ``param``, ``propagate_down``, ``loss_param``, …): messages as dicts, repeated fields as lists, enums by
            name.

    Raises LayerError for a field that does not exist, and whatever keeps a net from being built or run with this layer.
    """
    rig = Rig(
        layer,
        bottoms,
        params=params,
        tops=tops,
        backward=backward,
        phase=phase,
        dtype=dtype,
        in_place=in_place,
        seed=seed,
        **fields,
    )
    try:
        rig.forward()
        if backward:
            rig.backward(top_diffs)
        return rig.result()
    finally:
        rig.net.close()


def _name_blobs(test: proto.LayerParameter, bottoms: int, tops: int | Sequence[str] | None, in_place: bool) -> None:
    """Name the layer's bottoms and tops, where its text does not."""
    if not test.bottom:
        test.bottom.extend(f"bottom_{i}" for i in range(bottoms))
    if len(test.bottom) != bottoms:
        raise LayerError(
            f"layer '{test.name}' ({test.type}) names {len(test.bottom)} bottom(s); found {bottoms} array(s)"
        )
    if tops is None and test.top:
        return
    if tops is None:
        tops = least_tops(test, bottoms)
    names = [f"top_{i}" for i in range(tops)] if isinstance(tops, int) else list(tops)
    if in_place:
        names[:1] = test.bottom[:1]
    del test.top[:]
    test.top.extend(names)
