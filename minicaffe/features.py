"""Features of a net's inputs as databases, as Caffe's ``extract_features`` writes them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping

import numpy as np

from minicaffe import arguments
from minicaffe.data.datum import from_array
from minicaffe.data.db import open_db
from minicaffe.errors import NetError
from minicaffe.net import Net


def write_features(
    net: Net,
    databases: Mapping[str, str | os.PathLike[str]],
    batches: int,
    backend: str = "lmdb",
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, int]:
    """Run a net so many ``batches`` forward and write what blobs then hold; the number of records, by blob.

    ``databases`` says where each blob's values go.  A record is a Datum of floats for each item of the blob's first
    axis, the other axes being channels, height and width; keys are the items' numbers in ten digits.  ``progress`` is
    called after each batch.  All databases appear when all are complete.

    Raises NetError for an unknown blob, or one of more than four axes; DataError as ``open_db`` does.
    """
    arguments.instance(net, Net, "write_features")
    for name in databases:
        if name not in net.blobs:
            raise NetError(
                f"Unknown feature blob name {name} in the network '{net.name}'; it has: {', '.join(net.blobs)}"
            )
        if len(net.blobs[name].shape) > 4:
            raise NetError(
                f"blob {name} is of shape {net.blobs[name].shape}; a record holds channels, height and width: "
                "at most four axes can be written"
            )
    counts = dict.fromkeys(databases, 0)
    with contextlib.ExitStack() as stack:
        writers = {
            name: stack.enter_context(open_db(path, backend, "replace" if overwrite else "new"))
            for name, path in databases.items()
        }
        for batch in range(batches):
            net.run_forward()
            for name, writer in writers.items():
                for item in _items(np.asarray(net.blobs[name].peek_data(), np.float32)):
                    writer.put(b"%010d" % counts[name], from_array(item).SerializeToString())
                    counts[name] += 1
            progress(batch + 1)
    return counts


def _items(values: np.ndarray) -> np.ndarray:
    """``values`` (N, ...) as (N, channels, height, width)."""
    return values.reshape(values.shape + (1,) * (4 - values.ndim)) if values.ndim else values.reshape(1, 1, 1, 1)
