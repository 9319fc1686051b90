"""VideoData: the snippets of yjxiong's layer and the clips of C3D's, against the frames themselves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import minicaffe
from minicaffe import Net, proto
from minicaffe.backend.random import Stream
from minicaffe.data.video_source import ClipSource, SegmentSource
from minicaffe.errors import DataError, LayerError

LENGTHS = {"a": 9, "b": 7, "c": 2}
FRAMES = {}
"""Frames by video and number: colours (3, 6, 8) as BGR, and flow along x and y."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for video, length in LENGTHS.items():
        (folder / video).mkdir()
        for n in range(1, length + 3):
            color = rng.integers(0, 256, (6, 8, 3), np.uint8)
            flow = rng.integers(0, 256, (2, 6, 8), np.uint8)
            FRAMES[video, n] = color.transpose(2, 0, 1)[::-1], flow
            for name in (f"{n:06d}", f"image_{n:04d}"):
                Image.fromarray(color).save(folder / video / f"{name}.jpg", format="PNG")
            for axis, plane in zip("xy", flow, strict=True):
                Image.fromarray(plane).save(folder / video / f"flow_{axis}_{n:04d}.jpg", format="PNG")
    (folder / "lengths.txt").write_text("".join(f"{folder}/{v} {n} {i}\n" for i, (v, n) in enumerate(LENGTHS.items())))
    (folder / "starts.txt").write_text(f"{folder}/a 3 5\n{folder}/b 1 6\n")
    (folder / "counts.txt").write_text(f"{folder}/a 9 5\n{folder}/b 7 6\n")
    return folder


def segments(videos, phase=proto.TEST, seed=1, **options):
    param = proto.VideoDataParameter(source=str(videos / "lengths.txt"), batch_size=3, **options)
    return SegmentSource(param, proto.TransformationParameter(), 2, phase, Stream(seed))


def test_snippets_from_the_middle_of_each_segment(videos):
    data = segments(videos, modality="RGB", num_segments=2, new_length=2)
    batch = data.next_batch()
    assert batch.label.tolist() == [0, 1, 2] and batch.data.shape == (3, 12, 6, 8)
    # segments of 4, 3 and 1 frames leave room for 3, 2 and no beginnings
    for image, (video, starts) in zip(batch.data, {"a": (2, 6), "b": (2, 5), "c": (2, 2)}.items(), strict=True):
        frames = [FRAMES[video, start + n][0] for start in starts for n in range(2)]
        np.testing.assert_array_equal(image, np.concatenate(frames))
    data.close()


def test_flow_takes_x_and_y_in_turn(videos):
    data = segments(videos, new_length=2)  # modality: FLOW is the default
    image = data.next_batch().data[0]
    start = 1 + (9 - 2 + 1) // 2
    np.testing.assert_array_equal(image, np.concatenate([FRAMES["a", start][1], FRAMES["a", start + 1][1]]))
    data.close()


def test_in_training_snippets_begin_anywhere_in_their_segment(videos):
    stream = Stream(4)
    frames = Stream(stream.draw())
    frames.draws(2)  # of the first look at the data
    data = segments(videos, proto.TRAIN, 4, modality="RGB", num_segments=2)
    for _ in range(5):
        images = data.next_batch().data
        for image, (video, length) in zip(images, LENGTHS.items(), strict=True):
            whole = length // 2
            starts = [1 + i * whole + int(draw) % whole for i, draw in enumerate(frames.draws(2))]
            np.testing.assert_array_equal(image, np.concatenate([FRAMES[video, start][0] for start in starts]))
    data.close()


def clips(videos, name, phase=proto.TEST, seed=1, transform=None, **options):
    param = proto.ImageDataParameter(source=str(videos / name), batch_size=2, use_image=True, **options)
    return ClipSource(param, transform or proto.TransformationParameter(), 2, phase, Stream(seed))


def clip(video, start, length, rate=1):
    """(3, length, H, W)."""
    return np.stack([FRAMES[video, start + n * rate][0] for n in range(length)], axis=1)


def test_clips_begin_where_the_list_says(videos):
    data = clips(videos, "starts.txt", new_length=3, sampling_rate=2)
    batch = data.next_batch()
    assert batch.label.tolist() == [5, 6]
    np.testing.assert_array_equal(batch.data[0], clip("a", 3, 3, 2).reshape(9, 6, 8))
    np.testing.assert_array_equal(batch.data[1], clip("b", 1, 3, 2).reshape(9, 6, 8))
    data.close()


def test_with_temporal_jitter_clips_begin_anywhere(videos):
    stream = Stream(2)
    frames = Stream(stream.draw())
    frames.draw()
    data = clips(videos, "counts.txt", proto.TRAIN, 2, new_length=4, use_temporal_jitter=True)
    for _ in range(4):
        images = data.next_batch().data
        for image, (video, length) in zip(images, (("a", 9), ("b", 7)), strict=True):
            start = 1 + frames.draw() % (length - 4 + 1)
            np.testing.assert_array_equal(image, clip(video, start, 4).reshape(12, 6, 8))
    data.close()


@pytest.mark.parametrize("kind", ["segments", "clips"])
def test_a_resumed_source_goes_on(videos, kind):
    def made(seed):
        if kind == "segments":
            return segments(videos, proto.TRAIN, seed, modality="RGB", num_segments=2, shuffle=True)
        return clips(videos, "counts.txt", proto.TRAIN, seed, new_length=2, use_temporal_jitter=True, shuffle=True)

    data, again = made(3), made(8)
    for _ in range(3):
        data.next_batch()
    again.restore(json.loads(json.dumps(data.state())))
    for _ in range(4):
        expected, found = data.next_batch(), again.next_batch()
        np.testing.assert_array_equal(found.data, expected.data)
        np.testing.assert_array_equal(found.label, expected.label)
    data.close()
    again.close()


