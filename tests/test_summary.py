"""What layers and nets cost: FLOPs, bytes and memory, and the command that shows them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_case import run
from test_models_structure import definition

from minicaffe import proto, summary
from minicaffe.layers.base import registry
from minicaffe.layers.cost import Cost
from minicaffe.net import Net
from minicaffe.proto import text

CASES = Path(__file__).parent / "golden" / "layers"


def single(options: str, *shapes: tuple[int, ...], force: bool = True, phase: int = proto.TRAIN) -> Net:
    """A net of one layer on inputs of these shapes; all its bottoms get gradients if ``force``."""
    inputs = "".join(
        f'layer {{ name: "x{i}" type: "Input" top: "x{i}" input_param {{ shape {{ {" ".join(f"dim: {n}" for n in shape)} }} }} }}'
        for i, shape in enumerate(shapes)
    )
    bottoms = "".join(f'bottom: "x{i}" ' for i in range(len(shapes)))
    net = f'force_backward: {str(force).lower()} {inputs} layer {{ name: "it" top: "y" {bottoms} {options} }}'
    return Net(text.parse(net, proto.NetParameter()), phase)


def costs(net: Net) -> tuple[Cost, Cost]:
    """Of the last layer, forward and backward."""
    return summary.forward_cost(net.steps[-1]), summary.backward_cost(net.steps[-1])


CONV = 'type: "Convolution" convolution_param { num_output: 8 kernel_size: 3 stride: 2 group: 2 }'


def test_a_convolution():
    forward, backward = costs(single(CONV, (5, 4, 9, 11)))
    outputs, taps = 5 * 8 * 4 * 5, 2 * 3 * 3
    x, w, y = 5 * 4 * 9 * 11, 8 * taps + 8, outputs
    assert forward == Cost(2 * outputs * taps, outputs, 4 * (x + w + y))
    assert backward == Cost(4 * outputs * taps, outputs, 4 * (2 * x + 3 * w + y))


def test_a_deconvolution_is_a_convolution_turned_round():
    options = "convolution_param { num_output: %d kernel_size: 4 stride: 2 pad: 1 bias_term: false }"
    there, _ = costs(single('type: "Convolution" ' + options % 6, (3, 2, 8, 8)))
    back, _ = costs(single('type: "Deconvolution" ' + options % 2, (3, 6, 4, 4)))
    assert there.products == back.products == 2 * (3 * 6 * 4 * 4) * (2 * 4 * 4)
    assert there.operations == back.operations == 0


def test_two_images_through_one_convolution():
    options = 'convolution_param { num_output: 2 kernel_size: 1 } top: "z"'
    net = single(f'type: "Convolution" {options}', (1, 3, 4, 4), (1, 3, 4, 4))
    forward, backward = costs(net)
    assert forward.products == 2 * (2 * 2 * 4 * 4 * 3)
    assert backward.products == 2 * forward.products
    net.steps[-1].propagate_down = [True, False]
    assert costs(net)[1].products == 1.5 * forward.products


def test_an_inner_product():
    options = 'type: "InnerProduct" inner_product_param { num_output: 7 }'
    forward, backward = costs(single(options, (5, 2, 3)))
    assert forward == Cost(2 * 5 * 6 * 7, 5 * 7, 4 * (30 + 42 + 7 + 35))
    assert backward.products == 2 * forward.products


def test_what_needs_no_gradient_costs_none():
    options = 'type: "InnerProduct" loss_weight: 1 inner_product_param { num_output: 7 } '
    forward, of_weights = costs(single(options, (5, 6), force=False))
    assert of_weights.products == forward.products
    fixed = options + "param { lr_mult: 0 } param { lr_mult: 0 }"
    assert costs(single(fixed, (5, 6), force=False))[1] == Cost()


@pytest.mark.parametrize(("type", "gates", "of_output"), [("LSTM", 4, 0), ("RNN", 1, 1)])
def test_a_recurrent_layer(type, gates, of_output):
    steps, num, inputs, static, d = 6, 2, 5, 3, 4
    options = f'type: "{type}" recurrent_param {{ num_output: {d} }}'
    forward, backward = costs(single(options, (steps, num, inputs), (steps, num), (num, static)))
    of_inputs, of_static = 2 * steps * num * inputs * gates * d, 2 * num * static * gates * d
    of_state = 2 * steps * num * d * (gates + of_output) * d
    assert forward.products == of_inputs + of_static + of_state
    assert backward.products == 2 * forward.products


@pytest.mark.parametrize(("options", "shapes", "operations"), [
    ('type: "Pooling" pooling_param { kernel_size: 3 stride: 2 }', [(2, 3, 7, 7)], 2 * 3 * 3 * 3 * 9),
    ('type: "Eltwise"', [(2, 3)] * 3, 2 * 6),
    ('type: "Eltwise" eltwise_param { coeff: 1 coeff: -1 }', [(2, 3)] * 2, 3 * 6),
    ('type: "Scale" scale_param { bias_term: true }', [(2, 3)], 2 * 6),
    ('type: "ReLU"', [(2, 3)], 6),
    ('type: "Reshape" reshape_param { shape { dim: -1 } }', [(2, 3)], 0),
    ('type: "Concat"', [(2, 3), (2, 3)], 0),
    ('type: "Dropout"', [(2, 3)], 2 * 6),
    ('type: "SoftmaxWithLoss"', [(4, 10), (4,)], 5 * 40),
])  # fmt: skip
def test_element_wise_operations(options, shapes, operations):
    forward, _ = costs(single(options, *shapes, force=False))
    assert (forward.products, forward.operations) == (0, operations)


def test_views_move_nothing_and_splits_add_gradients():
    forward, backward = costs(single('type: "Flatten"', (2, 3, 4)))
    assert forward == backward == Cost()
    forward, backward = costs(single('type: "Split" top: "z" top: "u"', (2, 3)))
    assert forward == Cost()
    assert backward == Cost(0, 2 * 6, 4 * 4 * 6)


def test_dropout_does_nothing_in_a_test():
    assert costs(single('type: "Dropout"', (2, 3), phase=proto.TEST))[0].operations == 0


@pytest.mark.parametrize("type", sorted(registry))
def test_every_layer_declares_its_cost(type, in_folder):
    found = sorted(CASES.glob(f"{type}__*.prototxt"))
    if not found:
        pytest.skip(f"no golden case of {type}")
    in_folder(CASES)
    for path in found[:3]:
        step = next(step for step in Net(str(path), proto.TRAIN).steps if step.layer.name == "test")
        forward = summary.forward_cost(step)
        step.need_backward = True
        for cost in (forward, summary.backward_cost(step)):
            assert all(np.isfinite(cost)) and min(cost) >= 0
        assert (forward.bytes > 0) == step.layer.moves
        assert (forward.products > 0) == (type in {"Convolution", "Deconvolution", "InnerProduct", "LSTM", "RNN"})


# --- nets ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def lenet() -> Net:
    net = Net(definition("lenet/lenet_train_test.prototxt", {"data": (8, 1, 28, 28), "label": (8,)}), proto.TRAIN)
    return net


def test_the_totals_of_lenet(lenet):
    found = summary.summarize(lenet)
    multiplied = 20 * 24 * 24 * 25 + 50 * 8 * 8 * 500 + 800 * 500 + 500 * 10
    assert found.forward.products == 2 * 8 * multiplied
    assert found.backward.products == 2 * 8 * (2 * multiplied - 20 * 24 * 24 * 25)  # the images get no gradient
    assert (found.params, found.images) == (431_080, 8)
    assert sum(layer.params for layer in found.layers) == found.params


def test_memory_of_training_is_what_is_allocated(lenet):
    found = summary.summarize(lenet).memory
    lenet.run_forward()
    lenet.run_backward()
    values = {id(blob.data_storage): blob.data_storage for blob in lenet._blobs}.values()
    gradients = {id(blob.diff_storage): blob.diff_storage for blob in lenet._blobs}.values()
    assert found.blobs == sum(storage.nbytes for storage in values if storage.touched)
    assert found.blob_gradients == sum(storage.nbytes for storage in gradients if storage.touched)
    assert found.param_gradients == sum(
        p.blob.diff_storage.nbytes for p in lenet.learnable if p.blob.diff_storage.touched
    )
    assert found.params == found.param_gradients == 4 * 431_080
    assert found.training == sum(vars(found).values()) - found.planned_blobs


def test_shared_params_count_once():
    net = Net(
        definition("siamese/mnist_siamese_train_test.prototxt", {"pair_data": (2, 2, 28, 28), "sim": (2,)}), proto.TRAIN
    )
    found = summary.summarize(net)
    assert found.params == 431_102
    assert sum(layer.params for layer in found.layers) == 2 * 431_102
    assert found.memory.params == 4 * 431_102


def test_an_update_reads_and_writes_three_times_the_weights(lenet):
    passes = [summary.forward_cost(step).plus(summary.backward_cost(step)) for step in lenet.steps]
    total = summary.training_cost(lenet)
    assert total.products == sum(cost.products for cost in passes)
    assert total.bytes - sum(cost.bytes for cost in passes) == 6 * 4 * 431_080


def test_load_makes_no_weights():
    net = summary.load(str(CASES / "Convolution__basic.prototxt"), proto.TEST)
    assert not any(blob.data.any() for layer in net.layers for blob in layer.blobs)


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder without data."""
    monkeypatch.chdir(tmp_path)


