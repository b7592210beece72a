"""The pictures that people look at: the files of a data set, with more pixels than it has."""

import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import resight
from resight.datasets import Dataset, Split, hold_out, read_pictures
from resight.datasets.dataset import Originals
from resight.datasets.originals import SHOWN_PX, display_images, images_as_pictures
from resight.datasets.readers import record_images
from resight.datasets.readers import shards as shard_files
from resight.datasets.tree import Source
from resight.recipe import Resize

ORIENTATION = 0x0112


def smooth(seed: int, height: int, width: int) -> Image.Image:
    """A picture without detail, so that it is nearly the same at every size."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def write(root: Path, *sizes: tuple[int, int]) -> Path:
    """Write a picture of each size (height, width) into both splits and both classes."""
    for k, folder in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        (root / folder).mkdir(parents=True)
        for i, (height, width) in enumerate(sizes):
            smooth(10 * k + i, height, width).save(root / folder / f"{i}.png")
    return root


def load(root: Path, px: int = 16, resize: Resize = "crop") -> Dataset:
    return resight.data(str(root), image_size=px, resize=resize)


def halved(picture: NDArray[np.uint8], px: int) -> NDArray[np.float64]:
    """(P, P, C) as means over areas, (px, px, C)."""
    step = len(picture) // px
    means: NDArray[np.float64] = picture.reshape(px, step, px, step, -1).mean(axis=(1, 3))
    return means


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
def test_the_picture_is_what_the_network_saw_with_more_pixels(
    tmp_path: Path, resize: Resize
) -> None:
    test = load(write(tmp_path / "photos", (300, 400), (500, 260)), resize=resize).test
    shown = display_images(test)
    assert shown.pictures.shape == (4, SHOWN_PX, SHOWN_PX, 3)
    assert (shown.seen_px, shown.num_stand_ins) == (16, 0)
    assert shown.notes == ("shown at up to 224 px; the network saw 16 px",)
    for picture, image in zip(shown.pictures, images_as_pictures(test), strict=True):
        difference = np.abs(halved(picture, 16) - image)
        assert difference.mean() < 4  # of 255


def test_no_picture_is_larger_than_the_largest_is(tmp_path: Path) -> None:
    test = load(write(tmp_path / "photos", (40, 50), (30, 30), (12, 12))).test
    shown = display_images(test)
    assert shown.pictures.shape == (6, 40, 40, 3)
    assert shown.notes == ("shown at up to 40 px; the network saw 16 px",)
    original = np.asarray(smooth(20, 40, 50))[:, 5:45]
    assert np.array_equal(shown.pictures[0], original)  # cropped, and no pixel is changed
    enlarged = smooth(21, 30, 30).resize((40, 40), Image.Resampling.BICUBIC)
    assert np.array_equal(shown.pictures[1], np.asarray(enlarged))
    assert display_images(test, px=24).pictures.shape[1] == 24


@pytest.mark.parametrize("px", [16, 32])
def test_without_larger_originals_the_images_stay_as_they_are(tmp_path: Path, px: int) -> None:
    test = load(write(tmp_path / "photos", (16, 16)), px=px).test
    shown = display_images(test)
    assert np.array_equal(shown.pictures, images_as_pictures(test))
    assert (shown.seen_px, shown.notes) == (None, ())
    arrays = replace(test, originals=None)
    assert np.array_equal(display_images(arrays).pictures, images_as_pictures(test))


def test_pictures_are_turned_laid_over_white_and_gray_as_in_training(tmp_path: Path) -> None:
    folders = [tmp_path / "photos" / name for name in ("cat", "dog")]
    for folder in folders:
        folder.mkdir(parents=True)
        for i in range(5):
            gray = np.linspace(0, 255, 60 * 40).reshape(60, 40).astype(np.uint8)
            exif = Image.Exif()
            exif[ORIENTATION] = 6
            Image.fromarray(gray).save(folder / f"{i}.jpg", exif=exif, quality=95)
    clear = Image.new("LA", (60, 60), (0, 0))
    for folder in folders:
        for i in range(5, 10):
            clear.save(folder / f"{i}.png")
    data = load(tmp_path / "photos")
    assert data.train.images.shape[1] == 1
    shown = display_images(data.train)
    assert shown.pictures.shape[1:] == (60, 60, 1)
    assert shown.num_stand_ins == 0
    rows = [name.endswith(".jpg") for name in data.train.ids]
    turned = shown.pictures[rows][..., 0].astype(float)
    assert (turned[:, :, 0] > turned[:, :, -1]).all()  # dark was up, and is right now
    assert (shown.pictures[~np.array(rows)] == 255).all()


def test_the_image_stands_in_for_a_file_that_is_gone_or_another(tmp_path: Path) -> None:
    root = write(tmp_path / "photos", (64, 64), (48, 48), (32, 32))
    test = load(root).test
    before = display_images(test).pictures
    (root / "test/cat/0.png").unlink()
    shutil.copy(root / "test/dog/1.png", root / "test/cat/1.png")
    (root / "test/cat/2.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    shown = display_images(test)
    assert shown.num_stand_ins == 3
    assert shown.notes[1] == (
        "3 of 6 pictures are shown as the network saw them, because their files are gone or have "
        "changed"
    )
    assert np.array_equal(shown.pictures[3:], before[3:])
    sharp = images_as_pictures(test)[:3].repeat(4, axis=1).repeat(4, axis=2)
    assert np.array_equal(shown.pictures[:3], sharp)
    shutil.rmtree(root)
    alone = display_images(test)
    assert np.array_equal(alone.pictures, images_as_pictures(test))
    assert (alone.seen_px, alone.num_stand_ins) == (None, 6)


def test_a_source_that_fails_midway_costs_its_pictures_alone(tmp_path: Path) -> None:
    root = write(tmp_path / "photos", (64, 64), (48, 48))
    test = load(root).test

    def two(ids: Sequence[str]) -> Iterator[Source]:
        yield root / ids[0]
        yield (root / ids[1]).read_bytes()
        raise OSError("the archive is cut off")

    shown = display_images(replace(test, originals=Originals(two)))
    assert shown.pictures.shape == (4, 64, 64, 3)
    assert shown.num_stand_ins == 2
    assert np.array_equal(shown.pictures[:2], display_images(test).pictures[:2])


def test_rows_and_parts_find_their_own_files(tmp_path: Path) -> None:
    data = load(write(tmp_path / "photos", *[(40, 40)] * 6))
    everything = display_images(data.train).pictures
    rows = np.array([7, 2, 11])
    assert np.array_equal(display_images(data.train, rows).pictures, everything[rows])
    train, val = hold_out(data.train, 0.3, 0)
    for part in (train, val, train.to(torch.device("cpu"))):
        at = [data.train.ids.index(id) for id in part.ids]
        assert np.array_equal(display_images(part).pictures, everything[at])
    assert len(display_images(data.train, rows[:0]).pictures) == 0


def test_data_from_the_cache_and_from_a_zip_find_their_files_too(tmp_path: Path) -> None:
    root = write(tmp_path / "photos", (40, 44))
    first, again = load(root), load(root)
    assert first.fingerprint == again.fingerprint
    expected = display_images(first.test).pictures
    assert expected.shape[1] == 40
    assert np.array_equal(display_images(again.test).pictures, expected)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, path.relative_to(root))
    zipped = load(tmp_path / "photos.zip")
    assert zipped.fingerprint == first.fingerprint
    assert np.array_equal(display_images(zipped.test).pictures, expected)


def test_nothing_is_opened_before_it_is_looked_at() -> None:
    def none(ids: Sequence[str]) -> list[Source]:
        raise AssertionError("it was asked")

    images = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    split = Split(images, torch.zeros(3, dtype=torch.int64), ("a", "b", "c"), Originals(none))
    part = split.select(torch.tensor([1]))
    assert (part.originals, part.ids) == (split.originals, ("b",))
    assert display_images(part, px=16).num_stand_ins == 0


def test_pictures_of_ones_own(tmp_path: Path) -> None:
    root = write(tmp_path / "photos", (300, 200))
    split = read_pictures([root / "test/cat/0.png"], image_size=16, channels=1)
    shown = display_images(split)
    assert shown.pictures.shape == (1, 200, 200, 1)
    assert shown.num_stand_ins == 0


def rows_of(root: Path, split: str) -> list[dict[str, object]]:
    """Return the pictures of a split as records of a table, cats first."""
    paths = sorted((root / split).rglob("*.png"))
    return [
        {"image": {"bytes": path.read_bytes(), "path": None}, "label": path.parent.name}
        for path in paths
    ]


@pytest.fixture
def table(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of pictures, and the same as Parquet: two files to train on, one to test."""
    root, tables = write(tmp_path / "photos", *[(40 + i, 60) for i in range(20)]), tmp_path / "t"
    tables.mkdir()
    train = rows_of(root, "train")
    for name, rows in (
        ("train-0-of-2", train[:25]),
        ("train-1-of-2", train[25:]),
        ("test", rows_of(root, "test")),
    ):
        pq.write_table(pa.Table.from_pylist(rows), tables / f"{name}.parquet")
    return root, tables


