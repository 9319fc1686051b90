"""Classifier and Detector: what their nets are fed, and what becomes of the answers."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import minicaffe as caffe
from minicaffe.errors import ArgumentError, MinicaffeError

NET = """
name: "scores" force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: %d dim: %d } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
SETTINGS = {"mean": np.array([10.0, 20.0, 30.0]), "raw_scale": 255, "channel_swap": (2, 1, 0), "input_scale": 0.02}


@pytest.fixture
def files(tmp_path):
    """Definition and weights of a small net."""

    def make(height, width):
        (tmp_path / "deploy.prototxt").write_text(NET % (height, width))
        caffe.Net(tmp_path / "deploy.prototxt", caffe.TEST).save(tmp_path / "net.caffemodel")
        return str(tmp_path / "deploy.prototxt"), str(tmp_path / "net.caffemodel")

    return make


def scores(net, crops):
    """What the net says of crops (height, width, red-green-blue), in plain NumPy."""
    x = (np.stack(crops)[..., ::-1] * 255.0 - SETTINGS["mean"]) * SETTINGS["input_scale"]
    x = x.transpose(0, 3, 1, 2).reshape(len(crops), -1) @ net.params["fc"][0].data.T + net.params["fc"][1].data
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def images(*shapes):
    return [np.random.RandomState(i).rand(*shape, 3).astype(np.float32) for i, shape in enumerate(shapes)]


def test_a_classifier_takes_the_crop_in_the_middle(files):
    net = caffe.Classifier(*files(4, 5), image_dims=(7, 8), **SETTINGS)
    assert isinstance(net, caffe.Net) and net.phase == caffe.TEST
    inputs = images((7, 8), (14, 3), (5, 20))  # the first one needs no resizing
    found = net.predict(inputs, oversample=False)
    crops = [caffe.io.resize_image(image, (7, 8))[1:5, 1:6] for image in inputs]
    np.testing.assert_allclose(found, scores(net, crops), atol=1e-5)
    np.testing.assert_allclose(crops[0], inputs[0][1:5, 1:6], atol=1e-6)


def test_a_classifier_averages_ten_crops(files):
    net = caffe.Classifier(*files(4, 5), image_dims=np.array([7, 8]), **SETTINGS)
    image = images((7, 8))[0]
    places = [(y, x) for y in (0, 3) for x in (0, 3)] + [(1, 1)]
    crops = [image[y : y + 4, x : x + 5] for y, x in places]
    crops += [crop[:, ::-1] for crop in crops]
    found = net.predict([image, image[:, ::-1]])
    assert found.shape == (2, 5)
    np.testing.assert_allclose(found[0], scores(net, crops).mean(0), atol=1e-5)


def test_without_settings_a_classifier_takes_images_as_they_are(files):
    net = caffe.Classifier(*files(4, 4))
    net.params["fc"][0].data[...] = 0
    net.params["fc"][0].data[0, 0] = 1  # the red of the first pixel
    image = images((4, 4))[0]
    net.predict([image], oversample=False)
    np.testing.assert_allclose(net.blobs["fc"].data[0, 0], image[0, 0, 0], rtol=1e-6)


