"""Nets as pictures: layers and blobs as a graph in Graphviz' language, drawn by pygraphviz."""

from __future__ import annotations

import os
from typing import Any

from minicaffe import arguments, compact_graph, compat, proto
from minicaffe import layer_label as about
from minicaffe.errors import MinicaffeError
from minicaffe.proto.atomic import write_atomic
from minicaffe.proto.upgrade import upgrade_net

TEXT_FORMATS = ("dot", "raw")
"""Formats that need no pygraphviz: the graph as text."""
FORMATS = ("png", "svg", "pdf", *TEXT_FORMATS)
RANKDIRS = ("LR", "TB", "BT", "RL")

_BLOB = {"shape": "octagon", "style": "filled", "fillcolor": "#E0E0E0"}


def draw_net(
    net: proto.NetParameter,
    rankdir: str = "LR",
    ext: str = "png",
    phase: int | None = None,
    display_lrm: bool = False,
    compact: bool = False,
) -> bytes:
    """The picture of a net, in format ``ext``: png, svg or pdf; or dot (raw is another name for it), its Graphviz text.

    ``rankdir`` is where the graph grows to: LR, TB, BT or RL.  ``phase`` (TRAIN or TEST) leaves out the other phase's
    layers.  ``display_lrm`` adds learning-rate multipliers.  ``compact`` leaves blobs out, as ``dot_source`` says.

    Raises MinicaffeError for another ``ext`` or ``rankdir``, NetError for a layer with both include and exclude rules,
    MissingExtraError if a picture is asked for and pygraphviz is not installed.
    """
    if ext not in FORMATS:
        raise MinicaffeError(f"a net can be drawn as {', '.join(FORMATS)}; found '{ext}'")
    text = dot_source(net, rankdir, phase=phase, display_lrm=display_lrm, compact=compact)
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
    compact: bool = False,
) -> None:
    """Write the picture of a net; the format is the ending of the file's name.  Otherwise as ``draw_net``."""
    ext = os.path.splitext(arguments.path(path, "a picture"))[1].removeprefix(".").lower()
    write_atomic(path, draw_net(net, rankdir, ext, phase, display_lrm, compact))


def dot_source(
    net: proto.NetParameter,
    rankdir: str = "LR",
    label_edges: bool = True,
    phase: int | None = None,
    display_lrm: bool = False,
    compact: bool = False,
) -> str:
    """A net as a graph in Graphviz' language; nets in older formats are upgraded first.  Errors as in ``draw_net``.

    ``compact`` makes a box of each layer, with those in place on its top, and leaves blobs out.

    Caffe: layers are boxes, coloured by type; blobs that a layer reads are gray octagons, the net's outputs plain.
    Of the include and exclude rules only those on the phase count.
    """
    if rankdir not in RANKDIRS:
        raise MinicaffeError(f"rankdir must be one of {', '.join(RANKDIRS)}; found '{rankdir}'")
    arguments.message(net, "NetParameter", "a drawing", " (Net.to_proto gives a net's)")
    net, _ = upgrade_net(net)
    layers = [layer for layer in net.layer if phase is None or about.in_phase(layer, phase)]
    if compact:
        return compact_graph.dot_source(net.name or "Net", layers, rankdir, display_lrm)
    nodes: dict[str, str] = {}
    edges: list[str] = []
    for layer in layers:
        node = f"{layer.name}_{layer.type}"
        nodes[node] = _attributes(
            label=get_layer_label(layer, rankdir, display_lrm),
            shape="record",
            style="filled",
            fillcolor=about.colour(layer),
            _escape="{}|<>",
        )
        for bottom in layer.bottom:
            nodes[f"{bottom}_blob"] = _attributes(label=bottom, **_BLOB)
            edges.append(f"{_quote(f'{bottom}_blob')} -> {_quote(node)}")
        for top in layer.top:
            nodes[f"{top}_blob"] = _attributes(label=top)
            label = get_edge_label(layer) if label_edges else ""
            edges.append(
                f"{_quote(node)} -> {_quote(f'{top}_blob')}" + (f" {_attributes(label=label)}" if label else "")
            )
    body = [f"rankdir={rankdir}", *(f"{_quote(name)} {attributes}" for name, attributes in nodes.items()), *edges]
    return f"digraph {_quote(net.name or 'Net')} {{\n" + "".join(f"  {line};\n" for line in body) + "}\n"


def get_layer_label(layer: proto.LayerParameter, rankdir: str, display_lrm: bool = False) -> str:
    """Name, type and the numbers that matter; side by side where the graph grows up or down, else one a line."""
    pooling = layer.type == "Pooling"
    parts = [layer.name, f"({about.kind(layer) if pooling else layer.type})"]
    parts += [f"{name}: {value}" for name, value in about.window(layer).items()]
    rates = get_layer_lr_mult(layer)
    if display_lrm and any(rates):
        parts.append("lr mult: " + ", ".join(f"{rate:.1f}" for rate in rates))
    return (" " if rankdir in ("TB", "BT") else "\n").join(parts)


def get_layer_lr_mult(layer: proto.LayerParameter) -> list[float]:
    """The learning-rate multipliers of a layer's params; those of weights and biases where they are not given, too."""
    rates = [spec.lr_mult for spec in layer.param]
    if layer.type in (*about.CONVOLUTIONS, "InnerProduct"):
        rates += [1.0] * (2 - len(rates))
    return rates


def get_pooling_types_dict() -> dict[int, str]:
    """The names of the ways to pool, by their numbers."""
    return {number: name for name, number in proto.PoolingParameter.PoolMethod.items()}


def choose_color_by_layertype(layertype: str) -> str:
    """The colour of layers of a type that are not in place, as ``#RRGGBB``."""
    return about.colour(proto.LayerParameter(type=layertype))


def get_edge_label(layer: proto.LayerParameter) -> str:
    """What is written at the edges from a layer to its tops: the size of a batch, or how many outputs there are."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    return str(about.outputs(layer) or "")


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
