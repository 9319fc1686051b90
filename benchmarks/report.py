"""Results as tables, as JSON, beside earlier ones, and as a plot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.harness import BYTES, Result, Spread
from minicaffe import compat

CONTESTANTS = ("minicaffe", "onnxruntime", "openvino", "opencv", "torch", "caffe", "pillow", "file")
_UNITS = {"s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")), BYTES: ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))}


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading; all columns but the first are numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def amount(value: float, unit: str) -> str:
    """A time or a size with three digits: ``12.3 ms``."""
    scale, name = _scale(value, unit)
    return f"{_digits(value / scale)} {name}"


def _scale(value: float, unit: str) -> tuple[float, str]:
    return next(((scale, name) for scale, name in _UNITS[unit] if value >= scale), _UNITS[unit][-1])


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")


def _spread(spread: Spread, unit: str) -> str:
    """The median, and in brackets the least and the most in the same unit; of single calls their 99th percentile."""
    if spread.p99:
        return f"{amount(spread.median, unit)} (99%: {amount(spread.p99, unit)})"
    scale, _ = _scale(spread.median, unit)
    return f"{amount(spread.median, unit)} ({_digits(spread.least / scale)}–{_digits(spread.most / scale)})"


def tables(results: Iterable[Result]) -> list[Table]:
    """One table a family: median (min-max) of each contestant, PyTorch's over minicaffe's, the floor, minicaffe's over
    it.
    """
    made = []
    families: dict[str, list[Result]] = {}
    for result in results:
        families.setdefault(result.family, []).append(result)
    for family, group in families.items():
        present = [name for name in CONTESTANTS if any(name in result.spreads for result in group)]
        floors = any(result.floor for result in group)
        columns = [
            "case",
            *present,
            *(["torch / minicaffe"] if "torch" in present else []),
            *(["floor", "× floor"] if floors else []),
        ]
        made.append(Table(family, columns, [_row(result, present, floors) for result in group]))
    return made


def _row(result: Result, present: Sequence[str], floors: bool) -> list[str]:
    row = [result.case]
    row += [_spread(result.spreads[name], result.unit) if name in result.spreads else "" for name in present]
    if "torch" in present:
        row.append("" if result.ratio is None else f"{result.ratio:.2f}")
    if floors:
        over = result.spreads["minicaffe"].median / result.floor if result.floor else 0
        row += [amount(result.floor, result.unit), f"{over:.1f}"] if over else ["", ""]
    return row


def markdown(table: Table) -> str:
    """The table in Markdown."""
    lines = [table.columns, ["---", *["--:"] * (len(table.columns) - 1)], *table.rows]
    return f"### {table.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def show(table: Table) -> None:
    """Print the table on the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    rich = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for i, column in enumerate(table.columns):
        rich.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in table.rows:
        rich.add_row(*row)
    Console(width=Console(width=1000).measure(rich).maximum).print(rich)


# --- files --------------------------------------------------------------------------------------------------------


def document(
    results: Iterable[Result], described: dict[str, Any], rates: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """Everything about a run, as it goes into a JSON file."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "machine": described,
        "rates": rates,
        "settings": settings,
        "results": [asdict(result) for result in results],
    }


def save(path: Path, content: dict[str, Any]) -> Path:
    """Write a ``document`` to a .json file, or under the machine's name into a folder; returns the file."""
    target = path if path.suffix == ".json" else path / machine.file_name(content["machine"])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content, indent=1) + "\n")
    return target


def load(path: Path) -> tuple[list[Result], dict[str, Any]]:
    """The results and the machine of a saved ``document``."""
    content = json.loads(path.read_text())
    results = []
    for fields in content["results"]:
        fields["spreads"] = {name: Spread(**values) for name, values in fields["spreads"].items()}
        results.append(Result(**fields))
    return results, content["machine"]


def comparison(now: Iterable[Result], before: Iterable[Result]) -> Table:
    """minicaffe's figures of two runs: medians, their ratio, and whether the samples of the two lie wholly apart."""
    earlier = {(result.family, result.case): result for result in before}
    rows = []
    for result in now:
        old = earlier.get((result.family, result.case))
        if old is None or not {"minicaffe"} <= result.spreads.keys() & old.spreads.keys():
            continue
        a, b = old.spreads["minicaffe"], result.spreads["minicaffe"]
        verdict = "less" if b.most < a.least else "more" if b.least > a.most else "the same"
        cells = _spread(a, old.unit), _spread(b, result.unit), f"{b.median / a.median:.2f}", verdict
        rows.append([f"{result.family}/{result.case}", *cells])
    return Table("minicaffe, before and now", ["case", "before", "now", "now / before", "verdict"], rows)


def plot(results: Iterable[Result], path: Path) -> None:
    """Draw PyTorch's median over minicaffe's for every case that has both; the file's name gives the format.

    Raises MissingExtraError without matplotlib.
    """
    figure_class = compat.require("matplotlib.figure").Figure
    compared = [result for result in results if result.ratio is not None][::-1]
    figure = figure_class(figsize=(8, 1.2 + 0.24 * len(compared)), layout="constrained")
    axes = figure.add_subplot()
    ratios = [result.ratio or 0.0 for result in compared]
    axes.barh(
        range(len(compared)), [ratio - 1 for ratio in ratios], left=1, color=["C0" if r >= 1 else "C1" for r in ratios]
    )
    axes.set_yticks(range(len(compared)), [f"{result.family}/{result.case}" for result in compared], fontsize=8)
    axes.set_xscale("log")
    ticks = [
        t for t in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if min([1, *ratios]) / 2 <= t <= max([1, *ratios]) * 2
    ]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("PyTorch's median / minicaffe's (right of 1: minicaffe needs less)")
    axes.margins(y=0.01)
    figure.savefig(path, dpi=120)
