"""Data layers: Caffe's own batches, and how they wrap, resume and complain."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image

from minicaffe import proto
from minicaffe.backend import random, ranks
from minicaffe.errors import DataError, LayerError, MinicaffeError, NetError, ShapeError
from minicaffe.layers.hdf5 import HDF5Output
from minicaffe.net import Net

FORMATS = Path(__file__).parent / "golden" / "formats"


def make_net(text, phase=proto.TRAIN):
    param = text_format.Merge(text, proto.NetParameter())  # of two values the later counts
    param.state.phase = phase
    return Net(param)


def batches(net, count, tops=("data", "label")):
    """Copies of the tops of successive forwards."""
    found = []
    for _ in range(count):
        net.forward()
        found.append([net.blobs[top].data.copy() for top in tops])
    return found


def assert_equal_batches(found, expected):
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


# --- Caffe's numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", sorted(path.stem for path in FORMATS.glob("imagedata__*.prototxt")) + ["hdf5data"])
def test_caffes_batches(case, in_folder):
    in_folder(FORMATS)
    with np.load(f"{case}.npz") as golden:
        net = Net(f"{case}.prototxt", proto.TEST)
        for n in range(sum(key.startswith("data_") for key in golden)):
            net.forward()
            for top in net.top_names["d"]:
                expected = golden[f"{top}_{n}"]
                np.testing.assert_allclose(net.blobs[top].data, expected, rtol=1e-6, atol=1e-6)
                assert net.blobs[top].shape == expected.shape
        net.close()


def test_caffes_memory_data(in_folder):
    in_folder(FORMATS)
    net = Net("memorydata.prototxt", proto.TRAIN)
    assert net.blobs["label"].shape == (3,)
    with np.load("memorydata.npz") as golden:
        net.layers[0].reset(golden["x"], golden["y"])
        for n in range(3):
            net.forward()
            for top in ("data", "label"):
                assert net.blobs[top].shape == golden[f"{top}_{n}"].shape
                np.testing.assert_array_equal(net.blobs[top].data, golden[f"{top}_{n}"])


def test_caffes_hdf5_output(in_folder, tmp_path):
    text = (FORMATS / "hdf5output.prototxt").read_text().replace("hdf5output.h5", str(tmp_path / "out.h5"))
    in_folder(FORMATS)
    make_net(text).forward()
    with h5py.File(tmp_path / "out.h5") as found, h5py.File("hdf5output.h5") as expected:
        assert sorted(found) == sorted(expected)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
            assert found[name].dtype == expected[name].dtype


# --- ImageData --------------------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    """A list of six gray images; image n holds the value 10 n and has label n."""
    for n in range(6):
        Image.fromarray(np.full((4, 5), 10 * n, np.uint8)).save(tmp_path / f"image {n}.png")
    (tmp_path / "list.txt").write_text("".join(f"image {n}.png {n}\n" for n in range(6)))
    return tmp_path


def image_net(folder, options="", transform="", batch_size=4):
    return make_net(
        f'layer {{ name: "d" type: "ImageData" top: "data" top: "label" transform_param {{ {transform} }} '
        f'image_data_param {{ source: "{folder}/list.txt" root_folder: "{folder}/" '
        f"is_color: false batch_size: {batch_size} {options} }} }}"
    )


def test_images_wrap_around(images):
    net = image_net(images)
    found = batches(net, 3)
    assert [label.tolist() for _, label in found] == [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]]
    for data, label in found:
        assert data.shape == (4, 1, 4, 5)
        np.testing.assert_array_equal(data, 10 * label[:, None, None, None] * np.ones((1, 1, 4, 5)))
    net.close()


def test_shuffled_images_come_once_a_round(images):
    random.seed(3)
    net = image_net(images, "shuffle: true", batch_size=3)
    labels = np.concatenate([label for _, label in batches(net, 8)]).reshape(4, 6)
    for round_ in labels:
        assert sorted(round_) == list(range(6))
    assert len({tuple(round_) for round_ in labels}) > 1
    net.close()


def test_the_draws_that_caffe_takes_from_the_seeding_stream(images):
    expected = random.Stream(5)
    _, shuffling, skip, _, _ = expected.draws(5).tolist()
    order = list(range(6))
    random.Stream(shuffling).shuffle(order)
    random.seed(5)
    net = image_net(images, "shuffle: true rand_skip: 4", "mirror: true", batch_size=1)
    assert random.stream().draw() == expected.draw()
    assert [int(label[0]) for _, label in batches(net, 1)] == [order[skip % 4]]
    net.close()


@pytest.mark.parametrize("options", ["", "shuffle: true"])
def test_restored_images_continue_bit_for_bit(images, options):
    one, other = (image_net(images, options, "crop_size: 3 mirror: true") for _ in range(2))
    batches(one, 4)
    state = json.loads(json.dumps(one.state()))
    batches(other, 1)
    other.restore(state)
    assert other.state() == state
    assert_equal_batches(batches(other, 5), batches(one, 5))
    one.close()
    other.close()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("new_height: 3", "new_height and new_width must be set at the same time"),
        ("rand_skip: 4000000000", "Not enough points to skip"),
        ("batch_size: 0", "batch_size: must be at least 1"),
    ],
)
def test_image_options_that_do_not_fit(images, options, problem):
    random.seed(1)
    with pytest.raises(DataError, match=problem):
        image_net(images, options)


def test_an_unreadable_image_is_named_with_its_line(images):
    (images / "list.txt").write_text("image 0.png 0\nmissing.png 1\n")
    net = image_net(images)
    with pytest.raises(DataError, match=r"layer 'd' \(ImageData\).*line 2.*missing\.png"):
        net.forward()
    net.close()


@pytest.mark.parametrize("line", ["image 0.png 1 0.5 2", "image 0.png -1e3 2"])
def test_a_line_of_several_labels_is_told_from_a_name_with_spaces(images, line):
    (images / "list.txt").write_text(f"{line}\n")
    with pytest.raises(DataError, match="line 1.*ends in a number.*convert_imageset --labels"):
        image_net(images)


def test_images_of_different_sizes_need_a_crop(images):
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(images / "image 1.png")
    net = image_net(images)
    with pytest.raises(DataError, match="line 2.*new_height and new_width"):
        net.forward()
    net.close()
    cropped = image_net(images, transform="crop_size: 3")
    assert batches(cropped, 1)[0][0].shape == (4, 1, 3, 3)
    cropped.close()


def test_an_empty_or_missing_list(images):
    (images / "list.txt").write_text("")
    with pytest.raises(DataError, match="File is empty"):
        image_net(images)
    (images / "list.txt").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        image_net(images)


# --- WindowData -------------------------------------------------------------------------------------------------------


@pytest.fixture
def windows(tmp_path):
    """One image, red = column and green = row; a foreground window of class 3, a background one, one between them."""
    rows, columns = np.mgrid[:20, :30].astype(np.uint8)
    Image.fromarray(np.stack([columns, rows, np.full_like(rows, 7)], axis=2)).save(tmp_path / "a.png")
    (tmp_path / "windows.txt").write_text("# 0\na.png\n3\n20\n30\n3\n3 0.9 5 6 12 13\n2 0.1 0 0 3 3\n4 0.5 1 1 2 2\n")
    return tmp_path


def window_net(folder, options="", transform="crop_size: 8", batch_size=4):
    return make_net(
        f'layer {{ name: "w" type: "WindowData" top: "data" top: "label" transform_param {{ {transform} }} '
        f'window_data_param {{ source: "{folder}/windows.txt" root_folder: "{folder}/" batch_size: {batch_size} '
        f"fg_threshold: 0.6 bg_threshold: 0.3 "
        f"fg_fraction: 0.5 {options} }} }}"
    )


@pytest.mark.parametrize("cache", ["", "cache_images: true"])
def test_windows_are_cut_out_background_first(windows, cache):
    net = window_net(windows, f"scale: 2 {cache}", "crop_size: 8 mean_value: 1 scale: 100")
    ((data, label),) = batches(net, 1)
    assert label.tolist() == [0, 0, 3, 3]
    rows, columns = np.mgrid[6:14, 5:13]
    blue_green_red = np.stack([np.full((8, 8), 7), rows, columns])
    np.testing.assert_array_equal(data[2], 2 * (blue_green_red - 1))
    assert data.shape == (4, 3, 8, 8)
    net.close()


def test_context_around_a_window(windows):
    net = window_net(windows, "context_pad: 2", "crop_size: 16")
    ((data, _),) = batches(net, 1)
    # the background window, 0 to 3, grows by 16 / 12 around its centre 2 to -1 to 5; 1 pixel of 7 is outside: 2 of 16
    assert (data[0, 0, :2] == 0).all() and (data[0, 0, :, :2] == 0).all()
    assert (data[0, 0, 2:, 2:] == 7).all()
    net.close()


def test_mirrored_windows(windows):
    net = window_net(windows, "fg_fraction: 1", "crop_size: 8 mirror: true", batch_size=32)
    ((data, _),) = batches(net, 1)
    rising = data[:, 2, 0, 0] < data[:, 2, 0, -1]
    assert rising.any() and not rising.all()
    np.testing.assert_array_equal(data[rising][0], data[~rising][0][:, :, ::-1])
    net.close()


def test_restored_windows_continue_bit_for_bit(windows):
    one, other = (window_net(windows, transform="crop_size: 8 mirror: true") for _ in range(2))
    batches(one, 3)
    other.restore(json.loads(json.dumps(one.state())))
    assert_equal_batches(batches(other, 4), batches(one, 4))
    one.close()
    other.close()


@pytest.mark.parametrize(
    ("options", "transform", "problem"),
    [
        ("", "", "crop_size: must be positive"),
        ('crop_mode: "round"', "crop_size: 8", "crop_mode.*found 'round'"),
        ("context_pad: 4", "crop_size: 8", "context_pad: 4 leaves nothing"),
        ("fg_threshold: 2", "crop_size: 8", "no foreground windows"),
        ('source: "missing.txt"', "crop_size: 8", "cannot be read"),
    ],
)
def test_window_options_that_do_not_fit(windows, options, transform, problem):
    with pytest.raises(DataError, match=problem):
        window_net(windows, options, transform)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("# 1\na.png 3 20 30 0", "must begin with '# 0'"),
        ("# 0 a.png 3 20 30 2 1 0.9 1 1 2 2", "ends in the middle of block 0"),
        ("# 0 a.png 3 20 30 1 0 0.9 1 1 2 2", "has class 0"),
        ("# 0 a.png 3 20 30 1 1 0.9 1 1 2 x", "block 0: could not convert"),
        ("# 0 a.png 3 20 30 1 1.5 0.9 1 1 2 2", "block 0: '1.5 0.9 1 1 2 2' is no class"),
        ("# 0 a.png 3 20 30 1 1 0.9 1 1 2 inf", "is no class"),
        ("# 0 a.png 3 20 30 1 1 0.9 1 1 2 nan", "is no class"),
        ("# 0 a b.png\n", "must begin with .* a path"),
    ],
)
def test_damaged_window_files(windows, text, problem):
    (windows / "windows.txt").write_text(text)
    with pytest.raises(DataError, match=problem):
        window_net(windows)


@pytest.mark.parametrize("name", ["a b.png", " b  c 1 2.png", "x.png"])
@pytest.mark.parametrize("block", ["# 0\n{}\n3\n20\n30\n2\n", "# 0 {} 3 20 30 2\n", "\n#  0\n{}\n3 20 30 2\r\n"])
def test_windows_of_images_with_spaces_in_their_names(windows, name, block):
    (windows / "a.png").rename(windows / name.strip())
    (windows / "windows.txt").write_text(block.format(name) + "3 0.9 5 6 12 13\n2 0.1 0 0 3 3\n")
    net = window_net(windows)
    ((data, label),) = batches(net, 1)
    assert label.tolist() == [0, 0, 3, 3]
    assert (data[:, 0] == 7).all()
    net.close()


def test_corners_between_pixels_are_rounded_and_told(windows, caplog):
    whole = window_net(windows)
    assert not caplog.messages
    text = (windows / "windows.txt").read_text()
    (windows / "windows.txt").write_text(
        text.replace("5 6 12 13", "4.5 6.4 12.25 12.75").replace("0 0 3 3", "0.0 0 3 3e0")
    )
    between = window_net(windows)
    assert_equal_batches(batches(between, 2), batches(whole, 2))
    (message,) = caplog.messages
    assert "'4.5 6.4 12.25 12.75', are rounded" in message
    whole.close()
    between.close()


def test_a_window_outside_its_image(windows):
    text = (windows / "windows.txt").read_text().replace("5 6 12 13", "5 6 40 13")
    (windows / "windows.txt").write_text(text)
    net = window_net(windows)
    with pytest.raises(DataError, match="does not lie in image .*30 x 20"):
        net.forward()
    net.close()


# --- HDF5Data, HDF5Output ---------------------------------------------------------------------------------------------


def hdf5_files(folder, counts=(5, 3)):
    """Files of so many rows; row k of all files holds k."""
    start = 0
    for i, count in enumerate(counts):
        with h5py.File(folder / f"{i}.h5", "w") as file:
            file["data"] = np.arange(start, start + count, dtype=np.float64).reshape(count, 1, 1) * np.ones((1, 2, 3))
            file["label"] = np.arange(start, start + count)
        start += count
    (folder / "list.txt").write_text("\n".join(str(folder / f"{i}.h5") for i in range(len(counts))))
    return folder


def hdf5_net(folder, options="", more=""):
    return make_net(
        f'layer {{ name: "h" type: "HDF5Data" top: "data" top: "label" {more} '
        f'hdf5_data_param {{ source: "{folder}/list.txt" '
        f"batch_size: 4 {options} }} }}"
    )


def test_names_in_a_list_may_hold_spaces_or_stand_in_one_line(tmp_path):
    hdf5_files(tmp_path, (2, 2, 4))
    (tmp_path / "0.h5").rename(tmp_path / "no 0.h5")
    (tmp_path / "list.txt").write_text(f"  {tmp_path}/no 0.h5\r\n\n{tmp_path}/1.h5 {tmp_path}/2.h5\n")
    assert [label.tolist() for _, label in batches(hdf5_net(tmp_path), 2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_rows_go_on_in_the_next_file(tmp_path):
    found = batches(hdf5_net(hdf5_files(tmp_path)), 4)
    assert [label.tolist() for _, label in found] == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2
    for data, label in found:
        np.testing.assert_array_equal(data, label[:, None, None] * np.ones((1, 2, 3)))


def test_shuffled_rows_come_once_a_round(tmp_path):
    random.seed(1)
    net = hdf5_net(hdf5_files(tmp_path), "shuffle: true")
    rounds = np.concatenate([label for _, label in batches(net, 8)]).reshape(4, 8)
    for round_ in rounds:
        assert sorted(round_) == list(range(8))
        assert set(round_[:5]) == set(range(5)) or set(round_[:3]) == {5, 6, 7}
    assert len({tuple(round_) for round_ in rounds}) > 1


@pytest.mark.parametrize("options", ["", "shuffle: true"])
@pytest.mark.parametrize("counts", [(5, 3), (7,)])
def test_restored_rows_continue_bit_for_bit(tmp_path, options, counts):
    hdf5_files(tmp_path, counts)
    random.seed(1)
    one = hdf5_net(tmp_path, options)
    batches(one, 3)
    state = json.loads(json.dumps(one.state()))
    random.seed(2)
    other = hdf5_net(tmp_path, options)
    batches(other, 1)
    other.restore(state)
    assert other.state() == state
    assert_equal_batches(batches(other, 6), batches(one, 6))


@pytest.mark.parametrize("counts", [(5, 3), (7,), (1, 2, 1), (2,)])
def test_processes_that_train_together_share_the_rows(tmp_path, counts, monkeypatch):
    """Each of three takes every third row, across the ends of files, and goes on from any other's snapshot; tests read
    all rows.
    """
    hdf5_files(tmp_path, counts)
    monkeypatch.setattr(ranks, "_count", 3)

    def net_of(rank):
        monkeypatch.setattr(ranks, "_rank", rank)
        return hdf5_net(tmp_path)

    nets = [net_of(rank) for rank in range(3)]
    expected = np.arange(96).reshape(8, 4, 3) % sum(counts)
    for rank, net in enumerate(nets):
        assert [label.tolist() for _, label in batches(net, 6)] == expected[:6, :, rank].tolist()
    other = net_of(2)
    other.restore(json.loads(json.dumps(nets[0].state())))
    assert [label.tolist() for _, label in batches(other, 2)] == expected[6:, :, 2].tolist()

    monkeypatch.setattr(ranks, "_rank", 1)
    definition = f'layer {{ name: "h" type: "HDF5Data" top: "label" hdf5_data_param {{ source: "{tmp_path}/list.txt" batch_size: 4 }} }}'
    assert [label.tolist() for (label,) in batches(make_net(definition, proto.TEST), 1, ["label"])] == [
        [n % sum(counts) for n in range(4)]
    ]
    monkeypatch.setattr(ranks, "_rank", 3)
    with pytest.raises(LayerError, match="solver rank 3 must lie below the solver count 3"):
        hdf5_net(tmp_path)


def damage(folder, what):
    with h5py.File(folder / "1.h5", "a") as file:
        if what == "rows":
            del file["label"]
            file["label"] = np.arange(9)
        elif what == "name":
            del file["label"]
        elif what == "shape":
            del file["data"]
            file["data"] = np.zeros((3, 4))
        elif what == "text":
            del file["label"]
            file["label"] = np.array([b"a", b"b", b"c"])


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("rows", "same number of rows"),
        ("name", "no dataset 'label'"),
        ("shape", "rows have shapes"),
        ("text", "must hold numbers"),
    ],
)
def test_damaged_hdf5_files(tmp_path, what, problem):
    damage(hdf5_files(tmp_path), what)
    net = hdf5_net(tmp_path)
    with pytest.raises(DataError, match=rf"layer 'h' \(HDF5Data\): HDF5 file .*1\.h5.*{problem}"):
        batches(net, 3)


def test_hdf5_lists_and_options_that_do_not_fit(tmp_path):
    hdf5_files(tmp_path)
    with pytest.raises(LayerError, match="HDF5Data does not transform data"):
        hdf5_net(tmp_path, more="transform_param { scale: 2 }")
    with pytest.raises(LayerError, match="batch_size: must be positive"):
        hdf5_net(tmp_path, "batch_size: 0")
    (tmp_path / "list.txt").write_text("missing.h5")
    with pytest.raises(DataError, match="cannot read HDF5 file missing.h5"):
        hdf5_net(tmp_path)
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(DataError, match="must list at least one HDF5 file"):
        hdf5_net(tmp_path)


def output_net(path, label="dim: 2"):
    return make_net(
        f'layer {{ name: "in" type: "Input" top: "a" top: "b" '
        f"input_param {{ shape {{ dim: 2 dim: 3 }} shape {{ {label} }} }} }}"
        f'layer {{ name: "out" type: "HDF5Output" bottom: "a" bottom: "b" '
        f'hdf5_output_param {{ file_name: "{path}" }} }}'
    )


def test_hdf5_file_in_the_place_of_a_list(tmp_path):
    hdf5_files(tmp_path, (5,))
    with pytest.raises(
        DataError, match=r"source.*0\.h5 is an HDF5 file itself; give a text file that lists such files"
    ):
        make_net(
            f'layer {{ name: "h" type: "HDF5Data" top: "data" hdf5_data_param {{ source: "{tmp_path}/0.h5" batch_size: 4 }} }}'
        )


def test_hdf5_output_appends(tmp_path):
    path = tmp_path / "out.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.arange(5.0)  # what was here before is gone
    net = output_net(path)
    for n in range(3):
        net.forward(a=np.full((2, 3), n), b=[n, n + 0.5])
    with h5py.File(path) as file:
        assert file["data"].shape == (6, 3, 1, 1) and file["label"].shape == (6, 1, 1, 1)
        assert sorted(file) == sorted(HDF5Output.DATASETS)
        np.testing.assert_array_equal(file["label"][:, 0, 0, 0], [0, 0.5, 1, 1.5, 2, 2.5])


def test_hdf5_output_writes_nothing_before_the_first_forward(tmp_path):
    path = tmp_path / "out.h5"
    net = output_net(path)
    net.reshape()
    assert not path.exists()
    path.write_text("made meanwhile")
    with pytest.raises(DataError, match=r"it exists and is no HDF5 file"):
        net.forward()
    assert path.read_text() == "made meanwhile"


@pytest.mark.parametrize("content", ["text", "PK"])
def test_hdf5_output_leaves_other_files_as_they_are(tmp_path, content):
    path = tmp_path / "thesis.tex"
    path.write_text(content)
    with pytest.raises(DataError, match=r"layer 'out' \(HDF5Output\), .*file_name: .*no HDF5 file; give another name"):
        output_net(path)
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("path", "problem"), [("/dev/null", "no regular file"), ("/tmp", "no regular file"), ("a\\0b", "null")]
)
def test_hdf5_output_to_what_is_no_file(path, problem):
    with pytest.raises(DataError, match=rf"file_name: cannot write HDF5 file .*{problem}"):
        output_net(path)


def test_hdf5_output_that_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match=r"layer 'out' \(HDF5Output\), hdf5_output_param.file_name: cannot write"):
        output_net(tmp_path / "no" / "out.h5")
    with pytest.raises(ShapeError, match="same first dimension"):
        output_net(tmp_path / "out.h5", "dim: 3")


def test_hdf5_output_on_a_full_disk(tmp_path):
    """HDF5 itself would end the process with a segmentation fault; the rows written before can still be read."""
    path = tmp_path / "out.h5"
    net = output_net(path)
    net.forward(a=np.ones((2, 3)), b=[1, 2])
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, hard))
    try:
        with pytest.raises(DataError, match="cannot write HDF5 file .*out.h5: .*File too large"):
            net.forward(a=np.ones((2, 3)), b=[3, 4])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.stat().st_size == size
    net.forward(a=np.ones((2, 3)), b=[5, 6])
    assert path.stat().st_size < 4 << 20  # what was reserved is given back
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["label"][:, 0, 0, 0], [1, 2, 5, 6])


# --- MemoryData -------------------------------------------------------------------------------------------------------


def memory_net(batch_size=2):
    return make_net(
        'layer { name: "m" type: "MemoryData" top: "data" top: "label" '
        f"memory_data_param {{ batch_size: {batch_size} channels: 1 height: 2 width: 2 }} }}"
    )


def test_memory_data_wraps_around():
    net = memory_net()
    x, y = np.arange(16, dtype=np.float32).reshape(4, 1, 2, 2), np.arange(4)
    net.layers[0].reset(x, y)
    found = batches(net, 3)
    assert [label.reshape(-1).tolist() for _, label in found] == [[0, 1], [2, 3], [0, 1]]
    np.testing.assert_array_equal(found[1][0], x[2:])


@pytest.mark.parametrize(
    ("x", "y", "problem"),
    [
        ((4, 1, 2, 3), 4, r"data must have the shape \(n, 1, 2, 2\)"),
        ((3, 1, 2, 2), 3, "multiple of batch size"),
        ((4, 1, 2, 2), 2, "same first dimension"),
    ],
)
def test_memory_data_of_other_shapes(x, y, problem):
    with pytest.raises(ShapeError, match=problem):
        memory_net().layers[0].reset(np.zeros(x), np.zeros(y))


def test_input_arrays_of_pycaffe_are_used_in_place():
    net = memory_net()
    x, y = np.arange(16, dtype=np.float32).reshape(4, 1, 2, 2), np.array([0, 1, 2, 3], np.float32)
    net.set_input_arrays(x, y)
    x[0] = 9
    found = batches(net, 2)
    assert (found[0][0][0] == 9).all()
    assert [label.shape for _, label in found] == [(2, 1, 1, 1)] * 2
    assert [label.reshape(-1).tolist() for _, label in found] == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda x, y: (x[:, :, :, ::-1], y), "data array must be C contiguous"),
        (lambda x, y: (x[:, 0], y), "data array must be 4-d; found float32 of shape"),
        (lambda x, y: (x.astype(np.float64), y), "data array must be float32; found float64"),
        (lambda x, y: (x, y.astype(np.int64)), "labels array must be float32; found int64"),
        (lambda x, y: (x.reshape(4, 2, 1, 2), y), r"data array must have the shape \(n, 1, 2, 2\)"),
        (lambda x, y: (x, y.reshape(2, 2, 1, 1)), r"labels array must have the shape \(n, 1, 1, 1\)"),
        (lambda x, y: (x, y[:2].copy()), "data and labels must have the same first dimension"),
        (lambda x, y: (x[:3], y[:3]), "multiple of batch size"),
    ],
)
def test_input_arrays_that_pycaffe_refuses(change, problem):
    x, y = np.zeros((4, 1, 2, 2), np.float32), np.zeros(4, np.float32)
    with pytest.raises(ShapeError, match=problem):
        memory_net().set_input_arrays(*change(x, y))


def test_input_arrays_need_memory_data_first():
    net = make_net('layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 } } }')
    with pytest.raises(NetError, match="only be called if the first layer is a MemoryDataLayer"):
        net.set_input_arrays(np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.float32))


def test_memory_data_before_reset():
    with pytest.raises(MinicaffeError, match="initialized by calling reset"):
        memory_net().forward()
    with pytest.raises(LayerError, match="batch_size: must be positive"):
        memory_net(0)
