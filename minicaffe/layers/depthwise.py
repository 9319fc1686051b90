"""Convolutions whose every filter sees one channel, under the names that forks of Caffe gave them."""

from __future__ import annotations

from collections.abc import Sequence

from minicaffe.blob import Blob
from minicaffe.layers.convolution import Convolution


class ConvolutionDepthwise(Convolution):
    r"""One filter for each channel (MobileNet).

    .. math:: y_{n,c,p} = b_c + \sum_q w_{c,q} \, x_{n,\,c,\,p \cdot stride - pad + q \cdot dilation}

    Bottom: (N, C, *in).  Top: (N, C, *out).  Params: w (C, 1, *kernel); b (C,) unless ``bias_term: false``.  The
    window's options are those of Convolution; ``num_output`` and ``group`` are not read: both are C.
    """

    type = "ConvolutionDepthwise"
    fixed = Convolution.fixed
    capturable = True
    by_image = True
    takes_halves = True

    def check_options(self) -> None:
        """What Convolution checks is not read."""

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.num_output = self.group = bottom[0].shape[self.axis_of(bottom[0], self.axis)]
        super().setup(bottom, top)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.num_output = self.group = self.in_channels
        super().reshape(bottom, top)


class DepthwiseConvolution(Convolution):
    """Convolution under the name of a faster kernel for ``group: C`` (MobileNet-YOLO); options and params are those of
    Convolution.

    Without ``group`` it is a full convolution, as in the fork.
    """

    type = "DepthwiseConvolution"
    capturable = True
    by_image = True
    takes_halves = True
