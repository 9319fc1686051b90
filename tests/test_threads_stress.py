"""Nets are built, reshaped, run and dropped in several Python threads at once, on every threading layer.

In a process of its own, for what goes wrong ends it.  ``MINICAFFE_STRESS=60`` goes on for so many seconds.
"""

from __future__ import annotations

import os

import pytest
from test_fork import LAYERS, output

SECONDS = float(os.environ.get("MINICAFFE_STRESS", 3))

STRESS = """
import faulthandler, gc, sys, threading, time
import numpy as np
import minicaffe
from minicaffe import Net, backend, proto
from minicaffe.proto import text

faulthandler.enable()
sys.setswitchinterval(1e-4)

DEFINITION = '''
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 8 dim: 12 dim: 12 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
        convolution_param { num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "constant" value: 0.02 } } }
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool" top: "conv2"
        convolution_param { num_output: 8 kernel_size: 1 weight_filler { type: "constant" value: 0.1 } } }
layer { name: "mean" type: "Pooling" bottom: "conv2" top: "mean" pooling_param { pool: AVE global_pooling: true } }
layer { name: "ip" type: "InnerProduct" bottom: "mean" top: "ip"
        inner_product_param { num_output: 3 weight_filler { type: "constant" value: 0.3 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
'''
SIZES = [(2, 12), (3, 20), (1, 12), (2, 28)]


def build():
    return Net(text.parse(DEFINITION, proto.NetParameter()), 0)


def compute(net, size):
    num, width = size
    net.blobs["x"].reshape(num, 8, width, width)
    net.blobs["label"].reshape(num)
    x = net.blobs["x"].data
    x[...] = np.sin(np.arange(x.size)).reshape(x.shape)
    net.blobs["label"].data[...] = np.arange(num) % 3
    net.clear_param_diffs()
    net.forward_backward()
    return [net.loss, *(blob.diff.copy() for name in ("conv", "scale", "conv2", "ip") for blob in net.params[name])]


expected = {}
for size in SIZES:
    expected[size] = compute(build(), size)
wrong, passes, deadline = [], [], time.monotonic() + SECONDS


def check(net, size):
    passes.append(size)
    for one, other in zip(compute(net, size), expected[size], strict=True):
        if not np.allclose(one, other, rtol=1e-3, atol=1e-5):
            wrong.append((size, one, other))


def steady(size):  # captured, then replayed
    net = build()
    while time.monotonic() < deadline:
        check(net, size)


def reshaping(seed):
    net, rng = build(), np.random.default_rng(seed)
    while time.monotonic() < deadline:
        size = SIZES[rng.integers(len(SIZES))]
        for _ in range(rng.integers(1, 5)):
            check(net, size)


def building(seed):
    rng = np.random.default_rng(seed)
    while time.monotonic() < deadline:
        net = build()
        net.pack_params()
        for _ in range(rng.integers(5)):
            check(net, SIZES[seed % len(SIZES)])
        net.layer_dict["relu"].negative_slope = 0.0


def meddling():
    while time.monotonic() < deadline:
        minicaffe.set_num_threads(1)
        backend.current().reserve(np.random.default_rng().integers(1 << 18), "f4", threading.Event())
        minicaffe.set_num_threads(2)
        gc.collect()
        time.sleep(0.02)


def guarded(function, *arguments):
    try:
        function(*arguments)
    except BaseException as error:
        wrong.append(repr(error))
        raise


threads = [threading.Thread(target=guarded, args=work) for work in (
    (steady, SIZES[0]), (steady, SIZES[3]), (reshaping, 0), (reshaping, 1), (building, 2), (building, 3), (meddling,))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(passes), len(wrong), wrong[:1])
assert not wrong and len(passes) > SECONDS
"""


@pytest.mark.parametrize("layer", LAYERS)
def test_nets_in_several_threads_at_once(layer):
    output(f"SECONDS = {SECONDS}\n{STRESS}", layer, threads="2")
