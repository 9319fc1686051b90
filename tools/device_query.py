"""``minicaffe device_query``: what CUDA knows about GPUs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import click

from minicaffe.tools import console
from minicaffe.tools.command import Command
from minicaffe.tools.options import gpu_ids

_log = logging.getLogger(__name__)

_LABEL_WIDTH = 31


@click.command(cls=Command, examples=["minicaffe device_query --gpu 0", "minicaffe device_query --gpu all"])
@click.option("--gpu", default="", metavar="IDS|all", help="The GPUs to ask, numbers separated by commas.")
def command(gpu: str) -> None:
    """Show what is known about GPUs.

    Without --gpu nothing is asked.
    """
    _log.info("Querying GPUs %s", gpu)
    if not gpu:
        _log.info("No GPU was named: give --gpu 0, or --gpu all")
        return
    for number in gpu_ids(gpu, several=True):
        for label, value in describe(number, _properties(number)):
            console.result(f"{label + ':':{_LABEL_WIDTH}}{value}")


def _properties(number: int) -> Mapping[str, Any]:
    from minicaffe import compat
    from minicaffe.errors import DeviceError

    runtime = compat.require("cupy").cuda.runtime
    try:
        return runtime.getDeviceProperties(number)
    except runtime.CUDARuntimeError as error:
        raise DeviceError(
            f"GPU {number} cannot be asked: {error}; device_query --gpu all shows those that can"
        ) from error


def describe(number: int, p: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Label and value of each line about GPU ``number``, from its cudaDeviceProp ``p`` (bytes, kHz)."""

    def axes(values: Any) -> str:
        return ", ".join(map(str, values))

    name = p["name"]
    yield "Device id", number
    yield "Major revision number", p["major"]
    yield "Minor revision number", p["minor"]
    yield "Name", name.decode() if isinstance(name, bytes) else name
    yield "Total global memory", p["totalGlobalMem"]
    yield "Total shared memory per block", p["sharedMemPerBlock"]
    yield "Total registers per block", p["regsPerBlock"]
    yield "Warp size", p["warpSize"]
    yield "Maximum memory pitch", p["memPitch"]
    yield "Maximum threads per block", p["maxThreadsPerBlock"]
    yield "Maximum dimension of block", axes(p["maxThreadsDim"])
    yield "Maximum dimension of grid", axes(p["maxGridSize"])
    if "clockRate" in p:  # CUDA 13 no longer tells
        yield "Clock rate", p["clockRate"]
    yield "Total constant memory", p["totalConstMem"]
    yield "Texture alignment", p["textureAlignment"]
    if "deviceOverlap" in p:
        yield "Concurrent copy and execution", "Yes" if p["deviceOverlap"] else "No"
    yield "Number of multiprocessors", p["multiProcessorCount"]
    if "kernelExecTimeoutEnabled" in p:
        yield "Kernel execution timeout", "Yes" if p["kernelExecTimeoutEnabled"] else "No"
