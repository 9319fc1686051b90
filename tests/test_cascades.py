"""Layers of MS-CNN and Cascade R-CNN against what their authors' code does, written out box by box."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minicaffe import backend, proto, testing
from minicaffe.boxes.evaluation import average_precision
from minicaffe.net import Net

RNG = np.random.default_rng
STD, MEAN = (0.1, 0.1, 0.2, 0.2), (0.0, 0.05, 0.0, -0.05)
REG = {"bbox_mean": MEAN, "bbox_std": STD}
ONE_FOR_ALL = {**REG, "cls_aware": False}


def of_sizes(a, b, least: float, mode: str = "IOU") -> float:
    """Overlap of boxes (x, y, width, height)."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = a, b
    if min(w1, h1, w2, h2) <= 0:
        return 0.0
    w, h = min(x1 + w1, x2 + w2) - max(x1, x2), min(y1 + h1, y2 + h2) - max(y1, y2)
    common = w * h if w > 0 and h > 0 and w >= least and h >= least else 0.0
    whole = {"IOU": w1 * h1 + w2 * h2 - common, "IOMU": min(w1 * h1, w2 * h2), "IOFU": w1 * h1}[mode]
    return common / whole


def of_corners(a, b, mode: str = "IOU") -> float:
    """Overlap of boxes (x1, y1, x2, y2) whose corners belong to them."""
    if a[2] < a[0] or a[3] < a[1] or b[2] < b[0] or b[3] < b[1] or min(a[3], b[3]) <= max(a[1], b[1]):
        return 0.0
    return of_sizes(*((x1, y1, x2 - x1 + 1, y2 - y1 + 1) for x1, y1, x2, y2 in (a, b)), 1, mode)


def left_over(boxes: list, threshold: float, overlap, most: int = 0) -> list:
    """Boxes (…, score), less those that overlap better ones."""
    found: list = []
    for box in boxes:
        if all(overlap(other[:4], box[:4]) <= threshold for other in found):
            found.append(box)
    return found[: most or None]


def code(values, mean=MEAN, std=STD, low=None, high=None) -> list[float]:
    """A code as it was before it was normalised, between bounds."""
    codes = [v * s + m for v, s, m in zip(values, std, mean, strict=True)]
    if low is None:
        return codes
    return [min(max(c, a), b) for c, a, b in zip(codes, low, high, strict=True)]


def at_cell(codes, x: int, y: int, width: float, height: float, stride: float) -> tuple:
    """The box (x, y, width, height) of a cell's code."""
    w, h = width * math.exp(codes[2]), height * math.exp(codes[3])
    return codes[0] * width + (x + 0.5) * stride - w / 2, codes[1] * height + (y + 0.5) * stride - h / 2, w, h


def of_region(region, codes) -> tuple:
    """The box (x1, y1, x2, y2) that a code makes of a region (x1, y1, x2, y2)."""
    w, h = region[2] - region[0] + 1, region[3] - region[1] + 1
    tw, th = w * math.exp(codes[2]), h * math.exp(codes[3])
    x, y = codes[0] * w + region[0] + w / 2 - tw / 2, codes[1] * h + region[1] + h / 2 - th / 2
    return x, y, x + tw - 1, y + th - 1


def softmax(scores, axis: int):
    powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def flat(blob):
    return blob.reshape(blob.shape[:2])


# --- proposals -----------------------------------------------------------------------------------------------------

BOUNDS = ([-1 / 0.5, -1 / 0.5, -math.log(1.5), -math.log(1.5)], [2, 2, math.log(1.5), math.log(1.5)])


@pytest.mark.parametrize("limits", [{"max_nms_num": 20, "max_post_nms_num": 4}, {"nms_type": "IOMU"}])
def test_box_output_is_that_of_ms_cnn(limits):
    rng = RNG(1)
    maps = [rng.standard_normal((2, 7, *size)).astype(np.float32) for size in ((5, 6), (3, 3))]
    fields = [(30, 24, 8), (60, 50, 16)]
    options = {"fg_thr": -1, "iou_thr": 0.3, "field_whr": 1.5, "field_xyr": 0.5, "min_size": 12, **limits}
    names = ("field_w", "field_h", "downsample_rate")
    options |= {name: list(values) for name, values in zip(names, zip(*fields, strict=True), strict=True)}
    found = testing.run("BoxOutput", maps, tops=2, backward=False, box_output_param=options, bbox_reg_param=REG)
    expected = []
    for item in range(2):
        boxes = []
        for values, (width, height, stride) in zip(maps, fields, strict=True):
            _, _, rows, columns = values.shape
            for y, x in np.ndindex(rows, columns):
                own = values[item, :, y, x].astype(float)
                score = own[1:3].max() - own[0]
                box_x, box_y, w, h = at_cell(code(own[3:], low=BOUNDS[0], high=BOUNDS[1]), x, y, width, height, stride)
                box_x, box_y = max(box_x, 0), max(box_y, 0)
                w, h = min(w, columns * stride - box_x), min(h, rows * stride - box_y)
                if score >= -1 and w >= 12 and h >= 12:
                    boxes.append((box_x, box_y, box_x + w, box_y + h, score))
        boxes.sort(key=lambda box: -box[4])
        boxes = boxes[: limits.get("max_nms_num")]
        mode = limits.get("nms_type", "IOU")

        def overlap(a, b, mode=mode):
            return of_sizes(*((p[0], p[1], p[2] - p[0], p[3] - p[1]) for p in (a, b)), 0, mode)

        expected += [(item, *box) for box in left_over(boxes, 0.3, overlap, limits.get("max_post_nms_num", 0))]
    assert len(expected) > 4
    np.testing.assert_allclose(flat(found.tops[1]), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.tops[0], found.tops[1][:, :5])


