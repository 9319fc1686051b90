"""Layers that work in place: backward finds the values that it reads, and others find what was made for them.

What backward reads is declared by each layer (``reads_bottoms``, ``reads_tops``); the net acts on it.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from layer_cases import CASES
from layer_cases.case import Case

import minicaffe
from minicaffe import backend, proto, summary, testing
from minicaffe.blob import Blob
from minicaffe.errors import NetError
from minicaffe.layers import TRAIN
from minicaffe.net import Net
from minicaffe.proto import text
from minicaffe.testing.differences import derivative

REFUSING = {"Pooling-stochastic, TEST"}
"""Cases that refuse to go backward."""
MOVING = [case for case in CASES if case.bottoms and case.name not in REFUSING]


# --- what backward reads -----------------------------------------------------------------------------------------


def backward_with(case: Case, folder, spoilt: tuple[str, int] | None = None) -> list:
    """All gradients of a case; between the passes the value of one bottom or top is spoilt."""
    rig = testing.Rig(case.type, case.draw(), seed=1, dtype=np.float64, **case.how(folder))
    try:
        rig.fill_zero_params(np.random.default_rng(2))
        rig.forward()
        if spoilt:
            kind, k = spoilt
            blob = {"bottom": rig.bottom, "top": rig.top}[kind][k]
            values = blob.data
            # other numbers that are valid where they are read: labels and indices stay what they can be, others change
            values[...] = values.max() - values if _integral(values) else 0.3 - 1.7 * values
        diffs = [np.random.default_rng(3).standard_normal(blob.shape) for blob in rig.top]
        rig.backward(diffs)
        result = rig.result()
        return [*result.bottom_diffs, *result.param_diffs]
    finally:
        rig.net.close()


def _integral(values) -> bool:
    return values.size > 0 and bool((values == np.round(values)).all())


def changes(case: Case, folder, spoilt: tuple[str, int]) -> bool:
    pairs = zip(backward_with(case, folder), backward_with(case, folder, spoilt), strict=True)
    return any(a is not None and not np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def read_by(case: Case, folder) -> tuple[set, set]:
    """What backward of a case says that it reads, and all there is."""
    rig = testing.Rig(case.type, case.draw(), **case.how(folder))
    rig.net.close()
    declared, every = set(), set()
    for kind, blobs, read in (
        ("bottom", rig.bottom, rig.layer.reads_bottoms),
        ("top", rig.top, rig.layer.reads_tops),
    ):
        every |= {(kind, k) for k in range(len(blobs))}
        declared |= {(kind, k) for k in range(len(blobs)) if read is None or k in read}
    return declared, every


@pytest.mark.parametrize("case", MOVING, ids=lambda case: case.name)
def test_backward_reads_nothing_that_its_layer_does_not_name(case, tmp_path):
    declared, every = read_by(case, tmp_path)
    shared = {"Flatten", "Reshape", "Split"} | ({case.type} if len(every) == 2 else set())
    for spoilt in sorted(every - declared):
        assert not changes(case, tmp_path, spoilt), spoilt
    assert case.type in shared or not any(kind == "top" for kind, _ in declared - every)


@pytest.mark.parametrize("kind", sorted({case.type for case in MOVING} - {"Python"}))
def test_what_a_layer_names_is_read_in_some_case(kind, tmp_path):
    """A value that is named without need costs a copy."""
    named, read = set(), set()
    for number, case in enumerate(case for case in MOVING if case.type == kind):
        folder = tmp_path / str(number)
        folder.mkdir()
        declared, _ = read_by(case, folder)
        named |= declared
        read |= {spoilt for spoilt in declared - read if changes(case, folder, spoilt)}
    assert read == named


# --- one after the other on one blob -----------------------------------------------------------------------------

FIRST = {
    "InnerProduct": 'type: "InnerProduct" inner_product_param { num_output: 3 weight_filler { type: "gaussian" } axis: 1 }',
    "Convolution": 'type: "Convolution" convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "gaussian" } }',
    "Deconvolution": 'type: "Deconvolution" convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "gaussian" } }',
    "LRN": 'type: "LRN" lrn_param { local_size: 3 alpha: 1 }',
    "LRN within": 'type: "LRN" lrn_param { local_size: 3 alpha: 1 norm_region: WITHIN_CHANNEL }',
    "Power 1.5": 'type: "Power" power_param { power: 1.5 shift: 9 }',
    "Power -1": 'type: "Power" power_param { power: -1 shift: 9 scale: 0.5 }',
    "Power ratio": 'type: "Power" power_param { power: 3 }',
    "Power 2": 'type: "Power" power_param { power: 2 }',
    "Log": 'type: "Log" log_param { shift: 9 }',
    "BNLL": 'type: "BNLL"',
    "AbsVal": 'type: "AbsVal"',
    "Clip": 'type: "Clip" clip_param { min: -1 max: 1 }',
    "MVN": 'type: "MVN"',
    "Max pooling": 'type: "Pooling" pooling_param { kernel_size: 2 }',
    "Average pooling": 'type: "Pooling" pooling_param { kernel_size: 2 pool: AVE }',
    "Flatten": 'type: "Flatten" flatten_param { axis: 2 }',
    "Reshape": 'type: "Reshape" reshape_param { shape { dim: 0 dim: 0 dim: 4 } }',
    "Slice": 'type: "Slice"',
    "Concat": 'type: "Concat"',
    "Split": 'type: "Split"',
    "Tile": 'type: "Tile" tile_param { tiles: 2 }',
    "Im2col": 'type: "Im2col" convolution_param { kernel_size: 2 }',
    "Sum": 'type: "Eltwise" bottom: "x2"',
    "Product": 'type: "Eltwise" bottom: "x2" eltwise_param { operation: PROD }',
    "Quotient": 'type: "Eltwise" bottom: "x2" eltwise_param { operation: PROD stable_prod_grad: false }',
    "Maximum": 'type: "Eltwise" bottom: "x2" eltwise_param { operation: MAX }',
    "SeLu": 'type: "SeLu"',
}
IN_PLACE = {
    "ReLU": 'type: "ReLU"',
    "Leaky ReLU": 'type: "ReLU" relu_param { negative_slope: 0.3 }',
    "TanH": 'type: "TanH"',
    "Sigmoid": 'type: "Sigmoid"',
    "ELU": 'type: "ELU"',
    "Exp": 'type: "Exp" exp_param { scale: 0.5 }',
    "Swish": 'type: "Swish"',
    "ReLU6": 'type: "ReLU6" relu6_param { negative_slope: 0.3 }',
    "NegReLU": 'type: "NegReLU"',
    "HardSigmoid": 'type: "HardSigmoid"',
    "Truncation": 'type: "Truncation" truncation_param { lower_bound: -1.03 upper_bound: 1.07 }',
    "SoftTruncation": 'type: "SoftTruncation"',
    "PReLU": 'type: "PReLU" prelu_param { filler { type: "gaussian" } }',
    "Dropout": 'type: "Dropout"',
    "Dropout TEST": 'type: "Dropout" phase: TEST',
    "SpatialDropout": 'type: "SpatialDropout"',
    "Noise": 'type: "Noise" noise_param { gaussian_std: 0.3 bias: 1 }',
    "Insanity": 'type: "Insanity"',
    "Linear": 'type: "Power" power_param { scale: -2 shift: 0.5 }',
    "Softmax": 'type: "Softmax"',
    "BatchNorm": 'type: "BatchNorm"',
    "BN": 'type: "BN" bn_param { slope_filler { type: "gaussian" } bias_filler { type: "gaussian" } }',
    "SegNet's BN": 'type: "BN" bn_param { scale_filler { type: "gaussian" } shift_filler { type: "gaussian" } }',
    "Scale": 'type: "Scale" scale_param { filler { type: "gaussian" } bias_term: true bias_filler { type: "gaussian" } }',
    "Scale by": 'type: "Scale" bottom: "v" scale_param { axis: 0 }',
    "EltwiseAffine": 'type: "EltwiseAffine" eltwise_affine_param { slope_filler { type: "gaussian" } }',
    "Bias": 'type: "Bias" bias_param { filler { type: "gaussian" } }',
    "LabelSpecificAdd": 'type: "LabelSpecificAdd" bottom: "labels" label_specific_add_param { bias: 9 }',
}
"""Every type that may work in place while it goes backward, and goes backward then as it does elsewhere."""
LABELS = (
    'layer { name: "labels" type: "DummyData" top: "labels" '
    "dummy_data_param { shape { dim: 2 } data_filler { value: 1 } } }"
)

MAKERS = {**FIRST, **IN_PLACE}


def definition(chain: tuple[str, ...], in_place: bool = True, dim: str = "dim: 2 dim: 3 dim: 2 dim: 2") -> str:
    """``x`` through the layers of the chain, the first of which makes a new blob, and a product that weighs the result."""
    layers = [
        "force_backward: true",
        f'layer {{ name: "in" type: "Input" top: "x" top: "x2" top: "v" '
        f"input_param {{ shape {{ {dim} }} shape {{ {dim} }} shape {{ dim: 2 }} }} }}",
    ]
    if any('"labels"' in MAKERS[kind] for kind in chain):
        layers.append(LABELS)
    before = "x"
    for i, kind in enumerate(chain):
        top = before if in_place and i else f"y{i}"
        layers.append(f'layer {{ name: "l{i}" bottom: "{before}" {MAKERS[kind]} top: "{top}" }}')
        before = top
    layers.append(f'layer {{ name: "s" type: "Power" bottom: "{before}" top: "z" power_param {{ scale: 1 }} }}')
    return "\n".join(layers)


def built(text: str, tmp_path, phase: int = TRAIN) -> minicaffe.Net:
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    backend.random.seed(1)
    net = minicaffe.Net(str(path), phase, dtype=np.float64)
    rng = np.random.default_rng(0)
    for name in net.inputs:
        data = net.blobs[name].data
        apart = np.linspace(-2, 2.05, data.size) + rng.uniform(0, 1 / data.size, data.size)  # none equal, none a kink
        data[...] = rng.permutation(apart).reshape(data.shape)
    return net


class Numbers:
    """The gradients of a net's params and of its input ``x``, and what finite differences give along one direction."""

    def __init__(self, net: minicaffe.Net) -> None:
        self.net = net
        self.state = backend.current().random.get_state()
        self.inputs = [net.blobs["x"], *(param.blob for param in net.learnable if param.has_lr or _learns(net, param))]
        self.names = [name for name in net.outputs if name not in net.inputs]
        self.weights = {}

    def objective(self) -> float:
        backend.current().random.set_state(self.state)
        self.net.run_forward()
        for name in self.names:
            shape = self.net.blobs[name].shape
            self.weights.setdefault(name, np.random.default_rng(5).standard_normal(shape))
        return sum(float((self.net.blobs[name].data * self.weights[name]).sum()) for name in self.names)

    def gradients(self) -> list[np.ndarray]:
        self.objective()
        for name in self.names:
            self.net.blobs[name].diff[...] = self.weights[name]
        self.net.clear_param_diffs()
        self.net.run_backward()
        return [blob.diff.copy() for blob in self.inputs]

    def check(self) -> None:
        rng, found = np.random.default_rng(6), self.gradients()
        starts = [blob.data.copy() for blob in self.inputs]
        directions = [rng.standard_normal(blob.shape) for blob in self.inputs]

        def moved(t: float) -> np.ndarray:
            for blob, start, direction in zip(self.inputs, starts, directions, strict=True):
                blob.data[...] = start + t * direction
            return np.array([self.objective()])

        expected = derivative(moved, 1e-3)[0]
        scale = max(np.sqrt(sum(float((dx * dx).sum()) for dx in found)), 1e-3)
        along = sum(float((dx * v).sum()) for dx, v in zip(found, directions, strict=True))
        assert abs(along - expected) <= 1e-6 * scale


