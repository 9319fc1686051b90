"""Layers of ``type: "Python"``: objects of users' classes, with pycaffe's names and nothing of the engine's."""

from __future__ import annotations

import json
import sys
import traceback
import types

import numpy as np
import pytest

import minicaffe as caffe
from minicaffe import backend, proto, testing
from minicaffe.errors import LayerError
from minicaffe.layers import Layer as EngineLayer
from minicaffe.layers import layer_types
from minicaffe.layers.base import registry
from minicaffe.net import Net
from minicaffe.proto import text

X = np.random.default_rng(0).standard_normal((4, 3))


def net_of(definition: str, phase: int = caffe.TRAIN, **how) -> Net:
    return Net(text.parse(definition, proto.NetParameter()), phase, **how)


def python(cls: type, blobs: str, more: str = "", options: str = "") -> str:
    """The text of a layer of a class of this module."""
    module = f'python_param {{ module: "{__name__}" layer: "{cls.__name__}" {options} }}'
    return f'layer {{ name: "{cls.__name__}" type: "Python" {blobs} {more} {module} }}\n'


def inputs(**shapes: tuple[int, ...]) -> str:
    return "".join(
        f'layer {{ name: "in {name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        f"{' '.join(f'dim: {size}' for size in shape)} }} }} }}\n"
        for name, shape in shapes.items()
    )


# --- what belongs to the user ------------------------------------------------------------------------------------

PYCAFFE = {"blobs", "type", "phase", "param_str", "param_str_"}
ENGINE = sorted(
    {name for name in {*dir(EngineLayer), *dir(testing.Rig("ReLU", [X]).layer)} if not name.startswith("__")}
    - {*PYCAFFE, "setup", "reshape", "forward", "backward"}
)
"""Every name that the engine's layers have beside pycaffe's."""


class Plain(caffe.Layer):
    """y = 2 x."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = 2 * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            bottom[0].diff[...] = 2 * top[0].diff


class Keeper(Plain):
    """Keeps things of its own under every name of the engine's."""

    def setup(self, bottom, top):
        self.taken = [name for name in ENGINE if hasattr(self, name)]
        for name in ENGINE:
            setattr(self, name, f"my {name}")

    def forward(self, bottom, top):
        super().forward(bottom, top)
        assert all(getattr(self, name) == f"my {name}" for name in ENGINE)
        self.name = self.error = self.tops = None
        for name in ENGINE:
            setattr(self, name, f"my {name}")

    def backward(self, top, propagate_down, bottom):
        super().backward(top, propagate_down, bottom)
        assert all(getattr(self, name) == f"my {name}" for name in ENGINE)


def test_all_names_but_pycaffes_are_the_users_own(tmp_path):
    assert {"random", "error", "tops", "bottoms", "ops", "xp", "name", "dtype", "scratch", "state", "close"} < {*ENGINE}
    scaled = 'layer {{ name: "{0}" type: "Power" bottom: "{1}" top: "{0}" power_param {{ scale: 3 }} }}\n'
    net = net_of(
        "force_backward: true\n"
        + inputs(x=(4, 3))
        + scaled.format("a", "x")
        + python(Keeper, 'bottom: "a" top: "b"')
        + scaled.format("c", "b")
    )
    for _ in range(3):
        np.testing.assert_allclose(net.forward(x=X)["c"], 18 * X, rtol=1e-6)
        np.testing.assert_allclose(net.backward(c=X)["x"], 18 * X, rtol=1e-6)
    net.reshape()
    net.restore(net.state())
    net.save(tmp_path / "a.caffemodel")
    net.copy_from(tmp_path / "a.caffemodel")
    net.debug_info = True
    net.forward(x=X)
    net.backward(c=X)
    held = net.layers[2]
    assert type(held) is Keeper and net.layer_dict["Keeper"] is held and held.taken == []
    assert all(getattr(held, name) == f"my {name}" for name in ENGINE)
    net.close()
    testing.check_gradient(Keeper, [X])
    assert testing.run(Keeper, [X]).layer.random == "my random"


