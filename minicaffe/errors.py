"""Every exception minicaffe raises on purpose.

A message says where (file:line, layer, field), what was found, what was expected and what to do.
"""

from __future__ import annotations

import os


class MinicaffeError(RuntimeError):
    """Base of all errors that a user's input can cause; the command line prints it without a traceback.

    ``missing`` is the path of a database, a mean image or a folder for snapshots that is not there; None for all other
    errors.
    """

    def __init__(self, *args: object, missing: str | os.PathLike[str] | None = None) -> None:
        super().__init__(*args)
        self.missing = None if missing is None else os.path.abspath(missing)


class PrototxtError(MinicaffeError):
    """A prototxt that does not parse, or a solver or net definition that contradicts itself."""


class NetError(MinicaffeError):
    """A net whose layers do not fit together: unknown bottom, duplicate top, bad parameter sharing."""


class LayerError(NetError):
    """A layer's parameter or input breaks one of the layer's own rules."""


class ShapeError(LayerError):
    """A blob's shape is not what a layer needs."""


class AnomalyError(LayerError):
    """A layer made a number that is not finite, while ``detect_anomaly`` looks for the first one that does."""


class WeightsError(MinicaffeError):
    """A weights file that cannot be read, or that belongs to another net."""


class DataError(MinicaffeError):
    """A database, image, list or data set that is missing, truncated or malformed."""


class SnapshotError(MinicaffeError):
    """A solver state that cannot be written or resumed."""


class ArgumentError(MinicaffeError, ValueError):
    """A function was called with a value that it has no use for."""


class ArgumentTypeError(MinicaffeError, TypeError):
    """A function was called with something of another type than it takes."""


class UnknownNameError(MinicaffeError, KeyError, AttributeError):
    """Something was asked for by a name that nothing has."""

    __str__ = RuntimeError.__str__  # a KeyError shows its message in quotes


class DeviceError(MinicaffeError):
    """A GPU was asked for and cannot be used."""


class OutOfMemoryError(MinicaffeError, MemoryError):
    """A file or definition asks for more memory than there is."""


class MissingExtraError(MinicaffeError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""
