"""From a net to a PyTorch module, and to the two files that PyTorch users want: weights and source."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicaffe import arguments, compat
from minicaffe.errors import NetError
from minicaffe.net import Net
from minicaffe.onnx.plan import needed_steps, wanted_outputs
from minicaffe.proto.atomic import write_atomic
from minicaffe.pytorch.source import Source, quoted, write
from minicaffe.pytorch.writer import exporters

_MARK = '"""A Caffe net as a PyTorch module, written by minicaffe.'


@dataclass
class Exported:
    """A net's ``source``, and the ``net`` that it was made of; ``written`` are the files."""

    source: Source
    net: Net
    written: list[Path]

    @property
    def inputs(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the inputs by name, in the order of ``forward``'s arguments."""
        return self.source.inputs

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return self.source.outputs

    def module(self) -> Any:
        """The module, a ``torch.nn.Module`` with the net's weights."""
        return build(self.source)


def export_torch(net: Net, path: str | os.PathLike[str], outputs: Iterable[str] | None = None) -> Exported:
    """Write a net, as it is in its phase and with its weights, as a ``state_dict`` and the source of its module.

    Neither needs minicaffe.  Keys of the ``state_dict`` are the names of layers (``conv1.weight``).

    Args:
        net: usually in the TEST phase.
        path: the file of weights, ``.pt``; the source lies beside it, with the suffix ``.py``.
        outputs: blobs; the net's outputs, unless given.  Only what they need is exported.

    Raises MissingExtraError without the package torch; ArgumentTypeError for what is no Net; NetError for layers
    without a counterpart in PyTorch, which names all of them, for a blob that there is not, for a net without outputs,
    and for a ``.py`` file of another's.
    """
    torch = compat.require("torch")
    weights = Path(arguments.path(path, "weights"))
    program = weights.with_suffix(".py")
    if program.exists() and not (program.is_file() and program.read_bytes().startswith(_MARK.encode())):
        raise NetError(f"{program} is in the way of the module's source, and not of minicaffe's: name another file")
    exported = Exported(source_of(net, outputs), net, [weights, program])
    stored = io.BytesIO()
    torch.save(tensors(exported.source), stored)
    write_atomic(weights, stored.getvalue())
    write_atomic(program, (_header(exported.source, weights) + exported.source.text).encode())
    return exported


def module(net: Net, outputs: Iterable[str] | None = None) -> Any:
    """A net, as it is in its phase, as a ``torch.nn.Module`` with copies of its weights; see ``export_torch``.

    ``forward`` takes the inputs by their blobs' names and returns a dict of outputs by theirs.
    """
    return build(source_of(net, outputs))


def exported_types() -> list[str]:
    """The types of layers that can be exported."""
    return sorted(exporters)


def source_of(net: Net, outputs: Iterable[str] | None = None) -> Source:
    """A net's source and state; see ``export_torch``."""
    torch = compat.require("torch")
    wanted = wanted_outputs(net, outputs)
    taken = frozenset([*dir(torch.nn.Module()), "loss_weights"])
    with contextlib.ExitStack() as stack:
        if net.deployed:  # what is no longer run has no longer the shapes that it would have
            net = stack.enter_context(contextlib.closing(net._plain_copy()))
        return write(net, needed_steps(net, wanted), wanted, taken)


def tensors(source: Source) -> dict[str, Any]:
    """The ``state_dict``; what layers share is one tensor."""
    torch = compat.require("torch")
    made = {id(values): torch.from_numpy(values) for values in source.state.values()}
    return {key: made[id(values)] for key, values in source.state.items()}


def build(source: Source) -> Any:
    """The module that a source defines, with its state."""
    space: dict[str, Any] = {"__name__": source.name}
    exec(compile(source.text, f"<{source.name}>", "exec"), space)
    made = space[source.name]()
    made.load_state_dict(tensors(source))
    return made.train(source.training)


def _header(source: Source, weights: Path) -> str:
    mode = "train" if source.training else "eval"
    return f'''{_MARK}

    model = {source.name}()
    model.load_state_dict(torch.load({quoted(weights.name)}))
    model.{mode}()
"""

'''
