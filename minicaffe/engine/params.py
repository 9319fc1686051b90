"""What a net learns: params with their multipliers, shared by name, and all of them in one buffer for a solver."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from minicaffe import backend
from minicaffe.blob import Blob
from minicaffe.layers import Layer
from minicaffe.storage import Storage

PARAM_ALIGNMENT = 16
"""Elements to which each param is aligned in the buffer of all params: one cache line of float32."""


@dataclass
class Param:
    """A learnable blob that its owner does not share, with the multipliers all its users agreed on.

    ``users`` are (place of a layer in the net, place of the blob in the layer), the owner's first.
    """

    blob: Blob
    name: str
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    has_lr: bool = False
    has_decay: bool = False
    offset: int = 0
    users: list[tuple[int, int]] = field(default_factory=list)

    @property
    def multipliers(self) -> tuple[float, float]:
        """Of the learning rate and of the weight decay."""
        return self.lr_mult, self.decay_mult


class Params:
    """The learnable params of a net's layers: shared among their users, and packed into one buffer when asked to."""

    def __init__(self, learnable: Sequence[Param], layers: Sequence[Layer], dtype: np.dtype) -> None:
        self.learnable = learnable
        self._layers = layers
        self._dtype = dtype
        self._packed: tuple[Storage, Storage] | None = None
        self._claimed: list[tuple[int, int]] = []
        self.share()

    def share(self) -> None:
        """Let all users of a param have its owner's memory."""
        for owner in self.learnable:
            for index, j in owner.users[1:]:
                blob = self._layers[index].blobs[j]
                blob.share_data(owner.blob)
                blob.share_diff(owner.blob)

    def pack(self) -> tuple[Storage, Storage]:
        """Move all params into one value and one gradient buffer, and return these.

        Each ``Param.offset`` tells where it starts; those of equal multipliers follow each other, so that a solver
        updates them as one, and of these the ones whose gradient need not be cleared.  The elements between params stay
        zero.
        """
        if self._packed is None:
            end = 0
            for param in sorted(self.learnable, key=lambda param: (param.multipliers, not self._is_claimed(param))):
                param.offset = end
                if self._is_claimed(param):
                    self._claimed.append((end, end + param.blob.count))
                end += -(-param.blob.count // PARAM_ALIGNMENT) * PARAM_ALIGNMENT
            self._packed = Storage(end, self._dtype), Storage(end, self._dtype)
            for param in self.learnable:
                param.blob.move_to(*self._packed, param.offset)
            self.share()
        return self._packed

    def clear_diffs(self, lazily: bool = False) -> None:
        """Set all gradients to zero; ``lazily``: those that layers claim only count as zero (``Storage.clear``).

        On a device all others do so as well, until ``write_zeros``, which can be captured, or until somebody asks.
        """
        if self._packed is not None:
            later = self._claimed if backend.current().is_host else self._parts
            self._packed[1].clear(later if lazily else ())
        else:
            for param in self.learnable:
                param.blob.xdiff.fill(0)

    def write_zeros(self) -> None:
        """Write the zeros of gradients that no layer claims, where they only count as zero so far."""
        if self._packed is not None:
            self._packed[1].write_zeros(self._unclaimed)

    @functools.cached_property
    def _parts(self) -> list[tuple[int, int]]:
        """All ranges of the packed params, those that are claimed and those between."""
        return sorted([*self._claimed, *self._unclaimed])

    @functools.cached_property
    def _unclaimed(self) -> list[tuple[int, int]]:
        """The ranges of the packed params between those that are claimed."""
        assert self._packed is not None
        ends = [0, *itertools.chain.from_iterable(self._claimed), self._packed[1].size]
        pairs = zip(ends[::2], ends[1::2], strict=True)
        return [(start, stop) for start, stop in pairs if start < stop]

    def _is_claimed(self, param: Param) -> bool:
        """Whether each layer that has this param claims its gradient."""
        return all(j in self._layers[index].claims for index, j in param.users)
