"""What a net can give up for speed and memory if it runs forward only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from minicaffe import arguments, graph, proto
from minicaffe.blob import Blob
from minicaffe.engine import memory_plan
from minicaffe.engine.assembly import Step
from minicaffe.engine.deploy import DeployExecutor, Part
from minicaffe.engine.executor import Executor
from minicaffe.engine.params import Params
from minicaffe.errors import NetError
from minicaffe.layers import TEST, Layer
from minicaffe.named import Named
from minicaffe.proto.origin import Origin
from minicaffe.raw_views import RawViews


class ForwardOnly(RawViews):
    """Base of Net: nets that hand their blobs' memory on, and their deploy form."""

    name: str
    phase: int
    dtype: np.dtype
    source: Origin
    blobs: Named[Blob]
    forward_only: bool
    deployed: bool
    """Whether it is in its deploy form."""
    _definition: proto.NetParameter
    _params: Params
    _executor: Executor

    @property
    def running(self) -> Sequence[Step]:
        """What a pass runs: the layers, as ``steps``; fewer, and some of them others, in the deploy form."""
        return self._executor.steps

    def run_apart(self) -> list[Part]:
        """In the deploy form: run a pass in the parts that it is made of, for each to be timed by itself."""
        if not isinstance(self._executor, DeployExecutor):
            raise NetError(f"net '{self.name}' is not in its deploy form; call deploy() first")
        return self._executor.run_apart()

    def reuse_memory(self, keep: Iterable[str] = ()) -> None:
        """Let blobs that nothing reads any more in a forward pass hand their memory to later ones.

        From then on the net runs forward only, from its first layer on.  Inputs, outputs and the blobs that ``keep``
        names can still be read; all others leave ``blobs``.  NetError for a name in ``keep`` that is no blob.
        """
        if self.deployed:
            raise NetError(
                f"net '{self.name}' is in its deploy form, which reuses memory; name blobs in deploy(keep=[…])"
            )
        kept = {*self.outputs, *self._kept(keep)}
        reused = memory_plan.share_memory(self.steps, self._blob_list, kept, self.dtype)
        self.blobs = memory_plan.KeptBlobs(self._blob_list, reused)
        self.forward_only = True

    def _deploy_definition(self) -> proto.NetParameter:
        """What to make a net of that takes its params over from this one."""
        state = self._definition.state
        return graph.without_fillers(graph.with_state(self._definition, TEST, state.level, state.stage))

    def _take_over(self, other: ForwardOnly) -> None:
        """Have copies of the params of ``other``, by layer name, the shapes of its inputs, and what was set in its
        layers, if these are of the same phase.
        """
        sources: dict[str, list[Layer]] = {}
        for step in other.steps:
            sources.setdefault(step.layer.name, []).append(step.layer)
        for step in self.steps:
            if found := sources.get(step.layer.name):
                layer = found.pop(0)
                if self.phase == other.phase:
                    step.layer.take_options(layer)
                for blob, source in zip(step.layer.blobs, layer.blobs, strict=False):
                    if blob.shape == source.shape:
                        blob.data = source.peek_data()
        for name in set(self.inputs).intersection(other.inputs):
            self.blobs[name].reshape_like(other.blobs[name])
        self._executor.reshape()

    def _take_deploy_form(self, keep: Iterable[str]) -> None:
        """Be in the deploy form from now on; see ``deploy``."""
        if self.phase != TEST:
            raise NetError(
                f"net '{self.name}': the deploy form is of the TEST phase; found {proto.Phase.Name(self.phase)}"
            )
        kept = [*self.outputs, *self._kept(keep)]
        self._executor = DeployExecutor(self.steps, self._blob_list, kept, self._params, self.dtype)
        gone = set(self._blob_names) - self._executor.visible
        self.blobs = memory_plan.KeptBlobs(self._blob_list, gone, "deploy")
        self.forward_only = self.deployed = True

    def _kept(self, names: Iterable[str]) -> list[str]:
        """The names of blobs; NetError for one that is none."""
        names = arguments.names(names, "blobs to keep")
        unknown = [name for name in names if name not in self.blobs]
        if unknown:
            raise NetError(f"net '{self.name}' has no blob {', '.join(unknown)}; it has: {', '.join(self.blobs)}")
        return names

    @property
    def _reuses(self) -> str:
        """Why it runs forward only, for messages."""
        return "is in its deploy form" if self.deployed else "reuses its blobs' memory (reuse_memory)"
