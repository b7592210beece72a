"""A folder of pictures for each class; pictures of every kind."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import resight
from refusal import refused
from resight.datasets import read_pictures

ORIENTATION = 0x0112


def pixels(seed: int, height: int = 12, width: int = 12) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, picture: Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def photos(root: Path, *parts: str, count: int = 3, px: int = 12) -> Path:
    """Write `count` random pictures into each folder of `parts`; return `root`."""
    for k, part in enumerate(parts):
        for i in range(count):
            save(root / part / f"{i}.png", Image.fromarray(pixels(10 * k + i, px, px)))
    return root


# --- folders --------------------------------------------------------------------------------


@pytest.mark.parametrize("test", ["test", "Testing", "test_set", "test_images"])
def test_train_and_test_folders(tmp_path: Path, test: str) -> None:
    parts = ("train/cat", "train/dog", f"{test}/cat", f"{test}/dog")
    dataset = resight.data(str(photos(tmp_path / "photos", *parts)))
    assert dataset.name == "photos"
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.ids == tuple(
        f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(3)
    )
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.test.ids[0] == f"{test}/cat/0.png"
    expected = np.stack([pixels(10 * p + i) for p in (2, 3) for i in range(3)])
    assert np.array_equal(dataset.test.images.numpy(), expected.transpose(0, 3, 1, 2))
    assert dataset.notes == (f"layout folders: a folder a class; train is train/, test is {test}/",)


@pytest.mark.parametrize("val", ["val", "valid", "dev", "Validation"])
def test_a_validation_split_stays_one(tmp_path: Path, val: str) -> None:
    parts = [f"{split}/{name}" for split in ("train", val, "test") for name in ("a", "b")]
    dataset = resight.data(str(photos(tmp_path, *parts)))
    assert dataset.val is not None
    assert dataset.val.ids == tuple(f"{val}/{c}/{i}.png" for c in "ab" for i in range(3))
    assert dataset.test.ids[0] == "test/a/0.png"


def test_validation_never_stands_in_for_test(tmp_path: Path) -> None:
    parts = [f"{split}/{name}" for split in ("train", "val") for name in ("a", "b")]
    dataset = resight.data(str(photos(tmp_path, *parts, count=5)))
    assert dataset.val is not None
    assert len(dataset.val) == 10
    assert {id.split("/")[0] for id in dataset.test.ids} == {"train"}
    assert dataset.notes[-1] == "no test split: 2 images, 20 % of each class, were held out"


@pytest.mark.parametrize("parent", ["", "train/"])
def test_without_a_test_folder_a_fifth_is_held_out(tmp_path: Path, parent: str) -> None:
    root = photos(tmp_path / "photos", f"{parent}cat", f"{parent}dog", count=10)
    dataset = resight.data(str(root))
    assert dataset.test.labels.bincount().tolist() == [2, 2]
    assert dataset.train.labels.bincount().tolist() == [8, 8]
    assert not set(dataset.train.ids) & set(dataset.test.ids)
    assert dataset.notes[1:] == ("no test split: 4 images, 20 % of each class, were held out",)
    assert resight.data(str(root)).test.ids == dataset.test.ids


def test_nested_pictures_are_read_and_hidden_ones_are_not(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", "cat/2024/may", "cat", "dog", ".git", "__MACOSX/cat")
    (root / "cat" / ".hidden.png").write_bytes(b"x")
    (root / "cat" / "labels.csv").write_text("x")
    (root / "readme.txt").write_text("x")
    dataset = resight.data(str(root))
    ids = {*dataset.train.ids, *dataset.test.ids}
    assert "cat/2024/may/0.png" in ids
    assert len(ids) == 9
    assert dataset.classes == ("cat", "dog")
    assert dataset.notes[:4] == (
        "layout folders: a folder a class",
        "folders inside a class folder count to its class, as cat/2024/may/ to cat",
        "files that are not pictures: 2 (.csv, .txt)",
        "not looked at: files of the operating system (1), hidden files and folders (2)",
    )


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    dataset = resight.data(str(photos(tmp_path, "bus", "car", "train")))
    assert dataset.classes == ("bus", "car", "train")


def test_an_accent_is_one_class_however_it_is_written(tmp_path: Path) -> None:
    """macOS writes it in two letters, other systems in one."""
    photos(tmp_path, "train/caf\u00e9", "train/tea", "test/cafe\u0301", "test/tea")
    dataset = resight.data(str(tmp_path))
    assert dataset.classes == ("caf\u00e9", "tea")
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 6, "test": 6}


def test_the_parent_folder_is_accepted(tmp_path: Path) -> None:
    photos(tmp_path / "photos" / "photos", "cat", "dog")
    assert resight.data(str(tmp_path / "photos")).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("parts", "folders", "expected"),
    [
        ((), (), "is no data set that resight knows (it holds nothing); give a folder a class"),
        ((".",), (), "have no class folders: it holds 3 pictures; put them into a folder a class"),
        (("cat",), (), "has 1 class"),
        (("cat", "dog"), ("owl",), "class folder 'owl' of"),
        ((), ("owl", "cat"), "holds no pictures, only cat/ (empty), owl/ (empty)"),
        (("train/cat", "train/dog", "test/cat"), (), "dog is in train, not in test"),
        (("train/a", "train/b", "test/a", "test/b", "test/c"), (), "c is in test, not in train"),
        (("test/cat", "test/dog"), (), "has no training images (it has test); add some"),
        (("Red", "red"), (), "'Red' and 'red' differ in case or spaces alone"),
        (("new/a", "new/b", "old/a", "old/b"), (), "may be versions of one data set; give one"),
        (("fold1", "fold2"), (), "look like parts of one, not like classes"),
        (("images", "masks"), (), "masks/ beside them may hold masks"),
        (("train/good", "test/good", "test/broken"), (), "train has one class, good"),
        (("train/a", "train/b", "training_set/a"), (), "both mean the train split"),
    ],
)
def test_unsound_folders_are_refused(
    tmp_path: Path, parts: tuple[str, ...], folders: tuple[str, ...], expected: str
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    photos(root, *parts)
    for folder in folders:
        (root / folder).mkdir()
    with refused(expected):
        resight.data(str(root))


# --- sizes ----------------------------------------------------------------------------------


def test_pictures_keep_their_size_if_all_have_one(tmp_path: Path) -> None:
    root = photos(tmp_path, "cat", "dog", px=40)
    assert resight.data(str(root)).train.images.shape == (4, 3, 40, 40)
    wide = pixels(99, 40, 100)
    save(root / "dog" / "wide.png", Image.fromarray(wide))  # the last of them
    assert resight.data(str(root)).train.images.shape[2:] == (32, 32)
    dataset = resight.data(str(root), image_size=20)
    assert dataset.train.images.shape[2:] == (20, 20)
    assert dataset.notes[1].startswith("7 of 7 pictures: resized to 20 px")
    cropped = read_pictures([root / "dog" / "wide.png"], image_size=40, channels=3)
    assert np.array_equal(cropped.images[0].permute(1, 2, 0).numpy(), wide[:, 30:70])


@pytest.mark.parametrize("px", [(7, 20), (20, 7), (1, 1)])
def test_tiny_pictures_are_refused(tmp_path: Path, px: tuple[int, int]) -> None:
    root = photos(tmp_path, "cat", "dog")
    save(root / "cat" / "tiny.png", Image.fromarray(pixels(0, *px)))
    with refused(f"tiny.png: {px[1]}x{px[0]} px is too small; at least 8 px"):
        resight.data(str(root), skip_unreadable=True)


def test_large_photos_are_decoded_on_threads_in_order(tmp_path: Path) -> None:
    colors = [(i * 20, 255 - i * 20, i) for i in range(12)]
    for i, color in enumerate(colors):
        noise = pixels(i, 300, 200) // 16
        picture = Image.fromarray((noise + np.array(color) * 15 // 16).astype(np.uint8))
        save(tmp_path / "set" / ("cat" if i < 6 else "dog") / f"{i:02}.jpg", picture, quality=95)
    dataset = resight.data(str(tmp_path / "set"), image_size=16)
    for split in (dataset.train, dataset.test):
        for image, name in zip(split.images, split.ids, strict=True):
            expected = torch.tensor(colors[int(name[4:6])]) * 15 / 16 + 7.5
            assert (image.float().mean(dim=(1, 2)) - expected).abs().max() < 4


# --- kinds of pictures ----------------------------------------------------------------------


def read_one(path: Path, channels: int = 3) -> NDArray[np.uint8]:
    """Decode one picture to (H, W, C), 12 px square."""
    split = read_pictures([path], image_size=12, channels=channels)
    assert split.labels.tolist() == [-1]
    assert split.ids == (str(path),)
    image: NDArray[np.uint8] = split.images[0].permute(1, 2, 0).numpy()
    return image


def test_transparent_pictures_are_laid_over_white(tmp_path: Path) -> None:
    rgba = np.dstack([pixels(0), np.full((12, 12), 128, dtype=np.uint8)])
    rgba[0, 0, 3], rgba[0, 1, 3] = 0, 255
    image = read_one(save(tmp_path / "a.png", Image.fromarray(rgba))).astype(float)
    alpha = rgba[:, :, 3:] / 255
    expected = rgba[:, :, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(image - expected).max() <= 1
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[0, 1].tolist() == rgba[0, 1, :3].tolist()


def test_gray_with_transparency_stays_gray(tmp_path: Path) -> None:
    la = np.dstack([pixels(0)[:, :, 0], np.zeros((12, 12), dtype=np.uint8)])
    for name in ("cat", "dog"):
        for i in range(2):
            save(tmp_path / name / f"{i}.png", Image.fromarray(la, "LA"))
    dataset = resight.data(str(tmp_path))
    assert dataset.train.images.shape == (2, 1, 12, 12)
    assert dataset.train.images.min() == 255
    assert dataset.notes[1] == "4 of 4 pictures: transparency, laid over white"


def test_palette_pictures_become_rgb(tmp_path: Path) -> None:
    palette = Image.fromarray(pixels(0)).quantize(8)
    path = save(tmp_path / "a.gif", palette)
    assert np.array_equal(read_one(path), np.asarray(palette.convert("RGB")))


def test_sixteen_bits_are_reduced_to_eight(tmp_path: Path) -> None:
    values = np.arange(144, dtype=np.uint16).reshape(12, 12) * 455
    values[0, 0], values[11, 11] = 0, 65535
    for suffix in (".png", ".tif"):
        path = save(tmp_path / f"a{suffix}", Image.fromarray(values))
        assert np.array_equal(read_one(path, channels=1)[:, :, 0], values // 256)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (12, 12), (0, 255, 255, 0))  # red
    path = save(tmp_path / "a.jpg", cmyk)
    assert np.abs(read_one(path)[0, 0].astype(int) - [255, 0, 0]).max() <= 3


def test_black_and_white_is_gray(tmp_path: Path) -> None:
    bits = pixels(0)[:, :, 0] > 127
    path = save(tmp_path / "a.png", Image.fromarray(bits))
    assert np.array_equal(read_one(path, channels=1)[:, :, 0], bits * np.uint8(255))


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    upright = pixels(0)
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turn 90 degrees clockwise for display
    path = save(tmp_path / "a.png", Image.fromarray(np.rot90(upright)), exif=exif)
    assert np.array_equal(read_one(path), upright)


def test_animations_give_their_first_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(pixels(i)) for i in range(3)]
    path = save(
        tmp_path / "a.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True
    )
    assert np.array_equal(read_one(path), pixels(0))


def test_gray_and_color_together_become_rgb_and_notes_say_so(tmp_path: Path) -> None:
    root = photos(tmp_path, "cat", "dog")
    gray = pixels(7)[:, :, 0]
    save(root / "cat" / "gray.png", Image.fromarray(gray))
    dataset = resight.data(str(root))
    assert dataset.train.images.shape[1] == 3
    images = dict(zip(dataset.train.ids, dataset.train.images, strict=True))
    images |= dict(zip(dataset.test.ids, dataset.test.images, strict=True))
    assert np.array_equal(images["cat/gray.png"].numpy(), np.stack([gray] * 3))
    assert "1 of 7 pictures: gray, repeated to RGB" in dataset.notes


def test_color_becomes_gray_for_a_model_of_one_channel(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(pixels(0)))
    expected = np.asarray(Image.fromarray(pixels(0)).convert("L"))
    assert np.array_equal(read_one(path, channels=1)[:, :, 0], expected)


# --- broken pictures ------------------------------------------------------------------------


def bomb() -> bytes:
    """The header of a PNG of 30,000 x 30,000 px."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk


