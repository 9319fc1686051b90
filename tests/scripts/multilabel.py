"""Several labels an image, from a data layer written in Python."""

import os

import caffe
import numpy as np
from caffe import layers as L
from caffe import params as P
from PIL import Image


class SimpleTransformer:
    """From an image to what the net takes, and back."""

    def __init__(self, mean=(128, 128, 128)):
        self.mean = np.array(mean, dtype=np.float32)
        self.scale = 1.0

    def set_mean(self, mean):
        self.mean = mean

    def set_scale(self, scale):
        self.scale = scale

    def preprocess(self, im):
        im = np.float32(im)[:, :, ::-1]  # to blue, green, red
        im -= self.mean
        im *= self.scale
        return im.transpose((2, 0, 1))


class MultilabelDataLayerSync(caffe.Layer):
    """Batches of images and of vectors of labels."""

    def setup(self, bottom, top):
        self.top_names = ["data", "label"]
        params = eval(self.param_str)
        assert "batch_size" in params and "im_shape" in params, "Params must include batch_size and im_shape."
        self.batch_size = params["batch_size"]
        self.batch_loader = BatchLoader(params)
        top[0].reshape(self.batch_size, 3, params["im_shape"][0], params["im_shape"][1])
        top[1].reshape(self.batch_size, 3)

    def forward(self, bottom, top):
        for itt in range(self.batch_size):
            im, multilabel = self.batch_loader.load_next_image()
            top[0].data[itt, ...] = im
            top[1].data[itt, ...] = multilabel

    def reshape(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        pass


class BatchLoader:
    def __init__(self, params):
        self.root = params["root"]
        self.indexlist = sorted(name[:-4] for name in os.listdir(self.root) if name.startswith(params["split"]))
        self._cur = 0
        self.transformer = SimpleTransformer()
        self.transformer.set_scale(1 / 128)

    def load_next_image(self):
        if self._cur == len(self.indexlist):
            self._cur = 0
        index = self.indexlist[self._cur]
        self._cur += 1
        im = np.asarray(Image.open(os.path.join(self.root, index + ".png")))
        return self.transformer.preprocess(im), [int(bit) for bit in index.split("_")[2]]


def conv_relu(bottom, ks, nout, stride=1, pad=0, group=1):
    conv = L.Convolution(
        bottom, kernel_size=ks, stride=stride, num_output=nout, pad=pad, group=group, weight_filler=dict(type="xavier")
    )
    return conv, L.ReLU(conv, in_place=True)


def net_of(data_layer_params):
    n = caffe.NetSpec()
    n.data, n.label = L.Python(
        module="multilabel", layer="MultilabelDataLayerSync", ntop=2, param_str=str(data_layer_params)
    )
    n.conv1, n.relu1 = conv_relu(n.data, 3, 6)
    n.pool1 = L.Pooling(n.relu1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.score = L.InnerProduct(n.pool1, num_output=3, weight_filler=dict(type="xavier"))
    n.loss = L.SigmoidCrossEntropyLoss(n.score, n.label)
    return str(n.to_proto())


def check_accuracy(net, num_batches, batch_size):
    acc = 0.0
    for _ in range(num_batches):
        net.forward()
        for gt, est in zip(net.blobs["label"].data, net.blobs["score"].data > 0, strict=True):
            acc += np.mean(gt == est)
    return acc / (num_batches * batch_size)


if __name__ == "__main__":
    os.mkdir("images")
    rng = np.random.RandomState(0)
    for split, count in (("train", 48), ("val", 16)):
        for i in range(count):
            bits = rng.randint(0, 2, 3)
            pixels = rng.randint(0, 90, (10, 10, 3)).astype(np.uint8)
            pixels += (bits * 150).astype(np.uint8)  # a label is a bright colour
            Image.fromarray(pixels).save("images/{}_{:03}_{}.png".format(split, i, "".join(map(str, bits))))
    for split in ("train", "val"):
        with open(split + "net.prototxt", "w") as f:
            f.write(net_of(dict(batch_size=8, im_shape=[10, 10], split=split, root="images")))
    with open("solver.prototxt", "w") as f:
        f.write(
            'train_net: "trainnet.prototxt" test_net: "valnet.prototxt" test_iter: 2 test_interval: 1000 base_lr: 0.05 '
            'lr_policy: "fixed" momentum: 0.9 display: 100 max_iter: 100 snapshot_after_train: false random_seed: 1'
        )
    solver = caffe.SGDSolver("solver.prototxt")
    solver.net.save("pretrained.caffemodel")
    solver.net.copy_from("pretrained.caffemodel")
    solver.test_nets[0].share_with(solver.net)
    solver.step(1)
    before = check_accuracy(solver.test_nets[0], 2, 8)
    for itt in range(3):
        solver.step(20)
        print(f"itt:{(itt + 1) * 20:3d}", f"accuracy:{check_accuracy(solver.test_nets[0], 2, 8):.4f}")
    after = check_accuracy(solver.test_nets[0], 2, 8)
    assert after > 0.95 and after > before
    print("done: accuracy", after)
