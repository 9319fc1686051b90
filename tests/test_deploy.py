"""The deploy form of a net: the same outputs from fewer layers, whatever is written, set or reshaped afterwards."""

from __future__ import annotations

import copy
import gc
import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from cli_case import run

import minicaffe
from minicaffe import proto
from minicaffe.engine import watch
from minicaffe.engine.watch import Watch
from minicaffe.errors import LayerError, NetError, ShapeError, WeightsError
from minicaffe.kernels import cpu, fast_paths, reference
from minicaffe.kernels.window import Window
from minicaffe.net import Net
from minicaffe.proto.text import parse

ROUNDING = 1e-5


def input_of(*shape: int) -> str:
    dims = " ".join(f"dim: {size}" for size in shape)
    return f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n'


def layer(kind: str, bottom: str, top: str, options: str = "", name: str = "") -> str:
    bottoms = " ".join(f'bottom: "{each}"' for each in bottom.split())
    tops = " ".join(f'top: "{each}"' for each in top.split())
    return f'layer {{ name: "{name or kind + "_" + top.split()[0]}" type: "{kind}" {bottoms} {tops} {options} }}\n'


def conv(bottom: str, top: str, options: str = "num_output: 6 kernel_size: 3 pad: 1", kind: str = "Convolution") -> str:
    return layer(kind, bottom, top, f"convolution_param {{ {options} }}")


def net_of(definition: str, phase: str = "TEST", **options) -> Net:
    net = Net(parse(definition, proto.NetParameter()), phase, **options)
    randomize(net)
    return net


def randomize(net: Net, seed: int = 3) -> None:
    """Noise for all params and inputs; variances and the like are positive."""
    rng = np.random.default_rng(seed)
    for step in net.steps:
        for j, blob in enumerate(step.layer.blobs):
            positive = (step.layer.type == "BatchNorm" and j > 0) or (step.layer.type == "BN" and j == 3)
            fan = max(1, int(np.prod(blob.shape[1:])))
            blob.data = rng.uniform(0.5, 2, blob.shape) if positive else rng.standard_normal(blob.shape) / fan**0.5
    for name in net.inputs:
        net.blobs[name].data = rng.standard_normal(net.blobs[name].shape)


def difference(net: Net, deployed: Net) -> float:
    """How far what both compute from the net's inputs is apart, relative to the largest value, over four passes."""
    for name in net.inputs:
        deployed.blobs[name].data = net.blobs[name].data
    worst = 0.0
    for _ in range(4):  # run, captured, replayed, replayed at once
        net.forward()
        deployed.forward()
        for name, blob in deployed.blobs.items():
            expected = net.blobs[name].data
            scale = np.abs(expected).max(initial=0) or 1
            worst = max(worst, float(np.abs(expected - blob.data).max(initial=0) / scale))
    return worst


def types(net: Net) -> list[str]:
    return [step.layer.type for step in net.running]


BN_SCALE = layer("BatchNorm", "x", "x") + layer("Scale", "x", "x", "scale_param { bias_term: true }")
RELU = layer("ReLU", "x", "x")

FOLDED = {
    "batch norm, scale": conv("data", "x", "num_output: 6 kernel_size: 3 bias_term: false") + BN_SCALE + RELU,
    "to new blobs": conv("data", "x") + layer("BatchNorm", "x", "b") + layer("Bias", "b", "s") + layer("ReLU", "s", "y"),
    "depthwise": conv("data", "x", "kernel_size: 3 stride: 2 bias_term: false", "ConvolutionDepthwise") + BN_SCALE + RELU,
    "deconvolution": conv("data", "x", "num_output: 4 kernel_size: 2 stride: 2 group: 2", "Deconvolution") + BN_SCALE + RELU,
    "inner product": layer("InnerProduct", "data", "x", "inner_product_param { num_output: 5 }") + BN_SCALE + RELU,
    "nvcaffe": conv("data", "x") + layer("BatchNorm", "x", "x", "batch_norm_param { scale_bias: true eps: 0.1 }") + RELU,
    "pspnet": conv("data", "x") + layer("BN", "x", "x") + RELU,
    "happynear": conv("data", "x") + layer("BN", "x", "x", 'fork: "happynear"') + RELU,
    "segnet": conv("data", "x") + layer("BN", "x", "x", "bn_param { bn_mode: INFERENCE }") + RELU,
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDED)
def test_scales_and_shifts_are_folded(case):
    net = net_of(input_of(2, 4, 8, 7) + FOLDED[case])
    deployed = net.deploy()
    assert difference(net, deployed) < ROUNDING
    assert len(types(deployed)) == 3 and types(deployed)[2] == "ReLU"
    relu = deployed.running[2]
    assert relu.bottom_ids == relu.top_ids
    assert np.abs(net.blobs[net.outputs[0]].data).max() > 0.1


