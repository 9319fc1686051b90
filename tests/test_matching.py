"""Fine-tuning: which layers of a file go to which of a net, and the table that tells it."""

from __future__ import annotations

import numpy as np
import pytest

from minicaffe import proto
from minicaffe.errors import WeightsError
from minicaffe.matching import Matching
from minicaffe.net import Net
from minicaffe.proto.text import parse
from minicaffe.solvers import create


def net(*layers):
    """A net of inner products; a layer is (name, num_output)."""
    text = 'name: "tuned" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }\n'
    for name, outputs in layers:
        filler = 'weight_filler { type: "gaussian" std: 1 }'
        text += (
            f'layer {{ name: "{name}" type: "InnerProduct" bottom: "data" top: "{name}" '
            f"inner_product_param {{ num_output: {outputs} {filler} }} }}\n"
        )
    message = proto.NetParameter()
    parse(text, message, "net")
    return Net(message, 0)


FILES = {"binary": "w.caffemodel", "hdf5": "w.caffemodel.h5"}


@pytest.fixture(params=FILES)
def file(request, in_folder, tmp_path):
    """Weights of layers a, b and c; returns the net and the path."""
    in_folder(tmp_path)
    source = net(("a", 4), ("b", 5), ("old/c", 6))
    path = FILES[request.param]
    (source.save_hdf5 if path.endswith("h5") else source.save)(path)
    return source, path


def weights(one, name):
    return one.params[name][0].data


def test_the_table_has_a_row_for_each_fate(file):
    source, path = file
    target = net(("a", 4), ("d", 5))
    report = target.copy_from(path)
    assert (report.copied, report.ignored, report.initialised, report.mismatched) == (
        {"a": "a"}, ["b", "old/c"], ["d"], [],
    )  # fmt: skip
    assert [line.split() for line in str(report).splitlines()] == [
        f"Weights of {path} in net 'tuned':".split(), ["copied", "1", "a"], ["ignored", "2", "b,", "old/c"],
        ["left", "as", "initialised", "1", "d"], ["mismatched", "0"],
    ]  # fmt: skip
    np.testing.assert_array_equal(weights(target, "a"), weights(source, "a"))


def test_a_layer_that_does_not_fit_is_in_the_table_of_the_error(file):
    source, path = file
    target = net(("a", 4), ("b", 7))
    before = weights(target, "a").copy()
    with pytest.raises(WeightsError) as caught:
        target.copy_from(path)
    text = str(caught.value)
    assert "Cannot copy param 0 weights from layer 'b'; shape mismatch." in text
    assert ["mismatched", "1", "b"] in [line.split() for line in text.splitlines()]
    assert "train --ignore b" in text
    np.testing.assert_array_equal(weights(target, "a"), before)


def test_a_layer_that_is_ignored_keeps_its_initial_weights(file, caplog):
    source, path = file
    target = net(("a", 4), ("b", 7))
    before = weights(target, "b").copy()
    report = target.copy_from(path, ignore=["b*"])
    np.testing.assert_array_equal(weights(target, "a"), weights(source, "a"))
    np.testing.assert_array_equal(weights(target, "b"), before)
    assert (report.ignored, report.initialised) == (["b", "old/c"], ["b"])
    assert "keep their initial values" not in caplog.text


def test_renamed_layers(file):
    source, path = file
    target = net(("a2", 4), ("c", 6))
    report = target.copy_from(path, rename={"a": "a2", "old/*": "*"})
    np.testing.assert_array_equal(weights(target, "a2"), weights(source, "a"))
    np.testing.assert_array_equal(weights(target, "c"), weights(source, "old/c"))
    assert "a -> a2, old/c -> c" in str(report)
    assert report.ignored == ["b"]


def test_two_layers_cannot_become_one(file):
    _, path = file
    with pytest.raises(WeightsError, match="layers '.*' and '.*' would both become layer 'a'"):
        net(("a", 4)).copy_from(path, rename={"b": "a"})


@pytest.mark.parametrize("layers, ignore, error", [
    ([("a", 4), ("b", 5), ("old/c", 6)], [], None),
    ([("a", 4), ("b", 5)], [], "ignored +1 +old/c"),
    ([("a", 4), ("b", 5)], ["old/*"], None),
    ([("a", 4), ("b", 5), ("old/c", 6), ("d", 1)], [], "left as initialised +1 +d"),
    ([("a", 4), ("b", 5), ("old/c", 6), ("d", 1)], ["d"], None),
])  # fmt: skip
def test_strict_wants_all_and_nothing_else(file, layers, ignore, error):
    _, path = file
    target = net(*layers)
    before = weights(target, "a").copy()
    if error is None:
        target.copy_from(path, strict=True, ignore=ignore)
    else:
        with pytest.raises(WeightsError, match=rf"\(strict\)(?s:.)*{error}"):
            target.copy_from(path, strict=True, ignore=ignore)
        np.testing.assert_array_equal(weights(target, "a"), before)


@pytest.mark.parametrize("options, name", [({"ignore": ["fc*"]}, r"fc\*"), ({"rename": {"x[1]": "a"}}, r"x\[1\]")])
def test_names_that_no_layer_has(file, options, name):
    _, path = file
    with pytest.raises(WeightsError, match=f"no layer of {path}.* is called {name}"):
        net(("a", 4)).copy_from(path, **options)


def test_a_file_of_another_net_is_still_refused(file):
    _, path = file
    with pytest.raises(WeightsError, match="belong to another net"):
        net(("q", 4)).copy_from(path)


@pytest.mark.parametrize("rename", [{"a*": "b"}, {"a*b*": "*"}, {"": "a"}, {"a": ""}])
def test_patterns_that_mean_nothing(rename):
    with pytest.raises(WeightsError, match="expected two names, or two patterns"):
        Matching(rename=rename)


def test_several_files_take_part_in_one_fine_tuning(tmp_path, in_folder):
    """What one file lacks another may have; a pattern need fit in one of them only."""
    in_folder(tmp_path)
    net(("a", 4)).save("a.caffemodel")
    net(("b", 5)).save("b.caffemodel")
    definition = net(("a", 4), ("c", 5)).to_proto()
    for layer in definition.layer:
        del layer.blobs[:]
    definition.layer[0].type = "DummyData"
    definition.layer[0].dummy_data_param.shape.add().dim.extend([2, 3])
    definition.layer.add(name="loss", type="Silence", bottom=["a", "c"])
    param = proto.SolverParameter(
        net_param=definition, base_lr=1, lr_policy="fixed", max_iter=1, snapshot_prefix="x",
        weights=["a.caffemodel,b.caffemodel"],
    )  # fmt: skip
    solver = create(param, matching=Matching(rename={"b": "c"}))
    assert [report.copied for report in solver.loaded] == [{"a": "a"}, {"c": "b"}]
