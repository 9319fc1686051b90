"""Layers that bring data, in processes that train one model: each reads a share of its own, in orders that all know."""

from __future__ import annotations

import json

import numpy as np
import pytest
from layer_cases import CASES
from PIL import Image
from test_detection_data import window_file

from minicaffe import proto
from minicaffe.backend import random, ranks
from minicaffe.layers.base import registry
from minicaffe.layers.input import Source
from minicaffe.net import Net
from minicaffe.proto.origin import Origin
from minicaffe.testing.definition import define

RANKS, STEPS = 2, 4


def windows(folder):
    """Five images of one colour each, with a window of foreground."""
    text = []
    for n in range(5):
        Image.fromarray(np.full((20, 24, 3), 10 * n, np.uint8)).save(folder / f"{n}.png")
        text.append(f"# {n}\n{folder / f'{n}.png'}\n3\n20\n24\n1\n{n + 1} 0.9 2 3 12 15\n")
    (folder / "windows.txt").write_text("".join(text))
    return {"source": str(folder / "windows.txt"), "fg_fraction": 1}


def boxes(folder, field):
    """Five images with objects."""
    path = window_file(folder, difficult=field != "image_gt_data_param", count=5)
    return {field: {"source": path, "batch_size": 1}}


def fields_of(case, folder):
    """The layer's own fields, for batches of one record."""
    found = case.how(folder)
    if case.type == "WindowData":
        found |= windows(folder) | {"transform_param": {"crop_size": 8, "mirror": True}}
    for name in [name for name in found if name.endswith("_data_param")]:  # fields given by their message
        found[name] = {**found[name], **boxes(folder, name)[name]}
    return found if any(name.endswith("_data_param") for name in found) else found | {"batch_size": 1}


def definition(case, folder, shuffled):
    fields = fields_of(case, folder)
    layer = define(
        case.type, {name: value for name, value in fields.items() if name not in ("tops", "params", "phase")}
    )
    if shuffled:
        options = getattr(layer, registry[case.type].dialect(layer).param)
        options.shuffle = "random" if case.type == "DetectionData" else True
    tops = case.tops if isinstance(case.tops, tuple) else [f"top{n}" for n in range(case.tops)]
    layer.top.extend(tops)
    return proto.NetParameter(layer=[layer], state=proto.NetState(phase=proto.TRAIN))


@pytest.fixture
def net_of(monkeypatch):
    """Makes the net of a rank, of ``count``: connected, and with random numbers of its own."""
    said, nets = [], []

    def make(param, rank, count):
        if rank == 0:
            said.clear()
        heard = iter(said.copy())

        def of_first(value):
            if rank == 0:
                said.append(value)
            return value if rank == 0 else next(heard)

        for name, value in (("_rank", rank), ("_count", count), ("_of_first", of_first)):
            monkeypatch.setattr(ranks, name, value)
        random.seed(1 + rank)
        nets.append(Net.from_param(param, Origin(None)))
        return nets[-1]

    yield make
    for net in nets:
        net.close()


def records(net, count, type):
    """What tells the next records: the tops; or, where an image lies anywhere on its canvas, its red."""
    found = []
    for _ in range(count):
        net.forward()
        tops = [blob.data.copy() for blob in net.blobs.values()]
        found.append([tops[0][:, 2].max()] if type in ("DetectionData", "ImageGtData") else tops)
    return found


def sharing():
    """Each layer that reads records, as it is and, if it can, with its records shuffled."""
    for case in CASES:
        if case.bottoms or not (case.files and issubclass(registry.get(case.type, object), Source)):
            continue
        options = registry[case.type].dialect(define(case.type, case.fields)).param
        message = getattr(proto.LayerParameter(), options)
        for shuffled in (False, True) if "shuffle" in message.DESCRIPTOR.fields_by_name else (False,):
            yield pytest.param(case, shuffled, id=f"{case.type}{'-shuffled' * shuffled}")


@pytest.mark.parametrize("case, shuffled", list(sharing()))
def test_ranks_share_the_records_of_one(case, shuffled, tmp_path, net_of):
    param = definition(case, tmp_path, shuffled)
    alone = records(net_of(param, 0, 1), RANKS * 2 * STEPS, case.type)
    nets = [net_of(param, rank, RANKS) for rank in range(RANKS)]
    for rank, net in enumerate(nets):
        np.testing.assert_equal(records(net, STEPS, case.type), alone[rank : RANKS * STEPS : RANKS])
    assert any(not np.array_equal(*tops) for other in alone for tops in zip(alone[0], other, strict=True))

    state = json.loads(json.dumps(nets[0].state()))
    nets[1].restore(state)
    np.testing.assert_equal(records(nets[1], STEPS, case.type), alone[RANKS * STEPS + 1 :: RANKS])
