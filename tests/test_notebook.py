"""The tutorial's notebook runs from its first cell to its last, from the folders that README opens it in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicaffe import models
from minicaffe.net import Net

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("matplotlib")


@pytest.mark.parametrize("folder", [".", "siamese"])
def test_siamese_notebook_plots_the_features(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    weights = tmp_path / "examples" / "digits" / "digits_siamese_iter_1.caffemodel"
    weights.parent.mkdir(parents=True)
    net = Net(models.find("siamese/mnist_siamese.prototxt"), 1)
    rng = np.random.default_rng(0)
    for blobs in net.params.values():
        for blob in blobs:
            blob.data[...] = rng.standard_normal(blob.shape) / np.sqrt(max(blob.count / blob.shape[0], 1))
    net.save(weights)
    notebook = nbformat.read(Path(models.find("siamese/mnist_siamese.ipynb")), as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path / folder)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    score = next(output.text for output in outputs if "5 nearest neighbours:" in output.get("text", ""))
    assert (
        float(score.split()[-1].rstrip("%")) > 15
    )  # random features tell some digits apart, equal ones give 10 or less


def test_a_training_in_a_notebook_takes_a_line(tmp_path):
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "d" type: "DummyData" top: "x" top: "y" dummy_data_param { shape { dim: 4 dim: 3 } '
        'shape { dim: 4 } data_filler { type: "gaussian" } data_filler { } } } '
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 2 } } '
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "loss" }'
    )
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" display: 1 max_iter: 30 snapshot_after_train: false '
        "test_iter: 1 test_interval: 10"
    )
    code = ["import minicaffe as caffe; solver = caffe.SGDSolver('solver.prototxt')"]
    code += ["for _ in range(15):\n    solver.step(1)", "solver.solve()", "solver.step(0)", "caffe.log('said')"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in code])
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    begun, stepped, solved, nothing, said = (cell.outputs for cell in notebook.cells)
    assert begun == nothing == []
    for outputs, count in ((stepped, 15), (solved, 30)):
        assert len(outputs) == 1
        assert outputs[0]["data"]["text/plain"].startswith(f"iteration {count} of 30, loss ")
    assert [output.name for output in said] == ["stderr"] and said[0].text.endswith("] said\n")
