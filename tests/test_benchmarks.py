"""The benchmarks run, and what they compare computes the same.  Nothing here depends on how long anything takes."""

from __future__ import annotations

import importlib
import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the benchmarks are not installed

from benchmarks import (  # noqa: E402
    deploy,
    deploy_nets,
    deploy_report,
    harness,
    isa,
    layers,
    machine,
    nets,
    peers,
    report,
    settling,
    solvers,
)  # fmt: skip
from benchmarks.__main__ import FAMILIES, LONG, main  # noqa: E402
from benchmarks.engine_process import EngineFailure, EngineProcess  # noqa: E402
from benchmarks.engines import ENGINES, Minicaffe  # noqa: E402
from benchmarks.harness import Calls, Case, Probe, Result, Spread, Work  # noqa: E402
from minicaffe import TEST, Net, proto, summary  # noqa: E402
from minicaffe.proto import text  # noqa: E402

SMALL = ["siamese_mnist_b64", "lenet_b64", "cifar10_full_b100"]  # the nets that a test can afford to train
needs_torch = pytest.mark.skipif(peers.torch() is None, reason="PyTorch is not installed")


def _result(case: str, *, unit: str = "s", **samples: list[float]) -> Result:
    return Result(
        "kernels", case, unit, 2e9, 1e6, {name: Spread.of(values) for name, values in samples.items()}, floor=0.01
    )


# --- timing -------------------------------------------------------------------------------------------------------


class _Rates:
    """A machine whose floor takes 1, 5, 2, 5, 2 ... seconds."""

    def __init__(self, order: list[str]) -> None:
        self._order, self._values = order, [1.0, 5.0, 2.0]

    def floor(self, flops: float, moved: float) -> Callable[[], float]:
        assert (flops, moved) == (3e9, 1e6)
        return lambda: (self._order.append("floor"), self._values.pop(0))[1]


def test_contestants_and_the_floor_take_turns_and_the_medians_are_kept():
    order: list[str] = []

    def probe(name: str, values: list[float]) -> Probe:
        return Probe(lambda: (order.append(name), values.pop(0))[1])

    contestants = {"minicaffe": probe("a", [3.0, 1.0, 8.0]), "torch": probe("b", [6.0, 6.0, 9.0])}
    work = Work(contestants, flops=3e9, moved=1e6)
    result = harness.measure(Case("nets", "x", lambda: work), 3, 0, _Rates(order))
    assert order == ["a", "b", "floor"] * 3
    assert result.spreads.keys() == contestants.keys()
    assert result.spreads["minicaffe"] == Spread(1.0, 3.0, 8.0, 3)
    assert result.floor == 2.0
    assert result.ratio == 2.0


def test_single_calls_are_pooled_and_their_99th_percentile_and_memory_kept():
    turns = {harness.WARM_UP: [[9.0]], 1: [[0.001 * i for i in range(1, 101)], [0.101, 0.2]]}
    read = Calls(lambda seconds, least: turns[least].pop(0) if seconds == 0.5 else [], lambda: 7 << 20)
    work = Work({"minicaffe": read}, images=4)
    result = harness.measure(Case("deploy", "x", lambda: work), 2, 0.5, _Rates([]))
    assert result.spreads["minicaffe"] == Spread(0.001, pytest.approx(0.0515), 0.2, 102, pytest.approx(0.101))
    assert result.memory == {"minicaffe": 7 << 20} and result.images == 4


def test_every_engine_has_a_turn_that_does_not_count_before_any_is_timed():
    turns: list[tuple[str, float, int]] = []

    def engine(name: str) -> Calls:
        return Calls(lambda seconds, least: turns.append((name, seconds, least)) or [len(turns)], lambda: 0)

    work = Work({"minicaffe": engine("a"), "torch": engine("b")})
    result = harness.measure(Case("deploy", "x", lambda: work), 2, 0.5, _Rates([]))
    warm, timed = [("a", 0.5, harness.WARM_UP), ("b", 0.5, harness.WARM_UP)], [("a", 0.5, 1), ("b", 0.5, 1)]
    assert turns == warm + 2 * timed
    assert result.spreads["minicaffe"].count == 2 and result.spreads["minicaffe"].least == 3


