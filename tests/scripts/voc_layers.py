"""A data layer that reads one image and its segmentation at a time, of any size."""

import json

import caffe
import numpy as np


class SegDataLayer(caffe.Layer):
    """Loads (image, label map) pairs one at a time, and reshapes the net to keep their size."""

    def setup(self, bottom, top):
        params = eval(self.param_str)
        self.split = params["split"]
        self.mean = np.array(params["mean"])
        self.random = params.get("randomize", True)
        self.seed = params.get("seed", None)
        if len(top) != 2:
            raise Exception("Need to define two tops: data and label.")
        if len(bottom) != 0:
            raise Exception("Do not define a bottom.")
        with open(self.split + ".json") as f:
            self.indices = json.load(f)
        self.idx = 0
        if "train" not in self.split:
            self.random = False
        self.rng = np.random.RandomState(self.seed)

    def reshape(self, bottom, top):
        self.data, self.label = self.load(self.indices[self.idx])
        top[0].reshape(1, *self.data.shape)
        top[1].reshape(1, *self.label.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.data
        top[1].data[...] = self.label
        self.idx = self.rng.randint(len(self.indices)) if self.random else (self.idx + 1) % len(self.indices)

    def backward(self, top, propagate_down, bottom):
        pass

    def load(self, idx):
        with np.load(idx + ".npz") as file:
            im = np.array(file["image"], dtype=np.float32)[:, :, ::-1]
            im -= self.mean
            return im.transpose((2, 0, 1)), np.array(file["label"], np.uint8)[np.newaxis, ...]
