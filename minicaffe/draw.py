"""Nets as pictures: layers and blobs as a graph in Graphviz' language, drawn by pygraphviz."""

from __future__ import annotations

import os
from typing import Any

from minicaffe import compat, proto
from minicaffe.errors import MinicaffeError, NetError
from minicaffe.proto.atomic import write_atomic
from minicaffe.proto.upgrade import upgrade_net

TEXT_FORMATS = ("dot", "raw")
"""Formats that need no pygraphviz: the graph as text."""
FORMATS = ("png", "svg", "pdf", *TEXT_FORMATS)
RANKDIRS = ("LR", "TB", "BT", "RL")

_IN_PLACE = "#90EE90"
_CONVOLUTIONS = ("Convolution", "Deconvolution")
_COLOURS = {**dict.fromkeys(_CONVOLUTIONS, "#FF5050"), "Pooling": "#FF9900", "InnerProduct": "#CC33FF"}
_OTHER = "#6495ED"
_BLOB = {"shape": "octagon", "style": "filled", "fillcolor": "#E0E0E0"}


def draw_net(
    net: proto.NetParameter, rankdir: str = "LR", ext: str = "png", phase: int | None = None, display_lrm: bool = False
) -> bytes:
    """The picture of a net, in format ``ext``: png, svg or pdf; or dot (raw is another name for it), its Graphviz text.

    ``rankdir`` is where the graph grows to: LR, TB, BT or RL.  ``phase`` (TRAIN or TEST) leaves out the other phase's
    layers.  ``display_lrm`` adds learning-rate multipliers.

    Raises MinicaffeError for another ``ext`` or ``rankdir``, NetError for a layer with both include and exclude rules,
    MissingExtraError if a picture is asked for and pygraphviz is not installed.
    """
    if ext not in FORMATS:
        raise MinicaffeError(f"a net can be drawn as {', '.join(FORMATS)}; found '{ext}'")
    text = dot_source(net, rankdir, phase=phase, display_lrm=display_lrm)
    if ext in TEXT_FORMATS:
        return text.encode()
    return compat.require("pygraphviz").AGraph(string=text).draw(format=ext, prog="dot")


def get_pydot_graph(
    caffe_net: proto.NetParameter,
    rankdir: str,
    label_edges: bool = True,
    phase: int | None = None,
    display_lrm: bool = False,
) -> Any:
    """The graph of a net as a ``pydot.Dot``, whose ``create`` and ``write`` need Graphviz' programs.

    Arguments and errors as of ``draw_net``; MissingExtraError if pydot is not installed.
    """
    text = dot_source(caffe_net, rankdir, label_edges, phase, display_lrm)
    return compat.require("pydot").graph_from_dot_data(text)[0]


def draw_net_to_file(
    net: proto.NetParameter,
    path: str | os.PathLike[str],
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
) -> None:
    """Write the picture of a net; the format is the ending of the file's name.  Otherwise as ``draw_net``."""
    ext = os.path.splitext(os.fspath(path))[1].removeprefix(".").lower()
    write_atomic(path, draw_net(net, rankdir, ext, phase, display_lrm))


def dot_source(
    net: proto.NetParameter,
    rankdir: str = "LR",
    label_edges: bool = True,
    phase: int | None = None,
    display_lrm: bool = False,
) -> str:
    """A net as a graph in Graphviz' language; nets in older formats are upgraded first.  Errors as in ``draw_net``.

    Caffe: layers are boxes, coloured by type; blobs that a layer reads are gray octagons, the net's outputs plain.
    Of the include and exclude rules only those on the phase count.
    """
    if rankdir not in RANKDIRS:
        raise MinicaffeError(f"rankdir must be one of {', '.join(RANKDIRS)}; found '{rankdir}'")
    net, _ = upgrade_net(net)
    nodes: dict[str, str] = {}
    edges: list[str] = []
    for layer in net.layer:
        if phase is not None and not _in_phase(layer, phase):
            continue
        node = f"{layer.name}_{layer.type}"
        nodes[node] = _attributes(
            label=_layer_label(layer, rankdir, display_lrm),
            shape="record",
            style="filled",
            fillcolor=_colour(layer),
            _escape="{}|<>",
        )
        for bottom in layer.bottom:
            nodes[f"{bottom}_blob"] = _attributes(label=bottom, **_BLOB)
            edges.append(f"{_quote(f'{bottom}_blob')} -> {_quote(node)}")
        for top in layer.top:
            nodes[f"{top}_blob"] = _attributes(label=top)
            label = _edge_label(layer) if label_edges else ""
            edges.append(
                f"{_quote(node)} -> {_quote(f'{top}_blob')}" + (f" {_attributes(label=label)}" if label else "")
            )
    body = [f"rankdir={rankdir}", *(f"{_quote(name)} {attributes}" for name, attributes in nodes.items()), *edges]
    return f"digraph {_quote(net.name or 'Net')} {{\n" + "".join(f"  {line};\n" for line in body) + "}\n"


