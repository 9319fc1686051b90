"""What the ranks of ``test_parallel`` do: trains small nets together, and prints what came of it as JSON on rank 0.

``python tests/ranks.py compare 2 3 4`` trains the siamese net on digits by as many ranks, however few cores there are,
and by one with as many times the batch, and prints how far their losses are apart over the first 50 iterations.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from minicaffe import backend, models, parallel, proto, solvers
from minicaffe.backend import ranks
from minicaffe.data.digits import read_digits
from minicaffe.data.pairs import draw_pairs
from minicaffe.data.write import write_images
from minicaffe.kernels import fast_paths
from minicaffe.net import Net
from minicaffe.parallel import exchange
from minicaffe.proto.files import read_net, read_solver
from minicaffe.proto.text import parse
from minicaffe.tools import launch

NET = """
name: "ranks"
layer {{ name: "rows" type: "HDF5Data" top: "x" top: "y" include {{ phase: TRAIN }}
  hdf5_data_param {{ source: "rows.txt" batch_size: {batch} shuffle: true }} }}
layer {{ name: "rows" type: "HDF5Data" top: "x" top: "y" include {{ phase: TEST }}
  hdf5_data_param {{ source: "rows.txt" batch_size: 5 }} }}
layer {{ name: "a" type: "InnerProduct" bottom: "x" top: "a" param {{ name: "w" lr_mult: 2 }} param {{ decay_mult: 0 }}
  inner_product_param {{ num_output: 6 weight_filler {{ type: "xavier" }} }} }}
{middle}
layer {{ name: "s" type: "TanH" bottom: "a" top: "s" }}
layer {{ name: "b" type: "InnerProduct" bottom: "s" top: "b" param {{ name: "w" lr_mult: 2 }} param {{ name: "c" }}
  inner_product_param {{ num_output: 6 }} }}
layer {{ name: "frozen" type: "InnerProduct" bottom: "b" top: "d" param {{ lr_mult: 0 }} param {{ lr_mult: 0 }}
  inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "d" bottom: "y" top: "loss" }}