def test_nothing_to_propose_gives_a_stand_in():
    options = {"field_w": [8], "field_h": [8], "downsample_rate": [4], "fg_thr": 9}
    found = testing.run("BoxOutput", [np.zeros((1, 6, 2, 2))], tops=2, backward=False, box_output_param=options)
    assert found.tops[0].tolist() == [[[[0]], [[1]], [[1]], [[10]], [[10]]]] and not found.tops[1].any()


def test_box_group_output_is_that_of_cascade_rcnn():
    rng = RNG(2)
    scores = softmax(rng.standard_normal((4, 2, 5, 6)), 1)
    codes = rng.standard_normal((4, 4, 5, 6))
    fields, stride = ((30, 24), (20, 44)), 8
    group = {"field_w": [30, 20], "field_h": [24, 44], "stride": stride}
    options = {"fg_thr": 0.4, "iou_thr": 0.4, "field_whr": 1.5, "field_xyr": 0.5, "max_nms_num": 40}
    options |= {"box_group_param": [group], "max_post_nms_num": 9, "min_size": 15}
    found = testing.run(
        "BoxGroupOutput", [scores, codes], tops=2, backward=False, box_group_output_param=options, bbox_reg_param=REG
    )
    expected = []
    for item in range(2):
        boxes = []
        for k, (width, height) in enumerate(fields):
            for y, x in np.ndindex(5, 6):
                own = code(codes[2 * item + k, :, y, x], low=BOUNDS[0], high=BOUNDS[1])
                score = 1 - scores[2 * item + k, 0, y, x]
                box_x, box_y, w, h = at_cell(own, x, y, width, height, stride)
                box = max(box_x, 0), max(box_y, 0), min(box_x + w - 1, 48), min(box_y + h - 1, 40)
                if score >= 0.4 and box[2] - box[0] + 1 >= 15 and box[3] - box[1] + 1 >= 15:
                    boxes.append((*box, score))
        boxes.sort(key=lambda box: -box[4])
        expected += [(item, *box) for box in left_over(boxes[:40], 0.4, of_corners, 9)]
    assert len(expected) > 6
    np.testing.assert_allclose(flat(found.tops[1]), expected, rtol=1e-4, atol=1e-4)


def regions(rng, count: int, items: int = 1, size: float = 90) -> np.ndarray:
    corner = rng.uniform(0, 0.6, (count, 2)) * size
    far = corner + rng.uniform(0.2, 0.6, (count, 2)) * size
    return np.hstack([np.arange(count)[:, None] % items, corner, far]).astype(np.float32)


@pytest.mark.parametrize("aware", [True, False])
def test_frcnn_output_is_that_of_cascade_rcnn(aware):
    rng = RNG(3)
    scores = softmax(2 * rng.standard_normal((12, 3)), 1)
    codes = rng.standard_normal((12, 12 if aware else 8))
    rois, how = regions(rng, 12), REG if aware else ONE_FOR_ALL
    options = {"conf_thr": 0.2, "iou_thr": 0.35, "max_det_num": 6}
    values = [scores, codes, rois, np.array([[100.0, 80.0]])]
    found = testing.run("FrcnnOutput", values, backward=False, frcnn_output_param=options, bbox_reg_param=how)
    boxes = []
    for label in (1, 2):
        own = []
        for k in np.argsort(-scores[:, label]):
            if scores[k, label] >= 0.2:
                slot = 4 * (label if aware else 1)
                x1, y1, x2, y2 = of_region(rois[k, 1:], code(codes[k, slot : slot + 4]))
                own.append((max(x1, 0), max(y1, 0), min(x2, 80), min(y2, 100), scores[k, label]))
        boxes += [(0, *box[:4], label, box[4]) for box in left_over(own, 0.35, of_corners)]
    assert len(boxes) > 6
    best = sorted(boxes, key=lambda box: -box[6])[:6]
    expected = [(0, *[-1] * 6), *sorted(best, key=lambda box: (box[5], -box[6]))]
    np.testing.assert_allclose(flat(found.tops[0]), expected, rtol=1e-4, atol=1e-4)


