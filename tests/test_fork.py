"""A process that was forked after a net had run computes, on one thread, and never hangs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

NET = """
import logging, multiprocessing, os, threading, sys
import numpy as np
import minicaffe
from minicaffe import Net, proto
from minicaffe.proto import text

DEFINITION = '''
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 dim: 16 dim: 16 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
        convolution_param { num_output: 32 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
'''


def make():
    minicaffe.set_random_seed(1)
    net = Net(text.parse(DEFINITION, proto.NetParameter()), 0)
    net.blobs["x"].data[...] = np.random.default_rng(0).standard_normal((4, 3, 16, 16))
    return net


def passes(net):
    found = []
    for _ in range(4):  # eager, captured, replayed twice
        net.clear_param_diffs()
        net.forward_backward()
        found.append(net.params["conv"][0].diff.copy())
    return found


def check(found):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


net = make()
expected = passes(net)
"""

POOL = """
def work(k):
    check(passes(net))
    check(passes(make()))
    return minicaffe.get_num_threads()

with multiprocessing.get_context("fork").Pool(2) as pool:
    print(*pool.map(work, range(4)))
check(passes(net))
"""

SET_THREADS = """
if os.fork() == 0:
    try:
        minicaffe.set_num_threads(2)
    except minicaffe.MinicaffeError as error:
        print(error, flush=True)
    with minicaffe.backend.current().running():
        check(passes(net))
    print("computed", flush=True)
    os._exit(0)
os.wait()
print(minicaffe.get_num_threads())
"""

OTHER_THREAD = """
import time
stop = threading.Event()
other = make()
thread = threading.Thread(target=lambda: [passes(other) for _ in iter(stop.is_set, True)])
thread.start()
for k in range(20):
    child = os.fork()
    if child == 0:
        check(passes(net))
        check(passes(make()))
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
stop.set()
thread.join()
print("done")
"""

FRESH = """
if os.fork() == 0:  # nothing has run yet: the threads start here
    exec(REST)
    print(minicaffe.get_num_threads(), flush=True)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""

DATA = """
from minicaffe.data.write import write_images
write_images("db", np.zeros((8, 4, 4), np.uint8), np.zeros(8, int))
reading = Net(text.parse('layer { name: "data" type: "Data" top: "data" top: "label" '
                         'data_param { source: "db" backend: LMDB batch_size: 4 } }', proto.NetParameter()), 0)
reading.forward()
child = os.fork()
if child == 0:
    try:
        reading.forward()
    except minicaffe.MinicaffeError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
reading.forward()
reading.close()
"""

LAYERS = ["omp", "workqueue", "tbb"]


def output(code, layer="omp", threads="2", **options):
    if importlib.util.find_spec("numba.np.ufunc." + layer.replace("omp", "omppool").replace("tbb", "tbbpool")) is None:
        pytest.skip(f"Numba has no {layer} here")
    environment = os.environ | {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": threads}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, **options
    )
    if layer == "tbb" and "No threading layer could be loaded" in result.stderr:
        pytest.skip("TBB is not installed")
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout, result.stderr


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_pool_of_forked_processes_computes_the_same(layer, threads):
    out, err = output(NET + POOL, layer, threads)
    assert out.split() == ["1"] * 4
    told = err.count("Computing on one thread: this process was forked")
    assert told == 0 if threads == "1" else 1 <= told <= 2
    assert (told > 0) == ("'spawn'" in err)


def test_a_forked_process_has_one_thread_and_says_why():
    out, _ = output(NET + SET_THREADS)
    assert out.splitlines()[0].startswith("2 threads were asked for; expected 1 to 1, limited by the fork")
    assert out.splitlines()[1:] == ["computed", "2"]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_fork_while_another_thread_computes(layer):
    assert output(NET + OTHER_THREAD, layer)[0].splitlines()[-1] == "done"


def test_before_anything_has_run_a_forked_process_has_all_threads():
    head, _, rest = NET.partition("net = make()")
    code = f"REST = {('net = make()' + rest)!r}\n{head}{FRESH}"
    assert output(code)[0].split() == ["2", "0"]


def test_a_net_that_reads_data_in_a_thread_says_that_it_cannot(tmp_path):
    out, _ = output(NET + DATA, cwd=tmp_path)
    assert "layer 'data'" in out and "forked" in out and "'spawn'" in out