def test_a_function_is_called_until_its_sample_is_long_enough():
    calls = []
    work = Work({"minicaffe": lambda: calls.append(1)})
    result = harness.measure(Case("nets", "x", lambda: work), 2, 0.001, _Rates([]))
    assert len(calls) > 10
    assert result.spreads["minicaffe"].count == 2
    assert result.ratio is None and result.floor == 0


@pytest.mark.parametrize("busy, waited", [(0.02, 0.022), (0, 0.002), (9, 0.05)])
def test_a_sample_waits_for_the_threads_of_the_one_before(monkeypatch, busy, waited):
    """A thread that is busy for so many seconds of a made-up clock."""
    now = [0.0]
    clock = SimpleNamespace(
        perf_counter=lambda: now[0],
        process_time=lambda: min(now[0], busy),
        sleep=lambda seconds: now.__setitem__(0, now[0] + seconds),
    )
    monkeypatch.setattr(settling, "time", clock)
    harness.settle(0.05)
    assert now[0] == pytest.approx(waited)


def test_nothing_is_timed_when_results_differ():
    calls = []

    def verify() -> None:
        peers.agree([1.0, 2.0], [1.0, 2.1], "y")

    work = Work({"minicaffe": lambda: calls.append(1)}, verify=verify)
    with pytest.raises(peers.Disagreement, match="y: minicaffe and the peer differ by 0.1"):
        harness.measure(Case("nets", "x", lambda: work), 1, 0, _Rates([]))
    assert not calls


@pytest.mark.parametrize("bad", [[1.0, np.nan], [1.0], [1.0, 2.1]])
def test_agree_refuses(bad):
    with pytest.raises(peers.Disagreement):
        peers.agree(bad, [1.0, 2.0], "y")


# --- cases --------------------------------------------------------------------------------------------------------


def test_every_case_has_a_title_of_its_own():
    titles = [
        case.title for family in FAMILIES + LONG for case in importlib.import_module(f"benchmarks.{family}").cases(1)
    ]
    assert len(titles) == len(set(titles)) > 50


def test_cases_are_selected_by_a_part_of_the_title():
    cases = [Case("nets", name, lambda: Work({})) for name in ("lenet_b64", "siamese_b64", "lenet_b1")]
    assert [case.name for case in harness.select(cases, "lenet*64")] == ["lenet_b64"]
    assert len(harness.select(cases, "nets/")) == len(harness.select(cases, None)) == 3


def test_the_floor_of_a_training_step_is_that_of_its_products_and_traffic():
    work = next(case for case in nets.cases(1) if case.name == "lenet_b64").build()
    conv1, conv2 = 20 * 24 * 24 * 25, 50 * 8 * 8 * 500
    inner = 800 * 500 + 500 * 10
    assert work.flops == 2 * 64 * (2 * conv1 + 3 * (conv2 + inner))
    assert work.moved > 6 * 4 * 431_080


def test_the_floor_of_a_layer_is_that_of_its_products_and_traffic():
    once = 2 * (64 * 50 * 8 * 8) * (20 * 5 * 5)
    x, w, y = 4 * 64 * 20 * 12 * 12, 4 * (50 * 20 * 5 * 5 + 50), 4 * 64 * 50 * 8 * 8
    forward, backward = (case.build() for case in layers.cases(1) if case.name.startswith("lenet_conv2/"))
    assert (forward.flops, forward.moved) == (once, x + w + y)
    assert (backward.flops, backward.moved) == (2 * once, 2 * x + 3 * w + y)


@pytest.mark.parametrize("name", SMALL)
def test_nets_have_their_data_in_memory(name):
    made = nets.solver(nets.NETS[name])
    definition = nets.NETS[name]
    assert made.net.inputs == list(definition.inputs)
    for blob, shape in definition.inputs.items():
        assert made.net.blobs[blob].shape == shape
        assert made.net.blobs[blob].data.any()


