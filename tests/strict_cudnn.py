"""nvidia-cudnn-frontend as documented, as far as convolutions call it, on the arrays of ``strict_cupy``.

Calls in another order, of other shapes or types, on another stream, on misplaced memory or under a capture that CUDA
would refuse raise.  Of the plans for a product the first gives other bits each time, and the second rounds to TF32: who
does not turn them down gets such numbers.
"""

from __future__ import annotations

import ctypes
import math
from types import SimpleNamespace

import numpy as np
import strict_cupy

from minicaffe.kernels import reference
from minicaffe.kernels.window import Window
from minicaffe.testing.kernel_cases.halves import to_tf32

FLOAT = "FLOAT"
NOTES = ("DOWN_CONVERT_INPUTS", "FFT", "NONDETERMINISTIC", "REDUCED_PRECISION_REDUCTION", "STRICT_NAN_PROP",
         "TENSOR_CORE", "WINOGRAD")  # fmt: skip
STAGES = ("made", "validate", "build_operation_graph", "create_execution_plans", "check_support", "build_plans")


class NotSupportedError(Exception):
    pass


class Handle:
    """Bound to the device that is current."""

    def __init__(self):
        from strict_cuda import Context

        assert len(Context.current) >= 2, "no device is current"
        self.stream = 0


class Tensor:
    def __init__(self, dim=None, stride=None, data_type=None):
        self.dim, self.stride, self.data_type, self.is_output = dim, stride, data_type, False

    def set_output(self, value):
        assert value is True
        self.is_output = True
        return self

    def set_dim(self, dim):
        self.dim = dim
        return self

    def set_stride(self, stride):
        self.stride = stride
        return self

    def set_data_type(self, data_type):
        self.data_type = data_type
        return self

    def check(self):
        assert self.data_type == FLOAT and all(type(side) is int and side > 0 for side in self.dim)
        assert self.stride == [math.prod(self.dim[i + 1 :]) for i in range(len(self.dim))]

    def array(self, address):
        """The memory of a tensor whose elements have no gaps between them."""
        assert type(address) is int and address % 16 == 0, "cuDNN reads tensors at multiples of 16 bytes"
        flat = np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (math.prod(self.dim),))
        return flat.reshape(self.dim)


class Graph:
    """One operation; ``largest``: the elements of a result that it has a plan for."""

    largest = 1 << 30
    made = 0

    def __init__(self, *, io_data_type, intermediate_data_type, compute_data_type, handle):
        assert {io_data_type, intermediate_data_type, compute_data_type} == {FLOAT}
        self._handle, self._stage, self._turned_down = handle, 0, set()
        self._inputs: list[Tensor] = []

    def tensor(self, *, name, dim, stride, data_type):
        assert isinstance(dim, list) and isinstance(stride, list) and name
        return Tensor(dim, stride, data_type)

    def conv_fprop(self, *, image, weight, **steps):
        return self._operation("convolve", (image, weight), steps)

    def conv_dgrad(self, *, loss, filter, **steps):
        return self._operation("convolve_data_grad", (loss, filter), steps)

    def conv_wgrad(self, *, image, loss, **steps):
        return self._operation("convolve_weight_grad", (image, loss), steps)

    def _operation(self, op, inputs, steps):
        assert set(steps) == {"pre_padding", "post_padding", "stride", "dilation"}
        assert all(isinstance(side, list) and len(side) == 2 for side in steps.values())
        self._op, self._inputs, self._steps, self._result = op, list(inputs), steps, Tensor()
        return self._result

    def _step(self, name):
        strict_cupy._refuse_in_capture(f"cuDNN's {name}")
        assert STAGES[self._stage] != STAGES[-1] and STAGES[self._stage + 1] == name, f"{name} comes out of turn"
        self._stage += 1

    def validate(self):
        self._step("validate")
        for tensor in (*self._inputs, self._result):
            tensor.check()
        assert self._result.is_output
        first, second, result = (tensor.dim for tensor in (*self._inputs, self._result))
        x, w, y = {"convolve": (first, second, result), "convolve_data_grad": (result, second, first)}.get(
            self._op, (first, result, second)
        )
        assert x[1] % w[1] == 0 and y[1] == w[0] and y[0] == x[0] and w[0] % (x[1] // w[1]) == 0
        steps = self._steps
        sides = zip(x[2:], w[2:], *(steps[name] for name in ("pre_padding", "post_padding", "stride", "dilation")))
        assert y[2:] == [(size + a + b - d * (k - 1) - 1) // s + 1 for size, k, a, b, s, d in sides]
        self._group = x[1] // w[1]
        self._window = Window(*map(tuple, (w[2:], steps["stride"], steps["pre_padding"], steps["dilation"])))

    def build_operation_graph(self):
        self._step("build_operation_graph")
        assert isinstance(self._handle, Handle)

    def create_execution_plans(self, modes):
        self._step("create_execution_plans")
        assert modes == ["A", "FALLBACK"]

    def deselect_numeric_notes(self, notes):
        assert STAGES[self._stage] == "create_execution_plans" and set(notes) <= set(NOTES)
        self._turned_down |= set(notes)

    def check_support(self):
        self._step("check_support")
        if math.prod(self._result.dim) > self.largest:
            raise NotSupportedError("no valid execution plans")

    def build_plans(self):
        self._step("build_plans")
        Graph.made += 1

    def get_workspace_size(self):
        assert STAGES[self._stage] == "build_plans"
        return 4 * math.prod(self._result.dim) + 4

    def execute(self, tensors, workspace, *, handle):
        from strict_cuda import Context

        assert STAGES[self._stage] == "build_plans" and set(tensors) == {*self._inputs, self._result}
        assert handle is self._handle and handle.stream == Context.current[-1].ptr, "on another stream"
        first, second, result = (t.array(tensors[t]) for t in (*self._inputs, self._result))
        space = np.ctypeslib.as_array(
            ctypes.cast(workspace, ctypes.POINTER(ctypes.c_uint8)), (self.get_workspace_size(),)
        )
        strict_cupy.issue(lambda: self._run(first, second, result, space))

    def _run(self, first, second, result, space):
        if "NONDETERMINISTIC" not in self._turned_down:
            first = first * np.float32(1 + 1e-3 * np.random.default_rng().random())
        elif "TENSOR_CORE" not in self._turned_down:
            first, second = to_tf32(first), to_tf32(second)
        space[...] = 0xFF
        result[...] = np.nan
        x, y = (first, result) if self._op == "convolve" else (result, first)
        room = [np.empty(max(1, reference.convolution_workspace(a.shape, b.shape, self._window, self._group)), "f4")
                for a, b in [(x, y) if self._op != "convolve_weight_grad" else (first, second)]]  # fmt: skip
        shared = self._window, self._group, *room
        if self._op == "convolve":
            reference.convolve(first, second, None, result, *shared)
        elif self._op == "convolve_data_grad":
            reference.convolve_data_grad(first, second, result, *shared)
        else:
            reference.convolve_weight_grad(first, second, result, *shared, False)


class FakeCudnn:
    """The module ``cudnn``."""

    __version__ = "1.10.0"
    data_type = SimpleNamespace(FLOAT=FLOAT)
    heur_mode = SimpleNamespace(A="A", FALLBACK="FALLBACK")
    numerical_note = SimpleNamespace(**{note: note for note in NOTES})
    cudnnGraphNotSupportedError = NotSupportedError
    pygraph = Graph
    create_handle = Handle

    @staticmethod
    def backend_version():
        return 91000

    @staticmethod
    def set_stream(*, handle, stream):
        assert isinstance(handle, Handle) and stream
        handle.stream = stream