def _learns(net, param) -> bool:
    return all(net.layers[i].type != "BatchNorm" for i, _ in param.users)


def test_every_type_that_works_in_place_is_here():
    from minicaffe.layers.base import registry

    listed = {text.split('"')[1] for text in IN_PLACE.values()}
    built_in = [cls for cls in registry.values() if not cls.user_defined]  # not what other tests registered
    able = {cls.type for cls in built_in if cls.in_place == "always"} | {"Power"}
    assert listed | {"SeLu"} == able


def test_a_layer_whose_backward_takes_y_for_x_in_place_finds_it_when_a_later_one_overwrites_it(tmp_path):
    """SeLu, whose gradient in place is not the slope of what it computes."""
    head = definition(("InnerProduct", "SeLu")).rpartition("\n")[0]
    in_place, apart = (
        Numbers(built(f'{head}\nlayer {{ name: "s" type: "Sigmoid" bottom: "y0" top: "{top}" }}', tmp_path))
        for top in ("y0", "z")
    )
    assert copies(in_place.net) == ["l1"] and not copies(apart.net)
    for found, expected in zip(in_place.gradients(), apart.gradients(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("second", IN_PLACE)
@pytest.mark.parametrize("first", MAKERS)
def test_gradients_of_pairs(first, second, tmp_path):
    Numbers(built(definition((first, second)), tmp_path)).check()


def triples() -> list[tuple[str, ...]]:
    """A sample of chains of three to five layers."""
    rng = np.random.default_rng(0)
    makers, workers = list(MAKERS), list(IN_PLACE)
    chains = [(rng.choice(makers), *rng.choice(workers, 2 + i % 3)) for i in range(120)]
    return [tuple(map(str, chain)) for chain in chains]


@pytest.mark.parametrize("chain", triples(), ids=" ".join)
def test_gradients_of_longer_chains(chain, tmp_path):
    Numbers(built(definition(chain), tmp_path)).check()


NETS = (
    ("Convolution", "BatchNorm", "Scale", "ReLU", "Dropout"),
    ("Convolution", "BatchNorm", "Scale", "ReLU", "Scale"),
    ("Convolution", "BatchNorm", "Scale", "TanH", "Dropout"),
    ("BatchNorm", "Scale", "Softmax", "ReLU"),
    ("Sum", "ReLU", "Linear"),
    ("Sum", "Leaky ReLU", "Dropout"),
    ("InnerProduct", "Sigmoid", "Dropout", "Bias"),
    ("LRN", "Dropout"),
)


@pytest.mark.parametrize("chain", NETS, ids=" ".join)
def test_passes_that_are_fused_or_replayed_give_the_same(chain, tmp_path):
    """From the third pass on replayed; without callbacks as one; against the net in which nothing is in place."""
    backend.random.seed(4)
    nets = [Numbers(built(definition(chain, in_place), tmp_path)) for in_place in (True, False)]
    for net in nets:
        net.state = nets[0].state
    for _ in range(5):
        for in_place, apart in zip(*(net.gradients() for net in nets), strict=True):
            np.testing.assert_allclose(in_place, apart, rtol=1e-9, atol=1e-12)
    nets[0].net.after_forward(lambda index: None)
    nets[0].net.after_backward(lambda index: None)
    for one_by_one, apart in zip(*(net.gradients() for net in nets), strict=True):
        np.testing.assert_allclose(one_by_one, apart, rtol=1e-9, atol=1e-12)


def copies(net: minicaffe.Net) -> list[str]:
    return [step.layer.name for step in net.steps if step.kept]


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        (("Convolution", "ReLU", "Dropout"), []),
        (("Convolution", "BatchNorm", "Scale", "ReLU", "Dropout"), []),
        (("Convolution", "Leaky ReLU", "ReLU", "Dropout"), []),
        (("Max pooling", "ReLU"), []),
        (("TanH", "Dropout TEST"), []),
        (("TanH", "Dropout"), ["l0"]),
        (("Convolution", "ReLU", "Scale"), ["l1"]),
        (("Convolution", "Sigmoid", "TanH", "Dropout"), ["l1", "l2"]),
    ],
    ids=str,
)
def test_a_copy_is_kept_only_where_backward_reads_what_is_overwritten(chain, expected, tmp_path):
    net = built(definition(chain), tmp_path)
    assert copies(net) == expected
    net.reuse_memory()
    assert copies(net) == []
    assert copies(built(definition(chain).replace("force_backward: true", ""), tmp_path)) == []


