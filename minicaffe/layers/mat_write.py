"""MatWrite: blobs to files of MATLAB, as DeepLab's scripts read them."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence

from minicaffe import compat, limits
from minicaffe.blob import Blob
from minicaffe.data.image_source import read_names
from minicaffe.errors import DataError, ShapeError, SnapshotError
from minicaffe.layers.base import Count, Layer
from minicaffe.proto.atomic import write_atomic

_MARK = b"MATLAB"
"""What a file of MATLAB begins with."""


class MatWrite(Layer):
    """Write each bottom to a file of MATLAB, version 5, as the array ``data`` (DeepLab; needs SciPy).

    Bottoms: any number, of at most 4 axes, (N, C, H, W), missing ones being 1.  The array is of the same memory in
    MATLAB's order, W x H x C x N, single or double.  Bottom i of forward n, counted from 0, goes to
    ``<prefix><name>_blob_<i>.mat``: the name is ``iter_<n>``, or with ``source`` the first word of line n of that
    list, less its last ``strip`` characters.  Only every ``period``-th forward writes.  A file takes the place of one
    of MATLAB's, never that of any other; folders must exist.
    """

    type = "MatWrite"
    param = "mat_write_param"
    bottoms: Count = (1, None)
    tops: Count = 0
    per_element = 0
    differentiable = ()
    reads_bottoms = reads_tops = ()
    fixed = ("source", "strip")
    prefix: str
    source: str
    strip: int
    period: int

    def check_options(self) -> None:
        self.require(self.period > 0, f"must be positive; found {self.period}", "period")
        self.require(self.strip >= 0, f"must not be negative; found {self.strip}", "strip")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.passes = 0
        self.names: list[str] | None = None
        if self.has("source"):
            try:
                names = read_names(self.find_file(self.source))
            except DataError as error:
                raise self.data_error(error, "source") from None
            for name in names:
                self.require(len(name) > self.strip, f"leaves nothing of {name!r}, which source lists", "strip")
            self.names = [name[: len(name) - self.strip] for name in names]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob in bottom:
            self.require(
                len(blob.shape) <= 4, f"takes blobs of at most 4 axes; found {blob.shape_string}", kind=ShapeError
            )

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        number, self.passes = self.passes, self.passes + 1
        if number % self.period:
            return
        if self.names is not None and number >= len(self.names):
            raise self.data_error(f"lists {len(self.names)} names, and this is pass {number + 1}", "source")
        name = f"iter_{number}" if self.names is None else self.names[number]
        for i, blob in enumerate(bottom):
            self._write(f"{self.prefix}{name}_blob_{i}.mat", blob)

    def _write(self, path: str, blob: Blob) -> None:
        values = blob.peek_data()
        limits.require_memory(3 * values.nbytes, f"writing {path}")
        content = io.BytesIO()
        arrays = {"data": values.reshape(values.shape + (1,) * (4 - values.ndim)).T}
        compat.require("scipy.io").savemat(content, arrays)
        try:
            self._check_replaceable(path)
            write_atomic(path, content.getbuffer())
        except SnapshotError as error:
            raise self.data_error(error, "prefix") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise self.data_error(f"cannot write {path}: {reason}", "prefix") from None

    def _check_replaceable(self, path: str) -> None:
        """ValueError, which says why, where something would be lost that is no file of MATLAB; OSError."""
        try:
            kind = os.stat(path).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISREG(kind):
            raise ValueError("it is no regular file; give another prefix")
        with open(path, "rb") as file:
            if file.read(len(_MARK)) not in (_MARK, b""):
                raise ValueError("it exists and is no file of MATLAB; give another prefix, or remove it")
