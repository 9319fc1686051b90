"""NaN goes through every layer, and is no label."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pytest
from cli_case import run
from google.protobuf import text_format
from layer_cases import CASES
from layer_cases.case import Case

import minicaffe
from minicaffe import backend, proto, testing
from minicaffe.errors import AnomalyError, LayerError
from minicaffe.solvers import create

SHAPED = {"Crop": 1, "AutoCrop": 1, "ChannelScale-not at all": 1, "ChannelScale-global": 1,
          "GeneralContrastiveLoss-distances elsewhere": 0, "MergeCrop-3-D, one side": 0}  # fmt: skip
"""Bottoms of which only the shape counts, in the forward pass."""
CHOSEN = {"AutoCrop", "BatchReindex", "Crop", "Filter", "LSTM", "LSTMUnit", "MergeCrop", "MultinomialLogisticLoss",
          "Pooling", "SPP"}  # fmt: skip
"""Layers that may not look at every element."""
COUNTING = {"ArgMax", "Accuracy", "Silence", "HDF5Output", "MatWrite"}
"""Layers whose tops are places, shares, or none."""
PASSED_OVER = {
    ("ConvolutionDepthwise-stride, dilation", 0): "pixels that the stride passes over",
    ("RegionLoss", 0): "classes of boxes that no ground truth takes",
    ("Yolov3", 0): "classes of boxes that no ground truth takes",
    ("FocalLoss-of happynear", 0): "scores of an item whose label is the ignored one",
    ("MultiBoxLoss", 0): "codes of priors without ground truth",
    ("MultiBoxLoss-logistic, L2", 0): "codes of priors without ground truth",
    ("MultiBoxLoss-mined", 0): "codes of priors without ground truth",
    ("MultiBoxFocalLoss", 0): "codes of priors without ground truth",
    ("Detection", 0): "cells that are not chosen, and codes of those without an object",
    ("DetectionLoss", 0): "cells that are not chosen, and codes of those without an object",
    ("DetectionGroupLoss", 0): "cells that are not chosen",
    ("DetectionGroupLoss", 1): "codes of cells without an object",
    ("ROIPooling", 0): "pixels outside all regions",
    ("ROIPooling-shares of the image", 0): "pixels outside all regions",
    ("ROIPooling-padded", 0): "pixels outside all regions",
    ("PSROIPooling", 0): "pixels outside all regions",
    ("ROIAlign", 0): "pixels outside all regions",
    ("FlowWarp", 0): "pixels that the flow leads to from nowhere",
    ("Transformer-high", 0): "pixels that are turned out of the image",
    ("DomainTransform", 1): "edges before the first pixel of a row or column",
    ("CtcLoss-batch", 0): "scores of steps beyond time_step",
    ("Correlation-strides", 0): "pixels that no position reaches with these strides",
    ("SigmoidCrossEntropyLoss-balanced", 0): "scores of pixels whose target is neither 0 nor 1",
    ("MultiLabelSigmoidLoss-unanswered", 0): "scores of questions without an answer",
}
"""Bottoms of which a case by definition does not read each element, and which it may leave."""
UNKNOWN = {"L1Loss-of FlowNet2", "L1Loss-lengths", "L1Loss-lengths beyond a plateau"}
"""FlowNet2's options of L1Loss, for which NaN says that there is no ground truth at a place."""
NUMBERS = [case for case in CASES if case.bottoms and case.type not in COUNTING and case.type != "Python"]


def numeric(case: Case, rig: testing.Rig) -> list[int]:
    """Bottoms that hold numbers, not labels."""
    if case.type in ("Threshold", "SigmoidCrossEntropyLoss"):
        return list(range(len(rig.bottom)))
    return [k for k, wanted in enumerate(rig.wanted) if wanted and not (case.type == "ContrastiveLoss" and k == 2)]


