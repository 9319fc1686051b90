"""The steps that are left of a net that only runs forward, with stored statistics: what does nothing is dropped,
scales and shifts go into the layers before them, and what works element by element works in place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from minicaffe import backend, folding, proto
from minicaffe.blob import Blob
from minicaffe.engine.assembly import Step
from minicaffe.engine.watch import Watch
from minicaffe.layers import Layer, create
from minicaffe.layers.base import make
from minicaffe.layers.convolution import AddedConvolution, Convolution, Deconvolution
from minicaffe.layers.eltwise import Eltwise
from minicaffe.layers.inner_product import InnerProduct
from minicaffe.layers.neuron import Dropout
from minicaffe.layers.normalisation import BatchNorm
from minicaffe.layers.pooling import Pooling
from minicaffe.layers.scale_bias import Scale
from minicaffe.layers.shape import Sharing, Silence, Split

Blobs = Sequence[tuple[str, Blob]]

_MAKERS = (Convolution, InnerProduct, Pooling, Eltwise, BatchNorm, Scale)
"""Layers whose tops are memory of their own, where nobody else looks before the next layer does."""


class FoldedLayer:
    """A layer that does what several layers of a net do one after the other; theirs are the params."""

    def __init__(self, layer: Layer, sources: Sequence[Layer]) -> None:
        self.layer: Any = layer
        self._sources = sources
        self._watch = Watch([blob for source in sources for blob in source.blobs])
        self._fold()

    def is_stale(self) -> bool:
        """Whether the params may have been written to."""
        return self._watch.changed()

    def refresh(self) -> None:
        """Take over what was written to the params."""
        if self.is_stale():
            self._fold()

    def has_run(self) -> None:
        """After a pass."""

    def become(self, layer: Any) -> None:
        """Let another layer, which has taken over the params, do it."""
        self.layer = layer
        layer.pack_filters(self._write)

    def _fold(self) -> None:
        if packs(self.layer):
            self.layer.pack_filters(self._write)
        else:
            self._write()
        self._watch.renew()

    def _write(self) -> None:
        """Write to the layer's params what follows from those of the net."""
        params = [[blob.peek_data() for blob in source.blobs] for source in self._sources]
        values = folding.composed([source.layer_param for source in self._sources], params)
        # no array of the sources' memory is held on to: it would mean that somebody may write there (Watch)
        del params
        for source in self._sources:
            for blob in source.blobs:
                blob.unload_data()
        for blob, array in zip(self.layer.blobs, values, strict=True):
            blob.data = array


class PackedLayer:
    """A convolution of the net's own that works with what was made of its filters in advance."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self._watch = Watch([layer.blobs[0]])
        self._watches = False
        layer.pack_filters()

    def is_stale(self) -> bool:
        """Whether the filters may have been written to: where nothing was made of them, they are read anew anyway."""
        return (not self._watches or self._watch.changed()) and self.layer.has_packed

    def refresh(self) -> None:
        """Take over what was written to the filters."""
        if self.is_stale():
            self.layer.pack_filters()
            self._watches = False

    def has_run(self) -> None:
        """After a pass, in which nobody else wrote to the filters: that it asked for them means nothing."""
        if self.layer.has_packed:
            if self._watches:
                self._watch.excuse()
            else:
                self._watch.renew()
                self._watches = True


def packs(layer: Layer) -> bool:
    """Whether something is to be made of a layer's filters in advance."""
    built_in = isinstance(layer, Convolution) and not isinstance(layer, Deconvolution)
    return built_in and not (layer.user_defined or layer.patched) and len(layer.blobs) > 0


def refreshed_layers(steps: Sequence[Step], folded: Sequence[FoldedLayer]) -> list[FoldedLayer | PackedLayer]:
    """Those that are to be told of what is written to params."""
    made = {id(item.layer) for item in folded}
    return [*folded, *(PackedLayer(step.layer) for step in steps if id(step.layer) not in made and packs(step.layer))]


def rewrite(steps: Sequence[Step], blobs: Blobs, watched: Collection[int]) -> tuple[list[Step], list[FoldedLayer]]:
    """The steps that a net's deploy form runs, and those of their layers that are made of several.

    They work on the net's ``blobs``, of which those in ``watched``, by number, hold what they hold in the net itself.
    """
    left = _without_identities(steps, blobs, watched)
    left, folded = _folded(left, blobs, watched)
    left = _in_place(left, _alone, blobs, watched)
    left = _added(left, folded, blobs, watched)
    left = _in_place(left, _joined, blobs, watched)  # last: a layer behind it, in place, can run as one with it
    return _behind_makers(left), folded


def _bound(layer: Layer, bottom_ids: Iterable[int], top_ids: Iterable[int], blobs: Blobs, like: Step) -> Step:
    """A layer as a step that never goes backward, whose losses count as those of ``like``."""
    bottoms, tops = list(bottom_ids), list(top_ids)
    bottom, top = ([blobs[i][1] for i in ids] for ids in (bottoms, tops))
    return Step(layer, bottom, top, bottoms, tops, [False] * len(bottom), weighted=like.weighted)


