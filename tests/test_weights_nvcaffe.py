"""Weights of NVCaffe: half precision in raw bytes, a BatchNorm that scales itself, in its own nets and in Caffe's."""

from __future__ import annotations

import numpy as np
import pytest

import minicaffe
from minicaffe import proto
from minicaffe.errors import WeightsError

CHANNELS = 3
NORM = 'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y" batch_norm_param { eps: 0.5 '
INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } } } '
OWN = INPUT + NORM + "scale_bias: true } }"
OF_CAFFE = INPUT + NORM + '} } layer { name: "s" type: "Scale" bottom: "y" top: "y" scale_param { bias_term: true } }'
RNG = np.random.default_rng(4)
VALUES = [RNG.normal(size=3), RNG.uniform(1, 2, 3), np.ones(1), RNG.uniform(1, 2, 3), RNG.normal(size=3)]
VALUES = [values.astype(np.float16) for values in VALUES]


@pytest.fixture
def make(tmp_path):
    def net(definition):
        path = tmp_path / "net.prototxt"
        path.write_text(definition)
        return minicaffe.Net(str(path), minicaffe.TEST)

    return net


@pytest.fixture(params=[(CHANNELS,), (1, CHANNELS, 1, 1)], ids=["vectors", "4-D"])
def weights(tmp_path, request):
    """A .caffemodel as NVCaffe writes it."""
    layer = proto.LayerParameter(name="bn", type="BatchNorm")
    for values in VALUES:
        shape = proto.BlobShape(dim=request.param if values.size > 1 else [1])
        layer.blobs.add(shape=shape, raw_data_type=proto.BlobProto.FLOAT16, raw_data=values.tobytes())
    path = tmp_path / "nv.caffemodel"
    path.write_bytes(proto.NetParameter(layer=[layer]).SerializeToString())
    return str(path)


def expected(x):
    mean, variance, _, scale, bias = (v.astype(np.float32).reshape(-1, 1, 1) for v in VALUES)
    return (x - mean) / np.sqrt(variance + np.float32(0.5)) * scale + bias


@pytest.mark.parametrize("definition", [OWN, OF_CAFFE], ids=["its own net", "Caffe's"])
def test_batch_norm_of_five_blobs(make, weights, definition):
    net = make(definition)
    net.copy_from(weights)
    x = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    net.blobs["x"].data[...] = x
    np.testing.assert_allclose(net.forward()["y"], expected(x), rtol=1e-5, atol=1e-6)


def test_written_and_read_back(make, weights, tmp_path):
    net, other = make(OWN), make(OWN)
    net.copy_from(weights)
    for name in ("w.caffemodel", "w.caffemodel.h5"):
        (net.save_hdf5 if name.endswith("h5") else net.save)(str(tmp_path / name))
        other.copy_from(str(tmp_path / name))
        for mine, theirs, values in zip(net.params["bn"], other.params["bn"], VALUES, strict=True):
            np.testing.assert_array_equal(mine.data, values)
            np.testing.assert_array_equal(theirs.data, mine.data)
            assert theirs.data.shape == values.shape


def test_net_that_has_no_place_for_the_scale_refuses_it(make, weights):
    net = make(INPUT + NORM + "} }")
    with pytest.raises(WeightsError, match="Incompatible number of blobs for layer bn: 5 in the file, 3 in the net"):
        net.copy_from(weights)


def test_it_learns_its_scale_and_bias(tmp_path):
    """From 1 and 0, as a Scale behind a BatchNorm does, step for step."""
    results = []
    for definition in (OWN, OF_CAFFE):
        (tmp_path / "net.prototxt").write_text(
            definition.replace('type: "Input"', 'type: "DummyData"').replace(
                "input_param { shape", "dummy_data_param { data_filler { type: 'gaussian' } shape"
            )
            + 'layer { name: "p" type: "Power" bottom: "y" top: "z" power_param { power: 2 } loss_weight: 1 '
            '} layer { name: "r" type: "Reduction" bottom: "z" top: "l" loss_weight: 0.1 }'.replace(
                "loss_weight: 1 ", ""
            )
        )
        (tmp_path / "solver.prototxt").write_text(
            f'net: "{tmp_path}/net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 3 random_seed: 3 '
            f'snapshot_prefix: "{tmp_path}/s"'
        )
        solver = minicaffe.get_solver(str(tmp_path / "solver.prototxt"))
        solver.step(3)
        scale, bias = (solver.net.params["bn"][3:] if definition == OWN else solver.net.params["s"])[:2]
        results.append((scale.data.copy(), bias.data.copy(), solver.net.params["bn"][0].data.copy()))
    assert np.abs(results[0][0] - 1).max() > 1e-3
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
