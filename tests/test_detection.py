"""Databases of boxes, solvers that test by average precision, and ``detect`` for nets that find boxes."""

from __future__ import annotations

import json
import logging
import re
import shutil

import numpy as np
import pytest
from cli_case import run
from PIL import Image

from minicaffe import models, proto
from minicaffe.data.annoset import write_annotated
from minicaffe.data.annotations import Box
from minicaffe.data.db import open_db
from minicaffe.data.scenes import scenes
from minicaffe.errors import NetError, PrototxtError
from minicaffe.net import Net
from minicaffe.proto.files import read_solver
from minicaffe.solvers import create, get_solver

XML = """<annotation><size><width>40</width><height>20</height></size>
<object><name>cat</name><difficult>1</difficult><bndbox><xmin>4</xmin><ymin>2</ymin><xmax>20</xmax><ymax>10</ymax>
</bndbox></object><object><name>dog</name><bndbox><xmin>10</xmin><ymin>5</ymin><xmax>30</xmax><ymax>15</ymax></bndbox>
</object><object><name>cat</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>8</xmax><ymax>4</ymax></bndbox></object>
</annotation>"""
COCO = {
    "image": {"width": 40, "height": 20},
    "annotation": [
        {"category_id": "cat", "bbox": [4, 2, 16, 8], "iscrowd": 1},
        {"category_id": "dog", "bbox": [10, 5, 20, 10]},
        {"category_id": "cat", "bbox": [0, 0, 8, 4], "iscrowd": 0},
    ],
}
WHOLE = {
    "images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 20}],
    "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
    "annotations": [
        {"image_id": 7, "category_id": {"cat": 17, "dog": 18}[item["category_id"]], **{k: item[k] for k in item if k != "category_id"}}
        for item in COCO["annotation"]
    ],
}  # fmt: skip
FORMS = {
    "xml": XML,
    "json": json.dumps(COCO),
    "whole": json.dumps(WHOLE),
    "txt": "1 4 2 20 10\n2 10 5 30 15\n1 0 0 8 4\n",
}
LABELS = 'item { name: "background" label: 0 } item { name: "cat" label: 1 } item { name: "dog" label: 2 }'


@pytest.fixture
def photos(tmp_path, in_folder):
    in_folder(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)).save("a.png")
    (tmp_path / "labels.prototxt").write_text(LABELS)
    for form, text in FORMS.items():
        (tmp_path / f"boxes.{form}").write_text(text)
        (tmp_path / f"{form}.txt").write_text(f"a.png boxes.{form}\n")
    return tmp_path


def records(path) -> list[tuple[bytes, proto.AnnotatedDatum]]:
    with open_db(path, "lmdb") as database:
        database.seek_to_first()
        found = []
        while True:
            key, value = database.item()
            found.append((key, proto.AnnotatedDatum.FromString(value)))
            if not database.next():
                return found


@pytest.mark.parametrize("form", FORMS)
def test_annotations_of_every_form_make_the_same_record(form, photos, capsys):
    kind = "json" if form == "whole" else form
    outcome = run(
        capsys, "convert_annoset", "-anno_type=detection", f"-label_type={kind}", "-label_map_file=labels.prototxt",
        "-encoded", ".", f"{form}.txt", "db",
    )  # fmt: skip
    assert "1 images; boxes: 2 of label 1, 1 of label 2" in outcome.out
    [(key, record)] = records("db")
    assert key == b"00000000_a.png"
    assert record.type == proto.AnnotatedDatum.BBOX
    assert (record.datum.encoded, record.datum.height, record.datum.width, record.datum.label) == (True, 20, 40, -1)
    groups = {group.group_label: group.annotation for group in record.annotation_group}
    assert list(groups) == [1, 2]
    assert [item.instance_id for item in groups[1]] == [0, 1]
    box = groups[1][0].bbox
    assert (box.xmin, box.ymin, box.xmax, box.ymax) == pytest.approx((0.1, 0.1, 0.5, 0.5))
    assert box.difficult == (form != "txt")
    box = groups[2][0].bbox
    assert (box.xmin, box.ymin, box.xmax, box.ymax) == pytest.approx((0.25, 0.25, 0.75, 0.75))


