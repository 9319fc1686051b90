"""Values that stay in their file: the same as protobuf's own parse, whatever way they are encoded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicaffe import proto
from minicaffe.errors import WeightsError
from minicaffe.proto import files, wire
from minicaffe.proto.blobs import array_to_blob, blob_pieces, blob_to_array, has_diff

COUNT = 3000  # values: more than a small blob's
NUMBERS = {name: field.number for name, field in proto.BlobProto.DESCRIPTOR.fields_by_name.items()}


def field(name: str, content: bytes) -> bytes:
    return b"".join(wire.delimited(NUMBERS[name], [content]))


def values(dtype: str, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(COUNT) * 100).astype(dtype)


def net_with(path: Path, *blobs: bytes, layers: str = "layer") -> Path:
    """A file of a net with one layer that has these blobs."""
    kind = proto.NetParameter.DESCRIPTOR.fields_by_name[layers].message_type
    layer = kind._concrete_class(name="a", **({"type": "InnerProduct"} if layers == "layer" else {"type": 14}))
    pieces = wire.with_messages(layer, "blobs", [[blob] for blob in blobs])
    path.write_bytes(b"".join(wire.with_messages(proto.NetParameter(name="n"), layers, [pieces])))
    return path


def taken_out(path: Path) -> list[np.ndarray]:
    """All that is stored, by way of the file; the same as by way of protobuf."""
    lifted = files.open_net_binary(path)
    whole = files.read_net_binary(path)
    result = []
    for blob, other in zip(lifted.message.layer[0].blobs, whole.layer[0].blobs, strict=True):
        assert has_diff(blob) == has_diff(other)
        for diff in (False, True)[: 1 + has_diff(blob)]:
            found, expected = lifted.values(blob, diff).array(), blob_to_array(other, diff)
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            np.testing.assert_array_equal(found, expected)
            result.append(found)
    return result


SHAPE = field("shape", proto.BlobShape(dim=[COUNT]).SerializeToString())
F4, F8 = values("<f4"), values("<f8", 1)
TENTH = COUNT // 10
ENCODINGS = {
    "packed": (field("data", F4.tobytes()) + SHAPE, F4),
    "shape first": (SHAPE + field("data", F4.tobytes()), F4),
    "double": (SHAPE + field("double_data", F8.tobytes()), F8),
    "double wins": (field("data", F4.tobytes()) + SHAPE + field("double_data", F8.tobytes()), F8),
    "chunks": (
        b"".join(field("data", part.tobytes()) for part in (F4[:5], F4[5:2000], F4[2000:2000], F4[2000:])) + SHAPE,
        F4,
    ),
    "unpacked": (SHAPE + b"".join(b"\x2d" + value.tobytes() for value in F4), F4),
    "unpacked doubles": (SHAPE + b"".join(b"\x41" + value.tobytes() for value in F8), F8),
    "chunks and single values in turn": (
        field("data", F4[:2000].tobytes()) + b"\x2d" + F4[2000].tobytes() + SHAPE + field("data", F4[2001:].tobytes()),
        F4,
    ),
    "legacy shape": (
        b"\x08\x01\x10\x02\x18\x03\x20" + wire.encode_varint(COUNT // 6) + field("data", F4.tobytes()),
        F4,
    ),
    "half": (
        SHAPE + b"\x50\x02" + field("raw_data", F4.astype("<f2").tobytes()),
        F4.astype("<f2").astype(np.float32),
    ),
    "half twice: the last": (
        SHAPE + b"\x50\x02" + field("raw_data", bytes(2 * COUNT)) + field("raw_data", F4.astype("<f2").tobytes()),
        F4.astype("<f2").astype(np.float32),
    ),
    "raw integers": (SHAPE + b"\x50\x03" + field("raw_data", F4.astype("<i4").tobytes()), F4.astype("<i4")),
    "raw doubles": (SHAPE + b"\x50\x00" + field("raw_data", F8.tobytes()), F8),
}


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("layers", ["layer", "layers"])
def test_values_from_the_file_are_those_of_protobuf(tmp_path, name, layers):
    content, expected = ENCODINGS[name]
    gradient = field("diff", F4[::-1].tobytes())
    found = taken_out(net_with(tmp_path / "x", content, content + gradient, layers=layers))
    assert len(found) == 3
    for array in found[:2]:
        np.testing.assert_array_equal(array.ravel(), expected)
    np.testing.assert_array_equal(found[2].ravel(), F4[::-1])


def test_values_of_v0_are_found(tmp_path):
    net = proto.NetParameter(name="old")
    net.layers.add().layer.MergeFrom(proto.V0LayerParameter(name="ip", type="innerproduct", blobs=[array_to_blob(F4)]))
    (tmp_path / "x").write_bytes(net.SerializeToString())
    (found,) = taken_out(tmp_path / "x")
    np.testing.assert_array_equal(found, F4)
    assert len(wire.lift(wire.File(tmp_path / "x"), proto.NetParameter.DESCRIPTOR)) < 100


def test_messages_that_are_split_go_together(tmp_path):
    """What protobuf merges: the one V0 layer inside a V1 layer, told in two parts."""
    parts = [proto.V0LayerParameter(type="innerproduct", blobs=[array_to_blob(array)]) for array in (F4, F8)]
    parts[0].name = "ip"
    inner = b"".join(b"".join(wire.delimited(1, [part.SerializeToString()])) for part in parts)
    (tmp_path / "x").write_bytes(b"".join(wire.delimited(2, [inner])))
    first, second = taken_out(tmp_path / "x")
    np.testing.assert_array_equal(first, F4)
    np.testing.assert_array_equal(second, F8)


@given(st.data())
@settings(deadline=None)
def test_written_as_protobuf_writes(data):
    shapes = data.draw(st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=4))
    layer = proto.LayerParameter(name="x", type="Convolution", bottom=["a"], top=["b"], phase=proto.TEST)
    layer.convolution_param.num_output = 3
    arrays = [np.full(shape, 1.5, data.draw(st.sampled_from([np.float32, np.float64]))) for shape in shapes]
    pieces = wire.with_messages(layer, "blobs", [blob_pieces(array, array) for array in arrays])
    layer.blobs.extend(array_to_blob(array, array) for array in arrays)
    assert b"".join(pieces) == layer.SerializeToString()


def test_place_that_a_stranger_wrote_leads_nowhere(tmp_path):
    """A file may hold the very field in which lifted blobs keep their places."""
    number = 2**29 - 1
    for offset, size in ((0, 4 * COUNT), (2**63, 4 * COUNT), (2**64 - 4, 4 * COUNT), (10, 2**64 - 8)):
        for kind in (NUMBERS["data"], 99):
            place = wire.delimited(number, [bytes([kind]) + offset.to_bytes(8, "little") + size.to_bytes(8, "little")])
            path = net_with(tmp_path / "x", SHAPE + b"".join(place))
            lifted = files.open_net_binary(path)
            with pytest.raises(WeightsError):
                lifted.values(lifted.message.layer[0].blobs[0]).array()


def test_file_that_is_cut_short_meanwhile_is_told(tmp_path):
    path = net_with(tmp_path / "x", ENCODINGS["packed"][0])
    lifted = files.open_net_binary(path)
    with open(path, "r+b") as file:
        file.truncate(5000)
    with pytest.raises(WeightsError, match="cut short"):
        lifted.values(lifted.message.layer[0].blobs[0]).array()


def test_file_that_is_replaced_meanwhile_is_read_as_it_was(tmp_path):
    path = net_with(tmp_path / "x", ENCODINGS["packed"][0])
    lifted = files.open_net_binary(path)
    (tmp_path / "y").write_bytes(bytes(50_000))
    (tmp_path / "y").rename(path)
    np.testing.assert_array_equal(lifted.values(lifted.message.layer[0].blobs[0]).array(), F4)


def test_truncated_net_is_told(tmp_path):
    whole = net_with(tmp_path / "x", ENCODINGS["chunks"][0], ENCODINGS["half"][0]).read_bytes()
    for length in (*range(5, 60), *range(60, len(whole), 997)):
        (tmp_path / "x").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="truncated, corrupt"):
            files.open_net_binary(tmp_path / "x")


def test_values_go_to_any_array(tmp_path):
    lifted = files.open_net_binary(net_with(tmp_path / "x", ENCODINGS["packed"][0]))
    stored = lifted.values(lifted.message.layer[0].blobs[0])
    for target in (np.zeros((30, 100)), np.zeros((100, 30), np.float32).T, np.zeros((30, 200), np.float32)[:, ::2]):
        stored.copy_to(target)
        np.testing.assert_array_equal(target, F4.reshape(30, 100).astype(target.dtype))


LOAD = """
import resource, sys
import minicaffe
net = minicaffe.Net({net!r}, minicaffe.TEST)
net.params['ip'][0].data[...] = 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
getattr(net, sys.argv[1])({weights!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_loading_and_saving_take_no_second_copy(tmp_path):
    """40 MB of weights, in kilobytes that a process grew by."""
    net, weights = str(tmp_path / "net.prototxt"), str(tmp_path / "w.caffemodel")
    Path(net).write_text(
        'layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1000 } } } '
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 10000 } }'
    )
    script = LOAD.format(net=net, weights=weights)
    for method in ("save", "copy_from"):
        run = subprocess.run([sys.executable, "-c", script, method], capture_output=True, text=True, check=True)
        assert int(run.stdout) < 12_000, method
    assert Path(weights).stat().st_size > 40_000_000
