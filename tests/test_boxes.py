"""Boxes: suppression, matching, average precision, and inference of an SSD held against OpenCV's."""

from __future__ import annotations

import numpy as np
import pytest

from minicaffe import proto
from minicaffe.boxes import coding, geometry, matching, pixels
from minicaffe.boxes.evaluation import average_precision, judge
from minicaffe.boxes.precision import Precision
from minicaffe.kernels.cpu import boxes as compiled
from minicaffe.kernels.reference import boxes as plain
from minicaffe.net import Net


def some_boxes(count: int, dtype=np.float32, seed: int = 0) -> np.ndarray:
    """Boxes of which many overlap, some are alike and some inside out."""
    rng = np.random.default_rng(seed)
    low, size = rng.uniform(0, 0.8, (count, 2)), rng.uniform(-0.02, 0.3, (count, 2))
    boxes = np.concatenate([low, low + size], axis=1).astype(dtype)
    boxes[3 :: max(count // 7, 1)] = boxes[:1]
    return boxes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 1, 33, 500])
@pytest.mark.parametrize("threshold, eta", [(0.0, 1.0), (0.45, 1.0), (0.9, 0.8), (1.0, 1.0)])
def test_suppression_is_that_of_the_reference(count, threshold, eta, dtype):
    boxes = some_boxes(count, dtype)
    scores = np.round(np.random.default_rng(1).uniform(0, 1, (count, 3)), 2).astype(dtype)[:, 1]
    for limit in (-1, 0, 7, count):
        order = plain.best_first(scores, 0.25, limit)
        np.testing.assert_array_equal(compiled.best_first(scores, 0.25, limit), order)
        expected = plain.suppress(boxes, order, dtype(threshold), dtype(eta))
        np.testing.assert_array_equal(compiled.suppress(boxes, order, threshold, eta), expected)


def test_scores_that_are_no_numbers_are_not_chosen():
    scores = np.array([0.5, np.nan, np.inf, -np.inf, 0.5], np.float32)
    np.testing.assert_array_equal(compiled.best_first(scores, -1, -1), [2, 0, 4])


@pytest.mark.parametrize("code_type", [coding.CORNER, coding.CENTER_SIZE, coding.CORNER_SIZE])
def test_decoding_undoes_encoding(code_type):
    priors, boxes = np.abs(some_boxes(9, np.float64)) + [0, 0, 1, 1], some_boxes(9, np.float64, 3) + [0, 0, 1, 1]
    np.testing.assert_allclose(coding.decode(priors, coding.encode(priors, boxes, code_type), code_type), boxes)


def test_overlaps():
    a, b = np.array([0, 0, 2, 2.0]), np.array([1, 1, 3, 2.0])
    assert geometry.jaccard(a, b) == pytest.approx(1 / 5)
    assert geometry.coverage(b, a) == pytest.approx(1 / 2)
    assert geometry.jaccard(a, np.array([2, 2, 3, 3.0])) == 0
    assert geometry.size(np.array([1, 0, 0, 1.0])) == 0


def test_every_truth_gets_its_best_box_and_others_what_overlaps_enough():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 0.9], [2, 0, 3, 1], [2, 0, 3, 0.6], [5, 5, 6, 6]], np.float32)
    truth = np.array([[0, 0, 1, 0.95], [2, 0, 3, 0.7]], np.float32)
    indices, overlaps = matching.match(truth, boxes, matching.BIPARTITE, 0.5)
    assert indices.tolist() == [0, -1, -1, 1, -1]
    indices, _ = matching.match(truth, boxes, matching.PER_PREDICTION, 0.65)
    assert indices.tolist() == [0, 0, 1, 1, -1]
    assert overlaps[4] == 0
    indices, _ = matching.match(truth, boxes, matching.PER_PREDICTION, 0.65, ignore_outside=True)
    assert indices.tolist() == [0, 0, -2, -2, -2]


def test_average_precision_by_hand():
    """Three of four found, the second of four detections wrong: precisions 1, 1/2, 2/3, 3/4 at recalls 1/4, 1/4, 1/2,
    3/4."""
    scores, right = np.array([0.6, 0.9, 0.8, 0.7]), np.array([1, 1, 0, 1])
    assert average_precision(scores, right, 4, "11point") == pytest.approx((3 * 1 + 5 * 0.75) / 11)
    assert average_precision(scores, right, 4, "MaxIntegral") == pytest.approx(0.25 + 0.25 * 0.75 + 0.25 * 0.75)
    assert average_precision(scores, right, 4, "Integral") == pytest.approx(0.25 + 0.25 * 2 / 3 + 0.25 * 0.75)
    assert average_precision(scores[:0], right[:0], 4, "Integral") == 0


def test_a_truth_is_found_once_and_a_difficult_one_does_not_count():
    truth = np.array([[0, 0, 1, 1], [2, 2, 3, 3]], float)
    found = np.array([[0, 0, 1, 1], [0, 0, 1, 0.9], [2, 2, 3, 3], [7, 7, 8, 8]], float)
    right, wrong = judge(found, truth, np.array([False, True]), 0.5)
    assert right.tolist() == [True, False, False, False]
    assert wrong.tolist() == [False, True, False, True]


def test_precision_gathers_batches():
    total = Precision()
    total.add(np.array([[-1, 1, 1, -1, -1], [-1, 2, 0, -1, -1], [0, 1, 0.9, 1, 0]]))
    total.add(np.array([[-1, 1, 1, -1, -1], [-1, 2, 1, -1, -1], [0, 1, 0.8, 0, 0], [0, 1, 0.7, 0, 1]]))
    assert total.of_classes("Integral") == {1: 0.5, 2: 0.0}
    assert total.mean("Integral") == 0.25


