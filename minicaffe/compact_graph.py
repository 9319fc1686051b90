"""A net as a small graph: a box for each layer with the layers in place on its tops below it, and no blobs."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass, field

from minicaffe import layer_label as about
from minicaffe import proto


@dataclass
class Box:
    """A layer, and those that work in place on its top; ``sources`` are the numbers of the boxes it reads from."""

    layer: proto.LayerParameter
    in_place: list[proto.LayerParameter] = field(default_factory=list)
    sources: list[tuple[int, str]] = field(default_factory=list)
    """The number of the box, or -1 where no layer makes the blob, and the blob's name."""


def boxes(layers: Iterable[proto.LayerParameter]) -> list[Box]:
    """The boxes of a net's layers.

    A layer in place is folded under the one that made its blob, if that is the only one and nothing has read the blob
    in between; else it is a box of its own.  A blob that several layers make, as data layers of both phases do, comes
    from all of them.
    """
    result: list[Box] = []
    makers: dict[str, list[int]] = {}
    read: set[str] = set()
    for layer in layers:
        in_place = about.is_in_place(layer)
        if in_place and layer.bottom[0] not in read and len(makers.get(layer.bottom[0], ())) == 1:
            result[makers[layer.bottom[0]][0]].in_place.append(layer)
            continue
        box = Box(layer, sources=[(i, name) for name in layer.bottom for i in makers.get(name, [-1])])
        read.update(layer.bottom)
        for top in layer.top:
            fresh = top in layer.bottom or top in read or top not in makers
            makers[top] = [len(result)] if fresh else [*makers[top], len(result)]
            read.discard(top)
        result.append(box)
    return result


def dot_source(name: str, layers: Iterable[proto.LayerParameter], rankdir: str, display_lrm: bool = False) -> str:
    """The graph in Graphviz' language; a box's parts have the layers' colours."""
    found = boxes(layers)
    lines = [f"rankdir={rankdir}", "node [shape=plain, fontname=Helvetica, fontsize=11]", "edge [fontsize=9]"]
    lines.append("nodesep=0.2; ranksep=0.25")
    inputs: dict[str, int] = {}
    for i, box in enumerate(found):
        lines.append(f"n{i} [label=<{_table(box, display_lrm)}>]")
        several = len(box.layer.bottom) > 1
        for source, blob in box.sources:
            if source < 0:
                start = f"b{inputs.setdefault(blob, len(inputs))}"
            else:
                start = f"n{source}"
            named = several and source >= 0 and len(found[source].layer.top) > 1
            lines.append(f"{start} -> n{i}" + (f" [label=<{html.escape(blob)}>]" if named else ""))
    lines += [f"b{i} [shape=ellipse, label=<{html.escape(blob)}>]" for blob, i in inputs.items()]
    title = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'digraph "{title}" {{\n' + "".join(f"  {line};\n" for line in lines) + "}\n"


def _table(box: Box, display_lrm: bool) -> str:
    """The layer in bold with its numbers, then a row for each layer in place."""
    rows = [_row(box.layer, display_lrm, bold=True), *(_row(layer, display_lrm) for layer in box.in_place)]
    return f'<table border="0" cellborder="1" cellspacing="0" cellpadding="3">{"".join(rows)}</table>'


def _row(layer: proto.LayerParameter, display_lrm: bool, bold: bool = False) -> str:
    name = html.escape(layer.name)
    parts = [f"<b>{name}</b>" if bold else name, html.escape(about.kind(layer))]
    if numbers := _numbers(layer):
        parts.append(numbers)
    if display_lrm and layer.param:
        parts.append("lr " + ", ".join(f"{spec.lr_mult:g}" for spec in layer.param))
    return f'<tr><td bgcolor="{about.colour(layer)}">{"  ".join(parts)}</td></tr>'


def _numbers(layer: proto.LayerParameter) -> str:
    """Outputs and window, briefly: "64, 7x7 / 2 + 3" for a stride of 2 and a pad of 3."""
    window = about.window(layer)
    outputs = str(about.outputs(layer)) if about.outputs(layer) else ""
    if not window:
        return outputs
    size = window["kernel size"]
    text = f"{size}x{size}" if size.isdigit() else size
    text += f" / {window['stride']}" if window.get("stride", "1") != "1" else ""
    text += f" + {window['pad']}" if window.get("pad", "0") != "0" else ""
    text += "".join(f", {name} {window[name]}" for name in ("dilation", "group") if name in window)
    return f"{outputs}, {text}" if outputs else text