# --- PyTorch ------------------------------------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize("name", [case.name for case in layers.cases(1) if case.name.endswith("backward")])
def test_layers_equal_those_of_pytorch(name):
    work = next(case for case in layers.cases(1) if case.name == name).build()
    assert work.verify is not None
    work.verify()


@needs_torch
@pytest.mark.parametrize("name", SMALL)
def test_training_equals_that_of_pytorch(name):
    definition = nets.NETS[name]
    small = {blob: (4, *shape[1:]) for blob, shape in definition.inputs.items()}
    nets.same_training(definition, nets.solver(nets.Definition(definition.model, small, definition.labels)))


@needs_torch
def test_changes_are_compared_to_those_of_float64():
    nets.same_changes(nets.solver(nets.NETS["lenet_b64"]))
    made = nets.solver(nets.NETS["lenet_b64"])
    gradient = made.net.params["conv2"][0].diff
    made.net.after_backward(lambda _: gradient[:, 0, 0].fill(0))
    with pytest.raises(peers.Disagreement, match=r"change of conv2\.weight: minicaffe is 0\.\d+ away"):
        nets.same_changes(made)


@needs_torch
def test_another_rate_of_learning_is_noticed(monkeypatch):
    made = nets.solver(nets.NETS["lenet_b64"])
    honest = nets.torch_net

    def hasty(made, device):
        peer = honest(made, device)
        peer.optimize(0.1, 0.9, 0.0005)
        return peer

    monkeypatch.setattr(nets, "torch_net", hasty)
    with pytest.raises(peers.Disagreement, match="loss of step 1"):
        nets.same_losses(made, 3)


# --- deployed nets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, outputs, batch", [
    ("lenet", {"prob": (2, 10)}, 2),
    ("ssd", {"loc": (1, 2880), "conf_found": (1, 7920)}, 1),
])  # fmt: skip
def test_a_deployed_net_has_the_wanted_outputs(name, outputs, batch):
    net = deploy_nets.random_net(deploy_nets.NETS[name].definition(batch))
    net.run_forward()
    assert {blob: net.blobs[blob].shape for blob in net.outputs} == outputs
    assert all(np.ptp(net.blobs[blob].data) > 1e-3 and np.isfinite(net.blobs[blob].data).all() for blob in outputs)
    assert not {"DetectionOutput", "PriorBox"} & {layer.type for layer in net.layers}


def test_the_detectors_regions_are_shared_among_the_images():
    net = deploy_nets.NETS["faster_rcnn_head"].definition(2)
    shapes = {layer.name: list(layer.input_param.shape[0].dim) for layer in net.layer[:2]}
    assert shapes == {"conv5": [2, 256, 38, 50], "rois": [128, 5]}
    regions = deploy_nets._regions(np.random.default_rng(0), 128)
    assert np.bincount(regions[:, 0].astype(int)).tolist() == [64, 64]
    assert (regions[:, 1:3] >= 0).all() and (regions[:, 3:] <= [799, 607]).all()
    assert (regions[:, 3:] - regions[:, 1:3] >= 60).all()


SMALL_DEPLOYED = """
name: "small"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "n" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "s" type: "Scale" bottom: "c" top: "c" scale_param { bias_term: true } }
layer { name: "ip" type: "InnerProduct" bottom: "c" top: "y" inner_product_param { num_output: 5 } }
"""


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A folder with a small net in every engine's format."""
    folder = tmp_path_factory.mktemp("deployed")
    deploy_nets.write(text.parse(SMALL_DEPLOYED, proto.NetParameter()), folder)
    return folder


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "minicaffe"])
def test_engines_compute_the_same(deployed, name):
    if not (deploy.installed(name) and (deployed / ENGINES[name].needs).exists()):
        pytest.skip(f"{name} is not installed")
    ours, theirs = (ENGINES[engine](deployed, 1).outputs() for engine in ("minicaffe", name))
    assert ours.keys() == theirs.keys() == {"y"}
    peers.agree(theirs["y"], ours["y"], "y", rtol=1e-5)


