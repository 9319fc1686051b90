"""Face detection by a cascade of nets that take images of any size: proposals, then a second look at each."""

import caffe
import numpy as np

PNET = """
name: "PNet"
input: "data" input_dim: 1 input_dim: 3 input_dim: 12 input_dim: 12
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 10 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "PReLU1" type: "PReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param { num_output: 16 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "PReLU2" type: "PReLU" bottom: "conv2" top: "conv2" }
layer { name: "conv3" type: "Convolution" bottom: "conv2" top: "conv3"
  convolution_param { num_output: 32 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "PReLU3" type: "PReLU" bottom: "conv3" top: "conv3" }
layer { name: "conv4-1" type: "Convolution" bottom: "conv3" top: "conv4-1"
  convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "conv4-2" type: "Convolution" bottom: "conv3" top: "conv4-2"
  convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "prob1" type: "Softmax" bottom: "conv4-1" top: "prob1" }
"""
RNET = """
name: "RNet"
input: "data" input_dim: 1 input_dim: 3 input_dim: 24 input_dim: 24
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "prelu1" type: "PReLU" bottom: "conv1" top: "conv1" propagate_down: true }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "conv4" type: "InnerProduct" bottom: "pool1" top: "conv4"
  inner_product_param { num_output: 16 weight_filler { type: "xavier" } } }
layer { name: "conv5-1" type: "InnerProduct" bottom: "conv4" top: "conv5-1"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "conv5-2" type: "InnerProduct" bottom: "conv4" top: "conv5-2"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "prob1" type: "Softmax" bottom: "conv5-1" top: "prob1" }
"""
for name, text in (("det1", PNET), ("det2", RNET)):
    with open(name + ".prototxt", "w") as f:
        f.write(text)
    caffe.set_random_seed(1)
    caffe.Net(name + ".prototxt", caffe.TEST).save(name + ".caffemodel")


def generate_boxes(score_map, reg, scale, threshold):
    stride, cellsize = 2, 12
    y, x = np.where(score_map >= threshold)
    boxes = np.stack([x, y], 1) * stride
    deltas = reg[:, y, x].T * cellsize
    score = score_map[y, x]
    return np.column_stack([boxes / scale + deltas[:, :2], (boxes + cellsize) / scale + deltas[:, 2:], score])


def nms(boxes, threshold):
    x1, y1, x2, y2, score = boxes.T
    area = (x2 - x1 + 1) * (y2 - y1 + 1)
    order, pick = score.argsort()[::-1], []
    while order.size:
        i, rest = order[0], order[1:]
        pick.append(i)
        w = np.maximum(0, np.minimum(x2[i], x2[rest]) - np.maximum(x1[i], x1[rest]) + 1)
        h = np.maximum(0, np.minimum(y2[i], y2[rest]) - np.maximum(y1[i], y1[rest]) + 1)
        overlap = w * h / (area[i] + area[rest] - w * h)
        order = rest[overlap <= threshold]
    return pick


def detect_face(img, minsize, PNet, RNet, threshold, factor):
    h, w = img.shape[0], img.shape[1]
    m = 12.0 / minsize
    minl, scales, total = min(h, w) * m, [], np.zeros((0, 5))
    while minl >= 12:
        scales.append(m * factor ** len(scales))
        minl *= factor
    for scale in scales:
        hs, ws = int(np.ceil(h * scale)), int(np.ceil(w * scale))
        im_data = (caffe.io.resize_image(img, (hs, ws)) - 127.5) * 0.0078125
        im_data = np.swapaxes(im_data, 0, 2)
        PNet.blobs["data"].reshape(1, 3, ws, hs)
        PNet.blobs["data"].data[...] = im_data
        out = PNet.forward()
        boxes = generate_boxes(out["prob1"][0, 1, :, :].T, out["conv4-2"][0].transpose(0, 2, 1), scale, threshold)
        total = np.concatenate([total, boxes[nms(boxes, 0.5)]])
    total = total[nms(total, 0.7)]
    tempimg = np.zeros((len(total), 24, 24, 3))
    for k, (x1, y1, x2, y2) in enumerate(total[:, :4].astype(int)):
        patch = img[max(0, y1) : max(1, y2), max(0, x1) : max(1, x2)]
        tempimg[k] = caffe.io.resize_image(patch if patch.size else img, (24, 24))
    tempimg = np.swapaxes((tempimg - 127.5) * 0.0078125, 1, 3)
    RNet.blobs["data"].reshape(len(total), 3, 24, 24)
    RNet.blobs["data"].data[...] = tempimg
    out = RNet.forward()
    assert out["prob1"].shape == (len(total), 2) and out["conv5-2"].shape == (len(total), 4)
    return len(scales), total, out["prob1"][:, 1].copy()


caffe.set_mode_cpu()
PNet = caffe.Net("det1.prototxt", "det1.caffemodel", caffe.TEST)
RNet = caffe.Net("det2.prototxt", "det2.caffemodel", caffe.TEST)
assert sorted(PNet.outputs) == ["conv4-2", "prob1"]
img = np.random.RandomState(0).rand(60, 80, 3) * 255
for _ in range(2):  # images of one size after another
    count, boxes, score = detect_face(img, 20, PNet, RNet, 0.5, 0.709)
    assert count in (3, 4) and len(boxes) > 0 and (score >= 0).all() and (score <= 1).all()
    again = detect_face(img, 20, PNet, RNet, 0.5, 0.709)
    np.testing.assert_array_equal(again[2], score)
    img = img[5:, 7:]
print("done: boxes", len(boxes))
