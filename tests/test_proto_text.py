"""Prototxt: what is read and written, and what a user is told when it does not parse."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicaffe import proto
from minicaffe.errors import PrototxtError, SnapshotError
from minicaffe.proto import text

LENET = """\
name: "LeNet"  # a comment with a { brace
layer {
  name: 'conv1'
  type: "Convolution"
  bottom: "data" top: "conv1";
  param: < lr_mult: 1 >
  convolution_param {
    num_output: 20, kernel_size: [5, 3]
    weight_filler { type: "xavier" value: .5 std: 1.f }
  }
}
"""


def net(characters: str, source: str = "lenet.prototxt"):
    return text.parse(characters, proto.NetParameter(), source)


def complaint(characters: str, message_class=proto.NetParameter) -> str:
    with pytest.raises(PrototxtError) as caught:
        text.parse(characters, message_class(), "my.prototxt")
    return str(caught.value)


def test_both_block_forms_comments_quotes_separators_and_lists_are_read():
    layer = net(LENET).layer[0]
    assert (layer.name, layer.type, layer.bottom[0], layer.top[0]) == ("conv1", "Convolution", "data", "conv1")
    assert layer.param[0].lr_mult == 1
    assert list(layer.convolution_param.kernel_size) == [5, 3]
    assert (layer.convolution_param.weight_filler.value, layer.convolution_param.weight_filler.std) == (0.5, 1)


def test_unknown_field_names_place_and_nearest_field_and_shows_the_line():
    assert complaint('name: "n"\n\tlayer {\n\t  convolution_parm { }\n}') == (
        'my.prototxt:3:4: LayerParameter has no field "convolution_parm"; did you mean "convolution_param"?\n'
        "    \t  convolution_parm { }\n"
        "    \t  ^"
    )


@pytest.mark.parametrize(
    ("characters", "expected"),
    [
        (
            "layer { affinity_param { } }",
            '1:9: LayerParameter has no field "affinity_param"; it is of a fork of Caffe: naibaf7/caffe',
        ),
        ("layer { kernel_size: 3 }", "it belongs inside convolution_param or pooling_param"),
        (
            'layer {\n name: "a"\nlayer { }',
            '3:1: LayerParameter has no field "layer", but NetParameter does: is a "}" missing above?',
        ),
        ("base_lr: 0.1", '1:1: NetParameter has no field "base_lr", but SolverParameter does: is this a solver file'),
        ('name: "n"\nzzz: 1', 'my.prototxt:2:1: NetParameter has no field "zzz"\n'),
        (
            "layer { pooling_param { pool: max } }",
            '1:31: PoolingParameter.PoolMethod has no value max (legal: MAX, AVE, STOCHASTIC); did you mean "MAX"?',
        ),
        ("state { phase: 7 }", "1:16: Phase has no value 7 (legal: TRAIN, TEST)\n"),
        ('layers { type: "Convolution" }', 'did you mean "CONVOLUTION"?'),
        ("layer { type: CONVOLUTION }", "1:15: in field \"type\": Expected string but found: 'CONVOLUTION'"),
        ('layer { name: "a" name: "b" }', "LayerParameter.name is given a second time; it takes one value"),
        ("layer { dropout_param { } dropout_param { } }", "LayerParameter.dropout_param is given a second time"),
        ("layer { relu_param { negative_slope: abc } }", '1:38: in field "negative_slope": Couldn\'t parse float: abc'),
        ("layer { convolution_param { num_output: -1 } }", '1:41: in field "num_output": Value out of range: -1'),
        ("layer { convolution_param { kernel_size: [1, x] } }", 'in field "kernel_size": Couldn\'t parse integer: x'),
        ("force_backward: maybe", 'in field "force_backward": Expected "true" or "false"'),
        ('layer {\n name: "a"\n', 'the text ends inside "layer {", opened at line 1; a "}" is missing'),
        ('layer { name: "a }\n}', 'in field "name": String missing ending quote'),
        ('layer { name "x" }', '1:14: Expected ":"'),
        ("}", "1:1: Expected identifier or number, got }"),
    ],
)
def test_what_is_wrong_is_named(characters, expected):
    assert expected in complaint(characters)


def test_net_given_as_solver_is_told():
    assert "but NetParameter does: is this a net file, given where a solver is expected?" in complaint(
        "layer { }", proto.SolverParameter
    )


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_text_parses_or_raises_prototxt_error(data):
    start = data.draw(st.integers(0, len(LENET)))
    stop = data.draw(st.integers(start, min(start + 20, len(LENET))))
    damaged = LENET[:start] + data.draw(st.text(alphabet="{}<>[]:;,#\"'\\ \n\ta1-.é\0", max_size=8)) + LENET[stop:]
    try:
        net(damaged)
    except PrototxtError as error:
        assert re.match(r"lenet\.prototxt:\d+:\d+: ", str(error))


def test_floats_are_written_as_caffe_does():
    message = proto.SolverParameter(
        base_lr=0.01, power=1, gamma=1e-4, momentum=1 / 3, delta=1e-8, weight_decay=2.5e7, max_iter=10
    )
    assert text.format(message) == (
        "base_lr: 0.01\nmax_iter: 10\ngamma: 0.0001\npower: 1\nmomentum: 0.33333334\n"
        "weight_decay: 2.5e+07\ndelta: 1e-08\n"
    )


def test_values_of_doubles_and_strings_are_written_in_full():
    blob = proto.BlobProto(double_data=[0.1000000001])
    assert text.parse(text.format(blob), proto.BlobProto()) == blob
    assert text.format(proto.NetParameter(name="1.0")) == 'name: "1.0"\n'


@given(st.floats(width=32, allow_nan=False))
def test_written_floats_read_back_unchanged(value):
    message = proto.SolverParameter(base_lr=value)
    assert text.parse(text.format(message), proto.SolverParameter()) == message


def test_written_file_reads_back(tmp_path):
    written = net(LENET)
    text.write_text(tmp_path / "out.prototxt", written)
    assert text.read_text(tmp_path / "out.prototxt", proto.NetParameter) == written


def test_writing_into_a_missing_folder_is_told(tmp_path):
    with pytest.raises(SnapshotError, match="does not exist"):
        text.write_text(tmp_path / "no" / "out.prototxt", net(LENET))


def test_missing_file_is_told_with_the_path_tried(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrototxtError) as caught:
        text.read_text("nope.prototxt", proto.NetParameter)
    assert str(caught.value).startswith("File not found: nope.prototxt ")
    assert f"tried {os.path.realpath(tmp_path / 'nope.prototxt')}" in str(caught.value)
    assert f"the working directory is {os.path.realpath(tmp_path)}" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (proto.NetParameter(name="n", layer=[proto.LayerParameter(phase=0)]).SerializeToString(), "is a binary file"),
        (b"\x89HDF\r\n\x1a\n\0\0", "is an HDF5 file"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        ('name: "n"'.encode("utf-16"), "is encoded in UTF-16"),
        (
            'name: "n"\ncaf\xe9: 1\n'.encode("latin-1"),
            r"x\.prototxt:2: the file is not encoded in UTF-8 \(byte 0xe9 outside",
        ),
    ],
)
def test_file_that_is_no_prototxt_is_told_apart(tmp_path, content, expected):
    (tmp_path / "x.prototxt").write_bytes(content)
    with pytest.raises(PrototxtError, match=expected):
        text.read_text(tmp_path / "x.prototxt", proto.NetParameter)


def test_directory_is_told(tmp_path):
    with pytest.raises(PrototxtError, match="is a directory"):
        text.read_text(tmp_path, proto.NetParameter)


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path):
    (tmp_path / "x.prototxt").write_bytes(b"\xef\xbb\xbf" + LENET.replace("\n", "\r\n").encode())
    assert text.read_text(tmp_path / "x.prototxt", proto.NetParameter) == net(LENET)


def test_comments_and_strings_may_be_in_any_encoding(tmp_path):
    path = tmp_path / "x.prototxt"
    path.write_bytes(
        'name: \'\u5c42 "a"\' # \u6ce8\u91ca "open\nlayer { name: "n" # caf\xe9\n }'.encode("gbk", "ignore")
    )
    read = text.read_text(path, proto.NetParameter)
    assert read.name == r"\xb2\xe3 " + '"a"'
    assert read.layer[0].name == "n"
    path.write_bytes(b'name: "\\262\\343 \\"a\\""')  # as Caffe prints it
    assert text.read_text(path, proto.NetParameter).name == read.name
    text.write_text(path, read)
    assert text.read_text(path, proto.NetParameter) == read


def test_an_unknown_field_is_told_with_all_else_that_is_missing():
    import minicaffe.layers  # noqa: F401  (registers the types)

    told = complaint(
        'layer { type: "Input" quux: 1 }\nlayer {\n type: "DataHeatmap" }\nlayer { affinity_param { a: 1 } }\n'
        'layer { type: "ReLU" relu_param { slope: 1 } quux: 2 }'
    )
    assert 'LayerParameter has no field "quux"; no such fields either: line 4: LayerParameter.affinity_param [' in told
    assert (
        "[naibaf7/caffe], line 5: ReLUParameter.slope; no such layer types: line 3: DataHeatmap [caffe-heatmap" in told
    )


def test_empty_file_is_an_empty_message(tmp_path):
    (tmp_path / "x.prototxt").write_bytes(b"")
    assert text.read_text(tmp_path / "x.prototxt", proto.NetParameter) == proto.NetParameter()
