"""MultiStageMeanfield: a dense conditional random field whose inference is a recurrent network."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from math import isfinite
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from minicaffe import limits
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.kernels.cpu.lattice import Lattice
from minicaffe.layers.base import Count, Layer
from minicaffe.layers.host_softmax import softmax

_FARTHEST = 1e8
"""The largest coordinate of a pixel, in units of theta, that the lattice takes."""


class MultiStageMeanfield(Layer):
    r"""Steps of mean field inference in a dense conditional random field (CRF-RNN, Zheng et al. 2015).

    .. math:: q^0 = \text{bottom}_1, \qquad q^{t+1} = u - M \Big( W_s \frac{G_s p^t}{G_s 1} + W_b \frac{G_b p^t}{G_b 1}
        \Big), \qquad p^t = \text{softmax}(q^t)

    Bottoms: u, scores of classes (N, C, H, W); those to begin at, mostly u again; images (N, 3, H, W).  Top: q after
    ``num_iterations`` steps.  G are Gaussian filters over all pixels, on a permutohedral lattice: :math:`G_s` of their
    places, in units of ``theta_gamma``, :math:`G_b` of their places, in units of ``theta_alpha``, and colours, of
    ``theta_beta`` (10 each).  Params, each (1, 1, C, C): :math:`W_s` and :math:`W_b`, at first diagonal; the
    compatibility M, at first -1 times the identity (Potts).  The diagonals are those in ``spatial_filter_weights_str``
    and ``bilateral_filter_weights_str``, C numbers each; else those in the files ``spatial.par`` and ``bilateral.par``
    of the working folder, or of that of the net.  Images get no gradient.  Computed on the host.
    Source: torrvision/crfasrnn, whose ``spatial_filter_weight``, ``bilateral_filter_weight``, ``threshold`` and
    ``compatibility_mode`` have no effect there either, and whose gradients of params replace what was there.
    """

    type = "MultiStageMeanfield"
    param = "multi_stage_meanfield_param"
    bottoms: Count = 3
    tops: Count = 1
    fixed: ClassVar[Collection[str] | None] = ("spatial_filter_weights_str", "bilateral_filter_weights_str")
    reads_bottoms = reads_tops = ()
    differentiable = forcible = (0, 1)
    num_iterations: int
    theta_alpha: float
    theta_beta: float
    theta_gamma: float

    def check_options(self) -> None:
        self.require(self.num_iterations > 1, f"must be 2 at least; found {self.num_iterations}", "num_iterations")
        for field in ("theta_alpha", "theta_beta", "theta_gamma"):
            value = getattr(self, field)
            self.require(isfinite(value) and value > 0, f"must be positive; found {value:g}", field)
        for field in ("is_no_class_weights", "detection_potentials_enabled", "ho_potentials_enabled"):
            self.require(not getattr(self, field), "is of torrvision/caffe-tvg, and not in minicaffe", field)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scores = bottom[0]
        self.require(
            len(scores.shape) == 4, f"scores must be (N, C, H, W); found {scores.shape_string}", kind=ShapeError
        )
        self.classes = scores.shape[1]
        shape = (1, 1, self.classes, self.classes)
        for kind in ("spatial", "bilateral"):
            if (weights := self.add_param(shape)) is not None:
                np.fill_diagonal(weights.data[0, 0], self._initial(kind))
        if (compatibility := self.add_param(shape)) is not None:
            np.fill_diagonal(compatibility.data[0, 0], -1)

    def _initial(self, kind: str) -> list[float]:
        """The first weights of a filter, one for each class."""
        field, name = f"{kind}_filter_weights_str", f"{kind}.par"
        text = getattr(self, field) if self.has(field) else self._read(name, field)
        try:
            numbers = [float(word) for word in text.split()[: self.classes]]
        except ValueError as error:
            raise self.error(f"must hold numbers; {error}", field) from None
        self.require(
            len(numbers) == self.classes,
            f"{'' if self.has(field) else name + ' '}must hold a number for each of {self.classes} classes; found "
            f"{len(numbers)}",
            field,
        )
        return numbers

    def _read(self, name: str, field: str) -> str:
        path = self.find_file(name)
        try:
            return limits.read_file(path).decode("ascii", "replace")
        except OSError as error:
            raise self.data_error(
                f"is not given, and {os.path.abspath(path)}, which would hold these numbers, cannot be read "
                f"({error.strerror}); write one for each of {self.classes} classes into it, or here",
                field,
            ) from None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scores, start, image = bottom
        self.require_same_shape(scores, start)
        num, _, height, width = shape = scores.shape
        self.require(
            scores.shape[1:2] == (self.classes,) and image.shape == (num, 3, height, width),
            f"needs scores of {self.classes} classes and images (N, 3, H, W) of their size; found "
            f"{scores.shape_string} and {image.shape_string}",
            kind=ShapeError,
        )
        self.require_blobs(*[(1, 1, self.classes, self.classes)] * 3)
        top[0].reshape(*shape)
        pixels = height * width
        needed = (self.num_iterations * num + 8) * self.classes * self.dtype.itemsize + num * 6 * (24 + 40)
        limits.require_memory(needed * pixels, f"mean field inference for {scores.shape_string}", "use smaller images")
        self.steps = np.empty((num, self.num_iterations, pixels, self.classes), self.dtype)
        places = np.indices((height, width)).reshape(2, -1)[::-1].T
        self.places = places / self.theta_alpha
        self.spatial = _Filter(places / self.theta_gamma, self.dtype)
        self.bilateral: list[_Filter] = []

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return float(self.num_iterations * top[0].count * (6 * self.classes + 90))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scores, q = (_by_pixel(blob.data) for blob in bottom[:2])
        self.bilateral = [self._bilateral_filter(image) for image in _by_pixel(bottom[2].data)]
        for n, filter_colours in enumerate(self.bilateral):
            now = q[n]
            for prob in self.steps[n]:
                prob[...] = softmax(now)
                now = scores[n] - self._messages(prob, filter_colours)[2] @ self._weights(2).T
            top[0].data[n] = now.T.reshape(top[0].shape[1:])

    def _bilateral_filter(self, image: NDArray) -> _Filter:
        points = np.concatenate([self.places, image.astype(np.float64) / self.theta_beta], axis=1)
        self.require(
            bool((np.abs(points) < _FARTHEST).all()),
            f"an image's values must be numbers below {_FARTHEST:g} theta_beta",
        )
        return _Filter(points, self.dtype)

    def _weights(self, index: int) -> NDArray:
        return self.blobs[index].data[0, 0]

    def _messages(self, prob: NDArray, filter_colours: _Filter) -> tuple[NDArray, NDArray, NDArray]:
        """Probabilities (H W, C) after either filter, and what pixels hear of each other: both, weighed."""
        near, alike = self.spatial(prob), filter_colours(prob)
        return near, alike, near @ self._weights(0).T + alike @ self._weights(1).T

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        grads = np.zeros((3, self.classes, self.classes), self.dtype)
        for n, (filter_colours, dy) in enumerate(zip(self.bilateral, _by_pixel(top[0].diff), strict=True)):
            total = np.zeros_like(dy)
            for prob in self.steps[n, ::-1]:
                total += dy
                near, alike, messages = self._messages(prob, filter_colours)
                grads[2] -= dy.T @ messages
                dm = -dy @ self._weights(2)
                grads[0] += dm.T @ near
                grads[1] += dm.T @ alike
                dp = self.spatial.back(dm @ self._weights(0)) + filter_colours.back(dm @ self._weights(1))
                dy = prob * (dp - (dp * prob).sum(axis=1, keepdims=True))
            for blob, grad, wanted in zip(bottom, (total, dy), propagate_down, strict=False):
                if wanted:
                    blob.diff[n] = grad.T.reshape(blob.shape[1:])
        for blob, grad, wanted in zip(self.blobs, grads, self.param_propagate_down, strict=True):
            if wanted:
                blob.diff[0, 0] += grad


def _by_pixel(values: NDArray) -> NDArray:
    """(N, C, H, W) as (N, H W, C)."""
    num, channels, height, width = values.shape
    return np.ascontiguousarray(values.reshape(num, channels, height * width).transpose(0, 2, 1))


class _Filter:
    """A Gaussian mean over points (n, d)."""

    def __init__(self, points: NDArray, dtype: np.dtype) -> None:
        self.lattice = Lattice(points)
        self.factor = 1 / (self.lattice.filter(np.ones((len(points), 1), dtype)) + dtype.type(1e-20))

    def __call__(self, values: NDArray) -> NDArray:
        return self.lattice.filter(values) * self.factor

    def back(self, grad: NDArray) -> NDArray:
        """The gradient of values (n, C), given that of their means."""
        return self.lattice.filter(grad * self.factor, backward=True)
