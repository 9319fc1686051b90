"""Starting a command once for each rank, by ``mpirun``, and looking after the ranks until they end."""

from __future__ import annotations

import glob
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from minicaffe.errors import MissingExtraError

_log = logging.getLogger(__name__)

STOP, SNAPSHOT = signal.SIGUSR1, signal.SIGUSR2
"""What ``mpirun`` hands on to the ranks as it is, unlike SIGINT and SIGTERM, at which it ends them at once."""


def run(
    ranks: int,
    arguments: Sequence[str],
    effects: Mapping[signal.Signals, str],
    restarts: int,
    resume: Callable[[float], list[str]],
) -> int:
    """Run ``minicaffe`` with these arguments in so many processes, and return the status with which they end.

    Signals are handed on to all ranks by their ``effects`` ("stop", "snapshot", "none"); a second SIGINT ends them at
    once.  Where a rank dies or fails, all end, and are started again up to ``restarts`` times, with the further
    arguments that ``resume`` gives for what was written since a time.  MissingExtraError if there is no ``mpirun``.
    """
    command = [*mpirun(ranks), sys.executable, "-m", "minicaffe", *arguments]
    began, more = time.time(), list[str]()
    for left in range(restarts, -1, -1):
        status, stopped = _run_once([*command, *more], effects)
        if status == 0 or stopped or left == 0:
            return status
        more = resume(began)
        _log.warning(
            "The ranks ended with status %d; starting them again (%d restart(s) left after this)", status, left - 1
        )
    return status


def newest_state(prefix: str, since: float) -> str | None:
    """The solver state of the highest iteration that was written at a snapshot prefix since a time."""
    found = []
    for path in glob.glob(glob.escape(prefix) + "_iter_*.solverstate*"):
        match = re.fullmatch(r"_iter_(\d+)\.solverstate(\.h5)?", path[len(prefix) :])
        if match and os.path.getmtime(path) >= since:
            found.append((int(match.group(1)), path))
    return max(found)[1] if found else None


def _run_once(command: Sequence[str], effects: Mapping[signal.Signals, str]) -> tuple[int, bool]:
    """The status with which the ranks end, and whether a signal asked them to stop."""
    seen: list[signal.Signals] = []

    def hand_on(number: int, frame: object) -> None:
        received = signal.Signals(number)
        again = received is signal.SIGINT and received in seen
        seen.append(received)
        effect = effects[received]
        if again:
            process.terminate()
        elif effect != "none":
            process.send_signal(STOP if effect == "stop" else SNAPSHOT)

    # a session of its own: Ctrl-C reaches this process alone, which hands it on
    with subprocess.Popen(command, env=environment(), start_new_session=True) as process:
        before = {number: signal.signal(number, hand_on) for number in effects}
        try:
            status = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    stopped = any(effects[received] == "stop" for received in seen)
    return (status if status >= 0 else 128 - status), stopped


def mpirun(ranks: int) -> list[str]:
    """The launcher's command line, up to the command itself."""
    beside = os.path.join(os.path.dirname(sys.executable), "mpirun")
    path = beside if os.access(beside, os.X_OK) else shutil.which("mpirun")
    if path is None:
        raise MissingExtraError(
            "there is no mpirun, which starts the ranks; install one with: pip install 'minicaffe[mpi]', or your "
            "system's Open MPI or MPICH"
        )
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    own = ["--bind-to", "none", "--oversubscribe"] if "Open MPI" in version or "Open RTE" in version else []
    return [path, *own, "-n", str(ranks)]


def environment() -> dict[str, str]:
    """Open MPI refuses to run as root, as in a container, unless it is told twice to."""
    told = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    return {**os.environ, **told}
