"""Any scalar formula over channels, translated to C++."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minicaffe.kernels.cuda.launch import Launcher, formula
from minicaffe.kernels.cuda.translate import translate


class ChannelOps:
    """The functions of ``kernels/reference/channel.py``."""

    launch: Launcher

    def channelwise(
        self,
        function: Callable[..., float],
        arrays: Sequence[Any],
        vectors: Sequence[Any],
        scalars: Sequence[float],
        out: Any,
    ) -> None:
        """See ``kernels.reference.channelwise``; ``function`` is computed as by ``elementwise``."""
        n, c, inner = out.shape
        source, values = formula("channel", translate(function), out, arrays, len(vectors), scalars)
        self.launch.planes(source, "channelwise", n * c, inner, out, c, *arrays, *vectors, *values)

    def channel_sum(
        self,
        function: Callable[..., float],
        arrays: Sequence[Any],
        vectors: Sequence[Any],
        scalars: Sequence[float],
        out: Any,
    ) -> None:
        """See ``kernels.reference.channel_sum``; ``function`` is computed as by ``elementwise``."""
        n, c, inner = arrays[0].shape
        source, values = formula("channel", translate(function), out, arrays, len(vectors), scalars)
        args = (inner, *arrays, *vectors, *values)
        self.launch.add_sums(source, "channel_sum_partials", c, n * inner, args, out, contiguous=inner > 1)