def test_copies_count_as_scratch_memory(tmp_path):
    with_copy, without = (
        summary.memory(built(definition(("InnerProduct", kind, "Bias")), tmp_path)).scratch for kind in ("TanH", "Bias")
    )
    assert with_copy - without == 2 * 3 * 8


def test_constant_data_is_filled_anew_where_it_is_worked_on(tmp_path):
    filler = "dummy_data_param { shape { dim: 2 dim: 3 } data_filler { value: 0.5 } }"
    net = built(
        f'layer {{ name: "d" type: "DummyData" top: "x" {filler} }} layer {{ name: "t" type: "TanH" bottom: "x" top: "x" }}',
        tmp_path,
    )
    for _ in range(3):
        net.run_forward()
        np.testing.assert_allclose(net.blobs["x"].data, np.tanh(0.5))


def test_a_copy_follows_the_shape_of_its_blob(tmp_path):
    net = built(definition(("Convolution", "TanH", "Dropout")), tmp_path)
    Numbers(net).check()
    for rows in (5, 1):
        net.blobs["x"].reshape(rows, 3, 4, 3)
        net.blobs["x"].data[...] = np.random.default_rng(rows).standard_normal((rows, 3, 4, 3))
        Numbers(net).check()


def test_what_stands_in_a_blob_is_what_the_last_layer_that_ran_left_there(tmp_path):
    net = built(definition(("InnerProduct", "TanH", "Dropout TEST", "Linear")), tmp_path)
    net.run_forward(end=net.layer_index("l1"))
    tanh = net.blobs["y0"].data.copy()
    net.run_forward()
    np.testing.assert_allclose(net.blobs["y0"].data, 0.5 - 2 * tanh)


