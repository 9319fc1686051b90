"""A net's layers as the source of a PyTorch module, and the values of its params."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from minicaffe.engine.assembly import Step
from minicaffe.layers.base import TRAIN
from minicaffe.net import Net
from minicaffe.onnx.plan import blob_names, refused
from minicaffe.pytorch import layers as _layers  # noqa: F401  (registers exporters, as the next does)
from minicaffe.pytorch import recurrent as _recurrent  # noqa: F401
from minicaffe.pytorch import reducing as _reducing  # noqa: F401
from minicaffe.pytorch.helpers import HELPERS, in_order
from minicaffe.pytorch.writer import Unsupported, Writer, exporters, refusal

_OVERWRITABLE = {"BatchNorm", "Bias", "Convolution", "Deconvolution", "Eltwise", "InnerProduct", "Scale"}
"""Types of layers whose top PyTorch's ReLU may overwrite: going backward, they do not read it."""

_TAKEN = {"self", "torch", "nn", "F", *HELPERS, *keyword.kwlist, *keyword.softkwlist, *dir(builtins)}
"""Names that a variable in the source cannot have."""


@dataclass
class Source:
    """A module's source, as ``text`` that defines the class ``name``, and its ``state`` by key.

    ``inputs`` are the shapes of its inputs by their blobs' names, in the order of the arguments; ``outputs`` the names
    that it returns, and ``losses`` the weights of those that are losses.  ``keys`` are those of the net's learnable
    params, None for one that no layer here has.
    """

    name: str
    text: str
    state: dict[str, NDArray]
    inputs: dict[str, tuple[int, ...]]
    outputs: list[str]
    keys: list[str | None]
    losses: dict[str, float]
    training: bool


def is_source(step: Step) -> bool:
    """Whether a layer brings data in, so that its tops are arguments."""
    return not step.bottom and not step.layer.blobs


def identifier(name: str, taken: Iterable[str]) -> str:
    """A Python name like this one that is not taken."""
    made = re.sub(r"\W", "_", name, flags=re.ASCII)
    made = f"_{made}" if not made or made[0].isdigit() else made
    while made in taken:
        made += "_"
    return made


def quoted(name: str) -> str:
    """A string as the source says it."""
    return '"' + "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else _escaped(c) for c in name) + '"'


def _escaped(c: str) -> str:
    return f"\\U{ord(c):08x}"


