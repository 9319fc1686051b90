"""Whole nets of forks with random weights compute what OpenCV 4's dnn module does (skipped without it).

PSPNet's BN, which OpenCV does not know, is BatchNorm and Scale here.
"""

from __future__ import annotations

import numpy as np
import pytest

from minicaffe import proto
from minicaffe.net import Net

cv2 = pytest.importorskip("cv2", reason="OpenCV 4 is not installed (pip install 'opencv-python-headless<5')")
if not hasattr(cv2.dnn, "readNetFromCaffe"):
    pytest.skip("this OpenCV reads no Caffe models; 4 does", allow_module_level=True)

HEIGHT, WIDTH = 48, 64


class Text:
    """A definition in the making; each method adds a layer and gives the name of its top."""

    def __init__(self) -> None:
        self.text = 'name: "net" '
        self.add("data", "Input", (), f"input_param {{ shape {{ dim: 1 dim: 3 dim: {HEIGHT} dim: {WIDTH} }} }}")

    def add(self, name: str, type: str, bottoms: tuple[str, ...], options: str = "", top: str = "") -> str:
        ends = "".join(f'bottom: "{bottom}" ' for bottom in bottoms) + f'top: "{top or name}"'
        self.text += f'layer {{ name: "{name}" type: "{type}" {ends} {options} }}\n'
        return top or name

    def conv(self, name: str, x: str, outputs: int, options: str = "kernel_size: 3 pad: 1", type: str = "") -> str:
        param = f'convolution_param {{ num_output: {outputs} {options} weight_filler {{ type: "xavier" }} }}'
        return self.add(name, type or "Convolution", (x,), param)

    def relu(self, x: str) -> str:
        return self.add(f"{x}/relu", "ReLU", (x,), top=x)

    def normalized(self, x: str) -> str:
        self.add(f"{x}/norm", "BatchNorm", (x,), top=x)
        return self.add(f"{x}/scale", "Scale", (x,), "scale_param { bias_term: true }", top=x)

    def batch_norm(self, x: str) -> str:
        return self.relu(self.normalized(x))

    def concat(self, name: str, tops: list[str], axis: int = 1) -> str:
        return self.add(name, "Concat", tuple(tops), f"concat_param {{ axis: {axis} }}")


def ssd_head(net: Text, sources: list[tuple[str, str]], classes: int = 4) -> None:
    """Priors, codes and classes on maps, and what is found; ``sources`` are maps and their options of priors."""
    parts: dict[str, list[str]] = {"loc": [], "conf": [], "priors": []}
    for x, sizes in sources:
        for kind, outputs in (("loc", 4 * 4), ("conf", classes * 4)):
            made = net.conv(f"{x}_{kind}", x, outputs)
            made = net.add(f"{made}_p", "Permute", (made,), "permute_param { order: 0 order: 2 order: 3 order: 1 }")
            parts[kind].append(net.add(f"{made}_f", "Flatten", (made,), "flatten_param { axis: 1 }"))
        options = (
            f"{sizes} aspect_ratio: 2 flip: true clip: false variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2"
        )
        parts["priors"].append(net.add(f"{x}_priors", "PriorBox", (x, "data"), f"prior_box_param {{ {options} }}"))
    loc, conf = (net.concat(kind, parts[kind]) for kind in ("loc", "conf"))
    priors = net.concat("priors", parts["priors"], 2)
    net.add("by_class", "Reshape", (conf,), f"reshape_param {{ shape {{ dim: 0 dim: -1 dim: {classes} }} }}")
    net.add("prob", "Softmax", ("by_class",), "softmax_param { axis: 2 }")
    net.add("flat", "Flatten", ("prob",), "flatten_param { axis: 1 }")
    net.add(
        "out",
        "DetectionOutput",
        (loc, "flat", priors),
        f"detection_output_param {{ num_classes: {classes} share_location: true background_label_id: 0 nms_param {{ "
        "nms_threshold: 0.45 top_k: 400 } code_type: CENTER_SIZE keep_top_k: 200 confidence_threshold: 0.01 }",
    )


SIZES = [f"min_size: {low} max_size: {high}" for low, high in ((8, 16), (16, 30))]


def mobilenet_ssd() -> str:
    """Depthwise convolutions, by group and by their own type, each normalised; an SSD's head."""
    net = Text()
    x = net.batch_norm(net.conv("conv0", "data", 8, "kernel_size: 3 pad: 1 stride: 2 bias_term: false"))
    maps = []
    for n, (channels, outputs, stride) in enumerate(((8, 12, 1), (12, 16, 2), (16, 24, 2))):
        options = f"kernel_size: 3 pad: 1 stride: {stride} group: {channels} bias_term: false"
        x = net.batch_norm(net.conv(f"dw{n}", x, channels, options))
        x = net.batch_norm(net.conv(f"pw{n}", x, outputs, "kernel_size: 1 bias_term: false"))
        maps.append(x)
    ssd_head(net, list(zip(maps[1:], SIZES, strict=True)))
    return net.text


