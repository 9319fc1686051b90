"""Every attribute of every layer, set to what makes sense and to what does not, after the layer has run.

Either a MinicaffeError says what is wrong, and all is as it was; or the next passes give what a net gives whose
definition says so.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from layer_cases import CASES
from layer_cases.case import Case

import minicaffe
from minicaffe import backend, proto, testing
from minicaffe.errors import LayerError, MinicaffeError
from minicaffe.layers import Layer
from minicaffe.layers.neuron import Neuron, ReLU
from minicaffe.net import Net
from minicaffe.proto import text

FIRST_CASE = {case.type: case for case in reversed(CASES)}
CHOSEN = [
    case
    for case in CASES
    if case.type != "Python" and (case is FIRST_CASE[case.type] or case.type in ("Pooling", "Eltwise"))
]
NUMBERS = [0, 1, 2, 3, -1, 2**31 - 1, 2**31, 10**12, 10**400, 0.5, 1.5, -2.5, 1e300, math.inf, -math.inf, math.nan]
OTHERS = [True, "a", b"\xff", "\ud800", "MAX", "SUM", None, [], [1], [2, 3], (1.5, "a"), [None], {}, object(), 1j,
          np.float32(0.5), np.int64(2), np.array(2), np.array([1.0, 2.0]), proto.FillerParameter()]  # fmt: skip


def outcome(rig: testing.Rig, case: Case, params: list) -> testing.Result | str:
    """What three passes give, as whatever is captured is replayed in the last; of an error the kind."""
    try:
        rig.set_params(params[: len(rig.layer.blobs)])
        rig.feed(case.draw())
        for seed in (1, 2, 3):
            backend.random.seed(seed)
            rig.forward()
            if "gradient" not in case.why_not:
                rig.backward()
        return rig.result()
    except MinicaffeError as error:
        return type(error).__name__


def agree(found: testing.Result | str, expected: testing.Result | str) -> bool:
    if isinstance(found, str) or isinstance(expected, str):
        return isinstance(found, str) and isinstance(expected, str)
    pairs = [
        (x, y)
        for part in ("tops", "bottom_diffs", "param_diffs", "params")
        for x, y in zip(getattr(found, part), getattr(expected, part), strict=False)
    ]
    return all(
        x is y is None or (x is not None and y is not None and np.array_equal(x, y, equal_nan=True)) for x, y in pairs
    )


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Options that are tried may be names of files to write."""
    monkeypatch.chdir(tmp_path)


def begun(case: Case, tmp_path) -> tuple[testing.Rig, list]:
    """A layer that has run, and its params."""
    rig = testing.Rig(case.type, case.draw(), seed=1, **case.how(tmp_path))
    rig.fill_zero_params(np.random.default_rng(3))
    params = [blob.data.copy() for blob in rig.layer.blobs]
    outcome(rig, case, params)
    return rig, params


def defined_anew(rig: testing.Rig, case: Case, params: list) -> testing.Result | str:
    """What a net gives whose definition is that of the layer as it is now."""
    definition = text.format(proto.NetParameter(layer=[rig.layer.layer_param]))
    try:
        fresh = testing.Rig(definition, case.draw(), phase=rig.layer.phase)
    except MinicaffeError as error:
        return type(error).__name__
    return outcome(fresh, case, params)


def given(layer) -> dict[str, str]:
    """The options that the definition gives."""
    messages = {id(message): message for _, message in layer._options.values()}.values()
    return {field.name: repr(value) for message in messages for field, value in message.ListFields() if repr(value)}


def tried(case: Case, name: str) -> list:
    """Every second value, to save time; which, differs from option to option."""
    return [*NUMBERS, *OTHERS][zlib.crc32(f"{case.name} {name}".encode()) % 2 :: 2]


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_options(case, tmp_path):
    rig, params = begun(case, tmp_path)
    refused = accepted = 0
    for name in sorted(rig.layer._options):
        for value in tried(case, name):
            before = given(rig.layer)
            attribute, present = getattr(rig.layer, name), name in given(rig.layer)
            try:
                setattr(rig.layer, name, value)
            except MinicaffeError as error:
                refused += 1
                assert f"layer '{rig.layer.name}'" in str(error)
                assert given(rig.layer) == before and repr(getattr(rig.layer, name)) == repr(attribute)
                continue
            accepted += 1
            if rig.layer.fixed is None and (name != "phase" or rig.layer.phase_is_fixed):  # it was so before
                assert getattr(rig.layer, name) == attribute
                continue
            found, expected = outcome(rig, case, params), defined_anew(rig, case, params)
            assert agree(found, expected), (name, value, found, expected)
            setattr(rig.layer, name, attribute if present else None)
    assert refused and (accepted or rig.layer.fixed is None)