@pytest.mark.parametrize(
    "content", [b"", b"not a picture", b"\xff\xd8\xff\xe0", bomb(), b"cut", None]
)
def test_unreadable_pictures_are_named_or_skipped(tmp_path: Path, content: bytes | None) -> None:
    root = photos(tmp_path, "cat", "dog", count=5)
    bad = root / "cat" / "2.png"
    if content is None:
        bad.unlink()
        bad.symlink_to(root / "nowhere.png")
    else:
        bad.write_bytes(bad.read_bytes()[:200] if content == b"cut" else content)
    with refused(f"{bad} cannot be read as a picture") as error:
        resight.data(str(root))
    assert str(error.value).endswith("--skip-unreadable (skip_unreadable=True)")
    assert "0x" not in str(error.value)  # no addresses of objects
    dataset = resight.data(str(root), skip_unreadable=True)
    ids = (*dataset.train.ids, *dataset.test.ids)
    assert len(ids) == 9
    assert "cat/2.png" not in ids
    assert any(note.startswith("1 unreadable pictures skipped: ") for note in dataset.notes)


def test_a_class_without_a_readable_picture_is_refused(tmp_path: Path) -> None:
    root = photos(tmp_path, "cat", "dog")
    (root / "owl").mkdir()
    (root / "owl" / "1.png").write_bytes(b"x")
    with refused("no training image of class 'owl'"):
        resight.data(str(root), skip_unreadable=True)


def test_floating_point_pictures_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.fromarray(np.ones((12, 12), dtype=np.float32)))
    with refused("floating-point numbers without a known range"):
        read_one(path)


def test_no_pictures_or_a_missing_one_is_refused(tmp_path: Path) -> None:
    with refused("no pictures given"):
        read_pictures([], image_size=32, channels=3)
    with refused("(No such file or directory); fix or remove it") as error:
        read_pictures([tmp_path / "gone.png"], image_size=32, channels=3)
    assert "skip" not in str(error.value)  # nothing is skipped that was named
