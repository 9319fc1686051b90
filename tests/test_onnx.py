"""Nets as ONNX models: shipped ones in ONNX Runtime, names, inputs, the batch, and what is said of what cannot be."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import EncodeError
from shipped_nets import SHIPPED, shipped

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnxruntime is not installed")

import minicaffe  # noqa: E402
from minicaffe import compat, models, proto, testing  # noqa: E402
from minicaffe.errors import MinicaffeError, MissingExtraError, NetError  # noqa: E402
from minicaffe.layers.base import registry  # noqa: E402
from minicaffe.net import Net  # noqa: E402
from minicaffe.onnx import check, export, export_onnx, exported_types, exports  # noqa: E402
from minicaffe.onnx.plan import fill  # noqa: E402
from minicaffe.onnx.reasons import REASONS  # noqa: E402
from minicaffe.onnx.writer import exporters  # noqa: E402
from minicaffe.proto.text import parse  # noqa: E402

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("path", SHIPPED)
def test_a_shipped_model_computes_the_same(path):
    exported = export_onnx(shipped(path, SHIPPED[path]))
    onnx.checker.check_model(exported.model)
    assert all(sizes[0] == "batch" for sizes in exported.inputs.values())
    found = check.differences(exported)
    assert found and max(found.values()) <= 1e-5, found


def test_every_shipped_model_is_tried():
    assert {path.partition("/")[0] for path in SHIPPED} == set(models.names())


SMALL = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


def net_of(text, phase=proto.TEST):
    return Net(parse(text, proto.NetParameter()), phase)


def nodes(exported):
    return [(node.op_type, list(node.input), list(node.output)) for node in exported.model.graph.node]


def constants(exported):
    return [tensor.name for tensor in exported.model.graph.initializer]


def test_values_have_the_names_of_blobs():
    net = net_of(SMALL)
    exported = export_onnx(net)
    assert exported.inputs == {"data": ["batch", 3, 8, 8]} and exported.outputs == {"prob": ["batch", 5]}
    assert exported.notes == [] and exported.opset == 18
    assert [(op.version, op.domain) for op in exported.model.opset_import] == [(18, "")]
    outputs = [names[-1][0] for names in nodes(exported)]
    # of the blob that four layers write the last has the name
    assert outputs == ["conv/conv", "conv/bn", "conv/relu", "conv", "fc/Reshape", "fc", "prob"]
    assert {"conv.weight", "conv.bias", "fc.weight", "fc.bias"} <= set(constants(exported))
    assert max(check.differences(exported).values()) <= 1e-5


def test_the_net_and_the_random_stream_stay_as_they_are():
    net = net_of(SMALL)
    net.blobs["data"].data[...] = 3
    before = {name: blob.data.copy() for name, blob in net.blobs.items()}
    minicaffe.set_random_seed(5)
    expected = net_of(SMALL).params["fc"][0].data.copy()
    minicaffe.set_random_seed(5)
    export_onnx(net)
    assert np.array_equal(net_of(SMALL).params["fc"][0].data, expected)
    assert all(np.array_equal(blob.data, before[name]) for name, blob in net.blobs.items())


def test_outputs_may_be_blobs_within_the_net():
    net = net_of(SMALL)
    exported = export_onnx(net, outputs=["conv", "data"])
    assert list(exported.outputs) == ["conv", "data"]
    assert "fc.weight" not in constants(exported)
    assert max(check.differences(exported).values()) <= 1e-5
    with pytest.raises(NetError, match="net 'small' has no blob 'con'; did you mean 'conv'"):
        export_onnx(net, outputs=["con"])
    assert list(export_onnx(net.deploy(), outputs="conv").outputs) == ["conv"]


def test_an_output_may_be_a_view_of_an_input():
    text = SMALL + 'layer { name: "same" type: "Split" bottom: "data" top: "same" top: "again" }'
    exported = export_onnx(net_of(text), outputs=["same", "again"])
    assert max(check.differences(exported).values()) == 0


SHARED = """
name: "shared"
layer { name: "in" type: "Input" top: "a" top: "b" input_param { shape { dim: 2 dim: 6 } } }
layer { name: "one" type: "InnerProduct" bottom: "a" top: "one" param { name: "w" } param { name: "v" }
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "two" type: "InnerProduct" bottom: "b" top: "two" param { name: "w" } param { name: "v" }
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "one" bottom: "two" top: "sum" }
"""


def test_an_input_that_is_overwritten_in_place_stays_the_input():
    above = 'layer { name: "less" type: "Power" bottom: "data" top: "data" power_param { shift: -2 } }'
    text = SMALL.replace('layer { name: "conv"', above + 'layer { name: "conv"')
    exported = export_onnx(net_of(text))
    assert nodes(exported)[0][1:] == (["data", "less/constant"], ["data/less"])
    assert max(check.differences(exported).values()) <= 1e-5
    end = text[: text.index('layer { name: "conv"')]
    with pytest.raises(NetError, match="layer 'less' .*: it overwrites the input 'data' in place, which is an output"):
        export_onnx(net_of(end))


def test_layers_may_have_one_name():
    text = SMALL.replace('name: "fc"', 'name: "conv"').replace('name: "prob"', 'name: "data"')
    assert max(check.differences(export_onnx(net_of(text))).values()) <= 1e-5


def test_shared_params_are_stored_once():
    exported = export_onnx(net_of(SHARED))
    assert sorted(constants(exported)) == ["v", "w"]
    assert exported.inputs == {"a": ["batch", 6], "b": ["batch", 6]}
    assert max(check.differences(exported).values()) <= 1e-5


def test_data_layers_become_inputs():
    text = """
    layer { name: "numbers" type: "DummyData" top: "x" top: "label" dummy_data_param {
            shape { dim: 4 dim: 3 } shape { dim: 4 } data_filler { type: "gaussian" } data_filler { value: 1 } } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "loss" }
    """
    exported = export_onnx(net_of(text))
    assert exported.inputs == {"x": ["batch", 3], "label": ["batch"]} and exported.outputs == {"loss": []}
    assert exported.notes == ["layer 'numbers' (DummyData) is left out: x, label are inputs"]
    assert max(check.differences(exported).values()) <= 1e-5


def test_a_batch_that_the_net_holds_to_one_size_is_told():
    text = """
    layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 6 } } }
    layer { name: "rows" type: "Reshape" bottom: "data" top: "rows" reshape_param { shape { dim: 2 dim: 12 } } }
    """
    exported = export_onnx(net_of(text))
    assert exported.inputs == {"data": [4, 6]}
    assert exported.notes == ["the batch has a fixed size in data: the net takes no other"]
    assert check.differences(exported) == {"rows": 0}


def test_sequences_have_their_batch_on_the_second_axis():
    text = """
    layer { name: "in" type: "Input" top: "x" top: "cont" input_param { shape { dim: 3 dim: 2 dim: 5 } shape { dim: 3 dim: 2 } } }
    layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h"
            recurrent_param { num_output: 4 weight_filler { type: "uniform" min: -1 max: 1 } } }
    """
    exported = export_onnx(net_of(text))
    assert exported.inputs == {"x": [3, "batch", 5], "cont": [3, "batch"]}
    assert exported.outputs == {"h": [3, "batch", 4]}
    assert exported.notes == [
        "layer 'lstm' (LSTM) begins each run from a state of zeros; with expose_hidden the state would be inputs and "
        "outputs"
    ]
    assert max(check.differences(exported).values()) <= 1e-5


def test_regions_have_a_number_of_their_own():
    text = """
    layer { name: "in" type: "Input" top: "x" top: "rois"
            input_param { shape { dim: 1 dim: 2 dim: 6 dim: 7 } shape { dim: 4 dim: 5 } } }
    layer { name: "roi" type: "ROIPooling" bottom: "x" bottom: "rois" top: "roi"
            roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.5 } }
    """
    exported = export_onnx(net_of(text))
    assert exported.inputs == {"x": ["batch", 2, 6, 7], "rois": ["rois_items", 5]}
    assert exported.outputs == {"roi": ["rois_items", 2, 2, 3]}


def test_how_many_items_a_filter_keeps_is_not_told():
    text = """
    layer { name: "in" type: "Input" top: "x" top: "keep" input_param { shape { dim: 4 dim: 2 dim: 3 } shape { dim: 4 } } }
    layer { name: "filter" type: "Filter" bottom: "x" bottom: "keep" top: "kept" }
    layer { name: "flat" type: "Flatten" bottom: "kept" top: "flat" }
    """
    exported = export_onnx(net_of(text))
    assert exported.outputs == {"flat": [None, 6]}
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    (flat,) = check.session(exported.model).run(["flat"], {"x": x, "keep": np.float32([0, 1, 0, 2])})
    assert np.array_equal(flat, x.reshape(4, 6)[[1, 3]])


REGIONS = """
name: "regions"
layer { name: "in" type: "Input" top: "data" top: "im_info"
        input_param { shape { dim: 1 dim: 3 dim: 6 dim: 8 } shape { dim: 1 dim: 3 } } }
