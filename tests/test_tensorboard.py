"""What a training writes for TensorBoard, read back by TensorBoard's own reader."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from cli_case import run
from PIL import Image
from test_embedding import images  # noqa: F401  (a fixture)
from test_solver import tiny  # noqa: F401  (a fixture)

from minicaffe.errors import MissingExtraError, SnapshotError
from minicaffe.solvers import History, Monitor, get_solver
from minicaffe.solvers.history import read
from minicaffe.tensorboard import TensorBoard, filter_image

pytest.importorskip("tensorboardX")
accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def events(folder):
    everything = dict.fromkeys(("scalars", "histograms", "images"), 0)
    reader = accumulators.EventAccumulator(str(folder), size_guidance=everything)
    reader.Reload()
    return reader


def train(iterations, resume=None, *others):
    with get_solver("solver.prototxt") as solver:
        solver.monitors += [TensorBoard("board"), *others]
        if resume:
            solver.restore(resume)
        solver.step(iterations - solver.iter)
    return solver


def test_scalars_are_those_of_the_history(tiny):  # noqa: F811
    train(21, None, History())
    board = events("board")
    for row in read("tiny_log.csv"):
        (found,) = [e.value for e in board.Scalars(f"{row.phase}/{row.output}") if e.step == row.iteration]
        assert found == np.float32(row.value)
    assert {(e.step, e.value) for e in board.Scalars("lr")} == {
        (row.iteration, np.float32(row.lr)) for row in read("tiny_log.csv") if row.phase == "train"
    }


class Kept(Monitor):
    """Keeps a param and its gradient of iteration 10, before the update."""

    def gradients(self, solver):
        if solver.iter == 10:
            blob = solver.net.params["ip1"][0]
            self.values, self.gradient = blob.data.copy(), blob.diff.copy()


def test_histograms_of_params_and_gradients(tiny):  # noqa: F811
    kept = Kept()
    text = Path("solver.prototxt").read_text()
    Path("solver.prototxt").write_text(text + "iter_size: 2")
    train(11, None, kept)
    board = events("board")
    names = {f"{layer}/{k}" for layer in ("ip1", "ip2") for k in (0, 1)}
    assert set(board.Tags()["histograms"]) == {f"{kind}/{n}" for kind in ("params", "gradients") for n in names}
    for tag, values in (("params/ip1/0", kept.values), ("gradients/ip1/0", kept.gradient / 2)):
        assert [event.step for event in board.Histograms(tag)] == [0, 10]
        found = board.Histograms(tag)[1].histogram_value
        assert (found.min, found.max, found.num) == (values.min(), values.max(), values.size)
        assert found.sum == pytest.approx(values.sum(dtype=np.float64))
        assert found.sum_squares == pytest.approx((values.astype(np.float64) ** 2).sum())
        limits = np.concatenate([[-np.inf], found.bucket_limit])
        counts = [((values > low) & (values <= high)).sum() for low, high in zip(limits, limits[1:], strict=False)]
        np.testing.assert_allclose(found.bucket, counts, atol=1)


def test_a_resumed_training_shows_each_iteration_once(tiny):  # noqa: F811
    train(25)
    train(30, "tiny_iter_10.solverstate")
    steps = [event.step for event in events("board").Scalars("train/smoothed_loss")]
    assert steps == [0, 5, 10, 15, 20, 25]
    assert len(list(Path("board").iterdir())) == 2


def test_the_first_filters_are_an_image(tiny):  # noqa: F811
    """An inner product of images of 6 x 6 pixels has filters of that size."""
    solver = train(1)
    assert solver.net.blobs["data"].shape[1:] == (1, 6, 6)
    (event,) = events("board").Images("filters/ip1")
    assert Image.open(io.BytesIO(event.encoded_image_string)).size == (3 * 7 + 1, 3 * 7 + 1)


def test_filters_as_tiles():
    weights = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    image = filter_image(weights)
    assert image.shape == (4, 7, 3)
    np.testing.assert_array_equal(image[0], 255)
    blue_green_red = weights[1, :, 0, 1] / 23 * 255
    np.testing.assert_array_equal(image[1, 5], np.rint(blue_green_red[::-1]))
    grey = filter_image(weights[:, :1])
    assert (grey[..., 0] == grey[..., 1]).all()
    assert filter_image(np.zeros((300, 1, 5, 5))).shape == (16 * 6 + 1, 16 * 6 + 1, 3)


def test_the_features_of_a_siamese_net_can_be_projected(capsys, images, tmp_path):  # noqa: F811
    pytest.importorskip("matplotlib")
    assert run(capsys, "train", "-solver", "solver.prototxt", "-tensorboard", "board").status == 0
    points = np.loadtxt("board/features.tsv", delimiter="\t")
    assert points.shape == (11, 3) and (points[:, 2] == 0).all() and points[:, :2].std() > 0
    np.testing.assert_array_equal(np.loadtxt("board/labels.tsv"), images[1])
    assert 'tensor_path: "features.tsv"' in Path("board/projector_config.pbtxt").read_text()


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    def missing(name):
        raise ImportError(name=name)

    monkeypatch.setattr("minicaffe.compat.importlib.import_module", missing)
    with pytest.raises(MissingExtraError, match=r"minicaffe\[tensorboard\]"):
        TensorBoard("board")


def test_a_folder_that_cannot_be(tiny):  # noqa: F811
    Path("board").write_text("a file")
    with pytest.raises(SnapshotError, match="cannot write to board for TensorBoard"):
        train(1)


def test_a_full_disk_ends_the_board_not_the_training(tiny, monkeypatch, caplog):  # noqa: F811
    with get_solver("solver.prototxt") as solver:
        board = TensorBoard("board")
        solver.monitors.append(board)
        solver.step(1)

        def full(event):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(board._events, "write_event", full)
        solver.step(6)
    assert solver.iter == 7
    assert caplog.text.count("No more for TensorBoard: cannot write to board: No space left on device") == 1
