"""The commands of ``minicaffe``, and what they say about errors."""

from __future__ import annotations

import os
import sys
import traceback

import click

from minicaffe import __version__
from minicaffe.errors import MinicaffeError
from minicaffe.tools import completion, databases, interrupts
from minicaffe.tools.command import Group

_TOOLS = "minicaffe.tools."
SECTIONS = {
    "Run a net": {
        "train": (_TOOLS + "train", "Train a net, or fine-tune one."),
        "test": (_TOOLS + "test", "Score a net with given weights."),
        "time": (_TOOLS + "time", "Measure how long each layer of a net takes."),
        "classify": (_TOOLS + "classify", "Classify images with a trained net."),
        "detect": (_TOOLS + "detect", "Find things in images with a trained net."),
        "segment": (_TOOLS + "segment", "Label each pixel of images with a trained net."),
    },
    "Look at nets and files": {
        "inspect": (_TOOLS + "inspect", "Tell what a file is, and what is in it."),
        "diff": (_TOOLS + "diff", "Compare two nets, solvers or files of weights, layer by layer."),
        "verify": (_TOOLS + "verify", "Check that weights fit a net, and what it computes with them."),
        "summarize": (_TOOLS + "summarize", "Show what a net costs: shapes, params, FLOPs, memory."),
        "draw": (_TOOLS + "draw", "Draw a net as a picture or as Graphviz text."),
        "embed": (_TOOLS + "embed", "Plot and score the features that a siamese net gives images."),
    },
    "Data and models": {
        "convert": (_TOOLS + "convert", "Convert weights from one format to another."),
        "export": (_TOOLS + "export", "Write a net and its weights for ONNX or PyTorch."),
        "fold_bn": (_TOOLS + "fold_bn", "Fold BatchNorm and Scale into the layers before them."),
        "download_model": (_TOOLS + "download_model", "Download a model's weights from where its readme.md says."),
        "data": (_TOOLS + "data", "Download data, and make databases for nets to read."),
        "models": (_TOOLS + "models", "List or copy the models that come with minicaffe."),
    },
    "Caffe's tools": {
        "convert_imageset": (_TOOLS + "imageset:convert", "Make a database of the images that a list names."),
        "convert_mnist_data": (_TOOLS + "converters:mnist", "Make a database of images in MNIST's format."),
        "convert_mnist_siamese_data": (_TOOLS + "converters:siamese", "Make a database of pairs of such images."),
        "convert_cifar_data": (_TOOLS + "converters:cifar10", "Make databases of CIFAR-10's files."),
        "convert_annoset": (_TOOLS + "annoset", "Make a database of images with boxes in them."),
        "compute_image_mean": (_TOOLS + "data:mean", "Compute the mean image of a database."),
        "resize_and_crop": (_TOOLS + "resize_and_crop", "Resize images and crop them to squares."),
        "classification": (_TOOLS + "classification", "Show the five best classes of an image."),
        "extract_features": (_TOOLS + "extract_features", "Write what blobs of a net hold for its data."),
        "parse_log": (_TOOLS + "training_log:parse", "Write what a training logged as tables."),
        "plot_log": (_TOOLS + "training_log:plot", "Plot what trainings logged."),
        "extract_seconds": (_TOOLS + "training_log:seconds", "Write when each iteration was logged."),
        "upgrade_net_proto_text": (_TOOLS + "upgrade:net_text", "Bring an old net to today's format."),
        "upgrade_net_proto_binary": (_TOOLS + "upgrade:net_binary", "Bring an old .caffemodel to today's format."),
        "upgrade_solver_proto_text": (
            _TOOLS + "upgrade:solver_text",
            "Bring an old solver to today's format.",
        ),
    },
    "This machine": {
        "warm": (_TOOLS + "warm", "Compile what nets will need, before they run."),
        "device_query": (_TOOLS + "device_query", "Show what is known about GPUs."),
        "gpu_check": (_TOOLS + "gpu_command", "Check what minicaffe computes on a GPU, and how fast it is."),
        "completion": (_TOOLS + "completion", "Print what switches on completion by Tab in a shell."),
        "help": (_TOOLS + "help", "Show the help of a command."),
    },
}
"""The commands under the headings of the help; see ``Group``."""
ALIASES = {
    "draw_net": "draw",
    "resize_and_crop_images": "resize_and_crop",
    "download_model_binary": "download_model",
    "plot_training_log": "plot_log",
}
"""Names of Caffe's scripts, and ours."""
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


def _note(context: click.Context, option: click.Parameter, value: bool) -> None:
    context.ensure_object(dict)[option.name] = value


def _show_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    click.echo(f"minicaffe version {__version__}")
    if context.obj["verbose"]:
        from minicaffe.backend.threads import describe

        for line in describe():
            click.echo(line)
    context.exit()


@click.command(
    cls=Group,
    sections=SECTIONS,
    aliases=ALIASES,
    epilog="'minicaffe help COMMAND' tells a command's flags.",
    examples=["minicaffe summarize lenet/lenet_train_test.prototxt --shape data=64,1,28,28 --shape label=64"],
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit; with --verbose, what nets run on, too.",
)
@click.option(
    "--verbose",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_note,
    help="Show everything that is logged.",
)
def cli() -> None:
    """Train, test, time and draw Caffe nets.

    Flags are written as Caffe's: -solver FILE, -solver=FILE, --solver FILE or --solver=FILE.
    """


def run(args: list[str]) -> int:
    """Run a command and return its exit status; see ``minicaffe.tools.cli.main``."""
    heard = _open_standard_streams()
    if completion.VARIABLE in os.environ:
        completion.register()
    try:
        return cli.main(args, prog_name="minicaffe", standalone_mode=False) or 0
    except (Exception, KeyboardInterrupt) as error:
        if any(arg.lstrip("-") == "traceback" for arg in args):
            traceback.print_exception(error)
        message, status = _explain(error)
        click.echo(message, err=heard)
        return status


def _open_standard_streams() -> bool:
    """Make the standard streams that whoever started this closed (``2>&-``) go nowhere; whether stderr is heard.

    Else the next file that is opened gets the number 2, and what libraries print to stderr is written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    heard = sys.stderr is not None
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))
    return heard


def _explain(error: BaseException) -> tuple[str, int]:
    """What to tell about an error, and the exit status."""
    if isinstance(error, KeyboardInterrupt) or (
        isinstance(error, click.Abort) and not isinstance(error.__cause__, EOFError)
    ):
        return "interrupted", interrupts.STATUS
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "minicaffe"
        return f"error: {error.format_message()}\n('{command} --help' tells the flags)", 2
    if isinstance(error, click.ClickException):
        return f"error: {error.format_message()}", 1
    if isinstance(error, MinicaffeError):
        remedy = databases.how_to_make(error.missing)
        return f"error: {error}" + (f"\n(make it with: {remedy})" if remedy else ""), 1
    if isinstance(error, MemoryError):
        return f"error: not enough memory: {error}; check the shapes, or use a smaller batch_size", 1
    if isinstance(error, OSError) and error.strerror:
        return f"error: {': '.join(filter(None, (error.filename2 or error.filename, error.strerror)))}", 1
    cause = error.__cause__ if isinstance(error, click.Abort) else error  # click takes the end of a file for a Ctrl-D
    problem = f"unexpected {type(cause).__name__}: {cause}"  # a bug, or an error in a user's own Python layer
    return f"error: {problem}\n(run it again with --traceback to see where it comes from)", 1
