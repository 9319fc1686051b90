"""VideoData: batches of clips of videos, whose frames are image files."""

from __future__ import annotations

from typing import Any

from minicaffe.backend import random
from minicaffe.data import varied_crops
from minicaffe.data.image_source import ImageSource
from minicaffe.data.video_source import ClipSource, SegmentSource
from minicaffe.layers.data import Batches

_SEGMENTS = ("num_segments", "modality", "name_pattern")
_CLIPS = ("use_image", "use_temporal_jitter", "sampling_rate")
_FILMS = ("video_type", "video_file", "device_id", "skip_frames")
_ELSEWHERE = ("encoded", "grayscale", "scale", "mean_file", "crop_size", "mirror", "use_label")
_EXTRACT = "extract the frames into image files (ffmpeg -i film.avi folder/%06d.jpg), and list their folders"


class VideoData(Batches):
    """Batches of clips of videos, whose frames are image files, for networks that see motion.

    Tops: images; if a second is named, labels (batch_size,).  Of three layers of this name there are two.  With
    ``num_segments``, ``modality`` or ``name_pattern`` in ``video_data_param`` that of yjxiong's Caffe, for temporal
    segment networks: images (batch_size, channels, H, W), see ``data.video_source.SegmentSource``.  With
    ``image_data_param``, or ``use_image`` in ``video_data_param``, that of C3D: images (batch_size, 3, new_length, H,
    W), see ``data.video_source.ClipSource``.  ``transform_param`` as for Data; all frames of an image are cropped and
    mirrored alike, and one mean a channel serves all of a clip.  Films and cameras (SSD, C3D without ``use_image``)
    are refused.
    C3D: the last row and column that a random crop could begin at are never drawn; here they are.
    """

    type = "VideoData"
    param = "video_data_param"
    tops = (1, 2)
    obeys = (*varied_crops.FIELDS, *_CLIPS, "new_length", "mean_value")
    new_length: int

    def read_options(self) -> None:
        if self.layer_param.HasField("image_data_param") and not self.layer_param.HasField("video_data_param"):
            self.param = "image_data_param"  # C3D 1.0
        super().read_options()

    def check_options(self) -> None:
        film = self._given(_FILMS)
        self.require(not film, f"films and cameras are not read; {_EXTRACT}", film)
        self.require(self.new_length > 0, "must be positive", "new_length")
        if self._is_of_c3d():
            self._check_clips()
            return
        other, named = self._given(_ELSEWHERE), self._given(_SEGMENTS)
        self.require(not other, "is not obeyed; transform_param says how to scale, crop and mirror", other)
        self.require(
            named is not None,
            "does not tell whose VideoData this is: give modality and num_segments for yjxiong's, use_image: true for "
            "C3D's",
            "source",
        )
        self.require(self._option("num_segments") > 0, "must be positive", "num_segments")

    def _check_clips(self) -> None:
        mixed = self._given(_SEGMENTS)
        self.require(mixed is None, f"is of yjxiong's VideoData, {self._given(_CLIPS)} of C3D's; keep one", mixed)
        self.require(self._option("use_image"), f"films are not read; {_EXTRACT}; then say true", "use_image")
        self.require(self._option("sampling_rate") > 0, "must be positive", "sampling_rate")

    def _is_of_c3d(self) -> bool:
        return self.param == "image_data_param" or self._given(_CLIPS) is not None

    def _given(self, fields: tuple[str, ...]) -> str | None:
        """The first of these fields that the definition sets."""
        message = getattr(self.layer_param, self.param)
        known = (field for field in fields if field in message.DESCRIPTOR.fields_by_name)
        return next((field for field in known if message.HasField(field)), None)

    def _option(self, field: str) -> Any:
        return getattr(getattr(self.layer_param, self.param), field)

    def open(self, options: Any, transform: Any) -> ImageSource:
        how = self.layer_param.data_param.prefetch, self.phase, random.stream()
        if not self._is_of_c3d():
            return SegmentSource(options, transform, *how)
        means = list(transform.mean_value)
        if self.param == "image_data_param" and options.HasField("mean_value"):
            means = [options.mean_value]
        del transform.mean_value[:]
        repeats = self.new_length if len(means) > 1 else 1
        transform.mean_value.extend(mean for mean in means for _ in range(repeats))
        return ClipSource(options, transform, *how)

    def shape_of(self, images: tuple[int, ...]) -> tuple[int, ...]:
        if not self._is_of_c3d():
            return images
        num, channels, *size = images
        return num, channels // self.new_length, self.new_length, *size