class AsItIs(minicaffe.Layer):
    """A user's layer that says nothing of what it reads: its own top."""

    in_place = "always"

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data ** 3

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 3 * np.cbrt(top[0].data) ** 2 * top[0].diff


class Alias(minicaffe.Layer):
    """A user's layer whose top is its bottom's memory."""

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
        top[0].share_data(bottom[0])
        top[0].share_diff(bottom[0])

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        pass


USERS = 'type: "Python" python_param {{ module: "test_in_place" layer: "{}" }}'


@pytest.mark.parametrize("chain", [("Users", "TanH"), ("TanH", "Users"), ("LRN", "Users", "Scale")], ids=" ".join)
def test_layers_of_users_are_taken_to_read_everything(chain, tmp_path, monkeypatch):
    monkeypatch.setitem(MAKERS, "Users", USERS.format("AsItIs"))
    Numbers(built(definition(chain), tmp_path)).check()


# --- in place behind a view --------------------------------------------------------------------------------------

VIEWS = {
    "Flatten": FIRST["Flatten"],
    "Reshape": FIRST["Reshape"],
    "Concat": FIRST["Concat"],
    "Slice": FIRST["Slice"],
    "Split": FIRST["Split"],
}
READERS = {
    "alone": "",
    "value": 'layer { name: "r" type: "Power" bottom: "x0" top: "r" power_param { power: 1.5 shift: 9 } }',
    "product": 'layer { name: "r" type: "Eltwise" bottom: "x0" bottom: "x2" top: "r" eltwise_param { operation: PROD } }',
    "view": f'layer {{ name: "r" bottom: "x0" {FIRST["Flatten"]} top: "r" }}',
    "view in place": f'layer {{ name: "r" bottom: "x0" {FIRST["Flatten"]} top: "r" }}'
    f'layer {{ name: "s2" bottom: "r" {IN_PLACE["Sigmoid"]} top: "r" }}',
}


