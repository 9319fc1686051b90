"""What layers do from one pass to the next: states, filters, gradients that add up, changing shapes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from minicaffe import layers, proto, testing
from minicaffe.errors import LayerError, SnapshotError
from minicaffe.layers import families
from minicaffe.net import Net


def build(kind, options="", shapes=((2, 3, 4, 5),), tops=1):
    """A net of inputs of these shapes and one layer that reads them."""
    text = ""
    for i, shape in enumerate(shapes):
        dims = " ".join(f"dim: {size}" for size in shape)
        text += f'layer {{ name: "in{i}" type: "Input" top: "x{i}" input_param {{ shape {{ {dims} }} }} }}\n'
    bottoms = " ".join(f'bottom: "x{i}"' for i in range(len(shapes)))
    names = " ".join(f'top: "y{i}"' for i in range(tops))
    text += f'layer {{ name: "test" type: "{kind}" {bottoms} {names} {options} }}'
    return Net(text_format.Parse(text, proto.NetParameter()))


RNG = np.random.default_rng(0)
RECURRENT = 'recurrent_param { num_output: 3 weight_filler { type: "uniform" min: -1 max: 1 } }'


def recurrent(kind, steps=4, sequences=2):
    net = build(kind, RECURRENT, ((steps, sequences, 5), (steps, sequences)))
    return net


def run(net, x, cont):
    net.blobs["x0"].data[...] = x
    net.blobs["x1"].data[...] = cont
    net.forward()
    return net.blobs["y0"].data.copy()


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_the_state_goes_on_into_the_next_batch(kind):
    short, long = recurrent(kind, 4), recurrent(kind, 8)
    for a, b in zip(short.params["test"], long.params["test"], strict=True):
        b.data[...] = a.data
    x = RNG.standard_normal((8, 2, 5))
    cont = np.ones((8, 2))
    cont[5, 1] = 0
    whole = run(long, x, cont)
    np.testing.assert_allclose(run(short, x[:4], cont[:4]), whole[:4], rtol=1e-5)
    np.testing.assert_allclose(run(short, x[4:], cont[4:]), whole[4:], rtol=1e-5)
    short.layers[-1].reset()
    np.testing.assert_allclose(run(short, x[:4], cont[:4]), whole[:4], rtol=1e-5)


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_cont_0_begins_anew(kind):
    net = recurrent(kind)
    x, cont = RNG.standard_normal((4, 2, 5)), np.ones((4, 2))
    cont[0] = 0
    first = run(net, x, cont)
    run(net, RNG.standard_normal((4, 2, 5)), cont)
    np.testing.assert_array_equal(run(net, x, cont), first)


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_a_restored_state_goes_on_bit_for_bit(kind):
    one, other = recurrent(kind), recurrent(kind)
    for a, b in zip(one.params["test"], other.params["test"], strict=True):
        b.data[...] = a.data
    x, cont = RNG.standard_normal((4, 2, 5)), np.ones((4, 2))
    run(one, x, cont)
    other.restore(json.loads(json.dumps(one.state())))
    np.testing.assert_array_equal(run(other, x, cont), run(one, x, cont))
    with pytest.raises(SnapshotError, match="hidden state of another shape"):
        recurrent(kind, sequences=3).restore(one.state())


@pytest.mark.parametrize("kind", ["RNN", "LSTM"])
def test_a_change_of_batch_size_begins_from_zero(kind):
    net = recurrent(kind)
    cont = np.ones((4, 3))
    run(net, RNG.standard_normal((4, 2, 5)), cont[:, :2])
    net.blobs["x0"].reshape(4, 3, 5)
    net.blobs["x1"].reshape(4, 3)
    x = RNG.standard_normal((4, 3, 5))
    found = run(net, x, cont)
    net.layers[-1].reset()
    np.testing.assert_array_equal(run(net, x, cont), found)


def test_filter_keeps_what_is_selected_even_nothing():
    net = build("Filter", "", ((4, 2), (4, 1, 3), (4,)), tops=2)
    assert net.blobs["y0"].shape == (4, 2) and net.blobs["y1"].shape == (4, 1, 3)
    for name in ("x0", "x1"):
        net.blobs[name].data[...] = RNG.standard_normal(net.blobs[name].shape)
    for selected in ([1, 0, 0, -2], [0, 0, 0, 0], [1, 1, 1, 1]):
        net.blobs["x2"].data[...] = selected
        net.forward()
        kept = np.flatnonzero(selected)
        step = net.steps[-1]
        for y in step.top:
            y.diff[...] = RNG.standard_normal(y.shape)
        step.layer.backward(step.top, [True, True, False], step.bottom)
        for x, y in zip(step.bottom[:2], step.top, strict=True):
            np.testing.assert_array_equal(y.data, x.data[kept])
            expected = np.zeros(x.shape, np.float32)
            expected[kept] = y.diff
            np.testing.assert_array_equal(x.diff, expected)


def backward(net, times=1):
    """Run the last layer backward, with a gradient of 1 everywhere."""
    step = net.steps[-1]
    for y in step.top:
        y.diff.fill(1)
    for _ in range(times):
        step.layer.backward(step.top, step.propagate_down, step.bottom)


PARAMS = [
    ("Parameter", "parameter_param { shape { dim: 2 dim: 3 } }", ()),
    ("Bias", "", ((2, 3, 4),)),
    ("Scale", "scale_param { bias_term: true }", ((2, 3, 4),)),
    ("Scale", "scale_param { axis: 0 num_axes: -1 }", ((1, 3),)),
    ("PReLU", "", ((2, 3, 4),)),
    ("PReLU", "prelu_param { channel_shared: true }", ((2, 3, 4),)),
    ("Embed", "embed_param { input_dim: 3 num_output: 2 }", ((4,),)),
    ("Deconvolution", "convolution_param { kernel_size: 2 num_output: 3 }", ((2, 4, 3, 3),)),
    ("LSTM", RECURRENT, ((4, 2, 5), (4, 2), (2, 3))),
    ("RNN", RECURRENT, ((4, 2, 5), (4, 2), (2, 3))),
]


@pytest.mark.parametrize(("kind", "options", "shapes"), PARAMS)
def test_gradients_of_params_add_up(kind, options, shapes):
    net = build(kind, options, shapes)
    for i in range(len(shapes)):
        blob = net.blobs[f"x{i}"]
        blob.data[...] = 1 if kind == "Embed" else -1 - RNG.random(blob.shape)
    net.forward()
    backward(net)
    once = [blob.diff.copy() for blob in net.params["test"]]
    backward(net, times=2)
    for blob, gradient in zip(net.params["test"], once, strict=True):
        assert np.abs(gradient).max() > 0
        np.testing.assert_allclose(blob.diff, 3 * gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["BatchNorm", "Scale", "PReLU", "MVN", "LRN", "Swish", "SPP"])
def test_a_larger_batch_is_as_good_as_a_new_net(kind):
    options = "spp_param { pyramid_height: 2 }" if kind == "SPP" else ""
    net, fresh = build(kind, options, ((2, 3, 4, 6),)), build(kind, options, ((5, 3, 8, 6),))
    net.forward()
    net.blobs["x0"].reshape(5, 3, 8, 6)
    for blob in net.params.get("test", []):
        blob.data[...] = 0 if kind == "BatchNorm" else blob.data
    x = RNG.standard_normal((5, 3, 8, 6))
    for one in (net, fresh):
        one.blobs["x0"].data[...] = x
        one.forward()
    np.testing.assert_array_equal(net.blobs["y0"].data, fresh.blobs["y0"].data)


def test_batch_statistics_that_nothing_updated_give_a_mean_of_0():
    net = build("BatchNorm", "batch_norm_param { use_global_stats: true eps: 0.25 }", ((2, 3),))
    net.blobs["x0"].data[...] = [[1, 2, 3], [4, 5, 6]]
    net.forward()
    np.testing.assert_allclose(net.blobs["y0"].data, 2 * net.blobs["x0"].data)


def test_a_layer_that_refused_a_shape_computes_right_with_its_old_one():
    scores, labels, gain = np.eye(4, 3), np.arange(4) % 3, np.ones((3, 3))
    rig = testing.Rig("InfogainLoss", [scores, labels, gain], backward=False)
    rig.forward()
    expected = rig.top[0].data.copy()
    rig.bottom[0].reshape(4, 6)
    with pytest.raises(LayerError, match="H must hold 6 x 6 values"):
        rig.net.reshape()
    rig.feed([scores, labels, gain])
    rig.forward()
    assert np.array_equal(rig.top[0].data, expected)


# --- modules that are imported when they are needed ---------------------------------------------------------------


def alone(code: str) -> str:
    """What an interpreter of its own prints."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    return done.stdout