def _users(steps: Iterable[Step], blob: int) -> list[Step]:
    """The steps that read or make a blob."""
    return [step for step in steps if blob in (*step.bottom_ids, *step.top_ids)]


def _makes_memory(maker: Step, blob: int) -> bool:
    """Whether a blob that a step makes is memory of its own, at which nobody else looks before the next step does."""
    alone = len(maker.top_ids) == 1 and blob not in maker.bottom_ids
    return isinstance(maker.layer, _MAKERS) and alone and not maker.weighted


def _renamed(steps: Iterable[Step], blobs: Blobs, names: Mapping[int, int]) -> list[Step]:
    """The steps with other blobs in the place of some."""
    return [
        _bound(
            step.layer,
            (names.get(i, i) for i in step.bottom_ids),
            (names.get(i, i) for i in step.top_ids),
            blobs,
            step,
        )
        for step in steps
    ]


# --- what does nothing -------------------------------------------------------------------------------------------


def _without_identities(steps: Sequence[Step], blobs: Blobs, watched: Collection[int]) -> list[Step]:
    left: list[Step] = []
    names: dict[int, int] = {}
    for index, step in enumerate(steps):
        if _is_identity(step, steps[index + 1 :], watched):
            names.update((top, names.get(bottom, bottom)) for bottom in step.bottom_ids[:1] for top in step.top_ids)
        else:
            left.append(step)
    return _renamed(left, blobs, names)


def _is_identity(step: Step, later: Sequence[Step], watched: Collection[int]) -> bool:
    """Whether the readers of the tops can read the bottom instead."""
    layer = step.layer
    if layer.patched or step.weighted:
        return False
    if type(layer) is Silence:
        return True
    passes = type(layer) is Split or (type(layer) is Dropout and layer.factor == 1 and not layer.drops)
    if step.bottom_ids == step.top_ids or not passes:
        return passes
    overwritten = {*step.bottom_ids, *step.top_ids}.intersection(i for other in later for i in other.top_ids)
    return not overwritten and not set(step.top_ids).intersection(watched)


# --- scales and shifts -------------------------------------------------------------------------------------------


def _folded(steps: Sequence[Step], blobs: Blobs, watched: Collection[int]) -> tuple[list[Step], list[FoldedLayer]]:
    definitions = [_definition(step) for step in steps]
    params = [[blob.peek_data() for blob in step.layer.blobs] if d.type else [] for step, d in zip(steps, definitions)]
    chains = folding.find_chains(definitions, params, watched={str(i) for i in watched})
    del params  # as in FoldedLayer
    gone, left, folded = chains.gone, list[Step](), list[FoldedLayer]()
    for index, step in enumerate(steps):
        if index in gone:
            continue
        if index in chains.into:
            row = [steps[i] for i in (index, *chains.into[index])]
            step = _bound(_merged(row), step.bottom_ids, row[-1].top_ids, blobs, step)
            step.layer.prepare(step.bottom, step.top)
            step.layer.enter_net()
            step.is_shaped(backend.current())
            folded.append(FoldedLayer(step.layer, [each.layer for each in row]))
        left.append(step)
    return left, folded


def _definition(step: Step) -> proto.LayerParameter:
    """What folding goes by, with the blobs by number; of no type if the layer does not do what its definition says."""
    layer, result = step.layer, proto.LayerParameter()
    if layer.user_defined or layer.patched:
        result.name = layer.name
    else:
        result.CopyFrom(layer.layer_param)
    for field, ids in (("bottom", step.bottom_ids), ("top", step.top_ids)):
        result.ClearField(field)
        getattr(result, field).extend(map(str, ids))
    result.ClearField("blobs")
    return result


def _merged(row: Sequence[Step]) -> Layer:
    """A layer like the first of a row, but for its params, which are still to be computed."""
    first = row[0].layer
    definition = _without_params(first)
    folding.let_add(definition)
    return create(definition, first.definition, first.dtype)


def _without_params(layer: Layer) -> proto.LayerParameter:
    """A layer's definition, for params that are zeros, which are nowhere until they are read."""
    definition = proto.LayerParameter()
    definition.CopyFrom(layer.layer_param)
    for field in ("blobs", "param"):
        definition.ClearField(field)
    for options in (definition.convolution_param, definition.inner_product_param):
        for field in ("weight_filler", "bias_filler"):
            options.ClearField(field)
    return definition


# --- in place ----------------------------------------------------------------------------------------------------


def _in_place(
    steps: Sequence[Step], places: Callable[[Step], Sequence[int]], blobs: Blobs, watched: Collection[int]
) -> list[Step]:
    """Layers work in one of their ``places`` where nobody looks at what they read: it is then the blob that they
    make.
    """
    left = list(steps)
    for index in range(len(left)):
        step = left[index]
        found = [blob for blob in places(step) if _can_be_overwritten(blob, left, index, watched)]
        if found:
            left = _renamed(left, blobs, {found[0]: step.top_ids[0]})
    return left


