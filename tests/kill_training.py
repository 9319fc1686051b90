"""Kill a training at random moments, resume it from its newest snapshot, and compare its end with a run left alone.

``python tests/kill_training.py`` kills 77 times; ``--kills N``, ``--seed S`` and ``--model lenet|siamese`` choose.  The
exit status is 1 if a file is lost, half written or left over, if a resumed run refuses, or if its end differs by a bit.

With ``--ranks 2 3 4`` it kills one rank at random of as many that train together, for each of these numbers in turn:
then it is a fault, too, if the others do not end within 30 seconds, or if what they say does not name the rank.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = "import sys; from minicaffe.tools.cli import main; sys.exit(main())"
ITERATIONS, EVERY = 60, 3
PATIENCE = 30
"""Seconds after which a rank's end must have ended the others."""
TOWER = """
layer {{ name: "conv{p}" type: "Convolution" bottom: "{x}" top: "conv{p}" param {{ name: "conv_w" }} param {{ name: "conv_b" }}
        convolution_param {{ num_output: 8 kernel_size: 5 stride: 2 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu{p}" type: "ReLU" bottom: "conv{p}" top: "conv{p}" }}
layer {{ name: "drop{p}" type: "Dropout" bottom: "conv{p}" top: "conv{p}" }}
layer {{ name: "ip{p}" type: "InnerProduct" bottom: "conv{p}" top: "ip{p}" param {{ name: "ip_w" }} param {{ name: "ip_b" }}
        inner_product_param {{ num_output: 10 weight_filler {{ type: "xavier" }} }} }}
"""
DATA = """
layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: {phase} }}
        data_param {{ source: "db" backend: LMDB batch_size: 16 }} transform_param {{ scale: 0.00390625 {augment} }} }}
"""
DATA_OF_PHASES = DATA.format(phase="TRAIN", augment="mirror: true crop_size: 26") + DATA.format(
    phase="TEST", augment="crop_size: 26"
)
NETS = {
    "lenet": DATA_OF_PHASES
    + TOWER.format(p="", x="data")
    + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }',
    "siamese": DATA_OF_PHASES
    + 'layer { name: "slice" type: "Slice" bottom: "data" top: "a" top: "b" slice_param { axis: 1 slice_point: 1 } }'
    + TOWER.format(p="", x="a")
    + TOWER.format(p="_p", x="b")
    + """layer { name: "loss" type: "ContrastiveLoss" bottom: "ip" bottom: "ip_p" bottom: "label" top: "loss"
        contrastive_loss_param { margin: 1 } }""",
}
SOLVER = f"""
net: "net.prototxt" test_iter: 2 test_interval: 10 base_lr: 0.01 momentum: 0.9 lr_policy: "inv" gamma: 0.01 power: 0.75
display: 20 max_iter: {ITERATIONS} snapshot: {EVERY} snapshot_prefix: "run" random_seed: 3 average_loss: 5
"""


def prepare(folder: Path, model: str) -> None:
    """Write the net, the solver and a database: pairs of digits, or noise."""
    import numpy as np

    from minicaffe.data.digits import read_digits
    from minicaffe.data.pairs import draw_pairs
    from minicaffe.data.write import write_images

    if model == "siamese":
        digits, classes = read_digits("train")
        pairs, labels = draw_pairs(classes, 100, balance=True)
        images = digits[pairs]
    else:
        images, labels = np.random.default_rng(0).integers(0, 256, (100, 1, 28, 28), np.uint8), np.arange(100) % 10
    write_images(folder / "db", images, labels)
    (folder / "net.prototxt").write_text(NETS[model])
    (folder / "solver.prototxt").write_text(SOLVER)