class Bare(Plain):
    seen: dict = {}

    def setup(self, bottom, top):
        Bare.seen = dict(vars(self))


def test_the_object_has_pycaffes_names():
    net = net_of(inputs(x=(2,)) + python(Bare, 'bottom: "x" top: "y"', options='param_str: "3"'), caffe.TEST)
    held = net.layers[1]
    assert Bare.seen == {"blobs": held.blobs, "type": "Python", "phase": 1, "param_str": "3", "param_str_": "3"}
    assert isinstance(held, caffe.Layer) and not isinstance(held, EngineLayer)
    assert all(isinstance(layer, caffe.Layer) for layer in net.layers)


class OddDeclarations(Plain):
    """Names of the engine's in the class body, with values that are no declarations."""

    bottoms = "below"
    tops = ["above"]
    differentiable = {"x"}
    reshape_always = capturable = in_place = claims = forcible = auto_tops = equal_counts = None
    random = error = ops = xp = name = dtype = scratch = loss_weights = property(lambda self: "mine")


def test_names_in_a_class_body_are_the_users_own():
    np.testing.assert_allclose(testing.run(OddDeclarations, [X]).tops[0], 2 * X, rtol=1e-6)
    net = net_of(inputs(x=(2,)) + python(OddDeclarations, 'bottom: "x" top: "y"'))
    assert net.layers[1].random == net.layers[1].name == "mine"


class Declared(Plain):
    bottoms, tops, differentiable = 1, (1, 2), (0,)


def test_a_class_may_declare_how_many_it_takes():
    assert len(testing.run(Declared, [X]).tops) == 1
    with pytest.raises(LayerError, match=r"takes 1 bottom blob\(s\) as input; found 2"):
        testing.run(Declared, [X, X])
    with pytest.raises(LayerError, match=r"produces at most 2 top blob\(s\) as output; found 3"):
        testing.run(Declared, [X], tops=3)


# --- any number of bottoms and tops ------------------------------------------------------------------------------


class Rows(caffe.Layer):
    """Data: four rows at a time, and their numbers."""

    def setup(self, bottom, top):
        self.next, self.batch = 0, json.loads(self.param_str)["batch"]
        top[0].reshape(self.batch, 3)
        top[1].reshape(self.batch)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        numbers = np.arange(self.next, self.next + self.batch)
        top[0].data[...] = numbers[:, None] * [1, 2, 3]
        top[1].data[...] = numbers
        self.next += self.batch

    def backward(self, top, propagate_down, bottom):
        raise AssertionError("nothing goes backward into data")

    def start_at(self, number):
        self.next = number