"""
DROPPED = 'layer { name: "n" type: "Dropout" bottom: "a" top: "a" }'
NORMALISED = 'layer { name: "n" type: "BatchNorm" bottom: "a" top: "a" }'
SOLVER = """
type: "{type}" base_lr: 0.05 lr_policy: "step" gamma: 0.5 stepsize: 4 weight_decay: 0.01 random_seed: 3
momentum: {momentum} iter_size: {iter_size} clip_gradients: {clip} test_interval: 100 test_iter: 4 max_iter: 8
snapshot_prefix: "{prefix}" snapshot_after_train: false layer_wise_reduce: {layer_wise}
"""


def make(total=12, type="SGD", iter_size=1, clip=-1, middle="", prefix="p", layer_wise="true"):
    momentum = 0 if type in ("AdaGrad", "RMSProp") else 0.9
    param = parse(
        SOLVER.format(
            type=type, momentum=momentum, iter_size=iter_size, clip=clip, prefix=prefix, layer_wise=layer_wise
        ),
        proto.SolverParameter(),
    )
    text = NET.format(batch=total // parallel.group().size, middle=middle)
    parse(text, param.net_param)
    return solvers.create(param)


PAIRS = 24  # a step: 1, 2, 3 and 4 ranks have as many each
SIAMESE_STEPS = 50


def write_pairs(folder):
    """The database of pairs of digits that ``siamese`` learns from."""
    digits, labels = read_digits("train")
    pairs, similar = draw_pairs(labels, 500, balance=True)
    write_images(folder / "pairs", digits[pairs], similar)


def siamese():
    """The losses of the shipped siamese net over its first steps, in float64.

    In float32 the rounding of one sum turns a ReLU on or off somewhere within 20 steps, and the runs part from there.
    """
    param = read_solver(models.find("siamese/digits_solver.prototxt"))
    net, _ = read_net(models.find("siamese/digits_train_test.prototxt"))
    for name in ("net", "test_iter", "test_interval", "snapshot", "snapshot_prefix"):
        param.ClearField(name)
    data = net.layer[0].data_param
    data.source, data.batch_size = "pairs", PAIRS // parallel.group().size
    param.net_param.CopyFrom(net)
    in_double = functools.partial(Net.from_param, dtype=np.float64)
    with mock.patch.object(Net, "from_param", in_double), solvers.create(param) as solver:
        return losses_of(solver, SIAMESE_STEPS)


def losses_of(solver, steps):
    losses = []
    for _ in range(steps):
        solver.step(1)
        losses.append(solver.smoothed_loss)
    return losses


def weights(solver):
    return np.concatenate([param.blob.data.ravel() for param in solver.net.learnable]).tolist()


def trained(steps=8, **how):
    """The losses of a few steps and the weights after them."""
    with make(**how) as solver:
        return [*losses_of(solver, steps), *weights(solver)]


def gradients(solver):
    return np.concatenate([param.blob.diff.ravel() for param in solver.net.learnable]).tolist()


def own_and_exchanged():
    """What a rank drops in its first pass, the gradients of that alone, and those by which its solver then steps."""
    with make(middle=DROPPED) as solver:
        solver.net.forward_backward()
        own = (solver.net.blobs["a"].data == 0).ravel().tolist(), gradients(solver)
    exchanged = []
    with make(middle=DROPPED) as solver:
        solver.add_callback(lambda: None, lambda: exchanged.extend(gradients(solver)))
        solver.step(1)
    return own, exchanged


def same_on_all(group, values):
    return all(other == values for other in group.gather(values))


def main() -> None:
    with parallel.session() as group:
        found = {"size": group.size, "rank": ranks.solver_rank(), "siamese": siamese()}
        for type in ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"):
            found[type] = trained(type=type)
        found["clip"] = trained(clip=0.05, iter_size=2)
        exchange.BUCKET, usual = 8, exchange.BUCKET
        with fast_paths.without("shared_gradients"):
            found["buckets"] = trained()
            exchange.BUCKET = usual
            found["whole"] = trained(layer_wise="false")
        own, found["dropout"] = own_and_exchanged()
        found["own dropout"] = group.gather(own)
        with make(middle=NORMALISED) as solver:
            solver.step(3)
            solver.test_all()
            statistics = [blob.data.ravel().tolist() for blob in solver.net.params["n"]]
            found["statistics agree"] = same_on_all(group, statistics)
        with make() as solver:
            tested = []
            monitor = solvers.Monitor()
            monitor.test = lambda iteration, net, outputs, loss: tested.append(outputs[0].value)
            solver.monitors.append(monitor)
            solver.step(2)
            solver.test_all()
            found["test"] = tested
            found["tests agree"] = same_on_all(group, tested)
        with make(prefix=f"by{group.size}") as solver, make(prefix=f"resumed{group.size}") as other:
            solver.step(3)
            state = solver.snapshot()
            solver.step(3)
            other.restore(state)
            other.step(3)
            found["resumed"] = weights(other)
            found["resumes to the bit"] = weights(solver) == found["resumed"]
        found["weights agree"] = same_on_all(group, weights(solver))
        if group.rank == 0:
            print(json.dumps(found))


def disagree() -> None:
    """Each rank trains another solver."""
    with parallel.session() as group:
        make(type="SGD" if group.rank == 0 else "Adam")


def fail() -> None:
    """One rank raises while the others wait for it."""
    with parallel.session() as group, make() as solver:
        solver.step(1)
        if group.rank == 1:
            raise RuntimeError("rank 1 has had enough")
        solver.step(100)


def only_siamese() -> None:
    with parallel.session() as group:
        losses = siamese()
        if group.rank == 0:
            print(json.dumps(losses))


def compare() -> None:
    """Compare as many ranks as the command line says with one."""
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(Path(folder))
        found = {}
        for count in (1, *map(int, sys.argv[2:])):
            command = [*launch.mpirun(count), sys.executable, str(Path(__file__).resolve()), "only_siamese"]
            done = subprocess.run(
                command, cwd=folder, env=launch.environment(), capture_output=True, text=True, check=True
            )
            found[count] = np.array(json.loads(done.stdout.splitlines()[-1]))
            apart = np.abs(found[count] / found[1] - 1).max()
            print(
                f"{count} rank(s): loss {found[count][0]:.6f} to {found[count][-1]:.6f}, apart by {apart:.1e} at most"
            )


if __name__ == "__main__":
    backend.set_mode_cpu()
    tasks = {"main": main, "disagree": disagree, "fail": fail, "only_siamese": only_siamese, "compare": compare}
    tasks[sys.argv[1]]()
