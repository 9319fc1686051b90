"""Proposals of regions against py-faster-rcnn's recipe written out, and against OpenCV; whole two-stage nets."""

from __future__ import annotations

import numpy as np
import pytest

from minicaffe import proto, testing
from minicaffe.boxes.anchors import anchors_of_cell
from minicaffe.errors import DataError, LayerError
from minicaffe.net import Net

FROM_1 = [
    [-83, -39, 100, 56],
    [-175, -87, 192, 104],
    [-359, -183, 376, 200],
    [-55, -55, 72, 72],
    [-119, -119, 136, 136],
    [-247, -247, 264, 264],
    [-35, -79, 52, 96],
    [-79, -167, 96, 184],
    [-167, -343, 184, 360],
]
"""Of the authors' Matlab code, which counts pixels from 1."""
ANCHORS = np.array(FROM_1) - 1


def test_anchors_are_those_of_the_paper():
    np.testing.assert_array_equal(anchors_of_cell(16, (0.5, 1, 2), (8, 16, 32)), ANCHORS)


def inputs(height: int, width: int, anchors: int = 9) -> list[np.ndarray]:
    rng = np.random.default_rng(height)
    scores = rng.permutation(2 * anchors * height * width).reshape(1, 2 * anchors, height, width) / 1e5
    codes = rng.standard_normal((1, 4 * anchors, height, width)) / 4
    return [values.astype(np.float32) for values in (scores, codes, np.array([[16 * height, 16 * width, 1.5]]))]


def proposed(scores, codes, image, least, before, after, overlap):
    """One anchor at a time."""
    found = []
    for h, w, a in np.ndindex(*scores.shape[2:], 9):
        x1, y1, x2, y2 = ANCHORS[a] + 16.0 * np.array([w, h, w, h])
        dx, dy, dw, dh = codes[0, 4 * a : 4 * a + 4, h, w].astype(float)
        wide, high = x2 - x1 + 1, y2 - y1 + 1
        x, y = x1 + wide / 2 + dx * wide, y1 + high / 2 + dy * high
        wide, high = wide * np.exp(dw), high * np.exp(dh)
        box = np.clip([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2], 0, image[0, [1, 0, 1, 0]] - 1)
        if (box[2:] - box[:2] + 1 >= least * image[0, 2]).all():
            found.append((scores[0, 9 + a, h, w], box))
    found = sorted(found, key=lambda pair: -pair[0])[:before]
    kept: list = []
    for score, box in found:
        if all(overlap_of(box, other) <= overlap for _, other in kept):
            kept.append((score, box))
    return kept[:after]


def overlap_of(a, b) -> float:
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + 1, 0)
    area = [np.prod(box[2:] - box[:2] + 1) for box in (a, b)]
    return float(np.prod(sides) / (sum(area) - np.prod(sides)))


@pytest.mark.parametrize(("least", "before", "after", "overlap"), [(16, 6000, 300, 0.7), (20, 60, 5, 0.8)])
def test_the_best_regions_are_proposed(least, before, after, overlap):
    values = inputs(5, 7)
    options = {"min_size": least, "pre_nms_topn": before, "post_nms_topn": after, "nms_thresh": overlap}
    found = testing.run("Proposal", values, tops=2, proposal_param=options, backward=False)
    expected = proposed(*values, least, before, after, overlap)
    assert len(found.tops[0]) == len(expected) >= min(after, 5)
    np.testing.assert_allclose(found.tops[0][:, 1:], [box for _, box in expected], atol=1e-3)
    np.testing.assert_array_equal(found.tops[1][:, 0], [score for score, _ in expected])


HEADS = """
layer { name: "s" type: "Input" top: "s" input_param { shape { dim: 1 dim: 18 dim: 6 dim: 8 } } }
layer { name: "b" type: "Input" top: "b" input_param { shape { dim: 1 dim: 36 dim: 6 dim: 8 } } }
layer { name: "i" type: "Input" top: "i" input_param { shape { dim: 1 dim: 3 } } }
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 18 dim: 6 dim: 8 } } }
"""
BUILT_IN = 'layer { name: "p" type: "Proposal" bottom: "s" bottom: "b" bottom: "i" top: "rois" proposal_param {'
OF_FORK = 'layer { name: "p" type: "Python" bottom: "s" bottom: "b" bottom: "i" top: "rois" python_param {'
FAST = """
layer { name: "pool" type: "ROIPooling" bottom: "x" bottom: "rois" top: "pool"
        roi_pooling_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.0625 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
FULLY = """
layer { name: "pool" type: "PSROIPooling" bottom: "x" bottom: "rois" top: "pool"
        psroi_pooling_param { spatial_scale: 0.0625 output_dim: 2 group_size: 3 } }