def _alone(step: Step) -> Sequence[int]:
    """The bottom of a layer that can work in place."""
    return step.bottom_ids if len(step.bottom_ids) == 1 and step.layer.in_place != "never" else ()


def _joined(step: Step) -> Sequence[int]:
    """The bottoms that Eltwise has read when it begins to write."""
    first_two = step.bottom_ids[:2]
    return [i for i in first_two if step.bottom_ids.count(i) == 1] if type(step.layer) is Eltwise else ()


def _can_be_overwritten(blob: int, steps: Sequence[Step], index: int, watched: Collection[int]) -> bool:
    """Whether the step at ``index``, a bottom of which it is, can make its only top of this blob."""
    step = steps[index]
    layer = step.layer
    if len(step.top_ids) != 1 or blob in step.top_ids:
        return False
    if layer.user_defined or layer.patched or step.weighted or blob in watched:
        return False
    maker, *between = [other for other in _users(steps, blob) if other is not step]
    return (
        _makes_memory(maker, blob)
        and all(other.bottom_ids == other.top_ids for other in between)
        and steps.index(maker) < index
    )


# --- sums -------------------------------------------------------------------------------------------------------


def _added(steps: Sequence[Step], folded: Sequence[FoldedLayer], blobs: Blobs, watched: Collection[int]) -> list[Step]:
    """A 1 x 1 convolution of which nothing is left but its sum with another blob adds to that one in place, while its
    result is in the cache; it runs where the sum did.
    """
    left, folded_of = list(steps), {id(item.layer): item for item in folded}
    for total in filter(_is_plain_sum, steps):
        index = next(i for i, step in enumerate(left) if step.layer is total.layer)
        made = [blob for step in left for blob in step.top_ids]
        for term in sorted((0, 1), key=lambda term: -made.index(left[index].bottom_ids[term])):  # the last one first
            step, other = _sole_maker(left, index, term, watched), left[index].bottom_ids[1 - term]
            if step is None or not _can_be_added_to(left, index, step, other, watched):
                continue
            top = left[index].top_ids[0]
            added = _bound(_adding(step), [*step.bottom_ids, top], [top], blobs, step)
            left[index] = added
            left.remove(step)
            left = _renamed(left, blobs, {other: top})
            if id(step.layer) in folded_of:
                folded_of[id(step.layer)].become(added.layer)
            break
    return left


def _is_plain_sum(step: Step) -> bool:
    layer = step.layer
    plain = type(layer) is Eltwise and layer.operation == Eltwise.SUM and set(layer.coefficients) == {1.0}
    return plain and len(set(step.bottom_ids)) == len(step.bottom_ids) == 2 and not (layer.patched or step.weighted)


def _sole_maker(steps: Sequence[Step], index: int, term: int, watched: Collection[int]) -> Step | None:
    """The 1 x 1 convolution that makes a bottom of the step at ``index``, and has nothing else to do, if it can as well
    run right before it.
    """
    blob = steps[index].bottom_ids[term]
    users = _users(steps, blob)
    if len(users) != 2 or users[1] is not steps[index] or blob in watched:
        return None
    step = users[0]
    between = steps[steps.index(step) + 1 : index]
    layer: Any = step.layer
    movable = not any(set(step.bottom_ids).intersection(other.top_ids) for other in between)
    alone = len(step.bottom_ids) == len(step.top_ids) == 1 and not (layer.patched or step.weighted)
    return step if type(layer) is Convolution and layer.window.taps == 1 and movable and alone else None


def _can_be_added_to(steps: Sequence[Step], index: int, step: Step, blob: int, watched: Collection[int]) -> bool:
    """Whether nobody reads a blob, which is memory of its own, after the sum at ``index`` has, nor ``step`` itself."""
    users = _users(steps, blob)
    own = _makes_memory(users[0], blob) and not users[0].layer.patched
    apart = blob not in step.bottom_ids
    viewed = any(isinstance(other.layer, Sharing) or other.layer.user_defined for other in users)
    return own and apart and not viewed and users[-1] is steps[index] and blob not in watched


def _adding(step: Step) -> Layer:
    """The layer that adds what a step's computes, from the very same params: it reshapes when its blobs have."""
    layer = step.layer
    made = make(AddedConvolution, _without_params(layer), layer.definition, layer.dtype)
    made.definition = layer.definition
    for blob in layer.blobs:
        made.blobs.append(blob)
    made.blobs_given = True
    with made.named_in_errors():
        made.check_options()
        made.setup(step.bottom, step.top)
    made.enter_net()
    return made


def _behind_makers(steps: Sequence[Step]) -> list[Step]:
    """Layers in place right behind the last layer that has to do with their blob, so that they can run as one."""
    left: list[Step] = []
    for step in steps:
        place = len(left)
        if step.bottom_ids == step.top_ids and len(step.bottom_ids) == 1 and not step.layer.user_defined:
            blob = step.bottom_ids[0]
            while place and blob not in (*left[place - 1].bottom_ids, *left[place - 1].top_ids):
                place -= 1
            if not place or blob not in left[place - 1].top_ids:
                place = len(left)
        left.insert(place, step)
    return left
