"""From a filtered and split definition to set-up layers: blobs connected, params shared, gradients pruned."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from minicaffe import backend, graph, proto
from minicaffe.backend import generation
from minicaffe.blob import Blob
from minicaffe.engine.params import Param
from minicaffe.errors import NetError
from minicaffe.layers import Layer, create
from minicaffe.layers.base import same
from minicaffe.layers.factory import require_types
from minicaffe.proto.origin import Origin

_log = logging.getLogger(__name__)


@dataclass
class Step:
    """One layer of a net, bound to its blobs."""

    layer: Layer
    bottom: list[Blob]
    top: list[Blob]
    bottom_ids: list[int]
    top_ids: list[int]
    propagate_down: list[bool]
    need_backward: bool = False
    weighted: list[Blob] = field(default_factory=list)
    kept: list[tuple[Blob, Blob]] = field(default_factory=list)
    """Blobs that later layers overwrite in place, each with the one that stands for it in backward: a copy of its
    value, with the same gradient."""
    reshaped_for: tuple = ()
    """What the layer's last ``reshape`` went by: the backend, the layer's revision, the shapes of its blobs, and the
    memory of its bottoms, which its tops may share."""

    def reshape(self, where: backend.Backend) -> None:
        """Let the layer reshape if what that goes by is no longer what it was."""
        if self.layer.reshape_always or self.reshaped_for != self._shapes(where):
            self.reshaped_for = ()  # a layer that refuses its shapes may be left with parts of what follows from them
            with self.layer.named_in_errors():
                self.layer.reshape(self.bottom, self.top)
            self.check_in_place()
            if self.weighted:
                self.layer.install_loss_weights(self.top)
            self._reshape_kept()
            self.is_shaped(where)

    def is_shaped(self, where: backend.Backend) -> None:
        """Note that the layer has reshaped for its blobs and attributes as they are now."""
        self.reshaped_for = self._shapes(where)

    @property
    def reshaped_since(self) -> tuple[str, int] | None:
        """The first bottom or top, by its place, that has another shape than the layer's last ``reshape`` left it with;
        layers that may reshape their tops while they run forward answer for these themselves.
        """
        _, _, bottoms, tops, _ = self.reshaped_for or (None, None, (), (), None)
        checked = [("bottom", self.bottom, bottoms)]
        reads_gradients = self.bottom and (any(self.propagate_down) or len(self.layer.blobs) > 0)
        if reads_gradients and not (self.layer.reshape_always or self.layer.user_defined):
            checked.append(("top", self.top, tops))
        for kind, blobs, then in checked:
            for place, blob in enumerate(blobs):
                if place >= len(then) or blob.shape != then[place]:
                    return kind, place
        return None

    def _shapes(self, where: backend.Backend) -> tuple:
        bottoms, tops = (tuple(blob.shape for blob in blobs) for blobs in (self.bottom, self.top))
        return where, self.layer.revision, bottoms, tops, [blob.memory for blob in self.bottom]

    def forward(self) -> None:
        """Run the layer forward on its blobs."""
        try:
            self.layer.forward(self.bottom, self.top)
            if any(copy.shape != blob.shape for blob, copy in self.kept):  # a user's layer may reshape its tops here
                self._reshape_kept()
            for blob, copy in self.kept:
                self.layer.ops.elementwise(same, (blob.xdata,), (), copy.xdata)
        except MemoryError as error:
            raise self.layer.memory_error(error) from None

    def backward(self) -> None:
        """Run the layer backward on its blobs, with the values that it left there in forward."""
        bottom, top = self.bottom, self.top
        if self.kept:
            self._share_gradients()
            copies = {id(blob): copy for blob, copy in self.kept}
            bottom, top = ([copies.get(id(blob), blob) for blob in blobs] for blobs in (bottom, top))
        try:
            self.layer.backward(top, self.propagate_down, bottom)
        except MemoryError as error:
            raise self.layer.memory_error(error) from None

    def settle(self, goes_backward: bool, lost: Sequence[Blob] = ()) -> None:
        """Keep what backward needs and nothing else: copies of the blobs that are ``lost`` before it runs."""
        if [id(blob) for blob, _ in self.kept] != [id(blob) for blob in lost]:
            self.kept = [(blob, _kept_alike(blob)) for blob in lost]
            self._reshape_kept()
            generation.advance()
        self.layer.settle(self.bottom, self.top, goes_backward=goes_backward)

    def check_in_place(self) -> None:
        """Refuse a layer in place that goes backward and, with its attributes as they are, needs its input for it."""
        if self.overwritten() and self.layer.in_place == "forward" and self.need_backward:
            raise self.layer.error(
                "it cannot work in place while it goes backward, for which it needs "
                "its input; give its top a name of its own",
                "top",
            )

    def overwritten(self) -> list[Blob]:
        """The blobs that the layer works on in place."""
        return [a for a, b in zip(self.bottom, self.top, strict=False) if a is b]

    def read_in_backward(self) -> list[Blob]:
        """The blobs whose values backward reads, each once."""
        layer = self.layer
        found = [
            blob
            for blobs, read in ((self.bottom, layer.reads_bottoms), (self.top, layer.reads_tops))
            for k, blob in enumerate(blobs)
            if read is None or k in read
        ]
        return list({id(blob): blob for blob in found}.values())

    def _reshape_kept(self) -> None:
        for blob, copy in self.kept:
            copy.reshape_like(blob)
        self._share_gradients()

    def _share_gradients(self) -> None:
        """Let copies have their blobs' gradients, which may have been given other memory."""
        for blob, copy in self.kept:
            if not copy.shares_diff_with(blob):
                copy.share_diff(blob)


