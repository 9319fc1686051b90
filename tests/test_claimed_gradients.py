"""Gradients that only count as zero before backward overwrites them: nobody sees an old number, and every result stays
the same.
"""

from __future__ import annotations

import numpy as np
import pytest
from test_gpu_path import feed, solver

from minicaffe import backend, proto
from minicaffe.blob import Blob
from minicaffe.layers.recurrent import Recurrent
from minicaffe.net import Net
from minicaffe.proto.text import parse
from minicaffe.storage import Storage


def numbers(array):
    """An array of any backend as NumPy's."""
    return array if isinstance(array, np.ndarray) else array.get()


# --- storages and blobs


def blobs_of_sevens(*counts):
    """Blobs whose gradients lie one behind the other in one storage, all 7."""
    data, diff, blobs = Storage(sum(counts), "f4"), Storage(sum(counts), "f4"), []
    for i, count in enumerate(counts):
        blobs.append(Blob((count,)))
        blobs[-1].move_to(data, diff, sum(counts[:i]))
    diff.array()[...] = 7
    return blobs, diff


def shared(blob):
    other = Blob((1, blob.count))
    other.share_diff(blob)
    return other.diff


def moved(blob):
    other = Blob(blob.shape)
    other.share_diff(blob)
    other.move_to(Storage(20, "f4"), Storage(20, "f4"), 9)
    return other.diff


LOOKS = {
    "diff": lambda blob: blob.diff,
    "xdiff": lambda blob: numbers(blob.xdiff),
    "peek_diff": lambda blob: blob.peek_diff(),
    "share_diff": shared,
    "move_to": moved,
    "to_proto": lambda blob: np.array(blob.to_proto(write_diff=True).diff),
    "array": lambda blob: numbers(blob.diff_storage.array())[2:5],
    "host": lambda blob: blob.diff_storage.host()[2:5],
    "peek": lambda blob: blob.diff_storage.peek()[2:5],
    "claim": lambda blob: numbers(blob.diff_storage.claim(2, 4)[0])[2:5],
}


@pytest.mark.parametrize("look", LOOKS)
def test_whoever_looks_at_a_gradient_that_counts_as_zero_finds_zeros(where, look):
    (before, blob, after), storage = blobs_of_sevens(2, 3, 4)
    storage.clear([(2, 5), (5, 9)])
    np.testing.assert_array_equal(np.ravel(LOOKS[look](blob)), np.zeros(blob.count))
    for other in (before, blob, after):
        assert not other.diff.any()


def test_what_does_not_count_as_zero_is_zero_at_once_and_the_rest_only_when_it_is_looked_at():
    (_, blob, _), storage = blobs_of_sevens(2, 3, 4)
    kept = storage.host()
    storage.clear([(2, 5), (5, 7)])
    np.testing.assert_array_equal(kept, [0, 0, 7, 7, 7, 7, 7, 0, 0])
    blob.diff[1] = 3
    np.testing.assert_array_equal(kept, [0, 0, 0, 3, 0, 7, 7, 0, 0])
    storage.peek()
    np.testing.assert_array_equal(kept, [0, 0, 0, 3, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("counting", "written"),
    [
        ([(0, 2), (2, 5), (5, 9)], [0, 0, 0, 0, 0, 0, 0, 0, 0]),  # all at once, with what lies between
        ([(0, 2), (5, 9)], [0, 0, 7, 7, 7, 0, 0, 0, 0]),
        ([(2, 5), (5, 9)], [7, 7, 7, 7, 7, 0, 0, 0, 0]),
        ([(2, 5)], [7, 7, 7, 7, 7, 7, 7, 7, 7]),
    ],
)
def test_zeros_are_written_when_asked_for(where, counting, written):
    _, storage = blobs_of_sevens(2, 3, 4)
    storage.zeros = tuple(counting)
    storage.write_zeros([(0, 2), (5, 9)])
    assert storage.zeros == ((2, 5),) * ((2, 5) in counting)
    storage.zeros = ()
    np.testing.assert_array_equal(numbers(storage.array()), written)


def test_a_gradient_is_claimed_unwritten_once(where):
    (_, blob, after), storage = blobs_of_sevens(2, 3, 4)
    assert blob.claim_xdiff()[1]
    storage.clear([(2, 5), (5, 9)])
    dw, begun = blob.claim_xdiff()
    assert not begun and dw is blob.xdiff
    dw[...] = 3
    dw, begun = blob.claim_xdiff()
    assert begun and (numbers(dw) == 3).all()
    assert not after.diff.any() and after.claim_xdiff()[1]


def test_clearing_again_forgets_what_counted_as_zero(where):
    (_, blob, after), storage = blobs_of_sevens(2, 3, 4)
    storage.clear([(2, 5)])
    storage.clear([(5, 9)])
    assert blob.claim_xdiff()[1] and not blob.diff.any()
    assert not after.claim_xdiff()[1]


def test_more_memory_is_all_zero():
    (_, blob, _), storage = blobs_of_sevens(2, 3, 4)
    storage.clear([(2, 5)])
    storage.grow(20)
    assert not storage.host().any() and blob.claim_xdiff()[1]


@pytest.mark.parametrize("begins_on_device", [True, False])
def test_zeros_follow_the_head_from_host_to_device_and_back(begins_on_device):
    pytest.importorskip("strict_gpu")
    from strict_gpu import StrictBackend

    device, host = StrictBackend(), backend.host_backend()
    first, second = (device, host) if begins_on_device else (host, device)
    with backend.use(first):
        (_, blob, after), storage = blobs_of_sevens(2, 3, 4)
        storage.clear([(2, 5), (5, 9)])
    with backend.use(second):
        dw, begun = blob.claim_xdiff()
        assert not begun
        dw[...] = 3
        assert not numbers(after.xdiff).any()
    with backend.use(first):
        assert (numbers(blob.xdiff) == 3).all() and not numbers(after.xdiff).any()
    np.testing.assert_array_equal(storage.peek(), [0, 0, 3, 3, 3, 0, 0, 0, 0])


# --- nets

FILLED = 'weight_filler { type: "gaussian" std: 0.5 }'
INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { %s } } }'
IMAGES, ROWS = INPUT % "dim: 2 dim: 3 dim: 9 dim: 8", INPUT % "dim: 4 dim: 6"
LOSS = 'layer { name: "loss" type: "Reduction" bottom: "y" top: "loss" loss_weight: 1 reduction_param { operation: SUMSQ } }'