def test_an_engine_in_a_process_of_its_own(deployed):
    running = EngineProcess("minicaffe", deployed, machine.child_environment(1), 1)
    try:
        expected = Minicaffe(deployed, 1).outputs()
        np.testing.assert_allclose(running.outputs()["y"], expected["y"], rtol=1e-5)
        assert [len(running.latencies(0.0, least)) for least in (0, 1, 12)] == [0, 1, 12]
        assert len(running.latencies(0.05, 0)) > 1
        assert 30 << 20 < running.peak_memory() < 2 << 30
    finally:
        running.close()


def test_an_engine_that_cannot_load_its_net_is_a_failure(deployed, tmp_path, capfd):
    with pytest.raises(EngineFailure, match="opencv ended with status 1"):
        EngineProcess("opencv", tmp_path, machine.child_environment(1), 1)
    assert "inputs.npz" in capfd.readouterr().err


def test_tables_of_deployed_nets():
    def result(case: str, **medians: float) -> Result:
        spreads = {name: Spread.of([median] * 3, single=True) for name, median in medians.items()}
        return Result("deploy", case, "s", 0, 0, spreads, images=4, memory=dict.fromkeys(medians, float(3 << 20)))

    against, images, memory = deploy_report.tables(
        [result("a", minicaffe=0.1, onnxruntime=0.2, torch=0.4), result("b", minicaffe=0.1, onnxruntime=0.05)]
    )
    calls = Result("deploy", "c", "s", 0, 0, {"minicaffe": Spread(1e-4, 2e-4, 0.9, 200, p99=0.05)}, images=1)
    assert report.tables([calls])[0].rows[0][1] == "200 µs (99%: 50.0 ms)"
    assert list(against.columns) == ["case", "onnxruntime", "torch", "the fastest"]
    assert against.rows == [
        ["a", "2.00", "4.00", "2.00"],
        ["b", "0.50", "", "0.50"],
        ["geometric mean", "1.00", "4.00", "1.00"],
    ]
    assert images.rows[0] == ["a", "40", "20", "10"]
    assert memory.rows[1] == ["b", "3.00 MiB", "3.00 MiB", ""]
    alone = deploy_report.tables([result("a", minicaffe=0.1)])[0]
    assert alone.rows == [["a", ""], ["geometric mean", ""]]


def test_the_layers_of_a_deployed_net_are_those_that_it_runs():
    net = deploy_nets.random_net(text.parse(SMALL_DEPLOYED, proto.NetParameter())).deploy()
    net.run_forward()
    expected = net.blobs["y"].data.copy()
    parts = {part.steps[0].layer.name: part for part in net.run_apart()}
    assert [name for name, part in parts.items() if not part.idle] == ["c", "ip"]  # the others are in c
    x, w, y = 2 * 3 * 8 * 8, 4 * 3 * 3 * 3 + 4, 2 * 4 * 6 * 6
    cost = summary.joint_cost(parts["c"].steps)
    assert (cost.products, cost.bytes) == (2 * y * 27, 4 * (x + w + y))
    net.blobs["y"].data[...] = 0
    for part in parts.values():
        part.run()
    np.testing.assert_array_equal(net.blobs["y"].data, expected)


def test_what_runs_as_one_has_no_traffic_in_between():
    layers = (
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 5 dim: 7 } } }'
        'layer { name: "a" type: "TanH" bottom: "x" top: "a" } layer { name: "b" type: "ReLU" bottom: "a" top: "a" }'
        'layer { name: "c" type: "Eltwise" bottom: "a" bottom: "x" top: "c" }'
    )
    net = Net(text.parse(layers, proto.NetParameter()), TEST)
    steps = [step for step in net.steps if step.layer.type not in ("Input", "Split")]
    assert summary.joint_cost(steps[:2]).bytes == 4 * 35 * 2
    assert summary.joint_cost(steps).bytes == 4 * 35 * 3


def test_the_layers_that_lose_most_come_first():
    def layer(name: str, seconds: float, floor: float) -> Result:
        return Result("deploy_layers", f"n_b1/{name}", "s", 1, 1, {"minicaffe": Spread.of([seconds])}, floor)

    (table,) = deploy_report.tables([layer("a/b", 0.2, 0.19), layer("c", 0.1, 0.05), layer("d", 0.1, 0.2)])
    assert [row[0] for row in table.rows] == ["c", "a/b", "d", "all layers"]
    assert table.rows[0][1:] == ["100 ms", "25.0%", "50.0 ms", "2.0", "50.0 ms"]