def rfb() -> str:
    """Receptive field blocks: branches of oblong and dilated kernels, a shortcut, a scaled sum; an SSD's head."""
    net = Text()
    x = net.relu(net.conv("stem", "data", 8, "kernel_size: 3 pad: 1 stride: 2"))
    x = net.add("pool", "Pooling", (x,), "pooling_param { pool: MAX kernel_size: 2 stride: 2 }")
    maps = []
    for n, stride in enumerate((1, 2)):
        branches = []
        for d, shape in (
            (1, ""),
            (3, "kernel_h: 1 kernel_w: 3 pad_h: 0 pad_w: 1"),
            (5, "kernel_h: 3 kernel_w: 1 pad_h: 1 pad_w: 0"),
        ):
            y = net.batch_norm(net.conv(f"b{n}_{d}", x, 4, f"kernel_size: 1 stride: {stride}"))
            if shape:
                y = net.batch_norm(net.conv(f"b{n}_{d}_s", y, 6, shape))
            y = net.batch_norm(net.conv(f"b{n}_{d}_d", y, 6, f"kernel_size: 3 pad: {d} dilation: {d}"))
            branches.append(y)
        joined = net.conv(f"join{n}", net.concat(f"concat{n}", branches), 16, "kernel_size: 1")
        short = net.conv(f"short{n}", x, 16, f"kernel_size: 1 stride: {stride}")
        x = net.add(f"sum{n}", "Eltwise", (joined, short), "eltwise_param { operation: SUM coeff: 0.1 coeff: 1 }")
        maps.append(net.relu(x))
    norm = 'norm_param { across_spatial: false channel_shared: false scale_filler { type: "constant" value: 2 } }'
    maps[0] = net.add("norm", "Normalize", (maps[0],), norm)
    ssd_head(net, list(zip(maps, SIZES, strict=True)))
    return net.text


def pspnet() -> str:
    """A residual body with dilated convolutions, a pyramid of poolings, each interpolated to the map's size."""
    net = Text()

    def conv_bn(name: str, x: str, outputs: int, options: str = "kernel_size: 3 pad: 1") -> str:
        return net.normalized(net.conv(name, x, outputs, options + " bias_term: false"))

    x = net.relu(conv_bn("conv1", "data", 8, "kernel_size: 3 pad: 1 stride: 2"))
    x = net.add("pool1", "Pooling", (x,), "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }")
    for n, dilation in enumerate((1, 2)):
        y = net.relu(conv_bn(f"reduce{n}", x, 6, "kernel_size: 1"))
        y = net.relu(conv_bn(f"middle{n}", y, 6, f"kernel_size: 3 pad: {dilation} dilation: {dilation}"))
        y = conv_bn(f"increase{n}", y, 16, "kernel_size: 1")
        short = conv_bn(f"proj{n}", x, 16, "kernel_size: 1")
        x = net.relu(net.add(f"sum{n}", "Eltwise", (short, y), "eltwise_param { operation: SUM }"))
    h, w = HEIGHT // 4 + 1, WIDTH // 4 + 1
    levels = [x]
    for size in ((h, w), (7, 9), (4, 6)):
        options = f"pool: AVE kernel_h: {size[0]} kernel_w: {size[1]} stride_h: {size[0]} stride_w: {size[1]}"
        y = net.add(f"pool_{size[0]}", "Pooling", (x,), f"pooling_param {{ {options} }}")
        y = net.relu(conv_bn(f"level_{size[0]}", y, 4, "kernel_size: 1"))
        levels.append(net.add(f"interp_{size[0]}", "Interp", (y,), f"interp_param {{ height: {h} width: {w} }}"))
    x = net.relu(conv_bn("conv5", net.concat("pyramid", levels), 12))
    x = net.add("drop", "Dropout", (x,), "dropout_param { dropout_ratio: 0.1 }", top=x)
    x = net.add("large", "Interp", (net.conv("score", x, 5, "kernel_size: 1"),), "interp_param { zoom_factor: 4 }")
    net.add("out", "Softmax", (x,))
    return net.text


@pytest.mark.parametrize(
    ("make", "blobs"),
    [
        (mobilenet_ssd, ("loc", "flat", "priors")),
        (rfb, ("loc", "flat", "priors")),
        (pspnet, ("pyramid", "score", "large", "out")),
    ],
    ids=["MobileNet-SSD", "RFB", "PSPNet"],
)
def test_the_net_agrees_with_opencv(make, blobs, tmp_path):
    definition, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    definition.write_text(make())
    net = Net(definition, proto.TEST)
    rng = np.random.default_rng(0)
    for name, params in net.params.items():
        kind = net.layer_dict[name].type
        for k, blob in enumerate(params):
            if kind == "BatchNorm":
                blob.data[...] = (rng.normal(0, 0.3, blob.shape), rng.uniform(0.5, 1.5, blob.shape), 1)[k]
            elif kind != "Convolution":
                blob.data[...] += rng.normal(0, 0.2, blob.shape)
            elif k == 1:
                blob.data[...] = rng.normal(0, 0.1, blob.shape)
            elif "loc" in name or "conf" in name:
                blob.data[...] *= 0.2  # else confidences are 1, and their order is one of last digits
    net.save(weights)
    other = cv2.dnn.readNetFromCaffe(str(definition), str(weights))
    image = rng.normal(0, 1, (1, 3, HEIGHT, WIDTH)).astype(np.float32)
    net.blobs["data"].data[...] = image
    net.forward()
    for blob in blobs:
        other.setInput(image, "data")
        ours = net.blobs[blob].data
        np.testing.assert_allclose(other.forward(blob).reshape(ours.shape), ours, atol=1e-4)
        assert ours.std() > 1e-3
    if "priors" in blobs:
        other.setInput(image, "data")
        found, expected = (in_order(rows.reshape(-1, 7)) for rows in (net.blobs["out"].data, other.forward("out")))
        assert len(found) == len(expected) > 20
        np.testing.assert_allclose(found, expected, atol=1e-4)


def in_order(rows: np.ndarray) -> np.ndarray:
    """Rows in an order that does not depend on the last digits."""
    return rows[np.lexsort(np.round(rows, 3).T[::-1])]
