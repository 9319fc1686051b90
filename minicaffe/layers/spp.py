"""SPP: pools images into pyramids of bins."""

from __future__ import annotations

from collections.abc import Sequence

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer
from minicaffe.layers.pooling import Pooling


class SPP(Layer):
    """Spatial pyramid pooling: pool the image into 1, then 2 x 2, then 4 x 4 … bins, and join them (He et al. 2014).

    Bottom: (N, C, H, W).  Top: (N, C (4^pyramid_height - 1) / 3), level after level, a level's values being those of
    (C, bins, bins). Level l is a Pooling layer of ``pool`` with kernel and stride ``ceil(size / 2^l)``, and the padding
    that makes this 2^l bins.
    Caffe: of one level the top is (N, C, 1, 1); sizes for which a level needs padding as wide as its kernel are an
    error.
    """

    type = "SPP"
    param = "spp_param"
    reads_bottoms = reads_tops = ()
    pyramid_height: int
    pool: int

    def check_options(self) -> None:
        self.require(self.pyramid_height > 0, f"must be positive; found {self.pyramid_height}", "pyramid_height")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(
            len(x.shape) == 4, f"the input must have 4 axes (N, C, H, W); found {x.shape_string}", kind=ShapeError
        )
        self.levels = [self._level(2**level, x) for level in range(self.pyramid_height)]
        if len(self.levels) == 1:
            top[0].reshape(x.num, x.channels, 1, 1)
        else:
            top[0].reshape(x.num, sum(pooled.span(1) for _, pooled in self.levels))
        self.partial = self.scratch("partial", x.shape)

    def _level(self, bins: int, x: Blob) -> tuple[Pooling, Blob]:
        """The Pooling layer that makes ``bins`` x ``bins`` bins, and its top."""
        (kernel_h, pad_h), (kernel_w, pad_w) = (self._kernel_and_pad(size, bins) for size in x.shape[2:])
        options = proto.PoolingParameter(
            pool=self.pool,
            kernel_h=kernel_h,
            kernel_w=kernel_w,
            stride_h=kernel_h,
            stride_w=kernel_w,
            pad_h=pad_h,
            pad_w=pad_w,
        )
        param = proto.LayerParameter(
            name=f"{self.name} ({bins} x {bins} bins)", type="Pooling", phase=self.phase, pooling_param=options
        )
        layer, pooled = Pooling(param, self.dtype), Blob((0,), self.dtype)
        layer.definition = self.definition
        layer.prepare([x], [pooled])
        return layer, pooled

    @staticmethod
    def _kernel_and_pad(size: int, bins: int) -> tuple[int, int]:
        kernel = -(-size // bins)
        return kernel, (kernel * bins - size + 1) // 2

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return sum(layer.operations(bottom, [pooled]) for layer, pooled in self.levels)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        y, start = top[0].xdata.reshape(top[0].shape[0], top[0].span(1)), 0
        for layer, pooled in self.levels:
            layer.forward(bottom, [pooled])
            stop = start + pooled.span(1)
            y[:, start:stop] = pooled.xdata.reshape(pooled.num, pooled.span(1))
            start = stop

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        dy, dx, start = top[0].xdiff.reshape(top[0].shape[0], top[0].span(1)), bottom[0].xdiff, 0
        for layer, pooled in self.levels:
            stop = start + pooled.span(1)
            pooled.xdiff[...] = dy[:, start:stop].reshape(pooled.shape)
            if start:
                self.partial[...] = dx
            layer.backward([pooled], propagate_down, bottom)
            if start:
                dx += self.partial
            start = stop
