"""What a solver prototxt asks for: its fields are checked, and the nets that it trains and tests are built."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from minicaffe import parallel, proto, weights
from minicaffe.backend import ranks
from minicaffe.errors import PrototxtError
from minicaffe.layers import TEST, TRAIN
from minicaffe.matching import BY_NAME, Matching
from minicaffe.net import Net
from minicaffe.proto.files import read_net
from minicaffe.proto.origin import Origin
from minicaffe.solvers import detection, larc
from minicaffe.solvers.lock import check_prefix
from minicaffe.solvers.policy import check_policy

_log = logging.getLogger(__name__)


class Definition:
    """A SolverParameter, and where it comes from."""

    def __init__(self, param: proto.SolverParameter, source: Origin) -> None:
        self.param, self.source = param, source
        self.split_tests: list[bool] = []
        """Of each test net that was made: whether the processes that train together split its tests among them."""

    def check(self) -> None:
        """Raise a PrototxtError, or for a prefix a SnapshotError, unless the fields make sense together."""
        p = self.param
        self.require(p.average_loss >= 1, "average_loss", "should be non-negative and at least 1", p.average_loss)
        self.require(p.iter_size >= 1, "iter_size", "must be at least 1", p.iter_size)
        for field in ("max_iter", "display", "snapshot", "test_interval"):
            self.require(getattr(p, field) >= 0, field, "must be 0 or more", getattr(p, field))
        self.require(all(n >= 0 for n in p.test_iter), "test_iter", "must be 0 or more", list(p.test_iter))
        self.require(
            p.regularization_type in ("L1", "L2"),
            "regularization_type",
            "Unknown regularization type; it must be L1 or L2",
            p.regularization_type,
        )
        check_policy(p, self.require)
        larc.check(p, self.require)
        detection.check(p, self.require)
        if p.snapshot:
            self.require(
                p.HasField("snapshot_prefix"),
                "snapshot_prefix",
                "In solver params, snapshot is specified but snapshot_prefix is not",
                "nothing",
            )
        if p.snapshot or p.snapshot_after_train:
            check_prefix(p.snapshot_prefix)

    def require(self, condition: bool, field: str, problem: str, found: Any) -> None:
        """Raise a PrototxtError about a field of the solver unless the condition holds."""
        if not condition:
            place = f"{self.source.path}: " if self.source.path else ""
            raise PrototxtError(f"{place}solver field {field}: {problem}; found {found}")

    def train_net(self) -> Net:
        """The net to train."""
        p = self.param
        given = [field for field in ("net", "net_param", "train_net", "train_net_param") if p.HasField(field)]
        self.require(
            len(given) == 1,
            "net",
            "SolverParameter must specify a train net using exactly one of these fields: "
            "net, net_param, train_net, train_net_param",
            ", ".join(given) or "none",
        )
        value = getattr(p, given[0])
        inline = given[0].endswith("_param")
        param, source = self._net_param(value if inline else None, "" if inline else value)
        _log.info("Creating training net from %s", f"{given[0]} file: {value}" if not inline else given[0])
        _merge_state(param, TRAIN, p.train_state)
        return Net.from_param(param, source)

    def test_nets(self, matching: Matching = BY_NAME) -> Iterator[Net]:
        """The nets to test, in the order of ``test_iter``, with the weights that ``matching`` gives them."""
        p = self.param
        sources: list[tuple[str, proto.NetParameter | None, str]] = [
            *(("test_net_param", message, "") for message in p.test_net_param),
            *((f"test_net file: {path}", None, path) for path in p.test_net),
        ]
        generic = p.HasField("net") or p.HasField("net_param")
        if generic:
            self.require(
                len(p.test_iter) >= len(sources),
                "test_iter",
                "test_iter must be specified for each test network",
                f"{len(p.test_iter)} for {len(sources)} test nets",
            )
            shared = ("net_param", p.net_param, "") if p.HasField("net_param") else (f"net file: {p.net}", None, p.net)
            sources += [shared] * (len(p.test_iter) - len(sources))
        else:
            self.require(
                len(p.test_iter) == len(sources),
                "test_iter",
                "test_iter must be specified for each test network",
                f"{len(p.test_iter)} for {len(sources)} test nets",
            )
        if p.test_state:
            self.require(
                len(p.test_state) == len(sources),
                "test_state",
                "test_state must be unspecified or specified once per test net",
                len(p.test_state),
            )
        if sources:
            self.require(
                p.test_interval > 0, "test_interval", "must be positive when there is a test net", p.test_interval
            )
        for i, (what, message, path) in enumerate(sources):
            _log.info("Creating test net (#%d) specified by %s", i, what)
            param, source = self._net_param(message, path)
            _merge_state(param, TEST, p.test_state[i] if p.test_state else proto.NetState())
            net = self._test_net(i, param, source)
            net.debug_info = p.debug_info
            for paths in p.weights:
                weights.load_into(net, paths, replace(matching, strict=False))
            yield net

    def _test_net(self, index: int, param: proto.NetParameter, source: Origin) -> Net:
        """A net whose data layers read a share each where several processes split the test among them."""
        several = parallel.group().size
        split = several > 1 and self.param.test_iter[index] % several == 0 and self.param.eval_type != "detection"
        with ranks.tests_split(split):
            net = Net.from_param(param, source)
        if split and not all(step.bottom or getattr(step.layer, "shares_records", False) for step in net.steps):
            net.close()
            net, split = Net.from_param(param, source), False
        self.split_tests.append(split)
        return net

    def _net_param(self, message: proto.NetParameter | None, path: str) -> tuple[proto.NetParameter, Origin]:
        """A net given in the solver itself, or by a path seen from the working folder or from the solver's."""
        if message is not None:
            copy = proto.NetParameter()
            copy.CopyFrom(message)
            return copy, Origin(self.source.path)
        path = self.source.resolve(path)
        param, locations = read_net(path)
        return param, Origin(path, locations)


def _merge_state(net: proto.NetParameter, phase: int, state: proto.NetState) -> None:
    """The net's state: ``phase``, overridden by what the net says, then by what the solver says; stages add up."""
    merged = proto.NetState(phase=phase)
    merged.MergeFrom(net.state)
    merged.MergeFrom(state)
    net.state.CopyFrom(merged)
