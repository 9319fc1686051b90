"""Lines of layers and fields in a prototxt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minicaffe import proto
from minicaffe.proto.locations import Locations, scan

NET = """\
name: "n"   # layer { name: "comment" }
layer {
  name: "data"
  type: "Data"
  include { phase: TRAIN }
  data_param { source: "a { b" batch_size: 64 }
}
layer {
  name: "data"
  type: "Data"
  include: { phase: TEST }
  data_param {
    batch_size: 100
  }
}
layer <
  name: 'conv'; type: 'Convolution'
  convolution_param: <
    kernel_size: [3,
                  3]
    weight_filler { type: "xavier" }
  >
>
layer { name: "drop" exclude { phase: TEST } } layer {
  name: "drop" exclude { phase: 0 } }
"""


def test_layer_is_found_by_its_name():
    locations = Locations(NET, "net.prototxt")
    assert locations.of("conv") == "net.prototxt:16"
    assert locations.of("comment") == "net.prototxt"
    assert locations.of("conv1_split") == "net.prototxt"


def test_phase_tells_layers_of_one_name_apart():
    locations = Locations(NET, "n")
    assert [locations.of("data"), locations.of("data", proto.TRAIN), locations.of("data", proto.TEST)] == [
        "n:2",
        "n:2",
        "n:8",
    ]
    assert [locations.of("drop", proto.TRAIN), locations.of("drop", proto.TEST)] == ["n:24", "n:24"]
    assert locations.of("drop", proto.TEST, "name") == "n:25"
    assert locations.of("conv", proto.TEST) == "n:16"


def test_field_is_found_at_any_depth_or_by_its_path():
    locations = Locations(NET, "n")
    assert locations.of("data", proto.TEST, "batch_size") == "n:13"
    assert locations.of("conv", field="kernel_size") == "n:19"
    assert locations.of("conv", field="type") == "n:17"
    assert locations.of("conv", field="weight_filler.type") == "n:21"
    assert locations.of("conv", field="pad") == "n:16"


def test_layers_of_old_formats_and_of_a_solvers_inline_net_are_found():
    assert Locations('layers { layer { name: "c" type: "conv" }\n bottom: "x" }', "n").of("c", field="bottom") == "n:2"
    assert Locations('layers {\n name: "c" type: CONVOLUTION }', "n").of("c", field="type") == "n:2"
    assert Locations('base_lr: 1\ntrain_net_param {\n layer { name: "c" } }', "n").of("c") == "n:3"


def test_layers_written_as_a_list_are_told_apart():
    locations = Locations('layer: [ { name: "a" },\n { name: "b" } ]\nlayer { name: "c" }', "n")
    assert [locations.of("a"), locations.of("b"), locations.of("c")] == ["n:1", "n:2", "n:3"]


def test_blocks_left_open_are_reported():
    assert [(block.name, block.line) for block in scan("a {\n b {\n c: 1 }\n d {")[1]] == [("a", 1), ("d", 4)]


@given(st.text(alphabet="{}<>[]:;,#\"'\\ \nab1é\0"))
def test_any_text_is_scanned(characters):
    root, unclosed = scan(characters)
    assert all(1 <= field.line <= characters.count("\n") + 1 for _, field in root.walk())
    assert len(unclosed) <= characters.count("{") + characters.count("<")
