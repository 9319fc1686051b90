"""Drawing nets: the graph as text, pictures, the command."""

from __future__ import annotations

import re
from io import BytesIO

import pytest
from cli_case import run
from PIL import Image

from minicaffe import draw, models, proto
from minicaffe.errors import MinicaffeError, NetError
from minicaffe.net import Net
from minicaffe.proto.files import read_net
from minicaffe.proto.text import parse

NET = """
name: "small"
layer { name: "d" type: "Data" top: "x" top: "y" data_param { batch_size: 5 } include { phase: TRAIN } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
        convolution_param { num_output: 7 kernel_size: 3 stride: 2 pad: 1 }
        param { lr_mult: 0.5 } }
layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { pool: AVE kernel_h: 2 kernel_w: 3 } }
layer { name: "r" type: "ReLU" bottom: "p" top: "p" }
layer { name: "i" type: "InnerProduct" bottom: "p" top: "i" inner_product_param { num_output: 4 } }
layer { name: "acc" type: "Accuracy" bottom: "i" bottom: "y" top: "acc" exclude { phase: TRAIN } }
"""


def small() -> proto.NetParameter:
    return parse(NET, proto.NetParameter())


def test_the_graph_of_a_net():
    assert (
        draw.dot_source(small())
        == r"""digraph "small" {
  rankdir=LR;
  "d_Data" [label="d\n(Data)", shape="record", style="filled", fillcolor="#6495ED"];
  "x_blob" [label="x", shape="octagon", style="filled", fillcolor="#E0E0E0"];
  "y_blob" [label="y", shape="octagon", style="filled", fillcolor="#E0E0E0"];
  "c_Convolution" [label="c\n(Convolution)\nkernel size: 3\nstride: 2\npad: 1", shape="record", style="filled", fillcolor="#FF5050"];
  "c_blob" [label="c", shape="octagon", style="filled", fillcolor="#E0E0E0"];
  "p_Pooling" [label="p\n(Pooling AVE)\nkernel size: 2x3\nstride: 1\npad: 0", shape="record", style="filled", fillcolor="#FF9900"];
  "p_blob" [label="p", shape="octagon", style="filled", fillcolor="#E0E0E0"];
  "r_ReLU" [label="r\n(ReLU)", shape="record", style="filled", fillcolor="#90EE90"];
  "i_InnerProduct" [label="i\n(InnerProduct)", shape="record", style="filled", fillcolor="#CC33FF"];
  "i_blob" [label="i", shape="octagon", style="filled", fillcolor="#E0E0E0"];
  "acc_Accuracy" [label="acc\n(Accuracy)", shape="record", style="filled", fillcolor="#6495ED"];
  "acc_blob" [label="acc"];
  "d_Data" -> "x_blob" [label="Batch 5"];
  "d_Data" -> "y_blob" [label="Batch 5"];
  "x_blob" -> "c_Convolution";
  "c_Convolution" -> "c_blob" [label="7"];
  "c_blob" -> "p_Pooling";
  "p_Pooling" -> "p_blob";
  "p_blob" -> "r_ReLU";
  "r_ReLU" -> "p_blob";
  "p_blob" -> "i_InnerProduct";
  "i_InnerProduct" -> "i_blob" [label="4"];
  "i_blob" -> "acc_Accuracy";
  "y_blob" -> "acc_Accuracy";
  "acc_Accuracy" -> "acc_blob";
}
"""
    )


WINDOWS = """
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
        convolution_param { num_output: 4 kernel_h: 3 kernel_w: 5 stride_h: 1 stride_w: 2 pad: 0 pad: 2 dilation: 2 group: 2 } }
layer { name: "d" type: "Deconvolution" bottom: "c" top: "d"
        convolution_param { num_output: 4 kernel_size: 3 kernel_size: 5 stride: 2 pad_h: 1 pad_w: 1 } }
layer { name: "p" type: "Pooling" bottom: "d" top: "p" pooling_param { kernel_size: 3 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 1 } }
layer { name: "g" type: "Pooling" bottom: "p" top: "g" pooling_param { pool: AVE global_pooling: true } }
"""