class EuclideanLossLayer(caffe.Layer):
    """As in pycaffe's example: sum (a - b)^2 / (2 num)."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise Exception("Need two inputs to compute distance.")

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise Exception("Inputs must have the same dimension.")
        self.diff = np.zeros_like(bottom[0].data, dtype=np.float32)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff**2) / bottom[0].num / 2.0

    def backward(self, top, propagate_down, bottom):
        for i in range(2):
            if not propagate_down[i]:
                continue
            sign = 1 if i == 0 else -1
            bottom[i].diff[...] = sign * self.diff / bottom[i].num * top[0].diff[0]


class Proposals(caffe.Layer):
    """Keeps the boxes whose score is positive: how many it makes is known in forward only."""

    def setup(self, bottom, top):
        top[0].reshape(1, 5)
        top[1].reshape(1, 1)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        scores, boxes, info = (blob.data for blob in bottom)
        kept = np.flatnonzero(scores > 0)
        top[0].reshape(len(kept), 5)
        top[0].data[...] = np.c_[np.zeros(len(kept)), np.minimum(boxes[kept], info[0, 0])]
        top[1].reshape(len(kept), 1)
        top[1].data[...] = scores[kept, None]

    def backward(self, top, propagate_down, bottom):
        pass


def test_a_data_layer():
    net = net_of(python(Rows, 'top: "data" top: "label"', options='param_str: "{\\"batch\\": 4}"'))
    for start in (0, 4, 8):
        found = net.forward()
        np.testing.assert_array_equal(found["label"], np.arange(start, start + 4))
        np.testing.assert_array_equal(found["data"], found["label"][:, None] * [1, 2, 3])
    net.layers[0].start_at(100)
    np.testing.assert_array_equal(net.forward()["label"], [100, 101, 102, 103])
    result = testing.run(Rows, tops=2, backward=False, param_str='{"batch": 2}')
    assert [top.shape for top in result.tops] == [(2, 3), (2,)]


def test_a_layer_that_learns_how_much_it_makes_in_forward():
    net = net_of(
        inputs(scores=(6,), boxes=(6, 4), info=(1, 3))
        + python(Proposals, 'bottom: "scores" bottom: "boxes" bottom: "info" top: "rois" top: "kept"')
        + 'layer { name: "neg" type: "Power" bottom: "rois" top: "neg" power_param { scale: -1 } }'
    )
    boxes = np.arange(24).reshape(6, 4)
    for scores in ([1, -1, 2, -1, 3, -1], [-1, -1, -1, 5, -1, -1], [1, 1, 1, 1, 1, 1]):
        net.forward(scores=scores, boxes=boxes, info=[[15, 0, 1]])
        kept = np.array(scores) > 0
        expected = np.c_[np.zeros(kept.sum()), np.minimum(boxes[kept], 15)]
        np.testing.assert_array_equal(net.blobs["rois"].data, expected)
        np.testing.assert_array_equal(net.blobs["neg"].data, -expected)
        np.testing.assert_array_equal(net.blobs["kept"].data[:, 0], np.array(scores)[kept])


class Positives(Proposals):
    """A loss of as many elements as there are positive scores."""

    def forward(self, bottom, top):
        kept = bottom[0].data[bottom[0].data > 0]
        top[0].reshape(len(kept))
        top[0].data[...] = kept

    def setup(self, bottom, top):
        top[0].reshape(1)


def test_a_loss_that_grows_in_forward_is_weighted_whole():
    net = net_of(inputs(x=(6,)) + python(Positives, 'bottom: "x" top: "y"', "loss_weight: 2"))
    for x in ([1, -1, -1, -1, -1, -1], [1, 2, 3, 4, 5, 6], [-1, 2, -1, -1, -1, 5]):
        net.forward(x=x)
        assert net.loss == 2 * sum(value for value in x if value > 0)


class Positive(caffe.Layer):
    """Exponentials of the positive inputs."""

    def setup(self, bottom, top):
        top[0].reshape(1)

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        self.kept = bottom[0].data > 0
        top[0].reshape(self.kept.sum())
        top[0].data[...] = np.exp(bottom[0].data[self.kept])

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 0
        bottom[0].diff[self.kept] = top[0].diff * top[0].data


def test_what_grows_in_forward_is_kept_whole_for_backward():
    """The layer reads its top in backward, which a later one overwrites."""
    tanh = 'layer { name: "t" type: "TanH" bottom: "y" top: "y" }'
    net = net_of("force_backward: true\n" + inputs(x=(6,)) + python(Positive, 'bottom: "x" top: "y"') + tanh)
    for x in ([0.1, 0.2, -1, -1, -1, -1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [-1, -1, -1, -1, 0.5, 0.3]):
        y = np.exp([value for value in x if value > 0])
        np.testing.assert_allclose(net.forward(x=x)["y"], np.tanh(y), rtol=1e-6)
        dx = np.zeros(6)
        dx[np.array(x) > 0] = y * (1 - np.tanh(y) ** 2)
        np.testing.assert_allclose(net.backward(y=np.ones(len(y)))["x"], dx, rtol=1e-4, atol=1e-7)


# --- losses ------------------------------------------------------------------------------------------------------


def regression(loss: str) -> proto.SolverParameter:
    net = (
        inputs(x=(8, 3), y=(8, 2))
        + 'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 2 '
        'weight_filler { type: "xavier" } } }\n' + loss
    )
    solver = text.parse('base_lr: 0.1 lr_policy: "fixed" max_iter: 100 momentum: 0.9', proto.SolverParameter())
    solver.net_param.CopyFrom(text.parse(net, proto.NetParameter()))
    return solver


def test_pycaffes_loss_trains_as_the_built_in_one():
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((8, 3)), rng.standard_normal((2, 3))
    losses = []
    for loss in (
        python(EuclideanLossLayer, 'bottom: "ip" bottom: "y" top: "loss"', "loss_weight: 3"),
        'layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "y" top: "loss" loss_weight: 3 }',
    ):
        backend.random.seed(1)
        solver = caffe.SGDSolver(regression(loss))
        solver.net.blobs["x"].data[...], solver.net.blobs["y"].data[...] = x, x @ w.T
        losses.append([])
        for _ in range(60):
            solver.step(1)
            losses[-1].append(solver.net.loss)
        assert solver.net.blobs["loss"].diff.reshape(-1)[0] == 3
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4, atol=1e-7)
    assert losses[0][-1] < 0.01 * losses[0][0]


def test_a_loss_is_checked_alone():
    result = testing.run(EuclideanLossLayer, [X, X + 2], loss_weight=2.0)
    np.testing.assert_allclose(result.loss, 2 * 4 * X.size / X.shape[0] / 2, rtol=1e-6)
    np.testing.assert_allclose(result.bottom_diffs[1], np.full(X.shape, 1.0), rtol=1e-6)
    with pytest.raises(Exception, match="Need two inputs"):
        testing.run(EuclideanLossLayer, [X])


class Difference(caffe.Layer):
    """a - b, and the product without a gradient; in float64 through and through."""

    def reshape(self, bottom, top):
        for blob in top:
            blob.reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data - bottom[1].data
        top[1].data[...] = bottom[0].data * bottom[1].data

    def backward(self, top, propagate_down, bottom):
        assert isinstance(propagate_down, list) and all(type(flag) is bool for flag in propagate_down)
        for blob, sign, wanted in zip(bottom, (1, -1), propagate_down, strict=True):
            if wanted:
                blob.diff[...] = sign * top[0].diff


def test_propagate_down_says_what_is_wanted():
    result = testing.run(Difference, [X, X], tops=2, propagate_down=[False, True], top_diffs=[X, X])
    assert result.bottom_diffs[0] is None
    np.testing.assert_allclose(result.bottom_diffs[1], -X, rtol=1e-6)
    testing.check_gradient(Difference, [X, X + 1], tops=2, check_top=[0])


# --- in place, learnable blobs, reshape --------------------------------------------------------------------------


class Doubled(Plain):
    """y = 2 x, and in place."""

    def reshape(self, bottom, top):
        if top[0] is not bottom[0]:
            super().reshape(bottom, top)


def test_a_python_layer_works_in_place():
    assert testing.check_gradient(Doubled, [X], in_place=True) <= 1e-6
    power = 'layer { name: "p" type: "Power" bottom: "x" top: "a" power_param { power: 2 } }\n'
    net = net_of("force_backward: true\n" + inputs(x=(4, 3)) + power + python(Doubled, 'bottom: "a" top: "a"'))
    for _ in range(3):
        np.testing.assert_allclose(net.forward(x=X)["a"], 2 * X**2, rtol=1e-6)
        np.testing.assert_allclose(net.backward(a=np.ones_like(X))["x"], 4 * X, rtol=1e-6)


class Gain(caffe.Layer):
    """y = a x + b, a and b learned."""

    def setup(self, bottom, top):
        self.blobs.add_blob(1).data[...] = 1
        self.blobs.add_blob(1)
        self.blobs[1].data[...] = 0.5

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.blobs[0].data * bottom[0].data + self.blobs[1].data

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += (top[0].diff * bottom[0].data).sum()
        self.blobs[1].diff[...] += top[0].diff.sum()
        if propagate_down[0]:
            bottom[0].diff[...] = self.blobs[0].data * top[0].diff


def gains(more: str = "") -> str:
    """Two of them that share a by name; b of the first does not learn."""
    first = python(Gain, 'bottom: "x" top: "a"', 'param { name: "a" } param { lr_mult: 0 }' + more)
    second = python(Gain, 'bottom: "a" top: "b"', 'param { name: "a" } param { lr_mult: 2 }').replace(
        'name: "Gain"', 'name: "again"'
    )
    loss = 'layer { name: "loss" type: "EuclideanLoss" bottom: "b" bottom: "y" top: "loss" }'
    return inputs(x=(4, 3), y=(4, 3)) + first + second + loss


def test_blobs_learn_by_their_multipliers_and_are_shared_by_name(tmp_path):
    solver_param = text.parse(
        f'base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 max_iter: 9 snapshot_prefix: "{tmp_path}/s"',
        proto.SolverParameter(),
    )
    solver_param.net_param.CopyFrom(text.parse(gains(), proto.NetParameter()))
    solver = caffe.SGDSolver(solver_param)
    net = solver.net
    net.blobs["x"].data[...], net.blobs["y"].data[...] = X, 4 * X + 2
    (a, b), (a_again, b_again) = net.params["Gain"], net.params["again"]
    assert net.layers[2].blobs is net.params["Gain"] and a.shares_data_with(a_again)
    solver.step(1)
    assert [param.lr_mult for param in net.learnable] == [1, 0, 2]
    assert b.data[0] == 0.5 and b_again.data[0] != 0.5 and a.data[0] == a_again.data[0] != 1
    np.testing.assert_allclose(b_again.data[0], 0.5 - 2 * 0.01 * (-3 * X - 1).sum() / 4, rtol=1e-5)
    solver.snapshot()
    values = [blob.data.copy() for blob in (a, b, b_again)]
    solver.step(3)
    after = [blob.data.copy() for blob in (a, b, b_again)]
    solver.restore(f"{tmp_path}/s_iter_1.solverstate")
    for blob, value in zip((a, b, b_again), values, strict=True):
        np.testing.assert_array_equal(blob.data, value)
    net.blobs["x"].data[...], net.blobs["y"].data[...] = X, 4 * X + 2
    solver.step(3)
    for blob, value in zip((a, b, b_again), after, strict=True):
        np.testing.assert_array_equal(blob.data, value)
    other = net_of(gains())
    other.copy_from(f"{tmp_path}/s_iter_1.caffemodel")
    np.testing.assert_array_equal(other.params["again"][1].data, values[2])
    other.share_with(net)
    np.testing.assert_array_equal(other.params["Gain"][0].data, after[0])


def test_gradients_of_blobs_are_checked():
    assert testing.check_gradient(Gain, [X], params=[[1.5], [2.0]]) <= 1e-6
    assert testing.check_gradient(Gain, [X], mode="exhaustive") <= 1e-6


class Counter(caffe.Layer):
    """How often its reshape ran, but for the first time."""

    def setup(self, bottom, top):
        self.count = -1

    def reshape(self, bottom, top):
        top[0].reshape(1)
        self.count += 1

    def forward(self, bottom, top):
        top[0].data[...] = self.count

    def backward(self, top, propagate_down, bottom):
        pass


def test_reshape_runs_before_every_forward():
    net = net_of(inputs(x=(2,)) + python(Counter, 'bottom: "x" top: "y"'))
    assert net.layers[1].count == 0
    assert [int(net.forward()["y"][0]) for _ in range(4)] == [1, 2, 3, 4]
    net.reshape()
    assert net.layers[1].count == 5 and int(net.forward()["y"][0]) == 6


class Told(Plain):
    def setup(self, bottom, top):
        self.k = json.loads(self.param_str)["k"] + self.phase

    def forward(self, bottom, top):
        top[0].data[...] = self.k * bottom[0].data


@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST])
def test_options_and_phase(phase):
    options = 'param_str: "{\\"k\\": 5}" share_in_parallel: true'
    net = net_of(inputs(x=(4, 3)) + python(Told, 'bottom: "x" top: "y"', options=options), phase)
    np.testing.assert_allclose(net.forward(x=X)["y"], (5 + phase) * X, rtol=1e-6)


# --- classes of other kinds --------------------------------------------------------------------------------------


class Stranger:
    """Derived from nothing, with the four methods."""

    setup, reshape, forward, backward = Plain.setup, Plain.reshape, Plain.forward, Plain.backward


class Constructed(Plain):
    """With a constructor as pycaffe calls it."""

    def __init__(self, *args):
        super().__init__(*args)
        self.counter = 7

    def forward(self, bottom, top):
        self.counter += 1
        super().forward(bottom, top)


class Unasked(Plain):
    """With a constructor that takes nothing."""

    def __init__(self):
        self.counter = 7


@pytest.mark.parametrize("cls", [Stranger, Constructed, Unasked])
def test_classes_are_made_as_they_can_be(cls):
    net = net_of(inputs(x=(4, 3)) + python(cls, 'bottom: "x" top: "y"'))
    np.testing.assert_allclose(net.forward(x=X)["y"], 2 * X, rtol=1e-6)
    assert vars(net.layers[1]).get("counter", 7) == (8 if cls is Constructed else 7)
    assert testing.check_gradient(cls, [X]) <= 1e-6


class Facile(Plain):
    """Becomes a layer of the engine below."""

    def setup(self, bottom, top):
        self.factor = float(self.layer_param.power_param.scale)


@pytest.fixture
def registered():
    before = dict(registry)
    yield
    registry.clear()
    registry.update(before)


def test_a_class_with_a_type_is_a_layer_of_the_engine(registered):
    class Times(caffe.Layer):
        """y = scale x, on every backend."""

        type = "Times"
        param = "power_param"
        scale: float

        def reshape(self, bottom, top):
            top[0].reshape_like(bottom[0])
            self.kept = self.scratch("kept", bottom[0].shape)

        def forward(self, bottom, top):
            self.xp.multiply(bottom[0].xdata, self.scale, out=top[0].xdata)

        def backward(self, top, propagate_down, bottom):
            if propagate_down[0]:
                self.xp.multiply(top[0].xdiff, self.scale, out=bottom[0].xdiff)

    assert issubclass(Times, EngineLayer) and "Times" in layer_types()
    for how in (Times, "Times"):
        result = testing.run(how, [X], scale=3)
        np.testing.assert_allclose(result.tops[0], 3 * X, rtol=1e-6)
        assert isinstance(result.layer, Times) and result.layer.ops is backend.current().ops
    assert testing.check_gradient(Times, [X], scale=3) <= 1e-6
    with pytest.raises(LayerError, match=r"takes 1 bottom"):
        testing.run(Times, [X, X])

    class Derived(Facile):
        type = "Derived"

        def forward(self, bottom, top):
            self.ops.elementwise(lambda a: 2 * a, (bottom[0].xdata,), (), top[0].xdata)

    assert Derived.__mro__[1:3] == (Facile, Plain) and issubclass(Derived, EngineLayer)
    np.testing.assert_allclose(testing.run(Derived, [X]).tops[0], 2 * X, rtol=1e-6)


# --- errors ------------------------------------------------------------------------------------------------------

SIGNATURES = {
    "setup": r"setup\(bottom, top\)",
    "reshape": r"reshape\(bottom, top\)",
    "forward": r"forward\(bottom, top\)",
    "backward": r"backward\(top, propagate_down, bottom\)",
}


@pytest.mark.parametrize("base", [caffe.Layer, object])
@pytest.mark.parametrize("missing", SIGNATURES)
def test_a_missing_method_is_named(missing, base, monkeypatch):
    module = types.ModuleType("a_module_of_mine")
    methods = {name: vars(Plain)[name] for name in SIGNATURES if name != missing}
    module.Partial = type("Partial", (base,), methods)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    definition = inputs(x=(4, 3)) + python(module.Partial, 'bottom: "x" top: "y"').replace(__name__, module.__name__)
    if base is caffe.Layer and missing == "setup":
        np.testing.assert_allclose(net_of(definition).forward(x=X)["y"], 2 * X, rtol=1e-6)
        return
    if base is caffe.Layer and missing == "backward":
        np.testing.assert_allclose(net_of(definition).forward(x=X)["y"], 2 * X, rtol=1e-6)
        definition = "force_backward: true\n" + definition
    with pytest.raises(
        LayerError,
        match=rf"layer 'Partial' \(Python\), python_param.layer: .*Partial.*found no {SIGNATURES[missing]}$",
    ):
        net_of(definition).backward()


class Faulty(Plain):
    """Fails where ``param_str`` says."""

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "param_str") and name in SIGNATURES:
            return object.__getattribute__(self, "fail")
        return object.__getattribute__(self, name)

    def fail(self, *args):
        raise ZeroDivisionError(f"in {self.param_str}")


@pytest.mark.parametrize("where", SIGNATURES)
def test_errors_of_the_users_code_arrive_as_they_are(where):
    definition = inputs(x=(4, 3)) + python(Faulty, 'bottom: "x" top: "y"', options=f'param_str: "{where}"')
    with pytest.raises(ZeroDivisionError, match=f"^in {where}$") as caught:
        net = net_of("force_backward: true\n" + definition)
        net.forward()
        net.backward()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fail"


# --- beside the engine's own layers ------------------------------------------------------------------------------


class ScaledAbsDiff(caffe.Layer):
    """k sum |a - b| / num + c, c learned: the layer that Caffe ran for the golden numbers."""

    def setup(self, bottom, top):
        self.k = json.loads(self.param_str)["k"]
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = 0.5

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.difference = bottom[0].data - bottom[1].data
        top[0].data[...] = self.k * np.abs(self.difference).sum() / bottom[0].num + self.blobs[0].data

    def backward(self, top, propagate_down, bottom):
        dy = top[0].diff[0]
        for blob, sign, wanted in zip(bottom, (1, -1), propagate_down, strict=True):
            if wanted:
                blob.diff[...] = sign * dy * self.k * np.sign(self.difference) / blob.num
        self.blobs[0].diff[...] += dy


def test_numbers_of_caffe(golden):
    """Values and gradients of a net with a Python layer in it, forward and backward."""
    definition = (golden / "pyapi" / "python_layer_net.prototxt").read_text()
    net = net_of(definition.replace("golden_pylayer", __name__), caffe.TRAIN)
    with np.load(golden / "pyapi" / "python_layer.npz") as expected:
        for name in ("ip", "py"):
            for j, blob in enumerate(net.params[name]):
                blob.data[...] = expected[f"param_{name}_{j}"]
        net.forward(a=expected["blob_a"], b=expected["blob_b"])
        net.backward()
        for name, blob in net.blobs.items():
            np.testing.assert_allclose(blob.data, expected[f"blob_{name}"], rtol=1e-6, err_msg=name)
            np.testing.assert_allclose(blob.diff, expected[f"diff_{name}"], rtol=1e-6, err_msg=name)
        for name in ("ip", "py"):
            for j, blob in enumerate(net.params[name]):
                np.testing.assert_allclose(blob.diff, expected[f"paramdiff_{name}_{j}"], rtol=1e-5, err_msg=name)
