"""pycaffe's ``caffe.io``: messages to arrays and back, images from files, and what is done to an image before a net
sees it.

Images are float32 arrays (height, width, channels), colours red, green, blue, values 0 to 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from minicaffe import arguments, limits, skimage_resize
from minicaffe.data import datum as datums
from minicaffe.data.image import decode_image
from minicaffe.errors import ArgumentError, DataError, WeightsError
from minicaffe.proto import blobs, caffe_pb2

__all__ = [
    "Transformer",
    "array_to_blobproto",
    "array_to_datum",
    "arraylist_to_blobprotovector_str",
    "blobproto_to_array",
    "blobprotovector_str_to_arraylist",
    "caffe_pb2",
    "datum_to_array",
    "load_image",
    "oversample",
    "resize_image",
]

_LUMINANCE = np.array(
    [0.2125, 0.7154, 0.0721], np.float32
)  # of red, green, blue (ITU-R BT.709), as scikit-image has it

# --- messages --------------------------------------------------------------------------------------------------------


def blobproto_to_array(blob: Any, return_diff: bool = False) -> NDArray:
    """The values of a BlobProto, or its gradient, float64, in the shape that it has, or that its older four fields say.

    A blob without a shape holds one number.  ArgumentError (a ValueError) if the shape does not fit the values.
    """
    arguments.message(blob, "BlobProto", "blobproto_to_array")
    try:
        return blobs.blob_to_array(blob, diff=return_diff).astype(float)
    except WeightsError as error:
        raise ArgumentError(str(error)) from None


def array_to_blobproto(arr: NDArray, diff: NDArray | None = None) -> Any:
    """A BlobProto of the array's shape, its values as float32; ``diff``, of the same shape, is its gradient."""
    arr = np.asarray(arr, np.float32)
    return blobs.array_to_blob(arr, None if diff is None else np.asarray(diff, np.float32))


def arraylist_to_blobprotovector_str(arraylist: Sequence[NDArray]) -> bytes:
    """A serialized BlobProtoVector of the arrays."""
    return caffe_pb2.BlobProtoVector(blobs=map(array_to_blobproto, arraylist)).SerializeToString()


def blobprotovector_str_to_arraylist(str: bytes) -> list[NDArray]:
    """The arrays of a serialized BlobProtoVector; DataError if the bytes are not one."""
    try:
        vector = caffe_pb2.BlobProtoVector.FromString(str)
    except DecodeError as error:
        raise DataError(f"not a BlobProtoVector ({len(str)} bytes that do not parse)") from error
    return [blobproto_to_array(blob) for blob in vector.blobs]


def array_to_datum(arr: NDArray, label: int | None = None) -> Any:
    """A Datum of an array (channels, height, width): uint8 becomes ``data``, all else ``float_data``.

    ArgumentError (a ValueError) for another number of axes.
    """
    arr = np.asarray(arr)
    if arr.ndim != 3:
        raise ArgumentError(
            f"Incorrect array shape: a Datum holds an array (channels, height, width); found {arr.shape}"
        )
    return datums.from_array(arr, None if label is None else arguments.whole(label, "a label", ArgumentError))


def datum_to_array(datum: Any) -> NDArray:
    """The array (channels, height, width) in a Datum: uint8, or float64 where it holds ``float_data``.

    Caffe: an encoded Datum is not decoded there, which fails; here it is, to what its file holds (colours blue, green,
    red).  DataError if it holds no array.
    """
    arguments.message(datum, "Datum", "datum_to_array")
    values = datums.to_array(datum)
    return values.copy() if values.dtype == np.uint8 else values.astype(float)


# --- images ----------------------------------------------------------------------------------------------------------


def load_image(filename: str | os.PathLike[str], color: bool = True) -> NDArray[np.float32]:
    """An image file: float32 (height, width, 3), red, green, blue, 0 to 1.

    With ``color`` gray images get three equal channels, without it every image becomes (height, width, 1), its
    luminance.  Transparency is left out.  DataError if the file cannot be read or is no image.
    """
    filename = arguments.path(filename, "an image")
    try:
        planes = decode_image(limits.read_file(filename))
    except OSError as error:
        raise DataError(f"image {os.path.abspath(filename)}: cannot be read ({error.strerror})") from error
    except DataError as error:
        raise DataError(f"image {os.path.abspath(filename)}: {error}") from error
    pixels: NDArray[np.float32] = np.divide(planes[2::-1].transpose(1, 2, 0), 255, dtype=np.float32)
    if pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels if color else (pixels @ _LUMINANCE)[:, :, np.newaxis])
    return np.tile(pixels, (1, 1, 3)) if color else pixels


