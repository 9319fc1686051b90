"""What a person gets to read: a line for each part, a table of at most ``LONGEST`` lines, and everything as JSON."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from minicaffe.proto.atomic import write_atomic
from minicaffe.testing.gpu.checks import FAILED, PASSED, SKIPPED, Options
from minicaffe.testing.gpu.machine import PRODUCTS
from minicaffe.testing.gpu.runner import Result, counts

LONGEST = 100
_FAILURES, _REASONS, _SLOWEST = 30, 12, 3
_WIDTH, _WIDTH_OF_FAILURES = 180, 400


def line(result: Result) -> str:
    """What became of a part."""
    rest = f"; not finished: {result.unfinished}" if result.unfinished else ""
    first = next(result.of(FAILED), None)
    trouble = result.problem or (f"{first['check']}: {first['problem']}" if first else "")
    told = f"{counts(result)}, {result.seconds:.0f} s{rest}"
    return _cut(f"{told}; first failure: {trouble}" if trouble else told)


def table(results: Sequence[Result], left_out: Iterable[str]) -> list[str]:
    """What failed with its first difference, what was skipped and why, rates and ratios."""
    lines = [*_failures(results), *_skips(results, left_out), *_rates(results), *_speeds(results)]
    if len(lines) > LONGEST - 1:
        lines = [*lines[: LONGEST - 2], f"... {len(lines) - LONGEST + 2} more lines; the JSON file has everything"]
    return [*lines, verdict(results)]


def verdict(results: Sequence[Result]) -> str:
    """The last line."""
    failed = sum(result.count(FAILED) + bool(result.problem) for result in results)
    if failed:
        return f"FAILED: {failed} of {sum(len(result.rows) for result in results)} checks"
    words = [f"passed: {sum(result.count(PASSED) for result in results)} checks"]
    skipped = sum(result.count(SKIPPED) for result in results)
    unfinished = [result.part.name for result in results if result.unfinished]
    words += [f"{skipped} skipped"] * bool(skipped) + [f"not finished: {', '.join(unfinished)}"] * bool(unfinished)
    return "; ".join(words)


def _failures(results: Sequence[Result]) -> Iterator[str]:
    rows = [(result.part.name, "the part itself", result.problem) for result in results if result.problem]
    rows += [(result.part.name, row["check"], row["problem"]) for result in results for row in result.of(FAILED)]
    if rows:
        yield f"failed ({len(rows)}):"
    for part, name, problem in rows[:_FAILURES]:
        yield _cut(f"  {part}: {name}: {problem}", _WIDTH_OF_FAILURES)
    if len(rows) > _FAILURES:
        yield f"  ... {len(rows) - _FAILURES} more"


def _skips(results: Sequence[Result], left_out: Iterable[str]) -> Iterator[str]:
    reasons = Counter((result.part.name, row["problem"]) for result in results for row in result.of(SKIPPED))
    lines = [f"  {part}: {count} x {why}" for (part, why), count in reasons.most_common(_REASONS)]
    lines += [f"  {text}" for text in left_out]
    lines += [f"  {result.part.name}: not finished, {result.unfinished}" for result in results if result.unfinished]
    if lines:
        yield "skipped:"
    yield from map(_cut, lines)


def _rates(results: Sequence[Result]) -> Iterator[str]:
    rows = _figures(results, "device")
    about = rows.get("the GPU is there", {})
    rates = [f"{name} {rows[name]['TFLOP/s']:.1f} TFLOP/s" for name in PRODUCTS if rows.get(name)]
    if rows.get("copy"):
        rates.insert(0, f"copy {rows['copy']['GB/s']:.0f} GB/s")
    if about:
        yield f"{about['name']}: {', '.join(rates)}"


def _speeds(results: Sequence[Result]) -> Iterator[str]:
    """A row a net and pass: medians in milliseconds, and PyTorch's over minicaffe's."""
    rows = _figures(results, "speed")
    nets = list(dict.fromkeys(name.rpartition("/")[0] for name in rows if "ms" in rows[name]))
    whos = list(dict.fromkeys(name.rpartition("/")[2] for name in rows if "ms" in rows[name]))
    if nets:
        yield f"{'milliseconds (PyTorch / minicaffe)':34}" + "".join(f"{who:>22}" for who in whos)
    for net in nets:
        own = rows.get(f"{net}/minicaffe", {}).get("ms")
        cells = []
        for who in whos:
            time_of = rows.get(f"{net}/{who}", {}).get("ms")
            ratio = f" ({time_of / own:.2f})" if time_of and own and who != "minicaffe" else ""
            cells.append(f"{time_of:.3g}{ratio}" if time_of else "-")
        yield f"{net:34}" + "".join(f"{cell:>22}" for cell in cells)
    for name in rows:
        slowest = rows[name].get("slowest", [])[:_SLOWEST]
        if slowest:
            all_of_them = f"{rows[name]['ms of all']:.3g} ms in {rows[name]['launches']} launches"
            told = ", ".join(f"{k['kernel']} {k['ms']:.3g} ms {k['GB/s']:.0f} GB/s" for k in slowest)
            yield _cut(f"{name}: {all_of_them}; {told}")
    for name in rows:
        if "im2col ms" in rows[name]:
            yield _cut(f"{name}: {_algorithms(rows[name])}")


def _algorithms(figures: dict[str, Any]) -> str:
    """Milliseconds of the algorithms of a convolution, with estimates, and which is taken."""
    told = []
    for kind in ("", " TF32"):
        times = [f"{name} {figures[f'{name}{kind} ms']:.3g} ({figures[f'{name}{kind} estimate ms']:.3g})"
                 for name in ("im2col", "implicit")]  # fmt: skip
        times += [f"cuDNN {figures[f'cuDNN{kind} ms']:.3g}"] * (f"cuDNN{kind} ms" in figures)
        told.append(f"{' '.join(times)} ms{kind}, {figures[f'taken{kind}']} taken")
    return f"{'; '.join(told)}; implicit fp16 {figures['implicit fp16 ms']:.3g} ms"


def _figures(results: Sequence[Result], part: str) -> dict[str, dict[str, Any]]:
    """The figures of a part's checks, by their names."""
    return {row["check"]: row["figures"] for result in results if result.part.name == part for row in result.rows}


def _cut(text: str, width: int = _WIDTH) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."


def write(
    path: Path, results: Sequence[Result], options: Options, left_out: Sequence[str], lacks: Sequence[str]
) -> None:
    """Everything, as JSON; written anew after each part, so that it is there whatever ends the run."""
    content = {
        "when": time.strftime("%Y-%m-%d", time.gmtime()),
        "gpu": options.gpu,
        "stand_in": options.stand_in,
        "every": options.every,
        "match": options.match,
        "lacks": list(lacks),
        "left_out": list(left_out),
        "verdict": verdict(results),
        "parts": {
            result.part.name: {
                "seconds": round(result.seconds, 1),
                "processes": result.processes,
                "problem": result.problem,
                "unfinished": result.unfinished,
                "rows": result.rows,
            }
            for result in results
        },
    }
    write_atomic(path, json.dumps(content, indent=1).encode())