@dataclass
class _Layers:
    """What of a module's source has been written."""

    attributes: frozenset[str]
    members: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    state: dict[str, NDArray] = field(default_factory=dict)
    keys: dict[tuple[int, int], str] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    """The key of each layer's submodule, by the layer's place in the net: names of layers may be alike, or empty."""
    constructors: dict[int, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    """The Python name of each blob's variable."""
    values: dict[int, str] = field(default_factory=dict)
    """The variable of each blob, by its number."""
    makers: dict[int, str] = field(default_factory=dict)
    """The type of the layer that made each blob last."""
    helpers: set[str] = field(default_factory=set)
    """The names of what layers call beside PyTorch."""

    def variable(self, blob: str) -> str:
        """The variable for a blob."""
        if blob not in self.variables:
            self.variables[blob] = identifier(blob, _TAKEN.union(self.variables.values()))
        return self.variables[blob]

    def name(self, index: int, layer: Any) -> None:
        """Choose the key of a layer's submodule."""
        made = (layer.name or layer.type).replace(".", "_")
        while made in self.attributes or made in self.names.values():
            made += "_"
        self.names[index] = made

    def reference(self, index: int) -> str:
        """The expression of a layer's submodule."""
        key = self.names[index]
        plain = key.isidentifier() and key.isascii() and not keyword.iskeyword(key)
        return f"self.{key}" if plain else f"self.get_submodule({quoted(key)})"


def write(net: Net, steps: Sequence[Step], outputs: Sequence[str], attributes: frozenset[str]) -> Source:
    """The source of a module of these layers of a net.

    ``attributes`` are names that a submodule cannot have.  Raises NetError for layers that are not said in PyTorch,
    which names all of them.
    """
    names, places = blob_names(net), {id(step): index for index, step in enumerate(net.steps)}
    owners = {user: k for k, param in enumerate(net.learnable) for user in param.users}
    wanted = {i for step in steps for i in step.bottom_ids} | {names.index(name) for name in outputs}
    made, inputs, wrong = _Layers(attributes), {}, []
    for step in steps:
        if is_source(step):
            for i, blob in ((i, blob) for i, blob in zip(step.top_ids, step.top, strict=True) if i in wanted):
                inputs[names[i]] = tuple(blob.shape)
                made.values[i], made.makers[i] = made.variable(names[i]), "Input"
            continue
        try:
            _write_layer(net, made, step, names, places[id(step)], owners)
        except Unsupported as error:
            wrong.append((step.layer, str(error)))
            made.values |= {i: made.variable(names[i]) for i in step.top_ids}
            made.makers |= dict.fromkeys(step.top_ids, step.layer.type)
    if wrong:
        raise refused(net, "PyTorch", wrong)
    keys: list[str | None] = [
        next((made.keys[user] for user in param.users if user in made.keys), None) for param in net.learnable
    ]
    _freeze(net, made, keys)
    returned = {name: made.values[names.index(name)] for name in outputs}
    name = identifier(net.name or "Net", {*_TAKEN, *made.variables.values()})
    losses = _weights(steps, names, outputs)
    text = _assembled(name, made, {n: made.variable(n) for n in inputs}, inputs, returned, losses)
    return Source(name, text, made.state, inputs, list(outputs), keys, losses, net.phase == TRAIN)


def _write_layer(net: Net, made: _Layers, step: Step, names: list[str], index: int, owners: dict) -> None:
    layer = step.layer
    if why := refusal(layer):
        raise Unsupported(why)
    x = [made.values[i] for i in step.bottom_ids]
    if layer.type == "Split":
        made.values |= dict.fromkeys(step.top_ids, x[0])
        made.makers |= dict.fromkeys(step.top_ids, layer.type)
        return
    stops = layer.layer_param.propagate_down
    read = [f"{v}.detach()" if k < len(stops) and not stops[k] else v for k, v in enumerate(x)]
    in_place = step.bottom_ids == step.top_ids and made.makers[step.bottom_ids[0]] in _OVERWRITABLE and read == x
    made.name(index, layer)
    w = Writer(step, read, made.reference(index), in_place)
    found = exporters[layer.type](w)
    made.helpers |= w.helpers
    if w.constructor:
        _add_module(net, made, w, index, owners)
    tops = [made.variable(names[i]) for i in step.top_ids]
    made.values |= dict(zip(step.top_ids, tops, strict=True))
    made.makers |= dict.fromkeys(step.top_ids, layer.type if found not in read else "")
    if isinstance(found, str):
        made.lines.append(f"{', '.join(tops)} = {found}")
    else:
        made.lines += [f"{top} = {each}" for top, each in zip(tops, found, strict=True)]


def _add_module(net: Net, made: _Layers, w: Writer, index: int, owners: dict) -> None:
    """Add a layer's submodule: another layer's, where all its params are that one's."""
    key = made.names[index]
    of = {owners[index, j] for j in range(len(w.layer.blobs))}
    users = [user for k in of for user in net.learnable[k].users if user[0] < index and not w.has_state]
    twin = next((i for i, _ in users if made.constructors.get(i) == w.constructor and of == {
        owners[i, j] for j in range(len(net.layers[i].blobs))}), None)  # fmt: skip
    if twin is not None:
        made.members.append(_assigned(w.reference, key, made.reference(twin)))
        made.state |= {f"{key}.{each}": made.state[f"{made.names[twin]}.{each}"] for each in w.state}
        return
    made.constructors[index] = w.constructor
    made.members.append(_assigned(w.reference, key, w.constructor))
    made.state |= {f"{key}.{each}": values for each, values in w.state.items()}
    if w.layer.type == "BatchNorm" and any(made.keys.get(user) is None and user[0] < index for user in users):
        raise Unsupported("it shares its statistics with a layer that is set up otherwise")
    for each, j in w.blobs.items():
        owner = next((made.keys[u] for u in net.learnable[owners[index, j]].users if u in made.keys), None)
        if owner is None:
            made.keys[index, j] = f"{key}.{each}"
        elif made.state[owner].shape != made.state[f"{key}.{each}"].shape:
            raise Unsupported(f"it shares a param with another shape: {owner}")
        else:
            layer, _, theirs = owner.rpartition(".")
            made.members.append(f"{w.reference}.{each} = self.get_submodule({quoted(layer)}).{theirs}")
            made.state[f"{key}.{each}"] = made.state[owner]


def _assigned(reference: str, key: str, value: str) -> str:
    plain = reference == f"self.{key}"
    return f"{reference} = {value}" if plain else f"self.add_module({quoted(key)}, {value})"


def _freeze(net: Net, made: _Layers, keys: Sequence[str | None]) -> None:
    """What Caffe does not learn is not learned here."""
    for param, key in zip(net.learnable, keys, strict=True):
        if key is not None and param.lr_mult == 0:
            made.members.append(f"self.get_parameter({quoted(key)}).requires_grad_(False)  # lr_mult: 0")


def _weights(steps: Sequence[Step], names: Sequence[str], outputs: Sequence[str]) -> dict[str, float]:
    """The weights of those outputs that are losses."""
    found = {}
    for step in steps:
        for i, weight in zip(step.top_ids, step.layer.loss_weights, strict=False):
            if weight and names[i] in outputs:
                found[names[i]] = float(weight)
    return found


def _assembled(
    name: str,
    made: _Layers,
    arguments: dict[str, str],
    inputs: dict[str, tuple[int, ...]],
    returned: dict[str, str],
    losses: dict[str, float],
) -> str:
    """The class."""
    told = [f"{quoted(blob)[1:-1]} {shape}" for blob, shape in inputs.items()]
    returns = ", ".join(f"{quoted(blob)}: {value}" for blob, value in returned.items())
    weights = ", ".join(f"{quoted(blob)}: {weight}" for blob, weight in losses.items())
    lines = [
        f"class {name}(nn.Module):",
        f'    """Inputs: {", ".join(told)}.  Returns a dict of outputs by the names of Caffe\'s blobs."""',
        "",
        *([f"    loss_weights = {{{weights}}}", ""] if losses else []),
        *(["    def __init__(self):", "        super().__init__()"] if made.members else []),
        *(f"        {line}" for line in made.members),
        *([""] if made.members else []),
        f"    def forward({', '.join(['self', *arguments.values()])}):",
        *(f"        {line}" for line in made.lines),
        f"        return {{{returns}}}",
    ]
    imports = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
    return "\n\n".join([imports, *in_order(made.helpers), "\n".join(lines) + "\n"])
