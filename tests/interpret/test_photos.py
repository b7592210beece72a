"""A run on photos, which the network sees small: its sheets and its report show the photos."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resight
from resight.runs.gallery import read_gallery, read_tiles
from tiny_runs import explained_recipe

pytestmark = pytest.mark.slow

PX = 16


def photo(seed: int, height: int, width: int) -> Image.Image:
    """Soft colors and, too fine for the network, a line of one px in the middle."""
    colors = np.random.default_rng(seed).integers(30, 200, (4, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC)
    picture.paste("white", (0, height // 2, width, height // 2 + 1))
    return picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "photos"
    for k, name in enumerate(("cat", "dog", "horse")):
        (root / name).mkdir(parents=True)
        for i in range(30):
            photo(100 * k + i, 230 + i, 260 - i).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> resight.Run:
    recipe = explained_recipe(f"data.image_size={PX}", "explain.pictures=true")
    return resight.train(recipe, data=folder, out=tmp_path_factory.mktemp("runs"), name="a")


def test_the_gallery_has_the_photos(run: resight.Run, folder: Path) -> None:
    gallery, predictions = run.gallery, run.predictions
    assert gallery is not None
    assert predictions is not None
    assert gallery.seen_px == PX
    tiles = read_tiles(run.folder, gallery, range(gallery.images))
    assert len(tiles) == len(predictions) == 18
    for row, tile in tiles.items():
        assert tile.shape == (224, 224, 3)
        with Image.open(folder / predictions.ids[row]) as original:
            assert min(original.size) >= 224
        lines = tile.mean(axis=(1, 2))
        assert lines[105:119].max() > lines[90:100].max() + 30  # which 16 px do not show


def test_the_report_needs_the_run_folder_alone(run: resight.Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.folder, tmp_path / "a"))
    (copy / "report.html").unlink()
    page = resight.report(copy).read_text()
    assert f'"seen":{PX}' in page
    assert page == (run.folder / "report.html").read_text()


def test_sheets_have_room_for_every_pixel(run: resight.Run) -> None:
    for name in ("misclassified", "correct", "confused_pairs", "misclassified_grad-cam"):
        with Image.open(run.folder / f"{name}.png") as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        white = (pixels[:, 16 : 16 + 1600] > 250).all(axis=2)
        # A picture is 224 px high: below its first row, above the caption, nothing is all white.
        rows = np.flatnonzero(~white.all(axis=1))
        longest = max(map(len, np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)))
        assert longest >= 223, name


def test_explained_again_it_is_the_same_until_the_photos_change(
    run: resight.Run, folder: Path, tmp_path: Path
) -> None:
    copy, data = tmp_path / "a", tmp_path / "photos"
    shutil.copytree(run.folder, copy)
    shutil.copytree(folder, data)
    dataset = resight.data(str(data), image_size=PX)
    before = {file.name: file.read_bytes() for file in (copy / "gallery").iterdir()}
    assert not resight.explain(copy, data=dataset).failed
    assert {file.name: file.read_bytes() for file in (copy / "gallery").iterdir()} == before

    gone, other = dataset.test.ids[:2]
    (data / gone).unlink()
    photo(999, 300, 300).save(data / other)
    assert not resight.explain(copy, data=dataset).failed
    gallery = read_gallery(copy)
    assert gallery is not None
    assert gallery.notes == (
        "2 pictures are shown as the network saw them, because their files are gone or have "
        "changed",
    )
    tiles = read_tiles(copy, gallery, [0, 1])
    seen = dataset.test.images[:2].permute(0, 2, 3, 1).numpy().astype(int)
    for row in range(2):
        means = tiles[row].reshape(PX, 14, PX, 14, 3).mean(axis=(1, 3))
        assert np.abs(means - seen[row]).mean() < 6


def test_a_picture_of_ones_own_is_shown_large(run: resight.Run, tmp_path: Path) -> None:
    large, small = tmp_path / "large.png", tmp_path / "small.png"
    photo(7, 400, 300).save(large)
    photo(7, 400, 300).resize((PX, PX)).save(small)
    sheets = [resight.explain(run, path) for path in (large, small)]
    sizes = []
    for sheet in sheets:
        [name] = sheet.files
        with Image.open(sheet.folder / name) as picture:
            sizes.append(picture.size)
        shutil.rmtree(sheet.folder)
    assert sizes[0][1] > sizes[1][1]


def test_an_evaluation_shows_them_too(run: resight.Run, folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.folder, tmp_path / "a"))
    result = resight.evaluate(copy)
    assert (result.folder / "correct.png").read_bytes() == (copy / "correct.png").read_bytes()
