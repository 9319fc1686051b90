"""What makes no sense as an argument of a public function is a MinicaffeError that says so."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pool, message_factory

import minicaffe as caffe
from minicaffe import (
    coord_map,
    draw,
    features,
    io,
    net_spec,
    plot,
    proto,
    pytorch,
    summary,
    verification,
    weight_files,
    weights,
)
from minicaffe.errors import MinicaffeError

NET = proto.NetParameter(name="n")
NET.layer.add(name="x", type="Input", top=["x"]).input_param.shape.add(dim=[2, 3])
NET.layer.add(name="y", type="ReLU", bottom=["x"], top=["y"])
SOLVER = proto.SolverParameter(net_param=NET, train_state=proto.NetState(), base_lr=0.1, lr_policy="fixed")


def net(*arguments, **named):
    return caffe.Net(NET, *arguments, **named)


CALLS = [
    *[(caffe.Net, (file, 1), "the name of a file; found") for file in (None, 3, 1.5, [], object())],
    *[(net, (phase,), "a net's phase") for phase in (7, -1, 1.5, [], 2**40)],
    *[(net, (0, level), "a net's level") for level in ("a", 1.5, 2**40, [])],
    *[(net, (0, 0, stages), "stage") for stages in (5, "train", [3], [None], ["\ud800"])],
    *[(lambda dtype: net(0, dtype=dtype), (dtype,), "dtype must be float32 or float64")
      for dtype in ("x", "i4", np.float16, object(), complex)],
    *[(lambda file: net(0, weights=file), (file,), "the name of a file; found") for file in (3, [], 1.5)],
    *[(net(0).share_with, (other,), "takes another net; found") for other in (None, "a", NET)],
    *[(net(0).run_forward, places, "the number of a layer|2 layers, numbered from 0")
      for places in (("x",), (0, 99), (-1,), (1.5,), (math.nan,))],
    *[(net(0).run_backward, places, "the number of a layer|2 layers, numbered from 0")
      for places in (("x",), (99,), (1, -1), (1.5,))],
    *[(caffe.Blob, (shape,), "blob's shape|negative size|no memory holds")
      for shape in ("abc", 3, None, [1.5], [None], ["a"], [math.nan], [-1], [2**62], [[2]], {"a": 1})],
    *[(lambda *shape: caffe.Blob((2,)).reshape(*shape), shape, "blob's shape|negative size")
      for shape in (("a",), (1.0,), (None,), ((2, 3),), (-1, 2))],
    *[(caffe.Blob, ((2,), dtype), "dtype must be") for dtype in ("x", "i4", np.float16)],
    *[(caffe.Blob((2,)).share_data, (other,), "another Blob|cannot share") for other in (None, 3, np.zeros(2), caffe.Blob((3,)))],
    *[(caffe.set_random_seed, (seed,), "a random seed must be a whole number") for seed in ("a", None, 1.5, math.nan, [])],
    *[(caffe.set_num_threads, (n,), "number of threads|threads were asked for")
      for n in ("x", None, 1.5, math.nan, 0, -1, 10**9)],
    *[(caffe.set_device, (n,), "the number of a GPU must be a whole number") for n in ("a", None, 1.5)],
    *[(caffe.set_solver_count, (n,), "set_solver_count|number of solvers") for n in ("a", None, 1.5, 0)],
    *[(caffe.set_solver_rank, (n,), "set_solver_rank|solver's rank") for n in ("a", None, 1.5, -1)],
    *[(caffe.get_solver, (file,), "the name of a file; found") for file in (None, 3, [])],
    *[(caffe.SGDSolver, (file,), "the name of a file; found") for file in (None, 3, [])],
    *[(lambda n: caffe.SGDSolver(SOLVER).step(n), (n,), "number of iterations") for n in ("a", None, 1.5)],
    *[(lambda file: caffe.SGDSolver(SOLVER).restore(file), (file,), "the name of a file; found") for file in (None, 3)],
]  # fmt: skip

NO_NET = ("net.prototxt", Path("net.prototxt"), None, NET)
NO_PATH = (None, 3, net(0))
WRONG_TYPES = [
    *[(call, (other,), "takes a Net") for other in NO_NET for call in (
        summary.summarize, summary.memory, summary.forward_total, summary.training_cost,
        lambda net: weights.copy(net, "w.caffemodel"), lambda net: weights.save(net, "w.caffemodel"),
        lambda net: weights.save_hdf5(net, "w.h5"), lambda net: weights.share(net, net), weights.to_proto,
        lambda net: features.write_features(net, {}, 1), lambda net: verification.verify(net, "w.caffemodel"))],
    *[(call, (other,), "found") for other in NO_PATH for call in (
        net(0).save, net(0).save_hdf5, net(0).load_hdf5, weight_files.read, plot.history_records,
        lambda path: draw.draw_net_to_file(NET, path), lambda path: features.write_features(net(0), {"y": path}, 1))],
    *[(draw.dot_source, (other,), "takes a NetParameter") for other in ("net.prototxt", None, net(0))],
    *[(net(0).deploy, (names,), "blobs to keep must be names") for names in (None, 3, [3])],
    *[(lambda names: net(0).copy_from("w", ignore=names), (names,), f"layers to ignore must be names; found {found}")
      for names, found in ((3, 3), ([3], 3), (b"fc8", "b'fc8'"))],
    *[(lambda names: net(0).copy_from("w", rename=names), (names,), "rename takes a mapping") for names in ("a", [1], 3)],
    *[(io.blobproto_to_array, (other,), "takes a BlobProto") for other in (None, "a", np.zeros(3), NET)],
    *[(io.datum_to_array, (other,), "takes a Datum") for other in (None, "a", np.zeros(3), NET)],
    *[(net_spec.to_proto, others, "takes tops of layers") for others in ((), (None,), ("a",), (np.zeros(3),))],
    *[(coord_map.crop, (other, other), "takes two tops") for other in (None, "a", [])],
]  # fmt: skip
"""What a function takes is of another type: never an error from within."""


@pytest.mark.parametrize("call, arguments, problem", WRONG_TYPES)
def test_an_argument_of_another_type(call, arguments, problem):
    with pytest.raises(MinicaffeError, match=problem):
        call(*arguments)


@pytest.mark.parametrize("other", NO_NET)
def test_what_is_no_net_is_not_exported(other, tmp_path):
    for package, export in (
        ("onnx", caffe.export_onnx),
        ("torch", lambda net: caffe.export_torch(net, tmp_path / "net.pt")),
        ("torch", pytorch.module),
    ):
        if importlib.util.find_spec(package):
            with pytest.raises(TypeError, match=r"a Net is what is exported; found (.|\n)*minicaffe.Net"):
                export(other)


def test_messages_of_another_copy_of_the_schema_are_taken():
    """As Caffe's own, which its users have."""
    pool, mine = descriptor_pool.DescriptorPool(), proto.caffe_pb2.DESCRIPTOR
    for file in (*mine.dependencies, mine):
        pool.AddSerializedFile(file.serialized_pb)

    def copied(message):
        made = message_factory.GetMessageClass(pool.FindMessageTypeByName(message.DESCRIPTOR.full_name))()
        made.ParseFromString(message.SerializeToString())
        assert not isinstance(made, type(message))
        return made

    values = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    np.testing.assert_array_equal(io.datum_to_array(copied(io.array_to_datum(values))), values)
    np.testing.assert_array_equal(io.blobproto_to_array(copied(io.array_to_blobproto(values))), values)
    definition = net(0).to_proto()
    assert draw.dot_source(copied(definition)) == draw.dot_source(definition)