layer { name: "vote" type: "Pooling" bottom: "pool" top: "vote" pooling_param { pool: AVE kernel_size: 3 stride: 3 } }
layer { name: "prob" type: "Softmax" bottom: "vote" top: "prob" }
"""


def run(tmp_path, definition: str, phase: int = proto.TEST) -> Net:
    path = tmp_path / "net.prototxt"
    path.write_text('name: "net"' + definition)
    net = Net(path, phase)
    values = [*inputs(6, 8), np.random.default_rng(3).standard_normal((1, 18, 6, 8))]
    for blob, value in zip((net.blobs[name] for name in "sbix"), values, strict=True):
        blob.data[...] = value
    net.forward()
    return net


@pytest.mark.parametrize("head", [FAST, FULLY], ids=["Faster R-CNN", "R-FCN"])
def test_whole_nets_agree_with_opencv(head, tmp_path):
    cv2 = pytest.importorskip("cv2")
    options = "min_size: 0 ratio: 0.5 ratio: 1 ratio: 2 scale: 8 scale: 16 scale: 32 post_nms_topn: 20 } }"
    net = run(tmp_path, HEADS + BUILT_IN + options + head)
    net.save(tmp_path / "net.caffemodel")
    other = cv2.dnn.readNetFromCaffe(str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel"))
    for name in "sbix":
        other.setInput(net.blobs[name].data, name)
    rois, prob = other.forward(["p", "prob"])
    np.testing.assert_allclose(net.blobs["rois"].data, rois.reshape(-1, 5), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(net.blobs["prob"].data, prob.reshape(net.blobs["prob"].shape), atol=1e-4)


@pytest.mark.parametrize("param_str", ["\"'feat_stride': 16\"", "'feat_stride: 16'"])
def test_the_python_layer_of_py_faster_rcnn_is_built_in(param_str, tmp_path):
    how = f'module: "rpn.proposal_layer" layer: "ProposalLayer" param_str: {param_str} }} }}'
    found = run(tmp_path, HEADS + OF_FORK + how + FAST)
    expected = run(tmp_path, HEADS + BUILT_IN + "} }" + FAST)
    np.testing.assert_array_equal(found.blobs["rois"].data, expected.blobs["rois"].data)
    assert found.blobs["prob"].shape == (len(expected.blobs["rois"].data), 5)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("'feat_stride': 1e400", "feat_stride"), ("'feat_stride': 'x'", "feat_stride"), ("-" * 9999 + "1", "feat_stride"),
        ("'feat_stride': 16, 'scales': 8", "scales"), ("'feat_stride': 16, 'scales': []", "scales"),
        ("'feat_stride': 16, 'scales': (8, 'a')", "scales"), ("'feat_stride': 16, 'ratios': (1, 0)", "ratios"),
        (f"'feat_stride': {10**400}", "feat_stride"), (f"'feat_stride': 16, 'scales': ({10**400},)", "scales"),
        ("feat_stride: 16\\nscales: !!python/tuple [8]", "scales"),
    ],
    ids=lambda words: words[-30:],
)  # fmt: skip
def test_options_in_words_are_checked(words, name, tmp_path):
    how = f'module: "rpn.proposal_layer" layer: "ProposalLayer" param_str: "{words}" }} }}'
    with pytest.raises(LayerError, match=rf"python_param: param_str must give '{name}'"):
        run(tmp_path, HEADS + OF_FORK + how)


def test_a_stride_must_be_given(tmp_path):
    how = 'module: "rpn.proposal_layer" layer: "ProposalLayer" } }'
    with pytest.raises(LayerError, match=r"param_str must give 'feat_stride'"):
        run(tmp_path, HEADS + OF_FORK + how)


ANCHOR_TARGETS = """
layer { name: "s" type: "Input" top: "s" input_param { shape { dim: 1 dim: 18 dim: 25 dim: 30 } } }
layer { name: "g" type: "Input" top: "g" input_param { shape { dim: 2 dim: 5 } } }
layer { name: "i" type: "Input" top: "i" input_param { shape { dim: 1 dim: 3 } } }
layer { name: "t" type: "Python" bottom: "s" bottom: "g" bottom: "i" top: "label" top: "code" top: "in" top: "out"
        python_param { module: "rpn.anchor_target_layer" layer: "AnchorTargetLayer" param_str: "'feat_stride': 16" } }
