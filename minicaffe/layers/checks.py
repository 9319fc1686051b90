"""What a layer refuses, and the errors that say which layer it is and where it stands."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from minicaffe import backend, proto
from minicaffe.blob import Blob
from minicaffe.errors import DataError, LayerError, OutOfMemoryError, ShapeError
from minicaffe.layers.blob_vec import BlobVec
from minicaffe.limits import NOT_ENOUGH
from minicaffe.proto import forks
from minicaffe.proto.origin import Origin

_log = logging.getLogger(__name__)


@functools.cache
def _warn(text: str) -> None:
    """Log a warning, the first time."""
    _log.warning(text)


class Checked:
    """Base of Layer: checks of its options and of the blobs that it is given."""

    param: ClassVar[str | None] = None
    """The LayerParameter field with this layer's options; its fields become attributes of the layer, but for those that
    have the name of an attribute that all layers have (``type``, ``random``): these stay in ``layer_param``."""
    common_params: ClassVar[Sequence[str]] = ()
    """Further such fields, of several types of layers in common: ``loss_param``, ``transform_param``."""
    obeys: ClassVar[Collection[str]] = ()
    """Of the fields that forks added to Caffe's own messages, those that this layer obeys.  It refuses others, but for
    those without effect."""
    dialects: ClassVar[Sequence[str]] = ()
    """Where forks mean different things by the same fields: the forks that ``fork`` may name, the first of which counts
    if it names none."""
    ambiguity: ClassVar[str] = ""
    """What the others do, for those who name none; empty where they are told anyway, by an error."""
    layer_param: proto.LayerParameter
    definition: Origin
    name: str
    type: str
    phase: int
    blobs: BlobVec
    _options: Mapping[str, tuple[str, Any]]

    def find_file(self, path: str) -> str:
        """``path`` as seen from the working folder or from the folder of the net's definition."""
        return self.definition.resolve(path)

    def error(
        self, problem: str, field: str | None = None, kind: Callable[[str], LayerError] = LayerError
    ) -> LayerError:
        """An exception that says which layer, where it stands, and which field is at fault."""
        place = self.definition.where(self.name, self.phase, field)
        prefix, _ = self._options.get(field or "", ("", None))
        named = f", {prefix}{field}" if field else ""
        return kind(f"{place + ': ' if place else ''}layer '{self.name}' ({self.type}){named}: {problem}")

    def check_fork_fields(self) -> None:
        """Refuse fields of forks that would change the results and that this layer does not know."""
        for param in (self.param, *self.common_params):
            if param is None or not self.layer_param.HasField(param):
                continue
            for field, value in getattr(self.layer_param, param).ListFields():
                if forks.changes_results(field, value) and field.name not in self.obeys:
                    raise self.error(
                        f"{param}.{field.name} asks for something that only a fork of Caffe{forks.origin(field.name)}"
                        f" has, and {self.type} of minicaffe has not; without it the results differ",
                        field.name,
                    )

    def check_dialect(self) -> None:
        """Refuse a ``fork`` without a dialect of this type; where none is named, and nothing else tells, say once what
        the layer is taken for."""
        fork, choices = self.layer_param.fork, " or ".join(f'"{name}"' for name in self.dialects)
        self.require(
            not fork or fork in self.dialects,
            f"must be {choices}; found {fork!r}"
            if choices
            else "is not needed: this type has one meaning; leave it out",
            "fork",
        )
        if self.ambiguity and not fork and self.is_ambiguous():
            _warn(
                f"{self.type} is taken for {self.dialects[0]}'s; {self.ambiguity}: say fork: {choices} in such layers"
            )

    def is_ambiguous(self) -> bool:
        """Whether the definition leaves open whose dialect the layer is of."""
        return True

    @contextlib.contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """A block in which blobs' errors come to name this layer: shapes that none has, memory that is not there."""
        try:
            yield
        except ShapeError as error:
            if f"layer '{self.name}'" in str(error):
                raise
            raise self.error(str(error), kind=ShapeError) from None
        except MemoryError as error:
            raise self.memory_error(error) from None

    def memory_error(self, error: MemoryError) -> OutOfMemoryError:
        """``error``, of any origin, naming this layer."""
        problem = str(error).removeprefix(NOT_ENOUGH)
        if isinstance(error, OutOfMemoryError) and f"layer '{self.name}'" in problem:
            return error
        own = isinstance(error, OutOfMemoryError)  # that says itself what to do
        remedy = "" if own else f"; check the shapes{backend.current().memory_use()}"
        return OutOfMemoryError(f"{NOT_ENOUGH}{self.error(problem + remedy)}")

    def data_error(self, problem: object, field: str | None = None) -> DataError:
        """A DataError that says which layer and where it stands, for data and files that are not as they should be."""
        return DataError(str(self.error(str(problem), field)), missing=getattr(problem, "missing", None))

    def require(
        self, condition: bool, problem: str, field: str | None = None, kind: Callable[[str], LayerError] = LayerError
    ) -> None:
        """Raise ``error(problem, field)`` unless the condition holds."""
        if not condition:
            raise self.error(problem, field, kind)

    def require_sizes(self, *shapes: Sequence[int]) -> None:
        """Raise a ShapeError unless the sizes in these values of the field ``shape`` can be those of a blob."""
        for sizes in shapes:
            self.require(min(sizes, default=0) >= 0, f"must not be negative; found {list(sizes)}", "shape", ShapeError)

    def require_blobs(self, *shapes: tuple[int, ...]) -> None:
        """In ``reshape``: raise a ShapeError unless the layer's first blobs have these shapes.  Those that came with a
        definition may have others, and attributes that were set later may ask for others.
        """
        found = [blob.shape for blob in self.blobs[: len(shapes)]]
        self.require(
            bool(self.layer_param.blobs) or found != list(shapes)[:-1] or "bias_term" not in self._options,
            f"asks for a bias of shape {shapes[-1]}, and the layer has no blob for it: it was made without; make a net "
            "of a definition with one",
            "bias_term",
            ShapeError,
        )
        self.require(
            found == list(shapes), f"the blobs must have shapes {list(shapes)}; found {found}", "blobs", ShapeError
        )

    def require_whole(self, values: NDArray, what: str) -> None:
        """Raise a LayerError unless all of these values, on the host, are whole numbers."""
        wrong = values[~(np.isfinite(values) & (values == np.floor(values)))]
        if wrong.size:
            raise self.error(f"{what} must be whole numbers; found {wrong[0]:.9g}")

    def require_same_shape(self, *blobs: Blob) -> None:
        """Raise a ShapeError unless all blobs have one shape."""
        if any(blob.shape != blobs[0].shape for blob in blobs):
            found = ", ".join(blob.shape_string for blob in blobs)
            raise self.error(f"bottoms must have the same shape; found {found}", kind=ShapeError)

    def check_indices(
        self, values: Any, limit: int | None, bad: Any, ignored: int | None = None, hint: str = ""
    ) -> None:
        """Report a value that is no integer in 0 .. limit - 1, or without a ``limit`` no integer: at once on the host,
        at the next synchronisation on a device.

        ``bad`` is a ``flag``; values equal to ``ignored`` may lie outside.
        """
        backend.current().ops.check_labels(values, limit, ignored, bad)
        expected = "an integer" if limit is None else f"an integer in 0 .. {limit - 1}"
        exception = "" if ignored is None else f" (or {ignored}, which is ignored)"

        def refused(place: int) -> LayerError:
            value = values.reshape(-1)[place].item()
            good = value == ignored or (value.is_integer() and (limit is None or 0 <= value < limit))
            found = "" if good else f"; found {value:.9g}"  # good: on a device, the next batch may be there by now
            return self.error(f"value number {place} of the batch is not {expected}{exception}{hint}{found}")

        backend.current().check_later(bad, refused)

    def axis_of(self, blob: Blob, axis: int, field: str = "axis") -> int:
        """``axis`` counted from the front of ``blob``; an error naming ``field`` if it is out of range."""
        try:
            return blob.axis(axis)
        except ShapeError as error:
            raise self.error(str(error), field, ShapeError) from None

    def about(self, blob: Blob, axis: int, what: str) -> tuple[int, int, int]:
        """The sizes (outer, n, inner) before, at and after an axis, along which there must be at least one ``what``."""
        self.require(
            blob.shape[axis] > 0, f"needs at least one {what} along it; found {blob.shape_string}", "axis", ShapeError
        )
        return blob.span(0, axis), blob.shape[axis], blob.span(axis + 1)
