"""Nets as PyTorch modules: shipped ones, every layer forward and backward, what is written, and what is refused."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from layer_cases import CASES
from layer_cases.case import Case
from shipped_nets import SHIPPED, shipped

from minicaffe import compat, proto, testing
from minicaffe.errors import MissingExtraError, NetError
from minicaffe.net import Net
from minicaffe.proto.text import parse
from minicaffe.pytorch import check, export_torch, exported_types, module
from minicaffe.pytorch.export import build, source_of

have_torch = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not have_torch, reason="the extra torch is not installed")

SMALL = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv/1" type: "Convolution" bottom: "data" top: "conv/1" param { lr_mult: 1 } param { lr_mult: 0 }
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv/1" top: "conv/1" }
layer { name: "relu" type: "ReLU" bottom: "conv/1" top: "conv/1" }
layer { name: "fc" type: "InnerProduct" bottom: "conv/1" top: "fc"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
SHARED = """
name: "shared"
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "b" type: "Input" top: "b" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "one" type: "InnerProduct" bottom: "a" top: "one" param { name: "w" } param { name: "c" }
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "two" type: "InnerProduct" bottom: "b" top: "two" param { name: "w" } param { name: "c" }
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "back" type: "InnerProduct" bottom: "two" top: "back" param { name: "w" }
        inner_product_param { num_output: 3 transpose: true bias_term: false } }
layer { name: "sum" type: "Eltwise" bottom: "one" bottom: "back" top: "sum" }
"""
RECURRENT = """
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 3 dim: 2 dim: 4 }} }} }}
layer {{ name: "cont" type: "Input" top: "cont" input_param {{ shape {{ dim: 3 dim: 2 }} }} }}
layer {{ name: "a" type: "{0}" bottom: "x" bottom: "cont" top: "a" {1} recurrent_param {{ num_output: 4
        weight_filler {{ type: "gaussian" std: 1 }} bias_filler {{ type: "gaussian" std: 1 }} }} }}
layer {{ name: "b" type: "{0}" bottom: "a" bottom: "cont" top: "b" {1} recurrent_param {{ num_output: 4
        weight_filler {{ type: "gaussian" std: 1 }} bias_filler {{ type: "gaussian" std: 1 }} }} }}
"""
MASKED = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 7 } } }
layer { name: "p" type: "Pooling" bottom: "x" top: "p" top: "m" pooling_param { kernel_size: 3 stride: 2 pad: 2 } }
"""
RANDOM = ("Dropout-TRAIN", "Dropout-sampled in TEST")
REFUSED = {
    "Accuracy-each class": "the share of each class",
    "Accuracy-of distances": "ignored labels",
    "ContrastiveLoss-legacy": "legacy_version",
    "Convolution-channels last but one": "1 to 3 axes behind N and C",
    "Deconvolution-channels last but one": "1 to 3 axes behind N and C",
    "DepthwiseConvolution-channels last but one": "1 to 3 axes behind N and C",
    "Normalize-positions": "without a scale",
    "Normalize-positions, 2-D": "without a scale",
    "Normalize-positions, L1": "without a scale",
    "Pooling-3-D": "a fork's",
    "Pooling-3-D average": "a fork's",
    "Pooling-dilated": "a fork's",
    "Pooling-dilated average": "a fork's",
    "Pooling-dilation": "a fork's",
    "Pooling-dilation, stride and pad": "a fork's",
    "Pooling-stochastic": "STOCHASTIC",
    "Pooling-stochastic, TEST": "STOCHASTIC",
    "ReLU6-leaky": "negative_slope",
    "ReLU6-negative slope": "negative_slope",
    "ReLU6-relu_param": "negative_slope",
    "SigmoidCrossEntropyLoss-balanced": "a fork's",
    "SigmoidCrossEntropyLoss-ignored": "ignores no labels",
    "SoftmaxWithLoss-class weights": "a fork's",
    "SoftmaxWithLoss-last axis": "along axis 1",
    "SoftmaxWithLoss-three tops": "a fork's",
    "SoftmaxWithLoss-with probabilities": "further tops",
}
"""Cases of exportable types that are refused, and what is said."""
EXPORTABLE = [case for case in CASES if case.type in exported_types()]
EXPORTED = [c for c in EXPORTABLE if c.name not in REFUSED and c.name not in RANDOM and c.type != "Silence"]


