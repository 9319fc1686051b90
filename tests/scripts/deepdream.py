"""Images that make a layer respond: gradients of a net's input."""

import caffe
import numpy as np
from google.protobuf import text_format
from scipy import ndimage as nd

DEPLOY = """
name: "Inception of a kind"
input: "data" input_shape { dim: 1 dim: 3 dim: 24 dim: 24 }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 5 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "norm1" type: "LRN" bottom: "conv1" top: "norm1" lrn_param { alpha: 0.0001 } }
layer { name: "conv2/3x3" type: "Convolution" bottom: "norm1" top: "conv2/3x3"
  convolution_param { num_output: 12 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "pool2/3x3" type: "Pooling" bottom: "conv2/3x3" top: "pool2/3x3"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool2/3x3" top: "fc"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
net_fn, param_fn = "deploy.prototxt", "net.caffemodel"
with open(net_fn, "w") as f:
    f.write(DEPLOY)
caffe.set_random_seed(0)
caffe.Net(net_fn, caffe.TEST).save(param_fn)

# patch the model so that gradients of the input are computed
model = caffe.io.caffe_pb2.NetParameter()
text_format.Merge(open(net_fn).read(), model)  # noqa: SIM115
model.force_backward = True
with open("tmp.prototxt", "w") as f:
    f.write(str(model))
net = caffe.Classifier("tmp.prototxt", param_fn, mean=np.float32([104.0, 116.0, 122.0]), channel_swap=(2, 1, 0))


def preprocess(net, img):
    return np.float32(np.rollaxis(img, 2)[::-1]) - net.transformer.mean["data"]


def deprocess(net, img):
    return np.dstack((img + net.transformer.mean["data"])[::-1])


def objective_l2(dst):
    dst.diff[:] = dst.data


def make_step(net, step_size=1.5, end="conv2/3x3", jitter=4, clip=True, objective=objective_l2):
    src = net.blobs["data"]  # the input image is stored in the net's 'data' blob
    dst = net.blobs[end]
    ox, oy = np.random.randint(-jitter, jitter + 1, 2)
    src.data[0] = np.roll(np.roll(src.data[0], ox, -1), oy, -2)
    net.forward(end=end)
    objective(dst)
    net.backward(start=end)
    g = src.diff[0]
    src.data[:] += step_size / np.abs(g).mean() * g
    src.data[0] = np.roll(np.roll(src.data[0], -ox, -1), -oy, -2)
    if clip:
        bias = net.transformer.mean["data"]
        src.data[:] = np.clip(src.data, -bias, 255 - bias)


def response(net, img, end):
    net.blobs["data"].reshape(1, *img.shape)
    net.blobs["data"].data[0] = img
    net.forward(end=end)
    return float((net.blobs[end].data ** 2).mean())


def deepdream(net, base_img, iter_n=6, octave_n=3, octave_scale=1.4, end="conv2/3x3"):
    octaves = [preprocess(net, base_img)]
    for _ in range(octave_n - 1):
        octaves.append(nd.zoom(octaves[-1], (1, 1.0 / octave_scale, 1.0 / octave_scale), order=1))
    src = net.blobs["data"]
    detail = np.zeros_like(octaves[-1])
    for octave, octave_base in enumerate(octaves[::-1]):
        h, w = octave_base.shape[-2:]
        if octave > 0:
            h1, w1 = detail.shape[-2:]
            detail = nd.zoom(detail, (1, 1.0 * h / h1, 1.0 * w / w1), order=1)
        src.reshape(1, 3, h, w)
        src.data[0] = octave_base + detail
        for _ in range(iter_n):
            make_step(net, end=end)
        detail = src.data[0] - octave_base
    return deprocess(net, src.data[0])


img = np.float32(np.random.RandomState(0).rand(40, 36, 3) * 255)
np.random.seed(0)
dream = deepdream(net, img)
assert dream.shape == img.shape and dream.min() >= -0.01 and dream.max() <= 255.01
before, after = (response(net, preprocess(net, picture), "conv2/3x3") for picture in (img, dream))
assert after > 1.2 * before, (before, after)
guide = net.forward(end="pool2/3x3")["pool2/3x3"][0].reshape(12, -1)
assert guide.shape[0] == 12
print("done: response", before, "to", after)