# --- fewer instructions -------------------------------------------------------------------------------------------


def test_the_program_runs_again_held_to_fewer_instructions(monkeypatch):
    started = []
    monkeypatch.setattr(isa.os, "execve", lambda *call: started.append(call))
    assert isa.current() == "native" and isa.runs("onnxruntime")
    isa.hold_to("avx2", ["nets", "--isa", "avx2"])
    ((program, arguments, environment),) = started
    assert arguments == [program, "-m", "benchmarks", "nets", "--isa", "avx2"]
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    isa.hold_to("avx2", [])
    assert len(started) == 1  # not for ever
    assert isa.current() == "avx2" and isa.runs("torch") and not isa.runs("onnxruntime")
    assert machine.file_name({**machine.describe(2), "cpu": "A", "cores": 4}) == "a-4cores-2threads-avx2.json"


# --- Caffe --------------------------------------------------------------------------------------------------------


def _time_fake_caffe(folder: Path, line: str) -> float:
    """What is read from a program that looks for its net and prints ``line``."""
    program = folder / "caffe"
    program.write_text(f'#!/bin/sh\ngrep -q conv1 "${{2#-model=}}" && echo "{line}" >&2\n')
    program.chmod(0o755)
    return peers.caffe_time(nets.NETS["lenet_b64"].net_param(), {"PATH": f"{folder}:/usr/bin:/bin"})


def test_caffes_own_timing_is_read(tmp_path, monkeypatch):
    line = "I1122 11:03:26.097960  2711 caffe.cpp:412] Average Forward-Backward: 28.6 ms."
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert _time_fake_caffe(tmp_path, line) == pytest.approx(0.0286)
    assert peers.have_caffe()


def test_a_failing_caffe_is_an_error_with_its_output(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(peers.MinicaffeError, match="Unknown layer type"):
        _time_fake_caffe(tmp_path, "F1122 Unknown layer type")


# --- the machine and the report -----------------------------------------------------------------------------------


def test_the_floor_is_the_larger_of_arithmetic_and_traffic_at_the_rates_of_the_moment(monkeypatch):
    seconds = 1e-3
    monkeypatch.setattr(machine, "_best_time", lambda way, samples=7: seconds)
    rates = machine.Rates(1, matrix=64)
    assert rates.sgemm == pytest.approx(2 * 64**3 / 1e-3)
    products, traffic = rates.floor(2e9, 1e6), rates.floor(1.0, 1e6)
    assert products() == pytest.approx(2e9 / rates.sgemm)
    assert traffic() == pytest.approx(1e6 / (2**20 / 1e-3))
    seconds = 2e-3  # the machine is half as fast now: so is the floor, but the best rates are still told
    assert products() == pytest.approx(2 * 2e9 / rates.sgemm)
    assert traffic() == pytest.approx(2 * 1e6 / rates.copy(1e6))


@pytest.mark.parametrize("slow", ["minicaffe", "a library"])
def test_the_rate_of_products_is_that_of_the_fastest(monkeypatch, slow):
    own, theirs = machine._products(1, 64).items()
    assert own[0] == "minicaffe" and theirs[0] == ("numpy" if peers.torch() is None else "torch")
    seconds = {way: 2.0 if (name == "minicaffe") == (slow == "minicaffe") else 1.0 for name, way in (own, theirs)}
    monkeypatch.setattr(machine, "_products", lambda threads, size: dict((own, theirs)))
    monkeypatch.setattr(machine, "_best_time", lambda way, samples=7: seconds[way])
    rates = machine.Rates(1, matrix=64)
    fastest = theirs[0] if slow == "minicaffe" else "minicaffe"
    assert rates.library == rates.figures()["sgemm_of"] == fastest
    assert rates.floor(2.0 * 64**3, 0.0)() == 1.0


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.5, "s", "1.50 s"),
        (0.0123, "s", "12.3 ms"),
        (0.123, "s", "123 ms"),
        (4.5e-6, "s", "4.50 µs"),
        (219 << 20, "B", "219 MiB"),
    ],
)
def test_amounts_have_three_digits(value, unit, text):
    assert report.amount(value, unit) == text


