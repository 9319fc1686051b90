"""The mean image of a database, as Caffe's ``compute_image_mean`` makes it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np

from minicaffe import proto
from minicaffe.data.datum import parse, to_array
from minicaffe.data.db import backend_of, open_db
from minicaffe.errors import DataError
from minicaffe.proto.files import write_binary


def read_images(database: str | os.PathLike[str], backend: str | None = None) -> Iterator[np.ndarray]:
    """The images of a database, decoded, (channels, height, width) each; at least one, all of one size.

    ``backend`` is "lmdb" or "leveldb", and by default what is there.

    DataError if there is no image, if a record is no image, or if they differ in size.
    """
    path = os.path.abspath(database)
    shape = None
    with open_db(database, backend or backend_of(database) or "lmdb") as records:
        more = records.seek_to_first()
        if not more:
            raise DataError(f"database {path}: empty, not one record; build it again")
        while more:
            key, value = records.item()
            try:
                image = to_array(parse(value))
                shape = shape or image.shape
                if image.shape != shape:
                    raise DataError(
                        f"an image of shape {image.shape}, the first one is {shape}; resize them to one size"
                    )
            except DataError as error:
                raise DataError(f"database {path}, record {key.decode(errors='replace')!r}: {error}") from error
            yield image
            more = records.next()


def mean_image(images: Iterable[np.ndarray]) -> tuple[np.ndarray, int]:
    """The mean of images of one shape, float32, summed up in float64; and how many there are.

    DataError if there is none.
    """
    total, count = np.zeros(()), 0
    for image in images:
        total, count = total + image, count + 1
    if count == 0:
        raise DataError("there is not one image to take the mean of")
    return (total / count).astype(np.float32), count


def write_mean(path: str | os.PathLike[str], mean: np.ndarray) -> None:
    """Write a mean image (channels, height, width) as a BlobProto, whole or not at all, for
    ``transform_param.mean_file``; SnapshotError if that fails.
    """
    channels, height, width = mean.shape
    data = mean.ravel().tolist()
    write_binary(path, proto.BlobProto(num=1, channels=channels, height=height, width=width, data=data))
