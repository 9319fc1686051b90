"""Convolution by NVIDIA's cuDNN, for layers that ask for it: graphs of one operation, planned once for each shape."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from minicaffe.errors import DeviceError
from minicaffe.kernels import reference
from minicaffe.kernels.cuda.conv.finish import finish
from minicaffe.kernels.cuda.conv.problem import DATA_GRAD, FORWARD, KINDS, WEIGHT_GRAD, Problem
from minicaffe.kernels.cuda.launch import program
from minicaffe.kernels.window import Window

_log = logging.getLogger(__name__)

_ALIGNMENT = 16  # bytes; what cuDNN takes for granted of the tensors of a graph
_PLACE = 256  # bytes to which parts of the workspace are aligned
_MOST_PLANS = 1024


class Plan(NamedTuple):
    """A graph that is ready to run, its tensors (two factors and the result), and the bytes of workspace it needs."""

    graph: Any
    tensors: tuple[Any, Any, Any]
    workspace: int


class CudnnConvolutions:
    """The convolutions of ``kernels/reference/conv.py`` by cuDNN, or by ``ops`` where it does not serve.

    It serves float32 over images of two axes.  Only engines that give the same bits each time and do not round their
    factors are taken; with TF32 allowed, those of tensor cores, too.

    ``cudnn`` is the module of nvidia-cudnn-frontend, ``stream`` the address of the stream that all work goes to;
    ``zeros`` makes arrays, and ``planning(what)`` is held around what no capture takes.  Raises DeviceError if cuDNN
    does not start.
    """

    def __init__(
        self,
        cudnn: Any,
        ops: Any,
        stream: int,
        zeros: Callable[[Sequence[int], Any], Any],
        planning: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._cudnn, self._ops, self._zeros, self._planning = cudnn, ops, zeros, planning
        try:
            self._handle = cudnn.create_handle()
            cudnn.set_stream(handle=self._handle, stream=stream)
        except (RuntimeError, OSError) as error:
            raise DeviceError(f"cuDNN does not start: {error}") from error
        self._plans: dict[tuple[Problem, bool], Plan | None] = {}
        self._held: Any = None
        self.declined: list[str] = []
        """What has kept cuDNN from computing something, each once."""

    @property
    def workspace_bytes(self) -> int:
        """Memory that is held for cuDNN alone."""
        return 0 if self._held is None else self._held.nbytes

    def convolution_workspace(
        self,
        x_shape: Sequence[int],
        y_shape: Sequence[int],
        window: Window,
        group: int,
        dtype: Any = None,
        kinds: Collection[str] = KINDS,
        packed: bool | None = None,
    ) -> int:
        """See ``kernels.reference.convolution_workspace``; for ``ops``, which may have to do the work."""
        return self._ops.convolution_workspace(x_shape, y_shape, window, group, dtype, kinds, packed)

    convolution_form = staticmethod(reference.convolution_form)

    def convolve(
        self,
        x: Any,
        w: Any,
        bias: Any | None,
        y: Any,
        window: Window,
        group: int,
        workspace: Any,
        slope: float = 1.0,
        packed: dict[Any, Any] | None = None,
        accumulate: bool = False,
    ) -> None:
        """See ``kernels.reference.convolve``; what is added to y is computed without cuDNN."""
        plan = None if accumulate else self._plan(Problem(FORWARD, x.shape, y.shape, window, group), x, w, y)
        if plan is None:
            self._ops.convolve(x, w, bias, y, window, group, workspace, slope, None, accumulate)
        else:
            self._run(plan, x, w, y)
            finish(self._ops, y, bias, slope)

    def convolve_data_grad(self, dy: Any, w: Any, dx: Any, window: Window, group: int, workspace: Any) -> None:
        """See ``kernels.reference.convolve_data_grad``."""
        plan = self._plan(Problem(DATA_GRAD, dx.shape, dy.shape, window, group), dy, w, dx)
        if plan is None:
            self._ops.convolve_data_grad(dy, w, dx, window, group, workspace)
        else:
            self._run(plan, dy, w, dx)

    def convolve_weight_grad(
        self, x: Any, dy: Any, dw: Any, window: Window, group: int, workspace: Any, accumulate: bool, dbias: Any = None
    ) -> None:
        """See ``kernels.reference.convolve_weight_grad``; what is to be added to dw is made in memory beside."""
        plan = self._plan(Problem(WEIGHT_GRAD, x.shape, dy.shape, window, group), x, dy, dw)
        if plan is None:
            self._ops.convolve_weight_grad(x, dy, dw, window, group, workspace, accumulate, dbias)
            return
        if dbias is not None:
            self._ops.bias_grad(dy, dbias)
        if not accumulate:
            self._run(plan, x, dy, dw)
            return
        start = -(-plan.workspace // _PLACE) * _PLACE
        term = self._room(start + dw.nbytes)[start : start + dw.nbytes].view(dw.dtype).reshape(dw.shape)
        self._run(plan, x, dy, term)
        self._ops.launch.reduction(program("linear", dw.dtype), "add_rows", dw.size, 1, term, dw, True)

    def _plan(self, problem: Problem, *arrays: Any) -> Plan | None:
        """How cuDNN computes it on these arrays, or None, and a line in the log for each reason, where it does not."""
        reason = self._unsuited(problem, arrays)
        if reason:
            self._decline(reason)
            return None
        key = problem, bool(self._ops.tensor_cores(np.float32))
        if key not in self._plans:
            with self._planning("cuDNN plans a convolution"):
                if len(self._plans) >= _MOST_PLANS:
                    del self._plans[next(iter(self._plans))]
                self._plans[key] = self._planned(*key)
        return self._plans[key]

    def _unsuited(self, problem: Problem, arrays: tuple[Any, ...]) -> str:
        """Why cuDNN is not even asked, or nothing."""
        if self._ops.factors != "fp32":
            return f"it does not multiply in {self._ops.factors}"
        if any(array.dtype != np.float32 for array in arrays):
            return "it is for float32"
        if len(problem.window.kernel) != 2:
            return "it is for images of two axes"
        if problem.y_shape[2:] != _positions(problem):
            return "a window is larger than the image with its padding"
        if any(array.data.ptr % _ALIGNMENT for array in arrays):
            return f"an array does not begin at a multiple of {_ALIGNMENT} bytes"
        return ""

    def _decline(self, reason: str) -> None:
        if reason not in self.declined:
            self.declined.append(reason)
            _log.info("engine: CUDNN is left to minicaffe's own kernels where %s", reason)

    def _planned(self, problem: Problem, tf32: bool) -> Plan | None:
        """The plan that cuDNN's heuristics put first among those that keep the rules of the class."""
        cudnn, notes = self._cudnn, self._cudnn.numerical_note
        refused = [notes.NONDETERMINISTIC, notes.DOWN_CONVERT_INPUTS, notes.REDUCED_PRECISION_REDUCTION]
        graph, tensors = self._described(problem)
        try:
            graph.validate()
            graph.build_operation_graph()
            graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
            graph.deselect_numeric_notes(refused if tf32 else [*refused, notes.TENSOR_CORE])
            graph.check_support()
            graph.build_plans()
            return Plan(graph, tensors, max(0, graph.get_workspace_size()))
        except Exception as error:  # each version has its own; whatever cuDNN does not plan, ops compute
            self._decline(f"cuDNN has no plan, as for {problem}: {' '.join(str(error).split())[:200]}")
            return None

    def _described(self, problem: Problem) -> tuple[Any, tuple[Any, Any, Any]]:
        """The product as a graph, with its tensors.  Groups follow from the channels of the filters."""
        real = self._cudnn.data_type.FLOAT
        types = dict.fromkeys(("io_data_type", "intermediate_data_type", "compute_data_type"), real)
        graph, window = self._cudnn.pygraph(handle=self._handle, **types), problem.window
        pads = {"pre_padding": list(window.pad), "post_padding": list(window.pad)}
        steps = {**pads, "stride": list(window.stride), "dilation": list(window.dilation)}
        w_shape = (problem.y_shape[1], problem.channels, *window.kernel)

        def tensor(name: str, shape: Sequence[int]) -> Any:
            return graph.tensor(name=name, dim=list(shape), stride=_strides(shape), data_type=real)

        if problem.kind == FORWARD:
            factors, shape = (tensor("x", problem.x_shape), tensor("w", w_shape)), problem.y_shape
            result = graph.conv_fprop(image=factors[0], weight=factors[1], **steps)
        elif problem.kind == DATA_GRAD:
            factors, shape = (tensor("dy", problem.y_shape), tensor("w", w_shape)), problem.x_shape
            result = graph.conv_dgrad(loss=factors[0], filter=factors[1], **steps)
        else:
            factors, shape = (tensor("x", problem.x_shape), tensor("dy", problem.y_shape)), w_shape
            result = graph.conv_wgrad(image=factors[0], loss=factors[1], **steps)
        result.set_output(True).set_dim(list(shape)).set_stride(_strides(shape)).set_data_type(real)
        return graph, (*factors, result)

    def _run(self, plan: Plan, *arrays: Any) -> None:
        """Issue a product of two arrays to the stream; a capture comes to own what it needs."""
        space = self._room(max(1, plan.workspace))
        self._ops.launch.retain((plan, space, *arrays))
        places = {tensor: array.data.ptr for tensor, array in zip(plan.tensors, arrays, strict=True)}
        try:
            plan.graph.execute(places, space.data.ptr, handle=self._handle)
        except RuntimeError as error:
            raise DeviceError(
                f"cuDNN fails in a convolution: {error}; without engine: CUDNN minicaffe's own kernels compute it"
            ) from error

    def _room(self, nbytes: int) -> Any:
        """Memory for cuDNN, flat; a larger array replaces one that is too small."""
        if self._held is None or self._held.nbytes < nbytes:
            self._held = self._zeros((nbytes,), np.uint8)
        return self._held


def _positions(problem: Problem) -> tuple[int, ...]:
    """Where the window fits, along each axis."""
    window = problem.window
    sides = zip(problem.x_shape[2:], window.extent, window.stride, window.pad, strict=True)
    return tuple((size + 2 * pad - extent) // stride + 1 for size, extent, stride, pad in sides)


def _strides(shape: Sequence[int]) -> list[int]:
    """Elements from one entry of each axis to the next, in a C-contiguous array."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]
