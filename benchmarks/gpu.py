"""The part "speed" of ``minicaffe gpu_check``: the nets of ``benchmarks.nets`` on a GPU, beside PyTorch on the same.

A check is named net/pass/contestant; its figure "ms" is the median over single calls, between events of the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks import gpu_convolutions, nets, peers
from minicaffe import backend, summary
from minicaffe.kernels import fast_paths
from minicaffe.layers.convolution import Convolution
from minicaffe.proto import ConvolutionParameter
from minicaffe.solvers import Solver
from minicaffe.testing.gpu import target
from minicaffe.testing.gpu.checks import Check, Options, Skip
from minicaffe.testing.gpu.cudnn import opened
from minicaffe.testing.gpu.profile import profile

SECONDS = 0.6
_AHEAD = 5  # calls whose launches fit in the queue of a device
PASSES = ("step", "forward")
_NETS = ("siamese_mnist_b64", "lenet_b64", "cifar10_full_b100", "caffenet_b16", "resnet50_b8", "mobilenet_b8")
_STAND_IN_NETS = _NETS[:2]


def checks(options: Options) -> Iterator[Check]:
    """minicaffe's own passes; algorithms of convolutions; PyTorch as it is; large batches; PyTorch compiled, which
    takes its time; with TF32, fp16 and cuDNN.
    """
    with contextlib.suppress(Exception):  # its own checks tell what is wrong with it
        # before nvmath-python: of two versions of cuBLAS the first one loaded serves both, and it is pickier
        peers.torch()
    where = target.open_backend(options)
    usual = _small_nets() if options.small else {name: nets.NETS[name] for name in _NETS}
    large = {} if options.small else _large_nets()
    benches = {name: Bench(where, options, definition) for name, definition in {**usual, **large}.items()}
    for name in usual:
        yield from _own(name, benches[name])
        benches[name].close()
    yield from gpu_convolutions.checks(where, options)
    for name in usual:
        yield from _beside_torch(name, benches[name], PASSES)
        yield Check(f"{name}/losses beside PyTorch", benches[name].same_training)
        benches[name].close()
    for name in large:
        yield from _own(name, benches[name])
        yield from _beside_torch(name, benches[name], PASSES[:1])
        benches[name].close()
    for what, tf32 in ((what, tf32) for tf32 in (False, True) for what in PASSES):
        for name, bench in benches.items():
            if tf32:
                yield Check(f"{name}/{what}/minicaffe TF32", partial(bench.minicaffe, what, True, True))
                yield Check(f"{name}/{what}/torch TF32", partial(bench.torch, what, True, False))
            yield Check(f"{name}/{what}/compiled{' TF32' * tf32}", partial(bench.torch, what, tf32, True))
            bench.close()
    for name, bench in benches.items():
        yield Check(f"{name}/step/minicaffe fp16", partial(bench.minicaffe, "step", precision="fp16"))
        yield Check(f"{name}/step/torch fp16", partial(bench.torch, "step", True, False, fp16=True))
        for tf32 in (False, True):
            yield Check(f"{name}/step/minicaffe cuDNN{' TF32' * tf32}", partial(bench.by_cudnn, tf32))
        bench.close()


def _beside_torch(name: str, bench: Bench, passes: Sequence[str]) -> Iterator[Check]:
    for what in passes:
        yield Check(f"{name}/{what}/torch", partial(bench.torch, what, False, False))
    yield Check(f"{name}/memory/torch", bench.torch_memory)


def _own(name: str, bench: Bench) -> Iterator[Check]:
    """What needs no PyTorch."""
    for what in PASSES:
        for replay in (True, False):
            own = "minicaffe" if replay else "without graphs"
            yield Check(f"{name}/{what}/{own}", partial(bench.minicaffe, what, replay))
    yield Check(f"{name}/memory/minicaffe", bench.memory)
    yield Check(f"{name}/kernels", bench.kernels)


def _large_nets() -> dict[str, nets.Definition]:
    """The nets that fill a GPU, with the batches that they are trained with there."""
    return {
        f"{net}_b{size}": _with_batch(nets.NETS[name], size)
        for net, name, size in (("caffenet", "caffenet_b16", 256), ("resnet50", "resnet50_b8", 64))
    }


def _with_batch(definition: nets.Definition, size: int) -> nets.Definition:
    inputs = {blob: (size, *shape[1:]) for blob, shape in definition.inputs.items()}
    return dataclasses.replace(definition, inputs=inputs)


def _small_nets() -> dict[str, nets.Definition]:
    """Two nets with a batch of two, for a stand-in."""
    return {name: _with_batch(nets.NETS[name], 2) for name in _STAND_IN_NETS}


class Bench:
    """One net on the GPU, made when it is first needed."""

    def __init__(self, where: Any, options: Options, definition: nets.Definition) -> None:
        self._where, self._options, self._definition = where, options, definition
        self._solver: Solver | None = None

    def solver(self) -> Solver:
        """The net with its solver; made again, it has the same weights and inputs."""
        if self._solver is None:
            with backend.use(self._where):
                self._solver = nets.solver(self._definition)
        return self._solver

    def close(self) -> None:
        """Give the memory back."""
        self._solver = None
        gc.collect()
        self._where.xp.get_default_memory_pool().free_all_blocks()
        torch = peers.torch()
        if torch and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _work(self, what: str) -> Callable[[], Any]:
        made = self.solver()
        return partial(made.step, 1) if what == "step" else made.net.run_forward

    def minicaffe(self, what: str, replay: bool = True, tf32: bool = False, precision: str = "fp32") -> dict[str, Any]:
        """Time of a pass, the time that Python takes to ask for one, and what it achieves of products and of memory."""
        made = self.solver()
        with backend.use(self._where), target.tf32(tf32), fast_paths.without(*([] if replay else ["replay"])):
            cost = summary.training_cost(made.net) if what == "step" else summary.forward_total(made.net)
            made.use_precision(precision)
            work = self._work(what)
            seconds = target.sample(self._where, work, SECONDS)
            asked = self._python_time(work)
        rates = {"TFLOP/s": cost.products / 1e12, "GB/s": cost.bytes / 1e9}
        middle = statistics.median(seconds)
        achieved = {name: amount / middle for name, amount in rates.items()}
        return {**_figures(seconds), "python us": asked * 1e6, **achieved}

    def by_cudnn(self, tf32: bool) -> dict[str, Any]:
        """Time of a training step whose convolutions cuDNN computes."""
        opened(self._where)
        layers = [layer for layer in self.solver().net.layers if isinstance(layer, Convolution)]
        for layer in layers:
            layer.engine = ConvolutionParameter.CUDNN
        try:
            return self.minicaffe("step", tf32=tf32)
        finally:
            for layer in layers:
                layer.engine = ConvolutionParameter.DEFAULT

    def _python_time(self, work: Callable[[], Any]) -> float:
        """Seconds that a call takes which does not wait for the device."""
        self._where.synchronize()
        started = time.perf_counter()
        for _ in range(_AHEAD):
            work()
        asked = time.perf_counter() - started
        self._where.synchronize()
        return asked / _AHEAD

    def kernels(self) -> dict[str, Any]:
        """The slowest kernels of a training step, of a net of its own: they compute nothing of use."""
        with backend.use(self._where), fast_paths.without("replay"):
            made = nets.solver(self._definition)
            made.step(1)
            with self._where.running(), profile(self._where) as found:
                made.step(1)
            return {"launches": len(found.launches), "ms of all": found.total(), "slowest": found.slowest(16)}

    def memory(self) -> dict[str, Any]:
        """What is in use after a step, scratch that all nets share included: a step allocates nothing that it frees."""
        with backend.use(self._where):
            self.solver().step(2)
        return {"MB": self._where.xp.get_default_memory_pool().used_bytes() / 1e6}

    def same_training(self) -> dict[str, Any] | None:
        """Training on both comes to the same."""
        torch, device = self._peer()
        with _tf32(torch, False), backend.use(self._where):
            nets.same_training(self._definition, nets.solver(self._definition), device)
        return None

    def torch(self, what: str, tf32: bool, compiled: bool, fp16: bool = False) -> dict[str, Any]:
        """Time of the same pass in PyTorch; ``fp16`` by its autocast, which keeps what layers make in 16 bits, too."""
        torch, device = self._peer()
        if compiled and device == "cpu":
            raise Skip("compiling for a GPU needs one")
        with backend.use(self._where):
            peer = nets.torch_net(self.solver(), device)
        with _tf32(torch, tf32):
            if compiled:
                loss = float(peer.loss())
                _compile(torch, peer)
                # TF32 rounds otherwise, and other units are dropped
                peers.agree(float(peer.loss()), loss, "loss of the compiled net", rtol=0.05)
            work = peer.step if what == "step" else partial(_without_gradients, torch, peer.loss)
            with torch.autocast(device.partition(":")[0], torch.float16 if device != "cpu" else torch.bfloat16, fp16):
                return _figures(_sample(torch, device, work))

    def torch_memory(self) -> dict[str, Any]:
        """The most that PyTorch had in use and that it had reserved over two steps."""
        torch, device = self._peer()
        if device == "cpu":
            raise Skip("PyTorch counts the memory of GPUs only")
        with backend.use(self._where):
            peer = nets.torch_net(self.solver(), device)
        torch.cuda.reset_peak_memory_stats()
        peer.step()
        peer.step()
        return {"MB": torch.cuda.max_memory_allocated() / 1e6, "reserved MB": torch.cuda.max_memory_reserved() / 1e6}

    def _peer(self) -> tuple[Any, str]:
        """PyTorch, and the device that is the one under test to it."""
        torch = peers.torch()
        if torch is None:
            raise Skip("torch is not installed")
        if torch.cuda.is_available():
            return torch, f"cuda:{self._options.gpu}"
        if self._options.small:
            return torch, "cpu"
        raise Skip(f"PyTorch {torch.__version__} sees no GPU")


@contextlib.contextmanager
def _tf32(torch: Any, allowed: bool) -> Iterator[None]:
    """Inside, PyTorch may round to TF32 or not, and chooses its convolutions by measuring."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def _without_gradients(torch: Any, function: Callable[[], Any]) -> Any:
    with torch.no_grad():
        return function()


