"""MultiStageMeanfield against a lattice of plain NumPy, and against sums over all pairs of pixels."""

from __future__ import annotations

import numpy as np
import pytest

from minicaffe import Net, proto, testing
from minicaffe.errors import DataError, LayerError
from minicaffe.kernels.cpu.lattice import Lattice

RNG = np.random.default_rng(0)
HOW = {"num_iterations": 3, "theta_alpha": 4, "theta_beta": 3, "theta_gamma": 2}
WEIGHTS = {"spatial_filter_weights_str": "1 2 3", "bilateral_filter_weights_str": "2 1 0.5"}


def elevation(d):
    """The (d + 1, d) matrix whose columns are orthogonal, sum to 0, and are as long as the lattice's blur asks."""
    columns = [np.array([1.0] * j + [-j] + [0.0] * (d - j)) for j in range(1, d + 1)]
    return np.stack([c / np.linalg.norm(c) for c in columns], axis=1) * np.sqrt(2 / 3) * (d + 1)


def simplex(point):
    """The d + 1 vertices around a point of the plane, and the barycentric coordinates of the point among them.

    On a border between simplices, of equal coordinates the earlier counts as the larger.
    """
    d = len(point) - 1
    point = np.round(point, 9)
    zero = (d + 1) * np.round(point / (d + 1))
    while (excess := int(zero.sum()) // (d + 1)) != 0:
        order = np.argsort(-(point - zero), kind="stable")
        zero[order[-1 if excess > 0 else 0]] -= (d + 1) * np.sign(excess)
    order = np.argsort(-(point - zero), kind="stable")
    vertices = [zero]
    for color in range(1, d + 1):
        vertex = zero + color
        vertex[order[d + 1 - color :]] -= d + 1
        vertices.append(vertex)
    system = np.vstack([np.stack(vertices, axis=1), np.ones(d + 1)])
    return [tuple(v.astype(int)) for v in vertices], np.linalg.lstsq(system, np.append(point, 1), rcond=None)[0]


def lattice_matrix(points):
    """What multiplies values of points to give the filtered ones."""
    n, d = points.shape
    placed = [simplex(point) for point in points @ elevation(d).T]
    index = {vertex: i for i, vertex in enumerate(sorted({v for vertices, _ in placed for v in vertices}))}
    splat = np.zeros((len(index), n))
    for i, (vertices, shares) in enumerate(placed):
        assert min(shares) > -1e-8
        splat[[index[v] for v in vertices], i] += shares
    blur = np.eye(len(index))
    for direction in range(d + 1):
        step = 1 - (d + 1) * np.eye(d + 1, dtype=int)[direction]
        one = np.eye(len(index))
        for vertex, i in index.items():
            for way in (step, -step):
                if (other := index.get(tuple(np.add(vertex, way)))) is not None:
                    one[i, other] += 0.5
        blur = one @ blur
    return splat.T @ blur @ splat / (1 + 2.0**-d)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_lattice(d):
    points, values = RNG.uniform(-2, 2, (40, d)), RNG.standard_normal((40, 3))
    lattice, matrix = Lattice(points), lattice_matrix(points)
    np.testing.assert_allclose(lattice.filter(values), matrix @ values, atol=1e-12)
    np.testing.assert_allclose(lattice.filter(values, backward=True), matrix.T @ values, atol=1e-12)


def gaussian_matrix(points):
    return np.exp(-0.5 * ((points[:, None] - points) ** 2).sum(axis=-1))


@pytest.mark.parametrize(("d", "tolerance"), [(2, 0.1), (5, 0.15)])
def test_the_lattice_is_near_the_gaussian(d, tolerance):
    """Means of what is smooth over many points differ, in the mean, by so much of their deviation."""
    points = RNG.uniform(0, 3, (1500, d))
    values = np.sin(points.sum(axis=1, keepdims=True)) + points[:, :1]
    ones = np.ones_like(values)
    lattice, exact = Lattice(points), gaussian_matrix(points)
    found = lattice.filter(values) / lattice.filter(ones)
    expected = exact @ values / (exact @ ones)
    assert np.sqrt(np.mean((found - expected) ** 2)) < tolerance * expected.std()
    assert np.corrcoef(found[:, 0], expected[:, 0])[0, 1] > 0.99


def softmax(q):
    powers = np.exp(q - q.max(axis=0))
    return powers / powers.sum(axis=0)


def inferred(scores, start, image, spatial, bilateral, compatibility, matrix_of):
    classes, height, width = scores.shape
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([columns.ravel(), rows.ravel()], axis=1)
    colours = image.reshape(3, -1).T
    near = matrix_of(places / HOW["theta_gamma"])
    alike = matrix_of(np.hstack([places / HOW["theta_alpha"], colours / HOW["theta_beta"]]))
    near, alike = near / near.sum(axis=1, keepdims=True), alike / alike.sum(axis=1, keepdims=True)
    u, q = scores.reshape(classes, -1), start.reshape(classes, -1)
    for _ in range(HOW["num_iterations"]):
        p = softmax(q)
        q = u - compatibility @ (spatial @ p @ near.T + bilateral @ p @ alike.T)
    return q.reshape(scores.shape)


def bottoms():
    return [RNG.standard_normal((2, 3, 4, 5)), RNG.standard_normal((2, 3, 4, 5)), RNG.uniform(0, 8, (2, 3, 4, 5))]


def test_mean_field_inference():
    inputs, params = bottoms(), RNG.standard_normal((3, 1, 1, 3, 3))
    found = testing.run(
        "MultiStageMeanfield", inputs, params=list(params), backward=False, dtype=np.float64, **HOW, **WEIGHTS
    ).tops[0]
    for n in range(2):
        expected = inferred(*(x[n] for x in inputs), *params[:, 0, 0], lattice_matrix)
        np.testing.assert_allclose(found[n], expected, atol=1e-4)


def test_it_draws_neighbours_together_as_all_pairs_would():
    """Two halves of different colours, their scores noisy; with sums over all pairs q is the same to 5 percent."""
    image, scores = np.zeros((1, 3, 12, 12)), 0.5 * RNG.standard_normal((1, 3, 12, 12))
    image[..., 6:] = 20
    scores[:, 0, :, :6] += 0.3
    scores[:, 1, :, 6:] += 0.3
    weights = np.diag([3.0, 3, 3]), np.diag([5.0, 5, 5]), -np.eye(3)
    found = testing.run(
        "MultiStageMeanfield", [scores, scores, image], params=[w[None, None] for w in weights], backward=False,
        **HOW, **WEIGHTS,
    ).tops[0]  # fmt: skip
    expected = inferred(scores[0], scores[0], image[0], *weights, gaussian_matrix)
    assert abs(found[0] - expected).mean() < 0.05 * expected.std()
    assert (found[0].argmax(axis=0) == expected.argmax(axis=0)).mean() > 0.97
    assert (found[0].argmax(axis=0) == (np.arange(12) >= 6)).mean() > (
        scores[0].argmax(axis=0) == (np.arange(12) >= 6)
    ).mean()


NET = """
layer {{ name: "in" type: "Input" top: "u" top: "q" top: "image"
  input_param {{ shape {{ dim: [1, 3, 2, 2] }} shape {{ dim: [1, 3, 2, 2] }} shape {{ dim: [1, 3, 2, 2] }} }} }}
{layers} {{ name: "crf" type: {type} bottom: "u" bottom: "q" bottom: "image" top: "y"
  multi_stage_meanfield_param {{ num_iterations: 2 compatibility_mode: POTTS threshold: 2 theta_alpha: 160
    theta_beta: 3 theta_gamma: 3 spatial_filter_weight: 3 bilateral_filter_weight: 5 }} }}
"""


def test_first_weights_are_read_from_files_as_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET.format(layers="layer", type='"MultiStageMeanfield"'))
    with pytest.raises(DataError, match=r"net.prototxt:\d+: layer 'crf' .*spatial.par, which would hold .* 3 classes"):
        Net("net.prototxt", proto.TEST)
    (tmp_path / "spatial.par").write_text("1 2\n3 4\n")
    (tmp_path / "bilateral.par").write_text("5 6")
    with pytest.raises(LayerError, match=r"bilateral.par must hold a number for each of 3 classes; found 2"):
        Net("net.prototxt", proto.TEST)
    (tmp_path / "bilateral.par").write_text("5 6 7")
    net = Net("net.prototxt", proto.TEST)
    spatial, bilateral, compatibility = (blob.data[0, 0] for blob in net.params["crf"])
    np.testing.assert_array_equal(spatial, np.diag([1, 2, 3]))
    np.testing.assert_array_equal(bilateral, np.diag([5, 6, 7]))
    np.testing.assert_array_equal(compatibility, -np.eye(3))


def test_of_the_older_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("spatial.par", "bilateral.par"):
        (tmp_path / name).write_text("3 3 3")
    old = NET[NET.index("{layers}") :].format(layers="layers", type="MULTI_STAGE_MEANFIELD")
    shape = "input_dim: 1 input_dim: 3 input_dim: 2 input_dim: 2 "
    (tmp_path / "net.prototxt").write_text('input: "u" input: "q" input: "image" ' + 3 * shape + old)
    net = Net("net.prototxt", proto.TEST)
    assert net.layers[-1].type == "MultiStageMeanfield" and net.blobs["y"].shape == (1, 3, 2, 2)
