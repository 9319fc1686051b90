"""What the ranks of ``test_parallel`` do: trains small nets together, and prints what came of it as JSON on rank 0."""

from __future__ import annotations

import json
import sys

import numpy as np

from minicaffe import backend, parallel, proto, solvers
from minicaffe.backend import ranks
from minicaffe.kernels import fast_paths
from minicaffe.parallel import exchange
from minicaffe.proto.text import parse

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


def weights(solver):
    return np.concatenate([param.blob.data.ravel() for param in solver.net.learnable]).tolist()


def trained(steps=8, **how):
    """The losses of a few steps and the weights after them."""
    with make(**how) as solver:
        losses = []
        for _ in range(steps):
            solver.step(1)
            losses.append(solver.smoothed_loss)
        return [*losses, *weights(solver)]


def same_on_all(group, values):
    return all(other == values for other in group.gather(values))


def main() -> None:
    with parallel.session() as group:
        found = {"size": group.size, "rank": ranks.solver_rank()}
        for type in ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"):
            found[type] = trained(type=type)
        found["clip"] = trained(clip=0.05, iter_size=2)
        exchange.BUCKET, usual = 8, exchange.BUCKET
        with fast_paths.without("shared_gradients"):
            found["buckets"] = trained()
            exchange.BUCKET = usual
            found["whole"] = trained(layer_wise="false")
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
        with make(prefix="whole") as solver, make(prefix="resumed") as other:
            solver.step(3)
            state = solver.snapshot()
            solver.step(3)
            other.restore(state)
            other.step(3)
            found["resumes to the bit"] = weights(solver) == weights(other)
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


if __name__ == "__main__":
    backend.set_mode_cpu()
    {"main": main, "disagree": disagree, "fail": fail}[sys.argv[1]]()