def _in_phase(layer: proto.LayerParameter, phase: int) -> bool:
    if layer.include and layer.exclude:
        raise NetError(f"layer '{layer.name}': Specify either include rules or exclude rules; not both.")
    if layer.include:
        return any(rule.phase == phase for rule in layer.include)
    return not any(rule.phase == phase for rule in layer.exclude)


def _colour(layer: proto.LayerParameter) -> str:
    in_place = len(layer.bottom) == len(layer.top) == 1 and layer.bottom[0] == layer.top[0]
    return _IN_PLACE if in_place else _COLOURS.get(layer.type, _OTHER)


def _layer_label(layer: proto.LayerParameter, rankdir: str, display_lrm: bool) -> str:
    """Name, type and the numbers that matter; side by side where the graph grows up or down, else one a line."""
    kind = layer.type
    parts = [layer.name]
    if kind == "Pooling":
        method = proto.PoolingParameter.PoolMethod.Name(layer.pooling_param.pool)
        parts += [f"({kind} {method})", *_window(layer.pooling_param)]
    elif kind in _CONVOLUTIONS:
        parts += [f"({kind})", *_window(layer.convolution_param)]
    else:
        parts.append(f"({kind})")
    rates = [spec.lr_mult for spec in layer.param]
    if kind in (*_CONVOLUTIONS, "InnerProduct"):
        rates += [1.0] * (2 - len(rates))
    if display_lrm and any(rates):
        parts.append("lr mult: " + ", ".join(f"{rate:.1f}" for rate in rates))
    return (" " if rankdir in ("TB", "BT") else "\n").join(parts)


def _window(options: proto.ConvolutionParameter | proto.PoolingParameter) -> list[str]:
    """Kernel, stride and pad; of those given for every axis alike the first, as Caffe shows them."""
    return [
        f"kernel size: {_size(options, 'kernel_size', 'kernel', 1)}",
        f"stride: {_size(options, 'stride', 'stride', 1)}",
        f"pad: {_size(options, 'pad', 'pad', 0)}",
    ]


def _size(options: proto.ConvolutionParameter | proto.PoolingParameter, name: str, prefix: str, default: int) -> str:
    if options.HasField(f"{prefix}_h") or options.HasField(f"{prefix}_w"):
        return f"{getattr(options, f'{prefix}_h')}x{getattr(options, f'{prefix}_w')}"
    value = getattr(options, name)
    if isinstance(value, int):
        return str(value)
    return str(value[0] if value else default)


def _edge_label(layer: proto.LayerParameter) -> str:
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in _CONVOLUTIONS:
        return str(layer.convolution_param.num_output)
    if layer.type == "InnerProduct":
        return str(layer.inner_product_param.num_output)
    return ""


def _attributes(_escape: str = "", **values: str) -> str:
    return (
        "["
        + ", ".join(f"{name}={_quote(value, _escape if name == 'label' else '')}" for name, value in values.items())
        + "]"
    )


def _quote(text: str, special: str = "") -> str:
    """A string of Graphviz' language; ``special`` are characters that mean something in the labels of records."""
    for character in "\\" + special + '"':
        text = text.replace(character, "\\" + character)
    return '"' + text.replace("\n", "\\n") + '"'