def test_windows_show_both_axes():
    text = draw.dot_source(parse(WINDOWS, proto.NetParameter()))
    for label in (
        r"c\n(Convolution)\nkernel size: 3x5\nstride: 1x2\npad: 0x2\ndilation: 2\ngroup: 2",
        r"d\n(Deconvolution)\nkernel size: 3x5\nstride: 2\npad: 1",
        r"p\n(Pooling MAX)\nkernel size: 3\nstride: 2x1\npad: 0x1",
        r"g\n(Pooling AVE)\nkernel size: global",
    ):
        assert f'[label="{label}"' in text


def rows_of(text: str) -> dict[str, list[str]]:
    """The texts of each box of a compact graph, and its edges."""
    found = {
        node: re.findall(r"<td[^>]*>(.*?)</td>", label)
        for node, label in re.findall(r"^  (n\d+) \[label=<(.*)>\];", text, re.MULTILINE)
    }
    return found | {"edges": re.findall(r"^  (\w+ -> \w+)", text, re.MULTILINE)}


def test_a_compact_graph_has_a_box_for_each_layer_with_those_in_place():
    assert rows_of(draw.dot_source(small(), "TB", compact=True)) == {
        "n0": ["<b>d</b>  Data"],
        "n1": ["<b>c</b>  Convolution  7, 3x3 / 2 + 1"],
        "n2": ["<b>p</b>  Pooling AVE  2x3", "r  ReLU"],
        "n3": ["<b>i</b>  InnerProduct  4"],
        "n4": ["<b>acc</b>  Accuracy"],
        "edges": ["n0 -> n1", "n1 -> n2", "n2 -> n3", "n3 -> n4", "n0 -> n4"],
    }


def test_a_blob_that_was_read_before_it_is_overwritten_is_not_folded():
    net = """
    layer { name: "a" type: "TanH" bottom: "x" top: "a" }
    layer { name: "b" type: "TanH" bottom: "a" top: "b" }
    layer { name: "r" type: "ReLU" bottom: "a" top: "a" }
    layer { name: "s" type: "Sigmoid" bottom: "a" top: "a" }
    layer { name: "e" type: "Eltwise" bottom: "a" bottom: "b" top: "e" eltwise_param { operation: MAX } }
    """
    assert rows_of(draw.dot_source(parse(net, proto.NetParameter()), compact=True)) == {
        "n0": ["<b>a</b>  TanH"],
        "n1": ["<b>b</b>  TanH"],
        "n2": ["<b>r</b>  ReLU", "s  Sigmoid"],
        "n3": ["<b>e</b>  Eltwise MAX"],
        "edges": ["b0 -> n0", "n0 -> n1", "n0 -> n2", "n2 -> n3", "n1 -> n3"],
    }


def test_a_blob_of_two_phases_comes_from_both_layers():
    net, _ = read_net(models.find("lenet/lenet_train_test.prototxt"))
    edges = rows_of(draw.dot_source(net, compact=True))["edges"]
    assert edges[:2] == ["n0 -> n2", "n1 -> n2"]
    only = rows_of(draw.dot_source(net, compact=True, phase=proto.TEST))
    assert only["edges"][0] == "n0 -> n1" and "n9" not in only


def test_compact_names_survive():
    pygraphviz = pytest.importorskip("pygraphviz")
    net = proto.NetParameter(name='a "net"')
    net.layer.add(name="odd <x> & y", type="Split", bottom=["in & out"], top=["t"])
    text = draw.dot_source(net, compact=True)
    assert pygraphviz.AGraph(string=text).name == 'a "net"'
    assert "odd &lt;x&gt; &amp; y" in draw.draw_net(net, ext="svg", compact=True).decode()


