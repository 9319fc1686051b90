"""Files of weights: a caffemodel of 256 MiB loaded into a net and saved, beside its bytes read or written alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.harness import Case, Work
from minicaffe import TEST, Net
from minicaffe.proto.files import write_atomic

INPUTS, OUTPUTS = 8192, 8192
DEFINITION = f"""
layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 1 dim: {INPUTS} }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param {{ num_output: {OUTPUTS} }} }}
"""


def _work(suffix: str, loads: bool) -> Work:
    work = Work({}, moved=4.0 * INPUTS * OUTPUTS)
    folder = Path(work.resources.enter_context(tempfile.TemporaryDirectory()))
    (folder / "net.prototxt").write_text(DEFINITION)
    net, weights = Net(str(folder / "net.prototxt"), TEST), str(folder / f"weights{suffix}")
    for blob in net.params["ip"]:
        blob.data[...] = 1
    save = net.save_hdf5 if suffix.endswith(".h5") else net.save
    save(weights)
    content = Path(weights).read_bytes()

    def read() -> int:
        with open(weights, "rb") as file:
            return len(file.read())

    def write() -> None:
        write_atomic(folder / "bytes", content)

    work.run = {
        "minicaffe": partial(net.copy_from, weights) if loads else partial(save, weights),
        "file": read if loads else write,
    }
    return work


def cases(threads: int) -> Iterator[Case]:
    """Each in the binary form and as HDF5."""
    for suffix in (".caffemodel", ".caffemodel.h5"):
        for name, loads in (("load", True), ("save", False)):
            yield Case("files", f"{name}{suffix}", partial(_work, suffix, loads))
