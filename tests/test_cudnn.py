"""``engine: CUDNN`` without a GPU: cuDNN's Python package is replaced by a model that computes what it is asked for."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from types import SimpleNamespace

import cuda_host
import numpy as np
import pytest
import strict_cudnn
import strict_cupy
from strict_cuda import FakeCublas, FakeCupy
from strict_cudnn import FakeCudnn

from minicaffe import backend, compat, proto
from minicaffe.backend.gpu import GpuBackend
from minicaffe.errors import DeviceError, MissingExtraError
from minicaffe.kernels import fast_paths
from minicaffe.kernels.cuda.conv import cudnn as conv_cudnn
from minicaffe.kernels.cuda.conv.cudnn import CudnnConvolutions
from minicaffe.kernels.cuda.conv.problem import KINDS, Problem
from minicaffe.solvers import create
from minicaffe.testing.gpu import cudnn as checks
from minicaffe.testing.gpu import target
from minicaffe.testing.kernel_cases.case import on_arrays

pytestmark = pytest.mark.skipif(not cuda_host.have_compiler(), reason="g++ builds the CUDA kernels for the CPU")

NET = """
    layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 8 dim: 7 } } }
    layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
        num_output: 6 kernel_size: 3 pad: 1 group: 2 engine: CUDNN weight_filler { type: "gaussian" std: 0.3 } } }
    layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
    layer { name: "up" type: "Deconvolution" bottom: "conv" top: "up" convolution_param {
        num_output: 3 kernel_size: 3 stride: 2 dilation: 2 engine: CUDNN weight_filler { type: "gaussian" std: 0.3 } } }
    layer { name: "loss" type: "Reduction" bottom: "up" top: "loss" loss_weight: 0.01
        reduction_param { operation: SUMSQ } }
