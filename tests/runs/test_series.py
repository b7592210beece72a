"""Several runs in one folder: kept, resumed, compared; and predictions out of fold."""

import json
from pathlib import Path

import numpy as np
import pytest

import resight
from resight.cli.app import main
from resight.datasets import Dataset
from resight.errors import UsageError
from resight.experiment.many_runs import labels_recipe
from resight.metrics.intervals import mean_interval
from resight.metrics.mistakes import label_issues
from resight.runs.parts import read_predictions
from resight.runs.series import check_same, seed_recipes
from tiny_runs import tiny_recipe

QUICK = ("schedule.epochs=1",)


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def folds(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> resight.CrossValidation:
    """Three folds of one epoch."""
    out = tmp_path_factory.mktemp("folds")
    return resight.cross_validate(tiny_recipe(*QUICK), folds=3, data=tiny, out=out)


@pytest.mark.slow
def test_a_second_call_keeps_finished_seeds_and_resumes_a_stopped_one(
    tiny: Dataset, tmp_path: Path
) -> None:
    recipe = tiny_recipe()
    seen: list[str] = []

    def kill(event: object) -> None:
        if isinstance(event, resight.events.EpochDone):
            seen.append("epoch")
            if len(seen) == 3:  # the first of the second run
                raise Killed

    with pytest.raises(Killed):
        resight.train_seeds(recipe, seeds=2, data=tiny, out=tmp_path, on_event=kill)
    folder = tmp_path / f"{recipe.name}-seeds"
    kept = (folder / "seed0" / "best.safetensors").stat().st_mtime_ns
    assert resight.Run.open(folder / "seed1").predictions is None
    series = resight.train_seeds(recipe, seeds=2, data=tiny, out=tmp_path)
    assert (folder / "seed0" / "best.safetensors").stat().st_mtime_ns == kept
    assert [run.recipe.seed for run in series.runs] == [0, 1]
    assert series.accuracy == mean_interval([run.test.accuracy.value for run in series.runs])
    assert "recipe 1: mean of 2 runs" in (folder / "README.md").read_text()
    changed = resight.with_overrides(recipe, ["optimizer.lr=0.01"])
    with pytest.raises(UsageError, match=r"seed0 ran with another optimizer\.lr"):
        resight.train_seeds(changed, seeds=2, data=tiny, out=tmp_path)


@pytest.mark.slow
def test_out_of_fold_predictions_are_those_of_each_fold_by_its_run(
    folds: resight.CrossValidation, tiny: Dataset
) -> None:
    predictions = folds.predictions
    assert predictions is not None
    assert predictions.ids == tiny.train.ids
    assert predictions.labels.tolist() == tiny.train.labels.tolist()
    rows = {id: row for row, id in enumerate(predictions.ids)}
    right = 0
    for run in folds.runs:  # each run scored its fold after its epoch: an independent count
        scored = resight.evaluate(run, data=tiny, split="val").predictions
        assert np.allclose(predictions.logits[[rows[id] for id in scored.ids]], scored.logits)
        right += int(scored.correct.sum())
    assert folds.out_of_fold is not None
    assert folds.out_of_fold.n == len(tiny.train)
    assert folds.out_of_fold.value == pytest.approx(right / len(tiny.train))


@pytest.mark.slow
def test_what_a_cross_validation_leaves_in_its_folder(folds: resight.CrossValidation) -> None:
    stored = read_predictions(folds.folder / "predictions.npz", images=91)
    assert folds.predictions is not None
    assert np.array_equal(stored.logits, folds.predictions.logits)
    lines = (folds.folder / "label_issues.csv").read_text().splitlines()
    assert lines[0].startswith("id,given,suggested")
    assert len(lines) == 1 + len(label_issues(folds.predictions))
    page = (folds.folder / "README.md").read_text()
    assert "out-of-fold accuracy" in page
    assert "the interval of their mean is too narrow" in page
    assert json.dumps(folds.to_dict())


@pytest.mark.slow
def test_the_page_of_a_cross_validation_is_of_its_training_images(
    folds: resight.CrossValidation, tmp_path: Path
) -> None:
    page = folds.folder / "report.html"
    text = page.read_text()
    assert "out-of-fold accuracy" in text
    assert 'id="training"' not in text
    gallery = json.loads((folds.folder / "gallery" / "gallery.json").read_text())
    assert gallery["images"] == 91
    before = page.read_bytes()
    assert resight.report(folds.folder).read_bytes() == before  # from the files alone
    with pytest.raises(UsageError, match=r"holds no recipe\.toml"):
        resight.Run.open(folds.folder)
    assert "corrected" in str(folds)  # data in memory has no recipe of its own: in Python
    assert not (folds.folder / "corrected.toml").exists()


@pytest.mark.slow
def test_labels_go_from_data_to_a_recipe_on_corrected_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--epochs", "1", "--set", "model.widths=[8,8,8]"]
    quick += ["--set", "explain.report=false", "--set", "explain.pictures=false"]
    command = ["labels", "digits", "--folds", "2", *quick]
    assert main(command) == 0
    output = capsys.readouterr().out
    folder = Path("runs") / "digits-labels"
    assert f"resight train {folder}/corrected.toml" in output
    weights = folder / "fold1" / "best.safetensors"
    written = weights.stat().st_mtime_ns
    assert main(["labels", "digits", "--folds", "2", *quick, "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["likely_wrong"] <= result["label_issues"]
    assert weights.stat().st_mtime_ns == written
    train = resight.data("digits").train
    (folder / "labels.csv").write_text(f"id,label\n{train.ids[0]},{(train.labels[0] + 1) % 10}\n")
    assert main(["train", str(folder / "corrected.toml"), "--name", "after", "--quiet"]) == 0
    after = resight.Run.open("runs/after")
    assert after.recipe.data.relabel == str(tmp_path / folder / "labels.csv")
    assert after.recipe.explain.report is False  # as the flags had it
    assert after.summary is not None
    assert "labels.csv changes: 1 (1 train)" in after.summary.data.notes[0]


@pytest.mark.parametrize(
    ("side", "name"), [(32, "swift-s"), (16, "swift")], ids=["CIFAR-10's size", "small"]
)
def test_the_recipe_of_labels_fits_the_data(side: int, name: str) -> None:
    images = np.random.default_rng(0).integers(0, 255, (20, side, side, 3), dtype=np.uint8)
    assert labels_recipe(resight.data(images, [0, 1] * 10)) == name
    assert labels_recipe("digits") == "digits"


def test_labels_refuse_what_they_cannot_read_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in (
        (["labels", "digit"], "did you mean"),
        (["labels", "digits", "swift-x"], 'no recipe "swift-x"'),
        (["labels", "digits", "--folds", "1"], "folds = 1 must be 2 to 100"),
    ):
        assert main([*words, "--out", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_runs_of_one_cross_validation_are_one_recipe(folds: resight.CrossValidation) -> None:
    assert folds.comparison is not None
    [group] = folds.comparison.groups
    assert group.runs == ("fold0", "fold1", "fold2")
    assert group.mean == pytest.approx(np.mean([run.test.accuracy.value for run in folds.runs]))


def test_runs_of_an_imported_network_go_on(tmp_path: Path, tiny: Dataset) -> None:
    """A run writes the digest of the file that it imported, which the preset does not have."""
    recipe = resight.load_recipe("probe")
    ran = resight.with_overrides(recipe, [f"model.digest={'a' * 64}"])
    (tmp_path / "seed0").mkdir()
    (tmp_path / "seed0" / "recipe.toml").write_text(resight.to_toml(ran))
    check_same(tmp_path, recipe, tiny)
    other = resight.with_overrides(recipe, [f"model.digest={'b' * 64}"])
    with pytest.raises(UsageError, match=r"ran with another model\.digest"):
        check_same(tmp_path, other, tiny)


def test_seeds_count_from_that_of_the_recipe() -> None:
    recipes = seed_recipes(tiny_recipe("seed=3"), 2)
    assert {name: recipe.seed for name, recipe in recipes.items()} == {"seed3": 3, "seed4": 4}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "0"], "seeds = 0 must be 1 to 100"),
        (["--folds", "1"], "folds = 1 must be 2 to 100"),
        (["--seeds", "2", "--folds", "2"], "--seeds and --folds contradict each other"),
        (["--seeds", "2", "--force"], "--seeds and --force contradict each other"),
        (["--folds", "2", "--find-lr"], "--folds and --find-lr contradict each other"),
        (["--folds", "2", "--dry-run"], "--folds and --dry-run contradict each other"),
        (["--minutes", "1", "--epochs", "2"], "--minutes and --epochs contradict each other"),
        (["--minutes", "-1"], "minutes = -1.0 must be a number > 0"),
    ],
)
def test_flags_that_make_no_sense(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "digits", "--out", str(tmp_path), *flags]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
