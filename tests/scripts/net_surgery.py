"""Editing a net's weights, and making a fully convolutional net out of a classifier."""

import caffe
import numpy as np

CONV = """
name: "convolution"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 100 dim: 100 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 3 kernel_size: 5 stride: 1 weight_filler { type: "gaussian" std: 0.01 }
    bias_filler { type: "constant" value: 0 } } }
"""
CLASSIFIER = """
name: "classifier"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 12 dim: 12 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "fc6" type: "InnerProduct" bottom: "pool1" top: "fc6"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } bias_filler { value: 0.1 } } }
layer { name: "fc7" type: "InnerProduct" bottom: "fc6" top: "fc7"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc7" top: "prob" }
"""
FULL = """
name: "fully convolutional"
input: "data" input_dim: 1 input_dim: 3 input_dim: 20 input_dim: 16
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "fc6-conv" type: "Convolution" bottom: "pool1" top: "fc6-conv"
  convolution_param { num_output: 6 kernel_size: 5 } }
layer { name: "fc7-conv" type: "Convolution" bottom: "fc6-conv" top: "fc7-conv"
  convolution_param { num_output: 3 kernel_size: 1 } }
layer { name: "prob" type: "Softmax" bottom: "fc7-conv" top: "prob" }
"""
for name, text in (("conv", CONV), ("classifier", CLASSIFIER), ("full", FULL)):
    with open(name + ".prototxt", "w") as f:
        f.write(text)

# --- filters
net = caffe.Net("conv.prototxt", caffe.TEST)
print(f"blobs {list(net.blobs.keys())}\nparams {list(net.params.keys())}")
im = np.random.rand(36, 48)
im_input = im[np.newaxis, np.newaxis, :, :]
net.blobs["data"].reshape(*im_input.shape)
net.blobs["data"].data[...] = im_input
net.forward()
conv0 = net.blobs["conv"].data[0, 0].copy()
print("pre-surgery output mean {:.2f}".format(net.blobs["conv"].data[0, 0].mean()))
net.params["conv"][1].data[0] = 1.0
net.forward()
print("post-surgery output mean {:.2f}".format(net.blobs["conv"].data[0, 0].mean()))
np.testing.assert_allclose(net.blobs["conv"].data[0, 0], conv0 + 1, atol=1e-6)

ksize = net.params["conv"][0].data.shape[2:]
net.params["conv"][0].data[0] = np.full(ksize, 1 / 25)
net.params["conv"][0].data[1:] = 0
net.params["conv"][0].data[1, 0, 2, 2] = 1
net.params["conv"][1].data[...] = 0
net.forward()
np.testing.assert_allclose(net.blobs["conv"].data[0, 1], im[2:-2, 2:-2], rtol=1e-6)
np.testing.assert_allclose(net.blobs["conv"].data[0, 0, 0, 0], im[:5, :5].mean(), rtol=1e-5)
assert net.params["conv"][0].data.shape == (3, 1, 5, 5)

# --- casting a classifier into a fully convolutional net
caffe.Net("classifier.prototxt", caffe.TRAIN).save("classifier.caffemodel")
net = caffe.Net("classifier.prototxt", "classifier.caffemodel", caffe.TEST)
params = ["fc6", "fc7"]
fc_params = {pr: (net.params[pr][0].data, net.params[pr][1].data) for pr in params}
for fc in params:
    print(f"{fc} weights are {fc_params[fc][0].shape} dimensional and biases are {fc_params[fc][1].shape} dimensional")

net_full_conv = caffe.Net("full.prototxt", "classifier.caffemodel", caffe.TEST)
params_full_conv = ["fc6-conv", "fc7-conv"]
conv_params = {pr: (net_full_conv.params[pr][0].data, net_full_conv.params[pr][1].data) for pr in params_full_conv}
for pr, pr_conv in zip(params, params_full_conv, strict=True):
    conv_params[pr_conv][0].flat = fc_params[pr][0].flat  # flat unrolls the arrays
    conv_params[pr_conv][1][...] = fc_params[pr][1]
net_full_conv.save("full.caffemodel")

net_full_conv = caffe.Net("full.prototxt", "full.caffemodel", caffe.TEST)
image = np.random.RandomState(1).rand(3, 20, 16).astype(np.float32)
out = net_full_conv.forward_all(data=np.asarray([image]))
assert out["prob"].shape == (1, 3, 5, 3)
for y, x in ((0, 0), (4, 2)):
    window = image[:, 2 * y : 2 * y + 12, 2 * x : 2 * x + 12]
    single = net.forward_all(**{net.inputs[0]: window[np.newaxis]})["prob"][0]
    np.testing.assert_allclose(out["prob"][0, :, y, x], single, rtol=1e-5)
print("done: classes", out["prob"][0].argmax(axis=0).tolist())