# --- between the stages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_decoded_boxes_are_the_regions_of_the_next_stage(phase):
    rng = RNG(4)
    codes, rois = 2 * rng.standard_normal((9, 8)), regions(rng, 9, 2)
    overlaps = rng.uniform(0.7, 1, (9, 6))
    codes[3, 6] = -60  # no pixel is left of it
    rois[:, 3:] = np.maximum(rois[:, 3:], rois[:, 1:3])
    values = [codes, rois] + ([overlaps] if phase == "TRAIN" else [])
    found = testing.run("DecodeBBox", values, backward=False, phase=phase, bbox_reg_param=REG)
    expected = []
    for k in range(9):
        box = of_region(rois[k, 1:], code(codes[k, 4:]))
        turned = box[0] > box[2] or box[1] > box[3]
        if phase == "TEST" or not (turned or overlaps[k, -1] >= 0.95):
            expected.append((rois[k, 0], *box))
    assert len(expected) == 9 if phase == "TEST" else 2 < len(expected) < 9
    np.testing.assert_allclose(flat(found.tops[0]), expected, rtol=1e-4, atol=1e-4)


def test_regions_are_routed_by_their_size():
    rois = np.array([[0, 0, 0, 9, 9], [0, 0, 0, 39, 9], [1, 5, 5, 44, 44], [1, 0, 0, 99, 99]], np.float32)
    others = np.arange(8.0).reshape(4, 2)

    def routed(**limits) -> list[int]:
        found = testing.run("ScaleRoute", [rois, others], tops=2, backward=False, **limits)
        rows = (found.tops[1][:, 0] / 2).astype(int).tolist()
        np.testing.assert_array_equal(found.tops[0], rois[rows])
        return rows

    assert routed() == [0, 1, 2, 3]
    assert (
        routed(low_scale=20) == [1, 2, 3]
        and routed(high_scale=20) == [0]
        and routed(low_scale=20, high_scale=40) == [1]
    )
    assert routed(low_scale=41, high_scale=60) == [2]  # the nearest to 49.6 in octaves
    assert routed(low_scale=200) == [3]


def test_the_hardest_regions_of_each_item_are_mined():
    losses = np.array([[1.0], [5], [3], [2], [4], [0], [3]])
    rois = np.zeros((7, 5))
    rois[:, 0] = [0, 0, 0, 0, 1, 0, 0]
    names = np.arange(7.0)[:, None]
    found = testing.run("HardMining", [losses, rois, names], tops=2, backward=False, num_image=2, num_roi_per_image=2)
    # of item 0 the losses 5 and the later 3, of item 1 its only one, and the largest of the rest
    assert found.tops[1][:, 0].tolist() == [1, 2, 4, 6]


@pytest.mark.parametrize("aware", [True, False])
def test_bbox_accuracy_is_the_mean_overlap(aware):
    rng = RNG(5)
    codes, rois = rng.standard_normal((8, 12 if aware else 8)), regions(rng, 8)
    labels, overlaps = np.array([0, 1, 2, 1, 0, 2, 2, 1]), np.array([0, 0.5, 0.6, 0.99, 0, 0.7, 0.8, 0.5])
    objects = np.column_stack([labels, regions(rng, 8)[:, 1:], overlaps])
    how = REG if aware else ONE_FOR_ALL
    found = testing.run("BboxAccuracy", [codes, rois, objects], tops=2, backward=False, bbox_reg_param=how)
    shares = []
    for k in np.flatnonzero((labels > 0) & (overlaps <= 0.975)):
        slot = 4 * (labels[k] if aware else 1)
        pair = of_region(rois[k, 1:], code(codes[k, slot : slot + 4])), rois[k, 1:]
        sizes = [(x1, y1, x2 - x1 + 1, y2 - y1 + 1) for x1, y1, x2, y2 in (*pair, objects[k, 1:5])]
        shares.append([of_sizes(sizes[n], sizes[2], 1) for n in (0, 1)])
    np.testing.assert_allclose([top.item() for top in found.tops], np.mean(shares, axis=0), rtol=1e-4)
    found = testing.run("BboxAccuracy", [codes, rois, objects * 0], tops=2, backward=False, bbox_reg_param=how)
    assert [top.item() for top in found.tops] == [-1, -1]


# --- targets -------------------------------------------------------------------------------------------------------

OBJECTS = np.array(
    [
        [0, 5, 5, 44, 44, 1, 0, 0],
        [0, 50, 40, 80, 85, 2, 0, 0],
        [1, 10, 20, 60, 50, 2, 0, 0],
        [1, 55, 55, 85, 85, 1, 1, 0],
        [-1, 0, 0, 0, 0, 0, 0, 0],
    ],
    np.float32,
)


