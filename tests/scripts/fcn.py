"""Fully convolutional segmentation: the net, its surgery, training and scores."""

import json
import sys

import caffe
import numpy as np
from caffe import layers as L
from caffe import params as P
from caffe.coord_map import crop

CLASSES = 3


# --- net.py
def conv_relu(bottom, nout, ks=3, stride=1, pad=1):
    conv = L.Convolution(
        bottom, kernel_size=ks, stride=stride, num_output=nout, pad=pad, weight_filler=dict(type="xavier"),
        param=[dict(lr_mult=1, decay_mult=1), dict(lr_mult=2, decay_mult=0)],
    )  # fmt: skip
    return conv, L.ReLU(conv, in_place=True)


def max_pool(bottom, ks=2, stride=2):
    return L.Pooling(bottom, pool=P.Pooling.MAX, kernel_size=ks, stride=stride)


def fcn(split):
    n = caffe.NetSpec()
    pydata_params = dict(split=split, mean=(104.00699, 116.66877, 122.67892), seed=1337)
    n.data, n.label = L.Python(module="voc_layers", layer="SegDataLayer", ntop=2, param_str=str(pydata_params))
    n.conv1_1, n.relu1_1 = conv_relu(n.data, 8, pad=9)
    n.pool1 = max_pool(n.relu1_1)
    n.conv2_1, n.relu2_1 = conv_relu(n.pool1, 8)
    n.pool2 = max_pool(n.relu2_1)
    n.fc3, n.relu3 = conv_relu(n.pool2, 12, ks=3, pad=0)
    n.drop3 = L.Dropout(n.relu3, dropout_ratio=0.1, in_place=True)
    n.score_fr = L.Convolution(
        n.drop3, num_output=CLASSES, kernel_size=1, pad=0, param=[dict(lr_mult=1), dict(lr_mult=2, decay_mult=0)]
    )
    n.upscore2 = L.Deconvolution(
        n.score_fr, convolution_param=dict(num_output=CLASSES, kernel_size=4, stride=2, bias_term=False),
        param=[dict(lr_mult=0)],
    )  # fmt: skip
    n.score_pool1 = L.Convolution(n.pool1, num_output=CLASSES, kernel_size=1, param=[dict(lr_mult=1), dict(lr_mult=2)])
    n.score_pool1c = crop(n.score_pool1, n.upscore2)
    n.fuse_pool1 = L.Eltwise(n.upscore2, n.score_pool1c, operation=P.Eltwise.SUM)
    n.upscore = L.Deconvolution(
        n.fuse_pool1, convolution_param=dict(num_output=CLASSES, kernel_size=4, stride=2, bias_term=False),
        param=[dict(lr_mult=0)],
    )  # fmt: skip
    n.score = crop(n.upscore, n.data)
    n.loss = L.SoftmaxWithLoss(n.score, n.label, loss_param=dict(normalize=True, ignore_label=255))
    return n.to_proto()


# --- surgery.py
def transplant(new_net, net, suffix=""):
    """Copies the weights of one net into another, layer by layer, whatever their shapes."""
    for p in net.params:
        p_new = p + suffix
        if p_new not in new_net.params:
            print("dropping", p)
            continue
        for i in range(len(net.params[p])):
            if i > (len(new_net.params[p_new]) - 1):
                print("dropping", p, i)
                break
            if net.params[p][i].data.shape != new_net.params[p_new][i].data.shape:
                print("coercing", p, i, "from", net.params[p][i].data.shape, "to", new_net.params[p_new][i].data.shape)
            else:
                print("copying", p, " -> ", p_new, i)
            new_net.params[p_new][i].data.flat = net.params[p][i].data.flat


def upsample_filt(size):
    """A square kernel of bilinear interpolation."""
    factor = (size + 1) // 2
    center = factor - 1 if size % 2 == 1 else factor - 0.5
    og = np.ogrid[:size, :size]
    return (1 - abs(og[0] - center) / factor) * (1 - abs(og[1] - center) / factor)


