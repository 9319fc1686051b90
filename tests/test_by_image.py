"""Images of a batch that go through several layers one by one: the same results, whatever is changed between passes."""

from __future__ import annotations

import copy
import gc
import os
import weakref

import numpy as np
import pytest
from test_deploy import BN_SCALE, RELU, ROUNDING, conv, difference, input_of, layer, net_of

import minicaffe
from minicaffe import backend, graph, models
from minicaffe.engine import image_ranges
from minicaffe.engine.by_image import ByImage
from minicaffe.errors import LayerError
from minicaffe.kernels import fast_paths
from minicaffe.kernels.cpu import images
from minicaffe.kernels.cpu.runtime.capture import LaunchList
from minicaffe.layers.base import registry
from minicaffe.net import Net
from minicaffe.proto.files import read_net


@pytest.fixture(autouse=True)
def on_two_threads():
    before = minicaffe.get_num_threads()
    minicaffe.set_num_threads(min(2, before))
    yield
    minicaffe.set_num_threads(before)


@pytest.fixture
def everywhere(monkeypatch):
    """Have images go one by one through all layers that let them."""
    monkeypatch.setattr(image_ranges, "_saved", lambda step, images: 1.0)
    monkeypatch.setattr(image_ranges, "_COPIED", 0.0)


def inside(net: Net) -> list[str]:
    """The types of layers that images go through one by one."""
    return [step.layer.type for taking in net._executor.by_image for step in taking.steps]


def outputs(net: Net, passes: int = 1) -> list[np.ndarray]:
    """What a net's outputs hold after each of some passes."""
    found = []
    for _ in range(passes):
        net.forward()
        found += [net.blobs[name].data.copy() for name in net.outputs]
    return found


def assert_same(net: Net, deployed: Net, passes: int = 4) -> None:
    """From now on, both compute the same of the net's inputs."""
    assert difference(net, deployed) < ROUNDING and inside(deployed)


CONV = conv("data", "x")
LAYERS = {
    "Convolution": CONV + layer("Convolution", "x", "y", "convolution_param { num_output: 4 kernel_size: 1 stride: 2 }"),
    "Deconvolution": CONV + conv("x", "y", "num_output: 4 kernel_size: 2 stride: 2 group: 2", "Deconvolution"),
    "ConvolutionDepthwise": CONV + conv("x", "y", "kernel_size: 3 pad: 1", "ConvolutionDepthwise"),
    "DepthwiseConvolution": CONV + conv("x", "y", "num_output: 6 group: 6 kernel_size: 3", "DepthwiseConvolution"),
    "Pooling": CONV + layer("Pooling", "x", "y", "pooling_param { kernel_size: 3 stride: 2 }")
    + layer("Pooling", "y", "z", "pooling_param { pool: AVE global_pooling: true }"),
    "LRN": CONV + layer("LRN", "x", "y", "lrn_param { alpha: 2 }")
    + layer("LRN", "y", "z", "lrn_param { alpha: 2 local_size: 3 norm_region: WITHIN_CHANNEL }"),
    "Eltwise": CONV + conv("data", "b") + conv("data", "c") + layer("Eltwise", "x b c", "y", "eltwise_param { coeff: 1 coeff: -2 coeff: 0.5 }"),
    "Concat": CONV + conv("data", "b") + layer("Concat", "x b", "y") + layer("Concat", "b x", "z", "concat_param { axis: 3 }"),
    "Slice": CONV + layer("Slice", "x", "a b") + conv("a", "y") + conv("b", "z"),
    "Softmax": CONV + layer("Softmax", "x", "y") + layer("Softmax", "y", "z", "softmax_param { axis: -1 }"),
    "BatchNorm": layer("BatchNorm", "data", "x") + layer("Scale", "x", "y", "scale_param { bias_term: true }"),
    "Scale": layer("Scale", "data", "x", "scale_param { bias_term: true }") + conv("x", "y"),
    "Reorg": conv("data", "x", "num_output: 16 kernel_size: 2") + layer("Pooling", "x", "p", "pooling_param { kernel_size: 2 stride: 2 }")
    + layer("Reorg", "p", "y", "reorg_param { stride: 2 reverse: true }") + layer("Reorg", "y", "z", "reorg_param { stride: 2 }"),
    "ShuffleChannel": CONV + layer("ShuffleChannel", "x", "y", "shuffle_channel_param { group: 3 }"),
    "Axpy": CONV + layer("Pooling", "x", "a", "pooling_param { pool: AVE global_pooling: true }") + conv("data", "b") + layer("Axpy", "a b x", "y"),
}  # fmt: skip
NEURONS = [name for name, kind in registry.items() if kind.by_image and name not in (*LAYERS, "Clip")]