def net_of(text: str, phase: int = proto.TEST) -> Net:
    return Net(parse(text, proto.NetParameter()), phase)


def rig_of(case: Case, tmp_path) -> testing.Rig:
    how = {"backward": "gradient" not in case.why_not, "seed": 1, **case.how(tmp_path)}
    rig = testing.Rig(case.type, case.draw(), **how)
    rig.fill_zero_params(np.random.default_rng(3))
    return rig


def outputs_of(rig: testing.Rig) -> list[str]:
    return [rig.net.top_names[rig.layer.name][k] for k in range(len(rig.layer.layer_param.top))]


def close(found, expected, tolerance: float) -> None:
    assert found.shape == expected.shape
    scale = max(float(np.nanmax(np.abs(expected), initial=0)), 1e-30)
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance)


@needs_torch
@pytest.mark.parametrize("path", SHIPPED)
def test_a_shipped_model_computes_the_same(path, tmp_path):
    outputs = ["loc", "conf_found"] if path.startswith("ssd") else None  # what follows has no counterpart
    exported = export_torch(shipped(path, SHIPPED[path]), tmp_path / "net.pt", outputs)
    found = check.differences(exported)
    assert found and max(found.values()) <= 1e-5, found


@needs_torch
@pytest.mark.parametrize("case", EXPORTED, ids=lambda case: case.name)
def test_a_layer_computes_the_same_forward_and_backward(case: Case, tmp_path):
    import torch

    rig = rig_of(case, tmp_path)
    names, net = outputs_of(rig), rig.net
    source = source_of(net, names)
    made = build(source)
    given = [torch.tensor(net.blobs[name].data, requires_grad=True) for name in net.inputs]
    rig.forward()
    found = made(*given)
    for name in names:
        close(found[name].detach().numpy(), net.blobs[name].data, 1e-5)
    if "gradient" in case.why_not or not found[names[0]].requires_grad:
        return
    rng = np.random.default_rng(0)
    diffs = [rng.standard_normal(net.blobs[name].shape).astype(np.float32) for name in names]
    rig.backward(diffs)
    pairs = [(found[name], torch.tensor(diff)) for name, diff in zip(names, diffs, strict=True)]
    torch.autograd.backward(*zip(*[(y, dy) for y, dy in pairs if y.requires_grad], strict=True))
    for blob, x, wanted in zip(rig.bottom, given, rig.wanted, strict=True):
        if wanted:
            close(np.zeros(blob.shape) if x.grad is None else x.grad.numpy(), blob.diff, 1e-4)
    params = dict(made.named_parameters(remove_duplicate=False))
    for key, learned in zip(source.keys, net.learnable, strict=True):
        if key in params and params[key].requires_grad:
            close(params[key].grad.numpy().reshape(learned.blob.shape), learned.blob.diff, 1e-4)


@needs_torch
@pytest.mark.parametrize("case", [c for c in CASES if c.name in REFUSED], ids=lambda case: case.name)
def test_what_has_no_counterpart_is_refused(case: Case, tmp_path):
    rig = rig_of(case, tmp_path)
    with pytest.raises(NetError, match=f"layer '{case.type}' .*{REFUSED[case.name]}"):
        module(rig.net, outputs_of(rig))


