"""Which kernels of a pass take how long: each launch and matrix product is repeated in a graph, and timed."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from minicaffe.backend.gpu import GpuBackend
from minicaffe.backend.graph import GraphCapture

_FORMULA = 40  # characters of a formula that are told
_REPEATS = 8


@dataclass
class Launch:
    """One launch: its name with the shape of its largest array, events around repeats of it, and what one must do."""

    name: str
    start: Any
    end: Any
    moved: int
    flops: float


@dataclass
class Profile:
    """The launches of a pass; ``slowest`` sums up those of one kernel and shape."""

    cuda: Any
    launches: list[Launch] = field(default_factory=list)

    def milliseconds(self, launch: Launch) -> float:
        """What one launch takes, with the gap to the next."""
        return self.cuda.get_elapsed_time(launch.start, launch.end) / _REPEATS

    def total(self) -> float:
        """Milliseconds of all launches."""
        if self.launches:
            self.launches[-1].end.synchronize()
        return sum(map(self.milliseconds, self.launches))

    def slowest(self, count: int = 10) -> list[dict[str, Any]]:
        """The kernels that take most, with calls, milliseconds in all, and bytes and FLOPs a second.

        Bytes are those of the arrays that a kernel is given, each once.
        """
        self.total()
        groups: dict[str, list[float]] = {}
        for launch in self.launches:
            sums = groups.setdefault(launch.name, [0, 0.0, 0.0, 0.0])
            for i, term in enumerate((1, self.milliseconds(launch), launch.moved, launch.flops)):
                sums[i] += term
        rows = sorted(groups.items(), key=lambda item: -item[1][1])[:count]
        return [
            {
                "kernel": name,
                "calls": int(calls),
                "ms": ms,
                "GB/s": moved / max(ms, 1e-9) / 1e6,
                "TFLOP/s": flops / max(ms, 1e-9) / 1e9,
            }
            for name, (calls, ms, moved, flops) in rows
        ]


@contextlib.contextmanager
def profile(where: GpuBackend) -> Iterator[Profile]:
    """Time every launch of ``where``'s ops inside, which must have been made before: kernels are then loaded.

    Each is made many times over, for one alone takes less time than its call from Python: what is computed inside means
    nothing.
    """
    launcher, ops = where.ops.launch, where.ops
    found, own_gemm = Profile(where.xp.cuda), ops._gemm
    launch_own: Callable[..., None] = launcher._launch

    def note(name: str, arrays: list[Any], flops: float, call: Callable[[], None]) -> None:
        start, end, stream = found.cuda.Event(), found.cuda.Event(), found.cuda.get_current_stream()
        largest = max((a.shape for a in arrays), key=math.prod, default=())
        repeated = GraphCapture()
        with repeated.recording(found.cuda, stream):
            for _ in range(_REPEATS):
                call()
        if not repeated.complete:
            raise RuntimeError(f"{name} cannot be captured: {repeated.problem}")
        repeated.replay()
        start.record(stream)
        repeated.replay()
        end.record(stream)
        moved = sum(a.nbytes for a in arrays)
        found.launches.append(Launch(f"{name} {'x'.join(map(str, largest))}", start, end, moved, flops))

    def launch(program: Any, kernel: str, grid: tuple, block: tuple, args: tuple) -> None:
        arrays = [a for a in args if isinstance(a, where.xp.ndarray)]
        flops = _flops(kernel, grid, args)
        note(_named(program, kernel), arrays, flops, lambda: launch_own(program, kernel, grid, block, args))

    def gemm(a: Any, b: Any, out: Any, transpose_a: bool = False, *rest: bool, **more: bool) -> None:
        inner = a.shape[-2] if transpose_a else a.shape[-1]
        note("gemm", [a, b, out], 2.0 * inner * out.size, lambda: own_gemm(a, b, out, transpose_a, *rest, **more))

    launcher._launch, ops._gemm = launch, gemm
    try:
        yield found
    finally:
        del launcher._launch  # the method of its class again
        ops._gemm = own_gemm


def _flops(kernel: str, grid: tuple, args: tuple) -> float:
    """What a kernel multiplies and adds, if it is a matrix product."""
    if kernel != "implicit_gemm":
        return 0.0
    left, result, groups = args[1], args[6], grid[1]
    return 2.0 * groups * int(left["rows"]) * int(left["depth"]) * int(result["depth"])


def _named(program: Any, kernel: str) -> str:
    """The kernel, and if it applies a formula, the beginning of that."""
    formula = re.search(r"return \((.*)\);", program.prelude)
    return f"{kernel}[{formula[1][:_FORMULA]}]" if formula else kernel