def inner(name, bottom, top, more="", options=""):
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{top}" {more} '
        f"inner_product_param {{ num_output: 5 {FILLED} {options} }} }}"
    )


def convolution(name, bottom, top, options, more="", kind="Convolution"):
    return (
        f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" {more} '
        f"convolution_param {{ {FILLED} {options} }} }}"
    )


CONVOLUTIONS = (
    convolution("a", "x", "a", "num_output: 4 kernel_size: 3 pad: 1")
    + convolution("b", "a", "b", "num_output: 4 kernel_size: 3 group: 4")
    + convolution("c", "b", "c", "num_output: 6 kernel_size: 1 stride: 2")
    + convolution("d", "c", "y", "num_output: 2 kernel_size: 3 stride: 2", kind="Deconvolution")
)
TIED = 'param { name: "w" } param { name: "b" }'
NETS = {
    "inner products": ROWS + inner("a", "x", "a") + inner("b", "a", "y", options="transpose: true") + LOSS,
    "convolutions": IMAGES + CONVOLUTIONS + LOSS,
    "no rows": INPUT % "dim: 0 dim: 6" + inner("a", "x", "y") + LOSS,
    "several bottoms": IMAGES
    + 'layer { name: "twice" type: "Power" bottom: "x" top: "z" power_param { scale: 2 } }'
    + convolution("a", "x", "a", "num_output: 4 kernel_size: 3", 'bottom: "z" top: "b"')
    + 'layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "y" }'
    + LOSS,
    "towers that share": ROWS
    + inner("a", "x", "a", TIED)
    + 'layer { name: "twice" type: "Power" bottom: "x" top: "z" power_param { scale: 2 } }'
    + inner("b", "z", "b", TIED)
    + 'layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "y" eltwise_param { operation: PROD } }'
    + LOSS,
    "shared with a layer that adds": ROWS
    + inner("a", "x", "a", 'param { name: "w" }', "bias_term: false")
    + 'layer { name: "two" type: "DummyData" top: "two" dummy_data_param { shape { dim: 4 } data_filler { value: 2 } } }'
    + 'layer { name: "embed" type: "Embed" bottom: "two" top: "y" param { name: "w" } '
    + "embed_param { input_dim: 5 num_output: 6 bias_term: false } }"
    + 'layer { name: "loss a" type: "Reduction" bottom: "a" top: "loss a" loss_weight: 1 reduction_param { operation: SUMSQ } }'
    + LOSS,
    "frozen, cut off and of no use": ROWS
    + inner("cut off", "x", "z")
    + inner("frozen", "z", "a", "param { lr_mult: 0 } propagate_down: false")
    + inner("learns", "a", "y")
    + inner("of no use", "x", "n")
    + 'layer { name: "silence" type: "Silence" bottom: "n" }'
    + LOSS,
    "other params": IMAGES
    + convolution("a", "x", "a", "num_output: 4 kernel_size: 3 bias_term: false")
    + 'layer { name: "norm" type: "BatchNorm" bottom: "a" top: "a" } '
    + 'layer { name: "scale" type: "Scale" bottom: "a" top: "a" scale_param { bias_term: true } } '
    + convolution("b", "a", "y", "num_output: 3 kernel_size: 3")
    + LOSS,
    "recurrent": INPUT % "dim: 3 dim: 2 dim: 4"
    + 'layer { name: "cont" type: "DummyData" top: "cont" dummy_data_param { shape { dim: 3 dim: 2 } data_filler { value: 1 } } }'
    + 'layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h" recurrent_param { num_output: 3 '
    + 'weight_filler { type: "gaussian" std: 0.5 } } }'
    + inner("b", "h", "y", options="axis: 2")
    + LOSS,
}


