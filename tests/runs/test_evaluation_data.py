"""What a run is evaluated on: its test images, other data by the names of its classes, splits."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import resight
from refusal import refused
from resight.datasets import Split
from resight.runs.evaluation_data import numbered_as_run
from tiny_runs import tiny_recipe

COLORS = {"blue": (30, 40, 200), "green": (30, 180, 40), "red": (200, 40, 30)}


def photos(root: Path, *folders: str, count: int = 5) -> Path:
    """Write pictures of the color that each folder is called by."""
    rng = np.random.default_rng(len(str(root)))
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for i in range(count):
            color = np.array(COLORS[folder.rpartition("/")[2].lower()])
            pixels = np.clip(color + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> resight.Run:
    """A run on 45 pictures of three colors, of which 9 are held out for testing."""
    root = photos(tmp_path_factory.mktemp("data") / "mine", *COLORS, count=15)
    out = tmp_path_factory.mktemp("out")
    return resight.train(tiny_recipe(), data=root, out=out, name="run")


def source(run: resight.Run) -> Path:
    return Path(run.recipe.data.source)


def test_its_own_data_by_path_is_its_own_test_images(run: resight.Run, tmp_path: Path) -> None:
    own = resight.evaluate(run)
    assert own.scored == "9 images of the test split"
    assert resight.evaluate(run, data=source(run)).predictions.ids == own.predictions.ids
    copy = tmp_path / "copy"
    for path in source(run).rglob("*.png"):
        target = copy / path.relative_to(source(run))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    assert resight.evaluate(run, data=copy).predictions.ids == own.predictions.ids


def test_a_split_of_its_own_data_says_what_it_means(run: resight.Run) -> None:
    assert "36 images that the run was trained on" in resight.evaluate(run, split="train").scored
    assert "of which the run was trained on 36" in resight.evaluate(run, split="all").scored
    val = resight.evaluate(run, split="val")
    assert "validation images" in val.scored
    assert not {*val.predictions.ids} & {*resight.evaluate(run).predictions.ids}


def test_other_data_is_scored_whole_or_by_split(run: resight.Run, tmp_path: Path) -> None:
    whole = resight.evaluate(run, data=photos(tmp_path / "whole", *COLORS))
    assert (whole.scored, len(whole.predictions)) == ("all 15 images", 15)
    folders = [f"{split}/{color}" for split in ("train", "val", "test") for color in COLORS]
    divided = photos(tmp_path / "divided", *folders)
    assert resight.evaluate(run, data=divided).scored == "15 images of the test split"
    every = resight.evaluate(run, data=divided, split="all")
    assert every.scored == "all 45 images (train, val, test)"
    assert resight.evaluate(run, data=divided, split="val").predictions.ids[0].startswith("val/")
    with refused("data 'whole' has no test split; it has train (or take all)"):
        resight.evaluate(run, data=tmp_path / "whole", split="test")


def test_classes_are_matched_by_name(run: resight.Run, tmp_path: Path) -> None:
    part = resight.evaluate(run, data=photos(tmp_path / "part", "green", "red"))
    assert part.predictions.classes == tuple(COLORS)
    assert part.predictions.labels.tolist() == [1] * 5 + [2] * 5
    assert part.scored == "all 10 images; 2 of the run's 3 classes have images"
    only = resight.evaluate(run, data=photos(tmp_path / "only", "test/red"))
    assert only.predictions.labels.tolist() == [2] * 5
    with refused('has images of Red, which the run was not trained on; did you mean "red"?'):
        resight.evaluate(run, data=photos(tmp_path / "case", "blue", "Red"))


def test_labels_are_numbered_as_the_run_numbers_them() -> None:
    images = torch.zeros((4, 3, 8, 8), dtype=torch.uint8)
    split = Split(images, torch.tensor([0, 1, 2, 1]), ("a", "b", "c", "d"))
    matched, note = numbered_as_run(split, "x", ("z", "y", "x"), ("w", "x", "y", "z"))
    assert matched.labels.tolist() == [3, 2, 1, 2]
    assert note == "3 of the run's 4 classes have images"
    with refused("x has images of y, which the run was not trained on"):
        numbered_as_run(split, "x", ("z", "y", "x"), ("z", "x"))


def test_changed_data_is_refused_or_said(tmp_path: Path) -> None:
    root = photos(tmp_path / "mine", *COLORS)
    run = resight.train(tiny_recipe(), data=root, out=tmp_path, name="run")
    (root / "red" / "0.png").unlink()
    for data in (None, root):
        with refused("has changed since the run was trained"):
            resight.evaluate(run, data=data)
        result = resight.evaluate(run, data=data, changed_data=True)
        assert re.search("trained on .* of these|none of these was trained on", result.scored)
    (run.folder / "trained_images.npz").unlink()  # as in runs of earlier versions
    result = resight.evaluate(run, changed_data=True)
    assert "images that the run was trained on may be among these" in result.scored


def copied(folder: Path, to: Path) -> Path:
    """Copy a folder of pictures to another place."""
    return Path(shutil.copytree(folder, to))


def test_images_of_training_are_noticed_in_another_place(run: resight.Run, tmp_path: Path) -> None:
    """A moved copy with new images or other labels is not the run's data, and not new either."""
    assert run.summary
    count = run.summary.data.train
    grown = copied(source(run), tmp_path / "grown")
    for path in photos(tmp_path / "new", *COLORS, count=1).rglob("*.png"):
        shutil.move(path, grown / path.parent.name / "new.png")
    with refused(f"{count} of the 48 images of grown are images that the run was trained on"):
        resight.evaluate(run, data=grown)
    whole = resight.evaluate(run, data=grown, changed_data=True)
    assert f"the run was trained on {count} of these images, pixel for pixel" in whole.scored
    assert f"trained on {count} of these" in resight.evaluate(run, data=grown, split="all").scored

    relabeled = copied(source(run), tmp_path / "relabeled")
    (relabeled / "red" / "0.png").rename(relabeled / "blue" / "red.png")
    with refused(f"{count} of the 45 images of relabeled are images that the run was trained on"):
        resight.evaluate(run, data=relabeled)
    with refused("images of relabeled are images that the run was trained on"):
        resight.evaluate(run, data=resight.data(relabeled))

    few = photos(tmp_path / "few", *COLORS)
    for path in (source(run) / "red").iterdir():
        shutil.copy(path, few / "red" / f"old{path.name}")
    scored = resight.evaluate(run, data=few).scored
    assert re.match(r"all 30 images; the run was trained on \d+ of these images", scored)