def net(tmp_path, text, phase=proto.TRAIN):
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    return Net(path, phase)


def test_the_data_of_a_temporal_segment_network(tmp_path, videos):
    text = f"""layer {{ name: "data" type: "VideoData" top: "data" top: "label" video_data_param {{
      source: "{videos}/lengths.txt" batch_size: 2 new_length: 1 num_segments: 3 modality: RGB shuffle: true
      name_pattern: "image_%04d.jpg" }}
      transform_param {{ crop_size: 4 mirror: true fix_crop: true more_fix_crop: true multi_scale: true max_distort: 1
        scale_ratios: [1, .875, .75, .66] mean_value: [104, 117, 123, 104, 117, 123, 104, 117, 123] }} }}
    layer {{ name: "reshape" type: "Reshape" bottom: "data" top: "frames"
      reshape_param {{ shape {{ dim: [-1, 3, 4, 4] }} }} }}"""
    minicaffe.set_random_seed(5)
    found = net(tmp_path, text)
    found.forward()
    assert tuple(found.blobs["frames"].shape) == (6, 3, 4, 4)
    assert np.ptp(found.blobs["data"].data) > 50


@pytest.mark.parametrize("mean", ["value", "values", "file"])
def test_the_data_of_c3d(tmp_path, videos, mean):
    expected = clip("a", 3, 2).astype(np.float32)
    if mean == "value":
        field, inner, expected = "", "mean_value: 128", expected - 128
    elif mean == "values":
        field, inner = "transform_param { mean_value: [1, 2, 3] }", ""
        expected = expected - np.reshape([1, 2, 3], (3, 1, 1, 1))
    else:
        values = np.random.default_rng(1).random((1, 3, 2, 6, 8)).astype(np.float32)
        path = tmp_path / "mean.binaryproto"
        path.write_bytes(
            proto.BlobProto(shape=proto.BlobShape(dim=values.shape), data=values.reshape(-1)).SerializeToString()
        )
        field, inner, expected = f"transform_param {{ mean_file: '{path}' }}", "", expected - values[0]
    text = f"""layer {{ name: "data" type: "VideoData" top: "data" top: "label" {field} image_data_param {{
      source: "{videos}/starts.txt" use_image: true batch_size: 1 new_length: 2 show_data: 0 {inner} }} }}"""
    found = net(tmp_path, text)
    found.forward()
    assert tuple(found.blobs["data"].shape) == (1, 3, 2, 6, 8)
    np.testing.assert_array_equal(found.blobs["data"].data[0], expected)
    assert found.blobs["label"].data.tolist() == [5]


def test_definitions_of_c3d_of_each_age(tmp_path, videos):
    old = f"""layers {{ name: "data" type: VIDEO_DATA top: "data" top: "label" image_data_param {{
      source: "{videos}/starts.txt" use_image: true batch_size: 2 crop_size: 4 mirror: true show_data: 0
      new_height: 5 new_width: 7 new_length: 3 shuffle: true }} }}"""
    new = """layer { name: "data" type: "VideoData" top: "data" top: "label" transform_param { crop_size: 4
      mean_value: 128 mean_value: 128 mean_value: 128 mirror: true } video_data_param {
      source: "starts.txt" root_folder: "/" new_length: 3 new_height: 5 new_width: 7 use_image: true show_data: false
      batch_size: 2 shuffle: true } }""".replace("starts.txt", str(videos / "starts.txt"))
    for text in (old, new):
        found = net(tmp_path, text)
        found.forward()
        assert tuple(found.blobs["data"].shape) == (2, 3, 3, 4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("video_data_param { video_file: 'x.avi' }", "films and cameras are not read; extract the frames"),
        ("video_data_param { use_image: false batch_size: 1 }", "use_image: films are not read; extract the frames"),
        ("image_data_param { new_length: 3 batch_size: 1 }", "use_image: films are not read"),
        ("video_data_param { source: 'x' batch_size: 1 }", "does not tell whose VideoData this is"),
        ("video_data_param { use_image: true modality: RGB }", "modality: is of yjxiong's"),
        ("video_data_param { modality: RGB num_segments: 0 }", "num_segments: must be positive"),
        ("video_data_param { modality: RGB crop_size: 3 }", "crop_size: is not obeyed; transform_param"),
        ("video_data_param { modality: RGB new_length: 0 }", "new_length: must be positive"),
    ],
)
def test_what_is_refused(tmp_path, options, message):
    with pytest.raises(LayerError, match=message):
        net(tmp_path, f"layer {{ name: 'd' type: 'VideoData' top: 'x' top: 'l' {options} }}")


def test_lists_that_are_none(tmp_path, videos):
    (tmp_path / "list").write_text("a 1\n")
    param = proto.VideoDataParameter(source=str(tmp_path / "list"), batch_size=1, modality="RGB")
    how = (proto.TransformationParameter(), 2, proto.TEST, Stream(1))
    with pytest.raises(DataError, match="line 1: expected a folder of frames and two whole numbers, how many frames"):
        SegmentSource(param, *how)
    param.source, param.name_pattern = str(videos / "lengths.txt"), "img.jpg"
    with pytest.raises(DataError, match="'img.jpg' makes no name of a frame"):
        SegmentSource(param, *how)
    param.name_pattern = "absent_%d.jpg"
    with pytest.raises(DataError, match="lengths.txt, line 1: image .*absent_5.jpg: cannot be read"):
        SegmentSource(param, *how)
    with pytest.raises(DataError, match="line 1: a clip takes more than its 9 frames"):
        clips(videos, "counts.txt", new_length=10, use_temporal_jitter=True)