def _kept_alike(blob: Blob) -> Blob:
    """A blob of the same shape, which a device keeps in the same format."""
    made = Blob(blob.shape, blob.dtype)
    made.data_storage.keep_in(blob.data_storage.halves)
    made.diff_storage.keep_in(blob.diff_storage.halves)
    return made


class Assembly:
    """The layers of a definition, made and set up in order, with what connects them.

    ``blobs`` are (name, blob) in the order of their making; ``steps`` the layers bound to them; ``learnable`` the
    params that no other layer owns; ``outputs`` the blobs that nothing reads, sorted by name as in Caffe.
    """

    def __init__(self, definition: proto.NetParameter, source: Origin, dtype: np.dtype) -> None:
        self.source = source
        self.dtype = dtype
        self.phase = definition.state.phase
        self.blobs: list[tuple[str, Blob]] = []
        self.loss_weights: dict[str, float] = {}
        self.steps: list[Step] = []
        self.inputs: list[str] = []
        self.learnable: list[Param] = []
        self._needs: list[bool] = []
        self._param_names: dict[str, int] = {}
        self._ids: dict[str, int] = {}
        self._available: set[str] = set()
        self._memory = 0
        self._overwritten = {
            top for layer in definition.layer for bottom, top in zip(layer.bottom, layer.top) if bottom == top
        }
        require_types(definition.layer, source)
        for layer_param in definition.layer:
            self._add_layer(layer_param)
        self._prune_backward()
        if definition.force_backward:
            self._force_backward()
        self.outputs = sorted(self._available, key=str.encode)
        for name in self.outputs:
            _log.info("This network produces output %s", name)
        self._check_in_place()
        names = [step.layer.name for step in self.steps]
        for name in sorted({name for name in names if names.count(name) > 1}):
            _log.warning(
                "two layers are named '%s': a weights file is matched by name, so both get the first one's", name
            )

    def _add_layer(self, layer_param: proto.LayerParameter) -> None:
        """Make one layer, connect it, and set it up."""
        name = layer_param.name
        if not layer_param.HasField("phase"):
            layer_param.phase = self.phase
        if len(layer_param.propagate_down) not in (0, len(layer_param.bottom)):
            raise self._error(
                layer_param,
                "propagate_down",
                f"propagate_down param must be specified either 0 or bottom_size times; "
                f"found {len(layer_param.propagate_down)} for {len(layer_param.bottom)} bottom(s)",
            )
        layer = create(layer_param, self.source, self.dtype)
        layer.overwritten_tops = tuple(k for k, top in enumerate(layer_param.top) if top in self._overwritten)
        _log.info("Creating Layer %s", name)
        bottom_ids, needs = self._connect_bottoms(layer_param)
        flows = any(layer_param.propagate_down) or not layer.stops_gradients
        needs = [flows and need for need in needs]
        step = Step(layer, [self.blobs[i][1] for i in bottom_ids], [], bottom_ids, [], needs)
        self._connect_tops(layer_param, step)
        stops_at = () if layer_param.propagate_down else layer.stops_at
        step.propagate_down = [wanted and k not in stops_at for k, wanted in enumerate(step.propagate_down)]
        layer.prepare(step.bottom, step.top)
        step.is_shaped(backend.current())
        _log.info("Setting up %s", name)
        for i, blob, weight in zip(step.top_ids, step.top, layer.loss_weights, strict=True):
            self.loss_weights[self.blobs[i][0]] = weight
            _log.info("Top shape: %s", blob.shape_string)
            if weight:
                step.weighted.append(blob)
                _log.info("    with loss weight %g", weight)
            self._memory += blob.count
        _log.info("Memory required for data: %d", self._memory * self.dtype.itemsize)
        step.need_backward = flows and any(self._needs[i] for k, i in enumerate(bottom_ids) if k not in stops_at)
        index = len(self.steps)
        self.steps.append(step)
        step.need_backward |= self._add_params(index, step)
        layer.enter_net()
        for i in step.top_ids:
            self._needs[i] |= step.need_backward

    def _connect_bottoms(self, layer_param: proto.LayerParameter) -> tuple[list[int], list[bool]]:
        found, needs = [], []
        for k, name in enumerate(layer_param.bottom):
            if name not in self._available:
                raise graph.unknown_bottom(layer_param, k, sorted(self._available), self.source)
            _log.info("%s <- %s", layer_param.name, name)
            self._available.discard(name)
            found.append(self._ids[name])
            forced = layer_param.propagate_down
            needs.append(bool(forced[k]) if forced else self._needs[self._ids[name]])
        return found, needs

    def _connect_tops(self, layer_param: proto.LayerParameter, step: Step) -> None:
        layer = step.layer
        for k, name in enumerate(layer_param.top):
            if k < len(layer_param.bottom) and layer_param.bottom[k] == name:
                _log.info("%s -> %s (in-place)", layer.name, name)
            elif name in self._ids:
                raise self._error(
                    layer_param,
                    "top",
                    f"Top blob '{name}' produced by multiple sources. Give the second one another name "
                    "(only a layer whose top and bottom at the same place have one name works in place).",
                )
            else:
                _log.info("%s -> %s", layer.name, name)
                self._ids[name] = self._new_blob(name)
            self._available.add(name)
            step.top_ids.append(self._ids[name])
            if layer_param.type == "Input":
                self.inputs.append(name)
        if layer.auto_tops:
            least = layer.tops if isinstance(layer.tops, int) else layer.tops[0]
            while len(step.top_ids) < least:
                _log.info("%s -> (automatic)", layer.name)
                step.top_ids.append(self._new_blob("(automatic)"))
        step.top = [self.blobs[i][1] for i in step.top_ids]

    def _new_blob(self, name: str) -> int:
        blob = Blob((0,), self.dtype)
        self.blobs.append((name, blob))
        self._needs.append(False)
        self.loss_weights[name] = 0.0
        return len(self.blobs) - 1

    def _add_params(self, index: int, step: Step) -> bool:
        """Register the layer's params, shared by name; whether any of them learns."""
        layer = step.layer
        specs = list(layer.layer_param.param)
        if len(specs) > len(layer.blobs):
            raise self._error(
                layer.layer_param,
                "param",
                f"Too many params specified for layer {layer.name}: {len(specs)} for {len(layer.blobs)} param blob(s)",
            )
        specs += [proto.ParamSpec() for _ in range(len(layer.blobs) - len(specs))]
        layer.param_propagate_down = [spec.lr_mult != 0 for spec in specs]
        for j, spec in enumerate(specs):
            if not spec.name or spec.name not in self._param_names:
                owner = Param(layer.blobs[j], spec.name or str(j))
                if spec.name:
                    self._param_names[spec.name] = len(self.learnable)
                self.learnable.append(owner)
            else:
                owner = self.learnable[self._param_names[spec.name]]
                self._check_sharing(owner, index, j, spec)
            for mult, given in (("lr_mult", "has_lr"), ("decay_mult", "has_decay")):
                if not spec.HasField(mult):
                    continue
                value = getattr(spec, mult)
                if getattr(owner, given) and getattr(owner, mult) != value:
                    raise self._error(
                        layer.layer_param,
                        "param",
                        f"Shared param '{spec.name}' has mismatched {mult}: "
                        f"{value:g} here, {getattr(owner, mult):g} in a layer before",
                    )
                setattr(owner, mult, value)
                setattr(owner, given, True)
            owner.users.append((index, j))
        return any(layer.param_propagate_down)

    def _check_sharing(self, owner: Param, index: int, j: int, spec: proto.ParamSpec) -> None:
        layer = self.steps[index].layer
        owner_layer, owner_index = self.steps[owner.users[0][0]].layer, owner.users[0][1]
        _log.info(
            "Sharing parameters '%s' owned by layer '%s', param index %d", spec.name, owner_layer.name, owner_index
        )
        blob, permissive = layer.blobs[j], spec.share_mode == proto.ParamSpec.PERMISSIVE
        agree = blob.count == owner.blob.count if permissive else blob.shape == owner.blob.shape
        if not agree:
            what = "count mismatch" if permissive else "shape mismatch"
            expects = "sharing layer param shape is" if permissive else "sharing layer expects shape"
            raise self._error(
                layer.layer_param,
                "param",
                f"Cannot share param '{spec.name}' owned by layer '{owner_layer.name}' with layer "
                f"'{layer.name}'; {what}.  Owner layer param shape is {owner.blob.shape_string}; {expects} "
                f"{blob.shape_string}. "
                "Give the two params different names, or make the layers alike.",
            )

    def _prune_backward(self) -> None:
        """Switch off what no loss reaches, and what nothing below asks for."""
        under_loss: set[str] = set()
        skipped: set[str] = set()
        for step in reversed(self.steps):
            tops = [self.blobs[i][0] for i in step.top_ids]
            contributes = bool(step.weighted) or any(name in under_loss for name in tops)
            if step.need_backward and all(name in skipped for name in tops):
                step.need_backward = False
                step.propagate_down = [False] * len(step.bottom)
            if not contributes:
                step.need_backward = False
            verb = "needs" if step.need_backward else "does not need"
            _log.info("%s %s backward computation.", step.layer.name, verb)
            for k, i in enumerate(step.bottom_ids):
                name = self.blobs[i][0]
                if contributes:
                    under_loss.add(name)
                else:
                    step.propagate_down[k] = False
                if not step.propagate_down[k]:
                    skipped.add(name)

    def _force_backward(self) -> None:
        for step in self.steps:
            step.need_backward = True
            allowed = step.layer.forcible
            step.propagate_down = [
                flag or allowed is None or k in allowed for k, flag in enumerate(step.propagate_down)
            ]
            step.layer.param_propagate_down = [True] * len(step.layer.blobs)

    def _check_in_place(self) -> None:
        """Refuse layers in place that go backward and need their input for it; ``Layer.prepare`` refuses the others."""
        makers: dict[int, tuple[Layer, int]] = {}
        for step in self.steps:
            for k, top in enumerate(step.top):
                makers.setdefault(id(top), (step.layer, k))
        for index, step in enumerate(self.steps):
            layer = step.layer
            for blob in step.overwritten():
                if layer.leaves != "all":
                    self._check_overwritten(index, blob)
                    self._warn_of_drift(layer, *makers[id(blob)])
            step.check_in_place()

    def _warn_of_drift(self, layer: Layer, maker: Layer, top: int) -> None:
        """A source that fills its top once leaves in place what the last forward made of it."""
        if maker.fills_once(top):
            _log.warning(
                "layer '%s' (%s) works in place on the top of layer '%s' (%s), which is filled once: unless you fill "
                "it before each forward, the next one starts from what this one leaves; give its top a name of its "
                "own",
                layer.name, layer.type, maker.name, maker.type,
            )  # fmt: skip

    def _check_overwritten(self, index: int, blob: Blob) -> None:
        """Refuse a layer in place that changes what others read by another name, as behind a user's layer that shares
        memory.
        """
        made = {i for step in self.steps[:index] for i in step.top_ids}
        read = {i for step in self.steps[index + 1 :] for i in step.bottom_ids}
        for i, (name, other) in enumerate(self.blobs):
            shared = other is not blob and other.data_storage is blob.data_storage
            if shared and i in made and (i in read or name in self.outputs):
                raise self._error(
                    self.steps[index].layer.layer_param,
                    "top",
                    f"it works in place on memory that is also that of blob '{name}', which is read afterwards; "
                    "give its top a name of its own",
                )

    def _error(self, layer_param: proto.LayerParameter, field_name: str, problem: str) -> NetError:
        place = self.source.where(layer_param.name, layer_param.phase, field_name)
        return NetError(f"{place + ': ' if place else ''}layer '{layer_param.name}' ({layer_param.type}): {problem}")