def test_pictures_in_tables_are_found_by_their_rows(
    tmp_path: Path, table: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, tables = table
    monkeypatch.setattr(record_images, "_AT_ONCE", 7)  # several turns
    rows = np.random.default_rng(0).permutation(40)
    files = load(root).train
    order = [files.ids.index(id) for id in sorted(files.ids)]
    expected = display_images(files.select(torch.tensor(order)), rows)
    assert expected.num_stand_ins == 0
    zipped = shutil.make_archive(str(tmp_path / "zipped"), "zip", tables)
    for source in (tables, Path(zipped)):
        shown = display_images(load(source).train, rows)
        assert shown.num_stand_ins == 0
        assert np.array_equal(shown.pictures, expected.pictures)
    test = load(tables).test
    (tables / "test.parquet").write_bytes(b"PAR1 cut off")
    assert display_images(test).num_stand_ins == 40


def test_numbers_in_tables_have_no_picture_files(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    rows = [{"image": image.tolist(), "label": i % 2} for i, image in enumerate(images)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    test = resight.data(str(tmp_path / "data.parquet")).test
    assert display_images(test).notes == ()


def test_pictures_in_shards_are_found_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path / "photos", *[(40 + i, 60) for i in range(6)])
    shards = tmp_path / "shards"
    shards.mkdir()
    monkeypatch.setattr(shard_files, "_AT_ONCE", 4)
    paths = sorted((root / "train").rglob("*.png"))
    for number, some in enumerate((paths[::2], paths[1::2])):
        with tarfile.open(shards / f"train-{number}.tar", "w") as tar:
            for i, path in enumerate(some):
                tar.add(path, f"{i:04d}.png")
                label = b"1" if path.parent.name == "dog" else b"0"
                about = tarfile.TarInfo(f"{i:04d}.cls")
                about.size = len(label)
                tar.addfile(about, BytesIO(label))
    train = load(shards).train
    shown = display_images(train)
    assert shown.pictures.shape[1] == 45
    assert shown.num_stand_ins == 0
    backwards = np.arange(len(train))[::-1]
    assert np.array_equal(display_images(train, backwards.copy()).pictures, shown.pictures[::-1])