def resize_image(im: NDArray, new_dims: Sequence[int], interp_order: int = 1) -> NDArray[np.float32]:
    """Resize an image (height, width, channels) to ``new_dims`` (height, width), with splines of ``interp_order``
    0 to 5 (1: bilinear; above it SciPy is needed).

    Caffe with scikit-image 0.19: an image of 1 or 3 channels is smoothed before it is made smaller, and its smallest
    value lies around it; images of other numbers of channels are sampled from corner to corner.  ArgumentError (a
    ValueError) for what is no image, no size or no order.
    """
    im = np.asarray(im)
    if im.dtype not in (np.float32, np.float64):  # in which differences neither wrap around nor overflow
        im = im.astype(float)
    height, width = _size(new_dims)
    if im.ndim != 3 or 0 in im.shape:
        raise ArgumentError(f"an image has shape (height, width, channels); found {im.shape}")
    if interp_order not in range(6):
        raise ArgumentError(f"interp_order must be 0 to 5; found {interp_order}")
    if im.shape[2] not in (1, 3):
        return skimage_resize.resize_corners(im, height, width, interp_order).astype(np.float32)
    low, high = im.min(), im.max()
    if not high > low:
        return np.full((height, width, im.shape[2]), low, np.float32)
    resized = skimage_resize.resize((im - low) / (high - low), height, width, interp_order)
    return (resized.clip(0, 1) * (high - low) + low).astype(np.float32)


def oversample(images: Sequence[NDArray] | NDArray, crop_dims: Sequence[int] | NDArray) -> NDArray[np.float32]:
    """Ten crops (height, width) of each image: four corners, top left first, the middle, and these five mirrored.

    The images (height, width, channels) have one size; the result has shape (10 * images, height, width, channels).
    ArgumentError (a ValueError) if they have not, or are smaller than the crop.
    """
    height, width = _size(crop_dims)
    shapes = sorted({np.shape(image) for image in images})
    if len(shapes) != 1 or len(shapes[0]) != 3:
        raise ArgumentError(f"oversample takes images (height, width, channels) of one size; found {shapes or 'none'}")
    shape = shapes[0]
    if height > shape[0] or width > shape[1]:
        raise ArgumentError(f"a crop of {height} x {width} does not fit into images of {shape[0]} x {shape[1]}")
    bottom, right = shape[0] - height, shape[1] - width
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), centre(shape, (height, width))]
    crops = [
        image[y : y + height, x : x + width, :][:, ::step] for image in images for step in (1, -1) for y, x in corners
    ]
    return np.stack(crops).astype(np.float32)


def centre(shape: Sequence[int], crop: Sequence[int]) -> tuple[int, int]:
    """Top and left of the crop (height, width) in the middle of an image of this shape, rounded towards its corner."""
    return (shape[0] - crop[0]) // 2, (shape[1] - crop[1]) // 2


def _size(dims: Sequence[int] | NDArray) -> tuple[int, int]:
    try:
        height, width = (int(size) for size in dims)
    except (TypeError, ValueError):
        raise ArgumentError(f"a size is given as (height, width); found {dims!r}") from None
    if height < 1 or width < 1:
        raise ArgumentError(f"a size is given as (height, width), at least 1 each; found {dims!r}")
    return height, width


# --- preprocessing ---------------------------------------------------------------------------------------------------


