"""Checks of the part "kernels": the convolutions of cuDNN, where it is installed, against ``kernels/reference``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from minicaffe.kernels import reference
from minicaffe.kernels.window import Window
from minicaffe.testing.gpu.checks import Skip
from minicaffe.testing.kernel_cases import KernelCase
from minicaffe.testing.kernel_cases.case import Shape, normal, output
from minicaffe.testing.kernel_cases.windows import positions, window

LAYERS: list[tuple[Shape, Window, int, int]] = [  # shape of x, window, group, filters
    ((3, 4, 9, 8), window(3, 1, 1), 1, 6),
    ((2, 6, 21, 22), window((3, 2), (2, 1), (1, 2), (1, 2)), 2, 8),
    ((2, 8, 12, 11), window(3, 2), 8, 8),
    ((4, 16, 7, 7), window(1), 1, 32),
]


def opened(where: Any) -> Any:
    """cuDNN's convolutions; raises Skip where there are none."""
    found = where.convolutions("cuDNN")
    if found is where.ops:
        raise Skip("nvidia-cudnn-frontend with cuDNN is not installed")
    return found


def cases() -> Iterator[KernelCase]:
    """The calls of a few layers."""
    for layer in LAYERS:
        yield from _layer(*layer)


def _layer(x_shape: Shape, win: Window, group: int, filters: int) -> Iterator[KernelCase]:
    y_shape = (x_shape[0], filters, *positions(x_shape[2:], win))
    x, y, w = normal(*x_shape), normal(*y_shape), normal(filters, x_shape[1] // group, *win.kernel)
    space = output(reference.convolution_workspace(x_shape, y_shape, win, group))
    label = f"by cuDNN {'x'.join(map(str, x_shape))} kernel {'x'.join(map(str, win.kernel))} group {group}"
    calls: list[tuple[str, str, tuple]] = [
        ("convolve", "bias", (x, w, normal(filters), output(*y_shape), win, group, space)),
        ("convolve", "rectified", (x, w, None, output(*y_shape), win, group, space, 0.25)),
        ("convolve_data_grad", "", (y, w, output(*x_shape), win, group, space)),
        ("convolve_weight_grad", "", (x, y, output(*w.shape), win, group, space, False)),
        ("convolve_weight_grad", "accumulated, bias", (x, y, w, win, group, space, True, normal(filters))),
    ]
    for op, more, args in calls:
        case = KernelCase(op, args, ", ".join(filter(None, (label, more))), unlike=(args.index(space),))
        yield replace(case, run=_run(op))


def _run(op: str) -> Callable[..., None]:
    """A call of cuDNN; AssertionError if it left the work to minicaffe's own kernels."""

    def run(backend: Any, *args: Any) -> None:
        convolutions = opened(backend)
        getattr(convolutions, op)(*args)
        assert not convolutions.declined, f"left to minicaffe's own kernels where {'; '.join(convolutions.declined)}"

    return run