def interp(net, layers):
    """Makes deconvolutions interpolate."""
    for name in layers:
        m, k, h, w = net.params[name][0].data.shape
        if m != k and k != 1:
            raise ValueError("input + output channels need to be the same or |output| == 1")
        if h != w:
            raise ValueError("filters need to be square")
        net.params[name][0].data[range(m), range(k), :, :] = upsample_filt(h)


# --- score.py
def fast_hist(a, b, n):
    k = (a >= 0) & (a < n)
    return np.bincount(n * a[k].astype(int) + b[k], minlength=n**2).reshape(n, n)


def compute_hist(net, dataset, layer="score", gt="label"):
    n_cl = net.blobs[layer].channels
    hist = np.zeros((n_cl, n_cl))
    loss = 0
    for _ in dataset:
        net.forward()
        hist += fast_hist(net.blobs[gt].data[0, 0].flatten(), net.blobs[layer].data[0].argmax(0).flatten(), n_cl)
        loss += net.blobs["loss"].data.flat[0]
    return hist, loss / len(dataset)


def seg_tests(solver, dataset, layer="score", gt="label"):
    print(">>> Iteration", solver.iter, "Begin seg tests")
    solver.test_nets[0].share_with(solver.net)
    hist, loss = compute_hist(solver.test_nets[0], dataset, layer, gt)
    acc = np.diag(hist).sum() / hist.sum()
    iu = np.diag(hist) / (hist.sum(1) + hist.sum(0) - np.diag(hist))
    print(">>> Iteration", solver.iter, "loss", loss, "overall accuracy", acc, "mean IU", np.nanmean(iu))
    return acc


# --- solve.py
def write_images(split, count):
    rng = np.random.RandomState(len(split))
    names = [f"{split}_{i}" for i in range(count)]
    for i, name in enumerate(names):
        height, width = 20 + 3 * i % 7, 24 + 2 * i % 5
        label = np.zeros((height, width), np.uint8)
        label[4:12, 5:14], label[13:18, 10:20] = 1, 2
        image = rng.randint(0, 60, (height, width, 3)) + np.array([[0, 0, 0], [180, 0, 0], [0, 180, 0]])[label]
        label[:2] = 255
        np.savez(name + ".npz", image=image, label=label)
    with open(split + ".json", "w") as f:
        json.dump(names, f)
    return names


sys.path.append(".")
val = write_images("val", 4)
write_images("train", 8)
for split in ("train", "val"):
    with open(split + ".prototxt", "w") as f:
        f.write(str(fcn(split)))
with open("solver.prototxt", "w") as f:
    f.write(
        'train_net: "train.prototxt" test_net: "val.prototxt" test_iter: 4 test_interval: 999999999 display: 20 '
        'average_loss: 20 lr_policy: "fixed" base_lr: 0.01 momentum: 0.9 iter_size: 1 max_iter: 100000 '
        'weight_decay: 0.0005 snapshot: 4000 snapshot_prefix: "train" test_initialization: false random_seed: 2'
    )
caffe.set_mode_cpu()
caffe.set_random_seed(0)
base_net = caffe.Net("train.prototxt", caffe.TEST)
base_net.save("base.caffemodel")
solver = caffe.SGDSolver("solver.prototxt")
solver.net.copy_from("base.caffemodel")
transplant(solver.net, base_net)
interp_layers = [k for k in solver.net.params if "up" in k]
interp(solver.net, interp_layers)
first = seg_tests(solver, val)
for _ in range(3):
    solver.step(40)
    last = seg_tests(solver, val)
assert solver.net.blobs["score"].data.shape[2:] == solver.net.blobs["label"].data.shape[2:]
np.testing.assert_array_equal(solver.net.params["upscore"][0].data[1, 1], upsample_filt(4).astype(np.float32))
assert last > 0.9 > first, (first, last)
print("done: accuracy", last)
