"""Segmentation: models/segmentation, ``data masks`` and ``segment``; masks and regions that count as constants."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_case import run
from PIL import Image

from minicaffe import graph, io, models, proto, testing
from minicaffe.data.scenes import labelled_scenes, scenes
from minicaffe.errors import ArgumentError, PrototxtError
from minicaffe.mask_drawing import draw_labels
from minicaffe.net import Net
from minicaffe.proto import text
from minicaffe.proto.files import read_net, read_solver
from minicaffe.segmenter import Segmenter
from minicaffe.solvers import create


def refused(capsys, *words: str) -> str:
    """What a command that fails says."""
    outcome = run(capsys, *words)
    assert outcome.status != 0
    return outcome.err


def net_of(definition: str, phase: int = proto.TRAIN) -> Net:
    return Net(text.parse(definition, proto.NetParameter()), phase)


# --- the data -----------------------------------------------------------------------------------------------------------


def test_labels_lie_under_the_ink_of_their_boxes():
    for (image, boxes), (same, labels) in zip(
        scenes("test", 10, seed=4), labelled_scenes("test", 10, seed=4), strict=True
    ):
        np.testing.assert_array_equal(image, same)
        inside = np.zeros(labels.shape, bool)
        for box in boxes:
            left, top, right, bottom = (round(96 * side) for side in box[1:5])
            part, ink = labels[top:bottom, left:right], image[0, top:bottom, left:right]
            inside[top:bottom, left:right] = True
            assert set(np.unique(part)) <= {0, box.label}
            assert (part == box.label).any(axis=0).sum() > 0.8 * (right - left)
            assert ink[part > 0].mean() > ink[part == 0].mean() + 30
        assert not labels[~inside].any()


def test_data_masks_writes_lists_and_images(tmp_path, in_folder, capsys):
    in_folder(tmp_path)
    run(capsys, "data", "masks", "--count", "20", "--output", "made")
    lines = (tmp_path / "made/test.txt").read_text().splitlines()
    assert lines == ["test/00000.png test_labels/00000.png", "test/00001.png test_labels/00001.png"]
    for line, (image, labels) in zip(lines, labelled_scenes("test", 2, seed=1), strict=True):
        for file, expected in zip(line.split(), (image[0], labels), strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "made" / file)), expected)
    assert "made/train.txt exists; give --overwrite" in refused(
        capsys, "data", "masks", "--count", "20", "--output", "made"
    )
    run(capsys, "data", "masks", "--count", "10", "--output", "made", "--overwrite")
    assert len((tmp_path / "made/train.txt").read_text().splitlines()) == 10


# --- the model ----------------------------------------------------------------------------------------------------------


def test_the_fcn_learns(tmp_path, in_folder, capsys):
    """A few steps: the loss falls, gradients reach the first layer, and the test net measures."""
    in_folder(tmp_path)
    run(capsys, "data", "masks", "--count", "40")
    solver = read_solver(models.find("segmentation/solver.prototxt"))
    solver.ClearField("net")
    solver.net_param.CopyFrom(read_net(models.find("segmentation/train_val.prototxt"))[0])
    for layer in solver.net_param.layer[:2]:
        layer.dense_image_data_param.batch_size = 4
    solver.random_seed, solver.display, solver.test_iter[0] = 1, 0, 1
    with create(solver) as made:
        made.step(1)
        first = float(made.net.blobs["loss"].data)
        before = made.net.params["conv1"][0].data.copy()
        made.step(10)
        assert float(made.net.blobs["loss"].data) < 0.7 * first
        assert np.abs(made.net.params["conv1"][0].data - before).max() > 0
        test = made.test_nets[0]
        test.forward()
        assert test.blobs["accuracy_of_class"].shape == (11,)
        assert test.blobs["segmentation"].data[0, 0, 0, 0] == pytest.approx(float(test.blobs["accuracy"].data))


def test_the_nets_to_train_and_to_use_have_the_same_params():
    shapes = {"data": (2, 1, 96, 96), "label": (2, 1, 96, 96)}
    definition = graph.with_inputs(read_net(models.find("segmentation/train_val.prototxt"))[0], shapes)
    nets = Net(models.find("segmentation/deploy.prototxt"), proto.TEST), Net(definition, proto.TRAIN)
    used, trained = ({name: [b.shape for b in blobs] for name, blobs in net.params.items()} for net in nets)
    assert used == trained
    assert nets[0].blobs["prob"].shape == (1, 11, 96, 96)
    nets[0].blobs["image"].reshape(1, 1, 75, 101)
    nets[0].reshape()
    assert nets[0].blobs["prob"].shape == (1, 11, 75, 101)


# --- segment ------------------------------------------------------------------------------------------------------------

HALVES = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 8 dim: 6 } } }
layer { name: "score" type: "Convolution" bottom: "data" top: "score" convolution_param { num_output: 3 kernel_size: 1 } }
"""
"""Class 2 where an image is bright, class 0 where it is dark, else class 1."""


