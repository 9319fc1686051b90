"""Trains on one or more GPUs, a process for each, and shows how long each layer takes."""

import argparse
import os
from multiprocessing import Process

import caffe


def train(solver, snapshot, gpus, timing=False):
    uid = caffe.NCCL.new_uid()
    caffe.init_log(0, True)
    caffe.log(f"Using devices {gpus}")
    procs = []
    for rank in range(len(gpus)):
        p = Process(target=solve, args=(solver, snapshot, gpus, timing, uid, rank))
        p.daemon = True
        p.start()
        procs.append(p)
    for p in procs:
        p.join()
    return [p.exitcode for p in procs]


def time(solver, nccl):
    fprop, bprop = [], []
    total, allrd = caffe.Timer(), caffe.Timer()
    for _ in range(len(solver.net.layers)):
        fprop.append(caffe.Timer())
        bprop.append(caffe.Timer())
    display = solver.param.display

    def show_time():
        if solver.iter % display == 0:
            s = "\n"
            for i in range(len(solver.net.layers)):
                s += f"forw {i:3d} {solver.net._layer_names[i]:8s} : {fprop[i].ms:.2f}\n"
            for i in range(len(solver.net.layers) - 1, -1, -1):
                s += f"back {i:3d} {solver.net._layer_names[i]:8s} : {bprop[i].ms:.2f}\n"
            s += f"solver total: {total.ms:.2f}\n"
            s += f"allreduce: {allrd.ms:.2f}\n"
            caffe.log(s)

    solver.net.before_forward(lambda layer: fprop[layer].start())
    solver.net.after_forward(lambda layer: fprop[layer].stop())
    solver.net.before_backward(lambda layer: bprop[layer].start())
    solver.net.after_backward(lambda layer: bprop[layer].stop())
    solver.add_callback(lambda: total.start(), lambda: (total.stop(), allrd.start()))
    solver.add_callback(nccl)
    solver.add_callback(lambda: "", lambda: (allrd.stop(), show_time()))


def solve(proto, snapshot, gpus, timing, uid, rank):
    caffe.set_mode_gpu()
    caffe.set_device(gpus[rank])
    caffe.set_solver_count(len(gpus))
    caffe.set_solver_rank(rank)
    caffe.set_multiprocess(True)
    solver = caffe.SGDSolver(proto)
    if snapshot and len(snapshot) != 0:
        solver.restore(snapshot)
    nccl = caffe.NCCL(solver, uid)
    nccl.bcast()
    if timing and rank == 0:
        time(solver, nccl)
    else:
        solver.add_callback(nccl)
    if solver.param.layer_wise_reduce:
        solver.net.after_backward(nccl)
    solver.step(solver.param.max_iter)
    solver.snapshot()


def prepare():
    with open("net.prototxt", "w") as f:
        f.write(
            'layer { name: "d" type: "DummyData" top: "x" top: "y" dummy_data_param { shape { dim: 4 dim: 3 } '
            'shape { dim: 4 } data_filler { type: "gaussian" } data_filler { } } } '
            'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 2 } } '
            'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "loss" }'
        )
    with open("solver.prototxt", "w") as f:
        f.write('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" display: 5 max_iter: 10 snapshot_prefix: "model"')


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--solver", help="Solver proto definition.")
    parser.add_argument("--snapshot", help="Solver snapshot to restore.")
    parser.add_argument("--gpus", type=int, nargs="+", default=[0], help="List of device ids.")
    parser.add_argument("--timing", action="store_true", help="Show timing info.")
    args = parser.parse_args()
    if args.solver:
        train(args.solver, args.snapshot, args.gpus, args.timing)
    else:
        prepare()
        os.environ["MINICAFFE_GPU_FALLBACK"] = "1"
        assert train("solver.prototxt", None, [0]) == [0]
        assert train("solver.prototxt", "model_iter_10.solverstate", [0], timing=True) == [0]
        assert train("solver.prototxt", None, [0, 1]) == [1, 1]  # gradients are not exchanged: refused
        print("done:", sorted(name for name in os.listdir(".") if name.endswith("solverstate")))