STAYING = {
    "two readers": conv("data", "x") + layer("BatchNorm", "x", "b") + layer("ReLU", "x", "y"),
    "batch statistics": conv("data", "x")
    + layer("BatchNorm", "x", "x", "batch_norm_param { use_global_stats: false }"),
    "another axis": conv("data", "x") + layer("Scale", "x", "x", "scale_param { axis: 2 }"),
    "segnet, learning": conv("data", "x") + layer("BN", "x", "x"),
    "no maker": layer("BatchNorm", "data", "x"),
    "a train phase": conv("data", "x") + layer("BatchNorm", "x", "x", "phase: TRAIN"),
}


@pytest.mark.parametrize("case", STAYING)
def test_what_must_stay_stays(case):
    definition = STAYING[case].replace('type: "BN"', 'type: "BN" bn_param { bn_mode: LEARN shift_filler { } }')
    net = net_of(input_of(2, 4, 8, 7) + definition)
    deployed = net.deploy()
    assert {"BatchNorm", "Scale", "BN"}.intersection(types(deployed))
    assert difference(net, deployed) < ROUNDING


def test_shared_weights_are_folded_apart():
    shared = "num_output: 4 kernel_size: 3 bias_term: false"
    one = conv("data", "x", shared).replace("convolution_param", 'param { name: "w" } convolution_param')
    two = conv("data", "y", shared).replace("convolution_param", 'param { name: "w" } convolution_param')
    net = net_of(input_of(2, 3, 8, 7) + one + layer("BatchNorm", "x", "x") + two + layer("Scale", "y", "y"))
    deployed = net.deploy()
    assert difference(net, deployed) < ROUNDING and "BatchNorm" not in types(deployed)
    for each in (net, deployed):
        each.params["Convolution_x"][0].data *= 2
    assert difference(net, deployed) < ROUNDING
    np.testing.assert_array_equal(deployed.params["Convolution_y"][0].data, net.params["Convolution_y"][0].data)


def test_layers_that_do_nothing_are_dropped():
    drop = layer("Dropout", "x", "x") + layer("Dropout", "x", "d")
    net = net_of(
        input_of(2, 4, 8, 7) + conv("data", "x") + drop + conv("d", "y") + layer("Eltwise", "y d", "z")
        + 'layer { name: "silence" type: "Silence" bottom: "data" }'
    )  # fmt: skip
    deployed = net.deploy()
    assert types(deployed) == ["Input", "Convolution", "Convolution", "Eltwise"]
    assert difference(net, deployed) < ROUNDING
    assert "Dropout" in types(net_of(input_of(1, 2) + layer("Dropout", "data", "x")).deploy(keep=["x"]))