@pytest.fixture
def halves(tmp_path, in_folder):
    """A net that labels by brightness, and an image, its top row dark, its bottom row bright."""
    in_folder(tmp_path)
    (tmp_path / "net.prototxt").write_text('name: "halves"' + HALVES)
    net = Net("net.prototxt", proto.TEST)
    net.params["score"][0].data[...] = np.array([-1, 0, 1]).reshape(3, 1, 1, 1)
    net.params["score"][1].data[...] = [60, 0, -200]
    net.save("net.caffemodel")
    gray = np.full((16, 12), 128, np.uint8)
    gray[:4], gray[-4:] = 10, 250
    Image.fromarray(gray).save("image.png")
    (tmp_path / "labels.prototxt").write_text('item { name: "a" label: 1 display_name: "grey one" }')
    return np.select([gray < 60, gray > 200], [0, 2], 1)


HOW = ("--model_def", "net.prototxt", "--pretrained_model", "net.caffemodel", "--label_map_file", "labels.prototxt")


def test_segment_writes_labels_a_table_and_a_picture(halves, tmp_path, capsys):
    shown = run(capsys, "segment", "image.png", "found.png", "--draw", "drawn.png", "--keep_size", *HOW).out
    assert shown.splitlines() == [
        "filename,label,name,pixels,share",
        "image.png,0,,48,0.2500",
        "image.png,1,grey one,96,0.5000",
        "image.png,2,,48,0.2500",
    ]
    np.testing.assert_array_equal(np.asarray(Image.open("found.png")), halves)
    with Image.open("drawn.png") as picture:
        large = np.asarray(picture)
    assert large.shape[0] > 480 and large.shape[1:] == (360, 3)  # with a legend
    colors = large[480 // 16 // 2 : 480 : 480 // 16, 180]
    assert (colors[0] == 10).all() and len({tuple(color) for color in colors}) == 3


def test_segment_scores_labels_by_true_ones(halves, tmp_path, capsys):
    true = halves.copy()
    true[0], true[1], true[15, :6] = 1, 255, 4
    Image.fromarray(true.astype(np.uint8)).save("true.png")
    shown = run(capsys, "segment", "image.png", "--keep_size", "--truth", "true.png", *HOW).out
    assert shown.splitlines() == [
        "label,name,pixels,recall,iu",
        f"0,,24,1.0000,{24 / 36:.4f}",
        f"1,grey one,108,{96 / 108:.4f},{96 / 108:.4f}",
        f"2,,42,1.0000,{42 / 48:.4f}",
        "4,,6,0.0000,0.0000",
        f"mean,,180,{(1 + 96 / 108 + 1) / 4:.4f},{(24 / 36 + 96 / 108 + 42 / 48) / 4:.4f}",
    ]
    (tmp_path / "truth").mkdir()
    Image.fromarray(true[:3].astype(np.uint8)).save("truth/image.png")
    assert "(3, 12) pixels" in refused(capsys, "segment", "image.png", "--truth", "truth", *HOW)


def test_segment_takes_a_folder_and_warps_images_to_the_net(halves, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        shutil.copy("image.png", f"images/{name}.png")
    run(capsys, "segment", "images", "found", *HOW)
    for name in ("a", "b"):
        labels = np.asarray(Image.open(f"found/{name}.png"))
        assert labels.shape == halves.shape
        assert (labels != halves).mean() < 0.2  # borders move by a pixel
        np.testing.assert_array_equal(labels[[1, 8, 14]], halves[[1, 8, 14]])


@pytest.mark.parametrize(
    ("end", "dark_only"),
    [
        ('layer { name: "l" type: "ArgMax" bottom: "score" top: "found" argmax_param { axis: 1 } }', False),
        (
            'layer { name: "s" type: "Slice" bottom: "score" top: "first" top: "rest" slice_param { slice_point: 1 } } '
            'layer { name: "p" type: "Sigmoid" bottom: "first" top: "found" }',
            True,
        ),
    ],
    ids=["labels", "probabilities"],
)
def test_the_nets_map_may_have_one_channel(halves, end, dark_only):
    Path("other.prototxt").write_text(HALVES + end)
    made = Segmenter("other.prototxt", "net.caffemodel", raw_scale=255, output="found", keep_size=True)
    found = made.segment(io.load_image("image.png", False))
    np.testing.assert_array_equal(found, halves == 0 if dark_only else halves)


def test_what_segment_cannot_do_is_said(halves, tmp_path, capsys):
    with pytest.raises(ArgumentError, match="has no blob 'gone' that is a map; it has: data, score"):
        Segmenter("net.prototxt", "net.caffemodel", output="gone")
    Path("flat.prototxt").write_text(HALVES + 'layer { name: "f" type: "Flatten" bottom: "score" top: "f" }')
    with pytest.raises(ArgumentError, match="gives no map"):
        Segmenter("flat.prototxt", "net.caffemodel")
    assert "OUTPUT is a .png file" in refused(capsys, "segment", "image.png", "found.jpg", *HOW)
    assert "drawn.odd: the picture cannot be" in refused(capsys, "segment", "image.png", "--draw", "drawn.odd", *HOW)
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refused(capsys, "segment", "empty", *HOW)


def test_a_picture_without_labels_has_no_legend():
    picture = draw_labels(np.full((48, 96, 3), 0.5), np.zeros((48, 96), int), {})
    assert picture.size == (480, 240) and picture.getcolors() == [(480 * 240, (128, 128, 128))]


# --- what counts as constant --------------------------------------------------------------------------------------------

ENCODER = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 6 dim: 8 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }
"""
UNPOOLING = """
layer { name: "p" type: "Pooling" bottom: "c" top: "p" top: "mask" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "u" type: "Upsample" bottom: "p" bottom: "mask" top: "u" upsample_param { scale: 2 } }
"""
REGIONS = """
layer { name: "r" type: "Reduction" bottom: "c" top: "r" reduction_param { axis: 3 } }
layer { name: "s" type: "Slice" bottom: "r" top: "s1" top: "s2" slice_param { axis: 2 slice_point: 5 } }
layer { name: "f" type: "Reshape" bottom: "s1" top: "regions" reshape_param { shape { dim: 4 dim: 5 } } }
layer { name: "z" type: "Power" bottom: "regions" top: "zero" power_param { scale: 0 } }
layer { name: "u" type: "ROIPooling" bottom: "c" bottom: "zero" top: "u" roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 1 } }
layer { name: "silence" type: "Silence" bottom: "s2" }
"""
LOSS = 'layer { name: "l" type: "Reduction" bottom: "u" top: "l" loss_weight: 1 }'


@pytest.mark.parametrize(("part", "index"), [(UNPOOLING, 1), (REGIONS, 1)], ids=["masks", "regions"])
@pytest.mark.parametrize("forced", [False, True])
def test_no_gradient_flows_into_masks_and_regions(part, index, forced):
    """They follow from what is learned; nets of SegNet and Faster R-CNN train all the same."""
    net = net_of(f"force_backward: {str(forced).lower()} " + ENCODER + part + LOSS)
    net.blobs["x"].data[...] = np.random.default_rng(0).standard_normal(net.blobs["x"].shape)
    net.forward()
    net.backward()
    assert np.abs(net.params["c"][0].diff).sum() > 0
    step = net.steps[net.layer_index("u")]
    assert step.propagate_down == [True, False]


def test_a_definition_that_asks_for_their_gradient_is_refused():
    with pytest.raises(Exception, match=re.escape("cannot backpropagate to bottom 1 ('mask')")):
        net = net_of(
            ENCODER + UNPOOLING.replace('top: "u"', 'top: "u" propagate_down: true propagate_down: true') + LOSS
        )
        net.forward()
        net.backward()


# --- edges --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", [1, 1.1])
def test_edges_and_other_pixels_weigh_the_same(balance):
    """As HED and RCF count: the edges of an image by the share of its other pixels, and the other way round."""
    rng = np.random.default_rng(0)
    x, target = 3 * rng.standard_normal((3, 1, 5, 7)), rng.choice([0, 0, 0, 1, 0.4], (3, 1, 5, 7))
    target[1] = 0  # an image without edges
    found = testing.run("SigmoidCrossEntropyLoss", [x, target], loss_param={"class_balance": balance})
    loss, gradient = 0.0, np.zeros_like(x)
    for n in range(3):
        edges, others = (target[n] == 1).sum(), (target[n] == 0).sum()
        for place in np.ndindex(x.shape[1:]):
            p, t = 1 / (1 + np.exp(-x[n][place])), target[n][place]
            weight = {1: others, 0: balance * edges}.get(t, 0) / (edges + others)
            loss -= weight * np.log(p if t == 1 else 1 - p) / 3
            gradient[n][place] = weight * (p - t) / 3
    assert found.loss == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(found.bottom_diffs[0], gradient, atol=1e-6)


def test_a_net_of_hed_is_told_of_its_loss(tmp_path, in_folder, caplog):
    in_folder(tmp_path)
    for name in ("image", "edges"):
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(f"{name}.png")
    Path("list.txt").write_text("image.png edges.png\n")
    for loss_param, count in (("", 1), ("loss_param { class_balance: 1 }", 0)):
        caplog.clear()
        net_of(
            'layer { name: "d" type: "ImageLabelmapData" top: "x" top: "t" image_data_param { source: "list.txt" is_color: '
            'false } } layer { name: "fuse" type: "SigmoidCrossEntropyLoss" bottom: "x" bottom: "t" top: "l" '
            + loss_param
            + "}"
        ).close()
        assert caplog.text.count("SigmoidCrossEntropyLoss (fuse) of edges is Caffe's") == count


DEEPLAB = """
layers { name: "data" type: DUMMY_DATA top: "x" top: "label" dummy_data_param {
    shape { dim: 1 dim: 3 dim: 9 dim: 9 } shape { dim: 1 dim: 1 dim: 9 dim: 9 } data_filler { type: "gaussian" } data_filler { value: 255 } } }
