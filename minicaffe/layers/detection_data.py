"""Batches of images with boxes from window files, of MS-CNN and of Cascade R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from minicaffe.backend import random
from minicaffe.blob import Blob
from minicaffe.data.field_source import DetectionReader, ImageGtReader
from minicaffe.data.listed_source import EvalReader, ListedReader, ListedSource
from minicaffe.layers.base import Count
from minicaffe.layers.data import Batches


class ListedData(Batches):
    """Base of layers whose tops are images (N, 3, H, W) and further blobs that a ``ListedReader`` makes of them."""

    tops: Count = (1, None)
    shares_records = True
    batches: ListedSource
    reader: ClassVar[type[ListedReader]]

    def open(self, options: Any, transform: Any) -> ListedSource:
        reader = self.reader(options, transform, random.stream(), *self.share())  # type: ignore[call-arg, arg-type]
        return ListedSource(reader, options.batch_size, self.layer_param.data_param.prefetch)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top[:1])
        shapes = self.batches.shapes
        self.require(self.fits(len(top) - 1, len(shapes)), f"makes {len(shapes) + 1} tops; found {len(top)}", "top")
        for blob, shape in zip(top[1:], shapes, strict=False):
            blob.reshape(*shape)

    def fits(self, asked: int, made: int) -> bool:
        """Whether so many further tops can be asked for, of those that are made."""
        return asked == made

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().forward(bottom, top[:1])
        for blob, values in zip(top[1:], self.batch.more, strict=False):
            blob.reshape(*values.shape)
            blob.data[...] = values


class ImageGtData(ListedData):
    """Images, and what each cell of several maps stands for (MS-CNN, Cai et al. 2016).

    Tops: images (N, 3, H, W); for each of ``downsample_rate``, ``field_w`` and ``field_h`` a map (N, 6, H / rate,
    W / rate) of label (0 for none), middle x and y, width and height of the object, and overlap; with
    ``output_gt_boxes`` the objects (G, 7, 1, 1), rows (item, x1, y1, x2, y2, label, ignored).

    ``source`` lists the images (``data.listed_boxes``).  They are mirrored (``transform_param.mirror``), resized to
    ``resize_width`` x ``resize_height``, in half of all cases rescaled around an object (``do_multiple_scale``,
    ``min_scale``, ``max_scale``, ``min_whaspect``, ``max_whaspect``) and cut to ``crop_width`` x ``crop_height``, 0
    where nothing is.  A cell's field stands for the object that it overlaps most if by more than ``fg_threshold``
    (0.5); an object that none stands for is given to the cell at its middle.  Objects smaller than ``min_gt_width`` or
    ``min_gt_height``, and those whose middle is not seen, are ignored.  ``fg_img_multiple``: how often images with
    objects come in a round; ``shuffle``; ``scale`` after ``transform_param.mean_value``.
    Source: mscnn; random numbers are drawn in another order than there.
    """

    type = "ImageGtData"
    param = "image_gt_data_param"
    reader = ImageGtReader


class DetectionData(ListedData):
    """Images, and what each cell of several maps stands for (Cascade R-CNN, Cai and Vasconcelos 2018).

    Tops: images (N, 3, H, W); for each of ``stride``, ``field_w`` and ``field_h`` a map (N, 6, H / stride, W / stride)
    of label (0 for none), middle x and y, width and height of the object, and overlap, 1 where a cell does not count;
    with ``output_gt_boxes`` the objects (G, 8, 1, 1), rows (item, x1, y1, x2, y2, label, ignored, difficult), one row
    of -1 where there is none.

    ``source`` lists the images (``data.listed_boxes``).  They are distorted (``distort_param``), mirrored, resized
    (``resize_width`` and ``resize_height``, ``resize_ratio``, or the shorter side to ``short_size``), rescaled with
    ``multiscale_prob`` (``low_scale_ratio`` .. ``high_scale_ratio``, or ``min_scale`` .. ``max_scale`` of an object;
    ``min_whaspect`` .. ``max_whaspect``), and placed on a canvas of ``crop_width`` x ``crop_height``,
    ``crop_short_size`` and ``crop_long_size``, ``short_size`` and ``long_size`` to multiples of 32 (times one of
    ``template_ratio``), the shorter along the shorter side of the batch's first image, or as large as that.  Cells and
    objects: as in ImageGtData; ``anchor_ignore_margin_ratio``, ``anchor_ignore_iou_thr``, ``ignore_fg_threshold``,
    ``pickup_iou_thr``: see ``data.field_targets``.  ``shuffle``: "random"; "random_aspect", first the high images or
    first the wide ones; "random_mix_aspect", ``mix_group_size`` of both in turn.
    Source: cascade-rcnn; random numbers are drawn in another order than there.
    """

    type = "DetectionData"
    param = "detection_data_param"
    reader = DetectionReader


class EvalData(ListedData):
    """Whole images to test on (Cascade R-CNN, Cai and Vasconcelos 2018).

    Tops: images (N, 3, H, W); objects (G, 8, 1, 1), rows (item, x1, y1, x2, y2, label, ignored, difficult), one row of
    -1 where there is none; if a third is named, heights and widths (N, 2, 1, 1).
    ``source`` lists the images (``data.listed_boxes``).  The shorter side becomes ``short_size``, none more than
    ``long_size``, or they become ``resize_width`` x ``resize_height``; then sides are brought to multiples of 32.
    Source: cascade-rcnn.
    """

    type = "EvalData"
    param = "eval_data_param"
    reader = EvalReader

    def fits(self, asked: int, made: int) -> bool:
        return asked in (made - 1, made)