def behind(view: str, worker: str, maker: str, reader: str, in_place: bool) -> str:
    top = "f" if in_place else "g"
    return "\n".join(
        [
            "force_backward: true",
            'layer { name: "in" type: "Input" top: "x" top: "x2" top: "v" input_param { shape { dim: 2 dim: 3 dim: 2 dim: 2 } '
            "shape { dim: 2 dim: 3 dim: 2 dim: 2 } shape { dim: 2 } } }",
            f'layer {{ name: "m" bottom: "x" {MAKERS[maker]} top: "x0" }}',
            f'layer {{ name: "view" bottom: "x0" {VIEWS[view]} top: "f" {"" if view != "Split" else chr(10) + "top: " + chr(34) + "other" + chr(34)} }}',
            f'layer {{ name: "w" bottom: "f" {IN_PLACE[worker]} top: "{top}" }}',
            READERS[reader],
        ]
    )


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("maker", "worker"), [("LRN", "TanH"), ("TanH", "Dropout"), ("Convolution", "Scale by")])
@pytest.mark.parametrize("view", VIEWS)
def test_in_place_behind_a_view(view, maker, worker, reader, tmp_path):
    """The view is a copy then: other readers of its bottom find what they would find without it."""
    backend.random.seed(4)
    here, apart = (
        Numbers(built(behind(view, worker, maker, reader, in_place), tmp_path)) for in_place in (True, False)
    )
    assert sorted(name.replace("g", "f") for name in apart.names) == sorted(here.names)
    apart.state = here.state
    here.objective()
    apart.weights = {name.replace("f", "g") if name == "f" else name: w for name, w in here.weights.items()}
    for _ in range(4):
        found = [here.gradients(), apart.gradients()]
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        for name, blob in here.net.blobs.items():
            np.testing.assert_allclose(blob.data, apart.net.blobs["g" if name == "f" else name].data, err_msg=name)
    here.check()


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shares_memory_unless_it_is_worked_on(view, tmp_path):
    text = behind(view, "TanH", "LRN", "alone", in_place=False)
    net = built(text, tmp_path)
    assert net.blobs["f"].shares_data_with(net.blobs["x0"])
    worked_on = built(behind(view, "TanH", "LRN", "alone", in_place=True), tmp_path)
    assert not worked_on.blobs["f"].shares_data_with(worked_on.blobs["x0"])
    worked_on.run_forward()
    expected = {name: worked_on.blobs[name].data.copy() for name in worked_on.outputs}
    worked_on.reuse_memory()
    worked_on.run_forward()
    for name, values in expected.items():
        np.testing.assert_array_equal(worked_on.blobs[name].data, values)


