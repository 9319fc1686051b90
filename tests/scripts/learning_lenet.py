"""A net and a solver written in Python, a database, and a training loop of one's own."""

import caffe
import lmdb
import numpy as np
from caffe import layers as L
from caffe import params as P
from caffe.proto import caffe_pb2


def write_database(path, count, seed):
    """Images of two kinds: a bright upper half, a bright left half."""
    rng = np.random.RandomState(seed)
    env = lmdb.open(path, map_size=1 << 24)
    with env.begin(write=True) as txn:
        for i in range(count):
            label = i % 2
            image = rng.randint(0, 80, (1, 12, 12)).astype(np.uint8)
            image[0, :6, :] += 120 * (label == 0)
            image[0, :, :6] += 120 * (label == 1)
            datum = caffe.io.array_to_datum(image, label)
            txn.put(f"{i:08}".encode("ascii"), datum.SerializeToString())
    env.close()


def lenet(database, batch_size):
    n = caffe.NetSpec()
    n.data, n.label = L.Data(
        batch_size=batch_size, backend=P.Data.LMDB, source=database, transform_param=dict(scale=1.0 / 255), ntop=2
    )
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=8, weight_filler=dict(type="xavier"))
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.fc1 = L.InnerProduct(n.pool1, num_output=20, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.fc1, in_place=True)
    n.score = L.InnerProduct(n.relu1, num_output=2, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.score, n.label)
    return n.to_proto()


write_database("train_lmdb", 64, 0)
write_database("test_lmdb", 20, 1)
with open("lenet_auto_train.prototxt", "w") as f:
    f.write(str(lenet("train_lmdb", 16)))
with open("lenet_auto_test.prototxt", "w") as f:
    f.write(str(lenet("test_lmdb", 10)))

s = caffe_pb2.SolverParameter()
s.random_seed = 0xCAFFE
s.train_net = "lenet_auto_train.prototxt"
s.test_net.append("lenet_auto_test.prototxt")
s.test_interval = 500
s.test_iter.append(2)
s.max_iter = 10000
s.type = "SGD"
s.base_lr = 0.05
s.momentum = 0.9
s.weight_decay = 5e-4
s.lr_policy = "inv"
s.gamma = 0.0001
s.power = 0.75
s.display = 1000
s.snapshot = 5000
s.snapshot_prefix = "lenet"
s.solver_mode = caffe_pb2.SolverParameter.GPU
with open("lenet_auto_solver.prototxt", "w") as f:
    f.write(str(s))

caffe.set_device(0)
caffe.set_mode_cpu()
solver = None  # a notebook's habit: data of the same database cannot be read by two solvers at once
solver = caffe.SGDSolver("lenet_auto_solver.prototxt")
print([(k, v.data.shape) for k, v in solver.net.blobs.items()])
print([(k, v[0].data.shape) for k, v in solver.net.params.items()])
solver.net.forward()
solver.test_nets[0].forward()
print("train labels:", solver.net.blobs["label"].data[:8])
solver.step(1)
assert abs(solver.net.params["conv1"][0].diff[:, 0]).max() > 0

niter, test_interval = 30, 10
train_loss = np.zeros(niter)
test_acc = np.zeros(int(np.ceil(niter / test_interval)))
output = np.zeros((niter, 8, 2))
for it in range(niter):
    solver.step(1)
    train_loss[it] = solver.net.blobs["loss"].data
    solver.test_nets[0].forward(start="conv1")
    output[it] = solver.test_nets[0].blobs["score"].data[:8]
    if it % test_interval == 0:
        print("Iteration", it, "testing...")
        correct = 0
        for _ in range(2):
            solver.test_nets[0].forward()
            correct += sum(solver.test_nets[0].blobs["score"].data.argmax(1) == solver.test_nets[0].blobs["label"].data)
        test_acc[it // test_interval] = correct / 20
assert train_loss[-1] < 0.1 < train_loss[0] and test_acc[-1] == 1
print("done: loss", train_loss[-1])
