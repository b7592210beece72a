"""The size of pictures: what becomes of those that are not square, and the size without a wish."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resight
from refusal import refused
from resight.datasets import read_pictures
from resight.datasets.readers.images import fit_arrays
from resight.datasets.readers.picture import fit_square, picture_size
from resight.training.setup import load_dataset
from tiny_runs import tiny_recipe

BICUBIC = Image.Resampling.BICUBIC


def photo(width: int, height: int, seed: int = 0, channels: int = 3) -> Image.Image:
    """A coarse pattern that differs from place to place; no pixel is black."""
    rng = np.random.default_rng(seed)
    shape = (6, 6, channels)[: 3 if channels == 3 else 2]
    coarse = Image.fromarray(rng.integers(60, 256, shape, dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BILINEAR)


def photos(root: Path, sizes: list[tuple[int, int]]) -> Path:
    """Save pictures of these widths and heights, in turn as one of two classes."""
    for i, (width, height) in enumerate(sizes):
        path = root / "photos" / ("cat", "dog")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(width, height, seed=i).save(path)
    return root / "photos"


# --- to a square ------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(60, 24), (24, 60), (25, 60)])
def test_a_picture_becomes_a_square_in_three_ways(size: tuple[int, int], channels: int) -> None:
    image = photo(*size, channels=channels)
    side = 16
    cropped, stretched, padded = (
        np.asarray(fit_square(image, side, resize)) for resize in ("crop", "stretch", "pad")
    )
    short, long = sorted(size)
    gap = (long - short) / 2
    box = (gap, 0, gap + short, short) if size[0] > size[1] else (0, gap, short, gap + short)
    assert np.array_equal(cropped, np.asarray(image.resize((side, side), BICUBIC, box)))
    assert np.array_equal(stretched, np.asarray(image.resize((side, side), BICUBIC)))
    thin = round(side * short / long)  # 6 or 7 of 16
    first = (side - thin) // 2
    upright = padded if size[0] > size[1] else padded.swapaxes(0, 1)
    assert not upright[:first].any()
    assert not upright[first + thin :].any()
    inner = (side, thin) if size[0] > size[1] else (thin, side)
    expected = np.asarray(image.resize(inner, BICUBIC))
    expected = expected if size[0] > size[1] else expected.swapaxes(0, 1)
    assert np.array_equal(upright[first : first + thin], expected)


def test_a_square_is_only_resized() -> None:
    image = photo(40, 40)
    expected = np.asarray(image.resize((12, 12), BICUBIC))
    for resize in ("crop", "stretch", "pad"):
        assert np.array_equal(np.asarray(fit_square(image, 12, resize)), expected)


def test_data_and_prediction_resize_alike(tmp_path: Path) -> None:
    root = photos(tmp_path, [(40, 20), (20, 40), (30, 30), (64, 16)] * 3)
    seen = set()
    for resize, what in (
        ("crop", "center-cropped"),
        ("stretch", "stretched to a square"),
        ("pad", "with black bars"),
    ):
        for _ in range(2):  # decoded, and out of the cache
            data = resight.data(str(root), image_size=16, resize=resize)
            notes = [note for note in data.notes if "resized" in note]
            assert notes == [f"12 of 12 pictures: resized to 16 px, {what} where not square"]
        paths = [root / name for name in data.train.ids]
        again = read_pictures(paths, image_size=16, channels=3, resize=resize)
        assert again.images.equal(data.train.images)
        recipe = resight.with_overrides(
            tiny_recipe(), [f"data.resize={resize}", "data.image_size=16"]
        )
        loaded = load_dataset(recipe, root, offline=True, on_event=lambda event: None)
        assert loaded.train.images.equal(data.train.images)
        seen.add(data.train.images.numpy().tobytes())
    assert len(seen) == 3


@pytest.mark.slow
def test_a_run_predicts_files_as_it_was_trained(tmp_path: Path) -> None:
    root = photos(tmp_path, [(40, 20), (20, 40), (64, 16)] * 6)
    settings = ["data.resize=pad", "data.image_size=16", "data.val_fraction=0.4"]
    recipe = tiny_recipe(*settings, "schedule.epochs=1")
    run = resight.train(recipe, data=str(root), out=tmp_path / "runs")
    of_test = run.predictions
    predicted = resight.predict(run, [root / name for name in of_test.ids])
    for picture, probs in zip(predicted, of_test.probs, strict=True):
        by_class = dict(picture.ranking)
        np.testing.assert_allclose([by_class[name] for name in of_test.classes], probs, atol=1e-5)


def test_an_unknown_way_to_resize_is_refused(tmp_path: Path) -> None:
    with refused('override: data.resize = "squash": must be one of crop, stretch, pad'):
        tiny_recipe("data.resize=squash")
    with refused("resize = 'squash' must be one of crop, stretch, pad"):
        resight.data(str(photos(tmp_path, [(20, 20)] * 4)), resize="squash")  # type: ignore[arg-type]


# --- the size without a wish ------------------------------------------------------------------

OTHER = "set data.image_size to change that"
DETAIL = "set data.image_size={} for more detail; each step then costs 2.25 times as much"


@pytest.mark.parametrize(
    ("sizes", "side", "note"),
    [
        ([(40, 40)] * 4, 40, None),
        ([(512, 512)] * 2, 512, None),
        ([(600, 600)] * 2, 64, (600, DETAIL.format(96))),
        (
            [(100, 80), (64, 90), (300, 96), (30, 30)],
            64,
            (72, OTHER),
        ),
        (
            [(100, 80), (64, 90), (20, 300), (30, 30)],
            32,
            (47, OTHER),
        ),
        ([(70, 60)] * 4, 32, (60, DETAIL.format(48))),
        ([(63, 63), (63, 64)], 32, (63, DETAIL.format(48))),
        ([(32, 32), (200, 200), (200, 200)], 64, (200, DETAIL.format(96))),
    ],
)
def test_the_size_is_argued_by_the_pictures(
    tmp_path: Path, sizes: list[tuple[int, int]], side: int, note: tuple[int, str] | None
) -> None:
    root = photos(tmp_path, sizes * 2)
    data = resight.data(str(root))
    assert data.train.images.shape[1:] == (3, side, side)
    argued = [line for line in data.notes if "image size" in line]
    if note is None:
        assert argued == []
    else:
        median, advice = note
        assert argued == [
            f"no image size was set: the shorter sides of the pictures have a median of {median} "
            f"px, so {side} px were taken; {advice}"
        ]


def test_a_wish_needs_no_argument(tmp_path: Path) -> None:
    root = photos(tmp_path, [(100, 80), (64, 90)] * 4)
    data = resight.data(str(root), image_size=32)
    assert data.train.images.shape[1:] == (3, 32, 32)
    assert not any("image size" in line for line in data.notes)


def test_sizes_are_read_from_the_heads_of_pictures(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    photo(900, 700).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:1000])  # the pixels are gone
    assert picture_size(path) == picture_size(content[:1000]) == (900, 700)


def test_arrays_of_photos_have_the_same_default() -> None:
    images = np.stack([np.asarray(photo(120, 100, seed=i)).transpose(2, 0, 1) for i in range(3)])
    fitted, notes = fit_arrays(images, None)
    assert fitted.shape == (3, 3, 64, 64)
    assert notes[0] == "3 images of 120x100 px were resized to 64 px"
    assert DETAIL.format(96) in notes[1]
    padded, notes = fit_arrays(images, 48, "pad")
    assert padded.shape == (3, 3, 48, 48)
    assert not padded[:, :, :4].any()  # 40 of 48 rows are left
    assert padded[:, :, 4:-4].all()
    assert len(notes) == 1