def gradients(net, lazily, passes=1):
    """Of all params, which were NaN before."""
    net.pack_params()[1].array().fill(np.nan)
    net.clear_param_diffs(lazily)
    for _ in range(passes):
        for layer in net.layers:
            if isinstance(layer, Recurrent):
                layer.reset()
        net.run_forward()
        net.run_backward()
    return [param.blob.diff.copy() for param in net.learnable]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETS)
def test_gradients_are_those_that_are_added_to_zeros(where, name, dtype):
    net = Net(parse(NETS[name], proto.NetParameter()), proto.TRAIN, dtype=dtype)
    x = net.blobs["x"]
    x.data[...] = np.random.default_rng(0).standard_normal(x.shape)
    expected = gradients(net, lazily=False)
    assert any(dw.any() for dw in expected) or x.count == 0
    for dw, want in zip(gradients(net, lazily=True), expected, strict=True):
        np.testing.assert_array_equal(dw, want)
    for dw, want in zip(gradients(net, lazily=True, passes=2), expected, strict=True):
        np.testing.assert_allclose(dw, 2 * want, rtol=1e-5, atol=1e-5 * np.abs(want).max(initial=0))


def test_only_what_every_layer_claims_is_left_to_them():
    """The weights of both inner products, but not their biases, nor a weight that an Embed adds to as well."""
    claimed = {}
    for name in ("inner products", "shared with a layer that adds"):
        net = Net(parse(NETS[name], proto.NetParameter()), proto.TRAIN)
        net.pack_params()
        net.clear_param_diffs(lazily=True)
        claimed[name] = [not param.blob.claim_xdiff()[1] for param in net.learnable]
    assert claimed == {"inner products": [True, False, True, False], "shared with a layer that adds": [False]}


def test_a_backward_pass_leaves_nothing_that_counts_as_zero(monkeypatch):
    """So every claimed gradient was overwritten, none filled with zeros first."""
    net = Net(parse(NETS["convolutions"], proto.NetParameter()), proto.TRAIN)
    net.pack_params()
    net.clear_param_diffs(lazily=True)
    net.run_forward()
    filled = []

    def note(storage, start, stop):
        filled.extend(first for first, last in storage._zeros.items() if first < stop and start < last)

    monkeypatch.setattr(Storage, "_write_zeros", note)
    net.run_backward()
    assert not filled and not net.pack_params()[1]._zeros


# --- solvers


def trained(eagerly, monkeypatch, look=None, **options):
    """Weights, gradients and history of the siamese net after three iterations; ``look`` is called with the net before
    each.
    """
    with monkeypatch.context() as patch:
        if eagerly:
            clear = Net.clear_param_diffs
            patch.setattr(Net, "clear_param_diffs", lambda net, lazily=False: clear(net))
        made = solver(**options)
        made.add_callback(lambda: feed(made.net, made.iter), lambda: None)
        if look:
            made.add_callback(lambda: look(made.net), lambda: None)
        made.step(3)
        blobs = [blob for blobs in made.net.params.values() for blob in blobs]
        return [array.copy() for array in (*(b.data for b in blobs), *(b.diff for b in blobs), *made.history_blobs())]


@pytest.mark.parametrize(
    "options", [{}, {"iter_size": 2}, {"clip_gradients": 0.1}, {"type": "AdaDelta", "delta": 1e-6}], ids=str
)
def test_training_is_what_it_is_with_gradients_cleared(where, monkeypatch, options):
    for lazy, eager in zip(trained(False, monkeypatch, **options), trained(True, monkeypatch, **options), strict=True):
        np.testing.assert_array_equal(lazy, eager)


def test_who_looks_between_iterations_finds_zeros_and_may_add_to_them(where, monkeypatch):
    found = []

    def look(net):
        found.extend(blob.peek_diff().any() for blobs in net.params.values() for blob in blobs)
        for number, blobs in enumerate(net.params.values()):
            blobs[0].diff[...] += number

    lazy, eager = (trained(eagerly, monkeypatch, look) for eagerly in (False, True))
    assert not any(found)
    for a, b in zip(lazy, eager, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_user_clears_at_once():
    made = solver()
    feed(made.net, 0)
    made.step(1)
    kept = [blob.diff for blobs in made.net.params.values() for blob in blobs]
    assert all(dw.any() for dw in kept)
    made.net.clear_param_diffs()
    assert not any(dw.any() for dw in kept)