@pytest.mark.parametrize("case", LAYERS)
def test_layers_that_keep_images_apart(everywhere, case):
    net = net_of(input_of(4, 4, 9, 8) + LAYERS[case])
    deployed = net.deploy()
    assert case in inside(deployed)
    assert_same(net, deployed)
    with fast_paths.without("image_by_image"):
        together = net.deploy()
        assert not inside(together)
        assert difference(deployed, together) < ROUNDING


def test_neurons(everywhere):
    net = net_of(input_of(4, 4, 9, 8) + CONV + "".join(layer(kind, "x", kind) for kind in NEURONS)
                 + layer("Clip", "x", "clipped", "clip_param { min: -0.1 max: 0.2 }"))  # fmt: skip
    deployed = net.deploy()
    assert len(NEURONS) > 12 and set(NEURONS) <= set(inside(deployed))
    assert_same(net, deployed)


TOGETHER = {
    "softmax over the batch": layer("Softmax", "data", "x", "softmax_param { axis: 0 }"),
    "batches one behind the other": layer("Concat", "data data", "x", "concat_param { axis: 0 }"),
    "a batch cut in two": layer("Slice", "data", "x y", "slice_param { axis: 0 }"),
    "channels on axis 0": conv("data", "x", "num_output: 4 kernel_size: 3 axis: 0"),
    "the batch's statistics": layer("BatchNorm", "data", "x", "batch_norm_param { use_global_stats: false }"),
    "a factor for each image": layer("Scale", "data", "x", "scale_param { axis: 0 }"),
    "inner product": layer("InnerProduct", "data", "x", "inner_product_param { num_output: 3 }"),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_what_mixes_images_does_not_take_them_apart(everywhere, case):
    net = net_of(input_of(4, 4, 9, 8) + TOGETHER[case])
    deployed = net.deploy()
    assert not inside(deployed)
    assert difference(net, deployed) < ROUNDING


def test_layers_of_users_are_not_taken(everywhere):
    class MeanOfBatch(registry["Convolution"]):
        type = "TestMeanOfBatch"
        capturable = by_image = True

        def forward(self, bottom, top):
            super().forward(bottom, top)

    try:
        kind = conv("data", "x", kind="TestMeanOfBatch")
        net = net_of(input_of(4, 4, 9, 8) + kind + conv("x", "y"))
        assert inside(net.deploy()) == ["Convolution"]
    finally:
        del registry["TestMeanOfBatch"]
    patched = net_of(input_of(4, 4, 9, 8) + CONV + RELU).deploy()
    assert inside(patched) == ["Convolution", "ReLU"]
    kept = patched.layer_dict["Convolution_x"]
    forward = kept.forward
    kept.forward = lambda bottom, top: (forward(bottom, top), top[0].data.__setitem__(..., top[0].data.mean(axis=0)))
    patched.forward()
    assert "Convolution" not in inside(patched)


@pytest.mark.parametrize(("batch", "taken"), [(1, False), (2, True), (3, False), (4, True), (7, True)])
def test_images_that_do_not_share_out_well_stay_together(everywhere, batch, taken):
    if minicaffe.get_num_threads() < 2:
        pytest.skip("one thread takes any number of images")
    assert bool(inside(net_of(input_of(batch, 4, 9, 8) + CONV).deploy())) is taken


BODY = (
    CONV + BN_SCALE + RELU + conv("x", "a", "num_output: 6 kernel_size: 1") + conv("x", "b") + layer("Concat", "a b", "c")
    + layer("Pooling", "c", "p", "pooling_param { kernel_size: 2 stride: 2 }")
    + layer("InnerProduct", "p", "y", "inner_product_param { num_output: 5 }")
)  # fmt: skip


def body(batch: int = 4) -> tuple[Net, Net]:
    """A net whose layers but the last take images one by one, and its deploy form."""
    net = net_of(input_of(batch, 4, 9, 8) + BODY)
    deployed = net.deploy()
    assert [step.layer.type for step in deployed.running if step.layer.type not in inside(deployed)] == [
        "Input",
        "InnerProduct",
    ]
    return net, deployed


def test_an_input_takes_another_shape_before_anybody_used_it(everywhere):
    deployed = net_of(input_of(1, 4, 9, 8) + BODY).deploy()
    assert not inside(deployed)
    deployed.blobs["data"].reshape(4, 4, 9, 8)
    deployed.forward()
    assert inside(deployed)


def test_images_are_read_and_written_where_they_lie(everywhere, monkeypatch):
    run, seen = images.run_images, []
    monkeypatch.setattr("minicaffe.engine.by_image.run_images", lambda *given: seen.append(given) or run(*given))
    net, deployed = body()
    assert_same(net, deployed)
    _, _, pointed, taken, given = seen[-1]
    assert len(pointed) == 2 and not taken and not given


def test_double_precision(everywhere):
    net = net_of(input_of(4, 4, 9, 8) + BODY, dtype=np.float64)
    assert_same(net, net.deploy(keep=["b"]))


def test_what_cannot_be_pointed_at_is_copied(everywhere, monkeypatch):
    monkeypatch.setattr("minicaffe.engine.by_image.find_pointers", lambda *lists: None)
    assert_same(*body())


def test_pointers_are_found_or_not_told():
    here, there = np.zeros(8, np.float32), np.zeros(8, np.float32)
    one, other = LaunchList(), LaunchList()
    for made, array, rest in ((one, here, 5), (other, there, 7)):
        address = array.ctypes.data
        made._memory = np.array([address + 4, 3, rest, address + 32, address], np.intp).view(np.uint8)
        made._start = made._memory.ctypes.data
        made._end = made._start + made._memory.nbytes
    start = one.span[0]
    assert images.find_pointers(one, other, here, there) == [(start, 4), (start + 24, 32), (start + 32, 0)]
    other.words[4] = one.words[4]  # an address in the array that did not move with it
    assert images.find_pointers(one, other, here, there) is None
    other.words[4] = there.ctypes.data
    one.words[1], other.words[1] = here.ctypes.data + 36, there.ctypes.data + 36  # one beyond it that did
    assert images.find_pointers(one, other, here, there) is None


def test_blobs_in_the_middle_are_kept(everywhere):
    net = net_of(input_of(4, 4, 9, 8) + BODY)
    deployed = net.deploy(keep=["x", "b", "c"])
    assert_same(net, deployed)


def test_memory_that_moves_while_launches_are_captured(everywhere):
    """A part of two Concats lies where the second one cannot use it, and is given memory of its own when that runs."""
    concats = layer("Concat", "data x", "y") + layer("Concat", "y x", "z") + conv("x", "w")
    net = net_of(input_of(4, 4, 9, 8) + conv("data", "x", "num_output: 3 kernel_size: 3 pad: 1") + concats)
    assert_same(net, net.deploy())


def test_an_input_that_is_changed_in_place(everywhere):
    for rest in (conv("data", "y"), layer("InnerProduct", "data", "y", "inner_product_param { num_output: 5 }")):
        net = net_of(input_of(4, 4, 9, 8) + layer("TanH", "data", "data") + rest)
        deployed = net.deploy()
        assert "TanH" in inside(deployed)
        values = net.blobs["data"].data.copy()
        for _ in range(4):
            net.blobs["data"].data = values
            assert_one(net, deployed)


def assert_one(net: Net, deployed: Net) -> None:
    """One pass of both gives the same."""
    for name in net.inputs:
        deployed.blobs[name].data = net.blobs[name].data
    for one, other in zip(outputs(net), outputs(deployed), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=ROUNDING * np.abs(one).max())


def test_whatever_changes_between_passes(everywhere):
    net, deployed = body()
    assert_same(net, deployed)
    for each in (
        net,
        deployed,
    ):  # a param that is read as it is, one that was folded, and one of which panels were made
        each.params["Convolution_a"][1].data[...] += 1
        each.params["Scale_x"][0].data[...] *= 2
        each.params["Convolution_b"][0].data[...] *= -1
    assert_same(net, deployed)
    for batch, taken in ((6, True), (3, minicaffe.get_num_threads() == 1), (4, True)):
        net.blobs["data"].reshape(batch, 4, 9, 8)
        deployed.blobs["data"].reshape(batch, 4, 9, 8)
        net.blobs["data"].data = np.random.default_rng(batch).standard_normal((batch, 4, 9, 8))
        assert difference(net, deployed) < ROUNDING
        assert bool(inside(deployed)) is taken
    for each in (net, deployed):
        each.layer_dict["Convolution_b"].pad = (0,)
        with pytest.raises(LayerError):
            each.forward()
        each.layer_dict["Convolution_b"].pad = (1,)
    assert_same(net, deployed)


def test_threads_may_change(everywhere):
    net, deployed = body()
    for threads in (minicaffe.get_num_threads(), 1, minicaffe.get_num_threads()):
        minicaffe.set_num_threads(threads)
        assert_same(net, deployed)
        (taking,) = deployed._executor.by_image
        assert len(taking._replicas) == threads


def test_layers_run_alone_while_somebody_looks_on(everywhere):
    net, deployed = body()
    seen = []
    running = deployed.running
    deployed.after_forward(lambda index: seen.append(running[index].layer.name))
    assert difference(net, deployed) < ROUNDING
    assert "Convolution_b" in seen and not inside(deployed)
    with fast_paths.without("replay"):
        other = net.deploy()
        assert difference(net, other) < ROUNDING and not inside(other)
    assert_same(net, other)


def test_a_capture_that_cannot_be_had(everywhere, monkeypatch):
    monkeypatch.setattr(LaunchList, "only_launches", False)
    net = net_of(input_of(4, 4, 9, 8) + BODY)
    deployed = net.deploy()
    assert difference(net, deployed) < ROUNDING and not inside(deployed)


def test_a_pass_after_captures_have_ended(everywhere, monkeypatch):
    """What comes before in the same pass may end them, as when scratch memory grows."""
    net, deployed = body()
    record = ByImage.record

    def then_end(self):
        done = record(self)
        backend.generation.advance()
        return done or True

    monkeypatch.setattr(ByImage, "record", then_end)
    assert_same(net, deployed)


def test_nan_stays_in_its_image(everywhere):
    net, deployed = body()
    expected = outputs(deployed, 4)[-1]
    deployed.blobs["data"].data[2, 1, 3, 3] = np.nan
    (found,) = outputs(deployed)
    np.testing.assert_array_equal(found[[0, 1, 3]], expected[[0, 1, 3]])
    assert np.isnan(found[2]).all()


def test_nets_in_turn_and_a_net_that_goes(everywhere):
    (one, first), (other, second) = body(), body(6)
    for _ in range(2):
        assert_same(one, first)
        assert_same(other, second)
    taking = weakref.ref(first._executor.by_image[0])
    del first
    gc.collect()
    assert taking() is None
    assert_same(other, second)


def test_parts_of_a_pass(everywhere):
    net, deployed = body()
    (expected,) = outputs(deployed)
    parts = deployed.run_apart()
    assert len(parts) > 4 and not inside(deployed)
    deployed.blobs["y"].data[...] = 0
    for part in parts:
        part.run()
    np.testing.assert_allclose(deployed.blobs["y"].data, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(outputs(deployed)[0], expected)
    assert inside(deployed)


def test_a_forked_process(everywhere):
    net, deployed = body()
    (expected,) = outputs(deployed, 4)[-1:]
    child = os.fork()
    if not child:
        same = all(np.allclose(found, expected, atol=1e-4) for found in outputs(deployed, 4))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(outputs(deployed)[0], expected)


def ranges(path: str, batch: int) -> tuple[list[str], list[image_ranges.Range]]:
    """The names of a shipped net's layers, and the ranges that pay."""
    net = Net(graph.without_fillers(read_net(models.find(path))[0]), "TEST")
    for blob in net.inputs:
        net.blobs[blob].reshape(batch, *net.blobs[blob].shape[1:])
    net.reshape()
    return [step.layer.name for step in net.steps], image_ranges.find(net.steps, (), 2)


def test_where_it_pays():
    names, found = ranges("mobilenet/deploy.prototxt", 16)
    assert any(names[each.first] == "conv1" and each.last > names.index("conv5_5/sep") for each in found)
    assert all(each.last < names.index("fc7") for each in found)
    names, found = ranges("caffenet/deploy.prototxt", 16)
    assert all(each.last < names.index("conv3") for each in found)
    assert not ranges("lenet/lenet.prototxt", 16)[1]


def test_an_inner_product_reads_its_weights_once():
    """A convolution whose window is the whole image, too, large though the image is."""
    net = net_of(input_of(8, 32, 48, 48) + layer("Sigmoid", "data", "x") + layer("TanH", "x", "y")
                 + conv("y", "z", "num_output: 40 kernel_size: 48"))  # fmt: skip
    names = [step.layer.type for step in net.steps]
    (found,) = image_ranges.find(net.steps, (), 2)
    assert names[found.first : found.last + 1] == ["Sigmoid", "TanH"]


def test_a_copy_of_a_layer_is_no_change_of_its_class():
    made = next(step.layer for step in net_of(input_of(4, 4, 9, 8) + CONV).steps if step.layer.type == "Convolution")
    kind, before = type(made), made.revision
    if "__slotnames__" in vars(kind):
        type.__delattr__(kind, "__slotnames__")  # which the first copy notes there
    copy.copy(made)
    assert "__slotnames__" in vars(kind) and made.revision == before
