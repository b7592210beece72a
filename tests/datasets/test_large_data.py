"""Data sets that stay in a file: parts are views of rows, and nothing is in memory as a whole."""

import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import resight
from refusal import refused
from resight.datasets import Dataset, Split, hold_out, statistics
from resight.datasets.cache import cached
from resight.datasets.ids import Ids
from resight.datasets.image_file import ImageFile, ImageStore, check_disk
from resight.datasets.readers.contents import LoadedData
from resight.errors import ResightError
from resight.training.batches import eval_batches, train_batches
from tiny_runs import tiny_recipe

COUNT, SHAPE = 60, (3, 8, 8)


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (COUNT, *SHAPE), generator=generator, dtype=torch.uint8)


@pytest.fixture
def stored(images: Tensor, tmp_path: Path) -> ImageFile:
    """The images behind a head of 5 bytes."""
    path = tmp_path / "images.raw"
    path.write_bytes(b"head:" + images.numpy().tobytes())
    return ImageFile(path, 5, tuple(images.shape))


def set_limit(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    for module in ("image_file", "cache", "cache_file", "readers.contents"):
        monkeypatch.setattr(f"resight.datasets.{module}.LARGE_BYTES", num_bytes)


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every data set counts as large."""
    set_limit(monkeypatch, 0)


def split_of(pixels: Tensor | ImageFile) -> Split:
    ids = [f"photos/{row}.png" for row in range(COUNT)]
    return Split(pixels, torch.arange(COUNT) % 3, ids)


# --- a file of images -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        slice(None),
        slice(3, 17),
        slice(50, 99),
        slice(5, 5),
        slice(None, None, 7),
        torch.tensor([4, 4, 0, 59, 17]),
        torch.tensor([7, 8, 9]),
        torch.tensor([-1, -60]),
        torch.zeros(0, dtype=torch.int64),
    ],
    ids=str,
)
def test_rows_of_a_file_are_those_of_a_tensor(
    stored: ImageFile, images: Tensor, rows: slice | Tensor
) -> None:
    assert torch.equal(stored.read(rows), images[rows])


@pytest.mark.parametrize("rows", [[60], [-61], [0, 60]])
def test_rows_that_are_not_there_are_refused(stored: ImageFile, rows: list[int]) -> None:
    with pytest.raises(IndexError):
        stored.read(torch.tensor(rows))


def test_without_reading_at_a_position_the_rows_are_the_same(
    stored: ImageFile, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "preadv", raising=False)
    rows = torch.tensor([9, 1, 30])
    assert torch.equal(stored.read(rows), images[rows])


def test_a_file_may_be_removed_and_pickled_but_not_cut(stored: ImageFile, images: Tensor) -> None:
    again = pickle.loads(pickle.dumps(stored))
    assert torch.equal(again.read(slice(2)), images[:2])
    with stored.path.open("r+b") as file:
        file.truncate(300)
    with pytest.raises(ResightError, match="was cut off while it was in use"):
        stored.read(slice(None))
    if os.name != "nt":
        stored.path.unlink()
        assert torch.equal(stored.read(slice(1)), images[:1])


def test_a_temporary_file_is_removed_with_its_images(
    images: Tensor, cache: Path, all_large: None
) -> None:
    store = ImageStore(COUNT, SHAPE)
    for image in images[:40].numpy():
        store.add(image)
    whole = store.finish()
    assert isinstance(whole, ImageFile)
    assert torch.equal(whole.read(slice(None)), images[:40])
    assert len([*(cache / "decoded").iterdir()]) == 1
    del whole, store
    assert [*(cache / "decoded").iterdir()] == []


def test_a_full_disk_is_told_before_the_work(tmp_path: Path) -> None:
    with refused("100 images need 1,073,741,824.0 GiB in"):
        check_disk(tmp_path, 2**60, "100 images")


# --- a split is a view ----------------------------------------------------------------------


def test_a_part_shares_the_pixels(images: Tensor) -> None:
    split = split_of(images)
    train, val = hold_out(split, 0.3, seed=3)
    part = train.select(torch.tensor([5, 2, 2]))
    assert isinstance(part.pixels, Tensor)
    assert part.pixels.data_ptr() == images.data_ptr() == split.images.data_ptr()
    assert train.ids.text is val.ids.text is split.ids.text


@pytest.mark.parametrize("seed", range(5))
def test_a_view_equals_a_copy(stored: ImageFile, images: Tensor, seed: int) -> None:
    """Any parts of parts have the images of plain indexing, in gray and in color."""
    rng = random.Random(seed)
    views, rows = [split_of(stored), split_of(images)], torch.arange(COUNT)
    for _ in range(5):
        some = torch.tensor(rng.choices(range(len(rows)), k=rng.randint(1, 50)))
        rows, views = rows[some], [view.select(some) for view in views]
    plain = Split(images[rows], rows % 3, [f"photos/{row}.png" for row in rows.tolist()])
    for view in views:
        assert view.ids == plain.ids
        assert torch.equal(view.labels, plain.labels)
        gray, again = view.with_channels(1), view.with_channels(1).with_channels(3)
        assert torch.equal(view.images, plain.images)
        assert torch.equal(gray.images, plain.with_channels(1).images)
        assert torch.equal(again.images, gray.images.expand(-1, 3, -1, -1))
        assert torch.equal(torch.cat([*gray.parts()]), gray.images)
        assert gray.shape == gray.images.shape == (len(rows), 1, 8, 8)


def test_replaced_images_lose_the_rows(images: Tensor) -> None:
    part = split_of(images).select(torch.tensor([3, 1]))
    dark = replace(part, images=part.images // 2)
    assert torch.equal(dark.images, images[[3, 1]] // 2)
    assert torch.equal(replace(part, labels=part.labels + 1).images, images[[3, 1]])
    assert dark.ids == ("photos/3.png", "photos/1.png")


def test_images_that_stay_on_the_host_are_copied_when_they_are_asked_for(images: Tensor) -> None:
    split = replace(split_of(images), device=torch.device("meta"))
    assert not split.is_on_device
    assert split.images_at(slice(2)).device.type == "meta"
    assert split.to(torch.device("cpu")).images.data_ptr() == images.data_ptr()


def test_batches_of_a_file_are_those_of_a_tensor(stored: ImageFile, images: Tensor) -> None:
    recipe = resight.load_recipe("base")
    sides = []
    for pixels in (stored, images):
        split = hold_out(split_of(pixels), 0.2, seed=0)[0]
        stats = statistics(split)
        settings = {"batch_size": 7, "seed": 5, "epoch": 2, "first_step": 1}
        batches = [*train_batches(split, recipe.augment, stats, **settings)]
        sides.append([*batches, *eval_batches(split, stats, batch_size=9)])
    for one, two in zip(*sides, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_an_epoch_can_be_left(stored: ImageFile) -> None:
    split = split_of(stored)
    batches = eval_batches(split, statistics(split), batch_size=4)
    next(batches)
    assert isinstance(batches, Iterator)
    batches.close()  # type: ignore[attr-defined]


# --- ids ------------------------------------------------------------------------------------

NAMES = ("a", "", "photos/caf\u00e9.png", "a\0b", "\udcff.png", "\ud83d", "\U0001f600")


def test_ids_are_the_sequence_of_their_strings() -> None:
    ids = Ids.of(NAMES)
    assert ids == NAMES
    assert ids != NAMES[:-1]
    assert ids != (*NAMES[:-1], "b")
    assert tuple(ids) == NAMES
    assert ids + ids == ids + NAMES == NAMES + ids == 2 * NAMES
    assert [ids[row] for row in range(-7, 7)] == [*NAMES, *NAMES]
    assert ids[1:6:2] == NAMES[1:6:2]
    assert ids[np.int64(2)] == NAMES[2]
    assert ids.index("\ud83d") == 5
    assert "b" not in ids
    assert hash(ids) == hash(NAMES)
    assert pickle.loads(pickle.dumps(ids)) == NAMES
    part = ids.select(torch.tensor([6, 6, 0]))
    assert part == (NAMES[6], NAMES[6], "a")
    assert part[1:] == (NAMES[6], "a")
    text, ends = part.packed()
    assert Ids(text, ends, None) == part
    assert Ids.of(()) == ()
    with pytest.raises(IndexError):
        ids[7]


# --- through the cache ----------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of 30 pictures of one size, half of them gray."""
    rng = np.random.default_rng(0)
    for row in range(COUNT):
        folder = tmp_path / "photos" / ("cat" if row % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        shape = (12, 12, 3) if row % 4 else (12, 12)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{row}.png")
    return tmp_path / "photos"


def same(one: Dataset, two: Dataset) -> bool:
    pairs = zip(one.splits.values(), two.splits.values(), strict=True)
    return (one.classes, one.notes) == (two.classes, two.notes) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.ids == b.ids
        for a, b in pairs
    )


def test_a_large_data_set_is_that_of_memory(
    pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded into a file, stored, and read back, it is the same, and so are its statistics."""
    small = resight.data(pictures)
    assert isinstance(small.train.pixels, Tensor)
    for entry in (cache / "decoded").iterdir():
        entry.unlink()
    set_limit(monkeypatch, 0)
    stages: list[tuple[str, int, int | None]] = []
    made = resight.data(pictures, on_progress=lambda *stage: stages.append(stage))
    assert ("write to the cache", COUNT, COUNT) in stages
    read = resight.data(pictures)
    for large in (made, read):
        assert isinstance(large.train.pixels, ImageFile)
        assert large.train.pixels.path.parent == cache / "decoded"
        assert same(large, small)
        assert large.fingerprint == small.fingerprint
        assert statistics(large.train) == statistics(small.train)
    assert len([*(cache / "decoded").iterdir()]) == 1  # the temporary file is gone


def test_all_gray_pictures_have_one_channel(tmp_path: Path, cache: Path, all_large: None) -> None:
    for row in range(8):
        folder = tmp_path / "gray" / "ab"[row % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 9), row).save(folder / f"{row}.png")
    dataset = resight.data(tmp_path / "gray")
    images = torch.cat([dataset.train.images, dataset.test.images])
    assert images.shape == (8, 1, 9, 9)
    assert sorted(images[:, 0, 0, 0].tolist()) == [*range(8)]


def test_what_was_computed_is_remembered_for_these_rows_alone(
    images: Tensor, cache: Path, all_large: None
) -> None:
    split = split_of(images)
    train = cached("pets", f"{1:032x}", lambda: LoadedData(("a", "b", "c"), split)).train
    assert train is not None
    before = statistics(train)
    assert before == statistics(split)
    memos = {path.name: path.read_text() for path in (cache / "digests").iterdir()}
    assert statistics(train) == before
    assert {path.name: path.read_text() for path in (cache / "digests").iterdir()} == memos
    part = torch.arange(40)
    assert statistics(train.select(part)) == statistics(split.select(part))
    assert statistics(train.with_channels(1)) == statistics(split.with_channels(1))


def test_a_large_entry_that_changed_is_noticed(
    images: Tensor, cache: Path, all_large: None
) -> None:
    make: Callable[[], LoadedData] = lambda: LoadedData(("a", "b", "c"), split_of(images))  # noqa: E731
    assert cached("pets", f"{1:032x}", make).notes == ()
    path = cache / "decoded" / f"{1:032x}.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    loaded = cached("pets", f"{1:032x}", make)
    assert loaded.notes == ("the copy in the cache was damaged, so it was made again",)
    assert loaded.train is not None
    assert torch.equal(loaded.train.images, images)


def test_a_recipe_trains_to_the_same_weights_from_a_file(
    pictures: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe("schedule.epochs=1", "training.batch_size=8")
    weights = []
    for name, limit in (("memory", 2**28), ("file", 0)):
        set_limit(monkeypatch, limit)
        run = resight.train(recipe, data=pictures, out=tmp_path, name=name)
        weights.append((run.folder / "best.safetensors").read_bytes())
    assert weights[0] == weights[1]


MEMORY = """
import re, sys
import torch, resight
from resight.datasets import Split, hold_out, statistics
from resight.datasets.image_file import ImageFile
from resight.training.batches import eval_batches, train_batches
from pathlib import Path

peak = lambda: 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
count, path = 40_000, Path(sys.argv[1])
pixels = ImageFile(path, 0, (count, 3, 64, 64))
split = Split(pixels, torch.arange(count) % 10, map(str, range(count)))
statistics(split.select(torch.arange(100)))
before = peak()
train, val = hold_out(split, 0.1, 0)
stats, augment = statistics(train), resight.load_recipe("swift").augment
for part in train_batches(train, augment, stats, batch_size=64, seed=0, epoch=0):
    pass
for part in eval_batches(val, stats, batch_size=64):
    pass
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has VmHWM")
def test_the_working_set_stays_small(tmp_path: Path) -> None:
    """An epoch of 490 MB of images takes a few batches of memory."""
    path = tmp_path / "images.raw"
    with path.open("wb") as file:
        file.truncate(40_000 * 3 * 64 * 64)
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 200e6
