"""Pictures and heat maps packed for a page: what is read back is what was put in."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from resight.errors import ResightError, UsageError
from resight.records import Predictions
from resight.runs import gallery
from resight.runs.gallery import (
    Gallery,
    GalleryMaps,
    GalleryNeighbors,
    Sheet,
    area_resize,
    atlas,
    read_gallery,
    write,
    write_gallery,
)

N, SIDE, K = 60, 16, 3


def make_predictions(n: int = N) -> Predictions:
    """Every fifth image is wrong."""
    labels = np.arange(n) % K
    preds = np.where(np.arange(n) % 5 == 0, (labels + 1) % K, labels)
    logits = np.full((n, K), -1.0, dtype=np.float32)
    logits[np.arange(n), preds] = 2.0
    return Predictions(tuple(f"a/{i:05d}.png" for i in range(n)), logits, labels, ("x", "y", "z"))


def make_pictures(n: int = N, side: int = SIDE, channels: int = 3) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, side, side, channels), dtype=np.uint8)


def make_maps(rows: int, layer: str = "block1", size: tuple[int, int] = (4, 5)) -> GalleryMaps:
    rng = np.random.default_rng(1)
    pred, true = rng.normal(size=(2, rows, *size)).astype(np.float32)
    return GalleryMaps(layer, pred, true)


def tile(folder: Path, sheet: Sheet, index: int) -> NDArray[np.uint8]:
    """What the page cuts out of an atlas."""
    high, wide = sheet.size
    top, left = index // sheet.columns * high, index % sheet.columns * wide
    image = Image.open(folder / "gallery" / sheet.file)
    return np.asarray(image.convert("RGB"))[top : top + high, left : left + wide]


def read(folder: Path) -> Gallery:
    content = read_gallery(folder)
    assert content is not None
    return content


def test_every_picture_is_where_the_gallery_says(tmp_path: Path) -> None:
    pictures, predictions = make_pictures(), make_predictions()
    write_gallery(tmp_path, pictures, predictions, rows=np.array([7, 5]), maps=[], method="m")
    packed = read(tmp_path)
    assert packed.images == N
    assert packed.notes == ()
    pictured = []
    for sheet, rows in packed.pictures:
        assert list(rows) == sorted(rows)
        for index, row in enumerate(rows):
            # so few pictures fit without loss
            np.testing.assert_array_equal(tile(tmp_path, sheet, index), pictures[row])
        pictured += rows
    assert sorted(pictured) == list(range(N))


def test_gray_pictures_and_large_ones(tmp_path: Path) -> None:
    pictures = make_pictures(channels=1)
    write_gallery(tmp_path, pictures, make_predictions(), rows=np.array([]), maps=[], method="m")
    (sheet, rows), *_ = read(tmp_path).pictures
    np.testing.assert_array_equal(tile(tmp_path, sheet, 0), np.repeat(pictures[rows[0]], 3, axis=2))

    large = np.full((N, 256, 128, 3), 90, dtype=np.uint8)
    write_gallery(tmp_path, large, make_predictions(), rows=np.array([]), maps=[], method="m")
    (sheet, _), *_ = read(tmp_path).pictures
    assert sheet.size == (64, 32)
    np.testing.assert_allclose(tile(tmp_path, sheet, 3), 90, atol=2)


def test_maps_share_a_scale_and_keep_the_sign_out(tmp_path: Path) -> None:
    predictions = make_predictions()
    rows = np.array([10, 3, 0])  # 10 and 0 are wrong, 3 is right
    maps = make_maps(3)
    maps.pred[2], maps.true[2] = -1, -2  # row 0: nothing speaks for either
    write_gallery(tmp_path, make_pictures(), predictions, rows=rows, maps=[maps], method="grad-cam")
    packed = read(tmp_path)
    assert packed.method == "grad-cam"
    assert packed.map_rows == (0, 3, 10)
    assert packed.true_rows == (0, 10)
    ((sheet, layer, whole),) = packed.maps
    assert layer == "block1"
    assert sheet.size == whole == (4, 5)
    top = max(maps.pred[0].max(), maps.true[0].max())
    expected = {
        0: np.zeros((4, 5)),  # row 0
        1: np.rint(15 * np.maximum(maps.pred[1], 0) / max(maps.pred[1].max(), maps.true[1].max())),
        2: np.rint(15 * np.maximum(maps.pred[0], 0) / top),  # row 10
        3: np.zeros((4, 5)),  # the true class: of row 0
        4: np.rint(15 * np.maximum(maps.true[0], 0) / top),  # and of row 10; row 3 needs none
    }
    for index, levels in expected.items():
        np.testing.assert_array_equal(tile(tmp_path, sheet, index)[..., 0], 17 * levels)
    assert max(expected[2].max(), expected[4].max()) == 15


def test_it_is_deterministic_and_leaves_nothing_old(tmp_path: Path) -> None:
    rows = np.arange(6)
    for method in ("one", "two", "two"):
        maps = [make_maps(6)]
        write_gallery(
            tmp_path, make_pictures(), make_predictions(), rows=rows, maps=maps, method=method
        )
        files = {f.name: f.read_bytes() for f in (tmp_path / "gallery").iterdir()}
        assert len(files) == 5
        if method == "one":
            first = files
    assert {k: v for k, v in files.items() if k != "gallery.json"} == {
        k: v for k, v in first.items() if k != "gallery.json"
    }
    write_gallery(tmp_path, make_pictures(12), make_predictions(12), rows=rows, maps=[], method="m")
    named = {sheet.file for sheet, _ in read(tmp_path).pictures}
    assert {f.name for f in (tmp_path / "gallery").iterdir()} == {*named, "gallery.json"}


@pytest.mark.slow
def test_what_does_not_fit_is_left_out_evenly_but_no_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_room", lambda predictions: 30_000)
    n = 600
    predictions = make_predictions(n)
    maps = [make_maps(300, size=(24, 24))]
    rows = np.arange(300)
    write_gallery(tmp_path, make_pictures(n), predictions, rows=rows, maps=maps, method="m")
    packed = read(tmp_path)
    assert "of 300 images" in packed.notes[0]
    assert "of 600 images" in packed.notes[1]
    assert 0 < len(packed.map_rows) < 300
    assert packed.map_rows == tuple(range(len(packed.map_rows)))  # the first are the most wanted
    size = sum(f.stat().st_size for f in (tmp_path / "gallery").glob("*-*"))
    assert size <= 30_000
    kept = [row for _, rows in packed.pictures for row in rows]
    assert len(kept) == len(set(kept)) < n
    assert set(range(0, n, 5)) <= set(kept)  # every mistake
    assert max(np.diff(sorted(kept))) <= 5


def test_a_large_map_is_averaged_over_areas(tmp_path: Path) -> None:
    size = (48, 64)
    maps = make_maps(2, size=size)
    maps.true[:] = maps.pred  # rows 1 and 2 are right
    write_gallery(
        tmp_path,
        make_pictures(),
        make_predictions(),
        rows=np.array([1, 2]),
        maps=[maps],
        method="m",
    )
    ((sheet, _, whole),) = read(tmp_path).maps
    assert whole == size
    assert sheet.size == (24, 32)
    positive = np.maximum(maps.pred, 0)
    means = positive.reshape(2, 24, 2, 32, 2).mean(axis=(2, 4))
    for index in range(2):
        levels = np.rint(15 * means[index] / means[index].max())
        np.testing.assert_array_equal(tile(tmp_path, sheet, index)[..., 0], 17 * levels)


def test_areas_that_cut_through_cells() -> None:
    maps = make_maps(3, size=(7, 5)).pred
    small = area_resize(maps, 3)
    assert small.shape == (3, 3, 2)
    # the same with every cell cut into so many that the areas end between them
    fine = maps.repeat(3, axis=1).repeat(2, axis=2)  # (3, 21, 10)
    expected = fine.reshape(3, 3, 7, 2, 5).mean(axis=(2, 4))
    np.testing.assert_allclose(small, expected, atol=1e-6)
    assert area_resize(maps, 7) is maps


def test_maps_that_are_means_already_keep_the_size_they_had(tmp_path: Path) -> None:
    maps = replace(make_maps(1), whole=(112, 140))
    write_gallery(
        tmp_path, make_pictures(), make_predictions(), rows=np.array([1]), maps=[maps], method="m"
    )
    ((sheet, _, whole),) = read(tmp_path).maps
    assert (sheet.size, whole) == ((4, 5), (112, 140))


def test_maps_are_made_coarser_before_any_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_room", lambda predictions: 30_000)
    predictions, rows, size = make_predictions(), np.arange(40), (40, 40)
    write_gallery(
        tmp_path,
        make_pictures(),
        predictions,
        rows=rows,
        maps=[make_maps(40, size=size), make_maps(40, "block2", (6, 6))],
        method="m",
    )
    packed = read(tmp_path)
    assert packed.map_rows == tuple(range(40))
    assert [sheet.size for sheet, *_ in packed.maps] == [(16, 16), (6, 6)]
    assert not any("heat maps" in note for note in packed.notes)


def test_mistakes_keep_a_better_quality() -> None:
    gray = make_pictures(40, 8, 1).repeat(4, axis=1).repeat(4, axis=2)
    pictures = np.broadcast_to(gray, (40, 32, 32, 3))
    groups = [np.arange(10), np.arange(10, 20), np.arange(20, 40)]

    def errors(room: int) -> list[float]:
        packed = atlas.picture_atlases(pictures, groups[0], groups[1:], room)
        result = []
        for (rows, kept), expected in zip(packed, groups, strict=True):
            assert rows.tolist() == expected.tolist()
            image = np.asarray(Image.open(io.BytesIO(kept.content)), dtype=int)
            result.append(np.abs(image - atlas.side_by_side(pictures[rows])[1]).mean())
        return result

    assert errors(200_000) == [0, 0, 0]
    of_mistakes, *others = errors(12_000)
    assert 0 < of_mistakes < min(others)


def test_no_atlas_is_larger_than_a_webp_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atlas, "_MAX_PX", 179, raising=False)
    n = 400
    pictures = make_pictures(n)[:, :, :8]  # 16 x 8: 11 lines of 22
    write_gallery(
        tmp_path, pictures, make_predictions(n), rows=np.array([1]), maps=[make_maps(1)], method="m"
    )
    packed = read(tmp_path)
    mistakes, mapped, rest = (set(rows) for _, rows in packed.pictures)
    assert mistakes == set(range(0, n, 5))
    assert mapped == {1}
    assert len(rest) == 11 * 22
    assert max(np.diff(sorted(mistakes | rest))) <= 3  # evenly
    assert packed.notes == (f"pictures of {81 + 242} of 400 images are kept, for size",)
    for sheet, rows in packed.pictures:
        with Image.open(tmp_path / "gallery" / sheet.file) as image:
            assert max(image.size) <= 179
        last = len(rows) - 1
        assert np.abs(tile(tmp_path, sheet, last) - pictures[rows[last]].astype(int)).mean() < 30


@pytest.mark.parametrize("size", [(1, 64), (64, 1), (64, 32), (64, 64), (9, 7)])
def test_so_many_tiles_fit_and_no_more(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atlas, "_MAX_PX", 640)
    most = atlas.max_tiles(size)
    for n in (1, most // 2, most):
        columns, image = atlas.side_by_side(np.ones((n, *size), dtype=np.uint8))
        assert max(image.shape) <= 640
        assert image.sum() == n * size[0] * size[1]
        assert image.shape[1] == columns * size[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pictures": make_pictures().astype(float)}, "takes uint8"),
        ({"pictures": make_pictures(59)}, "59 pictures but 60 predictions"),
        ({"rows": np.array([1, 1])}, "different ones of 0 to 59"),
        ({"rows": np.array([1, 60])}, "different ones of 0 to 59"),
        ({"maps": [make_maps(3)]}, "both must be (2, h, w)"),
        (
            {"maps": [GalleryMaps("l", np.full((2, 3, 3), np.nan), np.zeros((2, 3, 3)))]},
            "at l is not finite",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    given = {"pictures": make_pictures(), "rows": np.array([1, 2]), "maps": [make_maps(2)]} | change
    pictures = given.pop("pictures")
    with pytest.raises(UsageError) as error:
        write_gallery(tmp_path, pictures, make_predictions(), method="m", **given)  # type: ignore[arg-type]
    assert words in str(error.value)
    assert not (tmp_path / "gallery").exists()


def test_a_damaged_gallery_is_an_error_in_words(tmp_path: Path) -> None:
    assert read_gallery(tmp_path) is None
    write_gallery(
        tmp_path, make_pictures(), make_predictions(), rows=np.array([]), maps=[], method="m"
    )
    file = tmp_path / "gallery" / "gallery.json"
    content = json.loads(file.read_text())
    outside = {"file": "../secret.webp", "columns": 1, "size": [1, 1]}
    (tmp_path / "secret.webp").write_bytes(b"")
    for change, words in [
        ({"format": 99}, "another version"),
        ({"images": None}, "is damaged"),
        ({"map_rows": [N]}, "beyond its 60 images"),
        ({"map_rows": [2, 1]}, "not in the order of the images"),
        ({"pictures": content["pictures"] * 2}, "not in the order of the images"),
        ({"true_rows": [0]}, "for the true class alone"),
        ({"pictures": [[outside, [0]]]}, "has no ../secret.webp"),
    ]:
        file.write_text(json.dumps(content | change))
        with pytest.raises(ResightError, match=words):
            read_gallery(tmp_path)
    file.write_text("{")
    with pytest.raises(ResightError, match="is damaged"):
        read_gallery(tmp_path)


def test_what_ids_begin_with() -> None:
    assert gallery.shared_start(["data/cat/1.png", "data/cow/2.png"]) == "data/c"
    assert gallery.shared_start(["x"]) == "x"
    assert gallery.shared_start(["x", "y"]) == gallery.shared_start([]) == ""


# --- photos, which have more pixels than the network saw ------------------------------------


def photo(row: int, px: int) -> NDArray[np.uint8]:
    """A photo of its own color, with a soft edge in it; the same at every size."""
    small = np.full((2, 2, 3), 40 + 3 * (row % 60), dtype=np.uint8)
    small[0, 0, row % 3] = 255
    return np.asarray(Image.fromarray(small).resize((px, px), Image.Resampling.BICUBIC))


class Photos:
    """Gives photos of at most `largest` px, and remembers how many of which size were asked for."""

    def __init__(self, seen: NDArray[np.uint8], largest: int = 300, missing: int = 0) -> None:
        self.seen, self.largest, self.missing = seen, largest, missing
        self.asked: list[tuple[int, int]] = []

    def __call__(self, rows: NDArray[np.int64], px: int) -> tuple[NDArray[np.uint8], int]:
        self.asked.append((len(rows), px))
        px = min(px, self.largest)
        if px <= self.seen.shape[1] or not len(rows):
            return self.seen[rows], self.missing
        return np.stack([photo(row, px) for row in rows.tolist()]), self.missing


def write_photos(folder: Path, n: int, photos: Photos, maps: int = 4) -> Gallery:
    write_gallery(
        folder,
        photos.seen,
        make_predictions(n),
        rows=np.arange(maps),
        maps=[make_maps(maps)],
        method="m",
        photos=photos,
    )
    return read(folder)


def seen_by_the_network(n: int, px: int = 32) -> NDArray[np.uint8]:
    return np.stack([photo(row, px) for row in range(n)])


def test_photos_are_kept_large(tmp_path: Path) -> None:
    photos = Photos(seen_by_the_network(40))
    packed = write_photos(tmp_path, 40, photos)
    ((sheet, rows),) = packed.pictures
    assert (sheet.size, rows, packed.seen_px) == ((224, 224), tuple(range(40)), 32)
    assert packed.notes == ()
    for row in (0, 7, 39):
        difference = np.abs(tile(tmp_path, sheet, row) - photo(row, 224).astype(int))
        assert difference.mean() < 4


def test_what_does_not_fit_large_is_kept_small_mistakes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_room", lambda predictions: 180_000)
    n = 100
    packed = write_photos(tmp_path, n, Photos(seen_by_the_network(n)))
    (large, first), *small = packed.pictures
    assert large.size == (224, 224)
    wrong = set(range(0, n, 5))
    assert 5 < len(first) < n
    assert wrong <= set(first) or set(first) <= wrong
    assert 0 in first  # the mistake with a heat map
    assert all(sheet.size == (64, 64) for sheet, _ in small)
    assert sorted(row for _, rows in packed.pictures for row in rows) == list(range(n))
    for sheet, rows in small:  # 64 px of the photo, more than the network saw
        difference = np.abs(tile(tmp_path, sheet, 0) - photo(rows[0], 64).astype(int))
        assert difference.mean() < 8
    size = sum(f.stat().st_size for f in (tmp_path / "gallery").glob("*-*"))
    assert size <= 180_000


def test_only_as_many_photos_are_opened_as_may_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_room", lambda predictions: 150_000)
    n = 2000
    photos = Photos(seen_by_the_network(n, 16))
    packed = write_photos(tmp_path, n, photos)
    assert photos.asked[0][1] == 224
    assert all(count * px**2 < 2e6 for count, px in photos.asked)
    assert packed.notes[-1].endswith("of 2,000 images are kept, for size")


def test_photos_smaller_than_224_px_keep_their_size(tmp_path: Path) -> None:
    packed = write_photos(tmp_path, 40, Photos(seen_by_the_network(40), largest=100))
    ((sheet, rows),) = packed.pictures
    assert (sheet.size, len(rows)) == ((100, 100), 40)


@pytest.mark.parametrize(("px", "largest"), [(32, 32), (32, 10), (64, 64)])
def test_without_larger_photos_the_gallery_is_as_ever(
    tmp_path: Path, px: int, largest: int
) -> None:
    folders = [tmp_path / "photos", tmp_path / "images"]
    for folder in folders:
        folder.mkdir()
    seen = seen_by_the_network(40, px)
    assert write_photos(folders[0], 40, Photos(seen, largest)).seen_px is None
    write_gallery(
        folders[1],
        seen,
        make_predictions(40),
        rows=np.arange(4),
        maps=[make_maps(4)],
        method="m",
    )
    files = [
        {file.name: file.read_bytes() for file in (folder / "gallery").iterdir()}
        for folder in folders
    ]
    assert files[0] == files[1]


def test_photos_that_are_gone_are_told(tmp_path: Path) -> None:
    packed = write_photos(tmp_path, 40, Photos(seen_by_the_network(40), missing=3))
    assert packed.notes == (
        "3 pictures are shown as the network saw them, because their files are gone or have "
        "changed",
    )


def test_photos_of_a_damaged_size_are_refused(tmp_path: Path) -> None:
    write_photos(tmp_path, 40, Photos(seen_by_the_network(40)))
    file = tmp_path / "gallery" / "gallery.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"seen_px": "x"}))
    with pytest.raises(ResightError, match="is damaged"):
        read_gallery(tmp_path)


# --- neighbors ------------------------------------------------------------------------------

TRAIN = make_pictures(300)


def make_neighbors(rows: NDArray[np.int64]) -> GalleryNeighbors:
    """Three training images of either class beside each row; one class has a single image."""
    nearest = np.arange(6 * len(rows)).reshape(-1, 2, 3)
    nearest[0, 1, 1:] = -1
    cosines = np.linspace(1, -1, nearest.size, dtype=np.float32).reshape(nearest.shape)
    ids = tuple(f"train/{n}" for n in range(len(TRAIN)))
    return GalleryNeighbors(rows, nearest, cosines, np.array([290]), ids, lambda rows: TRAIN[rows])


def test_neighbors_are_where_the_gallery_says(tmp_path: Path) -> None:
    predictions = make_predictions()
    given = make_neighbors(np.flatnonzero(~predictions.correct)[::-1])
    pictures = make_pictures()
    for _ in range(2):  # the second leaves the files of the first
        write_gallery(
            tmp_path, pictures, predictions, rows=np.array([]), maps=[], method="m", neighbors=given
        )
    packed = read(tmp_path).neighbors
    assert packed is not None
    assert read(tmp_path).notes == ()
    assert list(packed.rows) == sorted(given.rows)
    assert 290 in packed.train_rows
    for at, row in enumerate(packed.rows):
        (place,) = np.flatnonzero(given.rows == row)
        for side, nearest in enumerate((packed.pred[at], packed.true[at])):
            rows = [packed.train_rows[n - 1] if n else -1 for n in nearest]
            assert rows == given.nearest[place, side].tolist()
        assert packed.percents[at] == tuple(np.rint(100 * given.cosines[place]).ravel())
    for index, row in enumerate(packed.train_rows):
        assert packed.ids[index] == f"train/{row}"
        np.testing.assert_array_equal(tile(tmp_path, packed.sheet, index), TRAIN[row])


def test_the_most_wanted_mistakes_keep_their_neighbors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "_room", lambda predictions: 60_000)
    predictions = make_predictions(200)
    given = make_neighbors(np.flatnonzero(~predictions.correct)[::-1])
    write_gallery(
        tmp_path,
        make_pictures(200),
        predictions,
        rows=np.array([]),
        maps=[],
        method="m",
        neighbors=given,
    )
    packed = read(tmp_path)
    assert packed.neighbors is not None
    kept = len(packed.neighbors.rows)
    assert 0 < kept < 40
    assert sorted(given.rows[:kept]) == list(packed.neighbors.rows)
    assert f"the training images beside {kept} of 40 mistakes are kept, for size" in packed.notes
    sizes = [(tmp_path / "gallery" / name).stat().st_size for name in packed.files]
    assert sum(sizes) <= 60_000


@pytest.mark.parametrize(
    "change",
    [{"rows": [1, 0]}, {"pred": [[99, 0, 0]]}, {"ids": []}, {"true": [[1]]}, {"percents": 3}],
)
def test_damaged_neighbors_are_an_error(tmp_path: Path, change: dict[str, object]) -> None:
    predictions = make_predictions()
    given = make_neighbors(np.flatnonzero(~predictions.correct)[:1])
    write_gallery(
        tmp_path,
        make_pictures(),
        predictions,
        rows=np.array([]),
        maps=[],
        method="m",
        neighbors=given,
    )
    file = tmp_path / "gallery" / "gallery.json"
    content = json.loads(file.read_text())
    content["neighbors"] |= change
    file.write_text(json.dumps(content))
    with pytest.raises(ResightError, match="is damaged"):
        read_gallery(tmp_path)
    del content["neighbors"]  # as an earlier version wrote it
    file.write_text(json.dumps(content))
    assert read(tmp_path).neighbors is None
