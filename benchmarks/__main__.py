"""``python -m benchmarks``: run families of cases, print their tables, keep, compare and draw the figures."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import click

from benchmarks import deploy_report, harness, isa, machine, report
from minicaffe.errors import MinicaffeError
from minicaffe.kernels import fast_paths

FAMILIES = ("kernels", "layers", "solvers", "data", "files", "nets", "process")
LONG = ("deploy", "deploy_layers")
"""Families that take half an hour or more, and so run only where they are named."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("families", nargs=-1, type=click.Choice(FAMILIES + LONG))
@click.option("--only", metavar="PATTERN", help="Cases whose family/name contains PATTERN; * and ? are wildcards.")
@click.option(
    "--threads",
    type=click.IntRange(1, machine.cores()),
    default=machine.cores(),
    show_default=True,
    help="Threads of every contestant.",
)
@click.option(
    "--isa",
    "isa_name",
    type=click.Choice(list(isa.LIMITS)),
    help="Hold all contestants to these instructions; those that cannot be held are left out.",
)
@click.option("--repeat", type=click.IntRange(1), default=15, show_default=True, help="Samples of each contestant.")
@click.option(
    "--without",
    multiple=True,
    type=click.Choice(list(fast_paths.FAST_PATHS)),
    help="Leave out a fast path of minicaffe's; several times for several.",
)
@click.option("--quick", is_flag=True, help="Three short samples: to see that everything runs.")
@click.option(
    "--json",
    "json_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the results; into a folder under the machine's name.",
)
@click.option(
    "--compare",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Set the figures beside those of an earlier FILE.",
)
@click.option(
    "--plot",
    "plot_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Draw the ratios to PyTorch (.png, .svg, .pdf).",
)
@click.option("--markdown", is_flag=True, help="Print the tables as Markdown.")
def main(
    families: tuple[str, ...],
    only: str | None,
    threads: int,
    isa_name: str | None,
    repeat: int,
    without: tuple[str, ...],
    quick: bool,
    json_path: Path | None,
    compare: Path | None,
    plot_path: Path | None,
    markdown: bool,
) -> None:
    """Time minicaffe beside PyTorch and Caffe, where they are installed, with equal threads.

    FAMILIES are those to run (default: all but deploy and deploy_layers: nets run forward beside ONNX Runtime,
    OpenVINO, OpenCV and PyTorch, and their layers one by one).  Times are medians of samples taken in turn, with the
    least and the most, or, of single calls, their 99th percentile; "floor" is the time of the matrix products alone at
    the rate of a large one (the faster of minicaffe's and PyTorch's or NumPy's), or that of a copy of the same bytes,
    measured in turn with the others.
    """
    if isa_name:
        isa.hold_to(isa_name, sys.argv[1:])
    repeat, seconds = (3, 0.002) if quick else (repeat, 0.05)
    load = os.getloadavg()[0]
    machine.set_threads(threads)
    described, rates = machine.describe(threads), machine.Rates(threads)
    results: list[harness.Result] = []
    failures: list[str] = []
    os.environ["MINICAFFE_WITHOUT"] = ",".join(without)  # for the children
    with fast_paths.without(*without):
        for family in families or FAMILIES:
            for case in harness.select(importlib.import_module(f"benchmarks.{family}").cases(threads), only):
                click.echo(f"{case.title} ...", err=True)
                try:
                    result = harness.measure(case, repeat, seconds, rates)
                except Exception as error:  # one broken case must not lose the others' figures
                    failures.append(f"{case.title}: {type(error).__name__}: {error}")
                else:
                    results += [result] if result.spreads else []
    made = report.tables(results) + deploy_report.tables(results)
    if compare:
        before, where = report.load(compare)
        made.append(report.comparison(results, before))
        if where != described:
            click.echo(f"note: {compare} was measured on {where}", err=True)
    for table in made:
        if markdown:
            click.echo(report.markdown(table))
        else:
            report.show(table)
    click.echo(_conditions(described, rates, load))
    if json_path:
        settings = {"repeat": repeat, "seconds": seconds, "load_before": round(load, 2), "without": list(without)}
        click.echo(
            f"written: {report.save(json_path, report.document(results, described, rates.figures(), settings))}",
            err=True,
        )
    if plot_path:
        report.plot(results, plot_path)
    for failure in failures:
        click.echo(f"failed: {failure}", err=True)
    sys.exit(bool(failures))


def _conditions(described: dict, rates: machine.Rates, load: float) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in described["packages"].items() if version)
    busy = f"; other programs were running (load {load:.1f} before the start)" if load > 0.3 else ""
    return (
        f"{described['cpu']}, {described['isa']}, {described['threads']} of {described['cores']} cores (threading "
        f"layer {described['threading_layer']}), Python {described['python']}, {versions}; SGEMM ({rates.library}'s) "
        f"up to {rates.sgemm / 1e9:.0f} GFLOP/s{busy}"
    )


if __name__ == "__main__":
    try:
        main()
    except MinicaffeError as error:
        sys.exit(f"error: {error}")