"""


@pytest.fixture
def install(monkeypatch):
    """Makes a GPU backend of models; ``cudnn`` is the module, or an exception that importing it raises."""

    def put(cudnn):
        modules = {"cupy": FakeCupy(), "nvmath": SimpleNamespace(), "nvmath.bindings.cublas": FakeCublas()}

        def require(name):
            if name == "cudnn" and isinstance(cudnn, Exception):
                raise cudnn
            return cudnn if name == "cudnn" else modules[name]

        monkeypatch.setattr(compat, "require", require)
        monkeypatch.setattr(GpuBackend, "_of_device", {})
        return GpuBackend.on_device(0)

    return put


@pytest.fixture
def gpu(install):
    return install(FakeCudnn())


def call(where, case):
    args = case.draw("float32")
    expected = case.expected(args)
    with where.running():
        device = [on_arrays(strict_cupy.array, arg) for arg in args]
        case.call(where, device)
    found = [arg.get() if isinstance(arg, strict_cupy.ndarray) else arg for arg in device]
    return case.disagreement(expected, found)


@pytest.mark.parametrize("case", list(checks.cases()), ids=lambda case: case.name)
def test_products_are_those_of_the_reference(gpu, case):
    assert call(gpu, case) is None


def test_tf32_is_taken_only_where_it_is_allowed(gpu):
    case = next(checks.cases())
    with target.tf32(True):
        assert "elements differ" in call(gpu, case)
    assert call(gpu, case) is None


def trained(tmp_path, text=NET, iterations=5, **options):
    """Losses and weights of a net on inputs that change."""
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    backend.random.seed(1)
    param = proto.SolverParameter(net=str(path), base_lr=0.01, lr_policy="fixed", **options)
    made, rng, losses = create(param), np.random.default_rng(0), []
    for _ in range(iterations):
        made.net.blobs["data"].data[...] = rng.standard_normal(made.net.blobs["data"].shape)
        made.step(1)
        losses.append(float(made.net.loss))
    return losses, [blob.data.copy() for blobs in made.net.params.values() for blob in blobs]


def close(expected, found):
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for a, b in zip(expected[1], found[1], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("iter_size", [1, 2])
def test_layers_that_ask_for_it_train_by_cudnn_in_graphs(gpu, tmp_path, monkeypatch, iter_size):
    """Gradients of a second pass of an iteration are added to those of the first."""
    expected = trained(tmp_path, NET.replace("engine: CUDNN", ""), iter_size=iter_size)
    monkeypatch.setattr(strict_cudnn.Graph, "made", 0)
    with backend.use(gpu):
        own = trained(tmp_path, NET.replace("engine: CUDNN", ""), iter_size=iter_size)
        assert not strict_cudnn.Graph.made
        with fast_paths.without("replay"):
            eagerly = trained(tmp_path, iter_size=iter_size)
        graphs = gpu.graphs
        found = trained(tmp_path, iter_size=iter_size)
    assert strict_cudnn.Graph.made == 5 and gpu.graphs > graphs and not gpu.not_captured  # data gets no gradient
    assert eagerly[0] == found[0] and all(map(np.array_equal, eagerly[1], found[1]))
    close(expected, found)
    close(own, found)


def test_the_cpu_ignores_the_engine(tmp_path):
    with_it, without = trained(tmp_path), trained(tmp_path, NET.replace("engine: CUDNN", ""))
    assert with_it[0] == without[0]


class _WithoutHandle(FakeCudnn):
    @staticmethod
    def create_handle():
        raise RuntimeError("CUDNN_STATUS_NOT_INITIALIZED")


@pytest.mark.parametrize(
    ("cudnn", "told"),
    [
        (MissingExtraError("needs the package 'cudnn': pip install 'minicaffe[cudnn]'"), r"minicaffe\[cudnn\]"),
        (OSError("libcudnn.so: cannot open shared object file"), "libcudnn.so: cannot open"),
        (_WithoutHandle(), "cuDNN does not start: CUDNN_STATUS_NOT_INITIALIZED"),
    ],
    ids=["no package", "no library", "no handle"],
)
def test_without_cudnn_one_line_tells_and_own_kernels_compute(install, tmp_path, caplog, cudnn, told):
    where = install(cudnn)
    with backend.use(where):
        without = trained(tmp_path, NET.replace("engine: CUDNN", ""))
        assert not caplog.records
        found = trained(tmp_path)
    assert found[0] == without[0]
    (line,) = [record.getMessage() for record in caplog.records if "CUDNN" in record.getMessage()]
    assert re.fullmatch(f"engine: CUDNN is left to minicaffe's own kernels: .*{told}.*", line)


def test_a_missing_package_names_its_extra():
    if compat.have("cudnn"):
        pytest.skip("nvidia-cudnn-frontend is installed")
    with pytest.raises(MissingExtraError, match=r"cudnn.*minicaffe\[cudnn\]"):
        compat.require("cudnn")


def array(where, *shape, dtype="float32", start=0):
    flat = where.zeros((start + int(np.prod(shape)),), dtype)
    return flat[start:].reshape(shape)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": "float64"}, "it is for float32"),
        ({"start": 1}, "an array does not begin at a multiple of 16 bytes"),
        ({"axes": 1}, "it is for images of two axes"),
        ({"size": 1}, "a window is larger than the image with its padding"),
        ({"precision": "fp16"}, "it does not multiply in fp16"),
        ({"largest": 1}, "cuDNN has no plan, as for Problem.*no valid execution plans"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cudnn_does_not_serve_is_computed_and_named_once(gpu, caplog, monkeypatch, change, reason):
    caplog.set_level(logging.INFO)
    axes, size, dtype = change.get("axes", 2), change.get("size", 5), change.get("dtype", "float32")
    monkeypatch.setattr(strict_cudnn.Graph, "largest", change.get("largest", 1 << 20))
    found, window = gpu.convolutions("cuDNN"), checks.window(3, 2, axes=axes)
    out = max(1, (size - 3) // 2 + 1)
    with gpu.running(), gpu.rounding(change.get("precision", "fp32")):
        x = array(gpu, 2, 3, *(size,) * axes, dtype=dtype, start=change.get("start", 0))
        w, y = array(gpu, 4, 3, *(3,) * axes, dtype=dtype), array(gpu, 2, 4, *(out,) * axes, dtype=dtype)
        x.fill(1)
        w.fill(1)
        space = array(gpu, found.convolution_workspace(x.shape, y.shape, window, 1), dtype=dtype)
        for _ in range(2):
            found.convolve(x, w, None, y, window, 1, space)
    assert (y.get() == 3 * 3**axes if size > 1 else y.get() >= 0).all()
    (line,) = [record.getMessage() for record in caplog.records if "CUDNN" in record.getMessage()]
    assert re.fullmatch(f"engine: CUDNN is left to minicaffe's own kernels where {reason}.*", line)


def test_plans_are_made_once_for_each_shape_and_do_not_pile_up(gpu, monkeypatch):
    monkeypatch.setattr(strict_cudnn.Graph, "made", 0)
    monkeypatch.setattr(conv_cudnn, "_MOST_PLANS", 2)
    found, window, made = gpu.convolutions("cuDNN"), checks.window(1), []
    with gpu.running():
        for size in (4, 4, 5, 4, 6, 5, 4):
            x, w, y = array(gpu, 1, 1, size, size), array(gpu, 1, 1, 1, 1), array(gpu, 1, 1, size, size)
            found.convolve(x, w, None, y, window, 1, None)
            made.append(strict_cudnn.Graph.made)
    assert made == [1, 1, 2, 2, 3, 3, 4]


def test_a_failure_tells_how_to_do_without(gpu, monkeypatch):
    def execute(self, *args, **kwargs):
        raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")

    monkeypatch.setattr(strict_cudnn.Graph, "execute", execute)
    with pytest.raises(DeviceError, match="EXECUTION_FAILED; without engine: CUDNN"):
        call(gpu, next(checks.cases()))


def test_its_workspace_is_accounted_for(gpu):
    call(gpu, next(checks.cases()))
    with pytest.raises(DeviceError, match=r"workspace of cuDNN +\d"):
        gpu.zeros((10**7, 10**7), np.float32)


# --- the package itself, which plans for a GPU that is not there


class _WithoutDevice:
    """The installed package, for a GPU of these properties: nothing is run, and no device is asked for."""

    def __init__(self, module, properties):
        self._module, self.graphs = module, []
        self._properties = module.create_device_properties(json.dumps(properties))

    def __getattr__(self, name):
        return getattr(self._module, name)

    def create_handle(self):
        return None

    def set_stream(self, handle, stream):
        pass

    def pygraph(self, handle, **types):
        graph = self._module.pygraph(device_property=self._properties, **types)
        graph.check_support = lambda: None  # the device's own word
        self.graphs.append(graph)
        return graph


H100 = {
    "maxGridSize": [2**31 - 1, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536,
    "multiProcessorCount": 132, "smCountOrigin": 0, "warpSize": 32, "maxSharedMemoryPerBlock": 49152,
    "maxSharedMemoryPerBlockOptin": 232448, "reservedSharedMemoryPerBlock": 1024, "oversizedSharedMemoryPerBlock": 0,
    "maxRegistersPerSM": 65536, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048,
    "pciDeviceId": 0, "isTccDriver": 0, "supportCoopLaunch": 1, "totalGlobalMem": 80 << 30, "smClockRateKHz": 1980000,
    "memClockRateKHz": 2619000, "memoryBusWidth": 5120, "l2CacheSize": 50 << 20, "cudaDeviceId": 0, "deviceVer": 900,
    "driverVer": 13000, "deviceName": "NVIDIA H100 80GB HBM3",
}  # fmt: skip


@pytest.mark.parametrize("tf32", [False, True])
def test_cudnn_itself_plans_every_product(tf32):
    try:
        module = _WithoutDevice(compat.require("cudnn"), H100)
    except (MissingExtraError, OSError, RuntimeError, AttributeError) as error:
        pytest.skip(f"needs nvidia-cudnn-frontend with cuDNN and a driver's library: {error}")
    ops = SimpleNamespace(tensor_cores=lambda dtype: tf32, factors="fp32")
    found = CudnnConvolutions(module, ops, 1, np.zeros, contextlib.nullcontext)
    for x_shape, window, group, filters in [*checks.LAYERS, ((64, 64, 56, 56), checks.window(3, 1, 1), 1, 64)]:
        y_shape = (x_shape[0], filters, *checks.positions(x_shape[2:], window))
        for kind in KINDS:
            plan = found._planned(Problem(kind, x_shape, y_shape, window, group), tf32)
            assert plan is not None and plan.workspace >= 0, found.declined
