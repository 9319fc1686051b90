"""The mean image of a database."""

from __future__ import annotations

import numpy as np
import pytest

from minicaffe.data.mean import mean_image, read_images, write_mean
from minicaffe.data.transform import read_mean
from minicaffe.data.write import write_images
from minicaffe.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 5), dtype=np.uint8)


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_the_mean_of_a_database_is_that_of_its_images(tmp_path, backend):
    write_images(tmp_path / "db", IMAGES, np.arange(7), backend)
    mean, count = mean_image(read_images(tmp_path / "db"))
    assert count == 7 and mean.dtype == np.float32
    np.testing.assert_allclose(mean, IMAGES.mean(axis=0), rtol=1e-6)
    write_mean(tmp_path / "mean.binaryproto", mean)
    np.testing.assert_array_equal(read_mean(str(tmp_path / "mean.binaryproto")), mean)


def test_images_are_summed_up_in_float64():
    ones = np.full((1, 1, 1), 1, np.float32)
    mean, _ = mean_image([ones * 2**25, *[ones] * 31])
    assert mean.item() == np.float32((2**25 + 31) / 32)


def test_there_must_be_an_image():
    with pytest.raises(DataError, match="not one image"):
        mean_image([])
