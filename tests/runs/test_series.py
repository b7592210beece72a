"""Several runs in one folder: kept, resumed, compared; and predictions out of fold."""

import json
from pathlib import Path

import numpy as np
import pytest

import resight
from resight.cli.app import main
from resight.datasets import Dataset
from resight.errors import UsageError
from resight.metrics.intervals import mean_interval
from resight.metrics.mistakes import label_issues
from resight.runs.parts import read_predictions
from resight.runs.series import seed_recipes
from tiny_runs import tiny_recipe

QUICK = ("schedule.epochs=1", "explain.report=false")


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
    recipe = tiny_recipe("explain.report=false")
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
def test_runs_of_one_cross_validation_are_one_recipe(folds: resight.CrossValidation) -> None:
    assert folds.comparison is not None
    [group] = folds.comparison.groups
    assert group.runs == ("fold0", "fold1", "fold2")
    assert group.mean == pytest.approx(np.mean([run.test.accuracy.value for run in folds.runs]))


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