def test_a_classifier_says_what_it_has_no_use_for(files, tmp_path):
    model, weights = files(4, 4)
    net = caffe.Classifier(model, weights)
    with pytest.raises(ArgumentError, match=r"list of images .*; found a list of \(4, 3\)"):
        net.predict(images((4, 4))[0])
    with pytest.raises(ArgumentError, match="found none"):
        net.predict([])
    with pytest.raises(ArgumentError, match=r"at least the net's input, \(4, 4\); found \(3, 9\)"):
        caffe.Classifier(model, weights, image_dims=(3, 9))
    (tmp_path / "flat.prototxt").write_text('input: "data" input_shape { dim: 1 dim: 3 }')
    with pytest.raises(ArgumentError, match=r"found input data of shape \(1, 3\)"):
        caffe.Classifier(tmp_path / "flat.prototxt", None)


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Two image files, and what is in them."""
    found = {}
    for name, shape in (("a.png", (10, 12, 3)), ("b.png", (20, 9, 3))):
        pixels = np.random.RandomState(len(found)).randint(0, 256, shape, np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        found[str(tmp_path / name)] = pixels.astype(np.float32) / 255
    return found


def test_windows_are_warped_and_classified(files, pictures):
    net = caffe.Detector(*files(4, 6), **SETTINGS)
    (a, image_a), (b, image_b) = pictures.items()
    windows = [(a, [np.array([1, 2, 5, 8]), [0, 0, 10, 12]]), (b, [(3.0, 1.0, 19.0, 8.0)] * 4)]
    found = net.detect_windows(iter(windows))
    assert [entry["filename"] for entry in found] == [a, a, b, b, b, b]
    np.testing.assert_array_equal(found[0]["window"], [1, 2, 5, 8])
    crops = [image_a[1:5, 2:8], image_a, *[image_b[3:19, 1:8]] * 4]
    expected = scores(net, [caffe.io.resize_image(crop, (4, 6)) for crop in crops])
    np.testing.assert_allclose([entry["prediction"] for entry in found], expected, atol=1e-5)
    np.testing.assert_array_equal(net.crop(image_a, windows[0][1][0]), image_a[1:5, 2:8])
    assert net.detect_windows([]) == []


def test_context_beyond_the_image_is_the_mean(files, pictures):
    net = caffe.Detector(*files(8, 8), context_pad=2, **SETTINGS)
    image = next(iter(pictures.values()))
    # the window's half size is 2, its centre (2, 2), and 8 / (8 - 4) times that makes the box -2 .. 6, of 9 pixels,
    # of which 2 lie beyond: 2 * 8 / 9 of the 8 pixels, and the 7 others make 7 * 8 / 9
    crop = net.crop(image, (0, 0, 3, 3))
    np.testing.assert_allclose(crop[2:, 2:], image[:6, :6], atol=1e-6)
    mean = np.array([30, 20, 10]) / 255
    np.testing.assert_allclose(crop[:2], np.broadcast_to(mean, (2, 8, 3)), atol=1e-6)
    np.testing.assert_allclose(crop[:, :2], np.broadcast_to(mean, (8, 2, 3)), atol=1e-6)
    # at the lower right corner nothing is left out before it: box 5 .. 13 of 10 rows, 7 .. 15 of 12 columns
    crop = net.crop(image, (7, 9, 10, 12))
    np.testing.assert_allclose(crop[:5, :5], caffe.io.resize_image(image[5:10, 7:12], (5, 5)), atol=1e-6)
    np.testing.assert_allclose(crop[5:], np.broadcast_to(mean, (3, 8, 3)), atol=1e-6)
    assert net.detect_windows([(next(iter(pictures)), [(0, 0, 3, 3)])])[0]["prediction"].shape == (5,)


def test_a_mean_image_lies_beyond_too(files):
    mean = np.random.RandomState(0).rand(3, 8, 8)
    net = caffe.Detector(*files(8, 8), context_pad=1, mean=mean, channel_swap=(2, 1, 0))
    np.testing.assert_allclose(net.crop_mean, mean[::-1].transpose(1, 2, 0), rtol=1e-6)
    assert not caffe.Detector(*files(8, 8), context_pad=1).crop_mean.any()


def test_a_detector_says_what_it_has_no_use_for(files, pictures):
    model, weights = files(8, 8)
    net = caffe.Detector(model, weights)
    (name, image), _ = pictures.items()
    with pytest.raises(ArgumentError, match=r"window \(3, 4, 3, 8\).*holds nothing of an image of 10 x 12"):
        net.crop(image, (3, 4, 3, 8))
    with pytest.raises(ArgumentError, match=r"\(ymin, xmin, ymax, xmax\); found 3"):
        net.crop(image, 3)
    net.configure_crop(2)
    with pytest.raises(ArgumentError, match="holds nothing"):
        net.detect_windows([(name, [(100, 100, 104, 104)])])
    with pytest.raises(ArgumentError, match="context_pad 4 needs a square input wider than twice that; found 8 x 8"):
        net.configure_crop(4)
    with pytest.raises(ArgumentError, match="found 4 x 6"):
        caffe.Detector(*files(4, 6), context_pad=1)
    with pytest.raises(MinicaffeError, match=r"selective search.*call detect_windows"):
        net.detect_selective_search([name])
