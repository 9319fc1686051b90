"""AnnotatedData: batches of images with boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicaffe.backend import random
from minicaffe.blob import Blob
from minicaffe.data.annotated_source import FIELDS, AnnotatedSource
from minicaffe.data.transform import CROP_FIELDS
from minicaffe.layers.data import Batches


class AnnotatedData(Batches):
    """Batches of images and the boxes in them from a database of AnnotatedDatums (SSD, Liu et al. 2016).

    Tops: images (batch_size, C, H, W); if a second is named, rows (1, 1, G, 8) of item, label, instance, xmin, ymin,
    xmax, ymax (relative to the image), difficult; one row of -1 where there is no box.  Records without an annotation
    type give their images' labels, (batch_size, 1, 1, 1).  ``data_param`` as for Data; ``transform_param``: see
    ``data.annotated_source.AnnotatedTransformer``; ``annotated_data_param``: ``batch_sampler`` (random parts of the
    image, ``data.box_sampling``), ``anno_type``.
    Source: weiliu89/caffe, branch ssd; random numbers are drawn in another order than there.
    """

    type = "AnnotatedData"
    shares_records = True
    param = "data_param"
    tops = (1, 2)
    common_params = ("transform_param", "annotated_data_param")
    obeys = (*FIELDS, *CROP_FIELDS, "shuffle", "shuffle_pool_size")
    OTHER = ("yolo_data_type", "yolo_data_jitter", "train_diffcult", "single_class")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for field in self.OTHER:
            self.require(
                not self.layer_param.annotated_data_param.HasField(field),
                "is of MobileNet-YOLO, and not in minicaffe",
                field,
            )
        super().setup(bottom, top)

    def open(self, options: Any, transform: Any) -> AnnotatedSource:
        where = random.stream(), *self.share()
        return AnnotatedSource(options, transform, self.layer_param.annotated_data_param, self.phase, *where)
