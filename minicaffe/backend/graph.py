"""Ops captured as a CUDA graph: what a stream is asked to do is noted instead of done, and launched in one call."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from minicaffe.backend.base import Capture


class NotCapturable(Exception):
    """Raised where work that is being captured does what a graph cannot repeat; its text says what."""


class GraphCapture(Capture):
    """A CUDA graph.

    Kernels are given arrays by Python code only, and every launch hands its arguments over while the graph is captured
    (``retain``): the graph owns the memory that it reads and writes.
    """

    ran = False

    def __init__(self) -> None:
        self.problem = ""
        """Why the capture is not complete."""
        self._thread = threading.get_ident()
        self._retained: list[Any] = []
        self._calls: list[Callable[[], None]] = []
        self._graph: Any = None

    @property
    def complete(self) -> bool:
        return self._graph is not None

    def is_own(self) -> bool:
        """Whether the thread that asks is the one that made the capture."""
        return self._thread == threading.get_ident()

    def retain(self, arguments: Any) -> None:
        """Own what a kernel was called with."""
        self._retained.append(arguments)

    def call(self, function: Callable[[], None]) -> None:
        """Have each replay call this first."""
        self._calls.append(function)

    def refuse(self, what: str) -> NoReturn:
        """Give the capture up; raises NotCapturable."""
        self.problem = self.problem or what
        raise NotCapturable(what)

    @contextlib.contextmanager
    def recording(self, cuda: Any, stream: Any) -> Iterator[None]:
        """Capture what is issued to ``stream`` inside; ``cuda`` is CuPy's module of this name.

        Memory may not be allocated: a graph would go on using what the pool takes back.  Exceptions, CUDA's refusals
        among them, end the capture and go no further.
        """

        def allocate(size: int) -> NoReturn:
            self.refuse(f"{size} bytes of memory are allocated")

        try:
            stream.begin_capture(cuda.runtime.streamCaptureModeThreadLocal)
            graph = None
            try:
                with cuda.using_allocator(allocate):
                    yield
            finally:
                graph = stream.end_capture()  # also of a capture that is given up: the stream would stay in it
        except Exception as error:
            self.problem = self.problem or f"{type(error).__name__}: {error}"
        if not self.problem:
            self._graph = graph

    def replay(self) -> None:
        for call in self._calls:
            call()
        self._graph.launch()
