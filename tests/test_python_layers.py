"""Python layers run code of a definition: what is said where that cannot be found, and the switch against it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from cli_case import NET, run, write_case

import minicaffe
from minicaffe import proto
from minicaffe.errors import LayerError
from minicaffe.proto import text

LAYER = 'layer {{ name: "mine" type: "Python" bottom: "data" top: "y" python_param {{ {} }} }}'


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("old", "needs", "marks", "pack")]:
        del sys.modules[name]


def build(options):
    data = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 } } }'
    return minicaffe.Net(text.parse(data + LAYER.format(options), proto.NetParameter()), minicaffe.TEST)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ('layer: "Mine"', r"python_param\.module: give the name of the module"),
        ('module: "old"', r"python_param\.layer: give the name of the class"),
        ('module: "no_such" layer: "A"', r"no module named 'no_such'; put its folder on PYTHONPATH"),
        ('module: "no_such.part.deep" layer: "A"', r"no module named 'no_such'"),
        ('module: "pack.missing" layer: "A"', r"no module named 'pack.missing': 'pack' \(.*\) has no 'missing'"),
        ('module: "json.missing" layer: "A"', r"'json' \(.*json/__init__\.py\) has no 'missing'; is it another 'json'"),
        (
            'module: "layers/my.py" layer: "A"',
            r"is a file's path; give the module's name, 'my', with layers on PYTHONPATH",
        ),
        (
            'module: "/layers/my" layer: "A"',
            r"is a file's path; give the module's name, 'my', with /layers on PYTHONPATH",
        ),
        (
            'module: "my.py" layer: "A"',
            r"is a file's path; give the module's name, 'my', with its folder on PYTHONPATH",
        ),
        ('module: "old" layer: "A"', r"old\.py:1: .*must be Python 3"),
        ('module: "needs" layer: "A"', r"'needs' imports 'cPickle', which is not installed, a module of Python 2"),
        ('module: ".relative" layer: "A"', r"'\.relative' is no module's name"),
        (
            'module: "marks" layer: "A"',
            r"must define a class 'A' derived from minicaffe\.Layer; found nothing of that name",
        ),
    ],
)
def test_a_layer_that_is_not_there(modules, options, problem):
    (modules / "old.py").write_text("print 'hello'\n")
    (modules / "needs.py").write_text("import cPickle\n")
    (modules / "marks.py").write_text("")
    (modules / "pack").mkdir()
    with pytest.raises(LayerError, match=r"layer 'mine' \(Python\).*" + problem):
        build(options)


def test_python_layers_can_be_switched_off(modules):
    (modules / "marks.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    assert minicaffe.allow_python_layers(False)
    try:
        with pytest.raises(LayerError, match=r"layer 'mine' \(Python\): it runs code, of module 'marks'"):
            build('module: "marks" layer: "A"')
    finally:
        assert not minicaffe.allow_python_layers(True)
    assert not (modules / "ran").exists()
    with pytest.raises(LayerError, match="must define a class"):
        build('module: "marks" layer: "A"')
    assert (modules / "ran").exists()


@pytest.mark.parametrize("command", ["train", "test", "time", "summarize"])
def test_every_command_that_builds_nets_has_the_switch(capsys, in_folder, modules, command):
    in_folder(modules)
    (modules / "marks.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    solver = write_case(modules, NET + LAYER.format('module: "marks" layer: "A"'))
    model = ("-solver", solver) if command == "train" else ("-model", "net.prototxt")
    weights = ("-weights", "w.caffemodel") if command == "test" else ()
    outcome = run(capsys, command, *model, *weights, "--no-python-layers")
    assert outcome.status == 1
    assert "Python layers are switched off" in outcome.errors[0]
    assert not (modules / "ran").exists()
    assert minicaffe.allow_python_layers(True)  # and on again when the command is done


def test_layers_that_import_caffe_run_without_caffe(tmp_path):
    """In a process of its own, as ``import caffe`` means minicaffe from then on."""
    (tmp_path / "pyloss.py").write_text(
        "import caffe\nfrom caffe.proto import caffe_pb2\n\n\n"
        "class Twice(caffe.Layer):\n"
        "    def reshape(self, bottom, top):\n        top[0].reshape(*bottom[0].data.shape)\n\n"
        "    def forward(self, bottom, top):\n        top[0].data[...] = 2 * bottom[0].data\n"
    )
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 3 } data_filler { value: 4 } } } '
        'layer { name: "y" type: "Python" bottom: "x" top: "y" python_param { module: "pyloss" layer: "Twice" } }'
    )
    (tmp_path / "script.py").write_text(
        "import minicaffe\n"
        "net = minicaffe.Net('net.prototxt', minicaffe.TEST)\n"
        "print(net.forward()['y'].tolist())\n"
        "import caffe\nassert caffe is minicaffe\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert (done.stdout, done.stderr) == ("[8.0, 8.0, 8.0]\n", "")
    command = [sys.executable, "-m", "minicaffe", "time", "-model", "net.prototxt", "-iterations", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