def tops(case: Case, bottoms, folder) -> list[np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return testing.run(case.type, bottoms, backward=False, seed=1, **case.how(folder)).tops


@pytest.mark.parametrize("case", NUMBERS, ids=lambda case: case.name)
def test_nan_goes_through_every_layer(case, tmp_path):
    rig = testing.Rig(case.type, case.draw(), **case.how(tmp_path))
    rig.net.close()
    constant = case.type == "Power" and rig.layer.factor == 0
    for k in numeric(case, rig):
        if k in (SHAPED.get(case.type), SHAPED.get(case.name)) or case.name in UNKNOWN or constant:
            continue
        bottoms = case.draw()
        bottoms[k] = np.full_like(bottoms[k], np.nan, dtype=float)
        assert any(np.isnan(top).any() for top in tops(case, bottoms, tmp_path)), f"bottom {k}"
        if case.type in CHOSEN or "ignored" in case.variant or (case.name, k) in PASSED_OVER:
            continue
        for place in (0, -1):
            bottoms = case.draw()
            bottoms[k] = np.array(bottoms[k], float)
            bottoms[k].reshape(-1)[place] = np.nan
            assert any(np.isnan(top).any() for top in tops(case, bottoms, tmp_path)), f"bottom {k}, element {place}"


@pytest.mark.parametrize("where", range(4))
@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("pool", ["MAX", "AVE", "STOCHASTIC"])
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_a_window_that_holds_nan_gives_nan_and_no_other_does(pool, phase, kernel, where):
    x = np.random.default_rng(0).random((1, 2, 9, 9))
    x.reshape(-1)[[0, 40, 80, 83][where]] = np.nan
    options = {"pool": pool, "kernel_size": kernel, "stride": 2}
    backward = phase == "TRAIN" or pool != "STOCHASTIC"
    result = testing.run("Pooling", [x], phase=phase, seed=1, backward=backward, **options)
    y = np.isnan(result.tops[0])
    for p, q in np.ndindex(*y.shape[2:]):
        held = np.isnan(x[:, :, 2 * p : 2 * p + kernel, 2 * q : 2 * q + kernel]).any(axis=(2, 3))
        np.testing.assert_array_equal(y[:, :, p, q], held)
    if pool != "AVE" and backward:  # the gradient goes where the value came from
        np.testing.assert_array_equal(result.bottom_diffs[0][np.isnan(x)], y.sum())


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("at", range(4))
def test_the_maximum_of_blobs_is_nan_where_one_is(count, at):
    bottoms = [np.random.default_rng(k).standard_normal((2, 3)) for k in range(count)]
    bottoms[at % count][0, 1] = np.nan
    result = testing.run("Eltwise", bottoms, operation="MAX")
    expected = np.maximum.reduce([x.astype(np.float32) for x in bottoms])
    np.testing.assert_array_equal(result.tops[0], expected)
    assert [dx[0, 1] for dx in result.bottom_diffs] == [k == at % count for k in range(count)]


@pytest.mark.parametrize("iou_loss", ["L2", "IOU", "GIOU", "DIOU", "CIOU"])
@pytest.mark.parametrize("channel", range(4))
def test_no_box_that_yolo_predicts_may_be_nan(channel, iou_loss, tmp_path):
    for case in NUMBERS:
        if case.type in ("RegionLoss", "Yolov3"):
            more = {"iou_loss": iou_loss} if case.type == "Yolov3" else {}
            for cell in range(9):
                x, truth = case.draw()
                x.reshape(2, 2, 7, 9)[1, 1, channel, cell] = np.nan
                how = case.how(tmp_path) | more
                assert np.isnan(testing.run(case.type, [x, truth], backward=False, **how).loss), (case.name, cell)


def test_a_mark_of_where_sequences_begin_is_a_number():
    x, marks = np.ones((3, 2, 4), np.float32), np.ones((3, 2), np.float32)
    marks[1, 0] = np.nan
    filled = {"num_output": 2, "weight_filler": {"type": "xavier"}, "seed": 1}
    y = testing.run("Lstm", [x, marks], backward=False, **filled).tops[0]
    np.testing.assert_array_equal(np.isnan(y).all(axis=2), [[False, False], [True, False], [True, False]])


@pytest.mark.parametrize("prior", range(6))
def test_mining_does_not_pass_over_nan(prior, tmp_path):
    case = next(case for case in NUMBERS if case.name == "MultiBoxLoss-mined")
    bottoms = case.draw()
    bottoms[1].reshape(2, 6, 3)[1, prior, 2] = np.nan
    assert np.isnan(testing.run(case.type, bottoms, backward=False, **case.how(tmp_path)).loss)


@pytest.mark.parametrize("x, y", [(np.nan, np.nan), (-3, -1), (0.5, 0.5), (7, 2), (np.inf, 2)])
def test_clip(x, y):
    np.testing.assert_array_equal(testing.run("Clip", [[[x]]], min=-1, max=2).tops[0], [[y]])


@pytest.mark.parametrize("x", [-3, 0, 1.5, 7])
def test_clip_with_bounds_in_the_wrong_order_is_caffes(x):
    np.testing.assert_array_equal(testing.run("Clip", [[[x]]], min=2, max=1).tops[0], [[max(2, min(x, 1))]])


def test_nan_is_the_largest_for_argmax_and_never_right_for_accuracy():
    scores = np.array([[1, np.nan, 3], [np.nan, 5, 6], [7, 8, 9], [np.nan] * 3])
    result = testing.run("ArgMax", [scores], backward=False, top_k=2, out_max_val=True).tops[0]
    np.testing.assert_array_equal(result[:, 0], [[1, 2], [0, 2], [2, 1], [2, 1]])
    np.testing.assert_array_equal(result[:, 1], [[np.nan, 3], [np.nan, 6], [9, 8], [np.nan, np.nan]])
    for label, right in ((0, 0), (1, 0), (2, 0.25)):
        assert testing.run("Accuracy", [scores, np.full(4, label)], backward=False).tops[0] == right


# --- labels ------------------------------------------------------------------------------------------------------

LABELLED = [
    ("SoftmaxWithLoss", {}, 1, [(4, 3), (4,)]),
    ("InfogainLoss", {}, 1, [(4, 3), (4,), (3, 3)]),
    ("MultinomialLogisticLoss", {}, 1, [(4, 3), (4,)]),
    ("HingeLoss", {}, 1, [(4, 3), (4,)]),
    ("Accuracy", {}, 1, [(4, 3), (4,)]),
    ("ContrastiveLoss", {}, 2, [(4, 3), (4, 3), (4,)]),
    ("Embed", {"input_dim": 3, "num_output": 2}, 0, [(4,)]),
    ("BatchReindex", {}, 1, [(4, 3), (4,)]),
]


def labelled(shapes, k, value):
    bottoms = [np.abs(np.random.default_rng(i).standard_normal(shape)) for i, shape in enumerate(shapes)]
    bottoms[k] = np.array([0, 1, value, 2.0])
    return bottoms


@pytest.mark.parametrize("value", [0.5, 1.9999, -0.5, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("kind", "options", "k", "shapes"), LABELLED, ids=[row[0] for row in LABELLED])
def test_what_is_no_integer_is_no_label(kind, options, k, shapes, value):
    found = f"number 2 of the batch is not an integer.*found {np.float32(value):.9g}"
    with pytest.raises(LayerError, match=found):
        testing.run(kind, labelled(shapes, k, value), backward=False, **options)


@pytest.mark.parametrize(("kind", "options", "k", "shapes"), LABELLED[:5], ids=[row[0] for row in LABELLED[:5]])
def test_nor_is_one_beyond_the_classes(kind, options, k, shapes):
    for value in (-1, 3, 1e30):
        with pytest.raises(
            LayerError, match=f"not an integer in 0 .. 2.*found {np.float32(value):.9g}".replace("+", r"\+")
        ):
            testing.run(kind, labelled(shapes, k, value), backward=False, **options)


WHOLE = [
    ("RegionLoss", 1, 0), ("Yolov3", 1, 0), ("MultiBoxLoss", 3, 0), ("MultiBoxLoss", 3, 1), ("DetectionEvaluate", 0, 1),
    ("DetectionEvaluate", 1, 1), ("Upsample-mask", 1, 0), ("UniqueLabel", 0, 0), ("CTCGreedyDecoder-labels", 1, 0),
    ("LabelsequenceAccuracy", 1, 0), ("DetectionLoss", 1, 0), ("DetectionAccuracy", 1, 0), ("DetectionGroupLoss", 2, 0),
    ("DetectionGroupAccuracy", 2, 0), ("BboxAccuracy", 2, 0), ("ProposalTarget", 1, 0), ("MalisLoss", 2, 0),
]  # fmt: skip
"""Cases, which of their bottoms holds classes, items or places, and at which element."""


@pytest.mark.parametrize(("name", "k", "at"), WHOLE, ids=lambda x: str(x))
def test_nor_for_the_layers_of_forks(name, k, at, tmp_path):
    case = next(case for case in CASES if case.name == name)
    for value, problem in (
        (0.5, "must be whole numbers; found 0.5"),
        (np.inf, "found inf|finite"),
        (np.nan, "NaN|nan"),
    ):
        bottoms = case.draw()
        bottoms[k] = np.array(bottoms[k], float, order="C")
        bottoms[k].reshape(-1)[at] = value
        with pytest.raises(LayerError, match=problem):
            testing.run(case.type, bottoms, backward=False, **case.how(tmp_path))


def test_scores_of_nan_are_never_right():
    scores, labels = np.zeros((1, 3, 1, 4), np.float32), np.zeros((1, 1, 1, 4), np.float32)
    scores[0, 0] = 1
    scores[0, 0, 0, 1] = scores[0, 2, 0, 3] = np.nan
    right, recall, union = testing.run("SegAccuracy", [scores, labels], backward=False).tops[0].reshape(-1)
    np.testing.assert_array_equal([right, recall], 0.5)
    np.testing.assert_allclose(union, 2.5 / 3)
    steps = np.full((1, 2, 3), np.nan, np.float32)
    assert testing.run("LabelsequenceAccuracy", [steps, np.zeros((1, 2))], backward=False).tops[0] == 0
    found = testing.run("CTCGreedyDecoder", [steps.transpose(1, 0, 2), -np.ones((1, 2))], backward=False).tops[0]
    assert found.reshape(-1)[1] == 0
    assert (testing.run("CTCGreedyDecoder", [steps.transpose(1, 0, 2)], backward=False).tops[0] == -1).all()


@pytest.mark.parametrize("k", [1, 2])
def test_proposals_are_of_boxes_that_are_numbers(k, tmp_path):
    case = next(case for case in CASES if case.type == "Proposal")
    bottoms = case.draw()
    bottoms[k] = np.array(bottoms[k], float, order="C")
    bottoms[k].reshape(-1)[0] = np.nan
    with pytest.raises(LayerError, match="box codes and the size of the image must be finite; found NaN"):
        testing.run(case.type, bottoms, backward=False, **case.how(tmp_path))


@pytest.mark.parametrize("y", [-1, 1, 2, 255])
def test_every_integer_but_0_says_that_a_pair_is_similar(y):
    a, b = np.random.default_rng(0).standard_normal((2, 4, 3))
    losses = [testing.run("ContrastiveLoss", [a, b, np.full(4, value)]).loss for value in (y, 1, 0)]
    assert losses[0] == losses[1] != losses[2]


def test_a_selector_that_is_nan_is_refused():
    with pytest.raises(LayerError, match="selector number 1 of the batch is NaN"):
        testing.run("Filter", [np.ones((3, 2)), np.array([1, np.nan, 0])], backward=False)


@pytest.mark.parametrize("ignore", [0, -1])
def test_only_the_ignored_label_is_ignored(ignore):
    x, target = np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 0.5, 0.25]])
    losses = [
        testing.run("SigmoidCrossEntropyLoss", [x, target], loss_param={"ignore_label": label}, backward=False).loss
        for label in (ignore, 7)
    ]
    apart = np.log1p(np.exp(1.0)) if ignore == 0 else 0
    np.testing.assert_allclose(losses[1] - losses[0], apart, rtol=1e-5, atol=1e-6)


