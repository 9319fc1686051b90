"""Which layers of a weights file go to which layers of a net, and what became of each."""

from __future__ import annotations

import fnmatch
import logging
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from minicaffe.errors import ArgumentTypeError, WeightsError

if TYPE_CHECKING:
    from minicaffe.net import Net

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Matching:
    """How layers of a file find those of a net: by name, as in Caffe, and as these say.

    ``rename`` gives layers of the file other names: {old: new}; one ``*`` in both stands for any text, the same in
    both.  Layers, of the file or of the net, whose names match one of the patterns of ``ignore`` (``fc8*``) are left
    alone.  ``strict`` refuses a file that holds weights for other layers than the net has, or not for all.
    """

    strict: bool = False
    ignore: tuple[str, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.rename, Mapping):
            raise ArgumentTypeError(f"rename takes a mapping of layers' names to others; found {self.rename!r:.80}")
        for old, new in self.rename.items():
            if not old or not new or old.count("*") > 1 or new.count("*") != old.count("*"):
                raise WeightsError(
                    f"cannot rename layers '{old}' to '{new}': expected two names, or two patterns of one '*' each"
                )

    def ignores(self, name: str) -> bool:
        """Whether a layer of this name is left alone."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.ignore)

    def target(self, name: str) -> str:
        """The name in the net of the file's layer ``name``."""
        for old, new in self.rename.items():
            head, star, tail = old.partition("*")
            if not star and name == old:
                return new
            if star and len(name) >= len(head) + len(tail) and name.startswith(head) and name.endswith(tail):
                return new.replace("*", name[len(head) : len(name) - len(tail)])
        return name

    def check_used(self, reports: Sequence[Report]) -> None:
        """Raise a WeightsError if there was no layer to rename or to leave alone, in any of the files or their net."""
        in_files = [name for report in reports for name in report.seen]
        everywhere = in_files + [step.layer.name for report in reports for step in report.net.steps]
        unused = [old for old in self.rename if not fnmatch.filter(in_files, _literal(old))]
        unused += [pattern for pattern in self.ignore if not fnmatch.filter(everywhere, pattern)]
        if unused:
            files = ", ".join(report.path for report in reports)
            raise WeightsError(f"no layer of {files or 'the weights'} is called {' or '.join(unused)}")


def _literal(old: str) -> str:
    """A name to rename as a pattern in which only ``*`` is special."""
    return "".join(f"[{letter}]" if letter in "?[" else letter for letter in old)


BY_NAME = Matching()


class Report:
    """What a load did, layer by layer; raises once, with every mismatch, before anything is copied.

    As text it is a table of four rows: what was ``copied``, ``ignored`` (only the file has it, or it was to be
    ignored), left as ``initialised`` (only the net has it), and ``mismatched``.
    """

    def __init__(self, path: str | os.PathLike, net: Net, matching: Matching = BY_NAME) -> None:
        self.path, self.net, self.matching = os.fspath(path), net, matching
        self.problems: list[str] = []
        self.copied: dict[str, str] = {}  # the net's name of a layer, and the file's
        self.ignored: list[str] = []
        self.initialised: list[str] = []
        self.mismatched: list[str] = []
        self.seen: list[str] = []

    def target(self, source: str, has_weights: bool, known: Iterable[str]) -> str | None:
        """The net's layer for one of the file, if it has it and shall get its weights."""
        self.seen.append(source)
        name = self.matching.target(source)
        if name in known and not self.matching.ignores(source) and not self.matching.ignores(name):
            return name
        _log.info("Ignoring source layer %s", source)
        if has_weights:
            self.ignored.append(source)
        return None

    def copy(self, layer: str, source: str) -> None:
        """A layer of the net gets the weights of one of the file."""
        if layer in self.copied and self.copied[layer] != source:
            self.problem(layer, f"layers '{self.copied[layer]}' and '{source}' would both become layer '{layer}'")
        self.copied.setdefault(layer, source)

    def problem(self, layer: str, text: str) -> None:
        """The weights of a layer do not fit."""
        self.problems.append(text)
        if layer not in self.mismatched:
            self.mismatched.append(layer)

    def finish(self) -> None:
        """Raise if a layer did not fit, if none matched, or if ``strict`` finds a difference; warn of what stays."""
        for layer in self.mismatched:
            self.copied.pop(layer, None)
        layers = [step.layer for step in self.net.steps]
        learners = [layer.name for layer in layers if layer.blobs]
        kept = {
            (i, j)
            for param in self.net.learnable
            if not any(layers[i].name in self.copied for i, _ in param.users)
            for i, j in param.users
        }
        self.initialised = [
            layer.name
            for i, layer in enumerate(layers)
            if layer.name not in self.mismatched and any((i, j) in kept for j in range(len(layer.blobs)))
        ]
        if self.problems:
            raise WeightsError(
                f"weights {self.path} do not fit net '{self.net.name}':\n  "
                + "\n  ".join(self.problems)
                + "\nTo learn a layer's parameters from scratch rather than copying them, rename the layer in the net, "
                f"or leave it out (train --ignore {self.mismatched[0]}).\n{self}"
            )
        foreign = [name for name in self.ignored if not self.matching.ignores(name)]
        if foreign and learners and not self.copied:
            raise WeightsError(
                f"weights {self.path} belong to another net: it holds weights for {', '.join(self.ignored)}; "
                f"net '{self.net.name}' has weights in {', '.join(learners)}, and no name agrees"
            )
        missing = [name for name in self.initialised if not self.matching.ignores(name)]
        if self.matching.strict and (foreign or missing):
            raise WeightsError(f"weights {self.path} are not exactly those of net '{self.net.name}' (strict):\n{self}")
        if missing:
            _log.warning("%s holds no weights for %s: they keep their initial values", self.path, ", ".join(missing))

    def __str__(self) -> str:
        copied = [name if name == source else f"{source} -> {name}" for name, source in self.copied.items()]
        table = {
            "copied": copied, "ignored": self.ignored, "left as initialised": self.initialised,
            "mismatched": self.mismatched,
        }  # fmt: skip
        lines = [f"Weights of {self.path} in net '{self.net.name}':"]
        for what, names in table.items():
            text = f"  {what:<20}{len(names):>4}  "
            lines += textwrap.wrap(
                text + ", ".join(names), 120, subsequent_indent=" " * len(text), break_long_words=False,
                break_on_hyphens=False, drop_whitespace=True,
            )  # fmt: skip
        return "\n".join(lines)

    __repr__ = __str__
