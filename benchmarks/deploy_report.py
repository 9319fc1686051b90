"""Tables that only results of deployed nets have: against each peer, images a second, memory, and the next gaps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.harness import BYTES, SECONDS, Result
from benchmarks.report import CONTESTANTS, Table, amount

GAPS = 20
"""Layers that are listed."""


def tables(results: Sequence[Result]) -> list[Table]:
    """Those for which there are results."""
    engines = [result for result in results if result.memory]
    layers = [result for result in results if result.family == "deploy_layers" and result.floor]
    return [*([_against(engines), _images(engines), _memory(engines)] if engines else []), *_gaps(layers)]


def _present(results: Sequence[Result]) -> list[str]:
    return [name for name in CONTESTANTS if any(name in result.spreads for result in results)]


def _against(results: Sequence[Result]) -> Table:
    """Each peer's median over minicaffe's, that of the fastest, and their geometric means."""
    names = [name for name in _present(results) if name != "minicaffe"]
    table: list[list[float | None]] = []
    for result in results:
        ratios = [result.ratio_to(name) for name in names]
        table.append([*ratios, min((ratio for ratio in ratios if ratio is not None), default=None)])
    rows = [[result.case, *map(_ratio, row)] for result, row in zip(results, table, strict=True)]
    means = [_mean([ratio for ratio in column if ratio is not None]) for column in zip(*table, strict=True)]
    rows.append(["geometric mean", *map(_ratio, means)])
    return Table("deploy: a peer's median over minicaffe's", ["case", *names, "the fastest"], rows)


def _mean(ratios: Sequence[float]) -> float | None:
    return statistics.geometric_mean(ratios) if ratios else None


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _images(results: Sequence[Result]) -> Table:
    names = _present(results)
    rows = [
        [
            result.case,
            *(f"{result.images / result.spreads[n].median:.4g}" if n in result.spreads else "" for n in names),
        ]
        for result in results
    ]
    return Table("deploy: images a second", ["case", *names], rows)


def _memory(results: Sequence[Result]) -> Table:
    names = _present(results)
    rows = [
        [result.case, *(amount(result.memory[name], BYTES) if name in result.memory else "" for name in names)]
        for result in results
    ]
    return Table("deploy: peak memory of the process", ["case", *names], rows)


def _gaps(layers: Sequence[Result]) -> list[Table]:
    """The layers of each net that lose most beyond their floors, and their share of the net's time."""
    nets: dict[str, list[Result]] = {}
    for result in layers:
        nets.setdefault(result.case.partition("/")[0], []).append(result)
    return [_gap(net, group) for net, group in nets.items()]


def _gap(net: str, layers: Sequence[Result]) -> Table:
    taken = {layer.case: layer.spreads["minicaffe"].median for layer in layers}
    worst = sorted(layers, key=lambda layer: layer.floor - taken[layer.case])[:GAPS]
    rows = [
        [
            layer.case.partition("/")[2],
            amount(taken[layer.case], SECONDS),
            f"{taken[layer.case] / sum(taken.values()):.1%}",
            amount(layer.floor, SECONDS),
            f"{taken[layer.case] / layer.floor:.1f}",
            amount(max(taken[layer.case] - layer.floor, 0.0), SECONDS),
        ]
        for layer in worst
    ]
    total, floor = sum(taken.values()), sum(layer.floor for layer in layers)
    lost = amount(max(total - floor, 0.0), SECONDS)
    rows.append(["all layers", amount(total, SECONDS), "100%", amount(floor, SECONDS), f"{total / floor:.1f}", lost])
    return Table(f"deploy_layers: {net}, most lost first", ["layer", "time", "share", "floor", "× floor", "lost"], rows)