def test_a_deep_net_is_no_wider_than_a_page():
    pytest.importorskip("pygraphviz")
    net, _ = read_net(models.find("resnet50/deploy.prototxt"))
    width, height = Image.open(BytesIO(draw.draw_net(net, "TB", "png", compact=True))).size
    assert width < 1200 and height < 12000


def test_a_caffemodel_is_drawn_as_its_net(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Net(models.find("lenet/lenet.prototxt"), proto.TEST).save("lenet.caffemodel")
    for name in ("lenet/lenet.prototxt", "lenet.caffemodel"):
        assert run(capsys, "draw", name, f"{name.replace('/', '_')}.dot", "--compact").status == 0
    assert (tmp_path / "lenet.caffemodel.dot").read_text() == (tmp_path / "lenet_lenet.prototxt.dot").read_text()
    assert "rankdir=TB" in (tmp_path / "lenet.caffemodel.dot").read_text()


def test_labels_stand_side_by_side_where_the_graph_grows_down():
    assert 'label="c (Convolution) kernel size: 3 stride: 2 pad: 1"' in draw.dot_source(small(), "TB")
    assert "rankdir=TB;" in draw.dot_source(small(), "TB")


def test_learning_rates_on_request():
    text = draw.dot_source(small(), display_lrm=True)
    assert r'pad: 1\nlr mult: 0.5, 1.0"' in text
    assert r'"i\n(InnerProduct)\nlr mult: 1.0, 1.0"' in text
    assert r'"p\n(Pooling AVE)\nkernel size: 2x3\nstride: 1\npad: 0"' in text
    assert "lr mult" not in draw.dot_source(small())


@pytest.mark.parametrize(
    "phase, there, absent", [(proto.TRAIN, "d_Data", "acc_Accuracy"), (proto.TEST, "acc_Accuracy", "d_Data")]
)
def test_a_phase_leaves_out_the_other_ones_layers(phase, there, absent):
    text = draw.dot_source(small(), phase=phase)
    assert there in text
    assert absent not in text


def test_edges_without_labels():
    assert "Batch" not in draw.dot_source(small(), label_edges=False)


def test_names_with_special_characters_survive():
    pygraphviz = pytest.importorskip("pygraphviz")
    net = proto.NetParameter(name='a "net"')
    net.layer.add(name=r'odd {name} | <x> \ "q"', type="Split", bottom=["in"], top=["a/b", 'c"d'])
    picture = draw.draw_net(net, ext="svg").decode()
    for text in ("odd {name} | &lt;x&gt; \\ &quot;q&quot;", "a/b", "c&quot;d"):
        assert f">{text}</text>" in picture.replace(" ", " ").replace("&#45;", "-")
    assert pygraphviz.AGraph(string=draw.dot_source(net)).name == 'a "net"'


@pytest.mark.parametrize(
    "ext, start", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("dot", b"digraph"), ("raw", b"digraph")]
)
def test_formats(tmp_path, ext, start):
    if ext not in draw.TEXT_FORMATS:
        pytest.importorskip("pygraphviz")
    draw.draw_net_to_file(small(), tmp_path / f"net.{ext}")
    assert (tmp_path / f"net.{ext}").read_bytes().startswith(start)


def test_text_needs_no_pygraphviz(monkeypatch):
    monkeypatch.setattr("minicaffe.compat.require", lambda module: pytest.fail(f"{module} is not needed"))
    assert draw.draw_net(small(), ext="dot") == draw.draw_net(small(), ext="raw") == draw.dot_source(small()).encode()


def test_a_net_of_an_older_format_is_upgraded():
    legacy = parse(
        'layers { name: "i" type: INNER_PRODUCT bottom: "x" top: "i" inner_product_param { num_output: 4 } }',
        proto.NetParameter(),
    )
    assert r'"i_InnerProduct" [label="i\n(InnerProduct)"' in draw.dot_source(legacy)