layers { name: "weak" type: UNIQUE_LABEL bottom: "label" top: "weak" unique_label_param { max_labels: 3 ignore_label: 255 } }
layers { name: "c" type: CONVOLUTION bottom: "x" top: "c" strict_dim: false convolution_param { num_output: 4 kernel_size: 3 pad: 2 hole: 2 } }
layers { name: "b" type: BIAS_CHANNEL bottom: "c" bottom: "weak" top: "b" bias_channel_param { bg_bias: 1 } }
layers { name: "loss" type: SOFTMAX_LOSS bottom: "b" bottom: "label" top: "loss" softmaxloss_param { FIELDS } }
"""


def test_old_nets_of_deeplab():
    net = net_of(DEEPLAB.replace("FIELDS", "ignore_label: 255"))
    net.forward()
    assert net.layer_dict["loss"].ignored == 255 and float(net.blobs["loss"].data) == 0
    assert net.blobs["c"].shape == (1, 4, 9, 9)
    for fields, name in (
        ('weight_source: "w.txt"', "weight_source"),
        ("ignore_label: 0 ignore_label: 255", "ignore_label"),
    ):
        with pytest.raises(PrototxtError, match=f"layer 'loss': softmaxloss_param.{name}: .*class_weighting"):
            net_of(DEEPLAB.replace("FIELDS", fields))
