"""Engines that run a deployed net: minicaffe, and its peers on the same weights.

Each loads the net of a folder that ``deploy_nets`` wrote, and is to run with a number of threads.  Nothing is imported
at the top that only one of them needs: each runs in a process of its own, whose memory counts.
"""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

NET, WEIGHTS, ONNX, PLAN, INPUTS = "net.prototxt", "net.caffemodel", "net.onnx", "net.plan", "inputs.npz"
"""The files of a folder that ``deploy_nets`` wrote."""


class Engine(ABC):
    """Base: a net loaded, its inputs in place."""

    needs = ""
    """The file that is there if the net can be run."""

    def __init__(self, folder: Path, threads: int) -> None:
        with np.load(folder / INPUTS) as stored:
            self.inputs = dict(stored)
        self.load(folder, threads)

    @abstractmethod
    def load(self, folder: Path, threads: int) -> None:
        """Make what ``run`` needs, ``inputs`` among it."""

    @abstractmethod
    def run(self) -> Any:
        """Run the net once, from inputs that are in memory to outputs that are."""

    @abstractmethod
    def outputs(self) -> dict[str, Any]:
        """Run the net once; its outputs by name."""


class Minicaffe(Engine):
    """The net in its deploy form."""

    needs = WEIGHTS

    def load(self, folder: Path, threads: int) -> None:
        import minicaffe

        minicaffe.set_num_threads(threads)
        net, weights = str(folder / NET), str(folder / self.needs)
        self._net = minicaffe.Net(net, minicaffe.TEST, weights=weights, deploy=True)
        for name, values in self.inputs.items():
            self._net.blobs[name].data[...] = values

    def run(self) -> Any:
        return self._net.forward()

    def outputs(self) -> dict[str, Any]:
        return self._net.forward()


class OnnxRuntime(Engine):
    """The exported model, on the CPU, with all of its optimisations."""

    needs = ONNX

    def load(self, folder: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        model = str(folder / self.needs)
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self) -> Any:
        return self._session.run(None, self.inputs)

    def outputs(self) -> dict[str, Any]:
        return dict(zip([value.name for value in self._session.get_outputs()], self.run(), strict=True))


class OpenVino(Engine):
    """The exported model in single precision, which is not its choice on every processor, for the shortest latency."""

    needs = ONNX

    def load(self, folder: Path, threads: int) -> None:
        import openvino

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = openvino.Core().compile_model(str(folder / self.needs), "CPU", settings)
        self._request = compiled.create_infer_request()
        for name, values in self.inputs.items():
            self._request.set_tensor(name, openvino.Tensor(values, shared_memory=True))
        self._names = [output.get_any_name() for output in compiled.outputs]

    def run(self) -> Any:
        return self._request.infer(share_outputs=True)

    def outputs(self) -> dict[str, Any]:
        self.run()
        return {name: self._request.get_tensor(name).data for name in self._names}


class OpenCv(Engine):
    """The exported model in OpenCV's ``dnn``."""

    needs = ONNX

    def load(self, folder: Path, threads: int) -> None:
        import cv2

        cv2.setNumThreads(threads)
        self._net = cv2.dnn.readNetFromONNX(str(folder / self.needs))
        self._names = self._net.getUnconnectedOutLayersNames()

    def run(self) -> Any:
        for name, values in self.inputs.items():
            self._net.setInput(values, name)
        return self._net.forward(self._names)

    def outputs(self) -> dict[str, Any]:
        return dict(zip(self._names, self.run(), strict=True))


class Torch(Engine):
    """The net as the module that ``minicaffe export`` writes."""

    needs = PLAN

    def load(self, folder: Path, threads: int) -> None:
        from benchmarks.torch_net import TorchNet, torch

        torch.set_num_threads(threads)
        self._net = TorchNet(pickle.loads((folder / self.needs).read_bytes()))
        self._without_gradients = torch.inference_mode

    def run(self) -> Any:
        with self._without_gradients():
            return self._net.forward()

    def outputs(self) -> dict[str, Any]:
        return {name: values.numpy() for name, values in self.run().items()}


ENGINES: dict[str, type[Engine]] = {
    "minicaffe": Minicaffe,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "opencv": OpenCv,
    "torch": Torch,
}
PACKAGES = {"opencv": "cv2"}
"""What is imported for an engine, where it is not the engine's name."""
