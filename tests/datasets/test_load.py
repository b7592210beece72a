"""Splits, statistics, the bundled digits, names and paths of sources, and the cache."""

import csv
import gzip
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import resight
import resight.datasets
from refusal import refused
from resight.datasets import Split, hold_out, statistics
from resight.datasets import cache as cache_module
from resight.files import temporary_path

DAMAGED = "the copy in the cache was damaged, so it was made again"


def random_split(labels: list[int], channels: int = 3) -> Split:
    generator = torch.Generator().manual_seed(0)
    shape = (len(labels), channels, 8, 8)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Split(images, torch.tensor(labels), tuple(f"image-{i}" for i in range(len(labels))))


def write_photos(root: Path, count: int = 5) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (10, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


# --- splits ---------------------------------------------------------------------------------


def test_select_keeps_images_labels_and_ids_together() -> None:
    split = random_split([3, 1, 2])
    part = split.select(torch.tensor([2, 0]))
    assert torch.equal(part.images, split.images[[2, 0]])
    assert part.labels.tolist() == [2, 3]
    assert part.ids == ("image-2", "image-0")
    assert len(part) == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_agree_with_numpy(channels: int) -> None:
    split = random_split([0] * 50, channels)
    pixels = split.images.numpy().astype(np.float64) / 255
    stats = statistics(split)
    assert stats.mean == pytest.approx(pixels.mean(axis=(0, 2, 3)), rel=1e-12)
    assert stats.std == pytest.approx(pixels.std(axis=(0, 2, 3)), rel=1e-12)


def test_statistics_of_a_constant_channel_can_be_divided_by() -> None:
    split = Split(torch.full((4, 1, 8, 8), 51, dtype=torch.uint8), torch.zeros(4).long(), ("",) * 4)
    assert statistics(split).mean == pytest.approx((0.2,), rel=1e-12)
    assert statistics(split).std == (1.0,)


def test_hold_out_is_disjoint_complete_and_stratified() -> None:
    split = random_split([0] * 100 + [1] * 50 + [2] * 10)
    train, val = hold_out(split, 0.1, seed=3)
    assert set(train.ids) | set(val.ids) == set(split.ids)
    assert not set(train.ids) & set(val.ids)
    assert val.labels.bincount().tolist() == [10, 5, 1]
    for part in (train, val):
        rows = [split.ids.index(name) for name in part.ids]
        assert rows == sorted(rows)
        assert torch.equal(part.images, split.images[rows])


def test_hold_out_is_decided_by_the_seed() -> None:
    split = random_split([0, 1] * 50)
    ids = hold_out(split, 0.2, seed=1)[1].ids
    assert ids == hold_out(split, 0.2, seed=1)[1].ids
    assert ids != hold_out(split, 0.2, seed=2)[1].ids


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_hold_out_leaves_no_class_without_training_images(fraction: float) -> None:
    split = random_split([0] * 30 + [1, 1] + [2])
    train, val = hold_out(split, fraction, seed=0)
    assert train.labels.bincount(minlength=3).min() >= 1
    assert val.labels.bincount(minlength=3).tolist()[1:] == [1, 0]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_hold_out_refuses_a_bad_fraction(fraction: float) -> None:
    with refused("between 0 and 1"):
        hold_out(random_split([0, 1]), fraction, seed=0)


def test_hold_out_refuses_classes_of_one_image() -> None:
    with refused("no class has two images"):
        hold_out(random_split([0, 1, 2]), 0.5, seed=0)


# --- the bundled digits ---------------------------------------------------------------------


def digit_rows() -> list[list[int]]:
    folder = Path(resight.datasets.__file__).parent / "readers" / "digits"
    with gzip.open(folder / "digits.csv.gz", "rt") as file:
        return [[int(value) for value in row] for row in csv.reader(file)]


def test_digits_are_the_published_ones() -> None:
    digits = resight.data("digits", image_size=8)  # not enlarged
    rows = digit_rows()
    assert len(digits.train) + len(digits.test) == len(rows) == 1797
    for split in (digits.train, digits.test):
        assert split.images.dtype == torch.uint8
        for image, label, name in zip(split.images, split.labels, split.ids, strict=True):
            row = rows[int(name.removeprefix("digits/row-"))]
            assert label == row[64]
            assert image.flatten().tolist() == [round(value * 255 / 16) for value in row[:64]]


def test_digits_are_enlarged_smoothly() -> None:
    train = resight.data("digits").train
    assert train.images.shape == (1442, 1, 32, 32)
    small = np.array(digit_rows()[7][:64], dtype=np.float64).reshape(8, 8)
    picture = Image.fromarray(np.rint(small * 255 / 16).astype(np.uint8))
    expected = np.asarray(picture.resize((32, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(train.images[train.ids.index("digits/row-0007"), 0].numpy(), expected)


def test_a_fifth_of_each_digit_is_for_testing() -> None:
    digits = resight.data("digits")
    num_train, num_test = (split.labels.bincount() for split in (digits.train, digits.test))
    share = num_test / (num_train + num_test)
    assert share.min() > 0.19
    assert share.max() <= 0.2
    assert digits.classes == tuple("0123456789")
    assert digits.notes == ()
    assert digits.fingerprint == resight.data("digits").fingerprint
    assert digits.fingerprint != resight.data("digits", image_size=16).fingerprint


# --- names and paths of sources ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("cifar01", 'did you mean "cifar10"?'),
        ("CIFAR-100", 'did you mean "cifar100"?'),
        ("zebra", "built in are digits, cifar10, cifar100"),
        ("", "built in are digits"),
    ],
)
def test_an_unknown_name_gets_a_hint(source: str, expected: str) -> None:
    with refused(expected):
        resight.data(source)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("~nobody-of-this-name/photos", "Could not determine home directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(source: str, reason: str) -> None:
    with refused(f"cannot be read: {reason}"):
        resight.data(source)


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with refused("is neither a built-in name nor a path that exists"):
        resight.data(str(tmp_path / "file" / "photos"))


def test_a_mistyped_path_gets_a_hint(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with refused('did you mean "photos"?'):
        resight.data(str(tmp_path / "fotos"))
    with refused("built in are"):
        resight.data(str(tmp_path / "zebra"))


@pytest.mark.parametrize("image_size", [7, 513, 0])
def test_a_bad_image_size_is_refused(image_size: int) -> None:
    with refused("must be 8 to 512 px"):
        resight.data("digits", image_size=image_size)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with refused("is no data set"):
        resight.data(str(tmp_path / "notes.txt"))


# --- the cache ------------------------------------------------------------------------------


def fail(stage: str, done: int, total: int | None) -> None:
    """An `on_progress` for data that must come from the cache."""
    pytest.fail(f"{stage}: {done} of {total}")


def assert_same(a: resight.datasets.Dataset, b: resight.datasets.Dataset) -> None:
    assert (a.classes, a.notes, a.fingerprint) == (b.classes, b.notes, b.fingerprint)
    for x, y in ((a.train, b.train), (a.test, b.test)):
        assert torch.equal(x.images, y.images)
        assert torch.equal(x.labels, y.labels)
        assert x.ids == y.ids


def test_pictures_are_decoded_once(tmp_path: Path, cache: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    calls: list[tuple[str, int, int | None]] = []
    dataset = resight.data(str(photos), on_progress=lambda *call: calls.append(call))
    assert calls == [("decode pictures", 20, 20)]
    assert_same(dataset, resight.data(str(photos), on_progress=fail))
    shutil.copytree(photos, tmp_path / "copy")
    copy = resight.data(str(tmp_path / "copy"), on_progress=fail)
    assert_same(dataset, copy)
    assert copy.name == "copy"
    assert [p.suffix for p in (cache / "decoded").iterdir()] == [".safetensors"]


def test_a_change_of_size_or_content_is_decoded_anew(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    dataset = resight.data(str(photos))
    assert resight.data(str(photos), image_size=16).train.images.shape[-1] == 16
    Image.new("RGB", (10, 10), "red").save(photos / "train" / "cat" / "0.png")
    changed = resight.data(str(photos))
    assert changed.train.images[0, :, 0, 0].tolist() == [255, 0, 0]
    assert changed.fingerprint != dataset.fingerprint


def test_a_remembered_digest_is_forgotten_after_a_change(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "MIN_AGE_NS", -(10**12))  # trust the times of new files
    photos = write_photos(tmp_path / "photos")
    dataset = resight.data(str(photos))
    assert len(list((cache / "digests").iterdir())) == 1
    assert_same(dataset, resight.data(str(photos)))
    file = photos / "train" / "cat" / "0.png"
    content = file.read_bytes()
    file.write_bytes((photos / "train" / "cat" / "1.png").read_bytes())
    assert torch.equal(resight.data(str(photos)).train.images[0], dataset.train.images[1])
    file.write_bytes(content)
    assert_same(dataset, resight.data(str(photos)))


def test_young_files_are_not_remembered(tmp_path: Path, cache: Path) -> None:
    resight.data(str(write_photos(tmp_path / "photos")))
    assert not (cache / "digests").exists()


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "other tensors"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, cache: Path, damage: str) -> None:
    photos = write_photos(tmp_path / "photos")
    dataset = resight.data(str(photos))
    (entry,) = (cache / "decoded").iterdir()
    whole = entry.read_bytes()
    if damage == "other tensors":
        save_file({"train.images": torch.zeros(3)}, entry, metadata={"resight": "{}"})
    else:
        entry.write_bytes({"empty": b"", "cut": whole[:-100], "garbage": b"x" * 5000}[damage])
    again = resight.data(str(photos))
    assert again.notes == (
        *dataset.notes,
        "the copy in the cache was damaged, so it was made again",
    )
    assert_same(dataset, replace(again, notes=dataset.notes))
    assert_same(dataset, resight.data(str(photos), on_progress=fail))


@pytest.mark.parametrize("part", ["train.images", "test.labels", "train.ids", "classes"])
def test_an_entry_with_other_content_is_made_again(tmp_path: Path, cache: Path, part: str) -> None:
    photos = write_photos(tmp_path / "photos")
    dataset = resight.data(str(photos))
    (entry,) = (cache / "decoded").iterdir()
    content = bytearray(entry.read_bytes())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    place = 8 + length + header[part]["data_offsets"][0] if part in header else content.find(b"cat")
    content[place] ^= 1  # another label that is valid, another pixel, another name
    entry.write_bytes(content)
    again = resight.data(str(photos))
    assert again.notes == (
        *dataset.notes,
        "the copy in the cache was damaged, so it was made again",
    )
    assert_same(dataset, replace(again, notes=dataset.notes))
    assert_same(dataset, resight.data(str(photos), on_progress=fail))


def test_an_entry_may_be_cut_while_its_data_set_is_in_use(tmp_path: Path, cache: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    dataset = resight.data(str(photos))
    from_cache = resight.data(str(photos), on_progress=fail)
    (entry,) = (cache / "decoded").iterdir()
    os.truncate(entry, 100)  # to read a mapped file would now end the process
    assert_same(dataset, from_cache)


def test_what_a_killed_process_left_in_the_cache_is_removed(tmp_path: Path, cache: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    resight.data(str(photos))
    (entry,) = (cache / "decoded").iterdir()
    mine = temporary_path(entry)
    dead = mine.with_name(mine.name.replace(str(os.getpid()), "999999999"))
    for part in (mine, dead):
        part.write_bytes(b"x")
    resight.data(str(photos), on_progress=fail)
    assert sorted((cache / "decoded").iterdir()) == sorted((entry, mine))


def test_names_with_control_characters_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    names = ("\x1b[31mred", "a\rb\nc")
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (10, 10), "red").save(root / name / f"{i}\x1b\n{i}.png")
    dataset = resight.data(str(root))
    assert dataset.classes == names
    ids = sorted((*dataset.train.ids, *dataset.test.ids))
    assert ids == [f"{name}/{i}\x1b\n{i}.png" for name in names for i in range(2)]
    assert_same(dataset, resight.data(str(root), on_progress=fail))


def test_without_a_home_the_data_set_is_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESIGHT_CACHE", "~nobody-of-this-name/cache")
    note = resight.data(str(write_photos(tmp_path / "photos"))).notes[-1]
    assert note.startswith("not cached: the cache ~nobody-of-this-name/cache is in no known home")
    with refused("set RESIGHT_CACHE to a folder that can be written"):
        resight.data("cifar10", offline=True)


def test_a_cache_that_cannot_be_written_is_only_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "file" / "cache"))
    dataset = resight.data(str(write_photos(tmp_path / "photos")))
    assert len(dataset.train) == 10
    note = dataset.notes[-1]
    assert "not cached" in note
    assert "RESIGHT_CACHE" in note


def test_changing_loaded_images_leaves_the_cache_alone(tmp_path: Path) -> None:
    photos = str(write_photos(tmp_path / "photos"))
    expected = resight.data(photos).train.images.clone()
    resight.data(photos).train.images.zero_()
    assert torch.equal(resight.data(photos).train.images, expected)


def test_the_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_module.cache_folder() == tmp_path / "xdg" / "resight"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_module.cache_folder() == tmp_path / "home" / ".cache" / "resight"
