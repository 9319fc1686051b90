"""Layers that reduce, choose, or centre values: Reduction, ArgMax, MVN."""

from __future__ import annotations

from minicaffe.layers.reduction import Reduction
from minicaffe.pytorch.writer import Writer, exports, number, scaled, stretched


@exports("Reduction")
def reduction(w: Writer) -> str:
    layer, x = w.layer, w.x[0]
    over = list(range(w.axis(layer.axis), len(w.bottom[0])))
    if layer.operation == Reduction.MEAN:
        return scaled(f"{x}.mean({over})", layer.coeff)
    values = {Reduction.ASUM: f"{x}.abs()", Reduction.SUMSQ: f"{x}.square()"}.get(layer.operation, x)
    return scaled(f"{values}.sum({over})", layer.coeff)


@exports("ArgMax")
def arg_max(w: Writer) -> str:
    """Of equal values the last comes first: a stable sort has the first of them first, so it gets them in reverse."""
    layer, axis = w.layer, w.layer.along
    x = f"{w.x[0]}.flatten(1)" if axis is None else w.x[0]
    along = 1 if axis is None else axis
    best = f"[{':, ' * along}:{layer.top_k}]"
    places = f"{x}.flip({along}).argsort(dim={along}, descending=True, stable=True){best}"
    places = f"({x}.shape[{along}] - 1 - {places}).to({w.x[0]}.dtype)"
    values = f"{x}.sort({along}, descending=True).values{best}"
    if axis is not None:
        return values if layer.out_max_val else places
    found = f"torch.stack([{places}, {values}], 1)" if layer.out_max_val else f"{places}.unsqueeze(1)"
    return stretched(found, len(w.top[0]) - 3)


@exports("MVN")
def mvn(w: Writer) -> str:
    layer, x = w.layer, w.x[0]
    over = list(range(1 if layer.across_channels else 2, len(w.bottom[0])))
    w.require(bool(over), "its groups hold one value each")
    y = f"({x} - {x}.mean({over}, keepdim=True))"
    if layer.normalize_variance:
        y = f"({y} / ({x}.std({over}, correction=0, keepdim=True) + {number(layer.eps)}))"
    return stretched(y, len(w.top[0]) - len(w.bottom[0]))