"""


def test_anchors_learn_from_what_they_overlap(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(ANCHOR_TARGETS)
    net = Net(path, proto.TRAIN)
    truth = [[100, 90, 230, 200, 1], [300, 20, 470, 380, 2]]
    net.blobs["g"].data[...] = truth
    net.blobs["i"].data[...] = [[400, 480, 1]]
    net.forward()
    label, code, inside, outside = (net.blobs[name].data for name in ("label", "code", "in", "out"))
    label = label.reshape(9, 25, 30)
    assert (label >= 0).sum() == 256 and 1 < (label == 1).sum() <= 128
    code, inside, outside = (values.reshape(9, 4, 25, 30) for values in (code, inside, outside))
    np.testing.assert_array_equal(inside, (label == 1)[:, None] * np.ones((1, 4, 1, 1)))
    np.testing.assert_allclose(outside, (label >= 0)[:, None] * np.ones((1, 4, 1, 1)) / 256)
    for a, h, w in np.argwhere(label >= 0):
        anchor = ANCHORS[a] + 16.0 * np.array([w, h, w, h])
        alike = [overlap_of(anchor, np.array(box[:4])) for box in truth]
        assert (anchor[:2] >= 0).all() and anchor[2] < 480 and anchor[3] < 400
        if label[a, h, w] == 0:
            assert max(alike) < 0.3
            continue
        target = np.array(truth[int(np.argmax(alike))][:4])
        side, wanted = anchor[2:] - anchor[:2] + 1, target[2:] - target[:2] + 1
        found = anchor[:2] + side / 2 + code[a, :2, h, w] * side
        np.testing.assert_allclose(found, target[:2] + wanted / 2, atol=1e-3)
        np.testing.assert_allclose(np.exp(code[a, 2:, h, w]) * side, wanted, rtol=1e-5)
        assert max(alike) >= 0.7 or max(alike) > 0.3


PROPOSAL_TARGETS = """
layer { name: "r" type: "Input" top: "r" input_param { shape { dim: 300 dim: 5 } } }
layer { name: "g" type: "Input" top: "g" input_param { shape { dim: 2 dim: 5 } } }
layer { name: "t" type: "Python" bottom: "r" bottom: "g" top: "rois" top: "label" top: "code" top: "in" top: "out"
        python_param { module: "rpn.proposal_target_layer" layer: "ProposalTargetLayer" param_str: "CLASSES" } }
"""


@pytest.mark.parametrize("classes", [4, 2])
def test_regions_learn_from_what_they_overlap(classes, tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(PROPOSAL_TARGETS.replace("CLASSES", f"'num_classes': {classes}"))
    net = Net(path, proto.TRAIN)
    rng = np.random.default_rng(5)
    truth = np.array([[100, 90, 230, 200, 1], [300, 20, 470, 380, 3]], float)
    near = truth[rng.integers(0, 2, 300), :4] + rng.uniform(-60, 60, (300, 4))
    net.blobs["r"].data[...] = np.insert(near, 0, 0, axis=1)
    net.blobs["g"].data[...] = truth
    net.forward()
    rois, label, code, inside, outside = (net.blobs[name].data for name in ("rois", "label", "code", "in", "out"))
    assert len(rois) == 128 and (label > 0).sum() == 32 and label.shape == (128, 1)
    np.testing.assert_array_equal(inside, outside)
    for roi, own, codes, weights in zip(rois[:, 1:], label[:, 0], code, inside, strict=True):
        alike = [overlap_of(roi, box[:4]) for box in truth]
        target = truth[int(np.argmax(alike))]
        assert own == (target[4] if max(alike) >= 0.5 else 0)
        slot = int(min(own, classes - 1))
        np.testing.assert_array_equal(
            weights.reshape(-1, 4), (np.arange(classes) == slot)[:, None] * np.full(4, own > 0)
        )
        assert not codes[weights == 0].any()
        if own:
            side, wanted = roi[2:] - roi[:2] + 1, target[2:4] - target[:2] + 1
            step, factor = codes[4 * slot :][:2] * 0.1, np.exp(codes[4 * slot :][2:4] * 0.2)
            np.testing.assert_allclose(roi[:2] + side / 2 + step * side, target[:2] + wanted / 2, atol=1e-2)
            np.testing.assert_allclose(factor * side, wanted, rtol=1e-4)


def test_a_label_beyond_the_classes_is_told(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(PROPOSAL_TARGETS.replace("CLASSES", "'num_classes': 3"))
    net = Net(path, proto.TRAIN)
    net.blobs["g"].data[...] = [[100, 90, 230, 200, 1], [300, 20, 470, 380, 3]]
    with pytest.raises(DataError, match=r"found the label 3 in the ground truth; expected 1 \.\. 2"):
        net.forward()
