"""The tower of a siamese net on single images: its features, their plot, nearest neighbours, the command."""

from __future__ import annotations

import numpy as np
import pytest
from cli_case import run

from minicaffe import models, proto
from minicaffe.data.write import write_images, write_pairs
from minicaffe.embedding import _nearest, extract, find_tower, neighbour_accuracy, tower_of_file
from minicaffe.errors import DataError, NetError
from minicaffe.net import Net
from minicaffe.proto.text import parse

PNG = b"\x89PNG\r\n"

SIAMESE = """\
name: "little_siamese"
layer {
  name: "pairs" type: "Data" top: "pairs" top: "similar"
  transform_param { scale: 0.01 }
  data_param { source: "little_siamese_test_lmdb" batch_size: 3 backend: LMDB }
}
layer { name: "slice" type: "Slice" bottom: "pairs" top: "a" top: "b" slice_param { axis: 1 slice_point: 1 } }
layer { name: "ip" type: "InnerProduct" bottom: "a" top: "ip" param { name: "w" } param { name: "c" }
        inner_product_param {
          num_output: 4 weight_filler { type: "xavier" } bias_filler { type: "constant" value: 2 }
        } }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
layer { name: "feat" type: "InnerProduct" bottom: "ip" top: "feat" param { name: "f" } param { name: "g" }
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "ip_p" type: "InnerProduct" bottom: "b" top: "ip_p" param { name: "w" } param { name: "c" }
        inner_product_param { num_output: 4 } }
layer { name: "relu_p" type: "ReLU" bottom: "ip_p" top: "ip_p" }
layer { name: "feat_p" type: "InnerProduct" bottom: "ip_p" top: "feat_p" param { name: "f" } param { name: "g" }
        inner_product_param { num_output: 2 } }
layer { name: "loss" type: "ContrastiveLoss" bottom: "feat" bottom: "feat_p" bottom: "similar" top: "loss" }
"""
SOLVER = """\
net: "net.prototxt"
test_iter: 2
test_interval: 2
base_lr: 0.001
lr_policy: "fixed"
display: 2
max_iter: 4
snapshot_prefix: "little"
random_seed: 3
"""


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Eleven labelled images of 2 x 3 pixels, their pairs, a siamese net and its solver, all in the working folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    labels = np.arange(11) % 3
    pixels = np.clip(labels[:, None, None] * 90 + rng.integers(0, 20, (11, 2, 3)), 0, 255).astype(np.uint8)
    write_images("little_test_lmdb", pixels, labels)
    pairs = rng.integers(0, 11, (8, 2))
    write_pairs("little_siamese_test_lmdb", pixels, pairs, labels[pairs[:, 0]] == labels[pairs[:, 1]], "lmdb")
    (tmp_path / "net.prototxt").write_text(SIAMESE)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    return pixels, labels


@pytest.mark.parametrize("path", [
    "siamese/mnist_siamese_train_test.prototxt", "siamese/digits_train_test.prototxt",
    "siamese/legacy/mnist_siamese_train_test_v1.prototxt",
])  # fmt: skip
def test_the_tower_of_the_shipped_nets(path):
    tower = tower_of_file(models.find(path))
    assert [layer.name for layer in tower.layers] == ["conv1", "pool1", "conv2", "pool2", "ip1", "relu1", "ip2", "feat"]
    assert (tower.image, tower.feature) == ("data", "feat")
    assert tower.data.transform_param.scale == 0.00390625
    assert "test" in tower.data.data_param.source


def test_a_split_in_the_tower_belongs_to_it(images):
    more = SIAMESE + 'layer { name: "norm" type: "Reduction" bottom: "feat" top: "norm" }\n'
    net = Net(parse(more, proto.NetParameter()), 1)
    tower = find_tower(layer.layer_param for layer in net.layers)
    assert [layer.name for layer in tower.layers] == ["ip", "relu", "feat", "feat_feat_0_split"]
    assert tower.feature == "feat_feat_0_split_0"


