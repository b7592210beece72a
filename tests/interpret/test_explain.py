"""Explanations of a run: at its end, again later, and for picture files."""

import csv
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import resight
from resight.cam import METHODS
from resight.cam.layers import default_layers
from resight.cli.app import main
from resight.datasets import Dataset
from resight.datasets.augment import normalize
from resight.errors import ResightError, UsageError
from resight.events import Message, Progress
from resight.interpret import run_maps
from resight.interpret.layer_maps import FAITHFULNESS_STEPS, faithfulness_areas, layer_maps
from resight.interpret.steps import StepLog
from resight.metrics.mistakes import mistakes
from resight.networks import build_model
from resight.recipe.training import Method
from resight.runs.gallery import read_gallery
from tiny_runs import explained_recipe

pytestmark = pytest.mark.slow


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_ends_with_its_mistakes_explained(explained_run: resight.Run) -> None:
    assert explained_run.predictions is not None
    names = {path.name for path in explained_run.folder.iterdir()}
    assert {
        "mistakes.csv",
        "confused_pairs.png",
        "misclassified_grad-cam.png",
        "correct_grad-cam.png",
        "label_issues.csv",
        "gallery",
        "report.html",
    } <= names
    rows = rows_of(explained_run.folder / "mistakes.csv")
    expected = mistakes(explained_run.predictions)
    assert len(rows) > 4
    assert [row["id"] for row in rows] == [mistake.id for mistake in expected]
    assert list(rows[0]) == ["id", "true", "pred", "confidence", "loss", "margin"]
    assert float(rows[0]["loss"]) == expected[0].loss


def test_the_gallery_holds_the_maps_of_the_chosen_layers(
    explained_run: resight.Run, tiny: Dataset
) -> None:
    gallery = explained_run.gallery
    assert gallery is not None
    assert gallery.method == "grad-cam"
    assert [layer for _, layer, *_ in gallery.maps] == ["block1", "block2"]  # 7x7 and 3x3 of 16 px
    assert gallery.map_rows == tuple(range(len(tiny.test)))


def test_explained_again_with_other_settings(explained_copy: Path, tiny: Dataset) -> None:
    before = (explained_copy / "misclassified.png").read_bytes()
    explanation = resight.explain(
        explained_copy, data=tiny, layers=["block1"], method="hirescam", rank="margin", count=2
    )
    assert explanation.folder == explained_copy
    assert explanation.layers == ("block1 7x7",)
    assert all((explained_copy / name).exists() for name in explanation.files)
    assert {"misclassified_hirescam.png", "correct_hirescam.png"} <= set(explanation.files)
    margins = [mistake.margin for mistake in explanation.mistakes]
    assert margins == sorted(margins, reverse=True)
    assert (explained_copy / "misclassified.png").read_bytes() != before  # the same two images
    again = resight.explain(explained_copy, data=tiny)
    assert (explained_copy / "misclassified.png").read_bytes() == before
    assert again.method == "grad-cam"


def test_the_saved_predictions_are_explained_and_not_new_ones(
    explained_copy: Path, tiny: Dataset
) -> None:
    """Other logits in the file give other mistakes, whatever the network would predict."""
    run = resight.Run.open(explained_copy)
    assert run.predictions is not None
    changed = replace(run.predictions, logits=-run.predictions.logits)
    run.write_predictions(changed)
    explanation = resight.explain(explained_copy, data=tiny)
    assert [one.id for one in explanation.mistakes] == [one.id for one in mistakes(changed)]


def test_sheets_of_other_images_are_removed(explained_copy: Path, tiny: Dataset) -> None:
    resight.explain(explained_copy, data=tiny, method="layercam")
    sheets = [explained_copy / f"misclassified_{name}.png" for name in ("grad-cam", "layercam")]
    assert all(sheet.exists() for sheet in sheets)  # the same images, to be compared
    resight.explain(explained_copy, data=tiny, method="hirescam", count=2)
    assert not any(sheet.exists() for sheet in sheets)
    sheet = explained_copy / "correct_hirescam.png"
    assert list(explained_copy.glob("correct_*.png")) == [sheet]