SHAPES = ("-shape", "data=16,1,28,28", "-shape=label=16")


def test_the_tables(capsys, elsewhere):
    outcome = run(capsys, "summarize", "-model", "lenet/lenet_train_test.prototxt", *SHAPES)
    assert outcome.status == 0
    rows = [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in outcome.out.splitlines()
    ]
    assert ["conv2", "Convolution", "16x50x8x8", "25.1 k", "51.3 M", "3.2 M", "489 k", "102 M"] in rows
    assert ["loss", "SoftmaxWithLoss", "scalar", "", "800", "50", "708", "800"] in rows
    labels = [row[0] for row in rows]
    assert "peak while training" in labels
    assert any(label.startswith("the same with blobs' memory reused") for label in labels)


def test_a_deploy_net_has_no_backward(capsys, elsewhere):
    outcome = run(capsys, "summarize", "-model", "lenet/lenet.prototxt", "-phase", "TEST")
    assert outcome.status == 0
    assert "64x20x24x24" in outcome.out
    assert "backward" not in outcome.out
    assert "training" not in outcome.out


def test_json(capsys, elsewhere):
    outcome = run(capsys, "summarize", "-model", "lenet/lenet_train_test.prototxt", *SHAPES, "-json", "-phase", "TEST")
    assert outcome.status == 0
    found = json.loads(outcome.out)
    assert (found["name"], found["phase"], found["images"], found["params"]) == ("LeNet", "TEST", 16, 431_080)
    assert [layer["name"] for layer in found["layers"]][-2:] == ["accuracy", "loss"]
    assert found["layers"][3]["tops"] == [[16, 20, 24, 24]]
    assert found["forward"]["products"] == sum(layer["forward"]["products"] for layer in found["layers"])
    memory = found["memory_bytes"]
    assert memory["planned_inference"] < memory["inference"] < memory["training"]


def test_data_that_is_not_there(capsys, elsewhere):
    outcome = run(capsys, "summarize", "-model", "lenet/lenet_train_test.prototxt")
    assert outcome.status == 1
    assert "or say what its data layers would make: --shape data=N,C,H,W --shape label=N" in outcome.errors[0]


@pytest.mark.parametrize(("shapes", "message"), [
    (("data=16,1,28,28",), "no shape is given for label"),
    (("data=16,1,28,28", "label=16", "mask=16"), "no layer brings in mask; the net's layers without bottoms make: data, label"),
    (("data=16,x",), "expected a blob's name and its sizes, like data=1,3,224,224; found 'data=16,x'"),
    (("16,1,28,28",), "expected a blob's name and its sizes"),
    (("data=0,1,28,28",), "expected a blob's name and its sizes"),
])  # fmt: skip
def test_wrong_shapes(capsys, elsewhere, shapes, message):
    flags = [part for shape in shapes for part in ("-shape", shape)]
    outcome = run(capsys, "summarize", "-model", "lenet/lenet_train_test.prototxt", *flags)
    assert outcome.status != 0
    assert message in outcome.errors[0]