# --- all backends ------------------------------------------------------------------------------------------------

PARITY = ("Eltwise", "Clip", "Threshold", "ReLU", "ELU", "BNLL", "Pooling")
PARITY += ("Pairwise", "FlowWarp", "Transformer", "ROIPooling", "PSROIPooling", "ROIAlign")


@pytest.fixture(scope="module")
def strict():
    """The GPU path on the stand-in for CuPy."""
    if shutil.which("g++") is None:
        pytest.skip("g++ builds the CUDA kernels for the CPU")
    from strict_gpu import StrictBackend

    return StrictBackend()


@pytest.mark.parametrize(
    "case",
    [c for c in NUMBERS if (c.type in PARITY or c.type.endswith("Loss")) and "parity" not in c.why_not],
    ids=lambda case: case.name,
)
def test_backends_agree_about_nan(case, strict, tmp_path):
    rig = testing.Rig(case.type, case.draw(), **case.how(tmp_path))
    rig.net.close()
    bottoms = [np.array(x, float) for x in case.draw()]
    for k in numeric(case, rig):
        flat = bottoms[k].reshape(-1)
        flat[np.random.default_rng(k).random(flat.size) < 0.1] = np.nan
        flat[-1:] = np.nan
    backward = "gradient" not in case.why_not
    results = []
    for where in (backend.host_backend(), strict):
        with backend.use(where), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.append(testing.run(case.type, bottoms, backward=backward, seed=1, **case.how(tmp_path)))
    for part in ("tops", "bottom_diffs"):
        for a, b in zip(*(getattr(result, part) for result in results), strict=True):
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=part)