@pytest.mark.parametrize("text, message", [
    ('layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" }', "found 0"),
    (SIAMESE.replace('bottom: "feat" bottom: "feat_p"', 'bottom: "feat" bottom: "feat"'), "no tower can be told apart"),
    (SIAMESE.replace('type: "Data"', 'type: "DummyData"'), "0 Data layers"),
])  # fmt: skip
def test_nets_without_a_tower(text, message):
    with pytest.raises(NetError, match=message):
        find_tower(parse(text, proto.NetParameter()).layer)


def test_features_are_those_of_the_net_itself(images):
    """All images once, transformed as the net's pairs are, though eleven is no multiple of the batch."""
    pixels, labels = images
    net = Net("net.prototxt", 1)
    tower = find_tower(layer.layer_param for layer in net.layers)
    features, found = extract(tower, "little_test_lmdb", lambda alone: alone.share_with(net), batch_size=4)
    np.testing.assert_array_equal(found, labels)
    w, c, f, g = (blob.data for name in ("ip", "feat") for blob in net.params[name])
    hidden = np.maximum(pixels.reshape(11, -1) * np.float32(0.01) @ w.T + c, 0)
    np.testing.assert_allclose(features, hidden @ f.T + g, rtol=1e-5, atol=1e-6)


def test_features_of_a_leveldb(images):
    pixels, labels = images
    write_images("other_leveldb", pixels, labels, "leveldb")
    tower = tower_of_file("net.prototxt")
    net = Net("net.prototxt", 1)
    features = [
        extract(tower, path, lambda alone: alone.share_with(net))[0] for path in ("little_test_lmdb", "other_leveldb")
    ]
    np.testing.assert_array_equal(*features)


def majority(labels):
    """The most frequent label, the smallest of equally frequent ones."""
    return min(set(labels.tolist()), key=lambda label: (-(labels == label).sum(), label))


@pytest.mark.parametrize("k", [1, 4, 5])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_neighbours_are_those_of_a_search_through_all(k, leave_one_out):
    rng = np.random.default_rng(k)
    labels = rng.integers(0, 4, 150)
    features = rng.normal(size=(150, 2)) + labels[:, None] * 0.7
    first = 0 if leave_one_out else 100
    hits = 0
    for i in range(first, 150):
        distances = np.linalg.norm(features - features[i], axis=1)
        distances[i] = np.inf
        candidates = distances if leave_one_out else distances[:100]
        hits += majority(labels[candidates.argsort()[:k]]) == labels[i]
    reference = None if leave_one_out else (features[:100], labels[:100])
    assert neighbour_accuracy(features[first:], labels[first:], k, reference) == hits / (150 - first)


@pytest.mark.parametrize("dimensions", [1, 2, 5, 40])
@pytest.mark.parametrize("scale, offset", [(1, 0), (1e-3, 100), (1e4, -7)])
def test_the_nearest_are_found_among_many_points(dimensions, scale, offset):
    """Clustered, some of them equal; features are float32."""
    rng = np.random.default_rng(dimensions)
    others = rng.normal(size=(3000, dimensions)) + rng.integers(0, 5, (3000, 1)) * 3
    others[1000:1100] = others[:100]
    points = np.concatenate([others[::50], rng.normal(size=(70, dimensions)) * 20])
    points, others = ((values * scale + offset).astype(np.float32) for values in (points, others))
    found = _nearest(points, others, 6)
    distances = np.sqrt(((points[:, None].astype(np.float64) - others) ** 2).sum(axis=2))
    np.testing.assert_allclose(np.take_along_axis(distances, found, 1), np.sort(distances)[:, :6], rtol=1e-9)
    assert all(len(set(row)) == 6 for row in found)


def test_of_points_that_are_equally_far_the_first_are_the_nearest():
    points = np.random.default_rng(0).integers(0, 9, (400, 2)).astype(np.float32)
    distances = ((points[:, None] - points) ** 2).sum(axis=2)
    np.testing.assert_array_equal(_nearest(points, points, 7), distances.argsort(axis=1, kind="stable")[:, :7])


