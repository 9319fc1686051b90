"""VideoData: batches of clips of videos, whose frames are image files."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from minicaffe import proto
from minicaffe.backend import random
from minicaffe.data import varied_crops
from minicaffe.data.image_source import ImageSource
from minicaffe.data.video_source import ClipSource, SegmentSource
from minicaffe.layers.base import LayerClass
from minicaffe.layers.data import Batches

_SEGMENTS = ("num_segments", "modality", "name_pattern")
_CLIPS = ("use_image", "use_temporal_jitter", "sampling_rate")
_FILMS = ("video_type", "video_file", "device_id", "skip_frames")
_ELSEWHERE = ("encoded", "grayscale", "scale", "mean_file", "crop_size", "mirror", "use_label")
_EXTRACT = "extract the frames into image files (ffmpeg -i film.avi folder/%06d.jpg), and list their folders"


class VideoData(Batches):
    """Batches of clips of videos, whose frames are image files, for networks that see motion.

    Tops: images; if a second is named, labels (batch_size,).  With ``num_segments``, ``modality`` or ``name_pattern``
    in ``video_data_param`` it is the layer of yjxiong's Caffe, for temporal segment networks: images (batch_size,
    channels, H, W), see ``data.video_source.SegmentSource``.  With ``use_image`` there, or in ``image_data_param``, it
    is that of C3D: images (batch_size, 3, new_length, H, W), see ``data.video_source.ClipSource``.  ``transform_param``
    as for Data: all frames of an image are cropped and mirrored alike; C3D's means of channels serve all frames.
    Films and cameras (SSD, C3D without ``use_image``) are refused.
    C3D: the last row and column that a random crop could begin at are never drawn; here they are.
    """

    type = "VideoData"
    param = "video_data_param"
    tops = (1, 2)
    shares_records = True
    obeys: ClassVar[Collection[str]] = varied_crops.FIELDS
    new_length: int
    num_segments: int

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        """C3D's if there is a field that only it has."""
        given = {field.name for field, _ in layer_param.video_data_param.ListFields()}
        if layer_param.HasField("image_data_param") and not given:
            return OldClipData
        return VideoData if given.isdisjoint(_CLIPS) else ClipData

    def check_options(self) -> None:
        named = [field for field in _SEGMENTS if self.has(field)]
        self.refuse(_FILMS, f"films and cameras are not read; {_EXTRACT}")
        self.refuse(_ELSEWHERE, "is not obeyed; transform_param says how to scale, crop and mirror")
        self.require(
            bool(named),
            "does not tell whose VideoData this is: give modality and num_segments for yjxiong's, use_image: true for "
            "C3D's",
            "source",
        )
        for field in ("new_length", "num_segments"):
            self.require(getattr(self, field) > 0, "must be positive; found 0", field)

    def refuse(self, fields: tuple[str, ...], problem: str) -> None:
        """Raise a LayerError for the first of these fields that the definition sets."""
        given = next((field for field in fields if self.has(field)), None)
        self.require(given is None, problem, given)

    def open(self, options: Any, transform: Any) -> ImageSource:
        how = self.layer_param.data_param.prefetch, self.phase, random.stream()
        return SegmentSource(options, transform, *how, *self.share())


class ClipData(VideoData):
    """C3D 1.1's VideoData."""

    use_image: bool
    sampling_rate: int

    def check_options(self) -> None:
        self.refuse(_SEGMENTS, "is of yjxiong's VideoData, use_image of C3D's; keep one")
        self.refuse(_ELSEWHERE, "is not obeyed; transform_param says how to scale, crop and mirror")
        self.check_clips()

    def check_clips(self) -> None:
        """Check what both ages of C3D have."""
        self.require(self.use_image, f"films are not read; {_EXTRACT}; then say true", "use_image")
        for field in ("new_length", "sampling_rate"):
            self.require(getattr(self, field) > 0, "must be positive; found 0", field)

    def open(self, options: Any, transform: Any) -> ImageSource:
        means = list(transform.mean_value)
        del transform.mean_value[:]
        repeats = self.new_length if len(means) > 1 else 1
        transform.mean_value.extend(mean for mean in means for _ in range(repeats))
        how = self.layer_param.data_param.prefetch, self.phase, random.stream()
        return ClipSource(options, transform, *how, *self.share())

    def shape_of(self, images: tuple[int, ...]) -> tuple[int, ...]:
        num, channels, *size = images
        return num, channels // self.new_length, self.new_length, *size


class OldClipData(ClipData):
    """C3D 1.0's VideoData."""

    param = "image_data_param"
    obeys = (*varied_crops.FIELDS, *_CLIPS, "new_length", "mean_value")

    def check_options(self) -> None:
        self.check_clips()

    def open(self, options: Any, transform: Any) -> ImageSource:
        if options.HasField("mean_value"):
            transform.mean_value.append(options.mean_value)
        return super().open(options, transform)
