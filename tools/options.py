"""Flags that several commands share, and what they mean."""

from __future__ import annotations

import logging
from collections.abc import Callable

import click

from minicaffe.errors import DeviceError, MissingExtraError
from minicaffe.tools.completion import Definition, Path

_log = logging.getLogger(__name__)

weights = click.option(
    "--weights", required=True, metavar="FILE", type=Path(), help="The trained weights, binary or HDF5."
)
gpu = click.option("--gpu", default="", metavar="ID|all", help="Compute on this GPU (default: on the CPU).")
threads = click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="Compute on so many threads (default: one a core)."
)
level = click.option("--level", default=0, show_default=True, help="The net's level, for include and exclude rules.")
stage = click.option("--stage", default="", metavar="A,B", help="The net's stages, separated by commas.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
model = click.option(
    "--model",
    required=True,
    metavar="FILE",
    type=Definition(),
    help="The net, a prototxt: a path or a shipped model's file.",
)
iterations = click.option(
    "--iterations", default=50, show_default=True, type=click.IntRange(min=1), help="The number of iterations to run."
)


class _Shape(click.ParamType):
    """``NAME=N,C,H,W``: a blob's name and shape."""

    name = "NAME=N,C,H,W"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        name, equals, sizes = value.rpartition("=")
        try:
            shape = tuple(int(size) for size in sizes.split(","))
        except ValueError:
            shape = ()
        if not name or not equals or not shape or min(shape) < 1:
            self.fail(f"expected a blob's name and its sizes, like data=1,3,224,224; found '{value}'", param, ctx)
        return name, shape


shapes = click.option(
    "--shape", "shapes", multiple=True, type=_Shape(),
    help="Take an input of this shape in place of a data layer's top; once for each of its tops. "
    "No data is needed then.",
)  # fmt: skip


def _forbid_python_layers(ctx: click.Context, param: click.Parameter, forbidden: bool) -> None:
    if forbidden:
        from minicaffe.layers.python_layer import allow_python_layers

        before = allow_python_layers(False)
        ctx.call_on_close(lambda: allow_python_layers(before))


no_python_layers = click.option(
    "--no_python_layers", is_flag=True, expose_value=False, callback=_forbid_python_layers,
    help="Refuse nets with layers of type Python, which run code; for files from strangers.",
)  # fmt: skip


def _allow_tf32(ctx: click.Context, param: click.Parameter, allowed: bool) -> None:
    if allowed:
        from minicaffe.backend.precision import allow_tf32

        before = allow_tf32()
        ctx.call_on_close(lambda: allow_tf32(before))


tf32 = click.option(
    "--tf32", is_flag=True, expose_value=False, callback=_allow_tf32,
    help="Let a GPU round the factors of matrix products to TF32: several times as fast, less exact.",
)  # fmt: skip


precision = click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "bf16"]), default="fp32", show_default=True,
    help="Let a GPU round the factors of matrix products and convolutions; sums and weights stay float32.",
)  # fmt: skip


def device(command: Callable) -> Callable:
    """``--gpu``, ``--threads`` and ``--tf32``."""
    return gpu(threads(tf32(command)))


def net_state(command: Callable) -> Callable:
    """``--level``, ``--stage`` and ``--no_python_layers``."""
    return level(stage(no_python_layers(command)))


deploy = click.option(
    "--deploy", is_flag=True, help="Run the net in its deploy form: forward only, folded, in less time and memory."
)


def split(text: str) -> list[str]:
    """The parts of a comma-separated list that are not empty."""
    return [part for part in text.split(",") if part]


def choose_device(flag: str, threads: int | None = None, asked_by_file: int | None = None) -> None:
    """Compute on the GPU that ``--gpu`` names, else on the one that the solver file asks for, else on the CPU.

    Of several GPUs that ``--gpu`` names each rank takes one in turn.
    Without ``--gpu`` a GPU that cannot be used is a warning, and the CPU does the work.  ``threads`` are those of the
    CPU.  Raises DeviceError if ``--gpu`` names no GPU that can be used, or for more threads than there are.
    """
    from minicaffe import backend
    from minicaffe.backend.ranks import solver_count, solver_rank
    from minicaffe.backend.threads import set_num_threads

    if threads is not None:
        set_num_threads(threads)
    if not flag and asked_by_file is None:
        backend.set_mode_cpu()
        _log.info("Use CPU.")
        return
    try:
        ids = gpu_ids(flag, several=solver_count() > 1) if flag else [asked_by_file]
        device = ids[solver_rank() % len(ids)]
        assert device is not None
        backend.set_device(device)
        backend.set_mode_gpu()
    except (DeviceError, MissingExtraError) as error:
        if flag:
            raise DeviceError(f"--gpu {flag}: {error}") from error
        backend.set_mode_cpu()
        _log.warning("The solver file asks for a GPU (solver_mode: GPU), but %s. Use CPU.", error)
        return
    _log.info("Using GPU %d", device)


def gpu_ids(flag: str, several: bool = False) -> list[int]:
    """The numbers in ``--gpu``, "all" standing for every GPU of this machine.

    Raises DeviceError for anything else, and for more than one GPU unless ``several``.
    """
    if flag == "all":
        ids = list(range(_gpu_count()))
    elif all(part.strip().isdigit() for part in flag.split(",")):
        ids = [int(part) for part in flag.split(",")]
    else:
        raise DeviceError(f"expected a GPU's number (0, 1, ...) or 'all'; found '{flag}'")
    if len(ids) != 1 and not several:
        raise DeviceError(f"one process computes on one GPU; found {len(ids)}: choose one of them")
    return ids


def _gpu_count() -> int:
    from minicaffe import compat

    runtime = compat.require("cupy").cuda.runtime
    try:
        return int(runtime.getDeviceCount())
    except runtime.CUDARuntimeError as error:
        raise DeviceError(f"no GPU can be used: {error}") from error
