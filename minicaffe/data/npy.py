"""NumPy's own files, also damaged ones and those of strangers: no Python objects are made of them."""

from __future__ import annotations

import os
import zipfile

import numpy as np
from numpy.typing import NDArray

from minicaffe import limits
from minicaffe.errors import DataError, MinicaffeError


def read_npy(path: str | os.PathLike[str]) -> NDArray:
    """The array in a .npy file.

    Raises DataError: a file that cannot be read, is cut short, or holds Python objects; OutOfMemoryError for more than
    fits into memory.
    """
    name = os.fspath(path)
    try:
        limits.read_head(path)  # no pipe, no device
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # tells a header that claims more than there is
        if not isinstance(mapped, np.ndarray):
            raise ValueError("it is no .npy file")
        limits.require_memory(mapped.nbytes, f"the array in {name}", "take a part of it")
        return np.array(mapped)
    except MinicaffeError:
        raise
    except Exception as error:  # the header is an expression of Python: what is wrong with it can be anything
        raise DataError(f"{name} is no whole .npy file of numbers: {_reason(error)}") from None


def read_npz(path: str | os.PathLike[str]) -> dict[str, NDArray]:
    """The arrays in a .npz file, by name; errors as in ``read_npy``."""
    name = os.fspath(path)
    try:
        limits.read_head(path)
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        limits.require_memory(size, f"the content of {name}", "take a part of it")
        with np.load(path, allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in arrays.files}
        for key, array in found.items():
            if not isinstance(array, np.ndarray):
                hint = "; it is PyTorch's: save its tensors as .npz or .safetensors" if key.endswith("data.pkl") else ""
                raise ValueError(f"'{key}' in it is no array{hint}")
        return found
    except MinicaffeError:
        raise
    except Exception as error:  # as above; and archives may ask for what zipfile cannot do
        raise DataError(f"{name} is no whole .npz file of arrays: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
