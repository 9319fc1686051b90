"""The tutorial's notebook runs from its first cell to its last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicaffe import models
from minicaffe.net import Net

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("matplotlib")


def test_siamese_notebook_plots_the_features(tmp_path):
    weights = tmp_path / "examples" / "digits" / "digits_siamese_iter_1.caffemodel"
    weights.parent.mkdir(parents=True)
    net = Net(models.find("siamese/mnist_siamese.prototxt"), 1)
    rng = np.random.default_rng(0)
    for blobs in net.params.values():
        for blob in blobs:
            blob.data[...] = rng.standard_normal(blob.shape) / np.sqrt(max(blob.count / blob.shape[0], 1))
    net.save(weights)
    notebook = nbformat.read(Path(models.find("siamese/mnist_siamese.ipynb")), as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    score = next(output.text for output in outputs if "nearest neighbour:" in output.get("text", ""))
    assert (
        float(score.split()[-1].rstrip("%")) > 15
    )  # random features tell some digits apart, equal ones give 10 or less
