"""Bringing data in: a database read once in batches, as the Data layer does, and the transformer alone on a batch.

minicaffe reads in a thread beside the net's, decodes on all threads and transforms in the net's, where PyTorch's
expression of the same transform uses all threads.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import peers
from benchmarks.harness import Case, Work
from minicaffe import proto
from minicaffe.backend.random import Stream
from minicaffe.backend.threads import get_num_threads
from minicaffe.data.datum_source import DatumSource
from minicaffe.data.db import open_db
from minicaffe.data.transform import Transformer
from minicaffe.data.write import write_images
from minicaffe.proto import text

BATCH, RECORDS = 64, 2048
_DIFFERENT = 64  # image files; a database holds each many times
SCALE = "scale: 0.00390625"


def _images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def _database(backend: str) -> Work:
    """Digits of 28 x 28 bytes, scaled."""
    work = Work({})
    folder = f"{work.resources.enter_context(tempfile.TemporaryDirectory())}/db"
    write_images(folder, _images(RECORDS, 28, 28), np.arange(RECORDS) % 10, backend)
    return _reading(work, folder, backend, SCALE, 28 * 28)


def _encoded(size: int, crop: int) -> Work:
    """JPEGs of ``size`` x ``size`` pixels, cropped and mirrored at random, less a mean; Pillow only decodes them."""
    work = Work({})
    folder = f"{work.resources.enter_context(tempfile.TemporaryDirectory())}/db"
    files = [_jpeg(size, seed) for seed in range(_DIFFERENT)] * (RECORDS // _DIFFERENT)
    with open_db(folder, "lmdb", "new") as database:
        for n, content in enumerate(files):
            datum = proto.Datum(data=content, encoded=True, label=0)
            database.put(b"%08d" % n, datum.SerializeToString())
    transform = f"crop_size: {crop} mirror: true mean_value: 104 mean_value: 117 mean_value: 123"
    _reading(work, folder, "lmdb", transform, 3 * crop * crop)
    pool = work.resources.enter_context(ThreadPoolExecutor(get_num_threads()))
    work.run["pillow"] = lambda: [*pool.map(_decode, files)]
    return work


def _jpeg(size: int, seed: int) -> bytes:
    """An image file as convert_imageset makes them, of quality 95: blurred colours with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(256, size=(size // 16, size // 16, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) + rng.normal(0, 8, (size, size, 3))
    content = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=95)
    return content.getvalue()


def _decode(content: bytes) -> None:
    with Image.open(io.BytesIO(content)) as image:
        image.load()


def _reading(work: Work, folder: str, backend: str, transform: str, values: int) -> Work:
    """All records once, by a source of its own each time: one that lives on reads ahead while others are measured."""
    options = proto.DataParameter(
        source=folder, batch_size=BATCH, backend=proto.DataParameter.DB.Value(backend.upper()), prefetch=1
    )
    transform_param = text.parse(transform, proto.TransformationParameter())
    out = np.empty((BATCH, values), np.float32)

    def read_all() -> None:
        source = DatumSource(options, transform_param, proto.TRAIN, Stream(1))
        for _ in range(RECORDS // BATCH):
            source.next_batch().write_to(out.reshape(BATCH, *source.shape))
        source.close()

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
    yield Case("data", "lmdb_jpeg_64x64_crop56", partial(_encoded, 64, 56))
    yield Case("data", "lmdb_jpeg_256x256_crop227", partial(_encoded, 256, 227))
    yield Case("data", "transform_28x28", partial(_transform, (1, 28, 28), 0, False))
    yield Case("data", "transform_256x256_crop227", partial(_transform, (3, 256, 256), 227, True))
