"""Stratified cross-validation: a run a fold, and the out-of-fold predictions of all of them.

runs/digits-5-folds/
  fold0/  fold1/ ...       run folders; the fold of each is its validation split
  predictions.npz, .csv    every training image, by the run that was not trained on it
  label_issues.csv, .png   training labels that may be wrong, from these predictions
  mistakes.csv, confusion_matrix.png, ...     as in a run folder, of these predictions
  gallery/, report.html    a page to look at the training images, and to mark their labels
  corrected.toml           the recipe, on the labels of labels.csv, which that page saves
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from .. import figures
from ..datasets import Dataset, Split
from ..datasets.originals import display_images, images_as_pictures
from ..datasets.splits import in_fold
from ..errors import UsageError
from ..files import write_csv, write_text
from ..metrics.classification import accuracy, test_result
from ..metrics.intervals import Interval
from ..metrics.mistakes import LabelIssue, Mistake, csv_rows, label_issues, mistakes, num_wrong
from ..recipe import Recipe
from ..recipe.toml import to_toml, with_changes
from ..records import Float32Array, ImageArray, IntArray, Predictions
from ..training.device import pick_device
from .checkpoint import load_model
from .gallery import write_gallery
from .inference import predict_images
from .results import draw_predictions
from .run import Run
from .series import Series
from .summary import Summary


@dataclass(frozen=True, kw_only=True)
class CrossValidation(Series):
    """The runs of a cross-validation, and what each predicts of the images of its fold.

    predictions: of every training image by a network that was not trained on it, in the order of
    the data set; None before all runs are finished.
    """

    predictions: Predictions | None

    @property
    def out_of_fold(self) -> Interval | None:
        """The accuracy of the out-of-fold predictions, over all training images.

        Each fold chose the epoch of its run, unless the recipe has `training.select = "last"`, so
        it is slightly too high.
        """
        return accuracy(self.predictions) if self.predictions else None

    @cached_property
    def label_issues(self) -> tuple[LabelIssue, ...]:
        """The training labels that may be wrong, the likeliest first."""
        return tuple(label_issues(self.predictions)) if self.predictions else ()

    def to_dict(self) -> dict[str, Any]:
        """Return the accuracies and the number of label issues as plain Python, fit for JSON."""
        return {
            **super().to_dict(),
            "out_of_fold": self.out_of_fold and asdict(self.out_of_fold),
            "label_issues": len(self.label_issues),
            "likely_wrong": num_wrong(self.label_issues),
        }

    def __str__(self) -> str:
        shares, page = self.out_of_fold, super().__str__()
        if shares is None or self.predictions is None:
            return page
        chosen = self.recipe.training.select
        biased = "" if chosen == "last" else f", whose folds also chose the epochs ({chosen})"
        accuracy = (
            f"out-of-fold accuracy {shares.value:.2%} ({shares.low:.2%} to {shares.high:.2%}) of "
            f"{shares.n:,} training images{biased}"
        )
        return f"{accuracy}\n{self._labels()}\n\n{page}"

    def _labels(self) -> str:
        """Return what is to be done about labels that may be wrong."""
        issues, folder = self.label_issues, self.folder
        if not issues:
            return f"no training label looks wrong; all images are in {folder / 'report.html'}"
        go_on = "give it to `resight.corrected(dataset, relabel=...)`"
        if (folder / "corrected.toml").exists():
            go_on = (
                f"save it into {folder}/, then go on with\nresight train {folder}/corrected.toml"
            )
        return (
            f"{len(issues):,} training labels may be wrong, and about {num_wrong(issues):,} are: "
            f"{folder / 'label_issues.csv'}\n"
            f"mark them in {folder / 'report.html'}, which makes labels.csv; {go_on}"
        )


def fold_recipes(recipe: Recipe, folds: int) -> dict[str, Recipe]:
    """Return a recipe with each fold for validation, by the names of their run folders.

    Raises:
        UsageError: the number of folds is not 2 to 100.
    """
    if not 2 <= folds <= 100:
        raise UsageError(f"folds = {folds} must be 2 to 100; 5 is usual")
    return {
        f"fold{index}": with_changes(
            recipe, {"data": {"fold": {"index": index, "count": folds}}}, origin="folds"
        )
        for index in range(folds)
    }


def predict_out_of_fold(runs: Sequence[Run], dataset: Dataset, *, device: str) -> Predictions:
    """Return the predictions of all training images, each by the run of its fold.

    `runs` are of every fold of one cross-validation on `dataset`.
    """
    train = dataset.train
    logits: Float32Array = np.zeros((len(train), len(dataset.classes)), np.float32)  # (N, K)
    for run in runs:
        fold = run.recipe.data.fold
        assert fold is not None
        rows = in_fold(train, fold, run.recipe.seed).nonzero().flatten()
        # The recipe of the person who asks for this may import a network: it was trained just now.
        model, info = load_model(run.folder, None, pick_device(device), allow_import=True)
        logits[rows.numpy()] = predict_images(model, train.select(rows), info).logits
    return Predictions(train.ids, logits, train.labels.cpu().numpy(), dataset.classes)


def write_out_of_fold(
    folder: Path, runs: Sequence[Run], predictions: Predictions, images: Split
) -> None:
    """Write out-of-fold predictions, label issues, figures and what the page shows into a folder.

    `images` are what was predicted; `runs` are those of all folds.
    """
    run, options = Run(folder), runs[0].recipe.explain
    run.write_predictions(predictions)
    write_csv(folder / "mistakes.csv", csv_rows(Mistake, mistakes(predictions)))
    issues = label_issues(predictions)
    write_csv(folder / "label_issues.csv", csv_rows(LabelIssue, issues))
    draw_predictions(folder, predictions, images, options)
    sheet = folder / "label_issues.png"
    sheet.unlink(missing_ok=True)
    if first := issues[: options.images]:
        shown = display_images(images, np.array([issue.row for issue in first]))
        title = "Is it the label? Training images, the likeliest first"
        figure = figures.label_issue_sheet(shown.pictures, first, [], title, notes=shown.notes)
        figures.save(figure, sheet)
    write_gallery(
        folder,
        images_as_pictures(images),
        predictions,
        rows=np.zeros(0, np.int64),
        maps=[],
        method=options.method,
        photos=partial(_photos, images) if images.originals else None,
    )
    run.write_json("summary.json", _summary(runs, predictions).to_dict())


def write_corrected_recipe(folder: Path, recipe: Recipe, source: str | Path | None) -> None:
    """Write `corrected.toml`: the recipe, on the labels of `labels.csv` in the folder.

    `source` is the data, None for that of the recipe.
    """
    changes = {"source": str(source or recipe.data.source), "relabel": str(folder / "labels.csv")}
    changed = with_changes(recipe, {"data": changes}, origin="labels")
    write_text(folder / "corrected.toml", to_toml(changed))


def _photos(images: Split, rows: IntArray, px: int) -> tuple[ImageArray, int]:
    """The pictures of rows at up to `px`, and how many of them only have what the network saw."""
    shown = display_images(images, rows, px=px)
    return shown.pictures, shown.num_stand_ins


def _summary(runs: Sequence[Run], predictions: Predictions) -> Summary:
    """The result of the out-of-fold predictions, as a run's summary has it of the test set."""
    summaries = [run.summary for run in runs if run.summary]
    first = summaries[0]
    return replace(
        first,
        data=replace(first.data, train=len(predictions), val=0, test=0),
        validation=None,
        test=test_result(predictions),
        train_secs=sum(summary.train_secs for summary in summaries),
        confidence=None,
        predicted="train",
    )
