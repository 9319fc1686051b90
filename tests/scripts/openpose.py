"""Pose estimation: heat maps of a net with two branches, averaged over scales."""

import caffe
import numpy as np
from scipy.ndimage import gaussian_filter, zoom

DEPLOY = """
input: "image" input_dim: 1 input_dim: 3 input_dim: 1 input_dim: 1
layer { name: "conv1_1" type: "Convolution" bottom: "image" top: "conv1_1"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu1_1" type: "ReLU" bottom: "conv1_1" top: "conv1_1" }
layer { name: "pool1_stage1" type: "Pooling" bottom: "conv1_1" top: "pool1_stage1"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "Mconv1_stage1_L1" type: "Convolution" bottom: "pool1_stage1" top: "Mconv1_stage1_L1"
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "Mconv1_stage1_L2" type: "Convolution" bottom: "pool1_stage1" top: "Mconv1_stage1_L2"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "concat_stage2" type: "Concat" bottom: "Mconv1_stage1_L1" bottom: "Mconv1_stage1_L2"
  bottom: "pool1_stage1" top: "concat_stage2" concat_param { axis: 1 } }
layer { name: "Mconv7_stage2_L1" type: "Convolution" bottom: "concat_stage2" top: "Mconv7_stage2_L1"
  convolution_param { num_output: 6 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "Mconv7_stage2_L2" type: "Convolution" bottom: "concat_stage2" top: "Mconv7_stage2_L2"
  convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }
"""
with open("pose_deploy.prototxt", "w") as f:
    f.write(DEPLOY)
caffe.set_random_seed(0)
caffe.Net("pose_deploy.prototxt", caffe.TEST).save("pose.caffemodel")

param = {"use_gpu": 0, "GPUdeviceNumber": 0, "thre1": 0.1, "scale_search": [0.5, 1, 1.5]}
model = {
    "boxsize": 32,
    "stride": 2,
    "padValue": 128,
    "deployFile": "pose_deploy.prototxt",
    "caffemodel": "pose.caffemodel",
}
if param["use_gpu"]:
    caffe.set_mode_gpu()
    caffe.set_device(param["GPUdeviceNumber"])
else:
    caffe.set_mode_cpu()
net = caffe.Net(model["deployFile"], model["caffemodel"], caffe.TEST)


def pad_right_down_corner(img, stride, pad_value):
    h, w = img.shape[:2]
    pad = [0, 0, 0 if h % stride == 0 else stride - h % stride, 0 if w % stride == 0 else stride - w % stride]
    return np.pad(img, ((0, pad[2]), (0, pad[3]), (0, 0)), constant_values=pad_value), pad


ori_img = np.random.RandomState(0).randint(0, 256, (35, 47, 3)).astype(np.float32)
multiplier = [x * model["boxsize"] / ori_img.shape[0] for x in param["scale_search"]]
heatmap_avg = np.zeros((ori_img.shape[0], ori_img.shape[1], 4))
paf_avg = np.zeros((ori_img.shape[0], ori_img.shape[1], 6))
for scale in multiplier:
    image_to_test = zoom(ori_img, (scale, scale, 1), order=1)
    padded, pad = pad_right_down_corner(image_to_test, model["stride"], model["padValue"])
    net.blobs["image"].reshape(*(1, 3, padded.shape[0], padded.shape[1]))
    net.reshape()  # some demos leave this to forward
    net.blobs["image"].data[...] = np.transpose(np.float32(padded[:, :, :, np.newaxis]), (3, 2, 0, 1)) / 256 - 0.5
    output_blobs = net.forward()
    names = sorted(output_blobs.keys())
    assert names == ["Mconv7_stage2_L1", "Mconv7_stage2_L2"] == list(output_blobs.keys())
    heatmap = np.transpose(np.squeeze(net.blobs[list(output_blobs.keys())[1]].data), (1, 2, 0))
    paf = np.transpose(np.squeeze(net.blobs[list(output_blobs.keys())[0]].data), (1, 2, 0))
    for maps, total in ((heatmap, heatmap_avg), (paf, paf_avg)):
        large = np.repeat(np.repeat(maps, model["stride"], 0), model["stride"], 1)
        large = large[: padded.shape[0] - pad[2], : padded.shape[1] - pad[3], :]
        total += caffe.io.resize_image(large, ori_img.shape[:2]) / len(multiplier)

peaks = 0
for part in range(4 - 1):
    smooth = gaussian_filter(heatmap_avg[:, :, part], sigma=3)
    inner = smooth[1:-1, 1:-1]
    neighbours = [smooth[:-2, 1:-1], smooth[2:, 1:-1], smooth[1:-1, :-2], smooth[1:-1, 2:]]
    peaks += np.logical_and.reduce([inner >= other for other in neighbours]).sum()
assert peaks > 0 and np.isfinite(paf_avg).all() and paf_avg.std() > 0
print("done: peaks", peaks)
