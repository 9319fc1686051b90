"""Nets written in Python: the definitions that Caffe makes of the same scripts, and what is said of wrong ones."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import minicaffe as caffe
from minicaffe import layers as L
from minicaffe import params as P
from minicaffe import proto
from minicaffe.errors import ArgumentError, MinicaffeError, UnknownNameError
from minicaffe.net_spec import Function, Top, assign_proto, param_name_dict
from minicaffe.proto import text


@pytest.mark.parametrize("name", ["lenet", "options", "python_layer", "to_proto_fn"])
def test_scripts_give_the_definitions_of_caffe(golden, name):
    names = {"caffe": caffe, "L": L, "P": P}
    exec((golden / "pyapi" / f"netspec_{name}.py.txt").read_text(), names)
    expected = text.read_text(golden / "pyapi" / f"netspec_{name}.out.prototxt", proto.NetParameter)
    assert names["out"] == expected


def siamese(n):
    """A small net whose two halves share params, with a layer in place, one of two tops and one of none."""
    n.pair, n.same = L.DummyData(shape=[dict(dim=[4, 2, 5, 5]), dict(dim=4)], ntop=2)
    n.a, n.b = L.Slice(n.pair, slice_point=1, ntop=2)
    for side in ("a", "b"):
        n[f"feat_{side}"] = L.InnerProduct(
            n[side], num_output=3, weight_filler=dict(type="xavier"), param=[dict(name="w"), dict(name="b", lr_mult=2)]
        )
        n[f"relu_{side}"] = L.ReLU(n[f"feat_{side}"], in_place=True)
    n.loss = L.ContrastiveLoss(n.relu_a, n.relu_b, n.same, margin=2.0)
    n.quiet = L.Silence(n.same, ntop=0)
    return n


def test_a_net_written_in_python_runs(tmp_path):
    definition = siamese(caffe.NetSpec()).to_proto()
    assert [layer.name for layer in definition.layer] == [
        "pair", "a", "feat_a", "relu_a", "feat_b", "relu_b", "loss", "quiet",
    ]  # fmt: skip
    assert list(definition.layer[3].top) == list(definition.layer[3].bottom) == ["feat_a"]
    assert list(definition.layer[6].bottom) == ["feat_a", "feat_b", "same"]
    assert definition.layer[6].contrastive_loss_param.margin == 2 and not definition.layer[-1].top
    (tmp_path / "net.prototxt").write_text(str(definition))
    net = caffe.Net(tmp_path / "net.prototxt", caffe.TRAIN)
    assert net.params["feat_a"][0].shape == (3, 25) and "loss" in net.forward()
    assert caffe.Net(definition, caffe.TRAIN).outputs == net.outputs


def test_names_that_nobody_gave_are_counted_by_type():
    data = L.Input(shape=dict(dim=[1, 4]))
    hidden = L.ReLU(L.InnerProduct(data, num_output=4), in_place=True)
    a, b = L.Slice(hidden, ntop=2)
    made = caffe.to_proto(L.Eltwise(a, L.InnerProduct(b, num_output=2)), L.Silence(a, ntop=0))
    assert [(layer.name, list(layer.top)) for layer in made.layer] == [
        ("Input1", ["Input1"]),
        ("InnerProduct1", ["InnerProduct1"]),
        ("ReLU1", ["InnerProduct1"]),
        ("Slice1", ["Slice1", "Slice2"]),
        ("InnerProduct2", ["InnerProduct2"]),
        ("Eltwise1", ["Eltwise1"]),
        ("Silence1", []),
    ]
    assert a.to_proto() == b.to_proto() == a.fn.to_proto() and len(a.to_proto().layer) == 4


def test_a_net_deeper_than_pythons_stack_is_written():
    top = L.Input(shape=dict(dim=1))
    for _ in range(3000):
        top = L.Power(top, shift=1)
    assert [layer.name for layer in top.to_proto().layer][-1] == "Power3000"


def test_the_last_name_of_a_top_counts_and_names_can_be_looked_up():
    n = caffe.NetSpec()
    n.first = L.Input(shape=dict(dim=1))
    n.second = n.first
    assert [layer.name for layer in n.to_proto().layer] == ["second"]
    n["with/slash"] = L.ReLU(n.second)
    assert n["with/slash"] is n.tops["with/slash"] and n.first is n["first"] and "second" in dir(n)
    assert "first" in n and "third" not in n and n.keys() == ["first", "second", "with/slash"]
    n.update("with/slash", dict(negative_slope=0.5))
    assert n.vals()[-1].to_proto().layer[-1].relu_param.negative_slope == 0.5
    del n.first, n["second"]
    assert list(n.tops) == ["with/slash"] and [layer.name for layer in n.to_proto().layer][1] == "with/slash"
    assert copy.deepcopy(n).to_proto() == n.to_proto()
    assert not hasattr(n, "third")
    for error in (KeyError, AttributeError, MinicaffeError):
        with pytest.raises(error, match="no top 'third'; it has: with/slash"):
            n.third  # noqa: B018


def test_every_type_has_a_factory_that_goes_with_the_package(monkeypatch):
    for name in caffe.layer_type_list():
        assert isinstance(getattr(L, name)(ntop=0), Function) and name in dir(L)
    assert L is caffe.layers and L.convolution.__name__ == "minicaffe.layers.convolution"
    monkeypatch.setitem(caffe.layers.base.registry, "lower", object)
    assert isinstance(L.lower(), Top) and isinstance(caffe.net_spec.layers.anything(), Top)
    assert L.OfSomeFork().to_proto().layer[0].type == "OfSomeFork"
    for name in ("nope", "__wrapped__"):
        with pytest.raises(AttributeError, match=name):
            getattr(L, name)


def test_values_of_enums():
    assert P.Pooling.AVE == proto.PoolingParameter.AVE == 1 and P.Data.LMDB == 1 and P.Eltwise.SUM == 1
    assert P is caffe.net_spec.params
    with pytest.raises(AttributeError, match="no options of a type 'Nope'"):
        P.Nope.MAX  # noqa: B018
    with pytest.raises(AttributeError, match="PoolingParameter has no value 'NOPE'; it has: MAX, AVE"):
        P.Pooling.NOPE  # noqa: B018
    assert P.Pooling.PoolMethod.Value("AVE") == 1 and "MAX" in dir(P.Pooling) and copy.copy(P.Pooling).MAX == 0


def test_only_tops_go_into_layers():
    pair = L.DummyData(ntop=2)
    with pytest.raises(TypeError, match=r"^Silence input 1 is not a Top \(type is <class 'tuple'>\)$"):
        L.Silence(pair[0], pair, ntop=0)
    for wrong in ((), (3,), (pair,)):
        with pytest.raises(TypeError, match="to_proto takes tops of layers; found"):
            caffe.to_proto(*wrong)
    for options in (dict(ntop=-1), dict(ntop="2")):
        with pytest.raises(ArgumentError, match="ReLU: ntop is how many tops it makes"):
            L.ReLU(pair[0], **options)
    with pytest.raises(ArgumentError, match="in_place needs an input"):
        L.ReLU(in_place=True)
    with pytest.raises(TypeError, match=r"NetSpec: data must be a top of a layer.*n\.data, n\.label ="):
        caffe.NetSpec().data = pair


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(kernal_size=3), r"layer 'Convolution1' \(Convolution\) has no option 'kernal_size'; did you mean kernel_"),
        (dict(pool=1), "no option 'pool'"),
        (dict(weight_filler=dict(typ="xavier")), r"convolution_param, weight_filler has no field 'typ'; did you mean type"),
        (dict(param=[dict(lr=1)]), r"\(Convolution\), param has no field 'lr'"),
        (dict(convolution_param=dict(nope=1)), "convolution_param has no field 'nope'"),
    ],
)  # fmt: skip
def test_unknown_options_are_named(options, message):
    with pytest.raises(AttributeError, match=message) as caught:
        L.Convolution(**options).to_proto()
    assert isinstance(caught.value, UnknownNameError)


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (dict(num_output="many"), "convolution_param, num_output: cannot be 'many'"),
        (dict(num_output=-1), "num_output: cannot be -1"),
        (dict(kernel_size=[3, "x"]), "kernel_size: cannot be"),
        (dict(weight_filler=3), "weight_filler: cannot be 3"),
        (dict(num_output=dict(dim=1)), "num_output: cannot be {'dim': 1}"),
        (dict(param=3), r"\(Convolution\), param: cannot be 3"),
    ],
)
def test_values_that_do_not_fit_are_named(options, place):
    with pytest.raises(ValueError, match=place) as caught:
        L.Convolution(**options).to_proto()
    assert isinstance(caught.value, ArgumentError)


def test_values_of_any_sequence_and_of_numpy_are_taken():
    layer = L.Convolution(
        kernel_size=(3, 2), stride=np.array([2, 1]), num_output=np.int64(4), pad=[], loss_weight=np.float32(2),
        weight_filler=proto.FillerParameter(type="xavier"), include=dict(phase=caffe.TEST),
    ).to_proto().layer[0]  # fmt: skip
    options = layer.convolution_param
    assert (list(options.kernel_size), list(options.stride), options.num_output) == ([3, 2], [2, 1], 4)
    assert options.weight_filler.type == "xavier" and list(layer.loss_weight) == [2] and not options.pad
    assert layer.include[0].phase == caffe.TEST


def test_an_empty_dictionary_makes_an_empty_message():
    assert L.ReLU(relu_param=dict()).to_proto().layer[0].HasField("relu_param")
    message = proto.NetParameter()
    assign_proto(message, "name", "x")
    assert message.name == "x"


def test_the_options_of_types():
    names = param_name_dict()
    assert names["Convolution"] == "convolution" and names["InnerProduct"] == "inner_product"
    assert names["LRN"] == "lrn" and "Deconvolution" not in names