def test_deletion_and_insertion_of_the_images_on_the_sheets(
    explained_copy: Path, tiny: Dataset
) -> None:
    explanation = resight.explain(explained_copy, data=tiny, count=2)
    assert "heatmaps.csv" in explanation.files
    rows = rows_of(explained_copy / "heatmaps.csv")
    assert list(rows[0]) == ["id", "method", "layer", "class", "deletion", "insertion"]
    assert [row["layer"] for row in rows] == ["block1", "block2"] * 4  # two wrong, two right
    # An area under probabilities, less the probability of an empty picture.
    assert all(-1 < float(row[name]) < 1 for row in rows for name in ("deletion", "insertion"))


def small_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
        )


STATS = resight.Statistics((0.5,) * 3, (0.25,) * 3)


def test_areas_are_those_of_the_predicted_class(tiny: Dataset) -> None:
    model, rows = small_network(), np.array([3, 0, 8])
    both = np.array([[0, 1], [1, 2], [2, 0]])
    maps = layer_maps(model, tiny.test, STATS, both, layers=["1"], method="layercam", rows=rows)
    areas = faithfulness_areas(model, tiny.test, STATS, both[:, 0], maps, rows=rows)["1"]
    images = normalize(tiny.test.images[rows], STATS)
    alone = resight.heatmaps(model, images, "1", torch.tensor([0, 1, 2]), "layercam")
    expected = resight.faithfulness(model, images, alone, steps=FAITHFULNESS_STEPS)
    deletion, insertion = expected.deletion - expected.empty, expected.insertion - expected.empty
    np.testing.assert_allclose(areas[:, 0], deletion[:, 0], atol=1e-6)
    np.testing.assert_allclose(areas[:, 1], insertion[:, 0], atol=1e-6)
    assert faithfulness_areas(model, tiny.test, STATS, both[:0, 0], maps, rows=rows[:0])[
        "1"
    ].shape == (0, 2)


def test_fine_maps_are_averaged_where_many_are_kept(tiny: Dataset) -> None:
    model, both = small_network(), np.array([[0, 1]] * len(tiny.test))
    whole, few = (
        layer_maps(model, tiny.test, STATS, both, layers=["1"], method="hirescam", side=side)["1"]
        for side in (14, 7)
    )
    assert few.shape == (31, 2, 7, 7)
    cells = np.maximum(whole, 0).reshape(31, 2, 7, 2, 7, 2)
    np.testing.assert_allclose(few, cells.mean(axis=(3, 5)), atol=1e-7)
    assert whole.min() < 0  # as it was


def test_the_same_run_is_explained_the_same_way_twice(
    explained_copy: Path, explained_run: resight.Run, tiny: Dataset
) -> None:
    resight.explain(explained_copy, data=tiny)
    for name in ("mistakes.csv", "misclassified_grad-cam.png", "gallery/gallery.json"):
        first, second = (folder / name for folder in (explained_run.folder, explained_copy))
        assert first.read_bytes() == second.read_bytes()


def test_finer_cam_tells_each_class_from_the_other(tiny: Dataset) -> None:
    """At the last layer Grad-CAM is linear in the logits: the difference of the two maps."""
    model = small_network()
    both = np.array([[0, 1]] * len(tiny.test))
    plain, finer = (
        layer_maps(model, tiny.test, STATS, both, layers=["1"], method=method)["1"]
        for method in ("grad-cam", "finer-cam")
    )
    assert plain.shape == (31, 2, 14, 14)
    np.testing.assert_allclose(finer[:, 0], plain[:, 0] - plain[:, 1], atol=1e-6)
    np.testing.assert_allclose(finer[:, 1], plain[:, 1] - plain[:, 0], atol=1e-6)


def test_slow_methods_look_at_the_sheets_only(explained_copy: Path, tiny: Dataset) -> None:
    explanation = resight.explain(
        explained_copy, data=tiny, method="ablation-cam", layers=["block2"], count=2
    )
    note = "ablation-cam is slow: heat maps of the 4 images on the sheets"
    assert explanation.notes == (note,)
    gallery = read_gallery(explained_copy)
    assert gallery is not None
    assert len(gallery.map_rows) == 4


