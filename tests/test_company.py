"""Replays are shared with other threads only where that is faster: by counts, on a host that the test makes up."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from minicaffe import TEST, Net, models
from minicaffe.backend import threads
from minicaffe.kernels.cpu.runtime import capture, company, launch
from minicaffe.kernels.cpu.runtime.company import SHORT, Company


@pytest.fixture
def host(monkeypatch):
    """Runs work that takes one thread some seconds, and takes others with it some; says how often it was shared.

    ``waits`` are seconds that the calling thread is not running when it shares, ``interrupts`` when it does not, and
    ``wakes`` those that it takes others to begin if they did not work in the run before; ``every`` so many runs it waits.
    ``host.clock`` tells the time.
    """
    clock = {"now": 0.0, "running": 0.0}
    monkeypatch.setattr(company, "time", SimpleNamespace(
        perf_counter=lambda: clock["now"], thread_time=lambda: clock["running"]
    ))  # fmt: skip

    def run(made, count, alone, shared, waits=0.0, wakes=0.0, interrupts=0.0, every=1):
        chosen = []

        def work(with_others):
            asleep = not (chosen and chosen[-1])
            waiting = waits if len(chosen) % every == 0 else 0.0
            chosen.append(with_others)
            busy = shared if with_others else alone
            clock["running"] += busy
            clock["now"] += busy + (waiting + wakes * asleep if with_others else interrupts)

        for _ in range(count):
            made.run(work)
        return sum(chosen)

    run.clock = clock
    return run


def test_on_an_idle_host_work_is_shared_but_for_a_few_trials(host):
    assert host(Company(2), 5000, alone=0.0002, shared=0.0001) >= 4970


def test_on_a_busy_host_short_work_is_done_alone_but_for_a_few_trials(host):
    assert host(Company(2), 5000, alone=0.0002, shared=0.0001, waits=0.06) <= 15


def test_a_neighbour_that_comes_is_noticed_at_once_and_one_that_goes_after_a_while(host):
    made = Company(2)
    host(made, 1000, alone=0.0002, shared=0.0001)
    assert host(made, 1000, alone=0.0002, shared=0.0001, waits=0.009) <= 12
    assert host(made, 8192, alone=0.0002, shared=0.0001) > 2000


def test_a_thread_that_has_to_be_woken_for_a_trial_is_worth_it(host):
    made = Company(2)
    assert host(made, 5000, alone=0.00006, shared=0.00004, wakes=0.0001) >= 4900
    assert host(made, 1000, alone=0.00006, shared=0.00004, waits=0.0001) <= 60
    assert host(made, 8192, alone=0.00006, shared=0.00004, wakes=0.0001) > 2000


@pytest.mark.parametrize("waits", [0.0001, 0.004, 0.06])
def test_trials_cost_a_hundredth_of_the_time_however_long_one_waits(host, waits):
    made = Company(2)
    host(made, 2000, alone=0.0001, shared=0.00006, waits=waits)
    begin = host.clock["now"]
    assert host(made, 30_000, alone=0.0001, shared=0.00006, waits=waits) <= 300
    assert host.clock["now"] - begin < 1.01 * 30_000 * 0.0001


def test_a_thread_that_finds_a_core_late_is_worked_with_soon(host):
    made = Company(2)
    host(made, 600, alone=0.00009, shared=0.00005, waits=0.00015)
    assert host(made, 6000, alone=0.00009, shared=0.00005) > 4000
    made = Company(2)
    host(made, 600, alone=0.00009, shared=0.00005, waits=0.004)
    assert host(made, 9000, alone=0.00009, shared=0.00005) > 4000


def test_threads_that_wake_slowly_in_the_first_run_are_worked_with(host):
    made = Company(2)
    host(made, 1, alone=0.005, shared=0.003, waits=0.03)
    assert host(made, 20, alone=0.005, shared=0.003) == 19


def test_others_that_are_waited_for_now_and_then_are_worked_with_while_that_is_faster(host):
    assert host(Company(2), 9000, alone=0.0001, shared=0.00006, waits=0.003, every=3) <= 120
    assert host(Company(2), 9000, alone=0.0001, shared=0.00006, waits=0.003, every=300) >= 8000


def test_a_trial_alone_that_makes_way_for_others_is_told_from_slow_work(host):
    made = Company(2)
    host(made, 6, alone=0.0002, shared=0.0001, interrupts=0.02)
    assert host(made, 100, alone=0.0002, shared=0.0001, waits=0.006) <= 9


@pytest.mark.parametrize("seconds", [0.02, 10.0])
def test_one_slow_run_changes_nothing(host, seconds):
    made = Company(2)
    host(made, 50, alone=0.0002, shared=0.0001)
    assert host(made, 1, alone=0.0002, shared=seconds) == 1
    assert host(made, 1, alone=0.0002, shared=0.0001) == 1


def test_a_trial_in_which_the_process_was_stopped_is_forgotten(host):
    made = Company(2)
    host(made, 12, alone=0.001, shared=0.0002, waits=10.0)
    assert host(made, 15_000, alone=0.001, shared=0.0002) > 1000


def test_long_work_is_shared_after_one_trial(host):
    made = Company(2)
    assert host(made, 100, alone=2 * SHORT, shared=1.1 * SHORT) == 99
    assert made.settled


def test_what_one_thread_would_take_long_for_is_never_tried_alone(host):
    assert host(Company(64), 10, alone=30.0, shared=0.5) == 10


def test_one_thread_has_no_choice(host):
    made = Company(1)
    assert made.settled
    assert host(made, 10, alone=1.0, shared=0.5) == 0


def test_work_that_raised_has_not_been_timed(host):
    def broken(shared):
        raise ValueError

    for done in range(4):
        made = Company(2)
        host(made, done, alone=0.0001, shared=0.0002)
        with pytest.raises(ValueError):
            made.run(broken)
        assert host(made, 100, alone=0.0001, shared=0.0002) <= 30


def test_code_that_replays_run_by_is_loaded_before_any_is_timed(monkeypatch):
    if threads.get_num_threads() < 2:
        pytest.skip("one core")
    events = []
    noted = {
        name: lambda first, end, *_, name=name: events.append((name, end - first))
        for name in ("run_launches", "run_launches_alone")
    }
    monkeypatch.setattr(capture, "launch", SimpleNamespace(**vars(launch) | noted))
    monkeypatch.setattr(Company, "run", lambda self, work: events.append("timed"))
    net = Net(models.find("lenet/lenet.prototxt"), TEST)
    for _ in range(3):
        net.forward()
    assert events == [("run_launches_alone", 0), ("run_launches", 0), "timed"]


@pytest.mark.parametrize("shared", [True, False])
def test_replays_give_the_same_bits_shared_or_alone(monkeypatch, shared):
    if threads.get_num_threads() < 2:
        pytest.skip("one core")
    net = Net(models.find("lenet/lenet.prototxt"), TEST)
    net.blobs["data"].reshape(2, 1, 28, 28)
    rng = np.random.default_rng(1)
    for blob in (net.blobs["data"], *(blob for blobs in net.params.values() for blob in blobs)):
        blob.data[...] = rng.normal(0, 0.1, blob.data.shape)
    eager = net.forward()["prob"].copy()
    monkeypatch.setattr(Company, "run", lambda self, work: work(shared))
    for _ in range(3):
        assert net.forward()["prob"].tobytes() == eager.tobytes()