def test_tables_and_markdown():
    results = [
        _result("a", minicaffe=[0.02, 0.04, 0.03], torch=[0.06, 0.06, 0.09]),
        _result("b", minicaffe=[0.5, 1.5, 0.4]),
    ]
    (table,) = report.tables(results)
    assert list(table.columns) == ["case", "minicaffe", "torch", "torch / minicaffe", "floor", "× floor"]
    assert table.rows[0] == ["a", "30.0 ms (20.0–40.0)", "60.0 ms (60.0–90.0)", "2.00", "10.0 ms", "3.0"]
    assert table.rows[1] == ["b", "500 ms (400–1500)", "", "", "10.0 ms", "50.0"]
    assert report.markdown(table).splitlines()[2:5] == [
        "| case | minicaffe | torch | torch / minicaffe | floor | × floor |",
        "| --- | --: | --: | --: | --: | --: |",
        "| a | 30.0 ms (20.0–40.0) | 60.0 ms (60.0–90.0) | 2.00 | 10.0 ms | 3.0 |",
    ]


def test_results_come_back_from_json_under_the_machines_name(tmp_path):
    described = {**machine.describe(2), "cpu": "Intel(R) Xeon(R) CPU @ 2.80GHz", "cores": 4}
    results = [_result("a", minicaffe=[1.0, 2.0], torch=[3.0])]
    path = report.save(tmp_path, report.document(results, described, {}, {}))
    assert path.name == "intel-xeon-cpu-2-80ghz-4cores-2threads.json"
    assert report.load(path) == (results, described)


def test_comparison_tells_change_from_noise():
    before = [_result("a", minicaffe=[2.0, 2.2]), _result("b", minicaffe=[2.0, 2.2]), _result("gone", minicaffe=[1.0])]
    now = [_result("a", minicaffe=[1.0, 1.1]), _result("b", minicaffe=[2.1, 2.3]), _result("new", minicaffe=[1.0])]
    assert [(row[0], row[3], row[4]) for row in report.comparison(now, before).rows] == [
        ("kernels/a", "0.50", "less"),
        ("kernels/b", "1.05", "the same"),
    ]


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    report.plot([_result("a", minicaffe=[1.0], torch=[3.0]), _result("b", minicaffe=[1.0])], tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()


def test_the_command_measures_prints_and_keeps(tmp_path):
    arguments = ["solvers", "--only", "SGD/1M", "--quick", "--threads", "1", "--markdown", "--json", str(tmp_path)]
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "| SGD/1M |" in outcome.output
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    assert [entry["case"] for entry in content["results"]] == ["SGD/1M"]
    assert content["machine"]["threads"] == 1
    assert not re.search(r"/home|/tmp|site-packages", path.read_text())
    assert platform.node() not in path.read_text()


def test_a_failing_case_is_named_and_the_others_still_run(monkeypatch):
    def broken() -> Work:
        raise ValueError("no such thing")

    cases = [
        Case("solvers", "broken", broken),
        Case("solvers", "nothing", lambda: Work({})),
        Case("solvers", "fine", lambda: Work({"minicaffe": lambda: None})),
    ]
    monkeypatch.setattr(solvers, "cases", lambda threads: cases)
    outcome = CliRunner().invoke(main, ["solvers", "--quick", "--threads", "1"])
    assert outcome.exit_code == 1
    assert "failed: solvers/broken: ValueError: no such thing" in outcome.output
    assert re.search(r"^  fine ", outcome.output, re.M) and not re.search(r"^  nothing ", outcome.output, re.M)


def test_a_child_process_prints_the_peak_of_its_memory():
    command = [sys.executable, "-m", "benchmarks.memory", "minicaffe", "lenet_b64"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 50 << 20 < int(printed) < 2 << 30