def test_maps_that_are_kept_as_means_are_named_by_their_own_size(
    explained_copy: Path, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    resight.explain(explained_copy, data=tiny, layers=["block1"], count=2)
    whole = read_gallery(explained_copy)
    monkeypatch.setattr(run_maps, "MAX_GALLERY_CELLS", 3)
    resight.explain(explained_copy, data=tiny, layers=["block1"], count=2)
    means = read_gallery(explained_copy)
    assert whole is not None
    assert means is not None
    (atlas, layer, size), (small, *names) = whole.maps[0], means.maps[0]
    assert names == [layer, size]
    assert small.size == (3, 3) != atlas.size


@pytest.mark.parametrize("name", ["swift", "resnet9", "resnet18"])
def test_default_layers_are_the_ends_of_stages(name: str) -> None:
    recipe = resight.load_recipe(name)
    model = build_model(recipe.model, in_channels=3, num_classes=10, image_size=32, seed=0)
    expected = {
        "swift": ("block1", "block2", "block3"),
        "resnet9": ("layer1", "layer2", "layer3"),
        "resnet18": ("layer2", "layer3", "layer4"),
    }
    assert default_layers(model, (3, 32, 32)) == expected[name]


class Flat(nn.Module):
    """No layer of it puts out a map."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3 * 16 * 16, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.hidden(images.flatten(1)))
        return logits


def test_a_network_without_maps_is_explained_without_them(tmp_path: Path, tiny: Dataset) -> None:
    events: list[object] = []
    run = resight.train(
        explained_recipe(), data=tiny, model=Flat(), out=tmp_path, on_event=events.append
    )
    notes = [event.text for event in events if isinstance(event, Message)]
    assert [note for note in notes if "Flat has no layer whose output is a map" in note]
    assert (run.folder / "mistakes.csv").exists()
    assert (run.folder / "report.html").exists()
    assert not (run.folder / "misclassified_grad-cam.png").exists()
    with pytest.raises(UsageError, match="pass the module in from Python"):
        resight.explain(run.folder, data=tiny)
    assert resight.explain(run.folder, data=tiny, model=Flat()).layers == ()


class Brittle(nn.Module):
    """Cannot be differentiated at its layer, as it leaves the graph on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.last = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.conv(images).detach().square().mean(dim=(2, 3))
        logits: Tensor = self.last(pooled)
        return logits


def test_a_run_that_cannot_be_explained_is_still_complete(tmp_path: Path, tiny: Dataset) -> None:
    events: list[object] = []
    run = resight.train(
        explained_recipe(),
        data=tiny,
        model=Brittle(),
        out=tmp_path,
        name="a",
        on_event=events.append,
    )
    assert run.test.images == len(tiny.test)
    assert (run.folder / "predictions.csv").exists()
    notes = [event.text for event in events if isinstance(event, Message)]
    assert [n for n in notes if n.startswith("heat maps failed: ") and "conv" in n]
    assert notes[-1].startswith("the run is complete; `resight explain")
    gallery = read_gallery(run.folder)  # of pictures alone
    assert gallery is not None
    assert gallery.map_rows == ()
    assert (run.folder / "report.html").exists()
    explanation = resight.explain(run.folder, data=tiny, model=Brittle())
    assert len(explanation.failed) == 1
    assert explanation.files[-1] == "report.html"


class Keyed(nn.Module):
    """Gives its last layer the features by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.last = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(input=self.conv(images).mean(dim=(2, 3)))
        return logits


def test_an_error_in_a_step_does_not_cost_the_training(tmp_path: Path, tiny: Dataset) -> None:
    notes: list[str] = []

    def on_event(event: object) -> None:
        if isinstance(event, Message):
            notes.append(event.text)
        if isinstance(event, Progress) and event.task.startswith("heat maps"):
            raise PermissionError(13, "no")

    run = resight.train(
        explained_recipe(), data=tiny, model=Keyed(), out=tmp_path, on_event=on_event
    )
    assert run.predictions is not None
    assert "heat maps failed: PermissionError: [Errno 13] no" in notes
    assert (run.folder / "gallery" / "gallery.json").exists()
    assert (run.folder / "report.html").exists()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("figure too large"), "ValueError: figure too large"),
        (AssertionError(), "AssertionError"),
        (MemoryError(), "MemoryError"),
        (ResightError("full"), "full"),
    ],
)
def test_a_step_that_fails_is_one_line_of_the_log(error: Exception, line: str) -> None:
    log = StepLog()
    with log.step("heat maps", "heatmaps.csv"):
        raise error
    assert log.files == []
    assert log.failed == [f"heat maps failed: {line}"]


def test_an_error_in_on_event_does_not_cost_the_training(tmp_path: Path, tiny: Dataset) -> None:
    def on_event(event: object) -> None:
        assert not list(tmp_path.glob("*/mistakes.csv"))

    run = resight.train(
        explained_recipe(), data=tiny, model=Keyed(), out=tmp_path, on_event=on_event
    )
    assert run.predictions is not None
    assert (run.folder / "report.html").exists()


def test_ctrl_c_ends_the_explanation_and_not_the_run(tmp_path: Path, tiny: Dataset) -> None:
    notes: list[str] = []

    def on_event(event: object) -> None:
        if isinstance(event, Message):
            notes.append(event.text)
        if isinstance(event, Progress):
            raise KeyboardInterrupt

    run = resight.train(explained_recipe(), data=tiny, out=tmp_path, on_event=on_event)
    assert not run.interrupted
    assert run.test.images == len(tiny.test)
    assert (run.folder / "report.html").exists()
    assert notes[-1].startswith("the run is complete, but explaining it was interrupted; `resight")


def test_the_recipe_knows_every_method() -> None:
    assert set(get_args(Method)) == set(METHODS)


def test_the_explanation_can_be_switched_off(trained_run: resight.Run) -> None:
    names = {path.name for path in trained_run.folder.iterdir()}
    assert not names & {"mistakes.csv", "report.html", "gallery"}


def test_layers_of_the_recipe_are_checked_before_training(tmp_path: Path, tiny: Dataset) -> None:
    for layer, problem in (("block9", "there is no layer"), ("head.fc", "puts out no map")):
        recipe = explained_recipe(f'explain.layers=["{layer}"]')
        with pytest.raises(UsageError, match=problem):
            resight.train(recipe, data=tiny, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_stopped_run_is_not_explained(trained_copy: Path, tiny: Dataset) -> None:
    file = trained_copy / "summary.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "test": None}))
    with pytest.raises(ResightError, match="was stopped before its end"):
        resight.explain(trained_copy, data=tiny)


def test_a_run_without_its_predictions_is_not_explained(trained_copy: Path, tiny: Dataset) -> None:
    (trained_copy / "predictions.npz").unlink()
    with pytest.raises(ResightError, match=r"no predictions\.npz .*so it cannot be explained"):
        resight.explain(trained_copy, data=tiny)


def test_data_that_is_not_the_runs_is_refused(trained_copy: Path, tiny: Dataset) -> None:
    other = Dataset("other", tiny.classes, tiny.train, tiny.test.select(torch.arange(9)))
    with pytest.raises(UsageError, match="not what the run was tested on"):
        resight.explain(trained_copy, data=other)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"rank": "losss"}, "rank = 'losss'; did you mean \"loss\"? (valid: loss, confidence,"),
        ({"label": "disc"}, "label = 'disc' is for pictures of your own"),
        ({"images": ["a.png"], "rank": "margin"}, "rank = margin is for the run's own test set"),
        ({"images": ["a.png"], "count": 3}, "images = 3 is for the run's own test set"),
        ({"images": ["a.png"], "data": "digits"}, "data = digits is for the run's own test set"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused_first(
    arguments: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=re.escape(problem)):
        resight.explain(tmp_path / "gone", **arguments)


# --- your own pictures --------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    paths = [tmp_path / "a" / "photo.png", tmp_path / "b" / "photo.png"]
    for path in paths:
        path.parent.mkdir()
        Image.fromarray(pixels).save(path)
    return paths


def test_pictures_go_into_a_new_folder(trained_copy: Path, photos: list[Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained_copy.rglob("*")}
    one = resight.explain(trained_copy, photos[:1])
    two = resight.explain(trained_copy, photos, method="eigen-cam", layers=["block1"])
    assert one.folder == trained_copy / "explain-photo"
    assert one.files == ("photo_grad-cam.png",)
    assert two.folder == trained_copy / "explain-photo-2"
    assert two.files == (
        "pictures_eigen-cam.png",
        "001-photo_eigen-cam.png",
        "002-photo_eigen-cam.png",
    )
    for explanation in (one, two):
        names = {path.name for path in explanation.folder.iterdir()}
        assert names == set(explanation.files)
        for name in names:
            with Image.open(explanation.folder / name) as image:
                image.load()
    after = {path: path.stat().st_mtime_ns for path in before if path != trained_copy}
    assert after == {path: time for path, time in before.items() if path != trained_copy}


def test_a_lone_layer_and_a_lone_picture_need_no_list(
    trained_copy: Path, photos: list[Path]
) -> None:
    for picture in (photos[0], str(photos[0])):
        explanation = resight.explain(trained_copy, picture, layers="block1")
        assert explanation.layers == ("block1 7x7",)
        assert explanation.files == ("photo_grad-cam.png",)


def test_with_a_label_a_picture_is_right_or_wrong(trained_copy: Path, photos: list[Path]) -> None:
    (prediction,) = resight.predict(trained_copy, photos[:1])
    ranking = [name for name, _ in prediction.ranking]
    wrong = resight.explain(trained_copy, photos[:1], label=ranking[2])
    assert [(one.true, one.pred) for one in wrong.mistakes] == [(ranking[2], ranking[0])]
    assert resight.explain(trained_copy, photos[:1], label=ranking[0]).mistakes == ()
    with pytest.raises(UsageError, match="there is no class 'disk'; did you mean \"disc\""):
        resight.explain(trained_copy, photos, label="disk")


# --- the command ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny: Dataset) -> Path:
    """A run whose data is a file, so that the command finds it."""
    out = tmp_path_factory.mktemp("runs")
    recipe, data = out / "small.toml", out / "tiny.npz"
    recipe.write_text(resight.to_toml(explained_recipe()))
    arrays = {
        f"{name}_{kind}": array.numpy()
        for kind, split in (("train", tiny.train), ("test", tiny.test))
        for name, array in (("x", split.images.permute(0, 2, 3, 1)), ("y", split.labels))
    }
    np.savez(data, **arrays, classes=np.array(tiny.classes))
    arguments = ["train", str(recipe), "--data", str(data), "--out", str(out), "--name", "a"]
    assert main([*arguments, "--quiet"]) == 0
    return out / "a"


def test_the_command(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["explain", str(done), "--layers", "block1", "block2", "--images", "2"]) == 0
    out, err = capsys.readouterr()
    assert "heat maps   grad-cam at block1 7x7, block2 3x3" in out
    assert f"written     {done / 'report.html'}" in out
    assert "taken for" in out
    assert "heat maps of 31 images" in err


def test_the_command_as_json(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(done), "--json", "--quiet", "--rank", "confidence"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["folder"] == str(done)
    confidences = [mistake["confidence"] for mistake in content["mistakes"]]
    assert confidences == sorted(confidences, reverse=True)
    assert len(content["mistakes"]) == len(rows_of(done / "mistakes.csv"))


def test_the_command_for_a_picture(
    done: Path, photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(done), str(photos[0]), "--method", "layercam", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith("explain-photo/photo_layercam.png")


@pytest.mark.skipif(sys.platform != "linux", reason="names need not be UTF-8")
def test_the_command_for_a_name_that_is_no_utf_8(
    done: Path, photos: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    odd = photos[0].rename(photos[0].parent / os.fsdecode(b"photo\xff.png"))
    assert main(["explain", str(done), str(odd), "--quiet"]) == 0
    assert r"explain-photo\udcff" in capsys.readouterr().out


def test_the_command_fails_where_a_step_does(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "copy"
    shutil.copytree(done, run)
    (run / "confused_pairs.png").unlink()
    (run / "confused_pairs.png").mkdir()
    assert main(["explain", str(run), "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("resight: confused_pairs.png failed: cannot write ")
    assert f"written     {run / 'report.html'}" in out
