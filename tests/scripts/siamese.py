"""The siamese tutorial's notebook: features of images, drawn by what the images show."""

import caffe
import numpy as np

with open("train.prototxt", "w") as f:
    f.write(
        'name: "train" '
        'layer { name: "pair" type: "MemoryData" top: "pair_data" top: "sim" '
        "  memory_data_param { batch_size: 20 channels: 2 height: 8 width: 8 } } "
        'layer { name: "slice_pair" type: "Slice" bottom: "pair_data" top: "data" top: "data_p" '
        "  slice_param { slice_dim: 1 slice_point: 1 } } "
        + "".join(
            f'layer {{ name: "ip{p}" type: "InnerProduct" bottom: "data{p}" top: "ip{p}" '
            '  param { name: "ip_w" lr_mult: 1 } param { name: "ip_b" lr_mult: 2 } '
            '  inner_product_param { num_output: 16 weight_filler { type: "xavier" } } } '
            f'layer {{ name: "relu{p}" type: "ReLU" bottom: "ip{p}" top: "ip{p}" }} '
            f'layer {{ name: "feat{p}" type: "InnerProduct" bottom: "ip{p}" top: "feat{p}" '
            '  param { name: "feat_w" lr_mult: 1 } param { name: "feat_b" lr_mult: 2 } '
            '  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } } '
            for p in ("", "_p")
        )
        + 'layer { name: "loss" type: "ContrastiveLoss" bottom: "feat" bottom: "feat_p" bottom: "sim" top: "loss" '
        "  contrastive_loss_param { margin: 1 } }"
    )
with open("deploy.prototxt", "w") as f:
    f.write(
        'name: "deploy" input: "data" input_dim: 64 input_dim: 1 input_dim: 8 input_dim: 8 '
        'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 16 } } '
        'layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" } '
        'layer { name: "feat" type: "InnerProduct" bottom: "ip" top: "feat" inner_product_param { num_output: 2 } }'
    )
with open("solver.prototxt", "w") as f:
    f.write(
        'net: "train.prototxt" base_lr: 0.05 momentum: 0.9 lr_policy: "inv" gamma: 0.0001 power: 0.75 display: 0 '
        "max_iter: 200 snapshot_after_train: false random_seed: 7"
    )

rng = np.random.RandomState(0)
labels = rng.randint(0, 3, 150)
images = rng.randint(0, 60, (150, 8, 8)).astype(np.uint8)
for kind in range(3):
    images[labels == kind, 2 * kind : 2 * kind + 3] += 150

caffe.set_mode_cpu()
solver = caffe.SGDSolver("solver.prototxt")
first, second = rng.randint(0, 150, (2, 400))
pairs = np.ascontiguousarray(np.stack([images[first], images[second]], 1) * np.float32(0.00390625))
similar = (labels[first] == labels[second]).astype(np.float32)
solver.net.set_input_arrays(pairs, similar)
solver.step(200)
solver.net.save("siamese.caffemodel")

MODEL_FILE, PRETRAINED_FILE = "deploy.prototxt", "siamese.caffemodel"
net = caffe.Net(MODEL_FILE, PRETRAINED_FILE, caffe.TEST)
n = 150
caffe_in = images.reshape(n, 1, 8, 8) * 0.00390625
out = net.forward_all(data=caffe_in)
feat = out["feat"]
assert feat.shape == (150, 2)
centres = np.stack([feat[labels == kind].mean(0) for kind in range(3)])
nearest = ((feat[:, np.newaxis] - centres) ** 2).sum(2).argmin(1)
assert (nearest == labels).mean() > 0.95
print("done: apart", (nearest == labels).mean())
