"""pycaffe's face: the names of its modules, its nets' passes and what wrong calls are told, logs, modes."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import minicaffe as caffe
from minicaffe import backend, compat
from minicaffe.backend import ranks
from minicaffe.errors import (
    ArgumentError,
    DeviceError,
    MinicaffeError,
    MissingExtraError,
    NetError,
    ShapeError,
    UnknownNameError,
)

NET = """
name: "small" force_backward: true
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 3 dim: 4 } } }
layer { name: "b" type: "Input" top: "b" input_param { shape { dim: 3 dim: 4 } } }
layer { name: "ip" type: "InnerProduct" bottom: "a" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "sum" type: "Eltwise" bottom: "ip" bottom: "b" top: "sum" }
"""
TRAINED = """
name: "trained"
layer { name: "d" type: "DummyData" top: "x" top: "y"
  dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 } data_filler { type: "gaussian" } data_filler { } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "loss" }
"""


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    return caffe.Net(network_file=str(tmp_path / "net.prototxt"), phase=caffe.TRAIN)


@pytest.fixture
def solver_file(tmp_path):
    (tmp_path / "trained.prototxt").write_text(TRAINED)
    path = tmp_path / "solver.prototxt"
    path.write_text(
        f'net: "{tmp_path}/trained.prototxt" base_lr: 0.1 lr_policy: "fixed" display: 2 max_iter: 6 test_iter: 1 '
        "test_interval: 3 snapshot_after_train: false"
    )
    return str(path)


# --- nets ------------------------------------------------------------------------------------------------------------


def test_shipped_models_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert caffe.Net("lenet/lenet.prototxt", caffe.TEST).name == "LeNet"
    (tmp_path / "lenet").mkdir()
    (tmp_path / "lenet" / "lenet.prototxt").write_text(NET)
    assert caffe.Net("lenet/lenet.prototxt", caffe.TEST).name == "small"  # one's own file goes before
    with pytest.raises(MinicaffeError, match=r"the model 'siamese' has: siamese/digits_solver\.prototxt"):
        caffe.get_solver("siamese/nope.prototxt")


def test_both_forms_of_the_constructor(net, tmp_path):
    net.save(tmp_path / "net.caffemodel")
    file, weights = str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel")
    for other in (caffe.Net(file, weights, caffe.TEST), caffe.Net(file, caffe.TEST, weights=weights)):
        assert other.phase == caffe.TEST
        np.testing.assert_array_equal(other.params["ip"][0].data, net.params["ip"][0].data)
    with pytest.raises(NetError, match="the phase is missing"):
        caffe.Net(file, weights)
    with pytest.raises(NetError, match=r"TRAIN \(0\) or minicaffe.TEST \(1\); found 7"):
        caffe.Net(file, 7)
    with pytest.raises(NetError, match=r"give stages=\['deploy'\]"):
        caffe.Net(file, caffe.TEST, stages="deploy")


def test_passes_over_any_number_of_items(golden):
    """What Caffe gave for 7 items in batches of 3."""
    definition = (
        (golden / "pyapi" / "python_layer_net.prototxt").read_text().replace("golden_pylayer", "test_python_layer")
    )
    net = caffe.Net(caffe.proto.text.parse(definition, caffe.proto.NetParameter(), "net"), caffe.TRAIN)
    with np.load(golden / "pyapi" / "net_helpers.npz") as expected:
        net.params["ip"][0].data[...], net.params["ip"][1].data[...] = expected["w"], expected["bias"]
        a, b = expected["X"], expected["Y"]
        live = net.forward(blobs=["ip"], a=a[:3], b=b[:3])
        np.testing.assert_allclose(live["ip"], expected["fwd_ip"], rtol=1e-6)
        np.testing.assert_allclose(net.forward(start="ip", end="ip")["ip"], expected["range_ip"], rtol=1e-6)
        found = net.forward_all(blobs=["ip"], a=a, b=b)
        np.testing.assert_allclose(found["ip"], expected["all_ip"], rtol=1e-6)
        np.testing.assert_allclose(found["py"][:1], expected["all_py"], rtol=1e-6)
        np.testing.assert_allclose(live["py"], expected["fwd_py"], rtol=1e-6)  # by now of the last batch
        assert found["py"].shape == (3,)  # a number a batch, of which Caffe drops as many as the last one lacks items


def test_forward_and_backward_over_any_number_of_items(net):
    a, b, dy = np.random.RandomState(0).randn(3, 7, 4).astype(np.float32)
    outs, diffs = net.forward_backward_all(blobs=["ip"], diffs=["ip"], a=a, b=b, sum=dy)
    w = net.params["ip"][0].data
    np.testing.assert_allclose(outs["sum"], a @ w.T + b, rtol=1e-4, atol=1e-5)
    assert set(outs) == {"sum", "ip"} and set(diffs) == {"a", "b", "ip"}
    np.testing.assert_allclose(diffs["a"], dy @ w, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(diffs["b"], dy)
    assert [batch["a"].shape for batch in net._batch({"a": a})] == [(3, 4)] * 3


X = np.zeros((3, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: net.forward(blobs=["nope"]), r"no blob 'nope' \(there are: a, b, ip, sum\)"),
        (lambda net: net.forward(blobs=["sun"]), "no blob 'sun'; did you mean 'sum'"),
        (lambda net: net.forward([X]), r"list of names of blobs; found list of ndarray.*names of inputs: a=…, b=…"),
        (lambda net: net.forward(X), "found ndarray of ndarray"),
        (lambda net: net.forward("sum"), "list of names of blobs; found 'sum'"),
        (lambda net: net.forward(3), "list of names of blobs; found 3"),
        (lambda net: net.backward(diffs=["nope"]), "no blob 'nope'"),
        (lambda net: net.backward([X]), "diffs takes a list of names"),
        (lambda net: net.forward(start="nope"), "no layer 'nope'; it has: a, b, ip, sum"),
        (lambda net: net.forward(end="nope"), "no layer 'nope'"),
        (lambda net: net.backward(end="nope"), "no layer 'nope'"),
        (lambda net: net.forward(start="sum", end="ip"), "layer 'sum' comes after layer 'ip'"),
        (lambda net: net.backward(start="ip", end="sum"), "layer 'sum' comes after layer 'ip'"),
        (lambda net: net.forward(a=X), r"Input blob arguments do not match net inputs: found \['a'\], expected \['a', 'b'\]"),
        (lambda net: net.backward(a=X), "Top diff arguments do not match net outputs"),
        (lambda net: net.forward(a=X, b=X[:2]), r"Input 'b' is not batch sized.*\(3, 4\), found \(2, 4\); forward_all"),
        (lambda net: net.backward(sum=X[:2]), "Diff 'sum' is not batch sized"),
        (lambda net: net.forward(a=X, b=X[:, :3]), r"Input 'b' must have shape \(3, 4\); found \(3, 3\)"),
        (lambda net: net.forward(a=X, b="text"), "Input 'b' must be an array of numbers; found <U4"),
        (lambda net: net.forward(a=X, b=[[1], [1, 2]]), "Input 'b' must be an array of numbers"),
        (lambda net: net.forward_all(), "forward_all takes arrays by name, for a, b; found none"),
        (lambda net: net.forward_all(c=X), "for a, b; found c"),
        (lambda net: net.forward_all(a=X, b=X[:2]), "equally many items for each name"),
        (lambda net: net.forward_all(a=3, b=3), "equally many items for each name"),
        (lambda net: net.forward_all(["nope"], a=X, b=X), "no blob 'nope'"),
        (lambda net: net.forward_backward_all(), "for a, b, sum; found none"),
        (lambda net: net.forward_backward_all(a=X, b=X, smu=X), "found a, b, smu"),
        (lambda net: net.set_input_arrays(X, X), "only be called if the first layer is a MemoryDataLayer"),
        (lambda net: net.share_with("net.caffemodel"), "share_with takes another net"),
        (lambda net: net.before_forward(3), "before_forward takes a function of the layer's number; found 3"),
        (lambda net: net.after_backward(None), "after_backward takes a function"),
    ],
)  # fmt: skip
def test_wrong_calls_say_what_is_wrong(net, call, message):
    net.blobs["a"].data[...] = 7
    with pytest.raises(NetError, match=message):
        call(net)
    assert (net.blobs["a"].data == 7).all()  # nothing was copied before


def test_a_net_without_inputs_has_no_items(solver_file):
    with pytest.raises(NetError, match=r"found none\. A net without inputs runs by forward\(\)"):
        caffe.SGDSolver(solver_file).net.forward_all()


@pytest.mark.parametrize("of", ["blobs", "params", "layer_dict", "top_names", "bottom_names"])
def test_what_a_net_has_is_found_by_name(net, of):
    with pytest.raises(UnknownNameError, match=r"'ipp'; did you mean 'ip'\? \(there are: ") as caught:
        getattr(net, of)["ipp"]
    assert isinstance(caught.value, KeyError)
    assert "ipp" not in getattr(net, of) and getattr(net, of).get("ipp") is None


@pytest.mark.parametrize("shape", [((1, 2),), ("3",), (1.5,), (None,), (1, float("nan"))])
def test_shapes_are_integers(net, shape):
    with pytest.raises(ShapeError, match="a size in a blob's shape must be a whole number"):
        net.blobs["a"].reshape(*shape)
    net.blobs["a"].reshape(np.int64(5), 4)
    assert net.blobs["a"].shape == (5, 4) and all(type(size) is int for size in net.blobs["a"].shape)


def test_all_that_is_shown_is_worth_reading(net, solver_file):
    assert repr(net) == "<Net 'small' TRAIN: 4 layers, 20 params, a 3x4, b 3x4 -> sum 3x4>"
    assert repr(net.layer_dict["ip"]) == "<InnerProduct layer 'ip', blobs 4 4 (16), 4 (4)>"
    assert repr(net.layers[-1]) == "<Eltwise layer 'sum'>"
    assert repr(net.blobs["a"]) == "Blob(3 4 (12))" and repr(net.params["ip"]) == "[Blob(4 4 (16)), Blob(4 (4))]"
    solver = caffe.get_solver(solver_file)
    assert re.fullmatch(r"<SGDSolver iteration 0 of 6, lr 0\.1: net 'trained', 1 test net>", repr(solver))
    assert repr(solver.net) == "<Net 'trained' TRAIN: 3 layers, 8 params, loss scalar>"

    class Own(caffe.Layer):
        pass

    assert repr(Own(caffe.proto.LayerParameter())) == "<Own layer>"


def test_the_arrays_of_a_memory_data_layer(tmp_path):
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "d" type: "MemoryData" top: "x" top: "y" memory_data_param '
        "{ batch_size: 2 channels: 1 height: 1 width: 3 } }"
    )
    net = caffe.Net(tmp_path / "net.prototxt", caffe.TEST)
    data = np.arange(12, dtype=np.float32).reshape(4, 1, 1, 3)
    net._set_input_arrays(data, np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1))
    np.testing.assert_array_equal(net.forward()["x"], data[:2])
    net.set_input_arrays(data, np.arange(4, dtype=np.float32))
    np.testing.assert_array_equal(net.forward()["y"].ravel(), [0, 1])


# --- logs ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def unlogged():
    """A program that says nothing about logging; what it prints on stderr."""
    logger, root = logging.getLogger("minicaffe"), logging.getLogger()
    before = logger.handlers, root.handlers, sys.stderr, logger.level
    logger.handlers, root.handlers, sys.stderr = [], [], io.StringIO()
    logger.setLevel(logging.NOTSET)
    try:
        yield sys.stderr
    finally:
        logger.handlers, root.handlers, sys.stderr, level = before
        logger.setLevel(level)


def lines(stream: io.StringIO) -> list[str]:
    return [re.sub(r"^([IWE]).*?\] ", r"\1 ", line) for line in stream.getvalue().splitlines()]


def test_a_solver_logs_as_in_caffe(solver_file):
    with unlogged() as stderr:
        caffe.SGDSolver(solver_file).step(3)
        found = lines(stderr)
        assert "I Iteration 0, Testing net (#0)" in found and "I Iteration 2, lr = 0.1" in found
        assert any(line.startswith("I     Train net output #0: loss = ") for line in found)
        assert not any("needs backward computation" in line for line in found)
        caffe.log("one's own")
        assert lines(stderr)[-1] == "I one's own" and "test_pycaffe.py" in stderr.getvalue().splitlines()[-1]


def test_the_level_of_the_environment_counts(solver_file, monkeypatch):
    with unlogged() as stderr:
        monkeypatch.setenv("GLOG_minloglevel", "2")
        caffe.SGDSolver(solver_file).step(3)
        logging.getLogger("minicaffe.net").warning("careful")
        assert stderr.getvalue() == ""
        logging.getLogger("minicaffe.net").error("wrong")
        assert lines(stderr) == ["E wrong"]


def test_what_a_program_says_about_logging_goes_before(solver_file):
    with unlogged() as stderr:
        solver = caffe.SGDSolver(solver_file)
        mine = io.StringIO()
        logging.getLogger().addHandler(logging.StreamHandler(mine))
        before = stderr.getvalue()
        solver.step(3)
        assert stderr.getvalue() == before and mine.getvalue() == ""


def test_init_log_shows_everything_from_a_level_on(net, tmp_path):
    with unlogged() as stderr:
        caffe.init_log()
        caffe.Net(tmp_path / "net.prototxt", caffe.TEST)
        caffe.log("seen")
        assert "I Network initialization done." in lines(stderr) and lines(stderr)[-1] == "I seen"
        count = len(lines(stderr))
        caffe.init_log(1)
        caffe.log("hidden")
        logging.getLogger("minicaffe.net").warning("careful")
        caffe.init_log(0, False)
        caffe.log("hidden")
        logging.getLogger("minicaffe.net").error("wrong")
        assert lines(stderr)[count:] == ["W careful", "E wrong"]
        with pytest.raises(ArgumentError, match=r"0 \(everything\).*found 5"):
            caffe.init_log(5)
        caffe.set_logging_disabled()
        logging.getLogger("minicaffe.net").error("hidden")
        assert lines(stderr)[-1] == "E wrong"


class Display:
    """IPython.display, as far as it is used: lines by their place, which can be written over."""

    def __init__(self):
        self.lines = []

    def display(self, data, raw, display_id):
        assert raw and display_id
        self.lines.append([data["text/plain"]])
        written = self.lines[-1]
        return SimpleNamespace(update=lambda data, raw: written.append(data["text/plain"]))


def test_a_notebook_gets_a_line_a_cell(solver_file, monkeypatch):
    with unlogged() as stderr:
        shell, display = SimpleNamespace(kernel=object(), execution_count=1), Display()
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        monkeypatch.setitem(sys.modules, "IPython.display", display)
        solver = caffe.get_solver(solver_file)
        for _ in range(4):
            solver.step(1)
        shell.execution_count = 2
        solver.solve()
        shell.execution_count = 3
        solver.step(1)
        assert display.lines.pop()[-1].startswith("iteration 7, loss ")
        assert len(display.lines) == 2 and stderr.getvalue() == ""
        last = r"iteration 6 of 6, loss [\d.]+, lr 0\.1; test net #0 at 3: loss [\d.]+"
        assert re.fullmatch(last.replace("6 of", "4 of"), display.lines[0][-1])
        assert re.fullmatch(last, display.lines[1][-1])
        assert compat.notebook() is shell
        shell.kernel = None
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: object()))
        assert compat.notebook() is None


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_gpu(monkeypatch):
    def fail():
        raise MissingExtraError("this needs the package 'cupy'")

    monkeypatch.setattr(backend, "gpu_backend", fail)
    monkeypatch.delenv("MINICAFFE_GPU_FALLBACK", raising=False)
    backend._warn_of_fallback.cache_clear()


def test_without_a_gpu_the_remedy_is_told(no_gpu):
    with pytest.raises(MissingExtraError, match=r"'cupy'; with MINICAFFE_GPU_FALLBACK=1 in the environment"):
        caffe.set_mode_gpu()
    assert backend.current().is_host


def test_old_scripts_fall_back_to_the_cpu_with_one_warning(no_gpu, monkeypatch, caplog):
    monkeypatch.setenv("MINICAFFE_GPU_FALLBACK", "1")
    for _ in range(3):
        caffe.set_device(0)
        caffe.set_mode_gpu()
    assert [record.levelname for record in caplog.records] == ["WARNING"] and backend.current().is_host
    assert "computing on the CPU: this needs the package 'cupy'" in caplog.text


@pytest.mark.parametrize("device", ["0", None, 1.5])
def test_devices_are_numbers(device):
    with pytest.raises(DeviceError, match="number of a GPU must be a whole number"):
        caffe.set_device(device)


@pytest.mark.parametrize("seed", ["1", None, 1.5])
def test_seeds_are_integers(seed):
    with pytest.raises(MinicaffeError, match="seed must be a whole number"):
        caffe.set_random_seed(seed)


# --- timers and many GPUs --------------------------------------------------------------------------------------------


def test_a_timer_measures(caplog):
    timer = caffe.Timer()
    assert timer.ms == 0 and "never been started" in caplog.text
    timer.start()
    first = timer.ms  # reading stops it
    assert first >= 0 and timer.ms == first
    timer.start()
    timer.stop()
    timer.stop()
    assert timer.ms >= 0


def test_a_script_for_several_gpus_runs_with_one(solver_file):
    """As python/train.py does with one GPU."""
    uid = caffe.NCCL.new_uid()
    assert isinstance(uid, bytes) and caffe.has_nccl() == compat.have("mpi4py")
    caffe.set_solver_count(1)
    caffe.set_solver_rank(0)
    caffe.set_multiprocess(True)
    solver = caffe.SGDSolver(solver_file)
    nccl = caffe.NCCL(solver, uid)
    nccl.bcast()
    solver.add_callback(nccl)
    assert solver.param.layer_wise_reduce
    solver.net.after_backward(nccl)
    solver.step(solver.param.max_iter)
    assert solver.iter == 6


def test_several_solvers_are_refused(solver_file):
    solver = caffe.SGDSolver(solver_file)
    caffe.set_solver_count(2)
    try:
        with pytest.raises(DeviceError, match=r"2 solvers cannot exchange gradients.*mpirun -n N"):
            caffe.NCCL(solver, b"")
    finally:
        caffe.set_solver_count(1)
    assert ranks.solver_count() == 1
    for wrong in ((3,), (None, print), (print, 3), (object(),)):
        with pytest.raises(ArgumentError, match="add_callback takes two functions"):
            solver.add_callback(*wrong)


def test_the_rate_can_be_set_while_training(solver_file):
    solver = caffe.SGDSolver(solver_file)
    solver.step(1)
    solver.param.base_lr = 0.25
    assert solver.lr == pytest.approx(0.25) and (solver.param.max_iter, solver.param.display) == (6, 2)


# --- import caffe ----------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
import caffe, caffe.io, caffe.draw, caffe.net_spec, caffe.coord_map, caffe.classifier, caffe.detector, caffe.pycaffe
import caffe._caffe, caffe.proto
import caffe.proto.caffe_pb2 as pb
import minicaffe
from caffe import layers as L, params as P
from caffe.proto import caffe_pb2
from caffe._caffe import Net
from beside import answer
assert caffe is minicaffe and caffe.io is minicaffe.io and Net is minicaffe.Net and caffe_pb2 is pb
assert caffe_pb2.NetParameter is minicaffe.proto.NetParameter and caffe.proto.caffe_pb2 is pb
assert (caffe.__spec__.name, caffe.io.__spec__.name) == ("minicaffe", "minicaffe.io")
assert L.ReLU(L.Input()).to_proto().layer[1].type == "ReLU" and P.Pooling.MAX == 0
try:
    import caffe.nope
except ModuleNotFoundError as error:
    assert error.name == "caffe.nope"
else:
    raise AssertionError
print(__name__, sys.argv[1:], answer)
"""


