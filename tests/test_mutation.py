"""A small part of what ``mutate.py`` does: damaged files and definitions, read in a process with a limit of memory."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import mutate
import pytest

SECONDS = 25


@pytest.fixture(scope="module")
def worker():
    made = mutate.Worker()
    yield made
    made.close()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit of memory needs Linux")
def test_damaged_files_and_definitions_give_a_result_or_an_error(worker):
    names = mutate.names(1500, ["layers", *mutate.KINDS])
    random.Random(0).shuffle(names)
    start, failures, count = time.monotonic(), [], 0
    for name in names:
        if time.monotonic() - start > SECONDS:
            break
        failures += filter(None, [worker.run(name)])
        count += 1
    assert not failures
    assert count > 50


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise KeyError(3)", "KeyError: 3"),
        ("import os; os.abort()", "ends the process (status -6)"),
        ("while True: pass", "hangs"),
        ("bytearray(3 << 30)", "MemoryError"),
    ],
)
def test_what_should_not_happen_is_found(code, problem, monkeypatch, tmp_path):
    """The watch itself: a kind of file whose reading ends badly."""
    script = tmp_path / "mutate.py"
    source = Path(mutate.__file__).read_text()
    script.write_text(source.replace("    run_input(name, folder)\n    except", f"    exec({code!r})\n    except", 1))
    assert code in script.read_text()
    monkeypatch.setattr(mutate, "__file__", str(script))
    monkeypatch.setattr(mutate, "HERE", Path(__file__).parent)
    monkeypatch.setattr(mutate, "TIMEOUT", 3.0)
    worker = mutate.Worker()
    try:
        failure = worker.run("mean:0")
        assert failure is not None
        assert problem in failure.problem
    finally:
        worker.close()
    assert sys.modules["mutate"] is mutate


def test_every_layer_and_many_fields_get_bad_values():
    from layer_cases import CASES

    inputs = mutate.layer_inputs()
    assert {number for number, _, _ in inputs} == set(range(len(CASES)))
    assert len({(CASES[number].type, path) for number, path, _ in inputs}) > 500