layer { name: "scores" type: "Convolution" bottom: "data" top: "scores"
        convolution_param { num_output: 8 kernel_size: 1 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "two" type: "Reshape" bottom: "scores" top: "two" reshape_param { shape { dim: 0 dim: 2 dim: -1 dim: 0 } } }
layer { name: "shares" type: "Softmax" bottom: "two" top: "shares" }
layer { name: "back" type: "Reshape" bottom: "shares" top: "back" reshape_param { shape { dim: 0 dim: 8 dim: -1 dim: 0 } } }
layer { name: "codes" type: "Convolution" bottom: "data" top: "codes"
        convolution_param { num_output: 16 kernel_size: 1 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "proposal" type: "Proposal" bottom: "back" bottom: "codes" bottom: "im_info" top: "rois"
        proposal_param { ratio: 1 ratio: 2 scale: 1 scale: 2 min_size: 4 pre_nms_topn: 60 post_nms_topn: 9 } }
layer { name: "roi" type: "ROIPooling" bottom: "data" bottom: "rois" top: "roi"
        roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.0625 } }
layer { name: "fc" type: "InnerProduct" bottom: "roi" top: "fc"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


def test_regions_may_be_as_many_as_values_say():
    minicaffe.set_random_seed(1)
    exported = export_onnx(net_of(REGIONS))
    assert exported.outputs == {"prob": [None, 5]}
    assert max(check.differences(exported).values()) <= 1e-5
    (prob,) = check.session(exported.model).run(None, fill(exported.twin.net))
    assert prob.shape == (9, 5)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("code_type", ["CENTER_SIZE", "CORNER", "CORNER_SIZE"])
def test_detections_are_the_same_boxes_in_the_same_order(shared, code_type):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.7, (30, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.05, 0.3, (30, 2))], axis=1)
    priors = np.stack([boxes.ravel(), np.tile([0.1, 0.1, 0.2, 0.2], 30)])[None].astype(np.float32)
    options = {"num_classes": 4, "share_location": shared, "keep_top_k": 12, "code_type": code_type, "clip": shared}
    nms = {"nms_param": {"nms_threshold": 0.3, "top_k": 20}, "confidence_threshold": 0.2}
    codes, confidences = np.zeros((2, 30 * 4 * (1 if shared else 4))), np.zeros((2, 120))
    rig = testing.Rig("DetectionOutput", [codes, confidences, priors], backward=False, **options, **nms)
    exported = export_onnx(rig.net)
    assert exported.inputs["bottom_0"][0] == exported.inputs["bottom_1"][0] == "batch"
    assert exported.outputs == {"top_0": [1, 1, None, 7]}
    running, twin = check.session(exported.model), exported.twin.net
    for items, least in ((3, 0.0), (1, 0.0), (2, -1.0)):  # of -1 nothing is found
        codes, scores = rng.standard_normal((items, codes.shape[1])), rng.uniform(0, 1, (items, 120)).round(1) + least
        given = {"bottom_0": codes, "bottom_1": scores, "bottom_2": priors}
        given = {name: np.asarray(values, np.float32) for name, values in given.items()}
        for name, values in given.items():
            twin.blobs[name].reshape(*values.shape)
        mine = twin.forward(**given)["top_0"]
        assert (mine[..., 1] >= 0).all() == (least == 0)
        np.testing.assert_allclose(running.run(None, given)[0], mine, rtol=1e-5, atol=1e-6)


