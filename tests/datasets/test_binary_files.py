"""MNIST's IDX files, STL-10's binary files, and pixels in CSV files."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resight
from refusal import refused

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 10), dtype=np.uint8)
LABELS = np.array([0, 1, 2] * 4, dtype=np.uint8)
KINDS = {np.dtype("u1"): 8, np.dtype(">i4"): 12, np.dtype(">f4"): 13}


def idx(array: Any) -> bytes:
    head = struct.pack(">HBB", 0, KINDS[array.dtype], array.ndim)
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(
    root: Path,
    *,
    mark: str = "-",
    prefix: str = "",
    test: str = "t10k",
    packed: bool = False,
    images: Any = PIXELS,
    labels: Any = LABELS,
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for split, end in (("train", 12), (test, 6)):
        for kind, array in (("images", images[:end]), ("labels", labels[:end])):
            content = gzip.compress(idx(array), mtime=0) if packed else idx(array)
            name = f"{prefix}{split}-{kind}{mark}idx{array.ndim}-ubyte"
            (root / (name + ".gz" * packed)).write_bytes(content)
    return root


# --- IDX ------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("mark", ["-", "."])
def test_mnist(tmp_path: Path, mark: str, packed: bool) -> None:
    root = write_idx(tmp_path / "MNIST" / "raw", mark=mark, packed=packed)
    dataset = resight.data(str(tmp_path))
    assert np.array_equal(dataset.train.images.numpy(), PIXELS[:, None])
    assert np.array_equal(dataset.test.images.numpy(), PIXELS[:6, None])
    assert dataset.train.labels.tolist() == LABELS.tolist()
    assert dataset.classes == ("0", "1", "2")
    given = next(path for path in root.iterdir() if "train-images" in path.name)
    assert resight.data(str(given)).fingerprint == dataset.fingerprint


def test_files_that_were_unpacked_beside_their_archives(tmp_path: Path) -> None:
    write_idx(tmp_path, packed=True)
    write_idx(tmp_path)
    dataset = resight.data(str(tmp_path))
    assert dataset.train.ids[3] == "train-images-idx3-ubyte[3]"
    assert np.array_equal(dataset.train.images.numpy(), PIXELS[:, None])


def test_emnist_is_turned_upright_and_named(tmp_path: Path) -> None:
    on_their_side = np.ascontiguousarray(PIXELS.transpose(0, 2, 1))
    for name in ("letters", "digits"):
        write_idx(
            tmp_path,
            prefix=f"emnist-{name}-",
            test="test",
            packed=True,
            images=on_their_side,
            labels=LABELS + np.uint8(1),
        )
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n3 67 99\n")
    with refused("holds several sets of IDX files: emnist-digits, emnist-letters; give a file"):
        resight.data(str(tmp_path))
    dataset = resight.data(str(tmp_path / "emnist-letters-train-images-idx3-ubyte.gz"))
    assert np.array_equal(dataset.train.images.numpy(), PIXELS[:, None])
    assert dataset.classes == ("A", "B", "C")
    assert dataset.test.labels.tolist() == LABELS[:6].tolist()
    assert "EMNIST stores images on their side, so they were turned upright" in dataset.notes


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (idx(PIXELS)[:-5], "has 1,195 bytes for uint8 of shape (12, 10, 10); get it again"),
        (idx(PIXELS) + b"x", "has more bytes for uint8 of shape (12, 10, 10)"),
        (b"\x01" + idx(PIXELS)[1:], "is no whole IDX file (it does not begin as one)"),
        (b"\0\0\x08\x09", "is no whole IDX file (it does not begin as one)"),
        (b"\0\0\x08\x03\0\0", "is no whole IDX file (unpack requires a buffer of 12 bytes)"),
        (b"", "is no whole IDX file (unpack requires a buffer of 4 bytes)"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "is refused: 16 bytes would unpack to"),
        (idx(PIXELS[:11]), "has 11 images but 12 labels; give each image one"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_damaged_idx_files_are_refused(
    tmp_path: Path, content: bytes, expected: str, packed: bool
) -> None:
    write_idx(tmp_path, packed=packed)
    name = "train-images-idx3-ubyte" + ".gz" * packed
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    if packed and "would unpack" in expected:
        expected = "bytes would unpack to"
    with refused(expected):
        resight.data(str(tmp_path))


def test_a_cut_gzip_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with refused("train-images-idx3-ubyte.gz is no whole IDX file"):
        resight.data(str(tmp_path))
    path.unlink()
    with refused("train-labels-idx1-ubyte.gz has no file of images beside it; add it"):
        resight.data(str(tmp_path))


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    write_idx(tmp_path, packed=True)
    bomb = struct.pack(">HBB3I", 0, 8, 3, 12, 10, 10) + bytes(2**28)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bomb, 9))
    with refused("has more bytes for uint8 of shape (12, 10, 10)"):  # read no further than that
        resight.data(str(tmp_path))


# --- STL-10 ---------------------------------------------------------------------------------


def write_stl10(root: Path, images: Any) -> Path:
    """Write (N, H, W, 3) as STL-10 does: color planes, and each plane column by column."""
    for split, end in (("train", 12), ("test", 6)):
        stored = images[:end].transpose(0, 3, 2, 1)  # (N, C, W, H)
        (root / f"{split}_X.bin").write_bytes(stored.tobytes())
        (root / f"{split}_y.bin").write_bytes((LABELS[:end] + 1).tobytes())
    (root / "class_names.txt").write_text("airplane\nbird\ncar\n")
    return root


def test_stl10(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 96, 96, 3), dtype=np.uint8)
    write_stl10(tmp_path, images)
    (tmp_path / "unlabeled_X.bin").write_bytes(images.tobytes())
    dataset = resight.data(str(tmp_path))
    assert np.array_equal(dataset.train.images.numpy(), images.transpose(0, 3, 1, 2))
    assert dataset.test.labels.tolist() == LABELS[:6].tolist()
    assert dataset.classes == ("airplane", "bird", "car")
    assert "unlabeled_X.bin: there are no labels for it" in dataset.notes


def test_what_is_not_in_the_order_of_stl10_is_refused(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    write_stl10(tmp_path, images)
    with refused("train_X.bin has 32 px images whose colors do not lie as STL-10's"):
        resight.data(str(tmp_path))
    (tmp_path / "train_X.bin").write_bytes(images.tobytes()[:-1])
    with refused("train_X.bin has 36,863 bytes for 12 labels, which are no square images"):
        resight.data(str(tmp_path))
    (tmp_path / "train_y.bin").unlink()
    with refused("train_X.bin has no train_y.bin beside it; add it"):
        resight.data(str(tmp_path))


# --- CSV ------------------------------------------------------------------------------------

ROWS = PIXELS.reshape(12, 100)


def write_csv(path: Path, header: list[str] | None, rows: Any) -> None:
    lines = [",".join(header)] if header else []
    path.write_text("\n".join([*lines, *(",".join(map(str, row)) for row in rows)]) + "\n")


NAMES = [f"pixel{place}" for place in range(100)]


def test_kaggles_digits(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", ["label", *NAMES], np.column_stack([LABELS, ROWS]))
    write_csv(tmp_path / "test.csv", NAMES, ROWS)
    (tmp_path / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    dataset = resight.data(str(tmp_path))
    for split in dataset.splits.values():
        rows = [int(name.removeprefix("train.csv#")) for name in split.ids]
        assert np.array_equal(split.images.numpy(), PIXELS[rows, None])
        assert split.labels.tolist() == LABELS[rows].tolist()
    assert len(dataset.train) == 9
    assert "test.csv: its images have no labels" in dataset.notes


def test_pixels_without_a_header(tmp_path: Path) -> None:
    table = np.column_stack([LABELS, ROWS])
    write_csv(tmp_path / "mnist_train.csv", None, table)
    write_csv(tmp_path / "mnist_test.csv", None, table[:6])
    dataset = resight.data(str(tmp_path))
    assert np.array_equal(dataset.train.images.numpy(), PIXELS[:, None])
    assert np.array_equal(dataset.test.images.numpy(), PIXELS[:6, None])
    assert dataset.test.labels.tolist() == LABELS[:6].tolist()
    note = "mnist_train.csv has no header: its first column was taken as the labels"
    assert note in dataset.notes


def test_columns_of_pixels_in_another_order(tmp_path: Path) -> None:
    names = [f"{row}x{column}" for column in range(1, 11) for row in range(1, 11)]
    columns = PIXELS.transpose(0, 2, 1).reshape(12, 100)
    words = np.array(["cat", "dog", "owl"])[LABELS]
    write_csv(tmp_path / "a.csv", [*names, "breed"], np.column_stack([columns, words]))
    dataset = resight.data(str(tmp_path / "a.csv"))
    rows = [int(name.partition("#")[2]) for name in dataset.train.ids]
    assert np.array_equal(dataset.train.images.numpy(), PIXELS[rows, None])
    assert dataset.classes == ("cat", "dog", "owl")


def test_pixels_in_one_column(tmp_path: Path) -> None:
    usages = ["Training"] * 6 + ["PublicTest"] * 3 + ["PrivateTest"] * 3
    texts = [" ".join(map(str, row)) for row in ROWS]
    write_csv(
        tmp_path / "fer.csv",
        ["emotion", "pixels", "Usage"],
        zip(LABELS, texts, usages, strict=True),
    )
    dataset = resight.data(str(tmp_path / "fer.csv"))
    assert dataset.val is not None
    parts = [split.images.numpy()[:, 0] for split in (dataset.train, dataset.val, dataset.test)]
    assert [len(part) for part in parts] == [6, 3, 3]
    assert np.array_equal(np.concatenate(parts), PIXELS)
    assert dataset.val.ids == ("fer.csv#6", "fer.csv#7", "fer.csv#8")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            [1, "x", *[5] * 99],
            "is no whole table of pixels (In CSV column #1: CSV conversion error",
        ),
        ([1, 5, 5], "is no whole table of pixels (CSV parse error: Expected 101 columns, got 3"),
        ([1, 300, *[5] * 99], "from 0 to 300, which is neither 8 nor 16 bits"),
        ([1, "", *[5] * 99], "a pixel that is NaN or infinite in image 12"),
    ],
)
def test_damaged_tables_of_pixels_are_refused(
    tmp_path: Path, row: list[Any], expected: str
) -> None:
    rows = [[label, *pixels] for label, pixels in zip(LABELS, ROWS.tolist(), strict=True)]
    write_csv(tmp_path / "a.csv", ["label", *NAMES], [*rows, row])
    with refused(expected):
        resight.data(str(tmp_path / "a.csv"))


def test_two_tables_of_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        write_csv(tmp_path / name, ["label", *NAMES], np.column_stack([LABELS, ROWS]))
    with refused("a.csv and b.csv, which could both be the train images; give one file"):
        resight.data(str(tmp_path))