@pytest.mark.parametrize("way", ["python -m minicaffe", "install_as_caffe"])
def test_import_caffe_means_minicaffe(tmp_path, way):
    (tmp_path / "beside.py").write_text("answer = 42")
    command, first = [sys.executable, "-m", "minicaffe", "script.py", "a", "-b"], ""
    if way == "install_as_caffe":
        command, first = [sys.executable, "script.py", "a", "-b"], "import minicaffe; minicaffe.install_as_caffe()\n"
    (tmp_path / "script.py").write_text(first + SCRIPT)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("__main__ ['a', '-b'] 42\n", "")


def test_python_m_minicaffe_is_the_command_line_too(tmp_path):
    def run(*args):
        return subprocess.run([sys.executable, "-m", "minicaffe", *args], cwd=tmp_path, capture_output=True, text=True)

    assert "siamese/mnist_siamese.prototxt" in run("models", "list").stdout
    missing = run("nope.py")
    assert missing.returncode == 1 and "no script nope.py (the working directory is" in missing.stderr
    (tmp_path / "ends.py").write_text("import sys; sys.exit(5)")
    assert run("ends.py").returncode == 5
    assert run("trian").returncode == 2
    (tmp_path / "without_ending").write_text("import caffe; print(caffe.TEST)")
    assert run("without_ending").stdout == "1\n"
    (tmp_path / "models").write_text("print('no command')")
    assert "siamese/mnist_siamese.prototxt" in run("models", "list").stdout


def test_another_caffe_is_not_pushed_aside(monkeypatch):
    monkeypatch.setitem(sys.modules, "caffe", SimpleNamespace(__file__="/opt/caffe/__init__.py"))
    with pytest.raises(MinicaffeError, match=r"imported already, from /opt/caffe/__init__\.py"):
        caffe.install_as_caffe()
