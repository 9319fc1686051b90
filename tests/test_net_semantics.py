"""Filtering, splitting, sharing and backward analysis: what Caffe makes of small nets, or refuses (golden/netsem)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minicaffe import MinicaffeError
from minicaffe.net import Net

FOLDER = Path(__file__).parent / "golden" / "netsem"
CASES = [(path.stem, case) for path in sorted(FOLDER.glob("*.json")) for case in json.loads(path.read_text())]


def build(stem, case):
    phase = {"TRAIN": 0, "TEST": 1}[case["phase"]]
    return Net(FOLDER / f"{stem}.prototxt", phase, level=case["level"], stages=case["stages"])


@pytest.mark.parametrize(
    ("stem", "case"),
    [c for c in CASES if c[1]["ok"]],
    ids=lambda v: v if isinstance(v, str) else f"{v['phase']}-{v['level']}-{','.join(v['stages'])}",
)
def test_net_is_built_as_caffe_builds_it(stem, case):
    net = build(stem, case)
    names = net._blob_names
    assert [
        {
            "name": layer.name,
            "type": layer.type,
            "bottoms": [names[j] for j in net._bottom_ids(i)],
            "tops": [names[j] for j in net._top_ids(i)],
            "params": [list(blob.shape) for blob in layer.blobs],
        }
        for i, layer in enumerate(net.layers)
    ] == case["layers"]
    assert {name: list(net.blobs[name].shape) for name in names} == case["blobs"]
    assert dict(net.blob_loss_weights) == case["blob_loss_weights"]
    assert net.inputs == case["inputs"] and net.outputs == case["outputs"]
    owners: dict[int, list[str]] = {}
    for layer in net.layers:
        for j, blob in enumerate(layer.blobs):
            owners.setdefault(blob.data.ctypes.data, []).append(f"{layer.name}[{j}]")
    assert [users for users in owners.values() if len(users) > 1] == case["shared_storage"]


@pytest.mark.parametrize(
    ("stem", "case"), [c for c in CASES if not c[1]["ok"]], ids=lambda v: v if isinstance(v, str) else v["phase"]
)
def test_net_that_caffe_refuses_is_refused_with_the_place(stem, case):
    with pytest.raises(MinicaffeError, match=rf"{stem}\.prototxt"):
        build(stem, case)