def _compile(torch: Any, peer: Any) -> None:
    """Let a TorchNet compute its loss by ``torch.compile(mode="reduce-overhead")``: fused kernels in a CUDA graph."""

    class Loss(torch.nn.Module):
        """A module's params keep their addresses, which a graph relies on."""

        def __init__(self) -> None:
            super().__init__()
            self.net = peer.module

        def forward(self) -> Any:
            return own()

    own = peer.loss
    fast = torch.compile(Loss(), mode="reduce-overhead")

    def loss() -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return fast()

    peer.loss = loss


def _sample(torch: Any, device: str, function: Callable[[], Any], least: int = 5, most: int = 60) -> list[float]:
    """Seconds of calls one by one, between events; after three that do not count (they compile and choose)."""
    for _ in range(3):
        function()
    once = _between(torch, device, function, 1)[0]
    return _between(torch, device, function, min(most, max(least, round(SECONDS / max(once, 1e-9)))))


def _between(torch: Any, device: str, function: Callable[[], Any], calls: int) -> list[float]:
    if device == "cpu":
        moments = [time.perf_counter()]
        for _ in range(calls):
            function()
            moments.append(time.perf_counter())
        return [b - a for a, b in zip(moments, moments[1:], strict=False)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        function()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in zip(events, events[1:], strict=False)]


def _figures(seconds: list[float]) -> dict[str, Any]:
    return {"ms": statistics.median(seconds) * 1e3, "least ms": min(seconds) * 1e3, "calls": len(seconds)}