def test_windows_at_the_borders_are_caffes():
    """Strides wider than the kernel, one position only, windows that lie beyond the image, rounding up and down."""
    rng, tried = np.random.default_rng(4), 0
    for kind in ("Convolution", "Deconvolution", "Pooling", "Im2col", "SPP") * 8:
        shape = (2, 2, *rng.integers(1, 9, 2))
        names = ("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w")
        options = dict(zip(names, rng.integers((1, 1, 1, 1, 0, 0), (6, 6, 7, 7, 4, 4)).tolist(), strict=True))
        if kind == "Pooling":
            options |= {"pool": ["MAX", "AVE"][rng.integers(2)], "round_mode": ["CEIL", "FLOOR"][rng.integers(2)]}
        elif kind == "SPP":
            options = {"pyramid_height": 3, "pool": ["MAX", "AVE"][rng.integers(2)]}
        else:
            options |= {"dilation": rng.integers(1, 4, 2).tolist()} | ({} if kind == "Im2col" else {"num_output": 3})
        x = rng.standard_normal(shape).astype(np.float32)
        try:
            rig = testing.Rig(kind, [x], backward=False, seed=1, **options)
        except MinicaffeError:  # a kernel or pad that does not fit
            continue
        rig.fill_zero_params(rng)
        tried += 1
        (values,) = check.session(export_onnx(rig.net).model).run(None, {"bottom_0": x})
        rig.forward()
        np.testing.assert_allclose(values, rig.top[0].data, rtol=1e-5, atol=1e-5, err_msg=f"{kind} {shape} {options}")
    assert tried >= 20


