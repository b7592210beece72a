"""Prediction of picture files: where they lie, which cannot be read, and what answers are worth."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import resight
from resight.cli.app import main
from resight.datasets import Dataset
from resight.datasets.splits import train_and_val
from resight.errors import ResightError, UsageError
from resight.events import Message
from resight.runs.checkpoint import load_best, load_model, save_temperature
from resight.runs.confidence import FILE, Reference, calibrate, read_reference
from resight.runs.predict import ImagePrediction, PicturePredictions
from resight.training.features import features
from resight.training.state import TrainData
from tiny_runs import tiny_recipe


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, tiny: Dataset) -> Path:
    """A run with 45 validation images, and beside it test images as pictures in a folder."""
    root = tmp_path_factory.mktemp("judged")
    recipe = tiny_recipe("data.val_fraction=0.5", "schedule.epochs=6")
    run = resight.train(recipe, data=tiny, out=root, name="run")
    for name, row in (("10", 2), ("9", 1), ("b/1", 0)):
        path = root / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiny.test.images[row].permute(1, 2, 0).numpy()).save(path)
    (root / "photos" / "notes.txt").write_text("x")
    return run.folder


def names(result: Any) -> list[str]:
    return [Path(picture.id).stem for picture in result]


def test_folders_patterns_and_files_in_the_order_of_people(judged: Path) -> None:
    photos = judged.parent / "photos"
    assert names(resight.predict(judged, [photos])) == ["9", "10", "1"]
    assert names(resight.predict(judged, [photos / "*.png"])) == ["9", "10"]
    assert names(resight.predict(judged, [photos / "**" / "*.png"])) == ["9", "10", "1"]
    result = resight.predict(judged, [photos / "10.png", photos / "b"])
    assert names(result) == ["10", "1"]
    (alone,) = resight.predict(judged, [photos / "10.png"])  # sums in another order, by the batch
    assert [name for name, _ in result[0].ranking] == [name for name, _ in alone.ranking]
    ours, theirs = ([prob for _, prob in one.ranking] for one in (result[0], alone))
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_a_file_whose_name_is_a_pattern_is_that_file(judged: Path, tmp_path: Path) -> None:
    path = tmp_path / "a[1].png"
    Image.new("RGB", (16, 16)).save(path)
    assert [picture.id for picture in resight.predict(judged, [path])] == [str(path)]


def test_nothing_there_is_one_line(judged: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file matches .*\*\.jpg"):
        resight.predict(judged, [tmp_path / "*.jpg"])
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(UsageError, match=r"holds no pictures; it has x\.txt"):
        resight.predict(judged, [tmp_path])


def test_unreadable_files_are_named_and_the_rest_goes_on(
    judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(5):
        Image.new("RGB", (16, 16), (50 * i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"broken")
    Image.new("RGB", (3, 3)).save(tmp_path / "3.png")
    out = tmp_path / "predictions.csv"
    command = ["predict", str(judged), str(tmp_path), "--out", str(out), "--json"]
    assert main(command) == 1
    shown = capsys.readouterr()
    content = json.loads(shown.out)
    assert [Path(one["id"]).stem for one in content["pictures"]] == ["0", "2", "4"]
    assert [Path(name).stem for name in content["unreadable"]] == ["1", "3"]
    assert "1.png cannot be read as a picture" in shown.err
    assert "3.png: 3x3 px is too small" in shown.err
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).stem for row in rows] == ["0", "2", "4"]
    for row, one in zip(rows, content["pictures"], strict=True):
        assert {name: float(row[f"p({name})"]) for name in one["classes"]} == one["classes"]
        assert row["class"] == next(iter(one["classes"]))
        assert float(row["distance"]) == one["distance"]
    with pytest.raises(UsageError, match=r"1\.png cannot be read"):
        resight.predict(judged, [tmp_path])
    with pytest.raises(UsageError, match=r"1\.png cannot .* \(nor can 1 others be read\)"):
        resight.predict(judged, [tmp_path / "1.png", tmp_path / "3.png"], skip_unreadable=True)


def test_unsure_answers_are_marked_and_the_table_is_of_validation(judged: Path) -> None:
    photos = judged.parent / "photos"
    confidence = [picture.ranking[0][1] for picture in resight.predict(judged, [photos])]
    middle = float(np.median(confidence))
    result = resight.predict(judged, [photos], unsure_below=middle)
    assert [picture.unsure for picture in result] == [value < middle for value in confidence]
    assert str(result).count("[unsure") == sum(value < middle for value in confidence)
    assert "validation images" in str(result)
    assert middle in [row.threshold for row in result.coverage]
    run = resight.Run.open(judged)
    assert run.summary is not None
    assert run.summary.confidence is not None
    assert {row.coverage.n for row in result.coverage} == {run.summary.data.val}
    assert {*run.summary.confidence.coverage} <= {*result.coverage}
    with pytest.raises(UsageError, match="unsure_below = 80"):
        resight.predict(judged, [photos], unsure_below=80)


def test_the_temperature_changes_probabilities_and_no_class(judged: Path, tmp_path: Path) -> None:
    photos, copy = judged.parent / "photos", tmp_path / "copy"
    copy.mkdir()
    for file in judged.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    weights, info = load_best(copy)
    save_temperature(copy, 1.0)
    plain = resight.predict(copy, [photos])
    save_temperature(copy, 3.0)
    changed, changed_info = load_best(copy)
    assert changed_info.temperature == 3.0
    assert changed_info.classes == info.classes
    assert all(torch.equal(changed[name], weights[name]) for name in weights)
    for before, after in zip(plain, resight.predict(copy, [photos]), strict=True):
        expected = np.array([p ** (1 / 3) for _, p in before.ranking])
        assert [name for name, _ in after.ranking] == [name for name, _ in before.ranking]
        np.testing.assert_allclose(
            [p for _, p in after.ranking], expected / expected.sum(), atol=1e-5
        )


def test_distances_are_those_of_plain_cosines(judged: Path, tiny: Dataset) -> None:
    """The limit is the distance that 99 % of the validation images do not exceed."""
    network, info = load_model(judged, None, torch.device("cpu"))
    train, val = train_and_val(tiny, info.recipe)
    assert val is not None
    kept, queries = (features(network, part, info.stats) for part in (train, val))
    cosines = nn.functional.cosine_similarity(queries[:, None], kept[None], dim=2)  # (N, M)
    nearest = (1 - cosines.amax(dim=1)).numpy()
    reference = read_reference(judged, info)
    assert reference.note == ""
    distances = reference.distances(queries)
    assert distances is not None
    np.testing.assert_allclose(distances, nearest / nearest.max(), atol=0.02)
    assert distances.max() == pytest.approx(1)  # of 45 images the largest
    # As `predict` has it, of the same images in files.
    reader = resight.predict(judged, [judged.parent / "photos"])
    assert all(picture.distance is not None for picture in reader)


def test_a_distance_above_1_is_unlike_the_training_pictures() -> None:
    axes = torch.eye(3)
    reference = Reference(np.zeros(0), np.zeros(0, bool), axes[:2], 0.5, "")
    queries = torch.stack([5 * axes[0], axes[0] + axes[1], axes[2], -axes[1] - axes[0]])
    distances = reference.distances(queries)
    assert distances is not None
    cosines = np.array([1, 0.5**0.5, 0, -(0.5**0.5)])
    np.testing.assert_allclose(distances, (1 - cosines) / 0.5, atol=1e-6)
    pictures = tuple(ImagePrediction("x", (("cat", 1.0),), distance=float(d)) for d in distances)
    assert [picture.unlike for picture in pictures] == [False, False, True, True]
    text = str(PicturePredictions(pictures, ("cat",), 1.0, {}, None, ()))
    assert text.count("unlike the training pictures (distance 2.0)") == 1


def messages(run: Path, path: Path, **options: Any) -> list[str]:
    lines: list[str] = []

    def on_event(event: object) -> None:
        if isinstance(event, Message):
            lines.append(event.text)

    [picture] = resight.predict(run, [path], on_event=on_event, **options)
    assert picture.distance is None
    assert not picture.unlike
    return lines


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", None])
def test_a_damaged_or_missing_file_is_a_line(
    trained_copy: Path, content: bytes | None, tmp_path: Path
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    [line] = messages(trained_copy, tmp_path / "a.png")
    assert "validation images (at least 30)" in line
    (trained_copy / FILE).unlink()
    if content is not None:
        (trained_copy / FILE).write_bytes(content)
    said = messages(trained_copy, tmp_path / "a.png", unsure_below=0.9)
    assert ("is damaged" if content is not None else f"the run has no {FILE}") in said[0]
    assert "there is no table of thresholds" in said[1]


def test_features_of_other_weights_are_passed_over(trained_copy: Path) -> None:
    _, info = load_best(trained_copy)
    arrays = dict(np.load(trained_copy / FILE))
    np.savez(trained_copy / FILE, **{**arrays, "epoch": np.array(77)})
    assert "it belongs to epoch 77" in read_reference(trained_copy, info).note


def test_a_forged_temperature_is_refused(trained_copy: Path) -> None:
    for value in (0.0, -1.0, 1e9, float("nan"), float("inf")):
        save_temperature(trained_copy, value)
        with pytest.raises(ResightError, match="is damaged: temperature"):
            load_model(trained_copy, None, torch.device("cpu"))
        save_temperature(trained_copy, 1.0)


def test_without_validation_the_temperature_is_1(trained_copy: Path, tiny: Dataset) -> None:
    network, info = load_model(trained_copy, None, torch.device("cpu"))
    data = TrainData(train=tiny.train, val=None, stats=info.stats, classes=info.classes)
    result = calibrate(trained_copy, network, info, data)
    assert str(result.temperature) == "1 (there are no validation images to fit it on)"
    assert result.coverage == ()
    assert read_reference(trained_copy, info).note == "there are no validation images"
