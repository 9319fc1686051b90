"""Plots of a training."""

from __future__ import annotations

import numpy as np
import pytest

from minicaffe.errors import MissingExtraError, SnapshotError
from minicaffe.plot import Record, embedding, loss_curve

pytest.importorskip("matplotlib")

RECORDS = [
    *(Record(i, "train loss", 1 / (i + 1), True) for i in range(0, 100, 10)),
    *(Record(i, "test loss", 2 / (i + 1), True) for i in range(0, 100, 50)),
    *(Record(i, "test accuracy", i / 100, False) for i in range(0, 100, 50)),
]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are made."""
    figure = pytest.importorskip("matplotlib.figure")
    made = []

    class Kept(figure.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(figure, "Figure", Kept)
    return made


def lines(axes):
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.get_lines()}


def test_losses_are_above_the_other_outputs(tmp_path, drawn):
    loss_curve(RECORDS, tmp_path / "loss.png")
    above, below = drawn[0].axes
    assert list(lines(above)) == ["train loss", "test loss"]
    assert lines(above)["test loss"] == [(0, 2.0), (50, 2 / 51)]
    assert lines(below) == {"test accuracy": [(0, 0.0), (50, 0.5)]}
    assert (above.get_yscale(), below.get_yscale()) == ("log", "linear")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_loss_of_zero_has_a_linear_axis(tmp_path, drawn):
    loss_curve([Record(0, "loss", 1, True), Record(1, "loss", 0, True)], tmp_path / "loss.png")
    (axes,) = drawn[0].axes
    assert axes.get_yscale() == "linear"


def test_points_of_a_label_share_a_colour(tmp_path, drawn):
    features = np.random.default_rng(0).normal(size=(30, 2))
    labels = np.arange(30) % 3 * 4
    embedding(features, labels, tmp_path / "embedding.png", title="features")
    (axes,) = drawn[0].axes
    groups = {group.get_label(): np.asarray(group.get_offsets()) for group in axes.collections}
    assert list(groups) == ["0", "4", "8"]
    np.testing.assert_allclose(groups["4"], features[1::3])
    assert len({tuple(group.get_facecolor()[0]) for group in axes.collections}) == 3
    assert axes.get_title() == "features"


def test_of_many_dimensions_the_principal_components_are_shown(tmp_path, drawn):
    rng = np.random.default_rng(1)
    plane = rng.normal(size=(50, 2)) * [9, 3]
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0][:2]
    embedding(plane @ rotation + 2, np.zeros(50), tmp_path / "embedding.png")
    (axes,) = drawn[0].axes
    points = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), np.linalg.norm(plane - plane.mean(0), axis=1))
    assert points[:, 0].std() > points[:, 1].std()
    assert axes.get_xlabel() == "first principal component"


def test_one_dimension_is_a_line(tmp_path, drawn):
    embedding(np.arange(4.0)[:, None], np.zeros(4), tmp_path / "embedding.png")
    np.testing.assert_allclose(drawn[0].axes[0].collections[0].get_offsets(), [[i, 0] for i in range(4)])


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(SnapshotError, match="absent does not exist"):
        loss_curve(RECORDS, tmp_path / "absent" / "loss.png")


def test_without_matplotlib_the_error_names_the_extra(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name=name)

    monkeypatch.setattr("minicaffe.compat.importlib.import_module", missing)
    with pytest.raises(MissingExtraError, match=r"minicaffe\[plot\]"):
        loss_curve(RECORDS, tmp_path / "loss.png")
