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
OURS = {
    ("BlobProto", "raw_data_type", 10),
    ("BlobProto", "raw_diff_type", 11),
    ("BlobProto", "raw_data", 12),
    ("BlobProto", "raw_diff", 13),
    ("SolverParameter", "warmup_iter", 20001),
    ("SolverParameter", "warmup_start_lr", 20002),
    ("SolverParameter", "plateau_winsize", 20003),
    ("SolverState", "minicaffe_state", 20001),
}


def rows(name: str) -> list[dict[str, str]]:
    with open(GOLDEN / name, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def messages():
    return proto.NetParameter.DESCRIPTOR.file.message_types_by_name


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
    file = FileDescriptorProto()
    proto.NetParameter.DESCRIPTOR.file.CopyToProto(file)
    labels = {
        (message.name, field.name): FieldDescriptorProto.Label.Name(field.label)
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


def test_every_enum_value_of_caffe_has_its_number_and_no_other_is_added():
    expected = {(row["enum"], row["value_name"], int(row["number"])) for row in rows("caffe_enums.tsv")}
    enums = list(proto.NetParameter.DESCRIPTOR.file.enum_types_by_name.values())
    for message in messages().values():
        enums += message.enum_types
    shipped = {
        (enum.full_name.removeprefix("caffe."), value.name, value.number) for enum in enums for value in enum.values
    }
    raw_types = {item for item in shipped if item[0] == "BlobProto.RawType"}
    assert len(raw_types) == 6
    assert shipped - raw_types == expected


def test_fields_beyond_caffe_are_the_documented_ones():
    caffe = {(row["message"], row["field"], int(row["number"])) for row in rows("caffe_schema.tsv")}
    shipped = {(name, field.name, field.number) for name, message in messages().items() for field in message.fields}
    assert shipped - caffe == OURS


def test_descriptor_is_compiled_from_the_proto_file_beside_it():
    source = resources.files("minicaffe.proto").joinpath("caffe.proto").read_text()
    written = re.findall(r"^\s*(?:optional|repeated) [\w.]+ (\w+) = (\d+)", source, re.MULTILINE)
    compiled = [(field.name, str(field.number)) for message in messages().values() for field in message.fields]
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
