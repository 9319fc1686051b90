"""The shipped message classes against Caffe's schema (golden/schema: one line a field, one line an enum value)."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from minicaffe import proto

GOLDEN = Path(__file__).parent / "golden" / "schema"
TYPES = {
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_UINT32: "uint32",
}
ZERO = {"string": "", "bytes": "", "bool": "false"}
MADE_OPTIONAL = {("ClipParameter", "min"), ("ClipParameter", "max")}
NVCAFFES_NUMBERS = {
    ("BlobProto", "raw_data_type", 10),
    ("BlobProto", "raw_diff_type", 11),
    ("BlobProto", "raw_data", 12),
    ("BlobProto", "raw_diff", 13),
}
INTELS_ENGINES = {("MKL2017", 3), ("MKLDNN", 4)}
OURS = 20000  # where the numbers begin that no fork uses


def rows(name: str) -> list[dict[str, str]]:
    with open(GOLDEN / name, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def messages():
    """Caffe's messages and those of forks, without the ones inside others."""
    return {name: message for name, message in proto.messages.items() if "." not in name}


def files():
    """The schema's files as protobuf keeps them."""
    for descriptor in {message.file.name: message.file for message in messages().values()}.values():
        file = FileDescriptorProto()
        descriptor.CopyToProto(file)
        yield descriptor, file


def type_of(field) -> str:
    if field.message_type:
        return f"message:{field.message_type.full_name.removeprefix('caffe.')}"
    if field.enum_type:
        return f"enum:{field.enum_type.full_name.removeprefix('caffe.')}"
    return TYPES[field.type]


def default_of(field) -> str:
    """The default as text; the type's zero if none is declared."""
    if field.enum_type:
        return field.enum_type.values_by_number[field.default_value].name
    if field.type == FieldDescriptor.TYPE_BOOL:
        return str(field.default_value).lower()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return field.default_value.decode()
    return str(field.default_value)


def test_every_field_of_caffe_has_its_number_label_type_default_and_packing():
    schema = rows("caffe_schema.tsv")
    assert len(schema) == 423
    labels = {
        (message.name, field.name): FieldDescriptorProto.Label.Name(field.label)
        for _, file in files()
        for message in file.message_type
        for field in message.field
    }
    for row in schema:
        field = messages()[row["message"]].fields_by_name[row["field"]]
        assert field.number == int(row["number"]), row
        label = "optional" if (row["message"], row["field"]) in MADE_OPTIONAL else row["label"]
        assert labels[row["message"], row["field"]] == f"LABEL_{label.upper()}", row
        assert type_of(field) == row["type"], row
        assert field.GetOptions().packed == ("packed=true" in row["options"]), row
        if label == "repeated" or field.message_type:
            continue
        if row["default"] != "-" and row["type"] in ("float", "double"):
            assert float(f"{field.default_value:.7g}") == float(row["default"]), row
        elif row["default"] != "-":
            assert default_of(field) == row["default"], row
        elif field.enum_type:
            assert field.default_value == field.enum_type.values[0].number, row
        elif row["type"] in ("float", "double"):
            assert field.default_value == 0, row
        else:
            assert default_of(field) == ZERO.get(row["type"], "0"), row


def enums():
    """Every enum by its name: ``Phase``, ``PoolingParameter.PoolMethod``."""
    found = [enum for descriptor, _ in files() for enum in descriptor.enum_types_by_name.values()]
    found += [enum for message in messages().values() for enum in message.enum_types]
    return {enum.full_name.removeprefix("caffe."): enum for enum in found}


def test_every_enum_value_of_caffe_has_its_number_and_forks_values_have_numbers_of_our_own():
    expected = {(row["enum"], row["value_name"], int(row["number"])) for row in rows("caffe_enums.tsv")}
    caffes = {name for name, _, _ in expected}
    shipped = {(name, value.name, value.number) for name in caffes for value in enums()[name].values}
    assert expected <= shipped
    for name, value, number in shipped - expected:
        assert number > OURS or (name.endswith(".Engine") and (value, number) in INTELS_ENGINES), (name, value)


def test_a_number_of_caffes_messages_has_caffes_meaning_or_none():
    caffe = {(row["message"], row["field"], int(row["number"])) for row in rows("caffe_schema.tsv")}
    caffes = {name for name, _, _ in caffe}
    shipped = {(name, field.name, field.number) for name in caffes for field in messages()[name].fields}
    beyond = shipped - caffe
    assert {field for field in beyond if field[2] < OURS} == NVCAFFES_NUMBERS
    assert len(beyond) > 300


def test_what_forks_wrote_in_binary_stays_as_it_was():
    """Field 202 is SSD's permute_param, 145 NVCaffe's forward_type, 13 of pooling_param another fork's ceil_mode."""
    permute = b"\xd2\x0c\x04" + b"\x08\x00\x08\x02"
    forward_type = b"\x88\x09\x02"
    layer = proto.LayerParameter(name="x", type="Permute").SerializeToString() + permute + forward_type
    read = proto.LayerParameter.FromString(layer)
    assert (read.name, read.type) == ("x", "Permute")
    assert not read.HasField("permute_param")
    assert not read.HasField("parameter_param")
    assert sorted(read.SerializeToString()) == sorted(layer)
    assert proto.LayerParameter.FromString(read.SerializeToString()) == read


def test_descriptor_is_compiled_from_the_proto_files_beside_it():
    for descriptor, file in files():
        source = resources.files("minicaffe.proto").joinpath(descriptor.name).read_text()
        written = re.findall(r"^\s*(?:optional|repeated) [\w.]+ (\w+) = (\d+)", source, re.MULTILINE)
        compiled = [
            (field.name, str(field.number))
            for message in file.message_type
            for part in (*message.nested_type, message)
            for field in part.field
        ]
        assert written == compiled


def test_classes_and_enum_values_are_attributes_of_the_package():
    assert (proto.TRAIN, proto.TEST) == (0, 1)
    assert proto.Phase.Name(1) == "TEST"
    assert proto.PoolingParameter.AVE == 1
    net = proto.NetParameter(name="n", layer=[proto.LayerParameter(type="ReLU")])
    assert net.layer[0].relu_param.negative_slope == 0
    for name in messages():
        assert getattr(proto, name).DESCRIPTOR.name == name


def test_another_caffe_proto_in_the_default_pool_does_not_clash():
    code = (
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "file = descriptor_pb2.FileDescriptorProto(name='caffe.proto', package='caffe')\n"
        "file.message_type.add(name='NetParameter')\n"
        "descriptor_pool.Default().Add(file)\n"
        "from minicaffe import proto\n"
        "assert proto.NetParameter(name='mine').name == 'mine'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_clip_without_limits_serializes():
    layer = proto.LayerParameter(clip_param=proto.ClipParameter())
    assert proto.LayerParameter.FromString(layer.SerializeToString()) == layer