def conv(name: str, bottom: str, outputs: int, stride: int = 1) -> str:
    return f"""layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" convolution_param {{
        num_output: {outputs} kernel_size: 3 pad: 1 stride: {stride} weight_filler {{ type: "xavier" }} }} }}\n"""


def ssd_like() -> str:
    """A net with all that an SSD has: two maps, one of them normalised, heads, priors, softmax, DetectionOutput."""
    text = 'name: "ssd" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 48 dim: 64 } } }\n'
    text += conv("c1", "data", 8, 2) + 'layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }\n'
    text += conv("c2", "c1", 12, 2) + conv("c3", "c2", 12, 2)
    text += """layer { name: "norm" type: "Normalize" bottom: "c2" top: "norm" norm_param { across_spatial: false
        channel_shared: false scale_filler { type: "constant" value: 20 } } }\n"""
    for source, low, high in (("norm", 10, 20), ("c3", 20, 35)):
        for kind, outputs in (("loc", 4 * 6), ("conf", 5 * 6)):
            text += conv(f"{source}_{kind}", source, outputs)
            text += f"""layer {{ name: "{source}_{kind}_p" type: "Permute" bottom: "{source}_{kind}" top: "{source}_{kind}_p"
                permute_param {{ order: 0 order: 2 order: 3 order: 1 }} }}
                layer {{ name: "{source}_{kind}_f" type: "Flatten" bottom: "{source}_{kind}_p" top: "{source}_{kind}_f"
                flatten_param {{ axis: 1 }} }}\n"""
        text += f"""layer {{ name: "{source}_priors" type: "PriorBox" bottom: "{source}" bottom: "data"
            top: "{source}_priors" prior_box_param {{ min_size: {low} max_size: {high} aspect_ratio: 2 aspect_ratio: 3
            flip: true clip: false variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 }} }}\n"""
    for name, suffix, axis in (("loc", "loc_f", 1), ("conf", "conf_f", 1), ("priors", "priors", 2)):
        text += f"""layer {{ name: "{name}" type: "Concat" bottom: "norm_{suffix}" bottom: "c3_{suffix}" top: "{name}"
            concat_param {{ axis: {axis} }} }}\n"""
    return (
        text
        + """layer { name: "shaped" type: "Reshape" bottom: "conf" top: "shaped"
            reshape_param { shape { dim: 0 dim: -1 dim: 5 } } }
        layer { name: "prob" type: "Softmax" bottom: "shaped" top: "prob" softmax_param { axis: 2 } }
        layer { name: "flat" type: "Flatten" bottom: "prob" top: "flat" flatten_param { axis: 1 } }
        layer { name: "out" type: "DetectionOutput" bottom: "loc" bottom: "flat" bottom: "priors" top: "out"
            detection_output_param { num_classes: 5 share_location: true background_label_id: 0
            nms_param { nms_threshold: 0.45 top_k: 400 } code_type: CENTER_SIZE keep_top_k: 200
            confidence_threshold: 0.01 } }\n"""
    )


def test_an_ssd_infers_what_opencv_does(tmp_path):
    cv2 = pytest.importorskip("cv2")
    (tmp_path / "ssd.prototxt").write_text(ssd_like())
    net = Net(tmp_path / "ssd.prototxt", proto.TEST)
    rng = np.random.default_rng(0)
    for name, blobs in net.params.items():
        if len(blobs[0].shape) == 4:  # not the scale of Normalize
            spread = (0.02 if "norm" in name else 1) / np.sqrt(blobs[0].span(1))
            blobs[0].data[...] = rng.normal(0, spread, blobs[0].shape)
    net.save(tmp_path / "ssd.caffemodel")
    other = cv2.dnn.readNetFromCaffe(str(tmp_path / "ssd.prototxt"), str(tmp_path / "ssd.caffemodel"))
    image = rng.normal(0, 1, (1, 3, 48, 64)).astype(np.float32)
    net.blobs["data"].data[...] = image
    net.forward()
    other.setInput(image, "data")
    found, expected = net.blobs["out"].data.reshape(-1, 7), other.forward("out").reshape(-1, 7)
    assert len(found) == len(expected) > 20
    np.testing.assert_allclose(in_order(found), in_order(expected), atol=1e-4)
    for blob in ("loc", "flat", "priors"):
        other.setInput(image, "data")
        np.testing.assert_allclose(net.blobs[blob].data, other.forward(blob).reshape(net.blobs[blob].shape), atol=1e-4)


def in_order(rows: np.ndarray) -> np.ndarray:
    """Rows in an order that does not depend on the last digits."""
    return rows[np.lexsort(np.round(rows, 3).T[::-1])]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("most", [0, 5])
@pytest.mark.parametrize("measure", [pixels.overlap, pixels.overlap_of_pixels])
def test_boxes_in_pixels_are_kept_by_their_own_overlap(measure, most, threshold):
    rng = np.random.default_rng(7)
    corners = np.round(rng.uniform(0, 12, (150, 2)) * 4) / 4
    boxes = np.hstack([corners, corners + np.round(rng.uniform(-0.5, 4, (150, 2)) * 4) / 4])
    found: list[int] = []
    for k, box in enumerate(boxes):
        if len(found) < (most or 150) and not any(measure(boxes[j], box) > threshold for j in found):
            found.append(k)
    assert pixels.kept(boxes, threshold, measure, pixels.IOU, most).tolist() == found