def test_each_module_of_layers_can_be_imported_first_and_has_the_types_that_the_table_says():
    """In a fork for each, which ends with status 0 if it is so."""
    printed = alone("""
        import importlib, os, sys
        from minicaffe.layers import base, families
        for family, types in families.FAMILIES.items():
            pid = os.fork()
            if pid == 0:
                families.load(family)
                has = {name for name in base.registry if name not in base.registry._homes}
                own = {name for name in has if base.registry[name].__module__ == f"minicaffe.layers.{family}"}
                os._exit(own != set(types.split()))
            if os.waitpid(pid, 0)[1] != 0:
                print(family)
        """)
    assert printed == ""
    modules = {path.stem: path.read_text() for path in Path(layers.__file__).parent.glob("*.py")}
    registering = {module for module, text in modules.items() if re.search(r'^    type = "\w', text, re.MULTILINE)}
    assert registering <= set(families.FAMILIES) <= set(modules)


def test_a_net_imports_the_layers_that_it_has():
    printed = alone("""
        import sys
        import minicaffe
        net = minicaffe.Net("lenet/lenet.prototxt", minicaffe.TEST, deploy=True)
        net.forward()
        absent = ("layers.sampling", "layers.data", "layers.proposal", "data.source", "data.db")
        print([name for name in absent if f"minicaffe.{name}" in sys.modules])
        print("Resample" in minicaffe.layer_type_list(), "sampling" in dir(minicaffe.layers))
        print(minicaffe.layers.sampling.Resample is minicaffe.layers.base.registry["Resample"])
        """)
    assert printed == "[]\nTrue True\nTrue\n"


def test_a_type_is_taken_before_its_module_is_imported():
    printed = alone("""
        import minicaffe
        try:
            class Mine(minicaffe.Layer):
                type = "Resample"
        except minicaffe.MinicaffeError as error:
            print(error)
        """)
    assert printed == "Layer type Resample already registered, by minicaffe.layers.sampling\n"
