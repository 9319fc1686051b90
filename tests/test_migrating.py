"""The guide for those who come from Caffe lists all names of pycaffe, and what it says of each holds."""

from __future__ import annotations

import re
from operator import attrgetter
from pathlib import Path

import pytest

import minicaffe as caffe
from minicaffe.proto import caffe_pb2

GUIDE = (Path(__file__).parent.parent / "docs" / "migrating.md").read_text()
TABLE = re.findall(
    r"^\| (`.*?) \| (.*) \|$", GUIDE.partition("### Every name of pycaffe")[2].partition("\n## ")[0], re.M
)
NAMES = {name: here for names, here in TABLE for name in re.findall(r"`([\w.]+)`", names)}

MODULE = (
    "TRAIN TEST __version__ Net Layer SGDSolver NesterovSolver AdaGradSolver RMSPropSolver AdaDeltaSolver AdamSolver NCCL "
    "Timer init_log log set_mode_cpu set_mode_gpu set_device get_solver layer_type_list set_random_seed solver_count "
    "set_solver_count solver_rank set_solver_rank set_multiprocess has_nccl Classifier Detector io layers params NetSpec "
    "to_proto net_spec coord_map draw pycaffe classifier detector proto.caffe_pb2"
)
NET = (
    "blobs blob_loss_weights params layers layer_dict inputs outputs top_names bottom_names _layer_names _blob_names "
    "_blobs _inputs _outputs _bottom_ids _top_ids _blob_loss_weights _forward _backward _batch _set_input_arrays forward "
    "backward forward_all forward_backward_all set_input_arrays reshape copy_from share_with save save_hdf5 load_hdf5 "
    "clear_param_diffs before_forward after_forward before_backward after_backward"
)
BLOB = "data diff shape num channels height width count reshape _gpu_data_ptr _gpu_diff_ptr"
SOLVER = "net test_nets iter step solve restore snapshot apply_update add_callback share_weights param lr"
IO = (
    "load_image resize_image oversample array_to_datum datum_to_array array_to_blobproto blobproto_to_array "
    "arraylist_to_blobprotovector_str blobprotovector_str_to_arraylist Transformer Transformer.preprocess "
    "Transformer.deprocess Transformer.set_transpose Transformer.set_channel_swap Transformer.set_raw_scale "
    "Transformer.set_mean Transformer.set_input_scale"
)


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """One of each thing that the first part of a name stands for."""
    folder = tmp_path_factory.mktemp("things")
    (folder / "net.prototxt").write_text(
        'layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 dim: 3 } } } '
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 2 } } '
        'layer { name: "own" type: "Python" bottom: "ip" top: "own" loss_weight: 1 '
        f'  python_param {{ module: "{__name__}" layer: "Own" param_str: "told" }} }}'
    )
    (folder / "solver.prototxt").write_text(f'net: "{folder}/net.prototxt" base_lr: 0.1 lr_policy: "fixed"')
    solver = caffe.SGDSolver(str(folder / "solver.prototxt"))
    net = solver.net
    return {
        "caffe": caffe, "net": net, "solver": solver, "blob": net.blobs["ip"], "layer": net.layers[1],
        "python_layer": net.layers[2],
    }  # fmt: skip


class Own(caffe.Layer):
    """A loss that is always 0."""

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        top[0].data[...] = 0


def test_no_name_is_missing_from_the_guide():
    expected = {f"caffe.{name}" for name in MODULE.split()} | {f"net.{name}" for name in NET.split()}
    expected |= {f"blob.{name}" for name in BLOB.split()} | {f"solver.{name}" for name in SOLVER.split()}
    expected |= {f"caffe.io.{name}" for name in IO.split()}
    assert expected <= set(NAMES)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_what_the_guide_says_is_there_is_there(name, things):
    kind, _, rest = name.partition(".")
    if NAMES[name].startswith("not there"):
        assert not hasattr(things[kind], rest)
    else:
        assert attrgetter(rest)(things[kind]) is not None


def test_each_name_is_listed_once():
    listed = [name for names, _ in TABLE for name in re.findall(r"`([\w.]+)`", names)]
    assert sorted(listed) == sorted(set(listed))


def test_a_python_layer_is_told_its_param_str(things):
    layer = things["python_layer"]
    assert (layer.param_str, layer.param_str_, layer.phase) == ("told", "told", caffe.TRAIN)


def test_pycaffes_module_has_what_the_package_has():
    for name in caffe.pycaffe.__all__:
        assert getattr(caffe.pycaffe, name) is getattr(caffe, name, getattr(caffe.layers, name, None))


def test_every_message_and_enum_of_caffe_can_be_had(golden):
    rows = [line.split("\t") for line in (golden / "schema" / "caffe_schema.tsv").read_text().splitlines()[1:]]
    for name in {row[0] for row in rows}:
        message = attrgetter(name)(caffe_pb2)
        assert message.FromString(message().SerializeToString()) == message()
    rows = [line.split("\t") for line in (golden / "schema" / "caffe_enums.tsv").read_text().splitlines()[1:]]
    for enum, value, number, *_ in rows:
        owner = attrgetter(enum.rpartition(".")[0])(caffe_pb2) if "." in enum else caffe_pb2
        assert getattr(owner, value) == int(number) == getattr(owner, enum.rpartition(".")[2]).Value(value)
    assert (caffe_pb2.TRAIN, caffe_pb2.TEST) == (0, 1) and caffe_pb2.DESCRIPTOR.message_types_by_name["NetParameter"]
