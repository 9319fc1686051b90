"""A notebook's way to classify an image, and to look at what the net holds on the way."""

import caffe
import numpy as np
from PIL import Image

DEPLOY = """
name: "Tiny"
input: "data" input_shape { dim: 10 dim: 3 dim: 27 dim: 27 }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 9 kernel_size: 5 stride: 2 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "fc8" type: "InnerProduct" bottom: "conv1" top: "fc8"
  inner_product_param { num_output: 7 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "prob" type: "Softmax" bottom: "fc8" top: "prob" }
"""
with open("deploy.prototxt", "w") as f:
    f.write(DEPLOY)
caffe.set_random_seed(3)
caffe.Net("deploy.prototxt", caffe.TEST).save("weights.caffemodel")
rng = np.random.RandomState(0)
Image.fromarray(rng.randint(0, 256, (36, 48, 3), np.uint8)).save("cat.jpg")
np.save("mean.npy", rng.rand(3, 25, 25) * 255)

caffe.set_mode_cpu()
net = caffe.Net("deploy.prototxt", "weights.caffemodel", caffe.TEST)

mu = np.load("mean.npy").mean(1).mean(1)
print("mean-subtracted values:", list(zip("BGR", mu, strict=True)))
transformer = caffe.io.Transformer({"data": net.blobs["data"].data.shape})
transformer.set_transpose("data", (2, 0, 1))
transformer.set_mean("data", mu)
transformer.set_raw_scale("data", 255)
transformer.set_channel_swap("data", (2, 1, 0))

net.blobs["data"].reshape(50, 3, 27, 27)
image = caffe.io.load_image("cat.jpg")
transformed_image = transformer.preprocess("data", image)
net.blobs["data"].data[...] = transformed_image
output = net.forward()
output_prob = output["prob"][0]
assert output["prob"].shape == (50, 7)
top_inds = output_prob.argsort()[::-1][:5]
print("probabilities and labels:", list(zip(output_prob[top_inds], top_inds, strict=True)))

for layer_name, blob in net.blobs.items():
    print(layer_name + "\t" + str(blob.data.shape))
for layer_name, param in net.params.items():
    print(layer_name + "\t" + str(param[0].data.shape), str(param[1].data.shape))
filters = net.params["conv1"][0].data
assert filters.transpose(0, 2, 3, 1).shape == (9, 5, 5, 3)
feat = net.blobs["conv1"].data[0, :36]
assert feat.min() >= 0 and feat.max() > 0

# the same by hand, as a check on all of the above
blue_green_red = caffe.io.resize_image(image, (27, 27)).transpose(2, 0, 1)[::-1] * 255 - mu[:, None, None]
np.testing.assert_allclose(transformed_image, blue_green_red, atol=1e-3)
restored = transformer.deprocess("data", net.blobs["data"].data[0])
np.testing.assert_allclose(restored, caffe.io.resize_image(image, (27, 27)), atol=1e-5)
print("done: class", output_prob.argmax())
