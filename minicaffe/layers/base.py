"""The Layer contract: Caffe's four verbs, and facts a class declares instead of checking them itself."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicaffe import backend, fillers, proto
from minicaffe.backend import generation
from minicaffe.blob import Blob
from minicaffe.errors import LayerError
from minicaffe.layers import interface
from minicaffe.layers.blob_vec import BlobVec
from minicaffe.layers.cost import Costed
from minicaffe.layers.families import HOMES, Registry
from minicaffe.layers.options import Configured
from minicaffe.proto import forks
from minicaffe.proto.origin import Origin

TRAIN, TEST = 0, 1

Count = int | tuple[int, int | None]
"""How many blobs a layer takes or makes: exactly n, or (at least, at most), None meaning no limit."""


def same(x: float) -> float:
    """The formula of a copy, for ``ops.elementwise``."""
    return x


LayerClass: TypeAlias = "type[Layer]"

registry = Registry()
"""Layer classes by the type that a prototxt names."""
forks.here.update(HOMES)


class Layer(interface.Layer, Configured, Costed):
    """A step of a net: makes top blobs from bottom blobs, and bottom gradients from top gradients.

    Built-in layers, and users' layers that register a ``type``, derive from this class and write four methods:

    ``setup(bottom, top)``            once: read the parameters, make learnable blobs;
    ``reshape(bottom, top)``          give the tops their shapes and make scratch memory, before a forward pass;
    ``forward(bottom, top)``          compute the tops' values;
    ``backward(top, propagate_down, bottom)``  compute the gradient of each bottom that is asked for (overwriting it)
    and of
                                      the learnable blobs (adding to it).

    Inside them ``blob.data`` and ``blob.diff`` are NumPy arrays on every backend.  Built-in layers use ``blob.xdata``,
    ``blob.xdiff``, ``self.xp`` and ``self.ops`` instead, which stay on the device, and allocate nothing in forward and
    backward.  A user's layer without a ``type`` derives from ``interface.Layer`` alone; ``PythonLayer`` holds it.

    Class attributes declare the rest.  The base class checks them before ``setup``.
    """

    type: str = ""
    """The name in a prototxt; setting it in a class registers the class."""
    bottoms: Count = 1
    tops: Count = 1
    equal_counts: ClassVar[bool] = False
    """Whether there must be as many tops as bottoms."""
    auto_tops: ClassVar[bool] = False
    """Whether missing tops are made without a name (loss layers)."""
    in_place: str = "never"
    """``"always"``, ``"forward"`` (gradients need the input, so only where nothing goes backward) or ``"never"``."""
    reads_bottoms: Sequence[int] | None = None
    """Bottoms whose values backward reads, by number; None: all.  In place, what it finds there is the top's value.
    The net keeps a copy of a value that a later layer overwrites in place."""
    reads_tops: Sequence[int] | None = None
    """Tops whose values backward reads, by number; None: all."""
    reads_sign: ClassVar[bool] = False
    """Whether all that backward takes from these values is which of them are positive."""
    leaves: str = "nothing"
    """What is left of the bottom's value after the layer worked in place: ``"all"``, ``"sign"`` (what was positive
    still is, or its gradient is 0; nothing else becomes so) or ``"nothing"``."""
    differentiable: tuple[int, ...] | None = None
    """Which bottoms can get a gradient; None: all.  Asking for another one is an error."""
    forcible: tuple[int, ...] | None = None
    """Which bottoms ``force_backward`` may turn on; None: all."""
    stops_at: ClassVar[Collection[int]] = ()
    """Bottoms that count as given, whatever they were made from (regions, masks, weights): nothing flows backward into
    them unless ``propagate_down`` asks for it.  Labels are none: they must not depend on what is learned."""
    claims: ClassVar[tuple[int, ...]] = ()
    """Learnable blobs whose gradient backward asks for by ``Blob.claim_xdiff``: a solver need not clear it before."""
    capturable: bool = False
    """Whether forward and backward do nothing but call ops, the same ones on the same arrays as long as no blob's shape
    or memory changes, and no attribute of the layer: such layers are captured and replayed
    (``minicaffe.engine.segment``).  Each class says so for itself: it is not inherited.
    """
    capturable_on_device: bool | None = None
    """The same for layers that use ``xp`` or assign to ``xdata`` and ``xdiff``, too, without making arrays, and draw
    random numbers: the host cannot capture all of that, a device can.  None: as ``capturable``."""
    by_image: bool = False
    """Whether forward computes each image, along axis 0 of all bottoms and tops, from that image of the bottoms alone:
    a batch of one then gives the same, to rounding.  Each class says so for itself, and ``only_by_image_if`` where it
    depends on how the layer is set up: it is not inherited."""
    takes_halves: bool = False
    """Whether its bottoms and tops may be arrays of 16 bits on a GPU (``minicaffe.engine.narrow``): forward and
    backward then hand them to ops of convolution, product, bias, normalisation, pooling and formulas, never to ``xp``.
    Each class says so for itself, or its ``setup``: it is not inherited."""
    reshape_always: ClassVar[bool] = False
    """Whether ``reshape`` looks at more than shapes and attributes, so that it must run before every forward, as Caffe
    runs all of them.  In a class outside minicaffe that is not ``capturable`` it is so unless the class says otherwise.
    """

    stops_gradients: ClassVar[bool] = False
    """Whether the tops count as given, whatever they were made from: nothing flows backward through the layer unless
    ``propagate_down`` asks for it."""

    overwritten_tops: Collection[int] = ()
    """Tops that a later layer overwrites in place, by number, which must not be another blob's memory."""
    goes_backward: bool = True
    """Whether backward may follow forward.  Where it never does, what only backward reads is not kept."""
    dtype: np.dtype[Any] = np.dtype(np.float32)
    """Of the values that it computes."""
    user_defined: ClassVar[bool] = True
    """Whether it runs code that is not minicaffe's."""
    fused: bool = False
    """Whether it mostly runs as one with its neighbours, which keep what backward reads; see
    ``minicaffe.engine.fusion``."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.capturable = cls.__dict__.get("capturable", False)
        cls.capturable_on_device = cls.__dict__.get("capturable_on_device")
        cls.takes_halves = cls.__dict__.get("takes_halves", False)
        cls.by_image = cls.__dict__.get("by_image", False)
        if "user_defined" not in cls.__dict__:
            cls.user_defined = cls.__module__.partition(".")[0] != __package__.partition(".")[0]
        if "setup" in cls.__dict__ and "fixed" not in cls.__dict__ and not cls.user_defined:
            cls.fixed = None
        if cls.user_defined and "reshape_always" not in cls.__dict__:
            cls.reshape_always = not cls.capturable
        name = cls.__dict__.get("type")
        if isinstance(name, str) and name:
            if registry.registered_by(name) not in (None, cls.__module__):
                raise LayerError(f"Layer type {name} already registered, by {registry.registered_by(name)}")
            registry[name] = cls
            forks.here.add(name)

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        """The class for this definition, where forks of Caffe mean different things by one type."""
        return cls

    def __init__(self, layer_param: proto.LayerParameter, dtype: DTypeLike | None = None) -> None:
        """Made by nets, which say the ``dtype`` of the blobs before (``make``), so that a class can do without it."""
        self.layer_param = layer_param
        self.name: str = layer_param.name
        self.type = layer_param.type
        if dtype is not None:
            self.dtype = np.dtype(dtype)
        self.definition = Origin()
        self.blobs = BlobVec(self.dtype)
        for message in layer_param.blobs:
            self.blobs.append(Blob.from_proto(message, self.dtype))
        self.blobs_given = len(self.blobs) > 0
        self.param_propagate_down: list[bool] = []
        self.loss_weights: list[float] = []
        self._scratch: dict[str, Any] = {}
        self._workspace: Any = None
        self.read_options()

    def can_be_captured(self, on_host: bool) -> bool:
        """Whether passes through the layer, as it is set up, can be captured on the host, or else on a device."""
        can = self.capturable if on_host or self.capturable_on_device is None else self.capturable_on_device
        return can and not (self.reshape_always or self.patched)

    def __repr__(self) -> str:
        blobs = ", ".join(blob.shape_string for blob in self.blobs)
        return f"<{self.type} layer '{self.name}'" + (f", blobs {blobs}>" if blobs else ">")

    # --- the four verbs ------------------------------------------------------------------------------------------

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read parameters, make learnable blobs."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give every top its shape."""
        raise self.error(f"its class {type(self).__name__} does not define reshape")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Compute the tops' values."""
        raise self.error(f"its class {type(self).__name__} does not define forward")

    def rehearse(self, top: Sequence[Blob]) -> None:
        """Call the kernels that ``forward`` calls, where none runs and it may not itself; see ``Executor.rehearse``."""

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Compute the gradients of bottoms and learnable blobs."""
        if any(propagate_down):
            raise self.error(f"its class {type(self).__name__} does not define backward")

    @property
    def unwrapped(self) -> interface.Layer:
        """What users see as this layer: itself, or their own object that it holds."""
        return self

    def hands_on_gradient(self, index: int) -> bool:
        """Whether the gradient of bottom ``index`` always equals that of top 0, so that both may be one memory."""
        return False

    def fills_once(self, index: int) -> bool:
        """Whether forward leaves top ``index`` as it finds it."""
        return False

    def statistics(self) -> Sequence[Blob]:
        """Params that forward itself changes while it trains: running statistics of what went through.

        Those of processes that train together differ, and are averaged before a test and for a snapshot.
        """
        return ()

    # --- what lasts from pass to pass -----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a snapshot must keep for the next forward to go on from here, as values that JSON can hold; most layers
        have nothing.
        """
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a ``state``."""

    def draw_anew(self) -> None:
        """Read on in the same order, but change what is read by other random numbers than the ``state`` would."""

    def close(self) -> None:
        """Close files and stop threads."""

    # --- set-up, the same for every layer --------------------------------------------------------------------------

    def prepare(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Check the declared facts, then set up, reshape, and install the loss weights."""
        self._check_counts(len(bottom), len(top))
        self.check_fork_fields()
        self.check_dialect()
        with self.named_in_errors():
            self.check_options()
            self.setup(bottom, top)
            self._check_in_place(bottom, top)
            self.reshape(bottom, top)
            self._check_loss_weight(len(top))
            self.install_loss_weights(top)

    def _check_counts(self, bottoms: int, tops: int) -> None:
        for found, declared, what, verb, side in (
            (bottoms, self.bottoms, "bottom", "takes", "input"),
            (tops, self.tops, "top", "produces", "output"),
        ):
            least, most = (declared, declared) if isinstance(declared, int) else declared
            if found < least or (most is not None and found > most):
                amount = f"{least}" if least == most else f"at least {least}" if found < least else f"at most {most}"
                raise self.error(
                    f"{self.type} Layer {verb} {amount} {what} blob(s) as {side}; found {found}", field=what
                )
        if self.equal_counts and bottoms != tops:
            raise self.error(
                f"{self.type} Layer produces one top blob as output for each bottom blob input; "
                f"found {bottoms} bottom(s) and {tops} top(s)",
                field="top",
            )

    def _check_in_place(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Before ``reshape`` would give a bottom the shape of the top."""
        in_place = any(a is b for a, b in zip(bottom, top, strict=False))
        if in_place and self.in_place == "never":
            raise self.error("it cannot work in place; give its top a name of its own", "top")

    def _check_loss_weight(self, tops: int) -> None:
        weights = list(self.layer_param.loss_weight)
        if weights and len(weights) != tops:
            raise self.error(
                "loss_weight must be unspecified or specified once per top blob; "
                f"found {len(weights)} for {tops} top(s)",
                field="loss_weight",
            )
        self.loss_weights = weights or [0.0] * tops

    def install_loss_weights(self, top: Sequence[Blob]) -> None:
        """Fill the gradient of each weighted top with its loss weight: forward and backward read it there."""
        for blob, weight in zip(top, self.loss_weights, strict=True):
            if weight:
                blob.diff.fill(weight)

    def settle(
        self, bottom: Sequence[Blob], top: Sequence[Blob], goes_backward: bool | None = None, fused: bool | None = None
    ) -> None:
        """Take note of how the net runs this layer, which it knows once all are set up: less may have to be kept."""
        self.goes_backward = self.goes_backward if goes_backward is None else goes_backward
        self.fused = self.fused if fused is None else fused
        if self._scratch.pop("kept", None) is not None:
            self.reshape(bottom, top)

    def unfuse(self) -> None:
        """Have the layer keep again what it reads in backward: it reshapes next."""
        if self.fused:
            self.fused = False
            self.changed()

    # --- what layers use -------------------------------------------------------------------------------------------

    @property
    def xp(self) -> Any:
        """The array module of the current backend; what it does is captured on a device only."""
        where = backend.current()
        if where.is_host:
            where.not_capturable()
        return where.xp

    @property
    def ops(self) -> Any:
        """The primitives of the current backend (``kernels/reference`` lists them)."""
        return backend.current().ops

    @property
    def random(self) -> backend.RandomSource:
        """Random numbers made in place, on the current backend."""
        return backend.current().random

    @property
    def workspace(self) -> Any:
        """Scratch memory shared by all layers, good for one call of an op; ``reserve`` says how much is needed."""
        return backend.current().workspace(self.dtype) if self._workspace is None else self._workspace

    def only_by_image_if(self, apart: bool) -> None:
        """In ``reshape``: say whether what the class says of ``by_image`` holds.  Only a change is set, as it ends
        captures.
        """
        by_image = type(self).by_image and apart
        if self.by_image != by_image:
            self.by_image = by_image

    def replica(self) -> Layer:
        """A layer of the same params and options, for blobs of other shapes: it is to reshape, and given a workspace
        (``work_in``) may run beside this one.
        """
        made = copy.copy(self)
        made.__dict__["_scratch"] = {}
        return made

    def work_in(self, memory: Any) -> None:
        """Take this array as the ``workspace`` from now on."""
        self._workspace = memory
        generation.advance()

    def reserve(self, count: int) -> None:
        """Make the shared workspace hold at least ``count`` elements: in ``reshape`` what forward needs; what backward
        does not before it runs, for in many nets it never does.
        """
        backend.current().reserve(count, self.dtype, owner=self)

    def workspace_size(self, backward: bool) -> int:
        """Elements of the shared workspace that forward needs, or ``backward``, as the layer is shaped."""
        return 0

    def scratch(self, name: str, shape: Sequence[int], dtype: DTypeLike | None = None) -> Any:
        """An array of the current backend that this layer keeps between its calls; call it in ``reshape`` only.

        The memory is reused under the same name as long as it is large enough; contents are undefined.
        """
        where = backend.current()
        count = math.prod(shape)
        kept = self._scratch.get(name)
        dtype = np.dtype(dtype or self.dtype)
        if kept is None or kept[0] is not where or kept[1].size < count or kept[1].dtype != dtype:
            kept = self._scratch[name] = (where, where.zeros((max(count, 1),), dtype))
            generation.advance()
        return kept[1][:count].reshape(tuple(shape))

    def flag(self, name: str) -> Any:
        """In ``reshape``: an int32 scalar for a kernel to say what it found; -1 until then."""
        before = self._scratch.get(name)
        flag = self.scratch(name, (), "int32")
        if self._scratch[name] is not before:
            flag.fill(-1)
        return flag

    def input_copy(self, bottom: Sequence[Blob], top: Sequence[Blob], shape: Sequence[int]) -> Any | None:
        """In ``reshape``: memory for a copy of bottom 0, if that is overwritten in place and backward reads it, else
        None.
        """
        wanted = top[0] is bottom[0] and self.goes_backward and not self.fused
        return self.scratch("kept", shape, bottom[0].data_storage.dtype_on(backend.current())) if wanted else None

    def scratch_for_backward(self, shape: Sequence[int], dtype: DTypeLike | None = None) -> Any:
        """In ``reshape``: memory for what forward works out and only backward reads, or None where nothing goes
        backward.
        """
        return self.scratch("kept", shape, dtype) if self.goes_backward else None

    def require_kept(self, memory: Any) -> None:
        """In ``backward``: LayerError if there is no ``scratch_for_backward``."""
        self.require(
            memory is not None,
            "forward has kept nothing for backward, since nothing goes backward through it in this net; "
            "set force_backward: true in the net",
        )

    @property
    def scratch_bytes(self) -> int:
        """Bytes that this layer keeps between its calls, beside its blobs."""
        return sum(array.nbytes for _, array in self._scratch.values())

    def scratch_bytes_on(self, where: backend.Backend) -> int:
        """Those of them that lie on one backend."""
        return sum(array.nbytes for home, array in self._scratch.values() if home is where)

    def add_param(self, shape: Sequence[int], filler: Any = None) -> Blob | None:
        """In ``setup``: make the next learnable blob, filled by a FillerParameter (default: zeros).

        When the layer came with blobs of its own (a net definition that holds weights) they are kept: None is returned.
        """
        if self.blobs_given:
            return None
        blob = self.blobs.add_blob(*shape)
        if filler is not None:
            values = blob.data  # zeros, in memory that nobody has touched yet; an error if there is not so much
            zeros = filler.type == "constant" and filler.value == 0 and blob.count > 0
            try:
                if not zeros:
                    fillers.fill(values, filler)
            except LayerError as error:
                raise self.error(str(error)) from None
        return blob

    def adapted(self, index: int, values: NDArray) -> NDArray | None:
        """Values for the learnable blob ``index`` from a file whose blob has another shape; None if they do not fit."""
        return None

    def wanted(self, propagate_down: Sequence[bool], *rows: tuple) -> Iterator[tuple]:
        """The rows ``(bottom index, …)`` whose bottom needs a gradient."""
        return (row for row in rows if propagate_down[row[0]])


interface.LayerKind.engine_layer = Layer


def takes(cls: type, *arguments: Any) -> bool:
    """Whether objects of a class can be made from these arguments."""
    try:
        inspect.signature(cls).bind(*arguments)
    except (TypeError, ValueError):
        return False
    return True


def make(cls: type[Layer], layer_param: proto.LayerParameter, source: Origin, dtype: DTypeLike) -> Layer:
    """A layer of a class whose constructor takes ``(layer_param)``, or ``(layer_param, dtype)`` as ``Layer``'s does.

    LayerError for another constructor, and one that does not call that of ``Layer``.
    """
    with_dtype = takes(cls, layer_param, dtype)
    arguments = [layer_param, dtype] if with_dtype else [layer_param]
    place = source.where(layer_param.name, layer_param.phase, "type")
    prefix = f"{place + ': ' if place else ''}layer '{layer_param.name}' ({layer_param.type})"
    if not with_dtype and not takes(cls, *arguments):
        raise LayerError(
            f"{prefix}: {cls!r} must be made from a LayerParameter; found __init__{inspect.signature(cls)}"
        )
    layer = cls.__new__(cls, *arguments)
    layer.__dict__["dtype"] = np.dtype(dtype)
    cls.__init__(layer, *arguments)
    if "layer_param" not in layer.__dict__:
        raise LayerError(f"{prefix}: __init__ of {cls!r} must call super().__init__(layer_param)")
    return layer
