"""minicaffe.testing: run a layer alone, check its gradients, compare backends."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor

import minicaffe
from minicaffe import backend, proto, testing
from minicaffe.backend import Backend
from minicaffe.backend.cpu import CpuBackend
from minicaffe.errors import LayerError, MinicaffeError, NetError, PrototxtError, ShapeError
from minicaffe.testing.differences import derivative, one_sided

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4))


class Gain(minicaffe.Layer):
    """y = a x, a learned."""

    def setup(self, bottom, top):
        self.blobs.add_blob(1).data[...] = 1

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.blobs[0].data * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += (top[0].diff * bottom[0].data).sum()
        if propagate_down[0]:
            bottom[0].diff[...] = self.blobs[0].data * top[0].diff


# --- run
# ---------------------------------------------------------------------------------------------------------------


def test_a_registered_type_by_keywords():
    a, b = RNG.standard_normal((2, 4, 3))
    similar = np.array([1, 0, 0, 1])
    result = testing.run("ContrastiveLoss", [a, b, similar], margin=3.0)
    d = np.linalg.norm(a - b, axis=1)
    expected = np.where(similar, d**2, np.maximum(3 - d, 0) ** 2).sum() / 8
    np.testing.assert_allclose(result.loss, expected, rtol=1e-5)
    np.testing.assert_allclose(result.tops[0], expected, rtol=1e-5)
    np.testing.assert_allclose(result.bottom_diffs[0], -result.bottom_diffs[1])
    assert result.bottom_diffs[2] is None
    assert result.layer.margin == 3.0 and result.params == result.param_diffs == []


def test_a_class_that_nothing_registers():
    result = testing.run(Gain, [X], params=[[2.0]], top_diffs=[X])
    np.testing.assert_allclose(result.tops[0], 2 * X, rtol=1e-6)
    np.testing.assert_allclose(result.bottom_diffs[0], 2 * X, rtol=1e-6)
    np.testing.assert_allclose(result.param_diffs[0], [(X * X).sum()], rtol=1e-6)
    assert isinstance(result.layer, Gain) and result.loss == 0


def test_param_str_and_phase_reach_a_class():
    class Told(Gain):
        def setup(self, bottom, top):
            super().setup(bottom, top)
            self.blobs[0].data[...] = float(self.param_str) + 10 * self.phase

    assert testing.run(Told, [X], param_str="3", phase="TEST").params[0] == 13


def test_the_text_of_a_layer():
    text = 'layer { type: "Pooling" top: "a" top: "b" pooling_param { kernel_size: 2 } }'
    result = testing.run(text, [X[None, None]], stride=2)
    expected = [[X[:2, :2].max(), X[:2, 2:].max()], [X[2, :2].max(), X[2, 2:].max()]]
    np.testing.assert_allclose(result.tops[0][0, 0], expected, rtol=1e-6)
    assert len(result.tops) == 2
    with pytest.raises(PrototxtError, match="<layer>:1:.*did you mean"):
        testing.run('layer { typo: "ReLU" }', [X])
    with pytest.raises(LayerError, match=r"names 2 bottom\(s\); found 1 array"):
        testing.run('layer { type: "Eltwise" bottom: "a" bottom: "b" top: "c" }', [X])


def test_messages_lists_and_enums():
    filler = {"type": "constant", "value": 2.0}
    image = np.ones((1, 1, 4, 5))
    result = testing.run(
        "Convolution", [image], num_output=1, kernel_size=[2, 3], weight_filler=filler, bias_term=False
    )
    np.testing.assert_array_equal(result.tops[0], np.full((1, 1, 3, 3), 12))
    assert testing.run("Pooling", [image], pool="AVE", kernel_size=2).tops[0].max() == 1
    assert testing.run("Reshape", [X], shape={"dim": (2, -1)}).tops[0].shape == (2, 6)
    assert testing.run("ReLU", [X], loss_weight=np.float32(2)).loss == pytest.approx(
        2 * np.maximum(X, 0).sum(), rel=1e-5
    )


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"margn": 1.0},
            r"layer 'ContrastiveLoss'.*contrastive_loss_param or LayerParameter has no field 'margn'; did you mean "
            r"'margin'",
        ),
        ({"loss_wight": 1.0}, r"did you mean 'loss_weight'"),
        ({"margin": "wide"}, r"contrastive_loss_param\.margin: cannot hold 'wide'"),
        ({"margin": [1.0, 2.0]}, r"contrastive_loss_param\.margin: takes one value; found \[1\.0, 2\.0\]"),
        ({"margin": {"value": 1.0}}, r"contrastive_loss_param\.margin: is no message"),
        ({"loss_param": {"ignore_lable": 1}}, r"loss_param has no field 'ignore_lable'; did you mean 'ignore_label'"),
        ({"loss_param": {"normalization": "ALL"}}, r"loss_param\.normalization: cannot hold 'ALL'.*legal: FULL, VALID"),
    ],
)
def test_a_wrong_field_is_named(fields, problem):
    with pytest.raises(LayerError, match=problem):
        testing.run("ContrastiveLoss", [X, X, np.ones(3)], **fields)


def test_what_cannot_be_a_layer():
    with pytest.raises(LayerError, match="Unknown layer type: Relu; did you mean 'ReLU'"):
        testing.run("Relu", [X])
    with pytest.raises(LayerError, match="3 is no layer: give a type"):
        testing.run(3, [X])


def test_wrong_arrays_are_named():
    with pytest.raises(LayerError, match=r"has 1 learnable blob\(s\); found 2 in params"):
        testing.run(Gain, [X], params=[[1.0], [2.0]])
    with pytest.raises(ShapeError, match=r"params\[0\] must have shape \(1,\); found \(2,\)"):
        testing.run(Gain, [X], params=[[1.0, 2.0]])
    with pytest.raises(ShapeError, match=r"top_diffs\[0\] must have shape \(3, 4\); found \(4,\)"):
        testing.run(Gain, [X], top_diffs=[np.ones(4)])
    with pytest.raises(LayerError, match="one array for each of the 1 tops; found 2"):
        testing.run(Gain, [X], top_diffs=[1, 1])


def test_in_place_as_a_net_allows_it():
    result = testing.run("ReLU", [X], in_place=True, negative_slope=0.5)
    np.testing.assert_allclose(result.tops[0], np.where(X > 0, X, X / 2), rtol=1e-6)
    np.testing.assert_allclose(result.bottom_diffs[0], np.where(X > 0, 1, 0.5))
    with pytest.raises(NetError, match=r"\(AbsVal\), top: it cannot work in place; give"):
        testing.run("AbsVal", [X], in_place=True)
    with pytest.raises(NetError, match="cannot work in place while it goes backward"):
        testing.run("BNLL", [X], in_place=True)
    assert testing.run("BNLL", [X], in_place=True, backward=False).bottom_diffs == [None]


def test_propagate_down_and_lr_mult_choose_the_gradients():
    result = testing.run("EuclideanLoss", [X, X + 1], propagate_down=[False, True])
    assert result.bottom_diffs[0] is None and result.bottom_diffs[1].any()
    result = testing.run("InnerProduct", [X], num_output=2, param=[{"lr_mult": 0}, {"lr_mult": 1}])
    assert not result.param_diffs[0].any() and result.param_diffs[1].any()
    with pytest.raises(LayerError, match="cannot backpropagate to bottom 1"):
        testing.run("HingeLoss", [X, np.zeros(3)], propagate_down=[True, True])


def test_top_gradients_default_to_the_loss_weight_or_to_ones():
    weighted = testing.run("EuclideanLoss", [X, X + 1], loss_weight=3.0).bottom_diffs[0]
    np.testing.assert_allclose(weighted, 3 * testing.run("EuclideanLoss", [X, X + 1]).bottom_diffs[0], rtol=1e-6)
    assert not testing.run("EuclideanLoss", [X, X + 1], loss_weight=0.0).bottom_diffs[0].any()
    np.testing.assert_array_equal(testing.run("Flatten", [X]).bottom_diffs[0], np.ones_like(X))


def test_a_seed_repeats_the_random_numbers():
    one, other, same = (testing.run("Dropout", [X], seed=seed).tops[0] for seed in (1, 2, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_run_uses_the_current_backend():
    with backend.use(CpuBackend()) as where:
        assert testing.run("ReLU", [X], dtype=np.float64).layer.xp is where.xp


def test_no_field_has_the_name_of_a_keyword():
    """Every option of every layer can be given as a keyword; those of two forks only within their message."""
    fields = set()
    for field in proto.LayerParameter.DESCRIPTOR.fields:
        fields.add(field.name)
        if field.type == FieldDescriptor.TYPE_MESSAGE and field.name.endswith("_param"):
            fields |= {inner.name for inner in field.message_type.fields}
    own = {
        function: set(function.__kwdefaults__)
        for function in (testing.run, testing.check_gradient, testing.check_parity)
    }
    assert set().union(*(names & fields for names in own.values())) == {"phase", "step", "mode", "backward"}
    assert proto.PriorBoxParameter.DESCRIPTOR.fields_by_name["step"]
    assert proto.InterpParameter.DESCRIPTOR.fields_by_name["mode"]
    assert proto.MergeCropParameter.DESCRIPTOR.fields_by_name["backward"]


# --- check_gradient
# -------------------------------------------------------------------------------------------------------


def broken(change):
    """Gain with a backward that ``change(layer, top, bottom)`` spoils."""

    class Broken(Gain):
        def backward(self, top, propagate_down, bottom):
            super().backward(top, propagate_down, bottom)
            change(self, top, bottom)

    return Broken


def scale_one_element(layer, top, bottom):
    bottom[0].diff[1, 2] *= 1.001


def double_param(layer, top, bottom):
    layer.blobs[0].diff[...] *= 2


def add_to_bottom(layer, top, bottom):
    if getattr(layer, "before", None) is not None:
        bottom[0].diff[...] += layer.before
    layer.before = bottom[0].diff.copy()


@pytest.mark.parametrize("mode", ["directions", "exhaustive"])
def test_right_gradients_pass(mode):
    assert testing.check_gradient(Gain, [X], mode=mode) < 1e-9
    assert testing.check_gradient("TanH", [X], mode=mode) < 1e-9
    assert testing.check_gradient("EuclideanLoss", [X, X + 1], mode=mode) < 1e-9


@pytest.mark.parametrize("mode", ["directions", "exhaustive"])
def test_the_wrong_element_is_named(mode):
    with pytest.raises(
        AssertionError,
        match=r"(?s)layer 'Broken'.*bottom 0, shape \(3, 4\): 1 of 12 elements\n    \[1, 2\].*found.*expected",
    ) as caught:
        testing.check_gradient(broken(scale_one_element), [X], mode=mode)
    assert "param 0" not in str(caught.value)


def test_a_wrong_param_is_named():
    with pytest.raises(AssertionError, match=r"param 0, shape \(1,\): 1 of 1 elements\n    \[0\]: found") as caught:
        testing.check_gradient(broken(double_param), [X])
    assert "bottom 0" not in str(caught.value)


def test_a_gradient_that_is_no_number_is_wrong():
    def spoil(layer, top, bottom):
        bottom[0].diff[2, 0] = np.nan

    with pytest.raises(AssertionError, match=r"bottom 0, shape \(3, 4\): 1 of 12 elements\n    \[2, 0\]: found nan"):
        testing.check_gradient(broken(spoil), [X])


@pytest.mark.parametrize("mode", ["directions", "exhaustive"])
def test_a_layer_without_tops_has_gradients_of_zero(mode):
    assert testing.check_gradient("Silence", [X], mode=mode) == 0


@pytest.mark.parametrize("mode", ["directions", "exhaustive"])
def test_blobs_without_axes_are_checked(mode):
    class Sums(minicaffe.Layer):
        """Two scalars: the sum of a x, a learned, and the sum of x."""

        tops = 2

        def setup(self, bottom, top):
            self.blobs.add_blob().data[...] = 2

        def reshape(self, bottom, top):
            for blob in top:
                blob.reshape()

        def forward(self, bottom, top):
            top[0].data[...] = self.blobs[0].data * bottom[0].data.sum()
            top[1].data[...] = bottom[0].data.sum()

        def backward(self, top, propagate_down, bottom):
            self.blobs[0].diff[...] += top[0].diff * bottom[0].data.sum() * self.factor
            bottom[0].diff[...] = top[0].diff * self.blobs[0].data + top[1].diff

    Sums.factor = 1
    testing.check_gradient(Sums, [X], mode=mode)
    Sums.factor = 1.1
    with pytest.raises(AssertionError, match=r"param 0, shape \(\): 1 of 1 elements\n    \[\].*: found"):
        testing.check_gradient(Sums, [X], mode=mode)


def test_gradients_of_bottoms_must_be_overwritten():
    with pytest.raises(AssertionError, match=r"bottom 0: a second backward gives another gradient.*overwrite it"):
        testing.check_gradient(broken(add_to_bottom), [X])


def test_gradients_of_params_must_add_up():
    class Overwrites(Gain):
        def backward(self, top, propagate_down, bottom):
            self.blobs[0].diff[...] = 0
            super().backward(top, propagate_down, bottom)

    with pytest.raises(AssertionError, match=r"param 0: a second backward gives another gradient.*add to it"):
        testing.check_gradient(Overwrites, [X])


def test_the_largest_errors_come_first_and_the_rest_is_counted():
    def spoil(layer, top, bottom):
        bottom[0].diff[...] += np.arange(12.0).reshape(3, 4)

    with pytest.raises(AssertionError) as caught:
        testing.check_gradient(broken(spoil), [X])
    listed = [line for line in str(caught.value).splitlines() if "found" in line]
    assert len(listed) == 5 and listed[0].startswith("    [2, 3]") and listed[1].startswith("    [2, 2]")
    assert "and 6 more" in str(caught.value)


def test_an_input_on_a_kink_is_reported_and_can_be_left_out():
    x = X.copy()
    x[0, 1] = 0
    with pytest.raises(AssertionError, match=r"\[0, 1\].*a kink: from the left .*, from the right"):
        testing.check_gradient("ReLU", [x])
    testing.check_gradient("ReLU", [x], kink=0, kink_range=0.01)
    testing.check_gradient("ReLU", [x], kink=0, kink_range=0.01, mode="exhaustive")


def test_a_kink_nearby_does_no_harm():
    for distance in (1e-2, 1e-3, 3e-4):
        testing.check_gradient("ReLU", [[distance, -distance, 1.0]])
        testing.check_gradient("ReLU", [[distance, -distance, 1.0]], mode="exhaustive")


def test_random_layers_and_states_repeat_themselves():
    class Noisy(Gain):
        def forward(self, bottom, top):
            self.noise = np.random.rand(*bottom[0].shape)
            top[0].data[...] = self.blobs[0].data * bottom[0].data * self.noise

        def backward(self, top, propagate_down, bottom):
            self.blobs[0].diff[...] += (top[0].diff * bottom[0].data * self.noise).sum()
            bottom[0].diff[...] = self.blobs[0].data * top[0].diff * self.noise

    testing.check_gradient(Noisy, [X])
    testing.check_gradient("Dropout", [X], mode="exhaustive")


def test_only_the_given_bottoms_and_tops_are_checked():
    class Half(minicaffe.Layer):
        """Tops x + y and, without a gradient, x y; a gradient for x only."""

        bottoms = tops = 2

        def reshape(self, bottom, top):
            for blob in top:
                blob.reshape(*bottom[0].shape)

        def forward(self, bottom, top):
            top[0].data[...] = bottom[0].data + bottom[1].data
            top[1].data[...] = bottom[0].data * bottom[1].data

        def backward(self, top, propagate_down, bottom):
            bottom[0].diff[...] = top[0].diff

    with pytest.raises(AssertionError, match="bottom 0"):
        testing.check_gradient(Half, [X, X + 1], check_bottom=[0])
    with pytest.raises(AssertionError, match="bottom 1"):
        testing.check_gradient(Half, [X, X + 1], check_top=[0])
    testing.check_gradient(Half, [X, X + 1], check_bottom=[0], check_top=[0])


def test_weights_that_are_zero_are_drawn():
    assert not testing.run("InnerProduct", [X], num_output=2).tops[0].any()
    testing.check_gradient("InnerProduct", [X], num_output=2)
    with pytest.raises(AssertionError, match="bottom 0"):

        class Forgets(Gain):
            def setup(self, bottom, top):
                self.blobs.add_blob(1)

            def backward(self, top, propagate_down, bottom):
                self.blobs[0].diff[...] += (top[0].diff * bottom[0].data).sum()
                bottom[0].diff[...] = 0

        testing.check_gradient(Forgets, [X])


def test_nothing_to_check():
    with pytest.raises(LayerError, match="there is nothing to check"):
        testing.check_gradient("Threshold", [X])
    with pytest.raises(ValueError, match="mode must be 'directions' or 'exhaustive'; found 'all'"):
        testing.check_gradient(Gain, [X], mode="all")


def test_derivatives_are_accurate_to_many_digits():
    found = derivative(lambda t: np.array([np.sin(1 + t), np.exp(3 * t), abs(t - 1e-3)]), 1e-2)
    np.testing.assert_allclose(found, [np.cos(1), 3, -1], rtol=1e-11)
    left, right = one_sided(lambda t: np.array([abs(t), np.exp(t)]), 1e-4)
    np.testing.assert_allclose(left, [-1, 1], rtol=1e-7)
    np.testing.assert_allclose(right, [1, 1], rtol=1e-7)


# --- check_parity and the plugin
# ---------------------------------------------------------------------------------------


class Other(CpuBackend):
    """A second backend, by which a layer can tell where it runs."""

    name = "other"


def two() -> list[Backend]:
    return [backend.host_backend(), Other()]


def test_the_same_numbers_pass():
    testing.check_parity(Gain, [X], backends=two())
    testing.check_parity("EuclideanLoss", [X, X + 1], backends=two(), loss_weight=2.0)
    testing.check_parity("BatchNorm", [X], backends=two())


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ("forward", r"top 0, shape \(3, 4\): 1 of 12 elements, most at \[1, 2\]: .* on cpu, .* on other"),
        ("bottom", r"gradient of bottom 0, shape \(3, 4\): 1 of 12 elements, most at \[1, 2\]"),
        ("param", r"gradient of param 0, shape \(1,\): 1 of 1"),
        ("shape", r"top 0: shape \(3, 4\) on cpu, \(4, 3\) on other"),
    ],
)
def test_what_differs_is_named(part, problem):
    class Differs(Gain):
        def reshape(self, bottom, top):
            elsewhere = backend.current().name == "other"
            top[0].reshape(*bottom[0].shape[:: -1 if elsewhere and part == "shape" else 1])

        def forward(self, bottom, top):
            top[0].data.reshape(-1)[...] = (self.blobs[0].data * bottom[0].data).reshape(-1)
            if backend.current().name == "other" and part == "forward":
                top[0].data[1, 2] += 0.01

        def backward(self, top, propagate_down, bottom):
            super().backward(top, propagate_down, bottom)
            if backend.current().name == "other":
                if part == "bottom":
                    bottom[0].diff[1, 2] = np.nan
                elif part == "param":
                    self.blobs[0].diff[...] *= 1.01

    with pytest.raises(AssertionError, match=rf"(?s)layer 'Differs' \(Python\): the backends disagree.*{problem}"):
        testing.check_parity(Differs, [X], backends=two(), backward=part != "shape")


def test_parity_needs_two_backends():
    with pytest.raises(ValueError, match="at least two backends; found 1"):
        testing.check_parity(Gain, [X], backends=[backend.host_backend()])


def test_without_backends_the_gpu_is_asked_for():
    try:
        backend.gpu_backend()
    except MinicaffeError as error:
        with pytest.raises(type(error)):
            testing.check_parity(Gain, [X])
    else:
        testing.check_parity(Gain, [X])


def test_the_fixture_selects_a_backend(layer_backend):
    assert backend.current() is layer_backend
    testing.check_gradient(Gain, [X])


def test_the_plugin_costs_nothing_at_start():
    heavy = "('numpy', 'numba', 'h5py', 'google.protobuf')"
    code = f"import minicaffe.testing.plugin, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