def test_one_layer_to_ignore_needs_no_list(tmp_path):
    file = tmp_path / "w.npz"
    np.savez(file, **{"fc/0": np.ones(2)})
    assert net(0).copy_from(file, ignore="fc").ignored == ["fc"]


@pytest.mark.parametrize("call, arguments, problem", CALLS)
def test_an_argument_that_makes_no_sense(call, arguments, problem):
    with pytest.raises(MinicaffeError, match=problem):
        call(*arguments)


def test_whole_numbers_and_names_of_every_kind(tmp_path):
    assert caffe.Blob(np.array([2, 3])).shape == (2, 3)
    blob = caffe.Blob((np.int64(2), True))
    blob.reshape(np.int32(4))
    assert blob.shape == (4,) and type(blob.shape[0]) is int
    caffe.set_num_threads(np.int64(1))
    assert caffe.get_num_threads() == 1
    path = tmp_path / "net.prototxt"
    path.write_text('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }')
    for name in (path, str(path), os.fsencode(path)):
        assert caffe.Net(name, np.int64(caffe.TEST)).phase == caffe.TEST


def test_an_unknown_fast_path_is_told_without_a_traceback(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }')
    environment = {**os.environ, "MINICAFFE_WITHOUT": "foo"}
    code = "import sys; from minicaffe.tools.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "summarize", "-model", str(path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 1 and "Traceback" not in run.stderr and "unexpected" not in run.stderr
    assert (
        "the environment variable MINICAFFE_WITHOUT: no fast path is called foo; there are: copy_ahead, " in run.stderr
    )