def test_labels_and_resizing(photos, capsys):
    (photos / "list.txt").write_text("a.png 3\n")
    run(capsys, "convert_annoset", "--min_dim", "10", ".", "list.txt", "db")
    [(_, record)] = records("db")
    assert not record.HasField("type")
    assert (record.datum.label, record.datum.channels, record.datum.height, record.datum.width) == (3, 3, 10, 20)


@pytest.mark.parametrize(
    "form, text, problem",
    [
        ("xml", XML.replace("dog", "cow"), "Unknown name: 'cow'"),
        ("xml", "<annotation>", "not a file of boxes"),
        (
            "xml",
            XML.replace("<annotation>", "<?xml version='1.0' encoding='none'?><annotation>"),
            "not a file of boxes",
        ),
        (
            "xml",
            re.sub("<width>.*?</width>", "<width>0</width>", XML),
            "size of the image must be positive; found .* x 0",
        ),
        ("json", "[1, 2]", "not a file of boxes"),
        ("json", "[" * 99999, "not a file of boxes"),
        (
            "json",
            json.dumps(WHOLE).replace("true", "1").replace('"bbox": [', f'"bbox": [{10**400}, '),
            "not a file of boxes",
        ),
        ("txt", "1 1e400 1 2 2\n", "corners of boxes must be numbers"),
        ("txt", "3000000000 1 1 2 2\n", "labels must be whole numbers of 32 bits; found 3000000000"),
        ("txt", "1 2 3\n", "line 1: expected 'label xmin ymin xmax ymax'"),
        ("json", json.dumps({**WHOLE, "images": []}), "not a file of boxes|has no image"),
    ],
)
def test_annotations_that_are_refused(form, text, problem, photos, capsys):
    (photos / f"boxes.{form}").write_text(text)
    outcome = run(
        capsys, "convert_annoset", "--anno_type", "detection", "--label_type", form, "--label_map_file",
        "labels.prototxt", ".", f"{form}.txt", "db",
    )  # fmt: skip
    assert outcome.status != 0
    assert re.search(problem, outcome.err)
    assert not (photos / "db").exists()


# --- tests of solvers ---------------------------------------------------------------------------------------------------

NET = """
layer { name: "data" type: "AnnotatedData" top: "data" top: "label" data_param { source: "db" backend: LMDB batch_size: 2 } }
layer { name: "found" type: "DummyData" top: "found" include { phase: TEST } dummy_data_param { shape { dim: 1 dim: 1
  dim: 3 dim: 7 } } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" include { phase: TRAIN } pooling_param { pool: AVE
  global_pooling: true } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" include { phase: TRAIN } inner_product_param {
  num_output: 1 } }
layer { name: "loss" type: "Reduction" bottom: "ip" top: "loss" loss_weight: 1 include { phase: TRAIN } }
layer { name: "quiet" type: "Silence" bottom: "label" include { phase: TRAIN } }
layer { name: "quiet" type: "Silence" bottom: "data" include { phase: TEST } }
layer { name: "map" type: "DetectionEvaluate" bottom: "found" bottom: "label" top: "map" include { phase: TEST }
  detection_evaluate_param { num_classes: 3 } }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 test_iter: 2 test_interval: 10
eval_type: "detection" show_per_class_result: true snapshot_prefix: "s" """


@pytest.fixture
def solver_folder(tmp_path, in_folder):
    in_folder(tmp_path)
    boxes = [Box(1, 0.1, 0.1, 0.5, 0.5), Box(2, 0.5, 0.5, 0.9, 0.9)]
    write_annotated("db", np.zeros((4, 1, 8, 8), np.uint8), [boxes] * 4)
    (tmp_path / "net.prototxt").write_text(NET)
    return tmp_path


