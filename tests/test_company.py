"""Replays are shared with other threads only where that is faster: by counts, on a host that the test makes up."""

from __future__ import annotations

import numpy as np
import pytest

from minicaffe import TEST, Net, models
from minicaffe.backend import threads
from minicaffe.kernels.cpu.runtime.company import SHORT, Company


def runs(company, count, alone, shared):
    """How many of ``count`` runs are shared, on a host where work takes so many seconds."""
    chosen = []
    for _ in range(count):
        chosen.append(company.shared())
        if not company.settled:
            company.took(chosen[-1], shared if chosen[-1] else alone)
    return sum(chosen)


def test_on_an_idle_host_work_is_shared_but_for_a_few_trials():
    assert runs(Company(2), 5000, alone=0.0002, shared=0.0001) >= 4985


def test_on_a_busy_host_short_work_is_done_alone_but_for_a_few_trials():
    assert runs(Company(2), 5000, alone=0.0002, shared=0.009) <= 15


def test_a_neighbour_that_comes_is_noticed_at_once_and_one_that_goes_after_a_while():
    company = Company(2)
    runs(company, 1000, alone=0.0002, shared=0.0001)
    assert runs(company, 1000, alone=0.0002, shared=0.009) <= 12
    assert runs(company, 8192, alone=0.0002, shared=0.0001) > 2000


def test_one_slow_run_changes_nothing():
    company = Company(2)
    runs(company, 50, alone=0.0002, shared=0.0001)
    assert company.shared()
    company.took(True, 0.02)
    assert company.shared()


def test_long_work_is_shared_after_one_trial():
    company = Company(2)
    assert runs(company, 100, alone=2 * SHORT, shared=1.1 * SHORT) == 99
    assert company.settled


def test_what_one_thread_would_take_long_for_is_never_tried_alone():
    company = Company(64)
    assert runs(company, 10, alone=30.0, shared=0.5) == 10


def test_one_thread_has_no_choice():
    company = Company(1)
    assert company.settled
    assert not company.shared()


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
    monkeypatch.setattr(Company, "shared", lambda self: shared)
    monkeypatch.setattr(Company, "took", lambda self, shared, seconds: None)
    for _ in range(3):
        assert net.forward()["prob"].tobytes() == eager.tobytes()
