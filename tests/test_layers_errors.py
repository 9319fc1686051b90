"""Wrong parameters and shapes: an error that names the layer, the field, what was found and what is allowed."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from minicaffe import proto
from minicaffe.errors import LayerError, MinicaffeError, ShapeError
from minicaffe.net import Net


def build(kind, options="", shapes=((2, 3, 4, 5),), tops=1, more=""):
    """A net of inputs of these shapes and one layer that reads them."""
    text = ""
    for i, shape in enumerate(shapes):
        dims = " ".join(f"dim: {size}" for size in shape)
        text += f'layer {{ name: "in{i}" type: "Input" top: "x{i}" input_param {{ shape {{ {dims} }} }} }}\n'
    bottoms = " ".join(f'bottom: "x{i}"' for i in range(len(shapes)))
    names = " ".join(f'top: "y{i}"' for i in range(tops))
    text += f'layer {{ name: "test" type: "{kind}" {bottoms} {names} {options} {more} }}'
    return Net(text_format.Parse(text, proto.NetParameter()))


PAIR = ((2, 3), (2,))
CASES = [
    # type, options, shapes, tops, what the message says
    (
        "ArgMax",
        "argmax_param { top_k: 61 }",
        ((2, 3, 4, 5),),
        1,
        r"argmax_param\.top_k: must lie in 1 \.\. 60.*found 61",
    ),
    ("ArgMax", "argmax_param { top_k: 4 axis: 1 }", ((2, 3),), 1, r"argmax_param\.top_k: must lie in 1 \.\. 3"),
    ("ArgMax", "argmax_param { axis: 2 }", ((2, 3),), 1, r"argmax_param\.axis: axis 2 out of range for 2-D"),
    ("BatchNorm", "", ((4,),), 1, "at least 2 axes; found 4 "),
    ("BatchNorm", "param { lr_mult: 1 }", ((2, 3),), 1, "set lr_mult: 0 in each"),
    ("BatchReindex", "", ((2, 3), (2, 2)), 1, "indices must have 1 axis; found 2 2"),
    (
        "Bias",
        "bias_param { axis: 1 num_axes: 4 }",
        ((2, 3, 4, 5),),
        1,
        r"bias_param\.num_axes: 4 axes from axis 1 on go beyond",
    ),
    ("Bias", "bias_param { num_axes: -2 }", ((2, 3),), 1, r"bias_param\.num_axes: must be -1 or more; found -2"),
    (
        "Scale",
        "",
        ((2, 3, 4), (4,)),
        1,
        r"scale_param\.axis: the input's axes from 1 on must have the sizes \[4\]; found 2 3 4",
    ),
    ("Scale", "scale_param { axis: 0 }", ((2, 3), (2, 3, 1)), 1, r"must have the sizes \[2, 3, 1\]"),
    ("Clip", "clip_param { min: 1 }", ((2,),), 1, r"clip_param\.max: must be given"),
    (
        "Crop",
        "crop_param { offset: 1 offset: 2 offset: 3 }",
        ((2, 3, 4, 5),) * 2,
        1,
        r"crop_param\.offset.*2 cropped axes; found \[1, 2, 3\]",
    ),
    ("Crop", "crop_param { offset: 3 }", ((2, 3, 4, 5), (1, 1, 2, 2)), 1, "goes beyond the input 2 3 4 5"),
    ("Crop", "", ((2, 3, 4, 5), (4, 5)), 1, "as many axes as the input; found 4 5"),
    (
        "Deconvolution",
        "convolution_param { kernel_size: 2 num_output: 3 group: 2 }",
        ((2, 4, 5, 5),),
        1,
        r"group: must divide the num_output \(3\); found 2",
    ),
    (
        "Deconvolution",
        "convolution_param { kernel_size: 1 num_output: 3 pad: 9 }",
        ((2, 4, 5, 5),),
        1,
        r"pad: \[9, 9\] leaves nothing",
    ),
    (
        "Im2col",
        "convolution_param { kernel_size: 2 axis: 1 }",
        ((2, 4),),
        1,
        r"convolution_param\.axis: needs an axis after it",
    ),
    (
        "Eltwise",
        "eltwise_param { coeff: 1 }",
        ((2, 3), (2, 3)),
        1,
        r"eltwise_param\.coeff: must be given for each of the 2 bottoms",
    ),
    (
        "Eltwise",
        "eltwise_param { operation: PROD coeff: 1 coeff: 1 }",
        ((2, 3), (2, 3)),
        1,
        "only SUM takes coefficients",
    ),
    ("Eltwise", "", ((2, 3), (3, 2)), 1, "must have the same shape; found 2 3 .*3 2"),
    ("Eltwise", "", ((2, 3),), 1, r"takes at least 2 bottom blob\(s\) as input; found 1"),
    ("Embed", "embed_param { input_dim: 3 }", ((2,),), 1, r"embed_param\.num_output: must be positive; found 0"),
    ("Embed", "embed_param { num_output: 3 }", ((2,),), 1, r"embed_param\.input_dim: must be positive; found 0"),
    ("Exp", "exp_param { base: 0 }", ((2,),), 1, r"exp_param\.base: must be positive, or -1 for e; found 0"),
    ("Log", "log_param { base: 1 }", ((2,),), 1, r"log_param\.base: must not be 1"),
    ("Filter", "", ((4, 3), (4, 2)), 1, r"the selector, \(N, 1, …\); found 4 3 .*4 2"),
    ("Filter", "", ((4, 3), (5,)), 1, r"all bottoms must be \(N, …\)"),
    ("Filter", "", ((4, 3), (4, 3), (4,)), 1, "3 bottoms need 2 tops; found 1"),
    ("HingeLoss", "", ((4, 3), (4, 2)), 1, r"need 4 integer labels in 0 \.\. 2; found 4 2"),
    ("InfogainLoss", "", PAIR, 1, r"infogain_loss_param\.source: give the matrix H"),
    ("InfogainLoss", "", (*PAIR, (2, 2)), 1, r"H must hold 3 x 3 values; found 2 2"),
    (
        "InfogainLoss",
        "loss_param { normalize: true }",
        (*PAIR, (3, 3)),
        1,
        "loss_param: is deprecated; use normalization",
    ),
    ("InfogainLoss", 'infogain_loss_param { source: "missing.binaryproto" }', PAIR, 1, "missing.binaryproto"),
    ("LRN", "lrn_param { local_size: 4 }", ((2, 3, 4, 5),), 1, r"lrn_param\.local_size: must be odd; found 4"),
    ("LRN", "", ((2, 3),), 1, r"must have 4 axes \(N, C, H, W\); found 2 3"),
    (
        "LSTM",
        "recurrent_param { num_output: 3 }",
        ((4, 2, 5), (2, 4)),
        1,
        r"cont must be \(T, N\), here \[4, 2\]; found 2 4",
    ),
    ("LSTM", "", ((4, 2, 5), (4, 2)), 1, r"recurrent_param\.num_output: must be positive"),
    ("RNN", "recurrent_param { num_output: 3 }", ((4, 2), (4, 2)), 1, r"the input must be \(T, N, K…\); found 4 2"),
    (
        "RNN",
        "recurrent_param { num_output: 3 expose_hidden: true }",
        ((4, 2, 5), (4, 2), (1, 2, 2)),
        2,
        r"must have the shape \[1, 2, 3\]; found 1 2 2",
    ),
    ("RNN", "recurrent_param { num_output: 3 expose_hidden: true }", ((4, 2, 5), (4, 2)), 2, "at least 3 bottom"),
    (
        "LSTM",
        "recurrent_param { num_output: 3 }",
        ((4, 2, 5), (4, 2), (3, 7)),
        1,
        r"x_static must be \(2, 7\); found 3 7",
    ),
    ("LSTMUnit", "", ((1, 2, 3), (1, 2, 9), (1, 2)), 2, r"must be \(1, N, D\), \(1, N, 4D\) and \(1, N\); found 1 2 3"),
    ("MultinomialLogisticLoss", "", ((4, 3), (3,)), 1, "same first dimension"),
    ("MVN", "", ((1, 1, 1, 1, 1),), 1, "at most 4 axes; found 1 1 1 1 1"),
    ("PReLU", "", ((4,),), 1, "at least 2 axes; found 4"),
    ("SPP", "", ((2, 3, 4, 5),), 1, r"spp_param\.pyramid_height: must be positive; found 0"),
    (
        "SPP",
        "spp_param { pyramid_height: 2 }",
        ((2, 3, 1, 4),),
        1,
        r"layer 'test \(2 x 2 bins\)' \(Pooling\), pooling_param\.pad",
    ),
    ("SigmoidCrossEntropyLoss", "", ((4, 3), (4, 2)), 1, "same count; found 4 3 .*4 2"),
    ("Tile", "", ((2, 3),), 1, r"tile_param\.tiles: must be given, and positive; found 0"),
    ("Reduction", "reduction_param { axis: 2 }", ((2, 3),), 1, r"reduction_param\.axis: axis 2 out of range"),
]


@pytest.mark.parametrize(("kind", "options", "shapes", "tops", "problem"), CASES)
def test_what_does_not_fit_is_named(kind, options, shapes, tops, problem):
    with pytest.raises(MinicaffeError, match=problem) as caught:
        build(kind, options, shapes, tops)
    assert "test" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options", "shapes", "bad", "problem"),
    [
        (
            "Embed",
            "embed_param { input_dim: 3 num_output: 2 }",
            ((2,),),
            [0, 3],
            r"value number 1 .* not an integer in 0 \.\. 2; check input_dim",
        ),
        ("BatchReindex", "", ((2, 3), (2,)), [0, -1], r"value number 1 .* 0 \.\. 1, the items of the first bottom"),
        ("HingeLoss", "", PAIR, [3, 0], r"value number 0 .* 0 \.\. 2 among the labels"),
        ("MultinomialLogisticLoss", "", PAIR, [0, 7], r"value number 1 .* 0 \.\. 2 among the labels"),
        (
            "InfogainLoss",
            "loss_param { ignore_label: 9 }",
            (*PAIR, (3, 3)),
            [9, 4],
            r"value number 1 .* \(or 9, which is ignored\)",
        ),
    ],
)
def test_indices_out_of_range_are_reported_in_forward(kind, options, shapes, bad, problem):
    net = build(kind, options, shapes)
    net.blobs[f"x{min(len(shapes) - 1, 1)}"].data[...] = bad
    with pytest.raises(LayerError, match=problem):
        net.forward()


@pytest.mark.parametrize(
    ("kind", "options", "shapes", "grown", "problem"),
    [
        ("BatchNorm", "", ((2, 3),), (2, 4), "keep 3 channels; found 2 4"),
        ("PReLU", "", ((2, 3),), (2, 4), "keep 3 channels; found 2 4"),
        (
            "LSTM",
            "recurrent_param { num_output: 3 }",
            ((4, 2, 5), (4, 2)),
            (3, 2, 5),
            "keep 4 steps of 5 values; found 3 2 5",
        ),
        (
            "Deconvolution",
            "convolution_param { kernel_size: 2 num_output: 3 }",
            ((2, 4, 5, 5),),
            (2, 5, 5, 5),
            "4 channels; found 2 5 5 5",
        ),
    ],
)
def test_what_may_not_change_later(kind, options, shapes, grown, problem):
    net = build(kind, options, shapes)
    net.blobs["x0"].reshape(*grown)
    with pytest.raises(ShapeError, match=problem):
        net.forward()


@pytest.mark.parametrize(
    ("kind", "options", "shapes"),
    [
        ("ArgMax", "", ((2, 3),)),
        ("Threshold", "", ((2, 3),)),
        ("Embed", "embed_param { input_dim: 3 num_output: 2 }", ((2,),)),
        ("Filter", "", ((4, 3), (4,))),
        ("BatchReindex", "", ((2, 3), (2,))),
    ],
)
def test_a_gradient_that_does_not_exist(kind, options, shapes):
    net = build(
        kind, options, shapes, more="loss_weight: 1 propagate_down: true" + " propagate_down: true" * (len(shapes) - 1)
    )
    net.steps[-1].need_backward = True
    net.steps[-1].propagate_down = [True] * len(shapes)
    with pytest.raises(LayerError, match="cannot backpropagate to bottom"):
        net.backward_layer(len(net.steps) - 1)