def test_a_users_view_that_is_overwritten_under_its_readers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(VIEWS, "Alias", USERS.format("Alias"))
    Numbers(built(behind("Alias", "TanH", "LRN", "alone", in_place=True), tmp_path)).check()
    with pytest.raises(
        NetError, match=r"net.prototxt:5: layer 'w' \(TanH\): .* blob 'x0.*give its top a name of its own"
    ):
        built(behind("Alias", "TanH", "LRN", "value", in_place=True), tmp_path)


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ builds the CUDA kernels for the CPU")
@pytest.mark.parametrize("chain", [("InnerProduct", "TanH", "Dropout TEST", "Linear"), ("Flatten", "Sigmoid", "Bias")])
def test_copies_are_kept_on_a_device_too(chain, tmp_path):
    from strict_gpu import StrictBackend

    found = []
    for where in (backend.host_backend(), StrictBackend()):
        with backend.use(where):
            net = Numbers(built(definition(chain), tmp_path))
            found.append([*net.gradients(), *net.gradients()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_copy_follows_where_its_blob_has_its_gradient():
    """A blob that is given other memory for its gradient after a copy of its value was made."""
    layers = """force_backward: true
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }
    layer { name: "lrn" type: "LRN" bottom: "x" top: "a" lrn_param { local_size: 3 alpha: 0.5 } }
    layer { name: "sigmoid" type: "Sigmoid" bottom: "a" top: "a" }"""
    found = []
    for shared in (False, True):
        net = Net(text.parse(layers, proto.NetParameter()), proto.TRAIN)
        net.blobs["x"].data[...] = np.random.default_rng(0).standard_normal((2, 3, 4, 4))
        elsewhere = Blob((2, 3, 4, 4))
        if shared:
            net.blobs["a"].share_diff(elsewhere)
        for _ in range(4):
            net.run_forward()
            net.blobs["a"].diff[...] = 1
            net.run_backward()
        assert elsewhere.diff.any() == shared
        found.append(net.blobs["x"].diff.copy())
    np.testing.assert_array_equal(*found)


def test_layers_that_share_memory_follow_where_their_bottom_has_its():
    """An input that is given other memory after the net was made, and is read through a Split and a view."""
    layers = """force_backward: true
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "view" type: "Reshape" bottom: "x" top: "view" reshape_param { shape { dim: 6 } } }
    layer { name: "sum" type: "Power" bottom: "view" top: "power" power_param { scale: 2 } }
    layer { name: "tanh" type: "AbsVal" bottom: "x" top: "abs" }"""
    net = Net(text.parse(layers, proto.NetParameter()), proto.TRAIN)
    elsewhere = Blob((2, 3))
    for i in range(8):
        if i == 4:
            net.blobs["x"].share_data(elsewhere)
            net.blobs["x"].share_diff(elsewhere)
        net.blobs["x"].data[...] = i + 1
        net.run_forward()
        assert (net.blobs["power"].data == 2 * (i + 1)).all() and (net.blobs["abs"].data == i + 1).all()
        net.blobs["power"].diff[...] = net.blobs["abs"].diff[...] = i
        net.run_backward()
        assert (net.blobs["x"].diff == 3 * i).all()
    assert (elsewhere.diff == 21).all()


LATER = [  # layers up to one that works in place, what is changed of which, and the layer in place
    ('layer { name: "a" type: "Power" bottom: "x0" top: "x" }', "a", {"power": 3.0}, "x"),
    ('layer { name: "a" type: "TanH" bottom: "x0" top: "q" } '
     'layer { name: "e" type: "Eltwise" bottom: "x0" bottom: "q" top: "x" }', "e",
     {"operation": 0, "stable_prod_grad": False}, "x"),
    ('layer { name: "a" type: "Reduction" bottom: "x0" top: "x" reduction_param { axis: 1 } }', "a", {"operation": 3}, "x"),
    ('layer { name: "a" type: "MVN" bottom: "x0" top: "x" mvn_param { normalize_variance: false } }', "a",
     {"normalize_variance": True}, "x"),
]  # fmt: skip


@pytest.mark.parametrize("layers, name, changes, blob", LATER, ids=["Power", "Eltwise", "Reduction", "MVN"])
def test_a_layer_that_comes_to_read_what_a_later_one_overwrites(layers, name, changes, blob):
    """The gradients are those of the net in which nothing is in place."""
    found = []
    for last in (blob, "y"):
        head = (
            'force_backward: true layer { name: "in" type: "Input" top: "x0" input_param { shape { dim: 2 dim: 3 } } } '
        )
        tail = f'layer {{ name: "t" type: "TanH" bottom: "{blob}" top: "{last}" }}'
        net = Net(text.parse(head + layers + tail, proto.NetParameter()), TRAIN, dtype=np.float64)
        net.blobs["x0"].data[...] = np.random.default_rng(0).uniform(0.5, 1.5, (2, 3))
        rows = []
        for changed in (False, True):
            for option, value in changes.items() if changed else ():
                setattr(net.layer_dict[name], option, value)
            for _ in range(4):
                net.run_forward()
                net.blobs[net.outputs[0]].diff[...] = 1
                net.run_backward()
                rows.append((net.blobs[net.outputs[0]].data.copy(), net.blobs["x0"].diff.copy()))
        found.append(rows)
    for (y, dx), (expected, gradient) in zip(*found, strict=True):
        np.testing.assert_allclose(y, expected, rtol=1e-12)
        np.testing.assert_allclose(dx, gradient, rtol=1e-12)
