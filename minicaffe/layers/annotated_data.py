"""AnnotatedData: batches of images with boxes."""

from __future__ import annotations

from typing import Any

from minicaffe.backend import random
from minicaffe.data.annotated_source import AnnotatedSource
from minicaffe.data.annotated_transformer import FIELDS
from minicaffe.data.transform import CROP_FIELDS
from minicaffe.layers.data import Batches


class AnnotatedData(Batches):
    """Batches of images and the boxes in them from a database of AnnotatedDatums (SSD, Liu et al. 2016).

    Tops: images (batch_size, C, H, W); if a second is named, rows (1, 1, G, 8) of item, label, instance, xmin, ymin,
    xmax, ymax (relative to the image), difficult; one row of -1 where there is no box.  Records without an annotation
    type give their images' labels, (batch_size, 1, 1, 1).  ``data_param`` as for Data; ``transform_param``: see
    ``data.annotated_transformer``; ``annotated_data_param``: ``batch_sampler`` (random parts of the image,
    ``data.box_sampling``), ``anno_type``; and of MobileNet-YOLO ``yolo_data_type: 1``, with which the second top is
    (batch_size, 1, 300, 5), see ``data.yolo_rows``, and ``yolo_data_jitter`` cuts the images.
    Source: weiliu89/caffe, branch ssd, and eric612/MobileNet-YOLO; random numbers are drawn in another order.
    """

    type = "AnnotatedData"
    shares_records = True
    param = "data_param"
    tops = (1, 2)
    common_params = ("transform_param", "annotated_data_param")
    obeys = (*FIELDS, *CROP_FIELDS, "shuffle", "shuffle_pool_size")

    def open(self, options: Any, transform: Any) -> AnnotatedSource:
        annotated = self.layer_param.annotated_data_param
        self.require(
            annotated.yolo_data_type in (0, 1),
            f"must be 0 (SSD's labels) or 1 (YOLO's); found {annotated.yolo_data_type}",
            "yolo_data_type",
        )
        return AnnotatedSource(options, transform, annotated, self.phase, random.stream(), *self.share())