def test_a_bad_label_is_named_on_a_device_too(strict):
    with backend.use(strict), pytest.raises(LayerError, match="number 2 of the batch is not an integer.*found 0.5"):
        rig = testing.Rig("SoftmaxWithLoss", labelled([(4, 3), (4,)], 1, 0.5))
        rig.forward()


# --- detect_anomaly ----------------------------------------------------------------------------------------------

CHAIN = """
name: "chain" force_backward: true
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }
layer { name: "root" type: "Power" bottom: "a" top: "b" power_param { power: 0.5 } }
layer { name: "log" type: "Log" bottom: "b" top: "c" }
layer { name: "loss" type: "Reduction" bottom: "c" top: "loss" loss_weight: 1 }
"""


def chain(tmp_path, x, w=1.0):
    path = tmp_path / "chain.prototxt"
    path.write_text(CHAIN)
    net = minicaffe.Net(str(path), minicaffe.TRAIN)
    net.blobs["x"].data[...] = x
    net.params["ip"][0].data[...] = w
    return net


def test_off_by_default(tmp_path):
    net = chain(tmp_path, 0)
    net.run_forward()
    net.run_backward()
    assert not np.isfinite(net.loss)


@pytest.mark.parametrize(
    ("x", "w", "layer", "what"),
    [
        (np.nan, 1, "in", "forward made top 'x' not finite: nan at .0, 0., one of 6 such values of 6"),
        (1, np.inf, "ip", "forward made top 'a' not finite: inf"),
        (0, 1, "log", "forward made top 'c' not finite: -inf"),
    ],
)
def test_the_first_layer_that_makes_it_is_named(x, w, layer, what, tmp_path):
    net = chain(tmp_path, x, w)
    net.detect_anomaly = True
    for _ in range(3):  # fused and replayed passes do not hide it
        with pytest.raises(AnomalyError, match=rf"chain.prototxt:\d+: layer '{layer}' .*{what}"):
            net.forward_backward()