def test_a_solver_tests_by_average_precision(solver_folder, caplog):
    (solver_folder / "solver.prototxt").write_text(SOLVER)
    solver = get_solver("solver.prototxt")
    rows = [[0, 1, 0.9, 0.1, 0.1, 0.5, 0.5], [0, 1, 0.8, 0.6, 0.6, 0.9, 0.9], [1, 1, 0.7, 0.1, 0.1, 0.5, 0.5]]
    solver.test_nets[0].blobs["found"].data[0, 0] = rows
    heard = []
    solver.monitors.append(type("Heard", (Quiet,), {"test": lambda self, i, n, outputs, loss: heard.extend(outputs)})())
    with caplog.at_level(logging.INFO, "minicaffe"):
        solver.test_all()
    # two batches: of 4 truths of class 1, found are all; the wrong one lies between
    expected = (0.5 * 1 + 0.5 * 4 / 6) / 2
    assert heard[0].value == pytest.approx(expected, rel=0.2)
    assert "class2: 0" in caplog.text
    assert f"Test net output #0: map = {heard[0].value:g}" in caplog.text


class Quiet:
    """A monitor that does nothing but what a test gives it."""

    def __getattr__(self, name):
        return lambda *_, **__: None


@pytest.mark.parametrize("field", ['eval_type: "segmentation"', 'ap_version: "12point"'])
def test_unknown_ways_to_test_are_refused(solver_folder, field):
    (solver_folder / "solver.prototxt").write_text(SOLVER.replace('eval_type: "detection"', "") + field)
    with pytest.raises(PrototxtError, match=field.partition(":")[0]):
        get_solver("solver.prototxt")


def test_outputs_that_change_their_shape_have_no_mean(solver_folder):
    (solver_folder / "solver.prototxt").write_text(SOLVER.replace("detection", "classification"))
    solver = get_solver("solver.prototxt")
    solver.test_nets[0].blobs["found"].data[0, 0, :, :2] = [[0, 1], [0, 2], [-1, -1]]
    with pytest.raises(NetError, match='changes its shape.*eval_type: "detection"'):
        solver.test_all()


# --- models/ssd and detect ----------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path, in_folder):
    """Weights of the SSD for digits, as its fillers make them, and scenes as pictures."""
    in_folder(tmp_path)
    Net(models.find("ssd/deploy.prototxt"), proto.TEST).save("ssd.caffemodel")
    for n, (image, _) in enumerate(scenes("test", 2)):
        Image.fromarray(image[0]).save(f"scene{n}.png")
    return tmp_path


def test_detect_writes_a_table_and_draws(weights, capsys):
    shutil.copytree(weights, weights / "scenes", ignore=shutil.ignore_patterns("*.caffemodel", "scenes"))
    how = ("--model_def", "ssd/deploy.prototxt", "--pretrained_model", "ssd.caffemodel", "--threshold", "0.05")
    how += ("--label_map_file", "ssd/labels.pbtxt")
    shown = run(capsys, "detect", "scene0.png", *how).out.splitlines()
    assert shown[0] == "filename,label,name,confidence,xmin,ymin,xmax,ymax"
    assert len(shown) > 1
    _, label, name, confidence, *corners = shown[1].split(",")
    assert int(name) == int(label) - 1
    assert 0.05 <= float(confidence) <= 1
    assert all(0 <= float(corner) <= 96 for corner in corners)
    run(capsys, "detect", "scene0.png", "found.csv", "--draw", "found.png", *how)
    assert (weights / "found.csv").read_text().splitlines() == shown
    with Image.open("found.png") as picture:
        assert picture.size == (480, 480)
        assert len(picture.getcolors(1 << 20)) > 10
    run(capsys, "detect", "scenes", "all.csv", "--draw", "drawn", *how)
    assert sorted(path.name for path in (weights / "drawn").iterdir()) == ["scene0.png", "scene1.png"]


def test_the_ssd_learns(tmp_path, in_folder, capsys):
    """A few steps: the loss falls, gradients reach the first layer, and the test net says a precision."""
    in_folder(tmp_path)
    run(capsys, "data", "scenes", "--count", "100")
    solver = read_solver(models.find("ssd/solver.prototxt"))
    solver.net = str(models.find("ssd/train_val.prototxt"))
    solver.random_seed, solver.display, solver.test_iter[0] = 1, 0, 1
    made = create(solver)
    made.step(1)
    first = float(made.net.blobs["loss"].data)
    before = made.net.params["conv1"][0].data.copy()
    made.step(12)
    assert float(made.net.blobs["loss"].data) < first
    assert np.abs(made.net.params["conv1"][0].data - before).max() > 0
    made.test_all()