BUILT_IN = [case for case in FIRST_CASE.values() if case.type != "Python"]


@pytest.mark.parametrize("case", BUILT_IN, ids=lambda case: case.name)
def test_what_is_no_option(case, tmp_path):
    """A layer's own findings, what the engine keeps in it, and methods."""
    rig, params = begun(case, tmp_path)
    state = rig.net.state()
    expected = outcome(rig, case, params)
    layer = rig.layer
    names = [name for name in dir(layer) if not name.startswith("_") and name not in layer._options]
    assert {"blobs", "name", "forward", "loss_weights"} < {*names}
    for name in (*names, "anything"):
        before = None if name == "coefficients" else getattr(layer, name, None)
        for value in ("a", None, 0, -1, math.nan, [math.nan], object(), {}):
            try:
                setattr(layer, name, value)
            except MinicaffeError as error:
                assert f"layer '{layer.name}'" in str(error) or "learnable blobs" in str(error)
            else:
                assert name in ("coefficients", "loss_weights", "param_propagate_down") and value in (None, [math.nan])
                setattr(layer, name, before)
        if name in vars(layer):
            with pytest.raises(LayerError, match=f"its attribute '{name}' cannot be deleted"):
                delattr(layer, name)
    rig.net.restore(state)
    assert agree(outcome(rig, case, params), expected)


IN = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }\n'


def net_with(layer: str, dtype=np.float32) -> Net:
    return Net(text.parse(IN + layer, proto.NetParameter()), proto.TRAIN, dtype=dtype)


@pytest.mark.parametrize("cls, type_", [(ReLU, "ReLU"), (Neuron, "ReLU"), (Neuron, "TanH")])
def test_a_function_put_into_a_class_takes_effect_in_captured_passes(cls, type_, monkeypatch):
    net = net_with(f'layer {{ name: "y" type: "{type_}" bottom: "x" top: "y" }}')
    net.blobs["x"].data[...] = 1.0
    for _ in range(4):
        usual = net.forward()["y"].copy()

    def sevens(self, bottom, top):
        top[0].data[...] = 7.0

    with monkeypatch.context() as patch:
        patch.setattr(cls, "forward", sevens)
        for _ in range(4):
            net.blobs["y"].data[...] = 0
            assert (net.forward()["y"] == 7.0).all()
    for _ in range(4):
        net.blobs["y"].data[...] = 0
        np.testing.assert_array_equal(net.forward()["y"], usual)
    replays = net_with(f'layer {{ name: "y" type: "{type_}" bottom: "x" top: "y" }}')
    assert not replays.layers[1].patched


def test_layers_that_run_as_one_notice_a_function_put_into_the_class_of_one(monkeypatch):
    net = net_with(
        'layer { name: "z" type: "Power" bottom: "x" top: "z" }'
        'layer { name: "s" type: "Eltwise" bottom: "x" bottom: "z" top: "s" }'
        'layer { name: "r" type: "ReLU" bottom: "s" top: "s" }'
    )
    net.blobs["x"].data[...] = -1.0
    for _ in range(3):
        assert (net.forward()["s"] == 0).all()
    monkeypatch.setattr(ReLU, "value", staticmethod(lambda x, a: x))
    for _ in range(3):
        assert (net.forward()["s"] == -2).all()


class Tripled(minicaffe.Layer):
    """A class whose constructor takes what pycaffe's does."""

    type = "AttributesTripled"

    def __init__(self, layer_param):
        super().__init__(layer_param)
        self.factor = 3

    def reshape(self, bottom, top):
        top[0].reshape_like(bottom[0])

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data * self.factor


