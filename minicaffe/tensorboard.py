"""A training for TensorBoard: scalars, histograms of params and gradients, the first filters, features."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minicaffe import arguments, compat
from minicaffe.errors import SnapshotError
from minicaffe.proto.atomic import write_atomic
from minicaffe.solvers.history import SMOOTHED_LOSS
from minicaffe.solvers.monitor import Monitor, Scalar, distinct_names

if TYPE_CHECKING:
    from minicaffe.net import Net
    from minicaffe.solvers import Solver

_log = logging.getLogger(__name__)

_BINS = 64
_MOST_FILTERS = 256
_LEAST_DIMENSIONS = 3  # the projector shows nothing of two
_FLUSH = 1.0  # seconds; each flush waits for the disk
_PROJECTOR = """\
embeddings {
  tensor_name: "features"
  tensor_path: "features.tsv"
  metadata_path: "labels.tsv"
}
"""


class TensorBoard(Monitor):
    """Writes what a solver does into a folder that ``tensorboard --logdir`` shows.

    - scalars, as displayed and tested: ``train/…``, ``test/…`` (``test1/…`` for the second test net) and ``lr``;
    - histograms, every ``test_interval`` iterations (``display``, if nothing is tested): ``params/LAYER/INDEX`` before
      the update, and ``gradients/LAYER/INDEX`` of the loss, without weight decay and clipping;
    - with them, the filters of the first layer that has weights and sees images, as ``filters/LAYER``.

    A training that is resumed goes on where its snapshot was taken; what came after no longer shows.  Of several
    solvers that train together, the one of rank 0 writes.

    Raises MissingExtraError without tensorboardX, SnapshotError in ``begin`` if nothing can be written there; later
    that is a warning.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = arguments.path(folder, "a folder of events")
        self._summary = compat.require("tensorboardX.summary")
        self._events: Any = None

    def begin(self, solver: Solver) -> None:
        self.close()
        self._solver, self._flushed = solver, 0.0
        self._every = solver.param.test_interval or solver.param.display
        proto, files = (compat.require(f"tensorboardX.{name}") for name in ("proto.event_pb2", "event_file_writer"))
        self._event = proto.Event
        if solver.rank:
            return
        try:
            os.makedirs(self.folder, exist_ok=True)
            self._events = files.EventsWriter(os.path.join(self.folder, "events"), f".{time.time_ns()}")
        except OSError as error:
            raise SnapshotError(f"cannot write to {self.folder} for TensorBoard: {error.strerror}") from None
        if solver.restored_from is not None:  # of earlier events, those from here on are forgotten
            self._write(solver.iter, session_log=proto.SessionLog(status=proto.SessionLog.START))

    def display(self, iteration: int, loss: float, outputs: list[Scalar], rate: float) -> None:
        self._write(iteration, summary=self._summary.scalar("lr", float(rate)))
        self._scalars("train", [Scalar(SMOOTHED_LOSS, loss), *outputs], iteration)

    def test(self, iteration: int, net: int, outputs: list[Scalar], loss: float | None) -> None:
        self._scalars(f"test{net or ''}", outputs, iteration)

    def _scalars(self, group: str, outputs: list[Scalar], iteration: int) -> None:
        for name, output in zip(distinct_names(outputs), outputs, strict=True):
            self._write(iteration, summary=self._summary.scalar(f"{group}/{name}", output.value))

    def gradients(self, solver: Solver) -> None:
        if self._events is None or not self._every or solver.iter % self._every:
            return
        net, passes = solver.net, solver.param.iter_size
        for param in net.learnable:
            layer, index = param.users[0]
            name = f"{net.steps[layer].layer.name}/{index}"
            self._histogram(f"params/{name}", param.blob.peek_data(), solver.iter)
            self._histogram(f"gradients/{name}", param.blob.peek_diff() / passes, solver.iter)
        for layer_name, filters in _first_filters(net):
            picture = self._summary.image(f"filters/{layer_name}", filters, dataformats="HWC")
            self._write(solver.iter, summary=picture)

    def _histogram(self, tag: str, values: NDArray, iteration: int) -> None:
        finite = values[np.isfinite(values)].astype(np.float64)
        if not finite.size:
            return
        counts, limits = np.histogram(finite, _BINS)
        low, high, total, squares = finite.min(), finite.max(), finite.sum(), (finite**2).sum()
        histogram = self._summary.histogram_raw(
            tag, low, high, finite.size, total, squares, limits[1:].tolist(), counts.tolist()
        )
        self._write(iteration, summary=histogram)

    def _write(self, iteration: int, **what: Any) -> None:
        """Add an event; it is on the disk a second later at the latest, if others follow."""
        if self._events is None:
            return
        now = time.time()
        event = self._event(wall_time=now, step=iteration, **what)
        self._try(lambda: self._events.write_event(event))
        if now - self._flushed >= _FLUSH:
            self._flushed = now
            self._flush()

    def stepped(self, solver: Solver) -> None:
        self._flush()

    def _flush(self) -> None:
        if self._events is not None:
            self._try(self._events.flush)

    def _try(self, writing: Callable[[], object]) -> None:
        """Write, or give up with a warning."""
        try:
            writing()
        except OSError as error:
            _log.warning("No more for TensorBoard: cannot write to %s: %s", self.folder, error.strerror)
            self._events = None

    def embedding(self, features: ArrayLike, labels: ArrayLike) -> None:
        """Show features (N, D), D >= 1, as points with labels (N,), in place of those that were there.

        SnapshotError if they cannot be written.
        """
        points = np.asarray(features, np.float32)
        lacking = max(_LEAST_DIMENSIONS - points.shape[1], 0)
        points = np.pad(points, ((0, 0), (0, lacking)))
        rows = "".join("\t".join(f"{value:.9g}" for value in row) + "\n" for row in points)
        write_atomic(os.path.join(self.folder, "features.tsv"), rows.encode())
        names = "".join(f"{label:g}\n" for label in np.asarray(labels))
        write_atomic(os.path.join(self.folder, "labels.tsv"), names.encode())
        write_atomic(os.path.join(self.folder, "projector_config.pbtxt"), _PROJECTOR.encode())

    def close(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            with contextlib.suppress(OSError):  # a full disk; there was a warning, or the last second is lost
                events.close()


def _first_filters(net: Net) -> Iterator[tuple[str, NDArray]]:
    """The name and the filters, as one image uint8 (H, W, 3), of the first layer with weights, if it sees images."""
    for step in net.steps:
        blobs = step.layer.blobs
        if not blobs or not blobs[0].count or not step.bottom:
            continue
        weights, seen = blobs[0].peek_data(), step.bottom[0].shape
        if weights.ndim == 2 and len(seen) == 4 and weights.shape[1] == math.prod(seen[1:]):
            weights = weights.reshape(-1, *seen[1:])
        if weights.ndim == 4 and min(weights.shape[2:]) > 1:
            yield step.layer.name, filter_image(weights)
        return


def filter_image(weights: NDArray) -> NDArray:
    """Filters (N, C, H, W) as tiles of one image uint8 (rows, columns, 3), all on one scale of grey.

    Three channels are taken for blue, green and red, as in Caffe; of any other number each is a tile of its own.  No
    more than 256 tiles are shown.
    """
    n, channels, height, width = weights.shape
    tiles = weights[:, ::-1] if channels == 3 else weights.reshape(n * channels, 1, height, width)
    tiles = np.nan_to_num(tiles[:_MOST_FILTERS].astype(np.float64), posinf=0, neginf=0)
    low, high = tiles.min(), tiles.max()
    scaled = (tiles - low) / (high - low) if high > low else np.zeros_like(tiles)
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    image = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1, 3))
    for k, tile in enumerate(scaled):
        top, left = k // columns * (height + 1) + 1, k % columns * (width + 1) + 1
        image[top : top + height, left : left + width] = tile.transpose(1, 2, 0)
    return np.rint(image * 255).astype(np.uint8)
