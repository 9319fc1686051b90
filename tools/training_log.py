"""``minicaffe parse_log``, ``plot_log`` and ``extract_seconds``: what the log of a training tells."""

from __future__ import annotations

import logging
import os

import click

from minicaffe.tools import console
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Path

_log = logging.getLogger(__name__)

_CHARTS = """
  0: Test accuracy  vs. Iters
  1: Test accuracy  vs. Seconds
  2: Test loss  vs. Iters
  3: Test loss  vs. Seconds
  4: Train learning rate  vs. Iters
  5: Train learning rate  vs. Seconds
  6: Train loss  vs. Iters
  7: Train loss  vs. Seconds
"""


@click.command(
    cls=Command, examples=["minicaffe parse_log train.log logs", "minicaffe parse_log train.log . --delimiter ';'"]
)
@click.argument("log", metavar="LOG", type=Path())
@click.argument("folder", metavar="DIR", type=Path("dir"))
@click.option("--delimiter", default=",", show_default=True, metavar="C", help="What stands between two columns.")
def parse(log: str, folder: str, delimiter: str) -> None:
    """Write what a training logged as tables.

    DIR gets LOG.train and LOG.test, CSV with the columns NumIters, Seconds, LearningRate and the nets' outputs; a net
    that showed none gets no file.  As in Caffe's script, LearningRate is the last one logged before the row, which is
    the one of the row before.
    """
    from minicaffe.training_log import parse, write_table

    if len(delimiter) != 1:
        raise click.UsageError(f"--delimiter takes one character; found '{delimiter}'")
    found = parse(log)
    os.makedirs(folder, exist_ok=True)
    for name, rows in (("train", found.train), ("test", found.test)):
        path = os.path.join(folder, f"{os.path.basename(log)}.{name}")
        if rows:
            write_table(path, rows, delimiter)
            console.result(f"Wrote {path}: {len(rows)} rows")
        else:
            console.result(f"Not writing {path}; no lines to write")


@click.command(
    cls=Command,
    examples=["minicaffe plot_log 6 loss.png train.log", "minicaffe plot_log 0 accuracy.png first.log second.log"],
    epilog="\b\nCharts:" + _CHARTS,
)
@click.argument("chart", metavar="CHART", type=click.IntRange(0, 7))
@click.argument("output", metavar="OUT.png", type=Path())
@click.argument("logs", metavar="LOG...", nargs=-1, required=True, type=Path())
def plot(chart: int, output: str, logs: tuple[str, ...]) -> None:
    """Plot what trainings logged.

    CHART is the number of one of Caffe's eight charts, below; each LOG is one line in it.  Test accuracy and test loss
    are the first outputs with acc and loss in their names.
    """
    from minicaffe import plot
    from minicaffe.errors import DataError
    from minicaffe.training_log import CHARTS, parse, points

    if not output.lower().endswith(".png"):
        raise click.UsageError(f"the picture's name must end in .png; found '{output}'")
    series: dict[str, list[tuple[float, float]]] = {}
    for log in logs:
        name = os.path.basename(log).removesuffix(".log")
        series[log if name in series else name] = points(parse(log), chart)
    for name in [name for name, found in series.items() if not found]:
        _log.warning("%s holds nothing to draw for '%s'", name, CHARTS[chart])
        del series[name]
    if not series:
        raise DataError(
            f"no log holds anything to draw for '{CHARTS[chart]}'; the other charts: minicaffe help plot_log"
        )
    what, _, axis = CHARTS[chart].partition("  vs. ")
    plot.curves(series, output, CHARTS[chart], (axis, what), "lower right" if "accuracy" in what else "upper right")
    console.result(f"{output}: {CHARTS[chart]}, {len(series)} of {len(logs)} logs")


@click.command(cls=Command, examples=["minicaffe extract_seconds train.log seconds.txt"])
@click.argument("log", metavar="LOG", type=Path())
@click.argument("output", metavar="OUT", type=Path())
def seconds(log: str, output: str) -> None:
    """Write when each iteration was logged.

    OUT gets the seconds since the start of the training, for each line of LOG that names an iteration.
    """
    from minicaffe.proto.atomic import write_atomic
    from minicaffe.training_log import elapsed

    found = elapsed(log)
    write_atomic(output, "".join(f"{value:f}\n" for value in found).encode())
    console.result(f"{output}: {len(found)} lines")
