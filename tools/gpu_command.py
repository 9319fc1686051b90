"""``minicaffe gpu_check``: tell all about a GPU, and whether minicaffe computes on it what it should."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from minicaffe.tools.command import Command

if TYPE_CHECKING:
    from minicaffe.testing.gpu.checks import Options
    from minicaffe.testing.gpu.parts import Part
    from minicaffe.testing.gpu.runner import Result

_LEAST = 5.0  # seconds that are worth starting a part for


@click.command(cls=Command, examples=["minicaffe gpu_check", "minicaffe gpu_check --only kernels --every 10"])
@click.option("--gpu", default=0, show_default=True, metavar="N", type=click.IntRange(min=0), help="The GPU's number.")
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Stop after so many, with what there is.")  # fmt: skip
@click.option(
    "--only", default="", metavar="PART,…", help="Run these parts: device, kernels, layers, training, speed, sanitizer."
)
@click.option(
    "--json", "json_file", default="gpu_check.json", show_default=True, metavar="FILE", help="Where all numbers go."
)
@click.option(
    "--every", default=1, show_default=True, type=click.IntRange(min=1), metavar="N", help="Run each Nth check only."
)
@click.option("--match", default="", metavar="PATTERN,…", help="Run the checks whose names fit, as in 'bias_add *'.")
@click.option("--patience", type=click.FloatRange(min=1), metavar="SECONDS", help="Give a check up after so long.")
@click.option("--stand_in", default="", metavar="MODULE",
              help="Check a model of a GPU instead: a module whose install() puts its own cupy and nvmath in place "
              "(in a checkout: strict_cuda).")  # fmt: skip
def command(
    gpu: int, minutes: float, only: str, json_file: str, every: int, match: str, patience: float | None, stand_in: str
) -> None:
    """Check what minicaffe computes on a GPU, and how fast it is.

    Each part runs in a process of its own, so that a crash or a hang costs one check; what fails is told with its first
    difference, and what cannot be checked with the reason.  The exit status is 1 if anything failed.
    """
    from minicaffe.testing.gpu import report, requirements
    from minicaffe.testing.gpu.checks import Options

    end = time.monotonic() + 60 * minutes
    chosen = _chosen(only)
    lacks, possible = requirements.lacking()
    if stand_in:
        given = [package.project for package in requirements.GPU]
        lacks, possible = [line for line in lacks if not line.startswith(tuple(given))], True
    if lacks:
        click.echo("\n  ".join(["not installed:", *lacks]))
    if not possible:
        click.echo("no GPU can be checked: install CuPy for your driver, pip install 'minicaffe[cuda12]' or "
                   "'minicaffe[cuda13]' ('nvidia-smi' shows the CUDA version that the driver knows)")  # fmt: skip
        raise click.exceptions.Exit(1)
    options = Options(
        str(Path(__file__).with_name("gpu_check.py")), gpu=gpu, every=every, match=match, stand_in=stand_in
    )
    results: list[Result] = []
    left_out: list[str] = []

    def keep() -> None:
        report.write(Path(json_file), results, options, left_out, lacks)

    _run_all(chosen, options, end, patience, results, left_out, keep)
    keep()
    for line in report.table(results, left_out):
        click.echo(line)
    click.echo(f"all numbers: {json_file}")
    if not all(result.right for result in results):
        raise click.exceptions.Exit(1)


def _chosen(only: str) -> list[Part]:
    """The parts that ``--only`` names, all without it."""
    from minicaffe.testing.gpu.parts import PARTS

    names = [name.strip() for name in only.split(",") if name.strip()]
    known = [part.name for part in PARTS]
    for name in names:
        if name not in known:
            raise click.BadParameter(f"there is no part '{name}'; known: {', '.join(known)}", param_hint="'--only'")
    return [part for part in PARTS if part.name in names or not names]


def _run_all(
    chosen: Sequence[Part],
    options: Options,
    end: float,
    patience: float | None,
    results: list[Result],
    left_out: list[str],
    keep: Callable[[], None],
) -> None:
    """Run the parts until ``end``; each gets its share of the time that those before it have left."""
    from minicaffe.testing.gpu import kernels, machine, report, runner
    from minicaffe.testing.gpu.checks import FAILED, checkout
    from minicaffe.testing.gpu.parts import BESIDE_WARM_UP

    there = [part for part in chosen if part.packaged or checkout() is not None]
    left_out += [
        f"{part.name}: needs a checkout (git clone), this minicaffe is installed from a wheel"
        for part in chosen
        if part not in there
    ]
    with _WarmUp(there, options, end) as warm_up:
        for number, part in enumerate(there):
            left = end - time.monotonic()
            if left < _LEAST:
                left_out.append(f"{part.name}: the time was over")
                continue
            if part.name not in BESIDE_WARM_UP:
                warm_up.stop()
            seconds = left * part.share / sum(later.share for later in there[number:])
            click.echo(f"{part.name:10} {part.what} (at most {seconds:.0f} s): ", nl=False)
            result = runner.run(part, options, seconds, patience or part.patience)
            results.append(result)
            if part.name == "kernels" and options.whole:
                kernels.account(result)
            click.echo(report.line(result))
            keep()
            if any(row["check"] == machine.THERE and row["state"] == FAILED for row in result.rows):
                left_out.append("everything else: there is no GPU to run it on")
                break


class _WarmUp:
    """The CPU's kernels being compiled in the background, if any of the parts compares with the CPU."""

    def __init__(self, chosen: Sequence[Part], options: Options, end: float) -> None:
        from minicaffe.testing.gpu import parts, runner

        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        names = {part.name for part in chosen}
        if names & set(parts.BESIDE_WARM_UP) and names & {"layers", "training"}:
            seconds, part = end - time.monotonic(), parts.WARM_UP
            work = (part, options, seconds, part.patience, self._stop)
            self._thread = threading.Thread(target=runner.run, args=work, daemon=True)
            self._thread.start()

    def __enter__(self) -> _WarmUp:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it; what it has compiled is kept."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
