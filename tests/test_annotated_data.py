"""AnnotatedData: SSD's own batches, and what random transformations do to images and boxes."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minicaffe import proto
from minicaffe.backend import random
from minicaffe.backend.random import Stream
from minicaffe.boxes import geometry
from minicaffe.data.annoset import write_annotated
from minicaffe.data.annotated_image import AnnotatedImage
from minicaffe.data.annotated_source import AnnotatedSource
from minicaffe.data.annotated_transformer import AnnotatedTransformer
from minicaffe.data.box_sampling import jittered, sample, satisfies
from minicaffe.data.color import from_hsv, to_hsv
from minicaffe.data.datum import from_array
from minicaffe.data.db import open_db
from minicaffe.data.distortion import Distortion
from minicaffe.data.noise import Noise
from minicaffe.data.opencv_resize import AREA, CUBIC, LANCZOS4, LINEAR, NEAREST, resample
from minicaffe.data.scenes import scenes
from minicaffe.data.source import Batch
from minicaffe.data.write import write_images
from minicaffe.errors import DataError, MinicaffeError, OutOfMemoryError
from minicaffe.net import Net
from minicaffe.proto.text import parse

GOLDEN = Path(__file__).parent / "golden" / "annotated"


@pytest.fixture
def golden(tmp_path, in_folder):
    """A copy of the databases, which LMDB may write locks to."""
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    in_folder(folder)
    return folder


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.npz")))
def test_batches_are_ssds(name, golden):
    with np.load(golden / f"{name}.npz") as file:
        expected = dict(file)
    net = Net(golden / f"{name}.prototxt", proto.Phase.Value(str(expected["phase"])))
    batches = sum(key.startswith("data_") for key in expected)
    for n in range(batches):
        net.forward()
        np.testing.assert_allclose(net.blobs["data"].data, expected[f"data_{n}"], atol=1e-5, err_msg=f"batch {n}")
        if f"label_{n}" in expected:
            assert net.blobs["label"].shape == expected[f"label_{n}"].shape
            np.testing.assert_allclose(net.blobs["label"].data, expected[f"label_{n}"], atol=1e-6, err_msg=f"{n}")
    assert batches > 1
    net.close()


# --- random transformations --------------------------------------------------------------------------------------------


def an_image(boxes, height=40, width=60, channels=3) -> AnnotatedImage:
    """A dark image in which each box is filled with its number times 40."""
    pixels = np.zeros((channels, height, width), np.uint8)
    for n, (x0, y0, x1, y1) in enumerate(boxes, 1):
        pixels[:, round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = 40 * n
    count = np.arange(len(boxes), dtype=np.float32)
    return AnnotatedImage(pixels, np.array(boxes, np.float32), count + 1, count, count * 0, 0)


def holds_its_boxes(image: AnnotatedImage) -> bool:
    """Whether in the middle of each box, unless a sliver is left of it, the image still has its gray."""
    _, height, width = image.pixels.shape
    for (x0, y0, x1, y1), label in zip(image.boxes, image.labels, strict=True):
        if min(x1 - x0, y1 - y0) < 0.12:
            continue
        gray = image.pixels[0, int((y0 + y1) / 2 * height), int((x0 + x1) / 2 * width)]
        if abs(int(gray) - 40 * label) > 12:
            return False
    return True


BOXES = [(0.1, 0.2, 0.4, 0.6), (0.6, 0.5, 0.9, 0.95)]


def transformer(text: str, samplers: str = "", phase: int = proto.TRAIN) -> AnnotatedTransformer:
    param = parse(text, proto.TransformationParameter())
    annotated = parse(samplers, proto.AnnotatedDataParameter())
    return AnnotatedTransformer(param, annotated.batch_sampler, phase, Stream(3))


@pytest.mark.parametrize(
    "text",
    [
        "expand_param { prob: 1 max_expand_ratio: 3 }",
        "resize_param { resize_mode: WARP height: 50 width: 50 }",
        "resize_param { resize_mode: FIT_LARGE_SIZE_AND_PAD height: 80 width: 80 pad_value: 200 interp_mode: NEAREST }",
        "resize_param { resize_mode: FIT_LARGE_SIZE_AND_PAD height: 20 width: 90 pad_mode: MIRRORED }",
        "resize_param { resize_mode: FIT_SMALL_SIZE height: 80 width: 80 interp_mode: CUBIC interp_mode: AREA }",
        "mirror: true crop_h: 20 crop_w: 28 emit_constraint { emit_type: MIN_OVERLAP emit_overlap: 0.7 }",
        "expand_param { prob: 0.5 max_expand_ratio: 2 } resize_param { height: 64 width: 64 } mirror: true",
    ],
)
def test_boxes_stay_where_their_objects_are(text):
    how = transformer(
        text, "batch_sampler { sampler { min_scale: 0.6 } sample_constraint { min_object_coverage: 0.9 } }"
    )
    sizes = set()
    for (seed,) in how.draw(40).tolist():
        stream = Stream(seed)
        image = how.prepare(an_image(BOXES), stream, how.next_resize())
        batch = Batch(1, how.output_shape(image.pixels.shape))
        seen = how.finish(image, stream, batch, 0)
        assert holds_its_boxes(replace(seen, pixels=batch.pixels[0]))
        assert ((seen.boxes >= -1e-6) & (seen.boxes <= 1 + 1e-6)).all()
        sizes.add(tuple(seen.boxes.reshape(-1).round(3)))
    assert len(sizes) > 1


@pytest.mark.parametrize(
    "constraint", ["min_jaccard_overlap: 0.5", "max_sample_coverage: 0.2", "min_object_coverage: 1"]
)
def test_samples_meet_their_constraint(constraint):
    samplers = parse(
        f"batch_sampler {{ sampler {{ min_scale: 0.3 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }} sample_constraint "
        f"{{ {constraint} }} max_sample: 1 max_trials: 50 }}",
        proto.AnnotatedDataParameter(),
    ).batch_sampler
    stream, boxes = Stream(1), np.array(BOXES, np.float32)
    parts = [part for part in (sample(samplers, boxes, stream) for _ in range(30)) if part is not None]
    assert len(parts) > 10
    assert all(satisfies(part, boxes, samplers[0].sample_constraint) for part in parts)
    assert all(((part >= 0) & (part <= 1 + 1e-6)).all() for part in parts)


def test_distortion_changes_colours_only_as_far_as_asked():
    text = "distort_param { brightness_prob: 1 brightness_delta: 32 }"
    image = np.full((3, 4, 5), 128, np.uint8)
    changes = [
        int(Distortion(parse(text, proto.TransformationParameter()).distort_param)(image, Stream(n))[0, 0, 0]) - 128
        for n in range(30)
    ]
    assert -32 <= min(changes) < -5 < 5 < max(changes) <= 32
    everything = (
        "distort_param { hue_prob: 1 hue_delta: 18 saturation_prob: 1 saturation_lower: 1 saturation_upper: 1 }"
    )
    gray = Distortion(parse(everything, proto.TransformationParameter()).distort_param)(image, Stream(0))
    np.testing.assert_array_equal(gray, image)


def test_hsv_and_back():
    image = np.random.default_rng(0).integers(0, 256, (3, 20, 30), np.uint8)
    assert np.abs(from_hsv(to_hsv(image)).astype(int) - image).max() <= 1


@pytest.mark.parametrize(
    "field",
    [
        "decolorize",
        "gauss_blur",
        "hist_eq",
        "clahe",
        "erode",
        "posterize",
        "inverse",
        "convert_to_hsv",
        "convert_to_lab",
    ],
)
def test_noise_is_opencvs(field):
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (12, 16, 3), np.uint8)
    image = cv2.resize(small, (64, 48))
    found = Noise(parse(f"{field}: true", proto.NoiseParameter()))(image.transpose(2, 0, 1), Stream(0))

    def brightness(change):
        planes = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2YCrCb))
        return cv2.cvtColor(cv2.merge([change(planes[0]), *planes[1:]]), cv2.COLOR_YCrCb2BGR)

    expected = {
        "decolorize": lambda: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR),
        "gauss_blur": lambda: cv2.GaussianBlur(image, (7, 7), 1.5),
        "hist_eq": lambda: brightness(cv2.equalizeHist),
        "clahe": lambda: brightness(cv2.createCLAHE(4).apply),
        "erode": lambda: cv2.erode(image, cv2.getStructuringElement(2, (3, 3), (1, 1))),
        "posterize": lambda: image // 64 * 64 + 32,
        "inverse": lambda: 255 - image,
        "convert_to_hsv": lambda: cv2.cvtColor(image, cv2.COLOR_BGR2HSV),
        "convert_to_lab": lambda: cv2.cvtColor(image, cv2.COLOR_BGR2LAB),
    }[field]()
    assert np.abs(found.transpose(1, 2, 0).astype(int) - expected).max() <= {"hist_eq": 5, "clahe": 8}.get(field, 3)


def test_salt_and_pepper_and_jpeg_change_what_they_are_told_to():
    image = np.full((3, 20, 30), 100, np.uint8)
    noise = Noise(parse("saltpepper: true saltpepper_param { fraction: 0.1 value: 255 }", proto.NoiseParameter()))
    assert 40 <= (noise(image, Stream(0)) == 255).all(0).sum() <= 60
    rough = np.random.default_rng(0).integers(0, 256, image.shape, np.uint8)
    worse = Noise(parse("jpeg: 30", proto.NoiseParameter()))(rough, Stream(0))
    assert worse.shape == rough.shape and (worse != rough).any()


@pytest.mark.parametrize("mode, name", [(AREA, "INTER_AREA"), (CUBIC, "INTER_CUBIC"), (LANCZOS4, "INTER_LANCZOS4"),
                                        (NEAREST, "INTER_NEAREST"), (LINEAR, "INTER_LINEAR")])  # fmt: skip
@pytest.mark.parametrize("size", [(20, 30), (13, 17), (80, 95), (40, 61)])
def test_images_are_resized_as_opencv_does(mode, name, size):
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(0).integers(0, 256, (3, 40, 60), np.uint8)
    expected = cv2.resize(image.transpose(1, 2, 0), size[::-1], interpolation=getattr(cv2, name))
    found = resample(image, *size, mode).transpose(1, 2, 0)
    assert np.abs(found.astype(int) - expected).max() <= (mode == AREA)


@pytest.mark.parametrize(
    "text, problem",
    [
        ("resize_param { height: 10 }", "height and width must be given"),
        ("resize_param { height: 9 width: 9 } resize_param { height: 8 width: 8 }", "add up to 1; found 1, 1"),
        (
            "resize_param { height: 9 width: 9 prob: 0.5 } "
            "resize_param { height: 8 width: 8 prob: 0.5 resize_mode: FIT_SMALL_SIZE }",
            "give one only",
        ),
        ("crop_h: 10", "crop_h and crop_w"),
        ("expand_param { max_expand_ratio: 0.5 }", "must be a finite number, at least 1"),
        ("distort_param { contrast_prob: 1 contrast_lower: 2 contrast_upper: 1 }", "contrast_lower <= contrast_upper"),
        ("distort_param { hue_delta: -1 }", "hue_delta: must lie in 0"),
        ("distort_param { brightness_delta: inf }", "brightness_delta: must lie in 0"),
        ("distort_param { contrast_prob: 1 contrast_upper: inf }", "contrast_lower <= contrast_upper"),
        ("expand_param { max_expand_ratio: inf }", "must be a finite number, at least 1"),
        ("expand_param { max_expand_ratio: nan }", "must be a finite number, at least 1"),
        ("noise_param { saltpepper: true saltpepper_param { fraction: 2 } }", "lies in 0 .. 1"),
    ],
)
def test_what_a_transformation_refuses(text, problem):
    with pytest.raises(DataError, match=problem):
        transformer(text)


@pytest.mark.parametrize(
    "sampler", ["min_scale: 0", "min_scale: 0.9 max_scale: 0.5", "max_scale: 2", "min_aspect_ratio: 0"]
)
def test_what_a_sampler_refuses(sampler):
    with pytest.raises(DataError, match="batch_sampler, number 1: needs"):
        transformer("", f"batch_sampler {{ sampler {{ {sampler} }} }}")


def test_a_sampler_does_not_try_for_ever():
    with pytest.raises(DataError, match="batch_sampler, number 1: max_trials must be at most"):
        transformer("", "batch_sampler { max_trials: 4294967295 }")


@pytest.mark.parametrize("mode", [AREA, NEAREST, CUBIC, LANCZOS4])
def test_memory_for_a_huge_image_is_asked_for_first(mode):
    with pytest.raises(OutOfMemoryError, match="an image of 2147483647 x 2"):
        resample(np.zeros((3, 1000, 4), np.uint8), 2**31 - 1, 2, mode)


def test_memory_for_a_huge_canvas_is_asked_for_first():
    text = "expand_param { max_expand_ratio: 1e30 }"
    image = AnnotatedImage.of(proto.AnnotatedDatum(datum=from_array(np.zeros((3, 4, 4), np.uint8))))
    with pytest.raises(OutOfMemoryError, match="the canvas takes .*; lower max_expand_ratio"):
        transformer(text).prepare(image, Stream(1))


@pytest.mark.parametrize(("quality", "as_if"), [("inf", "100"), ("1e30", "100"), ("0.5", "1")])
def test_qualities_that_jpeg_does_not_know(quality, as_if):
    image = np.random.default_rng(0).integers(0, 256, (3, 16, 16), np.uint8)
    found, expected = (
        Noise(parse(f"noise_param {{ jpeg: {text} }}", proto.TransformationParameter()).noise_param)(image, Stream(0))
        for text in (quality, as_if)
    )
    np.testing.assert_array_equal(found, expected)


def test_a_snapshot_goes_on_bit_for_bit(tmp_path):
    scenes_of = list(scenes("train", 12))
    write_annotated(tmp_path / "db", [image for image, _ in scenes_of], [boxes for _, boxes in scenes_of])
    data = parse(f'source: "{tmp_path / "db"}" backend: LMDB batch_size: 5', proto.DataParameter())
    how = parse(
        "mirror: true expand_param { max_expand_ratio: 2 } resize_param { height: 32 width: 32 }",
        proto.TransformationParameter(),
    )

    def source():
        return AnnotatedSource(data, how, proto.AnnotatedDataParameter(), proto.TRAIN, Stream(5))

    first, second = source(), source()
    for _ in range(3):
        first.next_batch()
    second.restore(first.state())
    for _ in range(3):
        a, b = first.next_batch(), second.next_batch()
        np.testing.assert_array_equal(a.data, b.data)
        np.testing.assert_array_equal(a.label, b.label)
    first.close()
    second.close()


# --- MobileNet-YOLO ----------------------------------------------------------------------------------------------------


@pytest.fixture
def three_images(tmp_path):
    """A database of three gray images: one with a box and a difficult one, one with 302 boxes, one with none."""
    many = [(1 + n % 7, (0.1, 0.2, 0.3 + n / 1000, 0.8), False) for n in range(302)]
    boxes = [[(2, (0.25, 0.125, 0.75, 0.375), False), (5, (0, 0, 0.5, 0.5), True)], many, []]
    with open_db(tmp_path / "db", "lmdb", "new") as db:
        for n, listed in enumerate(boxes):
            message = proto.AnnotatedDatum(datum=from_array(np.full((1, 20, 20), 50 * n, np.uint8)), type="BBOX")
            for label, (x0, y0, x1, y1), difficult in listed:
                box = proto.NormalizedBBox(xmin=x0, ymin=y0, xmax=x1, ymax=y1, difficult=difficult)
                message.annotation_group.add(group_label=label).annotation.add(bbox=box)
            db.put(b"%08d" % n, message.SerializeToString())
    return tmp_path / "db"


def yolo_net(db, annotated: str, transform: str = "resize_param { height: 20 width: 20 }") -> Net:
    text = f"""layer {{ name: 'data' type: 'AnnotatedData' top: 'data' top: 'label'
        data_param {{ source: '{db}' backend: LMDB batch_size: 3 }} transform_param {{ {transform} }}
        annotated_data_param {{ {annotated or "yolo_data_type: 1"} }} }}"""
    (db.parent / "yolo.prototxt").write_text(text)
    return Net(db.parent / "yolo.prototxt", proto.TRAIN)


def test_rows_for_yolos_losses(three_images):
    with closing(yolo_net(three_images, "yolo_data_type: 1 yolo_data_jitter: 0")) as net:
        net.forward()
        label = net.blobs["label"].data
    assert label.shape == (3, 1, 300, 5)
    np.testing.assert_allclose(label[0, 0, 0], [1, 0.5, 0.25, 0.5, 0.25])
    assert not label[0, 0, 1:].any() and not label[2].any()
    np.testing.assert_allclose(label[1, 0, :, 0], np.arange(300) % 7)
    np.testing.assert_allclose(label[1, 0, 299], [299 % 7, 0.3495, 0.5, 0.499, 0.6], rtol=1e-5)


def test_difficult_objects_and_a_single_class_for_yolo(three_images):
    with closing(
        yolo_net(three_images, "yolo_data_type: 1 yolo_data_jitter: 0 train_diffcult: true single_class: true")
    ) as net:
        net.forward()
        label = net.blobs["label"].data
    np.testing.assert_allclose(label[0, 0, :2], [[0, 0.5, 0.25, 0.5, 0.25], [0, 0.25, 0.25, 0.5, 0.5]])
    assert not label[:, :, :, 0].any()


def test_the_size_changes_from_batch_to_batch(three_images):
    sizes = "resize_param { prob: 0.75 height: 24 width: 16 } resize_param { prob: 0.25 height: 8 width: 12 }"
    random.seed(3)
    with closing(yolo_net(three_images, "", sizes)) as net:
        found = []
        for _ in range(60):
            net.forward()
            found.append(net.blobs["data"].shape[2:])
            assert net.blobs["label"].shape == (3, 1, 300, 5)
    assert set(found) == {(24, 16), (8, 12)}
    assert 33 <= found.count((24, 16)) <= 57  # 45 expected; 12 are 3.6 standard deviations


def test_a_jitter_cuts_no_more_than_it_says():
    stream = Stream(1)
    parts = [jittered(0.4, False, stream) for _ in range(400)]
    cut = np.array([part for part in parts if part is not None])
    assert 50 <= len(parts) - len(cut) <= 110  # a fifth
    sides = cut[:, 2:] - cut[:, :2]
    assert (cut >= 0).all() and (cut <= 1 + 1e-6).all() and sides.min() >= 0.6 - 1e-6
    assert 0.6 <= sides.min() < 0.62 and sides.max() > 0.98 and cut[:, :2].max() > 0.3
    assert abs(sides[:, 0] - sides[:, 1]).max() > 0.2
    same = np.array([part for part in (jittered(0.4, True, stream) for _ in range(50)) if part is not None])
    np.testing.assert_allclose(same[:, 2] - same[:, 0], same[:, 3] - same[:, 1], atol=1e-6)


def test_boxes_follow_the_jitter():
    param = parse("resize_param { height: 50 width: 50 }", proto.TransformationParameter())
    how = AnnotatedTransformer(param, [], proto.TRAIN, Stream(3), jitter=0.3)
    images = [how.prepare(an_image(BOXES), Stream(seed), how.next_resize()) for (seed,) in how.draw(30).tolist()]
    assert all(holds_its_boxes(image) for image in images)
    assert len({tuple(image.boxes.reshape(-1).round(3)) for image in images}) > 15


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("yolo_data_type: 1 yolo_data_jitter: 1", "less than 1; found 1"),
        ("yolo_data_type: 2", r"must be 0 \(SSD's labels\) or 1"),
    ],
)
def test_options_of_yolo_are_checked(three_images, options, problem):
    with pytest.raises(MinicaffeError, match=problem):
        yolo_net(three_images, options)


def test_a_database_of_datums_is_refused(tmp_path):
    write_images(tmp_path / "db", np.zeros((2, 4, 4), np.uint8), np.arange(2))
    data = parse(f'source: "{tmp_path / "db"}" backend: LMDB batch_size: 1', proto.DataParameter())
    with pytest.raises(DataError, match="record '00000000': not an AnnotatedDatum.*convert_annoset"):
        AnnotatedSource(data, proto.TransformationParameter(), proto.AnnotatedDataParameter(), proto.TEST, Stream(0))


def test_the_boxes_of_scenes_hold_ink_and_do_not_overlap():
    for image, boxes in scenes("test", 20, seed=4):
        assert 1 <= len(boxes) <= 5
        corners = np.array([box[1:5] for box in boxes])
        overlaps = geometry.jaccard(corners[:, None], corners[None])
        assert (overlaps[~np.eye(len(boxes), dtype=bool)] == 0).all()
        for x0, y0, x1, y1 in (corners * 96).round().astype(int):
            assert image[0, y0:y1, x0:x1].max() > 120
    again = list(scenes("test", 3, seed=4))
    np.testing.assert_array_equal(again[2][0], list(scenes("test", 3, seed=4))[2][0])
