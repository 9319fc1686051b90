"""Upgrades against what Caffe's own upgrade tools wrote, logged and returned (golden/upgrade)."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from minicaffe import proto
from minicaffe.errors import PrototxtError
from minicaffe.proto import files, text, upgrade

GOLDEN = Path(__file__).parent / "golden" / "upgrade"
NETS = sorted(path.name.removesuffix(".in.prototxt") for path in GOLDEN.glob("v*.in.prototxt")) + ["already_new"]
SOLVERS = sorted(path.name.removesuffix(".out.prototxt") for path in GOLDEN.glob("solver_*.out.prototxt"))


def caffe_log(case: str) -> tuple[list[tuple[str, str]], int]:
    """The upgrade's log lines, each with its level's first letter, and the tool's exit status."""
    log = (GOLDEN / f"{case}.log").read_text()
    lines = re.findall(r"^([IWE])\d{4} .* upgrade_proto\.cpp:\d+\] (.*)$", log, re.MULTILINE)
    status = re.search(r"\[exit status (-?\d+)\]", log)
    assert status
    return [(level, line.replace("./build/tools/", "")) for level, line in lines], int(status[1])


def logged(caplog) -> list[tuple[str, str]]:
    return [(record.levelname[0], record.getMessage()) for record in caplog.records]


def net(characters: str):
    return text.parse(characters, proto.NetParameter())


@pytest.mark.parametrize("case", NETS)
def test_net_is_upgraded_as_caffe_does(case, caplog):
    caplog.set_level(logging.INFO)
    name = f"{case}.in.prototxt"
    before = text.read_text(GOLDEN / name, proto.NetParameter)
    kept = proto.NetParameter.FromString(before.SerializeToString())

    after, problems = upgrade.upgrade_net(before, name)

    lines, status = caffe_log(f"{case}.out.prototxt")
    assert text.format(after) == (GOLDEN / f"{case}.out.prototxt").read_text()
    assert bool(problems) == (status != 0)
    assert logged(caplog) == lines
    assert upgrade.net_needs_upgrade(before) == bool(lines)
    assert before == kept


@pytest.mark.parametrize("case", SOLVERS)
def test_solver_is_upgraded_as_caffe_does(case, caplog):
    caplog.set_level(logging.INFO)
    name = f"{case}.in.prototxt"
    before = text.read_text(GOLDEN / name, proto.SolverParameter)

    after = upgrade.upgrade_solver(before, name)

    lines, _ = caffe_log(f"{case}.out.prototxt")
    assert text.format(after) == (GOLDEN / f"{case}.out.prototxt").read_text()
    assert logged(caplog) == lines
    assert upgrade.solver_needs_upgrade(before) == bool(lines)


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_binary_model_is_upgraded_with_its_weights(version):
    model = files.read_net_binary(GOLDEN / f"{version}_model.in.caffemodel")
    assert model == files.read_binary(GOLDEN / f"{version}_model.out.caffemodel", proto.NetParameter)

    values = np.load(GOLDEN / "bin_models.npz")
    found = 0
    for layer in model.layer:
        for i, blob in enumerate(layer.blobs):
            expected = values[f"{version}__{layer.name}__{i}"]
            assert files.shape_equals(expected.shape, blob)
            np.testing.assert_array_equal(files.blob_to_array(blob).reshape(expected.shape), expected)
            found += 1
    assert found == 5


def test_net_of_both_formats_is_refused():
    mixed = text.read_text(GOLDEN / "mixed_layer_layers.in.prototxt", proto.NetParameter)
    assert caffe_log("mixed_layer_layers.out.prototxt")[1] == -6
    with pytest.raises(PrototxtError, match=r"my\.prototxt: Refusing to upgrade inconsistent NetParameter input"):
        upgrade.upgrade_net(mixed, "my.prototxt")


def test_solver_of_both_type_fields_is_refused():
    both = text.read_text(GOLDEN / "solver_both.in.prototxt", proto.SolverParameter)
    assert caffe_log("solver_both.out.prototxt")[1] == -6
    with pytest.raises(PrototxtError, match="old solver_type field"):
        upgrade.upgrade_solver(both)


