"""Layers that read and write HDF5 files: HDF5Data, HDF5Output."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minicaffe import compat, limits
from minicaffe.backend import random, ranks
from minicaffe.blob import Blob
from minicaffe.data import hdf5
from minicaffe.errors import DataError, MinicaffeError, ShapeError
from minicaffe.layers.base import Layer
from minicaffe.layers.input import Source

if TYPE_CHECKING:
    import h5py
else:
    h5py = compat.lazy("h5py")


class HDF5Data(Source):
    """Rows of the datasets named like the tops, from the HDF5 files that the text file ``source`` lists.

    Tops: (batch_size, *rest of the dataset's shape).  The files are read whole, one at a time, again and again; a batch
    may begin in one file and end in the next.  ``shuffle`` shuffles the files for each round, and the rows of each
    file.  Of several processes that train one model (``set_solver_count``) each takes every so many-th row.
    Caffe: a ``transform_param`` is an error; shuffles come from the C library there, here from a copy of the random
    stream.  File names are separated by white space, so they hold none; here a line may also be one file's name, if
    there is such a file.  The position is part of a snapshot here.
    """

    type = "HDF5Data"
    shares_records = True
    param = "hdf5_data_param"
    phase_is_fixed = True
    batch_size: int
    shuffle: bool
    source: str

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.require(
            not self.layer_param.HasField("transform_param"),
            "HDF5Data does not transform data; remove it",
            "transform_param",
        )
        self.require(self.batch_size > 0, f"must be positive; found {self.batch_size}", "batch_size")
        self.names = list(self.layer_param.top)
        self.files = self._listed_files()
        self.order = list(range(len(self.files)))
        self.rank, self.ranks = self.share()
        self.require(self.rank < self.ranks, f"solver rank {self.rank} must lie below the solver count {self.ranks}")
        self.shuffler = random.Stream(0) if self.shuffle else None
        if self.shuffler:
            state = ranks.agreed(random.stream().get_state(), self.ranks)  # draws nothing: fillers get Caffe's numbers
            self.shuffler.set_state(state)
            self.shuffler.shuffle(self.order)
        self.shapes: list[tuple[int, ...]] = []
        self.row = 0
        self._load(0)
        self._pass_ended_files()
        for blob, shape in zip(top, self.shapes, strict=True):
            blob.reshape(self.batch_size, *shape)

    def _listed_files(self) -> list[str]:
        path = self.find_file(self.source)
        if hdf5.is_hdf5(path):
            raise self.data_error(
                f"{path} is an HDF5 file itself; give a text file that lists such files, one on each line", "source"
            )
        try:
            lines = os.fsdecode(limits.read_file(path, times=8)).splitlines()
        except OSError as error:
            raise self.data_error(f"cannot read {path}: {error.strerror}", "source") from None
        files = [name for line in lines for name in self._files_of(line.strip())]
        if not files:
            raise self.data_error(f"{path} must list at least one HDF5 file; found none", "source")
        return files

    def _files_of(self, line: str) -> list[str]:
        """The files that a line names: one with spaces in its name, or some without."""
        return [line] if " " in line and os.path.exists(self.find_file(line)) else line.split()

    def _load(self, index: int) -> None:
        """Read file number ``index`` of this round."""
        self.index = index
        path = self.find_file(self.files[self.order[index]])
        try:
            self.values = [self._numbers(path, *named) for named in zip(self.names, hdf5.read(path, self.names))]
        except DataError as error:
            raise self.data_error(error) from None
        counts = [len(values) for values in self.values]
        if len(set(counts)) > 1 or counts[0] == 0:
            found = ", ".join(f"{name} {count}" for name, count in zip(self.names, counts, strict=True))
            raise self.data_error(
                f"HDF5 file {path}: all datasets must have the same number of rows, at least 1; found {found}"
            )
        shapes = [values.shape[1:] for values in self.values]
        if self.shapes and shapes != self.shapes:
            raise self.data_error(
                f"HDF5 file {path}: its rows have shapes {shapes}, those of the first file {self.shapes}"
            )
        self.shapes = shapes
        self._permute_rows()

    def _numbers(self, path: str, name: str, values: Any) -> NDArray:
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu" or values.ndim < 1:
            found = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else "a string"
            raise DataError(
                f"HDF5 file {path}, dataset '{name}': must hold numbers along at least 1 axis; found {found}"
            )
        return values.astype(self.dtype, copy=False)

    def _permute_rows(self) -> None:
        rows = np.arange(len(self.values[0]))
        if self.shuffler:
            self.before_shuffle = self.shuffler.get_state()
            self.shuffler.shuffle(rows)
        self.rows = rows

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        outputs = [blob.data for blob in top]
        filled = 0
        while filled < self.batch_size:
            chosen = self.rows[self.row + self.rank :: self.ranks][: self.batch_size - filled]
            for values, out in zip(self.values, outputs, strict=True):
                out[filled : filled + len(chosen)] = values[chosen]
            filled += len(chosen)
            self.row += len(chosen) * self.ranks
            self._pass_ended_files()

    def _pass_ended_files(self) -> None:
        """Go on to the file that holds this process's next row.

        ``row`` is the same for every process: where the group begins of which each takes one row.  It is negative where
        that was in the file before.
        """
        while self.row + self.rank >= len(self.rows):
            self.row -= len(self.rows)
            if len(self.files) == 1:
                self._permute_rows()
                continue
            following = (self.index + 1) % len(self.files)
            if following == 0 and self.shuffler:
                self.shuffler.shuffle(self.order)
            self._load(following)

    def state(self) -> dict[str, Any]:
        """Where reading stands, for a snapshot."""
        random_state = base64.b64encode(self.before_shuffle).decode() if self.shuffler else None
        return {"order": list(self.order), "file": self.index, "row": self.row, "random": random_state}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on reading from a ``state``; DataError if it was taken with other files or another ``shuffle``."""
        if sorted(state["order"]) != sorted(self.order) or (state["random"] is None) != (self.shuffler is None):
            raise self.data_error(
                "the snapshot was taken with another list of files or another shuffle; resume with the same net"
            )
        self.order = list(state["order"])
        if self.shuffler:
            self.shuffler.set_state(base64.b64decode(state["random"]))
        if not 0 <= state["file"] < len(self.files) or state["row"] <= -self.ranks:
            raise self.data_error("the snapshot names no place in the files; resume from another one")
        self._load(state["file"])
        if state["row"] >= len(self.rows):
            raise self.data_error(
                f"the snapshot stands at row {state['row']} of a file that has {len(self.rows)} rows now"
            )
        self.row = state["row"]
        self._pass_ended_files()


class HDF5Output(Layer):
    """Write two blobs to an HDF5 file, as its datasets ``data`` and ``label``.

    Bottoms: both (N, …), of at most 4 axes.  Each forward appends N rows to datasets of 4 axes, missing ones being 1;
    the file begins empty at the first.  It takes the place of an HDF5 file, never that of any other.
    Caffe: making the net empties the file, whatever it is; a second forward fails because the datasets exist, here the
    rows are added.
    """

    type = "HDF5Output"
    reads_bottoms = ()
    param = "hdf5_output_param"
    per_element = 0
    bottoms = 2
    tops = 0
    fixed = None
    file_name: str
    DATASETS = ("data", "label")
    OVERHEAD = 4 << 20  # bytes: a chunk begun in each dataset, at most 1 MiB each, and their indices

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.require(self.file_name != "", "give the file to write", "file_name")
        self.begun = False
        self._check_replaceable()

    def _check_replaceable(self) -> None:
        """DataError unless a file can be written there and nothing is lost but an HDF5 file.  Nothing is
        written yet.
        """
        path = self.file_name
        try:
            kind = os.stat(path).st_mode
        except FileNotFoundError:
            folder = os.path.dirname(os.path.abspath(path))
            problem = (
                f"the folder {folder} does not exist; create it" if not os.path.isdir(folder)
                else "" if os.access(folder, os.W_OK | os.X_OK) else f"the folder {folder} is not writable"
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise self.not_written(error) from None
        else:
            problem = (
                "it is no regular file; give the name of one" if not stat.S_ISREG(kind)
                else "permission denied" if not os.access(path, os.R_OK | os.W_OK)
                else "it exists and is no HDF5 file; give another name, or remove it"
                if os.path.getsize(path) and not hdf5.is_hdf5(path)
                else ""
            )  # fmt: skip
        if problem:
            raise self.not_written(problem)

    def not_written(self, error: Exception | str) -> DataError:
        """A DataError saying that the file cannot be written."""
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return self.data_error(f"cannot write HDF5 file {self.file_name}: {reason}", "file_name")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob in bottom:
            self.require(
                1 <= len(blob.shape) <= 4, f"takes blobs of 1 to 4 axes; found {blob.shape_string}", kind=ShapeError
            )
        if bottom[0].num != bottom[1].num:
            found = " and ".join(blob.shape_string for blob in bottom)
            raise self.error(f"both inputs must have the same first dimension; found {found}", kind=ShapeError)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        try:
            if not self.begun:
                self._check_replaceable()
                h5py.File(self.file_name, "w").close()
                self.begun = True
            hdf5.reserve(self.file_name, sum(blob.peek_data().nbytes for blob in bottom) + self.OVERHEAD)
            with h5py.File(self.file_name, "a") as file:
                for name, blob in zip(self.DATASETS, bottom, strict=True):
                    values = blob.peek_data()
                    self._append(file, name, values.reshape(values.shape + (1,) * (4 - values.ndim)))
        except (
            OSError,
            RuntimeError,
            KeyError,
        ) as error:  # as h5py raises for a file that is full, or damaged meanwhile
            if isinstance(error, MinicaffeError):
                raise
            raise self.not_written(error) from None

    def _append(self, file: Any, name: str, values: NDArray) -> None:
        if name not in file:
            file.create_dataset(name, data=values, maxshape=(None, *values.shape[1:]))
            return
        dataset = file[name]
        if dataset.shape[1:] != values.shape[1:]:
            raise self.error(
                f"rows of {name} had shape {dataset.shape[1:]} before, now {values.shape[1:]}", kind=ShapeError
            )
        before = len(dataset)
        dataset.resize(before + len(values), axis=0)
        dataset[before:] = values

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        pass
