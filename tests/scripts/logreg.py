"""Logistic regression by a net on HDF5 data, and a deeper net beside it."""

import caffe
import h5py
import numpy as np
from caffe import layers as L
from caffe import params as P

rng = np.random.RandomState(0)
x = rng.randn(400, 4).astype(np.float32)
y = ((x[:, 0] * x[:, 1] > 0) ^ (x[:, 2] > 2)).astype(np.float32)
for name, part in (("train", slice(300)), ("test", slice(300, 400))):
    with h5py.File(name + ".h5", "w") as f:
        f["data"], f["label"] = x[part], y[part]
    with open(name + ".txt", "w") as f:
        f.write(name + ".h5\n")


def logreg(hdf5, batch_size):
    n = caffe.NetSpec()
    n.data, n.label = L.HDF5Data(batch_size=batch_size, source=hdf5, ntop=2)
    n.ip1 = L.InnerProduct(n.data, num_output=2, weight_filler=dict(type="xavier"))
    n.accuracy = L.Accuracy(n.ip1, n.label)
    n.loss = L.SoftmaxWithLoss(n.ip1, n.label)
    return n.to_proto()


def nonlinear_net(hdf5, batch_size):
    n = caffe.NetSpec()
    n.data, n.label = L.HDF5Data(batch_size=batch_size, source=hdf5, ntop=2)
    n.ip1 = L.InnerProduct(n.data, num_output=40, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.ip1, num_output=2, weight_filler=dict(type="xavier"))
    n.accuracy = L.Accuracy(n.ip2, n.label, accuracy_param=dict(top_k=1))
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label, loss_param=dict(normalization=P.Loss.VALID))
    return n.to_proto()


def learn_and_test(make):
    for name, size in (("train", 20), ("test", 20)):
        with open(name + ".prototxt", "w") as f:
            f.write(str(make(name + ".txt", size)))
    with open("solver.prototxt", "w") as f:
        f.write(
            'train_net: "train.prototxt" test_net: "test.prototxt" test_interval: 1000 test_iter: 5 max_iter: 250 '
            'base_lr: 0.05 lr_policy: "step" gamma: 0.1 stepsize: 5000 momentum: 0.9 weight_decay: 0.0005 '
            'display: 1000 snapshot: 10000 snapshot_prefix: "train" random_seed: 5 solver_mode: GPU'
        )
    caffe.set_mode_cpu()
    solver = caffe.get_solver("solver.prototxt")
    solver.solve()
    accuracy = 0
    test_iters = 5
    for _ in range(test_iters):
        solver.test_nets[0].forward()
        accuracy += solver.test_nets[0].blobs["accuracy"].data
    return accuracy / test_iters


linear, deeper = learn_and_test(logreg), learn_and_test(nonlinear_net)
print(f"Accuracy: {linear:.3f}, {deeper:.3f}")
assert linear < 0.7 < 0.85 < deeper
print("done: accuracy", deeper)