PAD_OF_TWO = 'layers { layer { name: "p" type: "padding" } bottom: "x" bottom: "x" top: "px" }'
PAD = 'layers { layer { name: "p" type: "padding" pad: 2 } bottom: "x" top: "px" }'


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ('layers { layer { name: "a" type: "nosuch" } bottom: "x" }', r"Unknown layer name: nosuch \(layer a\)"),
        ('layers { layer { name: "a" type: "relu" } bottom: "y" }', "Unknown blob input y to layer a"),
        (
            PAD + 'layers { layer { name: "a" type: "relu" } bottom: "px" top: "a" }',
            "Padding layer input to non-convolutional / non-pooling layer type relu",
        ),
        (
            PAD + 'layers { layer { name: "a" type: "conv" } bottom: "px" bottom: "x" top: "a" }',
            "Conv Layer takes a single blob as input",
        ),
        (
            PAD_OF_TWO + 'layers { layer { name: "a" type: "conv" } bottom: "px" top: "a" }',
            "Padding Layer p takes and produces a single blob",
        ),
    ],
)
def test_v0_nets_that_caffe_aborts_on_are_refused(layers, message):
    with pytest.raises(PrototxtError, match=message):
        upgrade.upgrade_net(net('input: "x" ' + layers))


def test_v0_padding_overrides_the_consumers_pad():
    upgraded, problems = upgrade.upgrade_net(
        net('input: "x" ' + PAD + 'layers { layer { name: "c" type: "pool" pad: 1 } bottom: "px" top: "c" }')
    )
    assert [(layer.name, layer.bottom[0], layer.pooling_param.pad) for layer in upgraded.layer] == [("c", "x", 2)]
    assert problems == []


def test_every_v0_setting_reaches_its_v1_message():
    upgraded, problems = upgrade.upgrade_net(
        net(
            """
            layers { layer { name: "im" type: "images" source: "l" batchsize: 2 shuffle_images: true new_height: 5
                             new_width: 6 rand_skip: 7 scale: 0.5 meanfile: "m" cropsize: 3 mirror: true }
                     top: "a" top: "b" }
            layers { layer { name: "win" type: "window_data" source: "w" batchsize: 2 det_fg_threshold: 0.6
                             det_bg_threshold: 0.4 det_fg_fraction: 0.3 det_context_pad: 16 det_crop_mode: "square" }
                     top: "c" top: "d" }
            layers { layer { name: "h" type: "hdf5_data" source: "h5" batchsize: 4 } top: "e" }
            layers { layer { name: "ig" type: "infogain_loss" source: "mat" } bottom: "a" bottom: "b" }
            layers { layer { name: "ho" type: "hdf5_output" hdf5_output_param { file_name: "f" } }
                     bottom: "a" bottom: "b" }
            layers { layer { name: "pl" type: "pool" pool: STOCHASTIC kernelsize: 3 stride: 2 pad: 1 }
                     bottom: "a" top: "pl" }
            layers { layer { name: "r" type: "relu" hdf5_output_param { file_name: "f" } new_num: 3 }
                     bottom: "a" top: "r" }
            """
        )
    )
    expected = net(
        """
        layer { name: "im" type: "ImageData" top: "a" top: "b"
                transform_param { scale: 0.5 mean_file: "m" crop_size: 3 mirror: true }
                image_data_param { source: "l" batch_size: 2 shuffle: true new_height: 5 new_width: 6 rand_skip: 7 } }
        layer { name: "win" type: "WindowData" top: "c" top: "d"
                window_data_param { source: "w" batch_size: 2 fg_threshold: 0.6 bg_threshold: 0.4 fg_fraction: 0.3
                                    context_pad: 16 crop_mode: "square" } }
        layer { name: "h" type: "HDF5Data" top: "e" hdf5_data_param { source: "h5" batch_size: 4 } }
        layer { name: "ig" type: "InfogainLoss" bottom: "a" bottom: "b" infogain_loss_param { source: "mat" } }
        layer { name: "ho" type: "HDF5Output" bottom: "a" bottom: "b" hdf5_output_param { file_name: "f" } }
        layer { name: "pl" type: "Pooling" bottom: "a" top: "pl"
                pooling_param { pool: STOCHASTIC kernel_size: 3 stride: 2 pad: 1 } }
        layer { name: "r" type: "ReLU" bottom: "a" top: "r" }
        """
    )
    assert text.format(upgraded) == text.format(expected)
    assert problems == ["Unknown parameter hdf5_output_param for layer type relu"]


def test_inputs_of_an_old_weights_file_are_dropped():
    upgraded, _ = upgrade.upgrade_net(net('input: "x" layer { name: "r" type: "ReLU" bottom: "x" top: "r" }'))
    assert text.format(upgraded) == text.format(net('layer { name: "r" type: "ReLU" bottom: "x" top: "r" }'))


@pytest.mark.parametrize("dims", ["input_dim: 1 input_dim: 2 input_dim: 3", "input_shape { dim: 1 }"])
def test_inputs_without_a_shape_each_are_refused(dims):
    with pytest.raises(PrototxtError, match=r"2 input\(s\)"):
        upgrade.upgrade_net(net(f'input: "x" input: "y" {dims}'))


def test_a_current_net_is_returned_as_it_is():
    current = net('layer { name: "r" type: "ReLU" }')
    assert upgrade.upgrade_net(current)[0] is current