class Quadrupled(Tripled):
    """One that takes what the engine's does, too."""

    type = "AttributesQuadrupled"

    def __init__(self, layer_param, dtype=None):
        super().__init__(layer_param)
        assert self.dtype == dtype
        self.factor = 4


class Silent(Tripled):
    type = "AttributesSilent"

    def __init__(self, layer_param):
        self.factor = 5


class Odd(Tripled):
    type = "AttributesOdd"

    def __init__(self, one, two, three):
        self.factor = 6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cls, factor", [(Tripled, 3), (Quadrupled, 4)])
def test_a_registered_class_may_have_a_constructor_of_its_own(cls, factor, dtype):
    net = net_with(f'layer {{ name: "y" type: "{cls.type}" bottom: "x" top: "y" }}', dtype)
    net.blobs["x"].data[...] = 1.5
    y = net.forward()["y"]
    assert y.dtype == dtype and (y == 1.5 * factor).all() and net.layers[1].dtype == dtype
    net.layers[1].factor = 10
    assert (net.forward()["y"] == 15).all()


@pytest.mark.parametrize(
    "cls, problem",
    [
        (Silent, r"must call super\(\).__init__\(layer_param\)"),
        (Odd, r"must be made from a LayerParameter; found __init__"),
    ],
)
def test_a_constructor_that_makes_no_layer_is_refused(cls, problem):
    with pytest.raises(LayerError, match=rf"layer 'y' \({cls.type}\): .*{problem}"):
        net_with(f'layer {{ name: "y" type: "{cls.type}" bottom: "x" top: "y" }}')


class Mixin:
    def forward(self, bottom, top):
        top[0].data[...] = 8

    def reshape(self, bottom, top):
        top[0].reshape_like(bottom[0])


class Plain(minicaffe.Layer):
    def forward(self, bottom, top):
        top[0].data[...] = 9


def test_a_registered_class_keeps_the_order_of_its_bases():
    class First(Mixin, minicaffe.Layer):
        type = "AttributesFirst"

    class Last(minicaffe.Layer, Mixin):
        type = "AttributesLast"

    class Through(Plain, Mixin):
        type = "AttributesThrough"

    for cls, order in (
        (First, [First, Mixin, Layer]),
        (Last, [Last, Layer, Mixin]),
        (Through, [Through, Plain, Layer, Mixin]),
    ):
        found = [base for base in cls.__mro__ if base in order]
        assert found == order
    net = net_with('layer { name: "y" type: "AttributesFirst" bottom: "x" top: "y" }')
    assert (net.forward()["y"] == 8).all()


def test_methods_of_one_layer_are_replaced_and_taken_back():
    net = net_with('layer { name: "y" type: "ReLU" bottom: "x" top: "y" }')
    net.blobs["x"].data[...] = 2.0
    for _ in range(3):
        net.forward()
    net.layers[1].forward = lambda bottom, top: top[0].data.fill(7)
    assert (net.forward()["y"] == 7).all() and (net.forward()["y"] == 7).all()
    del net.layers[1].forward
    assert (net.forward()["y"] == 2).all()
    net.layers[1].negative_slope = 0.5
    net.blobs["x"].data[...] = -2.0
    assert (net.forward()["y"] == -1).all()
    del net.layers[1].negative_slope
    assert (net.forward()["y"] == 0).all() and net.layers[1].negative_slope == 0


def test_a_phase_set_later_is_that_of_the_layer():
    net = net_with(
        'layer { name: "n" type: "BatchNorm" bottom: "x" top: "n" } layer { name: "d" type: "Dropout" bottom: "n" top: "d" }'
    )
    net.blobs["x"].data[...] = np.arange(6).reshape(2, 3)
    for _ in range(3):
        net.forward()
    for layer in net.layers:
        layer.phase = proto.TEST
    assert net.layer_dict["n"].phase == proto.TEST
    expected = Net(net.to_proto(), proto.TEST)
    for layer, blobs in net.params.items():
        for mine, theirs in zip(blobs, expected.params[layer], strict=True):
            theirs.data[...] = mine.data
    expected.blobs["x"].data[...] = net.blobs["x"].data
    for _ in range(3):
        np.testing.assert_array_equal(net.forward()["d"], expected.forward()["d"])
