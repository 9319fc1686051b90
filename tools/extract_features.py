"""``minicaffe extract_features``: what blobs of a trained net hold, as databases."""

from __future__ import annotations

import contextlib
import logging

import click

from minicaffe.tools import console, options
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Definition, Path

_log = logging.getLogger(__name__)

_PROGRESS_EVERY = 100  # batches


@click.command(
    cls=Command,
    examples=[
        "minicaffe extract_features lenet.caffemodel net.prototxt ip1,ip2 ip1_lmdb,ip2_lmdb 10 lmdb",
    ],
)
@click.argument("weights", metavar="WEIGHTS", type=Path())
@click.argument("model", metavar="NET", type=Definition())
@click.argument("blobs", metavar="BLOB[,BLOB...]")
@click.argument("databases", metavar="DB[,DB...]", type=Path("dir"))
@click.argument("batches", metavar="BATCHES", type=click.IntRange(min=1))
@click.argument("backend", metavar="lmdb|leveldb", type=click.Choice(["lmdb", "leveldb"], case_sensitive=False))
@click.argument("mode", metavar="[CPU|GPU]", type=click.Choice(["CPU", "GPU"]), default="CPU")
@click.argument("device", metavar="[DEVICE_ID]", type=click.IntRange(min=0), default=0)
@click.option("--overwrite", is_flag=True, help="Replace databases that exist.")
@options.deploy
@options.no_python_layers
def command(
    weights: str, model: str, blobs: str, databases: str, batches: int, backend: str, mode: str, device: int,
    overwrite: bool, deploy: bool,
) -> None:  # fmt: skip
    """Write what blobs of a net hold for its data.

    Runs NET's TEST phase with WEIGHTS over so many BATCHES and writes a database for each BLOB: a record for each
    image, a Datum of floats.  A net with no data layer would give the same numbers again and again.
    """
    from minicaffe import TEST, models
    from minicaffe.features import write_features
    from minicaffe.net import Net

    names, paths = options.split(blobs), options.split(databases)
    if len(names) != len(paths):
        raise click.UsageError(f"{len(names)} blobs ({blobs}) but {len(paths)} databases ({databases}); name as many")
    for what, given in (("blob", names), ("database", paths)):
        if len(set(given)) != len(given):
            raise click.UsageError(f"a {what} is named twice: {', '.join(given)}")
    options.choose_device(str(device) if mode == "GPU" else "")
    with contextlib.closing(
        Net(models.find(model), TEST, weights=weights, deploy=deploy, keep=names if deploy else ())
    ) as net:
        _log.info("Extracting Features")
        counts = write_features(net, dict(zip(names, paths, strict=True)), batches, backend, overwrite, _tell)
    for name, path in zip(names, paths, strict=True):
        console.result(f"Extracted features of {counts[name]} query images for feature blob {name}: {path}")


def _tell(batch: int) -> None:
    if batch % _PROGRESS_EVERY == 0:
        _log.info("%d batches", batch)
