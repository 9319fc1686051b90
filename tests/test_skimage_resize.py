"""Images in another size: against SciPy, and by hand where SciPy rounds a corner out of the image."""

from __future__ import annotations

import numpy as np
import pytest

from minicaffe import skimage_resize

SIZES = [(1, 1, 5, 3), (7, 9, 7, 9), (30, 28, 17, 39), (40, 4, 3, 1), (2, 33, 11, 6), (16, 16, 32, 32), (37, 5, 4, 40)]


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("size", SIZES)
def test_resize_is_that_of_scipy(size: tuple[int, int, int, int], order: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    height, width, new_height, new_width = size
    image = np.random.default_rng(1).random((height, width, 3))
    zoom = (new_height / height, new_width / width, 1)
    smooth = ndimage.gaussian_filter(image, [max(0, (1 / z - 1) / 2) for z in zoom], mode="constant")
    expected = ndimage.zoom(smooth, zoom, order=order, mode="grid-constant", grid_mode=True)
    np.testing.assert_allclose(skimage_resize.resize(image, new_height, new_width, order), expected, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_resize_corners_is_that_of_scipy(size: tuple[int, int, int, int]) -> None:
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    height, width, new_height, new_width = size
    image = np.random.default_rng(2).random((height, width, 5))
    expected = ndimage.zoom(image, (new_height / height, new_width / width, 1), order=1, mode="nearest")
    np.testing.assert_allclose(skimage_resize.resize_corners(image, new_height, new_width, 1), expected, atol=1e-12)


def test_resize_corners_keeps_the_corners() -> None:
    image = np.random.default_rng(3).random((26, 23, 2))
    small = skimage_resize.resize_corners(
        image, 12, 18, 1
    )  # SciPy gives 0 along one edge: it rounds 25 to a little more
    np.testing.assert_allclose(small[[0, 0, -1, -1], [0, -1, 0, -1]], image[[0, 0, -1, -1], [0, -1, 0, -1]])


def test_splines_are_those_of_scipy() -> None:
    ndimage = pytest.importorskip("scipy.ndimage", reason="compares with SciPy")
    image = np.random.default_rng(4).random((9, 9, 3))
    expected = ndimage.zoom(image, (18 / 9, 12 / 9, 1), order=3, mode="grid-constant", grid_mode=True)
    np.testing.assert_array_equal(skimage_resize.resize(image, 18, 12, 3), expected)