SHAPES = {"one image": (1, 16, 6, 8), "several": (3, 16, 6, 8)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_joined_blobs(shape):
    definition = (
        input_of(*shape) + conv("data", "a", "num_output: 8 kernel_size: 1") + conv("data", "b", "num_output: 4 kernel_size: 1")
        + layer("ReLU", "a", "a") + layer("Concat", "a b", "c") + conv("c", "d", "num_output: 4 kernel_size: 1")
        + layer("Concat", "c d data", "e") + layer("Slice", "e", "f g", "slice_param { slice_point: 10 }")
        + conv("f", "h", "num_output: 2 kernel_size: 1") + layer("Pooling", "g", "i", "pooling_param { kernel_size: 2 stride: 2 }")
        + layer("Concat", "a a", "twice")
    )  # fmt: skip
    net = net_of(definition)
    deployed = net.deploy()
    assert difference(net, deployed) < ROUNDING
    concat = next(step for step in deployed.running if step.layer.name == "Concat_c")
    assert all(blob.overlaps(concat.top[0]) == (shape[0] == 1) for blob in concat.bottom[1:])
    assert len(deployed._executor._plan.sweeps.forward.segments) == 1  # noqa: SLF001
    kept = net.deploy(keep=["a", "b", "c", "f"])
    assert difference(net, kept) < ROUNDING and set("abcf") <= set(kept.blobs)


def test_a_concat_that_is_written_to_is_a_copy():
    definition = input_of(1, 16, 4, 4) + conv("data", "a", "num_output: 16 kernel_size: 1")
    definition += layer("Concat", "a data", "c") + layer("ReLU", "c", "c") + layer("Eltwise", "a data", "s")
    net = net_of(definition)
    assert difference(net, net.deploy()) < ROUNDING


def test_parts_that_do_not_fit_where_they_were_put_are_moved():
    """What the plan did not know of: parts grow, or lie elsewhere, after they were placed."""
    definition = input_of(1, 16, 4, 4) + conv("data", "a", "num_output: 16 kernel_size: 1")
    net = net_of(definition + conv("data", "b", "num_output: 16 kernel_size: 1") + layer("Concat", "a b", "c"))
    deployed = net.deploy()
    assert difference(net, deployed) < ROUNDING
    concat = deployed.running[-1]
    concat.bottom[0].unshare_data()
    concat.bottom[1].place_data(concat.top[0].data_storage, concat.top[0].data_offset, 512)
    assert difference(net, deployed) < ROUNDING


def small_net() -> Net:
    return net_of(
        input_of(2, 4, 8, 7)
        + FOLDED["batch norm, scale"]
        + layer("InnerProduct", "x", "y", "inner_product_param { num_output: 3 }")
    )


def test_what_is_written_to_params_counts(tmp_path):
    net = small_net()
    deployed = net.deploy()
    rng = np.random.default_rng(1)
    held = deployed.params["Convolution_x"][0].data
    for name, blobs in deployed.params.items():
        for j, blob in enumerate(blobs):
            blob.data[...] = net.params[name][j].data = rng.uniform(0.5, 1.5, blob.shape)
            assert difference(net, deployed) < ROUNDING
    del blob
    for factor in (2, 0.5):
        held *= factor  # an array that was taken before the last pass
        net.params["Convolution_x"][0].data *= factor
        assert difference(net, deployed) < ROUNDING
    part = held[1:3, 0]
    del held
    part += 1
    net.params["Convolution_x"][0].data[1:3, 0] += 1
    assert difference(net, deployed) < ROUNDING
    randomize(net, seed=7)
    net.save(tmp_path / "w.caffemodel")
    deployed.copy_from(tmp_path / "w.caffemodel")
    assert difference(net, deployed) < ROUNDING
    deployed.save(tmp_path / "again.caffemodel")
    assert (tmp_path / "again.caffemodel").read_bytes() == (tmp_path / "w.caffemodel").read_bytes()
    other = small_net()
    randomize(other, seed=8)
    deployed.share_with(other)
    other.blobs["data"].data = net.blobs["data"].data
    assert difference(other, deployed) < ROUNDING


def test_a_watch_sees_what_is_written_and_forgets_what_is_let_go():
    for size in (10, 1 << 19):  # memory of the C library, and pages of its own
        blob = minicaffe.Blob((size,))
        watched = Watch([blob])
        watched.renew()
        assert not watched.changed()
        blob.data = 1
        assert watched.changed()
        watched.renew()
        assert not watched.changed() and not blob.data_storage.is_held
        array = blob.data[2:5]
        assert watched.changed()
        watched.renew()
        assert blob.data_storage.is_held and not watched.changed()
        array[0] = 7
        assert watched.changed()
        watched.renew()
        del array
        assert not watched.changed()
        gc.collect()
        assert not blob.data_storage.is_held


def test_contents_are_compared_only_while_somebody_holds_on_to_an_array(monkeypatch):
    winograd, implicit = "num_output: 64 kernel_size: 3 pad: 1", "num_output: 6 kernel_size: 1"
    definition = (
        input_of(1, 64, 16, 16) + conv("data", "a", winograd) + layer("ReLU", "a", "a") + conv("a", "x", implicit)
    )
    net = net_of(definition + conv("x", "y", implicit) + layer("BatchNorm", "y", "y"))
    deployed = net.deploy()
    assert difference(net, deployed) < ROUNDING
    assert deployed.layer_dict["Convolution_a"].has_packed and not deployed.layer_dict["Convolution_x"].has_packed
    for name in ("Convolution_a", "Convolution_x", "Convolution_y", "BatchNorm_y"):
        for each in (net, deployed):
            each.params[name][0].data *= 1.5
        with monkeypatch.context() as patch:
            patch.setattr(watch, "_digest", None)  # calling it would be an error
            assert difference(net, deployed) < ROUNDING
    held = deployed.params["Convolution_a"][0].data
    for _ in range(2):
        held *= 0.5
        net.params["Convolution_a"][0].data *= 0.5
        assert difference(net, deployed) < ROUNDING
    del held
    factors = iter([2.0, 1.0, 1.0, 0.25, 1.0])

    def write(index: int) -> None:
        if index == 2:  # behind the convolution that is written to: it counts from the next pass on
            deployed.params["Convolution_a"][0].data *= factor

    deployed.before_forward(write)
    for factor in factors:
        deployed.blobs["data"].data = net.blobs["data"].data
        deployed.forward()
        net.forward()
        expected = net.blobs["y"].data
        np.testing.assert_allclose(deployed.blobs["y"].data, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
        net.params["Convolution_a"][0].data *= factor


def test_folded_filters_are_held_only_where_kernels_read_them():
    """Those that were packed are folded again where something else is made of them."""
    winograd = "num_output: 64 kernel_size: 3 pad: 1"
    net = net_of(input_of(1, 64, 16, 16) + conv("data", "x", winograd) + BN_SCALE + RELU)
    deployed = net.deploy()
    layer = deployed.running[1].layer
    assert difference(net, deployed) < ROUNDING
    assert layer.has_packed and not layer.blobs[0].data_storage.touched
    for size in (20, 16):
        for each in (net, deployed):
            each.blobs["data"].reshape(1, 64, size, size)
        net.blobs["data"].data = np.random.default_rng(size).standard_normal((1, 64, size, size))
        assert difference(net, deployed) < ROUNDING
        assert not layer.blobs[0].data_storage.touched
    for each in (net, deployed):
        each.params["BatchNorm_x"][0].data *= 1.5
    assert difference(net, deployed) < ROUNDING
    assert not layer.blobs[0].data_storage.touched
    with fast_paths.without("winograd", "filter_panels"):
        assert difference(net, deployed) < ROUNDING
        assert layer.blobs[0].data_storage.touched
    assert difference(net, deployed) < ROUNDING
    for each in (net, deployed):
        each.params["Convolution_x"][0].data *= 1.5
    assert difference(net, deployed) < ROUNDING
    assert not layer.blobs[0].data_storage.touched


UNLOADED = {
    "packed": conv("data", "x", "num_output: 64 kernel_size: 3 pad: 1") + RELU,
    "folded and packed": conv("data", "x", "num_output: 64 kernel_size: 3 pad: 1") + BN_SCALE + RELU,
    "folded": layer("InnerProduct", "data", "x", "inner_product_param { num_output: 64 }") + BN_SCALE + RELU,
    "image by image": conv("data", "x", "num_output: 64 kernel_size: 3 pad: 1") + BN_SCALE + RELU + conv("x", "y", "num_output: 64 kernel_size: 1"),
}  # fmt: skip


def from_file(definition: str, path: Path, **options) -> Net:
    """A net with weights from a file that is written for it."""
    net = net_of(definition)
    net.save(path)
    loaded = Net(parse(definition, proto.NetParameter()), "TEST", weights=path, **options)
    loaded.blobs["data"].data = net.blobs["data"].data
    return loaded


@pytest.fixture
def threads():
    """Sets the number of threads for a test."""
    before = minicaffe.get_num_threads()
    yield minicaffe.set_num_threads
    minicaffe.set_num_threads(before)


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("case", UNLOADED)
def test_params_that_kernels_do_not_read_leave_memory_until_somebody_asks(case, batch, tmp_path, threads):
    definition, path = input_of(batch, 64, 16, 16) + UNLOADED[case], tmp_path / "w.caffemodel"
    net, deployed = from_file(definition, path), from_file(definition, path, deploy=True)
    weights = deployed.layers[1].blobs[0]
    assert difference(net, deployed) < ROUNDING
    assert weights.data_storage._host is None
    for size in (16,) if "InnerProduct" in definition else (20, 16):
        for each in (net, deployed):
            each.blobs["data"].reshape(batch, 64, size, size)
        net.blobs["data"].data = np.random.default_rng(size).standard_normal((batch, 64, size, size))
        assert difference(net, deployed) < ROUNDING
        with fast_paths.without("winograd", "filter_panels"):
            assert difference(net, deployed) < ROUNDING
        threads(1 if size == 20 else 2)
        assert difference(net, deployed) < ROUNDING
    np.testing.assert_array_equal(deployed.params[net.layers[1].name][0].data, net.layers[1].blobs[0].data)
    assert difference(net, deployed) < ROUNDING
    for each in (net, deployed):
        each.params[net.layers[1].name][0].data[3] = 0.5
    assert difference(net, deployed) < ROUNDING
    deployed.save(tmp_path / "again.caffemodel")
    net.save(tmp_path / "changed.caffemodel")
    assert (tmp_path / "again.caffemodel").read_bytes() == (tmp_path / "changed.caffemodel").read_bytes()
    for each in (net, deployed):
        each.copy_from(path)
    assert difference(net, deployed) < ROUNDING
    assert weights.data_storage._host is None


def test_a_file_of_params_that_left_memory_may_go_but_not_change(tmp_path):
    definition, path = input_of(1, 64, 16, 16) + UNLOADED["folded and packed"], tmp_path / "w.caffemodel"
    net, deployed = from_file(definition, path), from_file(definition, path, deploy=True)
    assert difference(net, deployed) < ROUNDING
    content = path.read_bytes()
    other = net_of(definition)
    randomize(other, seed=5)
    other.save(path)  # another file of this name
    with fast_paths.without("winograd", "filter_panels"):
        assert difference(net, deployed) < ROUNDING
    deployed = from_file(definition, path, deploy=True)
    assert difference(net, deployed) < ROUNDING
    path.write_bytes(content[:-9] + bytes(8) + content[-1:])  # it is the same file
    assert difference(net, deployed) < ROUNDING
    path.write_bytes(content.replace(content[-3000:-2000], bytes(1000)))
    message = "w.caffemodel: param 0 of layer 'Convolution_x' has changed since it was loaded"
    with fast_paths.without("winograd", "filter_panels"), pytest.raises(WeightsError, match=message):
        deployed.forward()
    with pytest.raises(WeightsError, match=message):
        _ = deployed.params["Convolution_x"][0].data
    with pytest.raises(WeightsError, match=message):
        deployed.save(tmp_path / "again.caffemodel")
    assert difference(net, deployed) < ROUNDING
    other.save(path)
    deployed.copy_from(path)
    other.blobs["data"].data = net.blobs["data"].data
    assert difference(other, deployed) < ROUNDING


def test_what_kernels_make_of_filters_is_kept_once_for_all_batches_and_threads(threads):
    net = net_of(input_of(1, 64, 16, 16) + conv("data", "x", "num_output: 64 kernel_size: 3 pad: 1"))
    deployed = net.deploy()
    packed = deployed.layers[1]._packed
    for batch, count in itertools.product((1, 2, 1), (1, 2)):
        threads(count)
        for each in (net, deployed):
            each.blobs["data"].reshape(batch, 64, 16, 16)
        net.blobs["data"].data = np.random.default_rng(batch).standard_normal((batch, 64, 16, 16))
        assert difference(net, deployed) < ROUNDING
        assert len(packed.made) == 1


def test_attributes_that_are_set_count():
    net = small_net()
    deployed = net.deploy()
    assert difference(net, deployed) < ROUNDING
    for each in (net, deployed):
        each.layer_dict["BatchNorm_x"].eps = 0.5
    assert difference(net, deployed) < ROUNDING
    for each in (net, deployed):
        each.layer_dict["ReLU_x"].negative_slope = 0.25
    assert difference(net, deployed) < ROUNDING
    for each in (net, deployed):
        each.layer_dict["BatchNorm_x"].use_global_stats = False
    assert "BatchNorm" not in types(deployed)
    assert difference(net, deployed) < ROUNDING and "BatchNorm" in types(deployed)


def test_a_param_of_another_shape_is_an_error():
    deployed = small_net().deploy()
    deployed.params["BatchNorm_x"][0].reshape(7)
    with pytest.raises(ShapeError, match=r"layer 'BatchNorm_x' \(BatchNorm\).*param 0 must keep the shape 6"):
        deployed.forward()


def test_inputs_of_other_shapes():
    net = net_of(
        input_of(2, 4, 8, 7) + conv("data", "x") + BN_SCALE + RELU + conv("x", "y") + layer("Concat", "y x", "z")
    )
    deployed = net.deploy()
    for shape in ((2, 4, 8, 7), (5, 4, 9, 9), (1, 4, 3, 4), (2, 4, 8, 7)):
        for each in (net, deployed):
            each.blobs["data"].reshape(*shape)
        net.blobs["data"].data = np.random.default_rng(2).standard_normal(shape)
        assert difference(net, deployed) < ROUNDING
    deployed.blobs["data"].reshape(1, 4, 6, 6)
    deployed.reshape()
    assert deployed.blobs["z"].shape == (1, 12, 6, 6)


def test_blobs_that_are_not_kept_say_so():
    net = small_net()
    deployed = net.deploy()
    assert list(deployed.blobs) == ["data", "y"]
    with pytest.raises(NetError, match=r"blob 'x' is not kept in the deploy form; to read it, name it in deploy\(keep"):
        deployed.blobs["x"]
    assert difference(net, net.deploy(keep=["x"])) < ROUNDING
    with pytest.raises(NetError, match="has no blob nothing; it has: data, x, y"):
        net.deploy(keep=["nothing"])
    for call, problem in (
        (deployed.run_backward, "is in its deploy form: it cannot run backward"),
        (lambda: deployed.run_forward(1), "it runs from its first layer on"),
        (lambda: deployed.run_forward(0, 1), "it runs to its last layer"),
        (deployed.reuse_memory, "is in its deploy form, which reuses memory"),
        (lambda: Net(parse(input_of(1), proto.NetParameter()), "TRAIN", deploy=True), "of the TEST phase; found TRAIN"),
    ):
        with pytest.raises(NetError, match=problem):
            call()


@pytest.mark.parametrize("make_another", [copy.copy, copy.deepcopy, pickle.dumps])
def test_nets_are_not_copied_or_pickled(make_another):
    for net in (small_net(), small_net().deploy()):
        with pytest.raises(NetError, match="cannot be copied or pickled: make another Net of its file"):
            make_another(net)


def test_a_training_net_has_a_deploy_form():
    definition = input_of(4, 3, 6, 6) + conv("data", "x") + BN_SCALE + layer("Dropout", "x", "x")
    net = net_of(definition, "TRAIN")
    deployed = net.deploy()
    assert types(deployed) == ["Input", "Convolution"]
    test = net_of(definition)
    test.share_with(net)
    assert difference(test, deployed) < ROUNDING


def test_float64():
    net = net_of(input_of(2, 4, 8, 7) + FOLDED["batch norm, scale"], dtype=np.float64)
    assert difference(net, net.deploy()) < 1e-13


def test_losses_and_callbacks():
    net = net_of(small_net_definition() + layer("EuclideanLoss", "y y2", "loss", "loss_weight: 2"))
    deployed = net.deploy()
    assert difference(net, deployed) < ROUNDING and net.loss > 0.1
    assert deployed.loss == pytest.approx(net.loss, rel=1e-5)
    seen = []
    deployed.after_forward(seen.append)
    assert difference(net, deployed) < ROUNDING
    assert seen == 4 * [*range(len(deployed.running))]


def test_what_changes_between_replays_is_seen():
    definition = input_of(2, 3, 8, 8) + conv("data", "conv") + layer("ReLU", "conv", "conv") + conv("conv", "out")
    net = net_of(definition)
    deployed = net.deploy()
    assert difference(net, deployed) < ROUNDING
    threads = minicaffe.get_num_threads()
    for count in (1, threads):
        minicaffe.set_num_threads(count)
        assert difference(net, deployed) < ROUNDING
    for each in (net, deployed):
        each.params["Convolution_conv"][0].data[...] *= 2
    assert difference(net, deployed) < ROUNDING
    for each in (net, deployed):
        each.layer_dict["ReLU_conv"].negative_slope = 0.5
    assert difference(net, deployed) < ROUNDING
    net.blobs["data"].reshape(1, 3, 6, 9)
    deployed.blobs["data"].reshape(1, 3, 6, 9)
    assert difference(net, deployed) < ROUNDING
    seen = []
    deployed.after_forward(seen.append)
    deployed.forward()
    assert seen == list(range(len(deployed.running)))


def small_net_definition() -> str:
    product = "inner_product_param { num_output: 3 }"
    return (
        input_of(2, 4, 8, 7) + FOLDED["batch norm, scale"]
        + layer("InnerProduct", "x", "y", product) + layer("InnerProduct", "data", "y2", product)
    )  # fmt: skip


ONE = "num_output: 6 kernel_size: 1"
TERMS = conv("x", "y") + conv("y", "z", ONE)
POOL = "pooling_param { kernel_size: 2 stride: 2 }"
ADDED = {
    "identity": conv("x", "y") + conv("y", "z", ONE) + BN_SCALE.replace('"x"', '"z"')
    + layer("Eltwise", "x z", "s") + layer("ReLU", "s", "s"),
    "projection": conv("data", "y", ONE) + conv("x", "z", ONE)
    + layer("Eltwise", "y z", "s") + layer("ReLU", "s", "s", "relu_param { negative_slope: 0.5 }"),
    "moved to the sum": conv("data", "z", "num_output: 6 kernel_size: 1 group: 2 bias_term: false") + conv("x", "y")
    + layer("Eltwise", "z y", "s") + conv("s", "t"),
    "strided": conv("data", "z", "num_output: 6 kernel_size: 1 stride: 2") + layer("Pooling", "x", "p", POOL)
    + layer("Eltwise", "z p", "s") + layer("ReLU", "s", "t"),
    "twice": conv("x", "y") + conv("y", "z", ONE) + layer("Eltwise", "x z", "s") + layer("ReLU", "s", "s")
    + conv("s", "t") + conv("t", "u", ONE) + layer("Eltwise", "s u", "v"),
}  # fmt: skip


@pytest.mark.parametrize("case", ADDED)
@pytest.mark.parametrize("shape", [(2, 4, 8, 7), (1, 4, 15, 16)])
def test_a_convolution_is_added_to_the_rest_of_a_sum(case, shape):
    net = net_of(input_of(*shape) + conv("data", "x") + RELU + ADDED[case])
    deployed = net.deploy()
    assert "Eltwise" not in types(deployed)
    assert difference(net, deployed) < ROUNDING
    for each in (net, deployed):
        each.params["Convolution_z"][0].data *= -2
    assert difference(net, deployed) < ROUNDING
    for each in (net, deployed):
        each.blobs["data"].reshape(3, 4, 9, 6)
        each.reshape()
    net.blobs["data"].data[...] = 1
    assert difference(net, deployed) < ROUNDING


def test_what_is_added_shares_its_params_with_the_net():
    shared = ONE + " bias_term: false"
    named = [conv(*names, shared).replace("convolution_param", 'param { name: "w" } convolution_param')
             for names in (("data", "b"), ("t", "d"))]  # fmt: skip
    definition = input_of(1, 6, 5, 5) + conv("data", "a") + named[0] + layer("Eltwise", "a b", "t") + named[1]
    net = net_of(definition + layer("ReLU", "d", "d", name="relu"))
    deployed = net.deploy()
    assert "Eltwise" not in types(deployed) and difference(net, deployed) < ROUNDING
    assert deployed.params["Convolution_b"][0].data_storage is deployed.params["Convolution_d"][0].data_storage
    held = deployed.params["Convolution_b"][0].data
    for slope in (0.5, 0.25):  # the steps are made anew
        held *= 1.5
        net.params["Convolution_b"][0].data[...] = held
        assert difference(net, deployed) < ROUNDING
        for each in (net, deployed):
            each.layer_dict["relu"].negative_slope = slope
    other = net_of(definition)
    randomize(other, seed=8)
    deployed.share_with(other)
    net.share_with(other)
    assert difference(net, deployed) < ROUNDING
    assert not any(blob.diff_storage.touched for step in deployed.running for blob in step.layer.blobs)


def test_terms_of_different_shapes_are_an_error():
    second = input_of(1, 6, 5, 5).replace('"data"', '"other"')
    net = net_of(
        input_of(1, 6, 5, 5) + second + conv("data", "a") + conv("other", "b", ONE) + layer("Eltwise", "a b", "t")
    )
    deployed = net.deploy()
    assert "Eltwise" not in types(deployed)
    for each in (net, deployed):
        each.blobs["other"].reshape(1, 6, 6, 6)
        with pytest.raises(ShapeError, match="same shape"):
            each.forward()
        each.blobs["data"].reshape(1, 6, 6, 6)
    randomize(net)
    for name, blobs in net.params.items():
        for blob, mine in zip(blobs, deployed.params[name], strict=True):
            mine.data = blob.data
    assert difference(net, deployed) < ROUNDING
    with pytest.raises(ShapeError, match="same shape"):
        deployed.layer_dict["Convolution_b"].stride = [2]
        deployed.forward()


def test_data_of_fillers_and_what_was_set_before():
    source = """layer { name: "d" type: "DummyData" top: "x" dummy_data_param {
        shape { dim: 1 dim: 4 dim: 5 dim: 5 } data_filler { type: "constant" value: 3 } } }\n"""
    net = net_of(source + layer("ReLU", "x", "y", name="relu"))
    net.layer_dict["relu"].negative_slope = 0.5
    deployed = net.deploy()
    assert deployed.layer_dict["relu"].negative_slope == 0.5
    assert difference(net, deployed) == 0 and deployed.forward()["y"].max() == 3


SUMS = {
    "3 x 3": conv("x", "y") + conv("y", "z") + layer("Eltwise", "x z", "s"),
    "weighted": TERMS + layer("Eltwise", "x z", "s", "eltwise_param { coeff: 1 coeff: -1 }"),
    "maximum": TERMS + layer("Eltwise", "x z", "s", "eltwise_param { operation: MAX }"),
    "read later": TERMS + layer("Eltwise", "x z", "s") + conv("x", "t"),
    "both read later": TERMS + layer("Eltwise", "x z", "s") + conv("z", "t"),
    "with itself": TERMS + layer("Eltwise", "z z", "s"),
    "of three": TERMS + layer("Eltwise", "x z y", "s"),
    "with an input": conv("data", "y") + conv("y", "z", "num_output: 4 kernel_size: 1") + layer("Eltwise", "data z", "s"),
    "with what it reads": conv("x", "z", ONE) + layer("Eltwise", "x z", "s"),
    "rectified before": TERMS + layer("ReLU", "z", "z") + layer("Eltwise", "x z", "s"),
    "of views": layer("Reshape", "x", "v", "reshape_param { shape { dim: 0 dim: -1 } }") + TERMS + layer("Eltwise", "x z", "s")
    + layer("InnerProduct", "v", "t", "inner_product_param { num_output: 3 }"),
}  # fmt: skip


@pytest.mark.parametrize("case", SUMS)
def test_sums_of_which_something_else_is_left(case):
    net = net_of(input_of(2, 4, 8, 7) + conv("data", "x") + RELU + SUMS[case])
    deployed = net.deploy()
    assert "Eltwise" in types(deployed)
    assert difference(net, deployed) < ROUNDING
    (sums,) = (step for step in deployed.running if step.layer.type == "Eltwise")
    assert (sums.top[0] in sums.bottom) == (case not in ("both read later", "with itself"))  # written over a term


def test_nothing_is_kept_that_only_backward_reads():
    net = net_of(
        "force_backward: true " + input_of(2, 4, 9, 8) + conv("data", "x") + layer("LRN", "x", "a", "lrn_param { alpha: 2 }")
        + layer("LRN", "x", "b", "lrn_param { alpha: 2 local_size: 3 norm_region: WITHIN_CHANNEL }")
        + layer("Eltwise", "x a b", "m", "eltwise_param { operation: MAX }") + layer("Pooling", "m", "p", POOL)
        + layer("Pooling", "a", "q", "pooling_param { kernel_size: 3 stride: 1 pad: 1 }")
    )  # fmt: skip
    assert all(step.layer.scratch_bytes for step in net.steps if step.layer.type in ("LRN", "Eltwise", "Pooling"))
    deployed = net.deploy()
    assert not any(step.layer.scratch_bytes for step in deployed.running)
    assert difference(net, deployed) < ROUNDING
    for step in deployed.running[2:]:
        with pytest.raises(LayerError, match="kept nothing for backward, .* set force_backward: true"):
            step.layer.backward(step.top, [True] * len(step.bottom), step.bottom)


def test_a_term_that_is_kept_is_not_added_to():
    net = net_of(input_of(2, 4, 8, 7) + conv("data", "x") + RELU + ADDED["identity"])
    for kept in ("x", "z"):
        deployed = net.deploy(keep=[kept])
        assert "Eltwise" in types(deployed) and difference(net, deployed) < ROUNDING


CONVOLUTIONS = {
    "winograd": ((2, 64, 13, 14), 70, Window((3, 3), (1, 1), (1, 1), (1, 1)), 1),
    "winograd, groups": ((1, 64, 28, 28), 96, Window((3, 3), (1, 1), (1, 0), (1, 1)), 2),
    "implicit": ((3, 20, 9, 7), 33, Window((3, 3), (2, 2), (1, 1), (1, 1)), 1),
    "several images a panel": ((9, 3, 4, 4), 5, Window((1, 1), (1, 1), (0, 0), (1, 1)), 1),
    "strided 1 x 1": ((2, 20, 8, 8), 12, Window((1, 1), (2, 2), (0, 0), (1, 1)), 1),
    "depthwise": ((2, 8, 6, 7), 8, Window((3, 3), (1, 1), (1, 1), (1, 1)), 8),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_rectified_convolutions_with_weights_that_stay(case):
    shape, outputs, window, group = CONVOLUTIONS[case]
    sizes = zip(shape[2:], window.extent, window.stride, window.pad, strict=True)
    y_shape = (shape[0], outputs, *((size + 2 * p - e) // s + 1 for size, e, s, p in sizes))
    rng = np.random.default_rng(5)
    x, bias = (rng.standard_normal(size).astype(np.float32) for size in (shape, outputs))
    w = rng.standard_normal((outputs, shape[1] // group, *window.kernel)).astype(np.float32)
    x[0, 0, 0, 0] = np.nan
    memory = np.full(
        max(ops.convolution_workspace(shape, y_shape, window, group) for ops in (cpu, reference)), np.nan, np.float32
    )
    before = rng.standard_normal(y_shape).astype(np.float32)
    for packed, slope in (({}, 0.25), (None, 1.0)):
        expected, actual = before.copy(), before.copy()
        reference.convolve(x, w, bias, expected, window, group, memory, slope, None, True)
        cpu.convolve(x, w, bias, actual, window, group, memory, slope, packed, True)
        np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4)
    packed: dict = {}
    for slope in (0.0, 0.25, 1.0):
        expected, actual = (np.full(y_shape, np.nan, np.float32) for _ in range(2))
        reference.convolve(x, w, bias, expected, window, group, memory, slope)
        cpu.convolve(x, w, bias, actual, window, group, memory, slope, packed)
        if case.startswith("winograd"):  # NaN spreads over the tile
            assert len(packed) == 1 and np.isnan(actual[0, 0, 0, 0])
            actual, expected = actual[-1, :, 6:], expected[-1, :, 6:]
        np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4)
        if slope == 0:
            assert not np.signbit(actual[actual == 0]).any()


MODELS = {
    "lenet/lenet.prototxt": ("ip2", 28),
    "cifar10/cifar10_full.prototxt": ("ip1", 32),
    "squeezenet/deploy.prototxt": ("pool10", 67),
    "mobilenet/deploy.prototxt": ("fc7", 32),
    "resnet50/deploy.prototxt": ("fc1000", 200),
}
"""The blob that is compared, which no softmax has flattened, and a small size of images that the net can take."""


@pytest.mark.parametrize("model", MODELS)
def test_shipped_models(model):
    blob, size = MODELS[model]
    net = Net(model, "TEST")
    name = net.inputs[0]
    if blob not in net.blobs:
        blob = net.top_names[net._layer_names[-2]][0]  # noqa: SLF001
    net.blobs[name].reshape(1, net.blobs[name].shape[1], size, size)
    net.reshape()
    randomize(net)
    deployed = net.deploy(keep=[blob])
    assert not {"BatchNorm", "Scale", "Dropout", "Split"}.intersection(types(deployed))
    assert difference(net, deployed) < ROUNDING
    assert net.blobs[blob].data.std() > 0.01


def test_commands(capsys, tmp_path):
    outcome = run(capsys, "time", "--model", "lenet/lenet.prototxt", "--deploy", "--iterations", "2", "--json")
    found = json.loads(outcome.out)
    assert outcome.status == 0 and found["forward_ms"] > 0
    last, rest = found["layers"][-1], found["layers"][-2]
    assert last["name"] == "prob" and rest["name"] == "ip2" and rest["with"] == [] and rest["forward_ms"] > 0
    outcome = run(capsys, "time", "--model", "squeezenet/deploy.prototxt", "--deploy", "--iterations", "1", "--json")
    by_name = {row["name"]: row for row in json.loads(outcome.out)["layers"]}
    assert by_name["conv1"]["with"] == ["relu_conv1"] and "relu_conv1" not in by_name
    outcome = run(capsys, "time", "--model", "lenet/lenet.prototxt", "--deploy", "--iterations", "2")
    assert "Average Forward pass: " in outcome.out and "backward" not in outcome.out
    net = Net("lenet/lenet.prototxt", "TEST")
    randomize(net)
    net.save(tmp_path / "w.caffemodel")
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((3, 28, 28, 1)))
    arguments = ("--model_def", "lenet/lenet.prototxt", "--pretrained_model", tmp_path / "w.caffemodel")
    for name, more in (("plain", ()), ("deploy", ("--deploy",))):
        path = tmp_path / f"{name}.npy"
        options = (*arguments, "--images_dim", "28,28", "--center_only", "--raw_scale", "1", *more)
        assert run(capsys, "classify", tmp_path / "images.npy", path, *options).status == 0
    np.testing.assert_allclose(np.load(tmp_path / "deploy.npy"), np.load(tmp_path / "plain.npy"), rtol=1e-5)
