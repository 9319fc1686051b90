"""Kill a training at random moments, resume it from its newest snapshot, and compare its end with a run left alone.

``python tests/kill_training.py`` kills 77 times; ``--kills N``, ``--seed S`` and ``--model lenet|siamese`` choose.  The
exit status is 1 if a file is lost, half written or left over, if a resumed run refuses, or if its end differs by a bit.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = "import sys; from minicaffe.tools.cli import main; sys.exit(main())"
ITERATIONS, EVERY = 60, 3
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
    """Write the net, the solver and a database of noise."""
    import numpy as np

    from minicaffe.data.write import write_images

    channels = 2 if model == "siamese" else 1
    images = np.random.default_rng(0).integers(0, 256, (100, channels, 28, 28), np.uint8)
    write_images(folder / "db", images, np.arange(100) % (2 if model == "siamese" else 10))
    (folder / "net.prototxt").write_text(NETS[model])
    (folder / "solver.prototxt").write_text(SOLVER)


def train(folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", COMMAND, "train", "-solver", "solver.prototxt", *arguments]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)


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


def kill_and_resume(model: str, kills: int, seed: int) -> list[str]:
    """What went wrong over so many kills; a run that ends before its kill starts anew."""
    rng = random.Random(seed)
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        alone, folder = Path(name) / "alone", Path(name) / "killed"
        for place in (alone, folder):
            place.mkdir()
            prepare(place, model)
        began = time.monotonic()
        process = train(alone)
        _, messages = process.communicate()
        if process.returncode:
            return [f"the run that is left alone fails: {messages[-2000:]}"]
        duration = time.monotonic() - began
        names = sorted(os.listdir(alone))
        done = 0
        while done < kills:
            process = train(folder, *newest(folder))
            try:
                _, messages = process.communicate(timeout=rng.uniform(0.2, 1) * duration)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                done += 1
                problems += damaged(folder)
                continue
            if process.returncode:
                return [*problems, f"a resumed run fails: {messages[-2000:]}"]
            problems += compare(alone, folder, names)
            for path in folder.glob("run*"):
                path.unlink()
        process = train(folder, *newest(folder))
        _, messages = process.communicate()
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
    options = parser.parse_args()
    problems = kill_and_resume(options.model, options.kills, options.seed)
    print(*problems or [f"{options.kills} kills: the same files to the bit"], sep="\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
