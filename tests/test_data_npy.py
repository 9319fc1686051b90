"""NumPy's files, and what damage does to them and to weights kept in them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from minicaffe import weight_files
from minicaffe.data.npy import read_npy, read_npz
from minicaffe.errors import DataError, MinicaffeError
from minicaffe.weight_files import Stored


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_arrays_are_read():
    array = np.arange(6.0).reshape(2, 3)
    np.save("x.npy", array)
    np.savez_compressed("x.npz", a=array, b=np.array([1], np.int8))
    np.testing.assert_array_equal(read_npy("x.npy"), array)
    found = read_npz("x.npz")
    assert set(found) == {"a", "b"} and found["b"].dtype == np.int8
    np.testing.assert_array_equal(found["a"], array)


@pytest.mark.parametrize("read, name", [(read_npy, "x.npy"), (read_npz, "x.npz")])
def test_objects_and_other_files_are_refused(read, name):
    (np.save if name == "x.npy" else np.savez)(name, np.array([{}], object))
    with pytest.raises(DataError, match=f"{name} is no whole"):
        read(name)
    Path(name).write_bytes(b"something else")
    with pytest.raises(DataError, match=f"{name} is no whole"):
        read(name)
    with pytest.raises(DataError, match="No such file"):
        read("none")


def test_a_header_that_claims_more_than_there_is():
    np.save("x.npy", np.zeros(10))
    data = Path("x.npy").read_bytes().replace(b"(10,), }   ", b"(10000000,)", 1)
    Path("x.npy").write_bytes(data.replace(b"(10000000,)", b"(9999999,)}"))
    with pytest.raises(DataError, match="no whole"):
        read_npy("x.npy")


def damaged(data: bytes, rng: random.Random) -> bytes:
    """``data`` with some bytes changed, left out or put in, or cut short."""
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(result)) if result else 0
        kind = rng.randrange(4)
        if kind == 0 and result:
            result[at] = rng.randrange(256)
        elif kind == 1:
            del result[at:]
        elif kind == 2:
            del result[at : at + rng.randrange(8)]
        else:
            result[at:at] = rng.randbytes(rng.randrange(8))
    return bytes(result)


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors", "x.npy"])
def test_damage_gives_arrays_or_an_error_that_names_the_file(name):
    stored = Stored({"a": [np.ones((3, 4), np.float32), np.ones(3, np.float32)], "b/c": [np.ones((2, 2), np.float32)]})
    if name == "x.npy":
        np.save(name, stored.layers["a"][0])
    else:
        weight_files.write(name, stored)
    data, rng, errors = Path(name).read_bytes(), random.Random(5), 0
    for _ in range(400):
        Path(name).write_bytes(damaged(data, rng))
        try:
            read_npy(name) if name == "x.npy" else weight_files.read(name)
        except MinicaffeError as error:
            errors += 1
            assert name in str(error)
    assert errors > 200