class Transformer:
    """Turns images (height, width, channels) into what a net's inputs take, and back.

    ``inputs`` gives the shape (num, channels, height, width) of each input by name.  What is not set for an input is
    not done to it.  Every method raises ArgumentError (a ValueError) for a name that is no input, or a setting
    that does not fit its shape.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, NDArray] = {}
        self.input_scale: dict[str, float] = {}

    def _shape(self, in_: str) -> tuple[int, ...]:
        if in_ not in self.inputs:
            raise ArgumentError(f"{in_} is not one of the net inputs: {', '.join(self.inputs)}")
        return tuple(self.inputs[in_])

    def preprocess(self, in_: str, data: NDArray) -> NDArray[np.float32]:
        """Resize, transpose, swap channels, times ``raw_scale``, less the mean, times ``input_scale``.

        Caffe: where none of the first three steps is taken, it changes the caller's array; here it never is.
        """
        shape = self._shape(in_)
        image = np.array(data, np.float32)
        if image.ndim != len(shape) - 1:
            raise ArgumentError(
                f"input {in_} of shape {shape} takes images of {len(shape) - 1} axes, channels last; found "
                f"{image.shape}"
            )
        if image.shape[:2] != shape[2:]:
            image = resize_image(image, shape[2:])
        if in_ in self.transpose:
            image = image.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            if len(image) != shape[1]:
                raise ArgumentError(f"input {in_} takes images of {shape[1]} channels; found {len(image)}")
            image = image[self.channel_swap[in_], :, :]
        if in_ in self.raw_scale:
            image *= self.raw_scale[in_]
        if in_ in self.mean:
            image -= self.mean[in_]
        if in_ in self.input_scale:
            image *= self.input_scale[in_]
        return image

    def deprocess(self, in_: str, data: NDArray) -> NDArray:
        """The image again, but for its size, from what ``preprocess`` made: one item, or a batch of one."""
        axes = len(self._shape(in_)) - 1
        image = np.array(data)
        while image.ndim > axes and len(image) == 1:
            image = image[0]
        if in_ in self.input_scale:
            image = image / self.input_scale[in_]
        if in_ in self.mean:
            image = image + self.mean[in_]
        if in_ in self.raw_scale:
            image = image / self.raw_scale[in_]
        if in_ in self.channel_swap:
            image = image[np.argsort(self.channel_swap[in_]), :, :]
        if in_ in self.transpose:
            image = image.transpose(np.argsort(self.transpose[in_]))
        return image

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Take the image's axes in this order, e.g. (2, 0, 1): channels first."""
        self.transpose[in_] = _permutation(order, len(self._shape(in_)) - 1, "Transpose order", "the input's axes")

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Take the channels, then the first axis, in this order, e.g. (2, 1, 0): blue, green, red."""
        self.channel_swap[in_] = _permutation(order, self._shape(in_)[1], "Channel swap", "the input's channels")

    def set_raw_scale(self, in_: str, scale: float | None) -> None:
        """Multiply by ``scale`` before the mean is subtracted: 255 for nets that were trained on bytes."""
        self._set_scale(self.raw_scale, in_, scale)

    def set_mean(self, in_: str, mean: NDArray) -> None:
        """Subtract one value a channel, or an image (channels, height, width), which is resized if need be."""
        channels, height, width = _planes(self._shape(in_))
        mean = np.asarray(mean)
        if mean.ndim == 1:
            if len(mean) != channels:
                raise ArgumentError(
                    f"Mean channels incompatible with input: expected {channels} values; found {len(mean)}"
                )
            mean = mean[:, np.newaxis, np.newaxis]
        elif mean.ndim not in (2, 3):
            raise ArgumentError(
                f"Mean shape invalid: expected (channels,) or (channels, height, width); found {mean.shape}"
            )
        elif (1,) * (3 - mean.ndim) + mean.shape != (channels, height, width):
            planes = mean.reshape(-1, *mean.shape[-2:])
            if len(planes) not in (1, channels):
                raise ArgumentError(f"Mean channels incompatible with input: expected {channels}; found {len(planes)}")
            mean = resize_image(planes.transpose(1, 2, 0), (height, width)).transpose(2, 0, 1)
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float | None) -> None:
        """Multiply by ``scale`` after everything else."""
        self._set_scale(self.input_scale, in_, scale)

    def _set_scale(self, scales: dict[str, float], in_: str, scale: float | None) -> None:
        """A number, or an array of numbers that fits an item; None takes it back."""
        shape = self._shape(in_)
        scales.pop(in_, None)
        if scale is None:
            return
        try:
            np.broadcast_to(np.asarray(scale, float), shape[1:])
        except (TypeError, ValueError):
            raise ArgumentError(f"a scale is a number; found {scale!r}") from None
        scales[in_] = scale


def image_input(inputs: Sequence[str], blobs: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """Name and shape (num, channels, height, width) of a net's first input; ArgumentError if it takes no images."""
    if not inputs or len(blobs[inputs[0]].shape) != 4:
        found = f"input {inputs[0]} of shape {blobs[inputs[0]].shape}" if inputs else "a net without inputs"
        raise ArgumentError(f"an input of shape (num, channels, height, width) was expected; found {found}")
    return inputs[0], tuple(blobs[inputs[0]].shape)


def image_transformer(
    name: str,
    shape: Sequence[int],
    mean: NDArray | None = None,
    input_scale: float | None = None,
    raw_scale: float | None = None,
    channel_swap: Sequence[int] | None = None,
) -> Transformer:
    """The Transformer of images as ``load_image`` gives them for an input of this name and shape (num, channels,
    height, width), with those settings that are not None.
    """
    made = Transformer({name: tuple(shape)})
    made.set_transpose(name, (2, 0, 1))
    if mean is not None:
        made.set_mean(name, mean)
    if input_scale is not None:
        made.set_input_scale(name, input_scale)
    if raw_scale is not None:
        made.set_raw_scale(name, raw_scale)
    if channel_swap is not None:
        made.set_channel_swap(name, channel_swap)
    return made


def _planes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 4:
        raise ArgumentError(f"a mean is for inputs of shape (num, channels, height, width); found {shape}")
    return shape[1], shape[2], shape[3]


def _permutation(order: Sequence[int], count: int, what: str, of: str) -> tuple[int, ...]:
    order = tuple(order) if isinstance(order, Iterable) else (order,)
    if sorted(order) != list(range(count)):
        raise ArgumentError(
            f"{what} needs to have the same number of dimensions as {of}: 0 to {count - 1}, each once; found {order}"
        )
    return order
