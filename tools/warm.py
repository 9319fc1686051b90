"""``minicaffe warm``: compiles what nets will need, before they run."""

from __future__ import annotations

import contextlib
import glob
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from minicaffe.tools import console, options
from minicaffe.tools.command import Command
from minicaffe.tools.completion import Definition
from minicaffe.tools.summarize import wanted_shapes

if TYPE_CHECKING:
    from minicaffe import proto
    from minicaffe.kernels.cpu.runtime.ahead import Job
    from minicaffe.net import Net

_SOLVER = """base_lr: 1 momentum: 0.9 lr_policy: "fixed" net_param {
  layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 1 dim: 1 } } }
  layer { name: "y" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 1 } }
  layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "x" } }"""
_Shapes = Mapping[str, Sequence[int]]
_Net = tuple[str, Callable[[int], _Shapes]]

_IMAGES = {"lenet": (1, 28, 28), "mnist_autoencoder": (1, 28, 28), "siamese": (2, 28, 28), "cifar10": (3, 32, 32)}
"""Channels, height and width of the images that shipped models are trained on, where no crop tells."""

_SIZES: dict[str, Callable[[Any], int]] = {
    "Data": lambda layer: layer.data_param.batch_size,
    "ImageData": lambda layer: layer.image_data_param.batch_size,
}
"""The batches of shipped models' data layers."""


@click.command(
    cls=Command,
    examples=[
        "minicaffe warm lenet/lenet.prototxt",
        "minicaffe warm --shape data=64,1,28,28 --shape label=64 lenet/lenet_train_test.prototxt",
    ],
)
@click.argument("nets", metavar="[NET]...", nargs=-1, type=Definition())
@options.shapes
@options.as_json
@options.net_state
def command(
    nets: Sequence[str], shapes: tuple[tuple[str, tuple[int, ...]], ...], as_json: bool, level: int, stage: str
) -> None:
    """Compile what nets will need, before they run.

    Their first pass then begins at once; do it while a container is built, say.  Each NET is compiled for in both
    phases: forward, in TRAIN backward, too, with the update by SGD; and in its deploy form.  Without NET: for the
    models that come with minicaffe.  Passes in the TEST phase are for single images, too.  Kernels are kept beside the
    package's files or, if nothing can be written there, in the user's cache folder; NUMBA_CACHE_DIR names
    another, and it is an error if that cannot be written.  They are for this machine's kind of CPU.
    """
    from minicaffe import models
    from minicaffe.kernels.cpu.runtime import ahead, cache

    if wrong := cache.complaint():
        raise click.ClickException(wrong)
    start = time.perf_counter()
    named: list[_Net] = [(models.find(name), lambda phase: dict(shapes)) for name in nets]
    chosen = named or list(_shipped())
    jobs = dict.fromkeys(_beside_nets())
    for path, given in chosen:
        jobs.update(dict.fromkeys(_needed(path, level, options.split(stage), given)))
    compiled = ahead.compile_ahead(lambda: list(jobs))
    seconds = time.perf_counter() - start
    if as_json:
        listed = [item._asdict() for item in compiled]
        console.result_as_json({"nets": len(chosen), "seconds": seconds, "compiled": listed})
    else:
        for item in compiled:
            console.result(f"{item.seconds:7.2f} s  {item.kernel}")
        console.result(f"{len(compiled)} kernels compiled for {len(chosen)} nets in {seconds:.1f} s")
    if left := ahead.missing(jobs):
        raise click.ClickException(f"{len(left)} kernels could not be compiled, or not be kept: {left[0][0].name}, ...")


def _needed(path: str, level: int, stages: Sequence[str], shapes: Callable[[int], _Shapes]) -> list[Job]:
    """What a net needs in both phases and the cache does not hold; ``shapes`` stand for its data layers' tops."""
    from minicaffe import proto
    from minicaffe.errors import DataError, MissingExtraError
    from minicaffe.kernels.cpu.runtime import ahead
    from minicaffe.layers import TRAIN
    from minicaffe.summary import load

    jobs: list[Job] = []
    for phase in proto.Phase.values():
        try:
            net = load(path, phase, level, stages, shapes(phase))
        except (DataError, MissingExtraError) as error:
            raise DataError(f"{error}; or say what its data layers would make: {wanted_shapes(path)}") from error
        with contextlib.closing(net):
            if phase == TRAIN:
                trains = any(step.need_backward for step in net.steps)
                jobs += ahead.needed_by(partial(net.rehearse, backward=trains))
            else:
                jobs += _needed_forward(net)
                with contextlib.closing(net.deploy()) as deployed:
                    jobs += _needed_forward(deployed)
    return jobs


def _needed_forward(net: Net) -> list[Job]:
    """What a pass forward needs for the net's batch, and, where the net takes these, for one image, and for as many as
    there are threads, which may each take one.
    """
    from minicaffe.backend.threads import get_num_threads
    from minicaffe.errors import MinicaffeError
    from minicaffe.kernels.cpu.runtime import ahead

    jobs: list[Job] = []
    shapes = {name: net.blobs[name].shape for name in net.inputs}
    for batch in (None, 1, max(get_num_threads(), 2)):
        for name, (size, *rest) in ((name, shape) for name, shape in shapes.items() if shape):
            net.blobs[name].reshape(batch or size, *rest)
        with contextlib.suppress(MinicaffeError):
            net.reshape()
            jobs += ahead.needed_by(partial(net.rehearse, backward=False))
    return jobs


def _beside_nets() -> list[Job]:
    """What reading databases and training need beside a net's passes, and the cache does not hold."""
    import numpy as np

    from minicaffe import proto, solvers
    from minicaffe.data.datum import rehearse_raw_batch
    from minicaffe.data.source import Batch
    from minicaffe.kernels.cpu.runtime import ahead
    from minicaffe.proto import text

    solver = solvers.create(text.parse(_SOLVER, proto.SolverParameter()))

    def work() -> None:
        rehearse_raw_batch()
        Batch(1, (1, 1, 1)).write_to(np.empty((1, 1, 1, 1), np.float32))
        solver.apply_update()

    return ahead.needed_by(work)


def _shipped() -> Iterator[_Net]:
    """The nets that come with minicaffe, and the shapes that their data layers' tops have in a phase.

    Left out are those whose data is more than images and labels, or that need a stage to be named.
    """
    from minicaffe import models
    from minicaffe.proto.files import read_net

    for model in models.names():
        for path in sorted(glob.glob(os.path.join(models.folder(model), "**", "*.prototxt"), recursive=True)):
            if "solver" in os.path.basename(path):
                continue
            net = read_net(path)[0]
            if all(layer.bottom or layer.type in ("Input", *_SIZES) for layer in net.layer) and "stage" not in str(net):
                yield path, partial(_usual_shapes, net, _IMAGES.get(model, (3, 32, 32)))


def _usual_shapes(net: proto.NetParameter, image: tuple[int, ...], phase: int) -> _Shapes:
    """The shapes of the tops of a shipped net's data layers; ``image`` is that of an image that is not cropped."""
    from minicaffe import graph

    shapes: dict[str, tuple[int, ...]] = {}
    for layer in graph.filter_net(graph.with_state(net, phase)).layer:
        if layer.type in _SIZES:
            crop, size = layer.transform_param.crop_size, _SIZES[layer.type](layer)
            shapes.update(dict.fromkeys(layer.top, (size,)))
            shapes[layer.top[0]] = (size, *((3, crop, crop) if crop else image))
    return shapes