@needs_torch
@pytest.mark.parametrize("text", [SMALL, RECURRENT.format("LSTM", ""), RECURRENT.format("RNN", ""), MASKED])
def test_what_is_written_runs_without_minicaffe(text, tmp_path):
    net, rng = net_of(text), np.random.default_rng(0)
    given = {name: rng.standard_normal(net.blobs[name].shape).astype(np.float32) for name in net.inputs}
    np.savez(tmp_path / "given.npz", **given)
    expected = net.forward(**given)
    name = export_torch(net, tmp_path / "net.pt").source.name
    program = (
        f"import sys, numpy, torch, net; model = net.{name}()\n"
        "model.load_state_dict(torch.load('net.pt')); model.eval()\n"
        "found = model(**{name: torch.from_numpy(x) for name, x in numpy.load('given.npz').items()})\n"
        "numpy.savez('found.npz', **{name: y.detach() for name, y in found.items()})\n"
        "assert 'minicaffe' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "found.npz")
    assert found.keys() == expected.keys()
    for blob, values in expected.items():
        close(found[blob], values, 1e-5)


@needs_torch
def test_keys_are_the_names_of_layers(tmp_path):
    import torch

    net = net_of(SMALL)
    export_torch(net, tmp_path / "net.pt")
    state = torch.load(tmp_path / "net.pt")
    assert list(state) == [
        *("conv/1.weight", "conv/1.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"),
        *("fc.weight", "fc.bias"),
    ]
    np.testing.assert_array_equal(state["conv/1.weight"], net.params["conv/1"][0].data)


@needs_torch
def test_what_caffe_does_not_learn_is_frozen():
    learns = {key: param.requires_grad for key, param in module(net_of(SMALL)).named_parameters()}
    assert learns == {"conv/1.weight": True, "conv/1.bias": False, "fc.weight": True, "fc.bias": True}


@needs_torch
def test_shared_params_are_one():
    net = net_of(SHARED)
    made = module(net)
    assert made.one is made.two and made.back.weight is made.one.weight
    assert len(list(made.parameters())) == 2
    rng = np.random.default_rng(0)
    for name in net.inputs:
        net.blobs[name].data[...] = rng.standard_normal((2, 3))
    net.run_forward()
    import torch

    given = {name: torch.from_numpy(net.blobs[name].data.copy()) for name in net.inputs}
    close(made(**given)["sum"].detach().numpy(), net.blobs["sum"].data, 1e-6)


@needs_torch
def test_a_blob_that_is_overwritten_is_still_what_it_was_to_others():
    net = net_of("""
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 } } }
        layer { name: "two" type: "Power" bottom: "x" top: "a" power_param { scale: 2 } }
        layer { name: "split" type: "Split" bottom: "a" top: "b" top: "c" }
        layer { name: "minus" type: "Power" bottom: "b" top: "b" power_param { scale: -1 } }
        layer { name: "sum" type: "Eltwise" bottom: "b" bottom: "c" top: "sum"
                eltwise_param { coeff: 10 coeff: 100 } }""")
    import torch

    x = torch.tensor([-2.0, -1.0, 1.0, 2.0])
    a = 2 * x
    torch.testing.assert_close(module(net)(x)["sum"], -10 * a + 100 * a)


@needs_torch
def test_names_of_a_net_are_no_code(tmp_path):
    evil = 'a\\"""]); raise SystemExit(3)  # \\n{x} \\\\'
    net = net_of(f"""name: "{evil}"
        layer {{ name: "in" type: "Input" top: "{evil}" input_param {{ shape {{ dim: 2 dim: 2 }} }} }}
        layer {{ name: "{evil}." type: "InnerProduct" bottom: "{evil}" top: "class" inner_product_param {{
                num_output: 2 weight_filler {{ type: "xavier" }} }} }}
        layer {{ name: "forward" type: "PReLU" bottom: "class" top: "self" }}""")
    exported = export_torch(net, tmp_path / 'na"me.pt')
    compile((tmp_path / 'na"me.py').read_text(), "source", "exec")
    assert max(check.differences(exported).values()) <= 1e-6


@needs_torch
def test_a_batch_norm_goes_on_learning_statistics():
    import torch

    text = SMALL.replace('type: "BatchNorm"', 'type: "BatchNorm" batch_norm_param { moving_average_fraction: 0.9 }')
    net = net_of(text, proto.TRAIN)
    rng = np.random.default_rng(0)
    for _ in range(200):  # until what Caffe divides its sums by no longer grows
        net.blobs["data"].data[...] = rng.standard_normal((2, 3, 8, 8))
        net.run_forward()
    made = module(net)
    assert made.training
    made(torch.from_numpy(net.blobs["data"].data.copy()))
    net.run_forward()
    mean, variance, factor = (blob.data for blob in net.params["bn"])
    close(made.bn.running_mean.numpy(), mean / factor, 1e-5)
    close(made.bn.running_var.numpy(), variance / factor, 1e-5)


@needs_torch
def test_all_layers_without_a_counterpart_are_named(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text("""
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 dim: 8 dim: 8 } } }
        layer { name: "r" type: "Reorg" bottom: "x" top: "r" reorg_param { stride: 2 } }
        layer { name: "in place" type: "ReLU" bottom: "r" top: "r" }
        layer { name: "s" type: "SPP" bottom: "r" top: "s" spp_param { pyramid_height: 2 } }""")
    with pytest.raises(NetError) as error:
        module(Net(path, proto.TEST))
    assert str(error.value).splitlines()[1:3] == [
        f"  {path}:3: layer 'r' (Reorg): there is no counterpart of it",
        f"  {path}:5: layer 's' (SPP): there is no counterpart of it",
    ]


@needs_torch
def test_layers_may_have_one_name_or_none(tmp_path):
    layer = 'layer {{ {} type: "InnerProduct" bottom: "{}" top: "{}" inner_product_param {{ num_output: {} {} }} }}'
    layers = [('name: "one"', "x", "y", 3), ('name: "one"', "y", "z", 2), ("", "z", "u", 4), ("", "u", "v", 5)]
    random = 'weight_filler { type: "gaussian" std: 1 } bias_filler { type: "gaussian" std: 1 }'
    text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }'
    exported = export_torch(net_of(text + "".join(layer.format(*each, random) for each in layers)), tmp_path / "net.pt")
    modules = [key.removesuffix(".weight") for key in exported.source.state if key.endswith(".weight")]
    assert modules == ["one", "one_", "InnerProduct", "InnerProduct_"]
    assert max(check.differences(exported).values()) <= 1e-6


@needs_torch
def test_a_deployed_net_is_exported_as_what_it_was_made_of(tmp_path):
    text = """
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 9 } } }
        layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 3
                weight_filler { type: "xavier" } } }
        layer { name: "bn" type: "BatchNorm" bottom: "c" top: "bn" }
        layer { name: "p" type: "Pooling" bottom: "bn" top: "p" pooling_param { kernel_size: 3 stride: 2 } }
        layer { name: "r" type: "ReLU" bottom: "bn" top: "r" }"""
    net, deployed = net_of(text), net_of(text).deploy()
    for each in (net, deployed):
        each.blobs["x"].reshape(1, 3, 16, 20)
        each.reshape()
    exported = export_torch(deployed, tmp_path / "net.pt", ["c", "p", "r", "r"])
    assert exported.outputs == ["c", "p", "r"]
    assert max(check.differences(exported).values()) <= 1e-5
    assert exported.source.text == export_torch(net, tmp_path / "net.pt", exported.outputs).source.text


@needs_torch
def test_a_window_larger_than_the_image_reads_zeros_beyond_it(tmp_path):
    net = net_of("""
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 2 dim: 9 } } }
        layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param {
                num_output: 4 kernel_size: 3 stride: 3 weight_filler { type: "gaussian" std: 1 } } }""")
    assert net.blobs["c"].shape == (2, 4, 1, 3)
    assert max(check.differences(export_torch(net, tmp_path / "net.pt")).values()) <= 1e-6


WINDOWS = {
    "more than half padded": "kernel_size: 3 stride: 2 pad: 2",
    "almost all padded": "kernel_size: 4 stride: 1 pad: 3",
    "rounded down": "kernel_size: 3 stride: 2 pad: 2 round_mode: FLOOR",
    "of two sizes": "kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 3 pad_h: 2 pad_w: 1",
    "beyond the image": "kernel_size: 1 stride: 3",
    "with a large stride": "kernel_size: 2 stride: 9",
    "within": "kernel_size: 2 stride: 2",
    "all": "global_pooling: true",
}


@needs_torch
@pytest.mark.parametrize("size", [(5, 7), (6, 4), (8, 8)])
@pytest.mark.parametrize("how", ["MAX", "AVE", "mask"])
@pytest.mark.parametrize("options", WINDOWS.values(), ids=WINDOWS)
def test_windows_at_any_place(options, how, size):
    import torch

    mask, method = ('top: "m"', "MAX") if how == "mask" else ("", how)
    net = net_of(f"""
        force_backward: true
        layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 dim: {size[0]} dim: {size[1]} }} }} }}
        layer {{ name: "p" type: "Pooling" bottom: "x" top: "p" {mask} pooling_param {{ pool: {method} {options} }} }}""")
    rng = np.random.default_rng(0)
    values = rng.integers(-3, 4, net.blobs["x"].shape).astype(np.float32)  # many of them equal
    net.forward(x=values)
    x = torch.tensor(values, requires_grad=True)
    found = module(net)(x)
    for name in net.outputs:
        np.testing.assert_allclose(found[name].detach().numpy(), net.blobs[name].data, rtol=1e-6, atol=1e-6)
    there = np.isfinite(net.blobs["p"].data)
    dy = np.where(there, rng.standard_normal(there.shape), 0).astype(np.float32)
    net.blobs["p"].diff[...] = dy
    net.backward()
    found["p"][torch.tensor(there)].backward(torch.tensor(dy[there]))
    np.testing.assert_allclose(x.grad.numpy(), net.blobs["x"].diff, rtol=1e-5, atol=1e-6)


@needs_torch
def test_a_mask_of_windows_that_hold_no_pixel():
    import torch

    net = net_of("""
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 dim: 2 dim: 4 } } }
        layer { name: "p" type: "Pooling" bottom: "x" top: "p" top: "m" pooling_param { kernel_size: 1 stride: 3 } }""")
    x = np.full((1, 1, 2, 4), -np.inf, np.float32)
    x[..., 3] = 5
    net.forward(x=x)
    assert net.blobs["m"].data.tolist() == [[[[-1, 3], [-1, -1]]]]
    found = module(net)(torch.tensor(x))
    np.testing.assert_array_equal(found["m"], net.blobs["m"].data)
    np.testing.assert_array_equal(found["p"], net.blobs["p"].data)


SHARING = {"RNN": 'param { name: "%s" }' * 5, "LSTM": 'param { name: "%s" }' * 3}


@needs_torch
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", SHARING)
def test_recurrent_layers_go_on_from_batch_to_batch(kind, shared):
    """Each from its own state, even if they share their params."""
    import torch

    params = SHARING[kind] % tuple("uvwyz"[: SHARING[kind].count("%s")]) if shared else ""
    net = net_of(RECURRENT.format(kind, params))
    made, rng = module(net), np.random.default_rng(0)
    assert len(list(made.parameters())) == len(net.learnable)
    for num in (2, 2, 5, 5, 2):
        x, cont = rng.standard_normal((3, num, 4)), rng.integers(0, 2, (3, num))
        cont[0] = 1
        net.blobs["x"].reshape(3, num, 4)
        net.blobs["cont"].reshape(3, num)
        expected = net.forward(x=x, cont=cont)["b"]
        found = made(torch.tensor(x, dtype=torch.float32), torch.tensor(cont, dtype=torch.float32))["b"]
        close(found.detach().numpy(), expected, 1e-5)


@needs_torch
@pytest.mark.parametrize("options", ["top_k: 3", "out_max_val: true", "axis: 1 top_k: 2", "axis: -1 out_max_val: true"])
def test_of_equal_values_the_last_is_the_largest(options):
    import torch

    net = net_of(f"""
        layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 dim: 4 dim: 2 }} }} }}
        layer {{ name: "a" type: "ArgMax" bottom: "x" top: "a" argmax_param {{ {options} }} }}""")
    x = np.random.default_rng(0).integers(0, 3, (2, 3, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(module(net)(torch.from_numpy(x))["a"].numpy(), net.forward(x=x)["a"])


@needs_torch
def test_another_program_is_not_overwritten(tmp_path):
    (tmp_path / "net.py").write_text("print('mine')\n")
    with pytest.raises(NetError, match=r"net\.py is in the way"):
        export_torch(net_of(SMALL), tmp_path / "net.pt")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(NetError, match=r"folder\.py is in the way"):
        export_torch(net_of(SMALL), tmp_path / "folder.pt")
    assert not list(tmp_path.glob("*.pt"))


def test_without_torch_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert compat._EXTRA_OF["torch"] == "torch"
    for export in (lambda net: export_torch(net, tmp_path / "net.pt"), module):
        with pytest.raises(MissingExtraError, match=r"pip install 'minicaffe\[torch\]'"):
            export(net_of(SMALL))


def test_every_type_that_is_exported_is_tried():
    assert {case.type for case in EXPORTED} | {"Silence"} == set(exported_types())


def test_the_docs_list_the_types_that_are_exported():
    text = (Path(__file__).parent.parent / "docs" / "pytorch.md").read_text()
    assert sorted(re.findall(r"`(\w+)`", text.partition("that are exported:")[2])) == exported_types()
