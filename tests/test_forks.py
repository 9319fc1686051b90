"""Nets of Caffe's forks: what is missing is named at once, fields are obeyed or refused."""

from __future__ import annotations

import numpy as np
import pytest

from minicaffe import proto, testing
from minicaffe.errors import LayerError, WeightsError
from minicaffe.layers import checks
from minicaffe.net import Net
from minicaffe.proto import text

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } } }\n'


def net(tmp_path, layers: str, phase: int = proto.TEST) -> Net:
    path = tmp_path / "net.prototxt"
    path.write_text(DATA + layers)
    return Net(path, phase)


def test_all_unknown_types_are_told_with_their_forks_and_how_to_add_one(tmp_path):
    with pytest.raises(LayerError) as caught:
        net(
            tmp_path,
            'layer { name: "a" type: "DataHeatmap" bottom: "data" top: "a" }\n'
            'layer { name: "b" type: "Relu" bottom: "a" top: "a" }\n'
            'layer { name: "c" type: "SimplerNMS" bottom: "a" bottom: "data" top: "c" }\n'
            'layer { name: "d" type: "CPMData" top: "d" }\n',
        )
    told = str(caught.value)
    assert "net.prototxt:2: layer 'a': Unknown layer type: DataHeatmap; it is of a fork of Caffe: caffe-heatmap" in told
    assert "net.prototxt:3: layer 'b': Unknown layer type: Relu; did you mean 'ReLU'?" in told
    assert "net.prototxt:4: layer 'c': Unknown layer type: SimplerNMS; it is of a fork of Caffe: Intel Caffe" in told
    assert "net.prototxt:5: layer 'd': Unknown layer type: CPMData; it is of a fork of Caffe: OpenPose" in told
    assert 'class DataHeatmap(minicaffe.Layer):\n        type = "DataHeatmap"' in told


@pytest.mark.parametrize(
    "layer",
    [
        'type: "Convolution" convolution_param { num_output: 1 kernel_size: 1 engine: MKLDNN conv_algos_override: "1" }',
        'type: "ReLU" relu_param { engine: MKL2017 } forward_type: FLOAT16 backward_math: FLOAT engine: "MKLDNN"',
        'type: "InnerProduct" inner_product_param { num_output: 1 normalize: false } quantization_param { bw_params: 8 }',
        'type: "Pooling" pooling_param { pool: AVE global_pooling: true } cudnn_math_override: 1',
    ],
)
def test_fields_that_change_nothing_are_accepted(tmp_path, layer):
    net(tmp_path, f'layer {{ name: "x" bottom: "data" top: "x" {layer} }}')


def test_fields_of_the_net_that_change_nothing_are_accepted(tmp_path):
    net(tmp_path, "default_forward_type: FLOAT16 default_backward_math: FLOAT global_grad_scale: 1000 richness: 200")


def test_a_field_that_changes_results_is_refused_by_name(tmp_path):
    with pytest.raises(LayerError, match=r"convolution_param\.relu: .*only a fork of Caffe: Intel Caffe .*differ"):
        net(
            tmp_path,
            'layer { name: "x" type: "Convolution" bottom: "data" top: "x"\n'
            "convolution_param { num_output: 1 kernel_size: 1 relu: true } }",
        )


def test_v1_layers_of_forks_are_upgraded():
    layer = text.parse(
        'layers { name: "n" type: ROIPOOLING bottom: "x" bottom: "r" top: "y" roi_pooling_param { pooled_h: 2 } }',
        proto.NetParameter(),
    )
    from minicaffe.proto.upgrade import upgrade_net

    upgraded = upgrade_net(layer)[0].layer[0]
    assert (upgraded.type, upgraded.roi_pooling_param.pooled_h) == ("ROIPooling", 2)


