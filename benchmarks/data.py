"""Bringing data in: a database read once in batches, as the Data layer does, and the transformer alone on a batch.

minicaffe reads and transforms in one thread beside the net's; PyTorch's expression of the same transform uses all
threads.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import peers
from benchmarks.harness import Case, Work
from minicaffe import proto
from minicaffe.backend.random import Stream
from minicaffe.data.datum_source import DatumSource
from minicaffe.data.db import open_db
from minicaffe.data.transform import Transformer
from minicaffe.data.write import write_images
from minicaffe.proto import text

BATCH, RECORDS = 64, 2048
SCALE = "scale: 0.00390625"


def _images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def _database(backend: str) -> Work:
    """Digits of 28 x 28 bytes, scaled."""
    work = Work({})
    folder = f"{work.resources.enter_context(tempfile.TemporaryDirectory())}/db"
    write_images(folder, _images(RECORDS, 28, 28), np.arange(RECORDS) % 10, backend)
    return _reading(work, folder, backend, SCALE, 28 * 28)


def _encoded() -> Work:
    """JPEGs of 64 x 64 pixels, cropped to 56 x 56 and mirrored at random."""
    work = Work({})
    folder = f"{work.resources.enter_context(tempfile.TemporaryDirectory())}/db"
    smooth = np.repeat(np.repeat(_images(RECORDS, 8, 8, 3), 8, axis=1), 8, axis=2)
    with open_db(folder, "lmdb", "new") as database:
        for n, pixels in enumerate(smooth):
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, "JPEG")
            datum = proto.Datum(data=content.getvalue(), encoded=True, label=0)
            database.put(b"%08d" % n, datum.SerializeToString())
    return _reading(work, folder, "lmdb", "crop_size: 56 mirror: true", 3 * 56 * 56)


def _reading(work: Work, folder: str, backend: str, transform: str, values: int) -> Work:
    options = proto.DataParameter(
        source=folder, batch_size=BATCH, backend=proto.DataParameter.DB.Value(backend.upper())
    )
    source = DatumSource(options, text.parse(transform, proto.TransformationParameter()), proto.TRAIN, Stream(1))
    work.resources.callback(source.close)

    def read_all() -> None:
        for _ in range(RECORDS // BATCH):
            source.next_batch()

    work.run["minicaffe"] = read_all
    work.moved = 5 * RECORDS * values  # a byte read, a float written
    return work


def _transform(shape: tuple[int, int, int], crop: int, mean: bool) -> Work:
    """A batch of bytes, cropped in the middle, less a mean value a channel, scaled."""
    values = [100.0 + c for c in range(shape[0])] if mean else []
    options = text.parse(
        f"{SCALE} crop_size: {crop} " + " ".join(f"mean_value: {v}" for v in values), proto.TransformationParameter()
    )
    transformer = Transformer(options, proto.TEST, Stream(1))
    batch, out = _images(BATCH, *shape), np.empty((BATCH, *transformer.output_shape(shape)), np.float32)
    work = Work({"minicaffe": lambda: transformer(batch, out)}, moved=5 * out.size)
    torch = peers.torch()
    if torch:
        theirs = _torch_transform(torch, batch, out.shape, values)

        def verify() -> None:
            transformer(batch, out)
            peers.agree(out, theirs(), "batch")

        work.run["torch"], work.verify = theirs, verify
    return work


def _torch_transform(torch: Any, batch: np.ndarray, shape: tuple[int, ...], values: list[float]) -> Any:
    images = torch.from_numpy(batch)
    top, left = ((have - want) // 2 for have, want in zip(batch.shape[2:], shape[2:]))
    mean = torch.tensor(values or [0.0]).view(-1, 1, 1)
    window = (slice(None), slice(None), slice(top, top + shape[2]), slice(left, left + shape[3]))
    return lambda: images[window].float().sub_(mean).mul_(0.00390625)


def cases(threads: int) -> Iterator[Case]:
    """Reading takes ``RECORDS`` images in batches, ``transform`` one batch."""
    yield Case("data", "lmdb_28x28", partial(_database, "lmdb"))
    yield Case("data", "leveldb_28x28", partial(_database, "leveldb"))
    yield Case("data", "lmdb_jpeg_64x64", _encoded)
    yield Case("data", "transform_28x28", partial(_transform, (1, 28, 28), 0, False))
    yield Case("data", "transform_256x256_crop227", partial(_transform, (3, 256, 256), 227, True))
