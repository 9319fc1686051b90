"""Weights that two nets share, and params that layers of one net share by name: both together."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from google.protobuf import text_format

import minicaffe
from minicaffe import proto
from minicaffe.errors import WeightsError
from minicaffe.net import Net
from minicaffe.proto.origin import Origin
from minicaffe.solvers import create

DATA = """layer { name: "data" type: "DummyData" top: "x" dummy_data_param {
  shape { dim: 2 dim: 3 } data_filler { type: "gaussian" } } }"""


def ip(name: str, param: str = "", outputs: int = 3, more: str = "") -> str:
    """A layer that learns: its weights are named ``param``, and its bias ``param_b``."""
    spec = f'param {{ name: "{param}" }} param {{ name: "{param}_b" }}' if param else ""
    return f"""layer {{ name: "{name}" type: "InnerProduct" bottom: "x" top: "{name}" {spec} {more}
      inner_product_param {{ num_output: {outputs} weight_filler {{ type: "gaussian" }} bias_filler {{ type: "gaussian" }} }} }}"""


def net_of(*layers: str, phase: int = 1) -> Net:
    param = text_format.Parse("\n".join((DATA, *layers)), proto.NetParameter())
    param.state.phase = phase
    return Net.from_param(param, Origin())


def values(net: Net, layer: str) -> list[np.ndarray]:
    return [blob.data.copy() for blob in net.params[layer]]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


A, B, C = "a", "b", "c"

CASES = {
    # the layers of the net that gives, of the net that takes, and which layer of the first each of these then is
    "sharer missing": ([ip(A, "w")], [ip(A, "w"), ip(B, "w")], {A: A, B: A}),
    "owner missing": ([ip(B, "w")], [ip(A, "w"), ip(B, "w")], {A: B, B: B}),
    "other order": ([ip(A, "w"), ip(B, "w")], [ip(B, "w"), ip(A, "w")], {A: A, B: A}),
    "other order, owner missing": ([ip(A, "w")], [ip(B, "w"), ip(A, "w")], {A: A, B: A}),
    "three": ([ip(B, "w")], [ip(A, "w"), ip(B, "w"), ip(C, "w")], {A: B, B: B, C: B}),
    "names in the giver only": ([ip(A, "w"), ip(B, "w")], [ip(A), ip(B)], {A: A, B: A}),
    "names in the taker only": ([ip(A), ip(B)], [ip(A, "w"), ip(B, "w")], {A: A, B: B}),
    "names in the taker only, one missing": ([ip(A)], [ip(A, "w"), ip(B, "w")], {A: A, B: A}),
    "no layer in common": ([ip(A, "w")], [ip(B, "w"), ip(C, "w")], {B: A, C: A}),
    "more layers": ([ip(A, "w"), ip(C)], [ip(C), ip(B, "w")], {C: C, B: A}),
    "another shape by the same name": ([ip(A, "w")], [ip(B, "w", outputs=2)], {B: None}),
    "nothing in common": ([ip(A)], [ip(B)], {B: None}),
}


@pytest.mark.parametrize("case", CASES)
def test_layers_that_share_by_name_go_together(case):
    given, taken, expected = CASES[case]
    giver, taker = net_of(*given), net_of(*taken)
    giver.pack_params()
    before = {name: values(taker, name) for name in taker.params}
    for _ in range(2):
        taker.share_with(giver)
        for blobs in giver.params.values():
            for blob in blobs:
                blob.data[...] += 1
        for name, source in expected.items():
            assert same(values(taker, name), before[name] if source is None else values(giver, source)), name


def test_shapes_that_disagree_are_refused_and_nothing_is_shared():
    giver, taker = net_of(ip(A, "w"), ip(C)), net_of(ip(A, "w"), ip(B, "w"), ip(C, outputs=2))
    before = {name: values(taker, name) for name in taker.params}
    with pytest.raises(WeightsError, match="param 0 weights from layer 'c'"):
        taker.share_with(giver)
    assert all(same(values(taker, name), before[name]) for name in before)


# --- loading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", ["save", "save_hdf5"])
@pytest.mark.parametrize(
    ("stored", "loaded", "kept"),
    [
        ([ip(A, "w")], [ip(A, "w"), ip(B, "w")], None),
        ([ip(B, "w")], [ip(A, "w"), ip(B, "w")], None),
        ([ip(A, "w")], [ip(A, "w"), ip(B, "w"), ip(C)], "c"),
        ([ip(C)], [ip(A, "w"), ip(B, "w"), ip(C)], "a, b"),
    ],
)
def test_loading_names_the_layers_that_keep_their_values(save, stored, loaded, kept, tmp_path, caplog):
    source, net = net_of(*stored), net_of(*loaded)
    path = str(tmp_path / "w")
    getattr(source, save)(path)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        net.copy_from(path)
    told = [record.getMessage() for record in caplog.records if "initial values" in record.getMessage()]
    assert (told[0].split("no weights for ")[1] if told else None) == (
        kept and f"{kept}: they keep their initial values"
    )
    first = next(iter(source.params))
    assert same(values(net, first), values(source, first))


# --- solvers -----------------------------------------------------------------------------------------------------

SOLVER = """base_lr: 0.1 lr_policy: "fixed" test_iter: 1 test_interval: 100 max_iter: 100 random_seed: 1
snapshot_prefix: "s" net_param { force_backward: false %s }"""


def solver_of(*layers: str, **options):
    text = SOLVER % "\n".join((DATA, *layers))
    param = text_format.Parse(text, proto.SolverParameter())
    param.MergeFrom(proto.SolverParameter(**options))
    return create(param)


TRAIN, TEST = "include { phase: TRAIN }", "include { phase: TEST }"
LOSS = 'layer { name: "l" type: "EuclideanLoss" bottom: "%s" bottom: "x" top: "l" }'


@pytest.fixture
def solver(in_folder, tmp_path):
    in_folder(tmp_path)
    return solver_of(ip(A, "w"), ip(B, "w", more=TEST), LOSS % "a")


def agree(solver) -> bool:
    weights = values(solver.net, A)
    return all(same(values(net, layer), weights) for net in solver.test_nets for layer in net.params)


def test_test_nets_hold_the_weights_of_the_training_net_at_once(solver):
    assert agree(solver)
    solver.test_all()
    assert agree(solver)
    solver.step(2)
    assert agree(solver)


def test_and_after_loading_and_restoring(solver, tmp_path):
    solver.step(2)
    state, trained = solver.snapshot(), values(solver.net, A)
    solver.step(2)
    assert not same(values(solver.net, A), trained)
    solver.restore(state)
    assert same(values(solver.net, A), trained) and agree(solver)
    solver.net.copy_from(state.replace("solverstate", "caffemodel"))
    solver.step(1)
    assert agree(solver)
    other = solver_of(
        ip(A, "w"), ip(B, "w", more=TEST), LOSS % "a", weights=[state.replace("solverstate", "caffemodel")]
    )
    assert same(values(other.net, A), trained) and agree(other)


def test_a_test_net_of_other_shapes_is_refused_when_the_solver_is_made(in_folder, tmp_path):
    in_folder(tmp_path)
    with pytest.raises(WeightsError, match="layer 'c'"):
        solver_of(ip(A, "w"), ip(C, more=TRAIN), ip(C, outputs=2, more=TEST), LOSS % "a")


def test_a_test_of_the_shared_layer_sees_what_was_learned(solver):
    solver.step(3)
    net = solver.test_nets[0]
    solver.test_all()
    np.testing.assert_array_equal(net.blobs["a"].data, net.blobs["b"].data)
    assert isinstance(net, minicaffe.Net)
