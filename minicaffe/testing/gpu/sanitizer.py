"""The part "sanitizer": one case of every primitive under compute-sanitizer, which sees what guards cannot."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from minicaffe.testing.gpu.checks import FAILED, PASSED, Check, Options, Skip
from minicaffe.testing.gpu.parts import named
from minicaffe.testing.gpu.runner import write_order

TOOLS = ("memcheck", "racecheck", "initcheck")
_SECONDS = 110
_KINDS = 5  # of errors that are told


def checks(options: Options) -> Iterator[Check]:
    """A check for each of its tools."""
    for tool in TOOLS:
        yield Check(tool, partial(_run, tool, options), always=True)


def _run(tool: str, options: Options) -> dict[str, Any]:
    program = shutil.which("compute-sanitizer")
    if program is None:
        raise Skip("compute-sanitizer is not on the PATH")
    if options.stand_in:
        raise Skip("a stand-in has no device code")
    return run_under(program, tool, options)


def run_under(program: str, tool: str, options: Options) -> dict[str, Any]:
    """Run one case of every primitive under a tool; AssertionError for what it finds."""
    with tempfile.TemporaryDirectory(prefix="minicaffe-sanitizer-") as folder:
        journal = Path(folder, "journal")
        few = dataclasses.replace(options, bare=True, every=1, match="")
        order = write_order(Path(folder, "order"), named("kernels"), few, str(journal), [], _SECONDS)
        command = [
            program,
            "--tool",
            tool,
            *(["--report-api-errors", "no"] if tool == "memcheck" else []),  # CuPy asks what CUDA may refuse
            "--print-limit",
            "5",
            sys.executable,
            options.entry,
            "--child",
            str(order),
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        rows = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    return judge(done.stdout + done.stderr, rows)


def judge(output: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What a tool's output and the journal of the checks under it come to; AssertionError for errors, or no summary."""
    ran = [row for row in rows if "check" in row]
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)", output)
    told = [line.strip("= ") for line in output.splitlines() if line.startswith("=========")]
    assert summary is not None, f"it printed no summary; {len(ran)} checks ran: {' | '.join(told[:4]) or output[-300:]}"
    kinds = Counter(
        re.sub(r"0x[0-9a-f]+", "...", line) for line in told if re.search("Invalid|hazard|Uninitialized|error", line)
    )
    found = "; ".join(f"{count} x {line}" for line, count in list(kinds.items())[:_KINDS])
    assert summary[1] == "0", f"{summary[1]} errors: {found}"
    assert ran, "no check ran"
    failed = [row for row in ran if row["state"] == FAILED]
    assert not failed, f"{failed[0]['check']}: {failed[0]['problem']}"
    return {"checks": sum(row["state"] == PASSED for row in ran), "complete": any("complete" in row for row in rows)}