@pytest.mark.parametrize(
    ("kind", "options", "of"),
    [
        ("Data", "data_param { source: 'db' batch_size: 1 } transform_param { center_crop: true }", "happynear"),
        ("ImageData", "image_data_param { source: 'l' batch_size: 1 } transform_param { resize_param {} }", "SSD"),
        ("DenseImageData", "dense_image_data_param { source: 'l' } transform_param { fix_crop: true }", "yjxiong"),
    ],
)
def test_data_layers_refuse_what_would_change_their_images(kind, options, of, tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(f"layer {{ name: 'd' type: '{kind}' top: 'x' top: 'l' {options} }}")
    with pytest.raises(LayerError, match=rf"asks for something that only a fork of Caffe: {of}.* the results differ"):
        Net(path, proto.TEST)


def test_dropout_scales_in_train_or_in_test():
    x = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    options = {"dropout_ratio": 0.75, "scale_train": False}
    train = testing.run("Dropout", [x], seed=3, top_diffs=[x], **options)
    kept = train.tops[0] != 0
    assert 0.2 < kept.mean() < 0.3
    np.testing.assert_array_equal(train.tops[0], np.where(kept, x, 0))
    np.testing.assert_array_equal(train.bottom_diffs[0], np.where(kept, x, 0))
    test = testing.run("Dropout", [x], phase="TEST", top_diffs=[x], **options)
    np.testing.assert_allclose(test.tops[0], x / 4, rtol=1e-6)
    np.testing.assert_allclose(test.bottom_diffs[0], x / 4, rtol=1e-6)
    in_place = testing.run("Dropout", [x], phase="TEST", in_place=True, **options)
    np.testing.assert_allclose(in_place.tops[0], x / 4, rtol=1e-6)


@pytest.mark.parametrize("how", [{"tops": 2}, {"normalize_param": {"normalize_type": "L1"}}])
def test_options_of_the_other_dialect_of_normalize_are_refused_later_too(how):
    rig = testing.Rig("Normalize", [np.ones((2, 3, 4, 4))], **how)
    for _ in range(2):
        with pytest.raises(LayerError, match="give one of them"):
            rig.layer.eps = 1.0
    rig.forward()


@pytest.mark.parametrize("kind", ["Convolution", "ConvolutionDepthwise"])
def test_a_bias_that_a_layer_was_made_without_is_named(kind):
    rig = testing.Rig(kind, [np.ones((1, 3, 4, 4))], kernel_size=3, num_output=3, bias_term=False)
    rig.layer.bias_term = True
    with pytest.raises(LayerError, match=r"bias_term: asks for a bias of shape \(3,\)"):
        rig.forward()


def data_and(layer: str) -> str:
    return f'layer {{ name: "x" bottom: "data" top: "x" {layer} }}'


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        ('type: "Normalize"', "Normalize is taken for SSD's; happynear's divides"),
        (
            'type: "CenterLoss" bottom: "label" center_loss_param { num_output: 2 }',
            "CenterLoss is taken for caffe-face's",
        ),
    ],
)
def test_where_the_text_leaves_open_whose_a_layer_is_it_is_told_once_what_it_is_taken_for(
    tmp_path, caplog, layer, told
):
    checks._warn.cache_clear()
    layers = 'layer { name: "labels" type: "Input" top: "label" input_param { shape { dim: 2 } } }\n' + data_and(layer)
    for _ in range(2):
        net(tmp_path, layers)
    assert [told in record.message for record in caplog.records].count(True) == 1
    assert 'or "happynear" in such layers' in caplog.text
    caplog.clear()
    checks._warn.cache_clear()
    for fork in ("happynear", told.split("'s;")[0].split()[-1].removesuffix("'s")):
        net(tmp_path, layers.replace('name: "x"', f'name: "x" fork: "{fork}"'))
    assert "taken for" not in caplog.text


@pytest.mark.parametrize(
    ("layer", "problem"),
    [
        ('type: "BN" fork: "SSD"', r"layer 'x' \(BN\), fork: must be \"PSPNet\" or \"happynear\"; found 'SSD'"),
        ('type: "ReLU" fork: "SSD"', r"layer 'x' \(ReLU\), fork: is not needed: this type has one meaning"),
        (
            'type: "Normalize" fork: "happynear" norm_param { eps: 1 }',
            r"norm_param: is SSD's dialect .* give one of them",
        ),
    ],
)
def test_a_fork_without_a_dialect_of_that_type_is_refused(tmp_path, layer, problem):
    with pytest.raises(LayerError, match=problem):
        net(tmp_path, data_and(layer))


def test_weights_of_happynears_bn_say_how_to_read_them(tmp_path):
    plain = data_and('type: "BN" bn_param { momentum: 0.9 }')
    net(tmp_path, plain.replace('name: "x"', 'name: "x" fork: "happynear"')).save(tmp_path / "bn.caffemodel")
    with pytest.raises(WeightsError, match=r"as happynear's BN has them; if it is that, say fork: \"happynear\""):
        net(tmp_path, plain).copy_from(tmp_path / "bn.caffemodel")


def test_nearest_interp_says_that_deepdetects_leaves_channels_out(tmp_path, caplog):
    net(tmp_path, data_and('type: "Interp" interp_param { height: 2 width: 2 mode: NEAREST }'))
    assert "DeepDetect's Caffe, on a CPU, resizes the first and leaves 0 in the others" in caplog.text
