"""Single primitives: convolution, pooling, matrix products, element-wise loops, losses and updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import peers
from benchmarks.harness import Case, Work
from minicaffe import backend
from minicaffe.kernels.window import Window
from minicaffe.layers.neuron import ReLU, Sigmoid

_NO_GRADIENT = (False, False, False)


class Convolved(NamedTuple):
    """A convolution: x (N, C, H, W), M outputs, square kernel, stride, pad and groups."""

    x: tuple[int, int, int, int]
    outputs: int
    kernel: int
    stride: int = 1
    pad: int = 0
    group: int = 1


CONVOLUTIONS = {
    "lenet_conv1": Convolved((64, 1, 28, 28), 20, 5),
    "lenet_conv2": Convolved((64, 20, 12, 12), 50, 5),
    "cifar_conv2": Convolved((100, 32, 16, 16), 32, 5, pad=2),
    "resnet_3x3": Convolved((8, 64, 56, 56), 64, 3, pad=1),
    "resnet_1x1": Convolved((8, 64, 56, 56), 256, 1),
    "mobilenet_depthwise": Convolved((8, 64, 56, 56), 64, 3, pad=1, group=64),
}
POOLINGS = {
    "lenet_pool1": ((64, 20, 24, 24), Window((2, 2), (2, 2), (0, 0), (1, 1))),
    "cifar_pool1": ((100, 32, 32, 32), Window((3, 3), (2, 2), (0, 0), (1, 1))),
}
PRODUCTS = {"lenet_ip1": (64, 800, 500), "square_512": (512, 512, 512)}
ELEMENTS = 1 << 20


def _random(*shape: int) -> NDArray:
    return np.random.default_rng(0).random(shape, np.float32) - np.float32(0.5)


def _work(
    ours: Callable[[], Any],
    out: NDArray,
    torch_call: Callable[[Any], Any],
    *,
    flops: float = 0,
    touched: tuple[NDArray, ...],
) -> Work:
    """``ours`` leaves its result in ``out``; ``torch_call(torch)`` gives PyTorch's function, whose result must be
    equal.
    """
    work = Work({"minicaffe": ours}, flops, sum(array.nbytes for array in (*touched, out)))
    torch = peers.torch()
    if torch:
        theirs = torch_call(torch)

        def verify() -> None:
            out.fill(0)
            with backend.current().running():
                ours()
            peers.agree(out.reshape(-1), np.asarray(theirs()).reshape(-1), "result")

        work.run["torch"], work.verify = theirs, verify
    return work


def _convolution(which: str, c: Convolved) -> Work:
    ops = backend.current().ops
    n, channels, height, width = c.x
    rows, cols = ((size + 2 * c.pad - c.kernel) // c.stride + 1 for size in (height, width))
    window = Window((c.kernel,) * 2, (c.stride,) * 2, (c.pad,) * 2, (1, 1))
    x, w = _random(*c.x), _random(c.outputs, channels // c.group, c.kernel, c.kernel)
    y = _random(n, c.outputs, rows, cols)
    workspace = np.empty(ops.convolution_workspace(x.shape, y.shape, window, c.group), np.float32)
    arguments = (window, c.group, workspace)
    flops = 2 * y.size * w[0].size
    wanted = {
        "convolve": _NO_GRADIENT,
        "convolve_data_grad": (True, False, False),
        "convolve_weight_grad": (False, True, False),
    }[which]

    def theirs(torch: Any) -> Callable[[], Any]:
        tx, tw, ty = (torch.from_numpy(array.copy()) for array in (x, w, y))
        if which == "convolve":
            return partial(torch.nn.functional.conv2d, tx, tw, None, c.stride, c.pad, 1, c.group)
        pair = [[c.stride] * 2, [c.pad] * 2, [1, 1], False, [0, 0], c.group, wanted]
        return lambda: torch.ops.aten.convolution_backward(ty, tx, tw, None, *pair)[wanted.index(True)]

    if which == "convolve":
        return _work(lambda: ops.convolve(x, w, None, y, *arguments), y, theirs, flops=flops, touched=(x, w))
    if which == "convolve_data_grad":
        dx = np.empty_like(x)
        return _work(lambda: ops.convolve_data_grad(y, w, dx, *arguments), dx, theirs, flops=flops, touched=(y, w))
    dw = np.empty_like(w)
    return _work(lambda: ops.convolve_weight_grad(x, y, dw, *arguments, False), dw, theirs, flops=flops, touched=(x, y))


def _pooling(which: str, shape: tuple[int, ...], window: Window) -> Work:
    ops = backend.current().ops
    pooled = [math.ceil((size - k) / s) + 1 for size, k, s in zip(shape[2:], window.kernel, window.stride)]
    x, y, dx = _random(*shape), _random(*shape[:2], *pooled), np.empty(shape, np.float32)
    mask = np.empty(y.shape, np.int32)
    ops.max_pool(x, y.copy(), mask, window)
    options = (window.kernel, window.stride, window.pad)

    def theirs(torch: Any) -> Callable[[], Any]:
        tx, ty = torch.from_numpy(x.copy()), torch.from_numpy(y.copy())
        index = torch.from_numpy(mask).long()
        return {
            "max_pool": lambda: torch.ops.aten.max_pool2d_with_indices(tx, *options, ceil_mode=True)[0],
            "max_pool_grad": lambda: torch.ops.aten.max_pool2d_with_indices_backward(
                ty, tx, *options, [1, 1], True, index
            ),
            "average_pool": lambda: torch.ops.aten.avg_pool2d(tx, *options, True),
            "average_pool_grad": lambda: torch.ops.aten.avg_pool2d_backward(ty, tx, *options, True, True, None),
        }[which]

    ours, out, touched = {
        "max_pool": (lambda: ops.max_pool(x, y, mask, window), y, (x, mask)),
        "max_pool_grad": (lambda: ops.max_pool_grad(y, mask, dx, window), dx, (y, mask)),
        "average_pool": (lambda: ops.average_pool(x, y, window), y, (x,)),
        "average_pool_grad": (lambda: ops.average_pool_grad(y, dx, window), dx, (y,)),
    }[which]
    return _work(ours, out, theirs, touched=touched)


def _product(m: int, k: int, n: int) -> Work:
    ops = backend.current().ops
    a, b, out = _random(m, k), _random(n, k), np.empty((m, n), np.float32)
    return _work(
        lambda: ops.gemm(a, b, out, transpose_b=True),
        out,
        lambda torch: partial(torch.nn.functional.linear, torch.from_numpy(a), torch.from_numpy(b)),
        flops=2 * m * k * n,
        touched=(a, b),
    )


def _im2col(back: bool) -> Work:
    ops, window = backend.current().ops, Window((5, 5), (1, 1), (0, 0), (1, 1))
    x, columns = _random(64, 20, 12, 12), _random(64, 500, 8, 8)
    if back:
        return _work(
            lambda: ops.col2im(columns, x, window),
            x,
            lambda torch: partial(
                torch.nn.functional.fold, torch.from_numpy(columns.reshape(64, 500, 64)), (12, 12), 5
            ),
            touched=(columns,),
        )
    return _work(
        lambda: ops.im2col(x, columns, window),
        columns,
        lambda torch: partial(torch.nn.functional.unfold, torch.from_numpy(x), 5),
        touched=(x,),
    )


def _neuron(neuron: type, name: str) -> Work:
    ops, x, y = backend.current().ops, _random(ELEMENTS), np.empty(ELEMENTS, np.float32)
    scalars = (0.0,) if neuron is ReLU else ()
    return _work(
        lambda: ops.elementwise(neuron.value, (x,), scalars, y),
        y,  # type: ignore[attr-defined]
        lambda torch: partial(getattr(torch, name), torch.from_numpy(x)),
        touched=(x,),
    )


def _softmax() -> Work:
    ops, x, y = backend.current().ops, _random(64, 1000, 1), np.empty((64, 1000, 1), np.float32)
    return _work(
        lambda: ops.softmax(x, y), y, lambda torch: partial(torch.softmax, torch.from_numpy(x), 1), touched=(x,)
    )


def _bias(grad: bool) -> Work:
    ops, y = backend.current().ops, _random(64, 20, 576)
    bias = _random(20)
    if grad:
        return _work(
            lambda: ops.bias_grad(y, bias),
            bias,
            lambda torch: partial(torch.sum, torch.from_numpy(y), (0, 2)),
            touched=(y,),
        )
    return _work(
        lambda: ops.bias_add(y, bias),
        y,
        lambda torch: partial(torch.Tensor.add_, torch.zeros(y.shape), torch.from_numpy(bias)[:, None]),
        touched=(y,),
    )


def cases(threads: int) -> Iterator[Case]:
    """Every primitive of the shipped nets' hot paths, at their shapes."""
    for op in ("convolve", "convolve_data_grad", "convolve_weight_grad"):
        for name, shape in CONVOLUTIONS.items():
            yield Case("kernels", f"{op}/{name}", partial(_convolution, op, shape))
    for op in ("max_pool", "max_pool_grad", "average_pool", "average_pool_grad"):
        for name, (x, window) in POOLINGS.items():
            yield Case("kernels", f"{op}/{name}", partial(_pooling, op, x, window))
    for name, sizes in PRODUCTS.items():
        yield Case("kernels", f"gemm/{name}", partial(_product, *sizes))
    for name, build in (
        ("im2col/lenet_conv2", partial(_im2col, False)),
        ("col2im/lenet_conv2", partial(_im2col, True)),
        ("relu/1M", partial(_neuron, ReLU, "relu")),
        ("sigmoid/1M", partial(_neuron, Sigmoid, "sigmoid")),
        ("softmax/64x1000", _softmax),
        ("bias_add/lenet_conv1", partial(_bias, False)),
        ("bias_grad/lenet_conv1", partial(_bias, True)),
    ):
        yield Case("kernels", name, build)
