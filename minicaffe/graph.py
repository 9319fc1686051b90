"""Net definitions as data: pure passes from NetParameter to NetParameter, before any layer is made."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence

from minicaffe import arguments, proto
from minicaffe.errors import NetError
from minicaffe.proto.origin import Origin

_log = logging.getLogger(__name__)


def with_state(net: proto.NetParameter, phase: int, level: int = 0, stages: Iterable[str] = ()) -> proto.NetParameter:
    """The net with this phase and level, and these stages added to its own (what pycaffe's Net does).

    NetError for another phase than TRAIN (0) and TEST (1), a level that is no whole number of 32 bits, and stages that
    are no list of strings.
    """
    result = proto.NetParameter()
    result.CopyFrom(net)
    if isinstance(stages, str) or not isinstance(stages, Iterable):
        raise NetError(f"stages is a list of names; found {stages!r:.80}: give stages=[{stages!r:.80}]")
    for field, value in (("phase", phase), ("level", level), ("stage", stages)):
        try:
            if field == "stage":
                result.state.stage.extend(value)
            else:
                setattr(result.state, field, arguments.whole(value, f"a net's {field}", NetError))
        except (TypeError, ValueError) as error:
            raise NetError(f"a net's {field} cannot be {value!r:.80}: {error}") from None
    return result


def filter_net(net: proto.NetParameter, source: Origin | None = None) -> proto.NetParameter:
    """The layers whose include and exclude rules admit the net's state; NetError if a layer has both kinds."""
    source = source or Origin()
    result = proto.NetParameter()
    result.CopyFrom(net)
    del result.layer[:]
    for layer in net.layer:
        if layer.include and layer.exclude:
            raise NetError(
                f"{_place(source, layer)}Specify either include rules or exclude rules; not both. "
                "Remove the include or the exclude blocks."
            )
        if layer.include:
            keep = any(_meets(rule, net.state, layer.name) for rule in layer.include)
        else:
            keep = not any(_meets(rule, net.state, layer.name) for rule in layer.exclude)
        if keep:
            result.layer.add().CopyFrom(layer)
    return result


def with_inputs(net: proto.NetParameter, shapes: Mapping[str, Sequence[int]]) -> proto.NetParameter:
    """The net with Input layers for these blobs in place of the layers that bring them in: it then needs no data.

    ``shapes`` must name every top of a layer that is replaced.  NetError if it does not, or names a blob that no layer
    without bottoms makes.
    """
    result = proto.NetParameter()
    result.CopyFrom(net)
    del result.layer[:]
    made: set[str] = set()
    for layer in net.layer:
        if layer.bottom or not set(layer.top) & set(shapes):
            result.layer.add().CopyFrom(layer)
            continue
        missing = [name for name in layer.top if name not in shapes]
        if missing:
            raise NetError(
                f"layer '{layer.name}' makes {', '.join(layer.top)}; no shape is given for {', '.join(missing)}: give "
                "one for each"
            )
        for name in layer.top:
            if name not in made:
                result.layer.add(name=name, type="Input", top=[name]).input_param.shape.add(dim=shapes[name])
                made.add(name)
    unknown = [name for name in shapes if name not in made]
    if unknown:
        known = dict.fromkeys(name for layer in net.layer if not layer.bottom for name in layer.top)
        raise NetError(
            f"no layer brings in {', '.join(unknown)}; the net's layers without bottoms make: "
            f"{', '.join(known) or 'nothing'}"
        )
    return result


def _meets(rule: proto.NetStateRule, state: proto.NetState, layer: str) -> bool:
    """Whether every condition of the rule holds; the first that does not is logged, in Caffe's words."""
    if rule.HasField("phase") and rule.phase != state.phase:
        reason = f"phase ({state.phase}) differed from the phase ({rule.phase}) specified by"
    elif rule.HasField("min_level") and state.level < rule.min_level:
        reason = f"level ({state.level}) is above the min_level ({rule.min_level}) specified by"
    elif rule.HasField("max_level") and state.level > rule.max_level:
        reason = f"level ({state.level}) is above the max_level ({rule.max_level}) specified by"
    elif missing := [stage for stage in rule.stage if stage not in state.stage]:
        reason = f"did not contain stage '{missing[0]}' specified by"
    elif present := [stage for stage in rule.not_stage if stage in state.stage]:
        reason = f"contained a not_stage '{present[0]}' specified by"
    else:
        return True
    _log.info("The NetState %s a rule in layer %s", reason, layer)
    return False


def without_fillers(net: proto.NetParameter) -> proto.NetParameter:
    """A copy of a definition whose params are zeros at first: for one that gets all its weights from elsewhere."""
    result = proto.NetParameter()
    result.CopyFrom(net)
    for layer in result.layer:
        layer.ClearField("blobs")
        for field, options in layer.ListFields():
            if field.message_type is None or not field.name.endswith("_param"):
                continue
            for inner, _ in options.ListFields():
                filler = getattr(options, inner.name)
                if isinstance(filler, proto.FillerParameter):  # several fill data (DummyData)
                    filler.CopyFrom(proto.FillerParameter(type="constant"))
    return result


def split_name(blob: str, layer: str, top: int) -> str:
    """Name of the Split layer inserted after the ``top``-th top of ``layer``."""
    return f"{blob}_{layer}_{top}_split"


def insert_splits(net: proto.NetParameter, source: Origin | None = None) -> proto.NetParameter:
    """A Split layer after each top that more than one layer reads, so that every reader has a gradient of its own.

    Caffe: an explicit non-zero loss_weight counts as a reader; it moves to the Split's first output.
    """
    source = source or Origin()
    producer: dict[str, tuple[int, int]] = {}
    origin: dict[tuple[int, int], tuple[int, int]] = {}
    readers: dict[tuple[int, int], int] = {}
    weights: dict[tuple[int, int], float] = {}
    for i, layer in enumerate(net.layer):
        for k, name in enumerate(layer.bottom):
            if name not in producer:
                raise unknown_bottom(layer, k, producer, source)
            origin[i, k] = producer[name]
            readers[producer[name]] = readers.get(producer[name], 0) + 1
        for j, name in enumerate(layer.top):
            producer[name] = (i, j)
        for j, weight in enumerate(layer.loss_weight[: len(layer.top)]):
            weights[i, j] = weight
            if weight:
                readers[i, j] = readers.get((i, j), 0) + 1

    result = proto.NetParameter()
    result.CopyFrom(net)
    del result.layer[:]
    handed_out: dict[tuple[int, int], int] = {}
    for i, layer in enumerate(net.layer):
        copy = result.layer.add()
        copy.CopyFrom(layer)
        for k, name in enumerate(layer.bottom):
            made_by = origin[i, k]
            if readers[made_by] > 1:
                first = 1 if weights.get(made_by) else 0
                number = handed_out.setdefault(made_by, first)
                handed_out[made_by] = number + 1
                copy.bottom[k] = f"{split_name(name, net.layer[made_by[0]].name, made_by[1])}_{number}"
        for j, name in enumerate(layer.top):
            count = readers.get((i, j), 0)
            if count > 1:
                split = result.layer.add(name=split_name(name, layer.name, j), type="Split", bottom=[name])
                split.top.extend(f"{split.name}_{number}" for number in range(count))
                if weights.get((i, j)):
                    del copy.loss_weight[:]
                    split.loss_weight.extend([weights[i, j]] + [0.0] * (count - 1))
    return result


def warn_of_edge_losses(net: proto.NetParameter) -> None:
    """Warn of losses of edges that HED and RCF, whose data layer comes before them, compute otherwise."""
    edges = {top for layer in net.layer if layer.type == "ImageLabelmapData" for top in layer.top[1:]}
    plain = [
        layer.name or layer.top[0]
        for layer in net.layer
        if layer.type == "SigmoidCrossEntropyLoss"
        and edges.intersection(layer.bottom)
        and not layer.loss_param.class_balance
    ]
    if plain:
        _log.warning(
            "SigmoidCrossEntropyLoss (%s) of edges is Caffe's; HED and RCF mean by it one in which edges weigh as much "
            "as all other pixels: for that say loss_param { class_balance: 1 } (HED) or { class_balance: 1.1 } (RCF)",
            ", ".join(plain),
        )


def unknown_bottom(layer: proto.LayerParameter, index: int, known: Sequence[str] | dict, source: Origin) -> NetError:
    """The error for a bottom that no earlier layer makes."""
    name = layer.bottom[index]
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"tops made before it: {', '.join(known) or 'none'}"
    return NetError(
        f"{_place(source, layer, 'bottom')}Unknown bottom blob '{name}' (layer '{layer.name}', bottom index {index}): "
        f"no earlier layer of this phase makes it; {hint}"
    )


def _place(source: Origin, layer: proto.LayerParameter, field: str | None = None) -> str:
    place = source.where(layer.name, layer.phase if layer.HasField("phase") else None, field)
    return f"{place}: " if place else ""