def test_features_that_are_not_finite():
    features = np.ones((5, 2))
    features[3, 1] = np.nan
    with pytest.raises(DataError, match="features hold NaN or infinity"):
        neighbour_accuracy(features, np.zeros(5))


def test_an_image_is_not_its_own_neighbour_even_among_equal_ones():
    features, labels = np.zeros((4, 2)), np.array([7, 7, 7, 9])
    assert neighbour_accuracy(features, labels, 3) == 0.75
    assert neighbour_accuracy(np.array([[0.0], [1.0], [10.0], [11.0]]), np.array([1, 2, 3, 3]), 1) == 0.5


def test_too_few_neighbours():
    with pytest.raises(DataError, match="5 nearest neighbours of an image need at least 6 images; found 5"):
        neighbour_accuracy(np.zeros((5, 2)), np.zeros(5), 5)


def test_the_command(capsys, images, tmp_path):
    pytest.importorskip("matplotlib")
    pixels, labels = images
    assert run(capsys, "train", "-solver", "solver.prototxt").status == 0
    write_images("reference_lmdb", pixels, labels)
    trained = ("-model", "net.prototxt", "-weights", "little_iter_4.caffemodel")
    databases = ("-source", "little_test_lmdb", "-train_source", "reference_lmdb")
    outcome = run(capsys, "embed", *trained, *databases, "-output", "out.png")
    assert outcome.status == 0
    assert [m for m in outcome.messages if m.startswith("Accuracy")][0] == (
        "Accuracy of 1 nearest neighbour: 1 (11 images of little_test_lmdb against 11 of reference_lmdb)"
    )
    assert (tmp_path / "out.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("change, message", [
    (("-model", "lenet/lenet.prototxt"), "a siamese net has one ContrastiveLoss layer; found 0"),
    (("-source", "absent_lmdb"), "absent_lmdb: not found"),
    (("-weights", "absent.caffemodel"), "File not found: absent.caffemodel"),
    (("-source", "little_siamese_test_lmdb"), "layer 'ip'"),
])  # fmt: skip
def test_the_commands_errors(capsys, images, tmp_path, change, message):
    Net("net.prototxt", 1).save("little.caffemodel")
    args = {"-model": "net.prototxt", "-weights": "little.caffemodel", "-source": "little_test_lmdb"} | dict([change])
    outcome = run(capsys, "embed", *(part for pair in args.items() for part in pair))
    assert outcome.status == 1
    assert message in outcome.err[outcome.err.index("error:") :]
    assert not (tmp_path / "embedding.png").exists()


def test_training_leaves_the_embedding_where_labelled_images_lie_beside_the_pairs(capsys, images, tmp_path):
    pytest.importorskip("matplotlib")
    outcome = run(capsys, "train", "-solver", "solver.prototxt")
    assert (tmp_path / "little_embedding.png").read_bytes().startswith(PNG)
    assert (tmp_path / "little_loss.png").read_bytes().startswith(PNG)
    scores = [m for m in outcome.messages if m.startswith("Accuracy")]
    again = run(
        capsys, "embed", "-model", "net.prototxt", "-weights", "little_iter_4.caffemodel", "-source", "little_test_lmdb"
    )
    assert scores == [m for m in again.messages if m.startswith("Accuracy")]
    assert "against the others" in scores[0]


def test_training_on_pairs_alone_says_why_there_is_no_embedding(capsys, images, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "little_test_lmdb").rename(tmp_path / "elsewhere")
    outcome = run(capsys, "train", "-solver", "solver.prototxt")
    assert outcome.status == 0
    assert outcome.messages[-1].startswith(
        "No plot of the features: there are no labelled images beside little_siamese_test_lmdb"
    )
    assert not (tmp_path / "little_embedding.png").exists()