def test_what_is_no_number_on_both_sides_is_no_difference():
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 9 } } }
    layer { name: "log" type: "Log" bottom: "x" top: "y" log_param { shift: 0.5 } }
    """
    exported = export_onnx(net_of(text))
    twin = exported.twin.net
    assert np.isnan(twin.forward(**fill(twin))["y"]).any()
    assert check.differences(exported)["y"] <= 1e-5
    for wrong in (np.nan, np.inf, 1):
        found = check.compare(twin, exported.axes, ["y"], lambda x, y=wrong: [np.full_like(x["x"], y)], 0)
        assert found["y"] > 1e-5


UNKNOWN = """
name: "unknown"
layer { name: "in" type: "Input" top: "x" top: "sizes"
        input_param { shape { dim: 2 dim: 1 dim: 3 dim: 3 } shape { dim: 2 dim: 2 } } }
layer { name: "fine" type: "ReLU" bottom: "x" top: "y" }
layer { name: "smooth" type: "DomainTransform" bottom: "x" bottom: "x" bottom: "sizes" top: "smooth" }
layer { name: "drop" type: "Dropout" bottom: "y" top: "z" dropout_param { sample_weights_test: true } }
"""


def test_all_layers_that_onnx_has_no_words_for_are_named(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(UNKNOWN)
    net = Net(path, proto.TEST)
    with pytest.raises(NetError) as error:
        export_onnx(net)
    assert str(error.value).splitlines() == [
        "net 'unknown' cannot be said in ONNX (opset 18):",
        f"  {path}:6: layer 'smooth' (DomainTransform): it goes along rows pixel by pixel",
        f"  {path}:7: layer 'drop' (Dropout): with sample_weights_test it draws random numbers; export the TEST phase",
        "name blobs before these layers as outputs to export what leads to them",
    ]
    assert check.differences(export_onnx(net, outputs=["y"])) == {"y": 0}


def test_a_layer_whose_functions_were_replaced_is_not_exported():
    net = net_of(SMALL)
    net.layer_dict["relu"].forward = lambda bottom, top: None
    with pytest.raises(NetError, match=r"layer 'relu' \(ReLU\): its functions"):
        export_onnx(net)


def test_python_layers_are_named_and_those_that_bring_data_in_become_inputs(tmp_path, monkeypatch):
    (tmp_path / "of_mine.py").write_text(
        "import minicaffe\n"
        "class Source(minicaffe.Layer):\n"
        "    def reshape(self, bottom, top): top[0].reshape(2, 3)\n"
        "    def forward(self, bottom, top): top[0].data[...] = 1\n"
        "class Double(minicaffe.Layer):\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].data.shape)\n"
        "    def forward(self, bottom, top): top[0].data[...] = 2 * bottom[0].data\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = """
    layer { name: "source" type: "Python" top: "x" python_param { module: "of_mine" layer: "Source" } }
    layer { name: "relu" type: "ReLU" bottom: "x" top: "y" }
    layer { name: "double" type: "Python" bottom: "y" top: "z" python_param { module: "of_mine" layer: "Double" } }
    """
    net = net_of(text)
    with pytest.raises(NetError, match=r"layer 'double' \(Python\): it is a layer of your own"):
        export_onnx(net)
    assert export_onnx(net, outputs=["y"]).inputs == {"x": ["batch", 3]}


def test_a_layer_type_of_ones_own_can_be_registered(monkeypatch):
    class Halved(minicaffe.layers.Layer):
        type = "HalvedForOnnx"

        def reshape(self, bottom, top):
            top[0].reshape_like(bottom[0])

        def forward(self, bottom, top):
            top[0].data[...] = bottom[0].data / 2

    text = """
    layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "half" type: "HalvedForOnnx" bottom: "x" top: "y" }
    """
    net = net_of(text)
    with pytest.raises(NetError, match="register a function for its type with minicaffe.onnx.exports"):
        export_onnx(net)
    monkeypatch.setitem(exporters, "HalvedForOnnx", None)
    exports("HalvedForOnnx")(lambda w: w.scaled(w.x[0], 0.5))
    assert check.differences(export_onnx(net)) == {"y": 0}


def test_a_net_without_outputs_is_refused():
    text = SMALL + 'layer { name: "end" type: "Silence" bottom: "prob" }'
    with pytest.raises(NetError, match="has no outputs to export; name blobs to be outputs"):
        export_onnx(net_of(text))


@pytest.mark.parametrize("encoder", ["makes nothing", "has no limit"])
def test_a_net_of_more_than_a_file_holds_is_refused(encoder, monkeypatch, tmp_path):
    def fails(*_):
        raise EncodeError("Failed to serialize proto")

    if encoder == "makes nothing":
        monkeypatch.setattr(export.Graph, "model", fails)
    else:
        monkeypatch.setattr(export, "MOST_BYTES", 1000)
    path = tmp_path / "net.onnx"
    path.write_text("old")
    with pytest.raises(NetError, match=r"net 'small' is too large: an ONNX model holds at most \d+ bytes, and its"):
        export_onnx(net_of(SMALL), path)
    assert path.read_text() == "old"


def test_a_missing_package_is_named(monkeypatch):
    def absent(module):
        raise ImportError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(compat.importlib, "import_module", absent)
    with pytest.raises(MissingExtraError, match="minicaffe\\[onnx\\]"):
        export_onnx(net_of(SMALL))
    with pytest.raises(MissingExtraError, match="minicaffe\\[onnxruntime\\]"):
        compat.require("onnxruntime")


def test_a_net_of_float64_is_exported_in_float32():
    net = Net(parse(SMALL, proto.NetParameter()), proto.TEST, dtype=np.float64)
    assert max(check.differences(export_onnx(net)).values()) <= 1e-5


def test_the_table_of_the_guide_lists_all_types():
    text = (DOCS / "onnx.md").read_text()
    table = text[text.index("| Layers |") : text.index("\n\n", text.index("| Layers |"))]
    named = re.findall(r"`(\w+)`", table)
    assert sorted(named) == sorted(set(named)) == exported_types()
    sources = re.findall(r"`(\w+)`", text[text.index("Layers that bring data in") :].partition("\n\n")[0])
    built_in = {kind for kind, cls in registry.items() if not cls.user_defined}
    rest = built_in - set(exported_types()) - set(sources)
    others = re.findall(r"^\| `(\w+)`", text[text.index("| Not exported |") :], re.MULTILINE)
    assert others == sorted(REASONS) and set(others) <= rest
