"""Images and labels as arrays: in `.npz` and `.npy` files, and in files of MATLAB."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

import resight
from refusal import refused


def images(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


LABELS = np.array([0, 1, 2] * 4)
NCHW = images(12, 3, 10, 10)
PICTURES = images(3, 10, 10)[LABELS]  # a picture for each class, so that a wrong label shows


def write(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def notes(dataset: resight.Dataset) -> tuple[str, ...]:
    """What was converted, without the lines on the layout and on the test split."""
    return tuple(n for n in dataset.notes if not n.startswith(("layout ", "no test split")))


# --- which array holds what -----------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_tr", "y_tr", "X_te", "y_te"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("trainX", "trainY", "testX", "testy"),
        ("training_data", "training_targets", "testing_data", "testing_targets"),
        ("images", "labels", "test_images", "test_labels"),
    ],
)
def test_with_a_test_set(tmp_path: Path, keys: tuple[str, ...]) -> None:
    values = (NCHW, LABELS, NCHW[:6], LABELS[:6])
    dataset = resight.data(write(tmp_path / "a.npz", **dict(zip(keys, values, strict=True))))
    assert np.array_equal(dataset.train.images.numpy(), NCHW)
    assert np.array_equal(dataset.test.images.numpy(), NCHW[:6])
    assert dataset.train.labels.tolist() == LABELS.tolist()
    assert dataset.classes == ("0", "1", "2")
    assert dataset.train.ids[3] == f"{keys[0]}[3]"
    assert dataset.name == "a"
    assert notes(dataset) == ()


@pytest.mark.parametrize(
    "keys",
    [
        *(("images", "labels"), ("X", "y"), ("data", "target"), ("images", "targets")),
        *(("x_train", "y_train"), ("imgs", "cls"), ("pixels", "fine_labels")),
    ],
)
def test_without_a_test_set(tmp_path: Path, keys: tuple[str, str]) -> None:
    arrays = dict(zip(keys, (NCHW, LABELS), strict=True))
    dataset = resight.data(write(tmp_path / "a.npz", **arrays))
    assert dataset.test.labels.bincount().tolist() == [1, 1, 1]
    assert len(dataset.train) == 9
    assert dataset.notes[-1] == "no test split: 3 images, 20 % of each class, were held out"


def test_medmnist_with_its_validation_images_and_column_labels(tmp_path: Path) -> None:
    gray, column = images(12, 28, 28), LABELS[:, None].astype(np.uint8)
    arrays = {
        f"{split}_{kind}": value
        for split in ("train", "val", "test")
        for kind, value in (("images", gray), ("labels", column))
    }
    dataset = resight.data(write(tmp_path / "a.npz", **arrays))
    assert np.array_equal(dataset.train.images.numpy(), gray[:, None])
    assert dataset.val is not None
    assert dataset.val.labels.tolist() == LABELS.tolist()
    assert dataset.val.ids[0] == "val_images[0]"
    assert notes(dataset) == ()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3)])
def test_arrays_without_names_are_paired_by_their_shapes(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    values = (NCHW, LABELS, NCHW[:6], LABELS[:6])
    np.savez(tmp_path / "a.npz", *(values[place] for place in order))
    dataset = resight.data(str(tmp_path / "a.npz"))
    assert np.array_equal(dataset.test.images.numpy(), NCHW[:6])
    assert dataset.train.labels.tolist() == LABELS.tolist()
    assert notes(dataset)[0].startswith("the shapes decided: arr_0 as images of train with")


def test_what_was_not_read_is_said(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.npz",
        x_train=NCHW,
        y_train=LABELS,
        x_test=NCHW,
        image_ids=LABELS,
        coarse_labels=LABELS,
    )
    assert "x_test: there are no labels for them" in resight.data(path).notes
    assert "arrays that were not read: image_ids, coarse_labels" in resight.data(path).notes


@pytest.mark.parametrize("pack", [None, "zip", "gztar"])
def test_files_of_one_array(tmp_path: Path, pack: str | None) -> None:
    root = tmp_path / "set"
    for split, end in (("train", 12), ("val", 3), ("test", 6)):
        (root / split).mkdir(parents=True)
        np.save(root / split / "images.npy", NCHW[:end])
        np.save(root / split / "labels.npy", LABELS[:end])
    (root / "classes.txt").write_text("0 owl\n1 cat\n2 dog\n")
    source = shutil.make_archive(str(tmp_path / "packed"), pack, root) if pack else str(root)
    dataset = resight.data(source)
    assert np.array_equal(dataset.test.images.numpy(), NCHW[:6])
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 12,
        "val": 3,
        "test": 6,
    }
    assert dataset.classes == ("owl", "cat", "dog")


def test_a_file_a_split(tmp_path: Path) -> None:
    write(tmp_path / "set_train.npz", images=NCHW, labels=LABELS)
    write(tmp_path / "set_test.npz", images=NCHW[:6], labels=LABELS[:6])
    dataset = resight.data(str(tmp_path))
    assert (len(dataset.train), len(dataset.test)) == (12, 6)


# --- axes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (NCHW.transpose(0, 2, 3, 1), NCHW),
        (NCHW[:, :1].transpose(0, 2, 3, 1), NCHW[:, :1]),
        (NCHW[:, 0], NCHW[:, :1]),
        (NCHW[:, :1], NCHW[:, :1]),
        (NCHW.transpose(2, 3, 1, 0), NCHW),
        (NCHW[:, 0].transpose(1, 2, 0), NCHW[:, :1]),
        (NCHW[:, 0].reshape(12, -1), NCHW[:, :1]),
    ],
)
def test_orders_of_axes(tmp_path: Path, array: Any, expected: Any) -> None:
    path = write(tmp_path / "a.npz", x_train=array, y_train=LABELS, x_test=array, y_test=LABELS)
    assert np.array_equal(resight.data(path).train.images.numpy(), expected)


def smooth(count: int, side: int) -> Any:
    """Pictures whose neighboring pixels are alike, (N, 3, S, S) uint8: colored waves."""
    phase = np.random.default_rng(0).uniform(0, 6, (count, 3, 1, 1))
    y, x = np.mgrid[:side, :side] / side
    return np.rint(127 + 120 * np.sin(phase + 3 * x + 2 * y)).astype(np.uint8)


def flat_colors(count: int, side: int) -> Any:
    """Noisy pictures of one color each, (N, 3, S, S) uint8, whose neighbors tell little."""
    rng = np.random.default_rng(0)
    colors = rng.uniform(40, 200, (count, 3, 1, 1))
    return np.clip(colors + rng.normal(0, 20, (count, 3, side, side)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("make", [smooth, flat_colors])
@pytest.mark.parametrize(
    ("axes", "note"),
    [((0, 1, 2, 3), "red, then green, then blue"), ((0, 2, 3, 1), "the colors of a pixel side by")],
)
def test_rows_of_colors_show_their_order(
    tmp_path: Path, make: Any, axes: tuple[int, ...], note: str
) -> None:
    pictures = make(12, 16)
    rows = pictures.transpose(axes).reshape(12, -1)
    dataset = resight.data(
        write(tmp_path / "a.npz", x_train=rows, y_train=LABELS, x_test=rows, y_test=LABELS)
    )
    assert np.array_equal(dataset.train.images.numpy(), pictures)
    assert note in notes(dataset)[0]


def test_rows_of_noise_are_refused(tmp_path: Path) -> None:
    with refused("its numbers do not show whether the three colors of a pixel stand side by side"):
        resight.data(write(tmp_path / "a.npz", X=images(12, 768), y=LABELS))


# --- ranges -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("convert", "note"),
    [
        (lambda x: x.astype(np.float32) / 255, "pixels in [0, 1] were scaled to 0..255"),
        (lambda x: (x / 255).astype(np.float16), "pixels in [0, 1] were scaled to 0..255"),
        (lambda x: x / 127.5 - 1, "pixels in [-1, 1] were scaled to 0..255"),
        (lambda x: (x / 127.5 - 1).astype(np.float32), "pixels in [-1, 1] were scaled to 0..255"),
        (lambda x: (x / 127.5 - 1).astype(np.float16), "pixels in [-1, 1] were scaled to 0..255"),
        (lambda x: x.astype(np.float32), "float32 was taken as 0..255"),
        (lambda x: x + 0.25 * (x < 255), "pixels from 0.25 to 255 were rounded to 0..255"),
        (lambda x: x.astype(np.int64), "int64 was taken as 0..255"),
        (lambda x: x.astype(np.uint16) * 257, "16 bits a pixel, reduced to 8"),
    ],
)
def test_numbers_are_converted_and_noted(tmp_path: Path, convert: Any, note: str) -> None:
    path = write(
        tmp_path / "a.npz",
        x_train=convert(NCHW),
        y_train=LABELS,
        x_test=NCHW,
        y_test=LABELS,
    )
    dataset = resight.data(path)
    assert np.array_equal(dataset.train.images.numpy(), NCHW)
    assert notes(dataset) == (f"x_train: {note}",)


def test_splits_of_one_type_are_scaled_alike(tmp_path: Path) -> None:
    floats = NCHW / 255
    dark = np.minimum(floats, 0.5)  # alone, it would look like [0, 1] as well
    signed = np.where(dark > 0, dark, 0.0)
    path = write(
        tmp_path / "a.npz",
        x_train=NCHW / 127.5 - 1,
        y_train=LABELS,
        x_test=signed,
        y_test=LABELS,
    )
    expected = np.rint((signed + 1) * 127.5)
    assert np.array_equal(resight.data(path).test.images.numpy(), expected)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (NCHW > 128, (NCHW > 128) * 255),
        ((NCHW > 128).astype(np.uint8), (NCHW > 128) * 255),
        (NCHW % 17, np.rint(NCHW % 17 * (255 / 16))),  # as scikit-learn has its digits
        (NCHW * np.uint8(0), NCHW * 0),
    ],
)
def test_few_levels_are_spread(tmp_path: Path, array: Any, expected: Any) -> None:
    path = write(tmp_path / "a.npz", x_train=array, y_train=LABELS, x_test=array, y_test=LABELS)
    assert np.array_equal(resight.data(path).train.images.numpy(), expected)


def test_opacity_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.concatenate([NCHW, np.full((12, 1, 10, 10), 255, np.uint8)], axis=1)
    rgba[:, 3, :5] = 0
    rgba[:, :, 5] = np.array([100, 200, 0, 51], dtype=np.uint8)[:, None]  # a fifth opaque
    path = write(tmp_path / "a.npz", x_train=rgba, y_train=LABELS, x_test=rgba, y_test=LABELS)
    dataset = resight.data(path)
    shown = dataset.train.images.numpy()
    assert (shown[:, :, :5] == 255).all()
    assert shown[0, :, 5, 0].tolist() == [224, 244, 204]  # 255 + (color - 255) / 5
    assert np.array_equal(shown[:, :, 6:], NCHW[:, :, 6:])
    assert notes(dataset)[0].endswith("the fourth channel was taken as opacity and laid over white")


# --- labels -------------------------------------------------------------------------------------

WORDS = np.array(["cat", "dog", "owl"])


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (LABELS.astype(np.float32), ("0", "1", "2")),
        (np.eye(3)[LABELS], ("0", "1", "2")),
        (np.eye(3, dtype=bool)[LABELS], ("0", "1", "2")),
        (LABELS[None], ("0", "1", "2")),
        (LABELS + 1, ("1", "2", "3")),
        (LABELS * 5, ("0", "5", "10")),
        (WORDS[LABELS], ("cat", "dog", "owl")),
        (WORDS.astype(bytes)[LABELS], ("cat", "dog", "owl")),
        (np.array(["9", "10", "11"])[LABELS], ("9", "10", "11")),
    ],
)
def test_kinds_of_labels(tmp_path: Path, labels: Any, classes: tuple[str, ...]) -> None:
    dataset = resight.data(write(tmp_path / "a.npz", X=PICTURES, y=labels))
    assert dataset.classes == classes
    for split in dataset.splits.values():
        assert np.array_equal(split.images[:, 0].numpy(), images(3, 10, 10)[split.labels.numpy()])


def test_truth_values_and_signs_are_two_classes(tmp_path: Path) -> None:
    dataset = resight.data(write(tmp_path / "a.npz", X=PICTURES, y=LABELS > 0))
    assert dataset.classes == ("False", "True")
    dataset = resight.data(write(tmp_path / "b.npz", X=PICTURES, y=np.where(LABELS > 0, 1, -1)))
    assert dataset.classes == ("-1", "1")
    assert notes(dataset) == ("labels -1 and 1 were taken as two classes",)


@pytest.mark.parametrize("missing", [-1, np.nan])
def test_images_without_a_label_are_left_out(tmp_path: Path, missing: float) -> None:
    labels = np.where(np.arange(12) < 3, missing, LABELS)
    dataset = resight.data(
        write(tmp_path / "a.npz", x_train=NCHW, y_train=labels, x_test=NCHW, y_test=LABELS)
    )
    assert dataset.train.ids == tuple(f"x_train[{row}]" for row in range(3, 12))
    assert np.array_equal(dataset.train.images.numpy(), NCHW[3:])
    assert any(note.startswith("y_train: 3 of 12 labels are missing") for note in dataset.notes)


@pytest.mark.parametrize("key", ["classes", "class_names", "label_names", "target_names"])
@pytest.mark.parametrize("first", [0, 1])
def test_named_classes(tmp_path: Path, key: str, first: int) -> None:
    arrays = {"X": PICTURES, "y": LABELS + first, key: np.array(["owl", "cat", "dog"])}
    dataset = resight.data(write(tmp_path / "a.npz", **arrays))
    assert dataset.classes == ("owl", "cat", "dog")
    images_of_classes = images(3, 10, 10)[dataset.train.labels.numpy()]
    assert np.array_equal(dataset.train.images[:, 0].numpy(), images_of_classes)
    assert notes(dataset) == (("labels count from 1: 1 is owl, 3 is dog",) if first else ())


def test_a_class_of_the_test_images_alone_is_refused_or_left_out(tmp_path: Path) -> None:
    few = LABELS != 1
    path = write(
        tmp_path / "a.npz",
        x_train=PICTURES[few],
        y_train=LABELS[few],
        x_test=PICTURES,
        y_test=LABELS,
    )
    with refused("test has images of class '1', and train has none; add some, or leave such"):
        resight.data(path)
    dataset = resight.data(path, classes="train")
    assert dataset.classes == ("0", "2")
    assert dataset.test.labels.tolist() == [0, 1] * 4
    assert dataset.test.ids[1] == "x_test[2]"
    assert notes(dataset)[-1] == "classes without training images were left out: 1 (4 images)"


def test_another_size(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", images=images(12, 3, 20, 30), labels=LABELS)
    assert resight.data(path).train.images.shape == (9, 3, 32, 32)
    dataset = resight.data(path, image_size=16)
    assert dataset.train.images.shape == (9, 3, 16, 16)
    assert notes(dataset)[0] == "12 images of 30x20 px were resized to 16 px"


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"a": NCHW}, "holds a; expected x_train, y_train, x_test, y_test (or"),
        ({"images": NCHW}, "expected"),
        ({"x": NCHW, "age": LABELS, "sex": LABELS}, "holds x, age, sex; expected"),
        ({"x": NCHW, "y_fur": LABELS, "y_tail": LABELS}, "several arrays of labels: y_fur, y_tail"),
        (
            {"images": NCHW, "labels": LABELS, "x_train": NCHW, "y_train": LABELS},
            "holds images as well as x_train",
        ),
        ({"images": NCHW.astype(np.int64) + 1, "labels": LABELS}, "images: int64 from 1 to 256"),
        ({"images": NCHW.astype(np.uint16) * 16, "labels": LABELS}, "which is neither 8 nor 16"),
        ({"images": NCHW / 200 - 1.2, "labels": LABELS}, "which looks standardized"),
        ({"images": NCHW / 255 - 0.5, "labels": LABELS}, "which looks standardized"),
        ({"images": NCHW / 100, "labels": LABELS}, "give uint8, or numbers in [0, 255], [0, 1] or"),
        ({"images": NCHW * np.nan, "labels": LABELS}, "a pixel that is NaN or infinite in image 0"),
        ({"images": NCHW * 1j, "labels": LABELS}, "images are complex128, no numbers"),
        ({"images": NCHW[0, 0], "labels": LABELS}, "10 numbers make no square"),
        ({"images": images(12, 2, 10, 10), "labels": LABELS}, "with C = 1, 3 or 4"),
        ({"images": images(12, 10, 10, 10), "labels": LABELS}, "volumes are not read"),
        ({"images": NCHW[:, :, :4, :4], "labels": LABELS}, "4x4 px is too small"),
        ({"images": NCHW[:, :, :, :3], "labels": LABELS}, "3x10 px is too small"),
        ({"images": NCHW[:0], "labels": LABELS[:0]}, "images holds no images"),
        ({"images": NCHW, "labels": LABELS[:5]}, "12 images but 5 labels"),
        ({"images": NCHW, "labels": np.ones((12, 3))}, "not a single 1 among zeros"),
        ({"images": NCHW, "labels": LABELS + 0.5}, "label 0.5 in row 0 of labels is no whole"),
        ({"images": NCHW, "labels": LABELS - 2}, "label -2 in row 0 of labels is no class number"),
        ({"images": NCHW, "labels": LABELS * 10**9}, "label 2000000000 is no class number"),
        ({"images": NCHW, "labels": LABELS * 0}, "has 1 class"),
        (
            {"images": NCHW, "labels": LABELS, "classes": WORDS[:2]},
            "label 2 in row 2 of labels is none of the 2 classes",
        ),
        (
            {"images": NCHW, "labels": np.array(["owl"] * 12), "classes": np.array(["cat", "dog"])},
            "label 'owl' in row 0 of labels is none of the 2 classes",
        ),
        (
            {"images": NCHW, "labels": np.array([None] * 12)},
            "a.npz cannot be read as arrays (labels.npy holds Python objects, which could run",
        ),
        (
            {"x_train": NCHW, "y_train": LABELS, "x_test": NCHW[:, :1], "y_test": LABELS},
            "differ in size or channels",
        ),
    ],
)
def test_unsound_arrays_are_refused(tmp_path: Path, arrays: Any, expected: str) -> None:
    with refused(expected):
        resight.data(write(tmp_path / "a.npz", **arrays))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.npz", images=NCHW, labels=LABELS))
    content = bytearray(path.read_bytes())
    content[500:600] = b"\x00" * 100  # pixels, which have a checksum
    path.write_bytes(content)
    with refused("a.npz cannot be read as arrays"):
        resight.data(str(path))


def test_what_is_no_pair_of_arrays_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", NCHW)
    with refused("x.npy is one array; give the folder in which the array of its labels lies"):
        resight.data(str(tmp_path / "x.npy"))
    for name in ("data.pkl", "data.pt", "data.h5"):
        (tmp_path / name).write_bytes(b"\x80\x04.")
        with refused(f"{name} is not read, since loading such a file could run code"):
            resight.data(str(tmp_path / name))
    root = tmp_path / "many"
    root.mkdir()
    for row in range(65):
        np.save(root / f"{row}.npy", NCHW[0])
    with refused("holds 65 files of arrays; put all images into one array"):
        resight.data(str(root))


# --- MATLAB -------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_svhn(tmp_path: Path, packed: bool) -> None:
    labels = np.where(LABELS == 0, 10, LABELS)[:, None].astype(np.uint8)
    for split, end in (("train", 12), ("test", 6), ("extra", 3)):
        arrays = {"X": NCHW[:end].transpose(2, 3, 1, 0), "y": labels[:end]}
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", arrays, do_compression=packed)
    dataset = resight.data(str(tmp_path))
    assert np.array_equal(dataset.train.images.numpy(), NCHW)
    assert np.array_equal(dataset.test.images.numpy(), NCHW[:6])
    assert dataset.train.labels.tolist() == LABELS.tolist()
    assert dataset.classes == ("0", "1", "2")
    assert "label 10 was taken as the digit 0, as SVHN has it" in dataset.notes
    assert any(note.startswith("extra_32x32_X") for note in dataset.notes)


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", ">i4", "bool"]
)
@pytest.mark.parametrize("packed", [True, False])
def test_arrays_of_matlab_are_those_of_scipy(dtype: str, packed: bool) -> None:
    from resight.datasets.readers.mat import stored_arrays

    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    stream = io.BytesIO()
    contents = {"a_long_name_of_an_array": values, "row": [[1.5, 2]], "word": "x", "z": [[1j]]}
    scipy.io.savemat(stream, contents, do_compression=packed)
    expected = scipy.io.loadmat(io.BytesIO(stream.getvalue()))
    stored = stored_arrays(stream.getvalue(), "a.mat")
    assert [*stored] == ["a_long_name_of_an_array", "row"]
    for name, array in stored.items():
        loaded = array.load()
        assert np.array_equal(loaded, expected[name])
        assert loaded.shape == array.head.shape
        assert loaded.dtype == np.dtype(array.head.dtype)


def test_other_files_of_matlab_are_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    arrays = {"X": NCHW.transpose(2, 3, 1, 0), "y": LABELS}
    scipy.io.savemat(stream, arrays)
    content = stream.getvalue()
    for damaged, expected in (
        (content[:2000], "it is cut off"),
        (content[:126] + b"xx" + content[128:], "it has no byte order"),
        (
            b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n",
            "MATLAB 7.3; save it with '-v7'",
        ),
    ):
        (tmp_path / "a.mat").write_bytes(damaged)
        with refused(expected):
            resight.data(str(tmp_path / "a.mat"))