def test_and_where_a_gradient_begins_to_be(tmp_path):
    net = chain(tmp_path, 1)
    net.params["ip"][0].data[0] = 1e-38
    net.detect_anomaly = True
    net.run_forward()
    net.blobs["b"].data[0, 0] = net.blobs["a"].data[0, 0] = 0  # a root of 0: no slope
    net.blobs["b"].data[1] = 1
    with pytest.raises(
        AnomalyError, match=r"layer 'log' .*backward made the gradient of bottom 'b' not finite: inf at .0, 0."
    ):
        net.run_backward()
    net.blobs["b"].data[...] = 1
    net.params["ip"][0].data[...] = 1
    with pytest.raises(AnomalyError, match=r"layer 'root' .*backward made the gradient of bottom 'a' not finite"):
        net.run_backward()
    net.run_forward()
    net.blobs["x"].data[...] = np.inf
    with pytest.raises(AnomalyError, match=r"layer 'ip' .*backward made the gradient of param 0 not finite"):
        net.run_backward()


def test_what_is_finite_passes_with_the_same_numbers(tmp_path):
    nets = [chain(tmp_path, 1), chain(tmp_path, 1)]
    nets[0].detect_anomaly = True
    for net in nets:
        for _ in range(3):
            net.clear_param_diffs()
            net.forward_backward()
    np.testing.assert_array_equal(*(net.params["ip"][0].diff for net in nets))


SOLVER = """base_lr: %s lr_policy: "fixed" max_iter: 20 random_seed: 1 test_iter: 1 test_interval: 50 snapshot_after_train: false
net_param {
  layer { name: "data" type: "DummyData" top: "x" top: "t" dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 3 }
          data_filler { type: "gaussian" } data_filler { type: "gaussian" } } }
  layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
  layer { name: "exp" type: "Exp" bottom: "y" top: "z" }
  layer { name: "loss" type: "EuclideanLoss" bottom: "z" bottom: "t" top: "loss" } }"""


def test_a_solver_looks_for_it_too():
    solver = create(text_format.Parse(SOLVER % "1e4", proto.SolverParameter()))
    assert not solver.detect_anomaly
    solver.detect_anomaly = True
    assert solver.net.detect_anomaly and solver.test_nets[0].detect_anomaly
    with pytest.raises(AnomalyError, match=r"layer 'exp' \(Exp\): forward made top 'z' not finite: inf"):
        solver.solve()


def test_so_does_train(capsys, tmp_path):
    path = tmp_path / "solver.prototxt"
    path.write_text(SOLVER % "1e4")
    for flag, message in (
        ([], "the training loss is"),
        (["--detect_anomaly"], "layer 'exp' (Exp): forward made top 'z'"),
    ):
        result = run(capsys, "train", "--solver", str(path), *flag)
        assert result.status == 1 and message in result.err, result