def near(rng, count: int) -> np.ndarray:
    """Regions around the objects, and elsewhere."""
    rows = OBJECTS[rng.integers(0, 4, count), :5].copy()
    rows[:, 1:] += rng.normal(0, 9, (count, 4))
    rows[:, 3:] = np.maximum(rows[:, 3:], rows[:, 1:3] + 2)
    return rows


@pytest.mark.parametrize("cascade", [True, False])
@pytest.mark.parametrize("aware", [True, False])
def test_all_regions_are_compared_with_the_ground_truth(cascade, aware):
    rois, truth = near(RNG(6), 30), OBJECTS if cascade else OBJECTS[:4, :7]
    options = {"cls_num": 3, "batch_size": -1, "num_img_per_batch": 2, "fg_thr": 0.5, "bg_thr_hg": 0.4}
    options |= {"bg_thr_lw": 0.1, "bbox_thr_hg": 0.8, "iou_weighted": True, "fg_fraction": 0.3}
    how = REG if aware else ONE_FOR_ALL
    tops = testing.run(
        "ProposalTarget", [rois, truth], tops=7, backward=False, proposal_target_param=options, bbox_reg_param=how
    ).tops
    objects, others = [], []
    for roi in [*rois, *truth[truth[:, 0] >= 0, :5]]:

        def size(box):
            return box[0], box[1], box[2] - box[0] + 1, box[3] - box[1] + 1

        best = max(
            ((of_sizes(size(roi[1:]), size(t[1:5]), cascade), -k) for k, t in enumerate(truth) if t[0] == roi[0])
        )
        mine = truth[-best[1]]
        if best[0] >= 0.5:
            if not mine[6]:
                objects.append((roi, mine, best[0]))
        elif 0.1 <= best[0] < 0.4:
            others.append(roi)
    assert len(objects) > 5 and len(others) > 3
    count, width = len(objects) + len(others), 12 if aware else 8
    assert [top.shape for top in tops] == [(count, n, 1, 1) for n in (5, 1, *(width,) * 3, 6, 1)]
    np.testing.assert_allclose(flat(tops[0]), [*(roi for roi, *_ in objects), *others], rtol=1e-6)
    codes, weights, matches = np.zeros((count, width)), np.zeros((count, width)), np.zeros((count, 6))
    for k, (roi, mine, overlap) in enumerate(objects):
        w, h = roi[3:] - roi[1:3] + 1
        gw, gh = mine[3:5] - mine[1:3] + 1
        step = [(mine[1] + gw / 2 - roi[1] - w / 2) / w, (mine[2] + gh / 2 - roi[2] - h / 2) / h]
        slot = slice(4 * (int(mine[5]) if aware else 1), 4 * (int(mine[5]) if aware else 1) + 4)
        codes[k, slot] = (np.array([*step, math.log(gw / w), math.log(gh / h)]) - MEAN) / STD
        weights[k, slot] = overlap <= 0.8
        matches[k] = mine[5], *mine[1:5], overlap
    for top, expected in zip(tops[2:6], (codes, weights, weights, matches), strict=True):
        np.testing.assert_allclose(flat(top), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(tops[1].reshape(-1), matches[:, 0])
    shares = [overlap for *_, overlap in objects]
    scaled = [*(0.3 * count * s / sum(shares) for s in shares), *(0.7 * count / len(others) for _ in others)]
    np.testing.assert_allclose(tops[6].reshape(-1), scaled, rtol=1e-4)


def test_regions_are_drawn_up_to_the_size_of_the_batch():
    rois = near(RNG(7), 60)
    options = {"cls_num": 3, "num_img_per_batch": 2, "img_width": 90, "img_height": 90, "fg_fraction": 0.25}
    backend.random.seed(3)

    def drawn(truth, size, **more):
        return testing.run(
            "ProposalTarget", [rois, truth], tops=6, backward=False, seed=None, **options, batch_size=size, **more
        ).tops

    several = [drawn(OBJECTS, 16) for _ in range(4)]
    for tops in several:
        assert (tops[1].reshape(-1) > 0).sum() == 4 and len(tops[0]) == 16
        known = {tuple(roi) for roi in [*rois, *OBJECTS[:, :5]]}
        assert {tuple(roi) for roi in flat(tops[0])} <= known
    assert len({tops[0].tobytes() for tops in several}) > 1
    assert 16 < len(drawn(OBJECTS, 200)[0]) < 64  # all there are but the ignored, and no more
    tops = drawn(OBJECTS[:4, :7], 200)
    assert len(tops[0]) == 200  # MS-CNN fills the batch
    invented = flat(tops[0])[64:]
    assert (invented[:, 1:] >= 0).all() and (invented[:, 3:] - invented[:, 1:3] >= 31).all()
    assert len(drawn(OBJECTS[4:], 4, append_gtbox=False, bg_thr_lw=0.1, pickup_discard=False)[0]) == 1


# --- losses and accuracies of fields ---------------------------------------------------------------------------------


def cells(rng, items: int, classes: int) -> np.ndarray:
    maps = rng.uniform(0, 40, (items, 6, 4, 5))
    maps[:, 0] = rng.integers(1, classes, (items, 4, 5)) * (rng.random((items, 4, 5)) < 0.25)
    maps[:, 3:5], maps[:, 5] = rng.uniform(10, 40, (items, 2, 4, 5)), rng.random((items, 4, 5))
    return maps


def bounds(whr: float, xyr: float) -> tuple[list[float], list[float]]:
    """Of normalised codes."""
    mean = (np.mean(MEAN[:2]), np.mean(MEAN[2:]))
    std = (math.sqrt(STD[0] * STD[1]), math.sqrt(STD[2] * STD[3]))
    ends = [[(s * e - m) / d for e, m, d in zip((1 / xyr, math.log(whr)), mean, std, strict=True)] for s in (-1, 1)]
    return tuple([a, a, b, b] for a, b in ends)  # type: ignore[return-value]


def losses(scores, codes, maps, chosen, weights, fields, stride, limits, smooth):
    """The mean cross entropy, the mean loss of codes, and the gradients of both, cell by cell."""
    prob = softmax(scores, 1)
    total, count, of_codes, many = 0.0, 0, 0.0, 0
    slopes = np.zeros_like(scores), np.zeros_like(codes)
    for n, y, x in np.ndindex(len(scores), *scores.shape[2:]):
        label = int(maps[n, 0, y, x])
        if not chosen[n, y, x]:
            continue
        total -= math.log(prob[n, label, y, x]) * weights[n, y, x]
        slopes[0][n, :, y, x] = (prob[n, :, y, x] - np.eye(scores.shape[1])[label]) * weights[n, y, x]
        count += 1
        if not label:
            continue
        width, height = fields[n % len(fields)]
        gx, gy, gw, gh = maps[n, 1:5, y, x]
        wanted = [(gx - (x + 0.5) * stride) / width, (gy - (y + 0.5) * stride) / height]
        wanted += [math.log(max(gw, 2) / width), math.log(max(gh, 2) / height)]
        for k in range(4):
            value = min(max(codes[n, k, y, x], limits[0][k]), limits[1][k])
            d = value - (wanted[k] - MEAN[k]) / STD[k]
            of_codes += abs(d) - 0.5 if smooth and abs(d) >= 1 else d * d / 2
            slopes[1][n, k, y, x] = np.sign(d) if smooth and abs(d) >= 1 else d
            many += 1
    return total / count, of_codes / many, slopes[0] / count, slopes[1] / many


@pytest.mark.parametrize(("mode", "kind"), [("bootstrap", "DetectionLoss"), ("all", "Detection")])
def test_detection_loss_is_that_of_ms_cnn(mode, kind):
    rng = RNG(8)
    maps, values = cells(rng, 2, 3), rng.standard_normal((2, 7, 4, 5))
    scores, codes = values[:, :3], values[:, 3:]
    chosen, weights = maps[:, 0] > 0, np.where(maps[:, 0] > 0, maps[:, 5], 1)
    for n in range(2):
        free = [(y, x) for y, x in np.ndindex(4, 5) if maps[n, 0, y, x] == 0 and maps[n, 5, y, x] < 0.6]
        if mode == "all":
            chosen[n][tuple(zip(*free, strict=True))] = True
        for c in (1, 2) if mode == "bootstrap" else ():
            few = max(4, 2 * int((maps[n, 0] == c).sum()))
            for y, x in sorted(free, key=lambda at, n=n, c=c: -scores[n, c, at[0], at[1]])[:few]:
                chosen[n, y, x] = True
    objects = maps[:, 0] > 0
    weights[objects] *= 1 / 3 * chosen.sum() / weights[objects].sum()
    weights[~objects] *= 2 / 3 * chosen.sum() / (chosen & ~objects).sum()
    options = {"cls_num": 3, "lambda": 0.5, "field_w": 30, "field_h": 24, "downsample_rate": 8, "field_whr": 1.5}
    options |= {"field_xyr": 2, "bg_threshold": 0.6, "bg_multiple": 2, "sample_mode": mode, "iou_weighted": True}
    options |= {"pos_neg_weighted": True, "bb_smooth": mode == "all"}
    param = "detection_loss_param" if kind == "DetectionLoss" else "detection_param"
    found = testing.run(kind, [values, maps], bbox_reg_param=REG, loss_weight=[2], dtype=np.float64, **{param: options})
    expected = losses(scores, codes, maps, chosen, weights, [(30, 24)], 8, bounds(1.5, 2), mode == "all")
    np.testing.assert_allclose(
        found.tops[0].reshape(-1), [expected[0] + 0.5 * expected[1], 0.5 * expected[1]], rtol=1e-6
    )
    slope = np.concatenate([expected[2], 0.5 * expected[3]], axis=1)
    np.testing.assert_allclose(found.bottom_diffs[0], 2 * slope, rtol=1e-6, atol=1e-9)


def test_detection_loss_draws_cells():
    rng = RNG(9)
    maps, values = cells(rng, 2, 2), rng.standard_normal((2, 6, 4, 5))
    options = {"cls_num": 2, "field_w": 30, "field_h": 24, "downsample_rate": 8, "bg_threshold": 0.6, "bg_multiple": 1}
    found = [
        testing.run("DetectionLoss", [values, maps], seed=seed, detection_loss_param={**options, "sample_mode": mode})
        for seed, mode in ((1, "random"), (1, "random"), (2, "random"), (1, "mixture"))
    ]
    touched = [(result.bottom_diffs[0][:, 0] != 0) for result in found]
    free = (maps[:, 0] > 0) | (maps[:, 5] < 0.6)
    for each in touched:
        assert (maps[:, 0] > 0)[each].sum() == (maps[:, 0] > 0).sum() and not (each & ~free).any()
    assert (touched[0] == touched[1]).all() and (touched[0] != touched[2]).any()


FIELDS = {"field_w": [30, 20], "field_h": [24, 44], "stride": 8}


@pytest.mark.parametrize(
    ("mining", "ranking", "size"),
    [("bootstrap", "conf_loss", -1), ("bootstrap", "conf_prob", 12), ("random", "conf_loss", 400)],
)
def test_detection_group_loss_is_that_of_cascade_rcnn(mining, ranking, size):
    rng = RNG(10)
    maps, scores, codes = cells(rng, 4, 3), rng.standard_normal((4, 3, 4, 5)), rng.standard_normal((4, 4, 4, 5))
    prob = softmax(scores, 1)
    chosen = np.zeros((4, 4, 5), bool)
    for item in range(2):
        places = [(2 * item + k, y, x) for k, y, x in np.ndindex(2, 4, 5)]
        objects = [at for at in places if maps[at[0], 0, at[1], at[2]] > 0]
        free = [at for at in places if maps[at[0], 0, at[1], at[2]] == 0 and maps[at[0], 5, at[1], at[2]] < 0.7]
        free.sort(key=lambda at: prob[at[0], 0, at[1], at[2]])
        few = max(len(objects), 5) if size == -1 else size - min(len(objects), size // 2)
        if size == 12:
            objects = objects[: size // 2]
            assert len(objects) < 12
        for at in [*objects, *free[:few]]:
            chosen[at] = True
    objects = maps[:, 0] > 0
    weights = np.ones((4, 4, 5))
    weights[objects] *= 0.5 * chosen.sum() / (chosen & objects).sum()
    weights[~objects] *= 0.5 * chosen.sum() / (chosen & ~objects).sum()
    options = {"cls_num": 3, "lambda": 0.5, **FIELDS, "bg_threshold": 0.7, "bg_multiple": 1, "batch_size": size}
    options |= {"neg_mining_type": mining, "neg_ranking_type": ranking, "pos_neg_weighted": True}
    bounded = size == -1
    options |= {"field_whr": 1.5, "field_xyr": 2} if bounded else {"bbox_loss_type": "Euclidean_L2"}
    how = {"detection_group_loss_param": options, "bbox_reg_param": REG, "loss_weight": [2], "dtype": np.float64}
    found = testing.run("DetectionGroupLoss", [scores, codes, maps], propagate_down=[True, True, False], **how)
    limits = bounds(1.5, 2) if bounded else ([-np.inf] * 4, [np.inf] * 4)
    picked = found.bottom_diffs[0][:, 0] != 0
    assert picked.sum() == chosen.sum()
    if size != 12:  # where not all objects fit they are drawn
        np.testing.assert_array_equal(picked, chosen)
    expected = losses(scores, codes, maps, picked, weights, [(30, 24), (20, 44)], 8, limits, bounded)
    np.testing.assert_allclose(
        found.tops[0].reshape(-1), [expected[0] + 0.5 * expected[1], 0.5 * expected[1]], rtol=1e-6
    )
    np.testing.assert_allclose(found.bottom_diffs[0], 2 * expected[2], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.bottom_diffs[1], expected[3], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("group", [True, False])
def test_accuracies_of_fields(group):
    rng = RNG(11)
    maps, scores, codes = cells(rng, 2, 3), rng.standard_normal((2, 3, 4, 5)), 2 * rng.standard_normal((2, 4, 4, 5))
    how = {"bbox_reg_param": REG, "loss_param": {"ignore_label": 2}, "tops": 2, "backward": False}
    options = {"cls_num": 3, "field_whr": 1.5, "field_xyr": 2, "bg_threshold": 0.6}
    if group:
        kind, values, fields, best = "DetectionGroupAccuracy", [scores, codes, maps], [(30, 24), (20, 44)], 1
        how["detection_group_accuracy_param"] = {**options, **FIELDS}
    else:
        kind, values, fields, best = "DetectionAccuracy", [np.concatenate([scores, codes], 1), maps], [(30, 24)], 2
        how["detection_accuracy_param"] = {**options, "field_w": 30, "field_h": 24, "downsample_rate": 8, "top_k": 2}
    right, of_objects, shares = [], [], []
    high = [0.5, 0.5, math.log(1.5), math.log(1.5)]
    for n, y, x in np.ndindex(2, 4, 5):
        label, gx, gy, gw, gh, overlap = maps[n, :, y, x]
        if label == 2 or (label == 0 and overlap >= 0.6):
            continue
        hit = label in np.argsort(-scores[n, :, y, x])[:best]
        right.append(hit)
        if label:
            of_objects.append(hit)
            own = code(codes[n, :, y, x], low=[-v for v in high], high=high)
            box = at_cell(own, x, y, *fields[n % len(fields)], 8)
            shares.append(of_sizes(box, (gx - gw / 2, gy - gh / 2, gw, gh), group))
    found = testing.run(kind, values, **how).tops
    np.testing.assert_allclose(found[0].reshape(-1), [np.mean(right), np.mean(of_objects)], rtol=1e-6)
    np.testing.assert_allclose(found[1].reshape(-1), [np.mean(shares)], rtol=1e-4)


# --- losses of each position -----------------------------------------------------------------------------------------


def test_positions_can_weigh():
    rng = RNG(12)
    scores, labels, weights = rng.standard_normal((5, 3)), rng.integers(0, 3, 5), rng.uniform(0, 2, 5)
    each = -np.log(softmax(scores, 1)[np.arange(5), labels])
    found = testing.run("SoftmaxWithWeightedLoss", [scores, labels, weights], tops=2)
    np.testing.assert_allclose(found.loss, (each * weights).mean(), rtol=1e-5)
    np.testing.assert_allclose(found.tops[1], softmax(scores, 1), rtol=1e-5)
    weighted = (softmax(scores, 1) - np.eye(3)[labels]) * weights[:, None] / 5
    np.testing.assert_allclose(found.bottom_diffs[0], weighted, rtol=1e-4, atol=1e-6)
    tops = testing.run("SoftmaxWithLoss", [scores, labels], tops=3, loss_weight=[1, 0, 0]).tops
    np.testing.assert_allclose(tops[0], each.mean(), rtol=1e-5)
    np.testing.assert_allclose(tops[1], softmax(scores, 1), rtol=1e-5)
    np.testing.assert_allclose(tops[2], each, rtol=1e-5)


def test_smooth_l1_loss_tells_what_each_region_loses():
    rng = RNG(13)
    a, b, outside = (rng.standard_normal((4, 3, 2, 1)) for _ in range(3))
    inside = np.ones((4, 3, 2, 1))
    tops = testing.run("SmoothL1Loss", [a, b, inside, outside], tops=2, loss_weight=[1, 0], sigma=2).tops
    size = np.abs(a - b)
    each = np.where(size < 0.25, 2 * size**2, size - 0.125) * outside
    np.testing.assert_allclose(tops[1], each.sum(axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(tops[0], each.sum() / 4, rtol=1e-5)


# --- evaluation ----------------------------------------------------------------------------------------------------


def test_detections_are_judged_in_pixels_of_the_image(tmp_path):
    (tmp_path / "sizes.txt").write_text("a 200 100\nb 50 50\n")
    found = [
        [0, -1, -1, -1, -1, -1, -1],
        [0, 10, 10, 29, 29, 1, 0.5],
        [0, 11, 10, 29, 29, 1, 0.9],
        [0, 60, 60, 79, 79, 1, 0.3],
        [0, 60, 10, 79, 29, 2, 0.8],
    ]
    truth = [[0, 10, 10, 29, 29, 1, 0, 0], [0, 62, 62, 79, 79, 1, 0, 1], [-1] * 8]
    how = {"num_classes": 4, "evaluate_difficult_gt": False, "name_size_file": str(tmp_path / "sizes.txt")}
    tops = testing.run("DetectionEvaluate", [found, truth, [[100, 100]]], backward=False, **how).tops[0][0, 0]
    expected = [[-1, 1, 1, -1, -1], [-1, 2, 0, -1, -1], [-1, 3, 0, -1, -1]]
    expected += [[0, 1, 0.9, 1, 0], [0, 1, 0.5, 0, 1], [0, 1, 0.3, 0, 0], [0, 2, 0.8, 0, 1]]
    np.testing.assert_allclose(tops, expected, rtol=1e-6)


def test_precision_is_averaged_at_101_recalls():
    assert average_precision(np.array([0.9, 0.8, 0.7]), np.array([1, 0, 1]), 4, "101point") == pytest.approx(
        (26 * 1 + 25 * 2 / 3) / 101
    )


# --- whole nets ----------------------------------------------------------------------------------------------------

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 48 dim: 64 } } }
layer { name: "truth" type: "Input" top: "truth" top: "gt" input_param { shape { dim: 4 dim: 6 dim: 6 dim: 8 } shape { dim: 3 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 8 stride: 8 weight_filler { type: "xavier" } } }
layer { name: "cls" type: "Convolution" bottom: "conv" top: "cls" convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "box" type: "Convolution" bottom: "conv" top: "box" convolution_param { num_output: 8 kernel_size: 1 weight_filler { type: "gaussian" std: 0.001 } } }
layer { name: "cls2" type: "Reshape" bottom: "cls" top: "cls2" reshape_param { shape { dim: -1 dim: 2 dim: 0 dim: 0 } } }
layer { name: "box2" type: "Reshape" bottom: "box" top: "box2" reshape_param { shape { dim: -1 dim: 4 dim: 0 dim: 0 } } }
layer { name: "rpn" type: "DetectionGroupLoss" bottom: "cls2" bottom: "box2" bottom: "truth" top: "rpn"
  detection_group_loss_param { cls_num: 2 objectness: true FIELDS } }
layer { name: "prob" type: "Softmax" bottom: "cls2" top: "prob" }
layer { name: "proposals" type: "BoxGroupOutput" bottom: "prob" bottom: "box2" top: "proposals"
  box_group_output_param { iou_thr: 0.7 box_group_param { FIELDS } } }
TARGETS
layer { name: "pool" type: "ROIPooling" bottom: "conv" bottom: "rois" top: "pool" roi_pooling_param { pooled_w: 2 pooled_h: 2 spatial_scale: 0.125 } }
layer { name: "scores" type: "InnerProduct" bottom: "pool" top: "scores" inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "codes" type: "InnerProduct" bottom: "pool" top: "codes" inner_product_param { num_output: 8 weight_filler { type: "gaussian" std: 0.001 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "labels" top: "loss" }
layer { name: "boxes" type: "SmoothL1Loss" bottom: "codes" bottom: "targets" bottom: "inside" bottom: "outside" top: "boxes" loss_weight: 1 }
layer { name: "next" type: "DecodeBBox" bottom: "codes" bottom: "rois" bottom: "matches" top: "next" }
SECOND
layer { name: "pool2" type: "ROIPooling" bottom: "conv" bottom: "rois2" top: "pool2" roi_pooling_param { pooled_w: 2 pooled_h: 2 spatial_scale: 0.125 } }
layer { name: "codes2" type: "InnerProduct" bottom: "pool2" top: "codes2" inner_product_param { num_output: 8 weight_filler { type: "gaussian" std: 0.001 } } }
layer { name: "boxes2" type: "SmoothL1Loss" bottom: "codes2" bottom: "targets2" bottom: "inside2" bottom: "outside2" top: "boxes2" loss_weight: 1 }
"""
TARGET = """layer { name: "t%s" type: "ProposalTarget" bottom: "%s" bottom: "gt" top: "rois%s" top: "labels%s" top: "targets%s"
  top: "inside%s" top: "outside%s" top: "matches%s" bbox_reg_param { cls_aware: false }
  proposal_target_param { cls_num: 3 batch_size: %s num_img_per_batch: 2 img_width: 64 img_height: 48 bg_thr_lw: 0 } }"""


def test_two_stages_learn_together(tmp_path):
    """As the definitions of Cascade R-CNN have them: targets get no gradient, though what they are made from does."""
    fields = "field_w: 24 field_w: 40 field_h: 24 field_h: 20 stride: 8"
    stages = [TARGET % (n, source, *[n] * 6, size) for n, source, size in (("", "proposals", 16), ("2", "next", -1))]
    text = NET.replace("FIELDS", fields).replace("TARGETS", stages[0]).replace("SECOND", stages[1])
    (tmp_path / "net.prototxt").write_text(text)
    net = Net(tmp_path / "net.prototxt", proto.TRAIN)
    rng = RNG(14)
    net.blobs["data"].data[...] = rng.standard_normal(net.blobs["data"].shape)
    maps = np.zeros(net.blobs["truth"].shape)
    maps[:, 0, 2, 3], maps[:, 1:5, 2, 3] = 1, [[30, 22, 24, 20]] * 4
    net.blobs["truth"].data[...] = maps
    net.blobs["gt"].data[...] = [[0, 18, 12, 41, 31, 1, 0, 0], [1, 20, 10, 44, 30, 2, 0, 0], [1, 2, 2, 20, 20, 1, 0, 0]]
    for _ in range(2):
        net.forward()
        net.backward()
    assert net.blobs["rois"].shape == (16, 5, 1, 1) and net.blobs["rois2"].shape[0] > 2
    assert all(np.isfinite(net.blobs[name].data).all() for name in ("rpn", "loss", "boxes", "boxes2"))
    assert np.abs(net.params["conv"][0].diff).max() > 0 and not net.blobs["targets"].diff.any()