def test_what_cannot_be_drawn():
    with pytest.raises(MinicaffeError, match="drawn as png, svg, pdf, dot, raw; found 'jpg'"):
        draw.draw_net(small(), ext="jpg")
    with pytest.raises(MinicaffeError, match="rankdir must be one of LR, TB, BT, RL; found 'XY'"):
        draw.draw_net(small(), "XY", "dot")
    both = parse(
        'layer { name: "x" type: "ReLU" include { phase: TEST } exclude { phase: TRAIN } }', proto.NetParameter()
    )
    with pytest.raises(NetError, match="layer 'x': Specify either include rules or exclude rules"):
        draw.draw_net(both, ext="dot", phase=proto.TEST)


def test_the_command(capsys, tmp_path):
    out = tmp_path / "net.dot"
    outcome = run(
        capsys,
        "draw",
        "siamese/mnist_siamese_train_test.prototxt",
        out,
        "-rankdir=BT",
        "-phase",
        "TRAIN",
        "-display_lrm",
    )
    assert (outcome.status, outcome.out) == (0, f"Drawing net to {out}\n")
    net, _ = read_net(models.find("siamese/mnist_siamese_train_test.prototxt"))
    assert out.read_text() == draw.dot_source(net, "BT", phase=proto.TRAIN, display_lrm=True)


@pytest.mark.parametrize("args, status, message", [
    (("siamese/mnist_siamese.prototxt", "net.gif"), 1, "found 'gif'"),
    (("siamese/mnist_siamese.prototxt", "net"), 1, "found ''"),
    (("siamese/mnist_siamese.prototxt", "absent/net.dot"), 1, "does not exist"),
    (("absent.prototxt", "net.dot"), 1, "File not found: absent.prototxt"),
    (("siamese/mnist_siamese.prototxt",), 2, "Missing argument 'OUT'"),
])  # fmt: skip
def test_the_commands_errors(capsys, tmp_path, monkeypatch, args, status, message):
    monkeypatch.chdir(tmp_path)
    outcome = run(capsys, "draw", *args)
    assert outcome.status == status
    assert message in outcome.errors[0] and outcome.out == ""
    assert not list(tmp_path.iterdir())


def test_a_graph_for_pydot_is_the_same_graph():
    pytest.importorskip("pydot")
    net, _ = read_net(models.find("lenet/lenet_train_test.prototxt"))
    graph = draw.get_pydot_graph(net, "LR", phase=proto.TRAIN)
    assert graph.get_name().strip('"') == "LeNet" and graph.get_rankdir() == "LR"
    labels = {node.get_name().strip('"'): node.get_label() for node in graph.get_nodes()}
    assert "conv1_Convolution" in labels and "kernel size: 5" in labels["conv1_Convolution"]
    assert {edge.get_label() for edge in graph.get_edges()} >= {'"20"', '"Batch 64"'}
    unlabelled = draw.get_pydot_graph(net, "TB", label_edges=False)
    assert {edge.get_label() for edge in unlabelled.get_edges()} == {None}


def test_the_parts_of_a_drawing():
    net = parse(NET, proto.NetParameter(), "net")
    data, conv, pool, relu, ip, _ = net.layer
    assert draw.get_layer_label(conv, "LR").split("\n") == [
        "c", "(Convolution)", "kernel size: 3", "stride: 2", "pad: 1",
    ]  # fmt: skip
    assert draw.get_layer_label(conv, "TB", display_lrm=True).endswith("lr mult: 0.5, 1.0")
    assert [draw.get_edge_label(layer) for layer in (data, conv, pool, ip)] == ["Batch 5", "7", "", "4"]
    assert [draw.get_layer_lr_mult(layer) for layer in (conv, relu, ip)] == [[0.5, 1.0], [], [1.0, 1.0]]
    colours = [draw.choose_color_by_layertype(kind) for kind in ("Convolution", "Pooling", "InnerProduct", "ReLU")]
    assert colours == ["#FF5050", "#FF9900", "#CC33FF", "#6495ED"]
    assert draw.get_pooling_types_dict() == {0: "MAX", 1: "AVE", 2: "STOCHASTIC"}