def train(folder: Path, ranks: int, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", COMMAND, "train", "-solver", "solver.prototxt", *arguments]
    if ranks > 1:
        command += ["--ranks", str(ranks)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ranks_of(process: subprocess.Popen) -> dict[int, int]:
    """The processes, by their ranks, that a launcher's mpirun started."""
    found = {}
    for rank in (rank for mpirun in _children(process.pid) for rank in _children(mpirun)):
        try:
            environment = Path(f"/proc/{rank}/environ").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        found |= {int(entry.partition(b"=")[2]): rank for entry in environment if entry.startswith(RANK)}
    return found


RANK = (b"OMPI_COMM_WORLD_RANK=", b"PMI_RANK=")
"""What launchers of MPI put into a process's environment: Open MPI's, MPICH's."""


def _children(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def kill(process: subprocess.Popen, rng: random.Random) -> str:
    """Kill a training that runs, and wait for its end: what is wrong with that, if anything."""
    if "--ranks" not in process.args:
        process.kill()
        process.communicate()
        return ""
    running: dict[int, int] = {}
    while not running and process.poll() is None:
        running = ranks_of(process)
        time.sleep(0.01)
    if not running:
        return ""
    rank = rng.choice(sorted(running))
    try:
        os.kill(running[rank], signal.SIGKILL)
        messages, _ = process.communicate(timeout=PATIENCE)
    except ProcessLookupError:
        process.communicate()
        return ""
    except subprocess.TimeoutExpired:
        process.kill()
        return f"{PATIENCE} seconds after rank {rank} was killed the others still run"
    if process.returncode and not re.search(rf"\brank {rank}\b", messages, re.IGNORECASE):
        return f"rank {rank} was killed, and nobody says so: {messages[-2000:]}"
    return ""


def newest(folder: Path) -> list[str]:
    """The flag to resume from the newest state, if there is one."""
    states = sorted(folder.glob("run_iter_*.solverstate"), key=lambda path: int(re.findall(r"\d+", path.name)[-1]))
    return ["-snapshot", states[-1].name] if states else []


def damaged(folder: Path) -> list[str]:
    """The snapshot files that cannot be read."""
    from minicaffe import MinicaffeError, proto
    from minicaffe.proto.files import read_binary

    found = []
    for ending, message in (("caffemodel", proto.NetParameter), ("solverstate", proto.SolverState)):
        for path in folder.glob(f"run_iter_*.{ending}"):
            try:
                read_binary(path, message)
            except MinicaffeError as error:
                found.append(str(error))
    return found


def kill_and_resume(model: str, kills: int, seed: int, ranks: int = 1) -> list[str]:
    """What went wrong over so many kills; a run that ends before its kill starts anew."""
    rng = random.Random(seed)
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        alone, folder = Path(name) / "alone", Path(name) / "killed"
        for place in (alone, folder):
            place.mkdir()
            prepare(place, model)
        began = time.monotonic()
        process = train(alone, ranks)
        messages, _ = process.communicate()
        if process.returncode:
            return [f"the run that is left alone fails: {messages[-2000:]}"]
        duration = time.monotonic() - began
        names = sorted(os.listdir(alone))
        done = 0
        while done < kills:
            process = train(folder, ranks, *newest(folder))
            try:
                messages, _ = process.communicate(timeout=rng.uniform(0.2, 1) * duration)
            except subprocess.TimeoutExpired:
                problem = kill(process, rng)
                problems += [problem] if problem else []
                problems += damaged(folder)
                if process.returncode:
                    done += 1
                    continue
            if process.returncode:
                return [*problems, f"a resumed run fails: {messages[-2000:]}"]
            problems += compare(alone, folder, names)
            for path in folder.glob("run*"):
                path.unlink()
        process = train(folder, ranks, *newest(folder))
        messages, _ = process.communicate()
        if process.returncode:
            problems.append(f"the last run fails: {messages[-2000:]}")
        problems += compare(alone, folder, names)
    return problems


def compare(alone: Path, folder: Path, names: list[str]) -> list[str]:
    """Files of a run that was killed that are missing, left over, or not as those of the run left alone."""
    there = sorted(os.listdir(folder))
    problems = [f"{name}: {'missing' if name in names else 'left over'}" for name in {*names} ^ {*there}]
    for path in alone.glob("run_iter_*"):
        other = folder / path.name
        if other.exists() and other.read_bytes() != path.read_bytes():
            problems.append(f"{path.name} differs")
    return problems


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=list(NETS), default="lenet")
    parser.add_argument("--kills", type=int, default=77)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1], help="kill a rank of so many, for each number")
    options = parser.parse_args()
    failed = False
    for ranks in options.ranks:
        problems = kill_and_resume(options.model, options.kills, options.seed, ranks)
        what = f"{ranks} rank(s), {options.kills} kills"
        print(f"{what}: {len(problems) or 'no'} problem(s)", *problems, sep="\n", flush=True)
        failed = failed or bool(problems)
    return failed


if __name__ == "__main__":
    sys.exit(main())
