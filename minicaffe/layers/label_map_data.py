"""Layers that bring in images with a label for each pixel: DenseImageData, ImageSegData, ImageLabelmapData."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from minicaffe.backend import random
from minicaffe.blob import Blob
from minicaffe.data.image_source import ImageSource
from minicaffe.data.label_map_source import EdgeMapSource, LabelMapSource, SegmentationSource
from minicaffe.data.source import Batch
from minicaffe.data.transform import CROP_FIELDS
from minicaffe.layers.data import Batches


class LabelMapData(Batches):
    """Base: batches of image files and of maps of labels that ``source`` lists."""

    shares_records = True
    source_class: ClassVar[type[ImageSource]]

    def open(self, options: Any, transform: Any) -> ImageSource:
        depth = self.layer_param.data_param.prefetch
        return self.source_class(options, transform, depth, self.phase, random.stream(), *self.share())


class DenseImageData(LabelMapData):
    """Batches of image files and of maps of labels, one for each pixel, that ``source`` lists, two paths a line
    (SegNet).

    Tops: images (batch_size, C, H, W); labels (batch_size, 1, H, W), the gray values of the second images, divided by
    ``label_divide_factor`` if that is given.  ``new_height`` and ``new_width`` resize both, labels to the nearest.
    Other options are those of ImageData.  Label images with a palette of colours give the numbers of the colours.
    SegNet: crops and mirror images are refused; here labels are cropped and mirrored with their image.
    """

    type = "DenseImageData"
    param = "dense_image_data_param"
    source_class = LabelMapSource


class ImageSegData(LabelMapData):
    """Batches of image files and of the labels of their pixels that ``source`` lists (DeepLab, PSPNet).

    Tops: images (batch_size, C, H, W); labels (batch_size, 1, H, W); if a third is named, heights and widths before the
    crop, at most those of the crop, (batch_size, 1, 1, 2).

    ``label_type``: PIXEL, lines are paths of an image and of its labels, as for DenseImageData; IMAGE, a path and one
    label for all its pixels; NONE, paths alone, and all labels are ``ignore_label`` (255).  ``new_height`` and
    ``new_width`` resize, labels to the nearest.  ``transform_param``: as for Data, without ``mean_file``; one of
    ``scale_factors`` is drawn for each image; where an image is smaller than the crop, the mean and ``ignore_label``
    fill what is missing at the right and below.  Source: hszhao/PSPNet; random numbers are drawn in its order.
    PSPNet: labels are resized by interpolation, and without ``mean_value`` the margin is undefined; here it is 0.
    """

    type = "ImageSegData"
    param = "image_data_param"
    tops = (1, 3)
    obeys = (*CROP_FIELDS, "scale_factors", "label_type", "ignore_label")
    source_class = SegmentationSource

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        for blob in top[2:]:
            blob.reshape(self.batches.batch_size, 1, 1, 2)

    def put(self, batch: Batch, top: Sequence[Blob]) -> None:
        super().put(batch, top[:2])
        for blob in top[2:]:
            blob.data[:, 0, 0] = batch.sizes


class ImageLabelmapData(LabelMapData):
    """Batches of image files and of maps of edges that ``source`` lists, two paths a line (HED, Xie and Tu 2015).

    Tops: images (batch_size, C, H, W); labels (batch_size, 1, H, W): gray values over 255, to the nearest whole number,
    so that an edge that fewer than half of the annotators saw is none.  ``label_values: FRACTIONS`` does not round
    (RCF), ``normalize: false`` leaves gray values as they are (DSS).  ``new_height`` and ``new_width`` resize both
    bilinearly.  Other options are those of ImageData.
    HED: crops are random in the TEST phase, too; here they are centred.  DeepSkeleton's classes of scale (1 .. 4 for
    gray values from 1, 10, 26 and 60 on) are to be put into the label images.
    """

    type = "ImageLabelmapData"
    param = "image_data_param"
    obeys = (*CROP_FIELDS, "normalize", "label_values")
    source_class = EdgeMapSource
