"""A published project again: its recipe over several seeds, its figures, described beside reached.

reproductions/resnet18-plateau/
  README.md          what was reported and what was reached, side by side
  accuracy.png       validation accuracy of every seed over the published curve
  lr_find.png  schedule.png  zigzag.png     where the project's page shows them
  seed0/  seed1/     run folders, with every other figure
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import figures
from ..datasets import Dataset
from ..errors import ResightError, UsageError
from ..events import Message, OnEvent
from ..figures.curves import draw_schedule
from ..files import write_text
from ..lr_finder.find import lr_find
from ..metrics.intervals import Interval, mean_interval
from ..optim.curve import schedule, trace
from ..recipe import Recipe
from ..recipe.presets import get_preset
from ..recipe.presets.published import PublishedProject, get_published
from ..recipe.toml import differences, to_toml, with_changes, with_epochs, with_overrides
from .run import Run
from .summary import DataSummary

OWN_FIGURES = {  # beside the run folders
    "schedule.png": "schedule, before training",
    "lr_find.png": "learning-rate finder",
    "zigzag.png": "zigzag of the cyclic schedule",
}
FIGURES = {  # in a run folder -> what the projects show by it
    "curves.png": "accuracy and loss of every epoch",
    "rates.png": "learning rate and momentum as run",
    "confusion_matrix.png": "confusion matrix",
    "misclassified.png": "misclassified images",
    "misclassified_grad-cam.png": "Grad-CAM of the same misclassified images, at several layers",
    "correct.png": "correctly classified images",
    "correct_grad-cam.png": "Grad-CAM of these, at several layers",
}


@dataclass(frozen=True)
class Reproduction:
    """What came of a recipe over its seeds. An interrupted one has fewer runs than seeds."""

    name: str
    folder: Path
    recipe: Recipe
    published: PublishedProject
    runs: tuple[Run, ...]  # the finished ones
    accuracy: Interval | None  # test: of one run over its images, of several over the runs
    interrupted: bool


def project_recipe(
    name: str, *, all_train: bool, epochs: int | None, overrides: Sequence[str]
) -> Recipe:
    """Return the recipe of a published project, with what a reproduction may change."""
    get_published(name)  # other recipes have nothing to be put beside
    recipe = get_preset(name)
    if epochs is not None:
        recipe = with_epochs(recipe, epochs)
    if all_train:
        changes = {"data": {"val_fraction": "none"}, "training": {"select": "last"}}
        recipe = with_changes(recipe, changes, origin="--all-train")
    return with_overrides(recipe, overrides)


def check_same(folder: Path, recipe: Recipe, dataset: Dataset) -> None:
    """Make the folder; refuse to mix the runs of two recipes, or of two data sets, in it."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "data.json"
    if not mark.exists():
        write_text(mark, json.dumps({"name": dataset.name, "fingerprint": dataset.fingerprint}))
    elif json.loads(mark.read_text(encoding="utf-8"))["fingerprint"] != dataset.fingerprint:
        raise UsageError(f"{folder} has runs of other data; choose another --out")
    may = {"seed", "data.source"}
    for setting in ("micro_batch", "precision"):
        if getattr(recipe.training, setting) == "auto":  # a run has what was measured
            may.add(f"training.{setting}")
    for path in sorted(folder.glob("seed*/recipe.toml")):
        changed = differences(Run(path.parent).recipe, recipe)
        odd = [setting for setting in changed if setting not in may]
        if odd:
            raise UsageError(
                f"{path.parent} ran with another {', '.join(odd[:3])}; choose another --out"
            )


def conclude(name: str, folder: Path, recipe: Recipe, runs: Sequence[Run]) -> Reproduction:
    """Return what the runs over all seeds reach together."""
    finished = tuple(run for run in runs if not run.interrupted)
    accuracies = [run.test.accuracy for run in finished]
    interval = accuracies[0] if len(accuracies) == 1 else None
    if len(accuracies) > 1:
        interval = mean_interval([accuracy.value for accuracy in accuracies])
    interrupted = len(finished) < len(runs)
    return Reproduction(name, folder, recipe, get_published(name), finished, interval, interrupted)


def write_reproduction(
    result: Reproduction, dataset: Dataset, *, device: str, on_event: OnEvent
) -> None:
    """Write the figures and the page of a reproduction into its folder."""
    _draw(result, dataset)
    wants_range_test = result.published.lr_finder and not result.interrupted
    if wants_range_test and not (result.folder / "lr_find.png").exists():
        _draw_range_test(result, dataset, device=device, on_event=on_event)
    write_text(result.folder / "README.md", page(result))


def _draw(result: Reproduction, dataset: Dataset) -> None:
    folder, recipe = result.folder, result.recipe
    curves = {f"seed {run.folder.name[4:]}": _validation_curve(run) for run in result.runs}
    figure = figures.compare_accuracy(
        {"published, test": result.published.points, **{k: v for k, v in curves.items() if v}},
        title=f"{result.name}: validation accuracy of this run, test accuracy as published",
    )
    figures.save(figure, folder / "accuracy.png")
    train_images = len(dataset.train) * (1 - (recipe.data.val_fraction or 0))
    draw_schedule(
        result.name, [trace(schedule(recipe, images=round(train_images)))], folder / "schedule.png"
    )
    if result.published.zigzag:
        zigzag = with_changes(recipe, {"schedule": {"name": "triangular"}}, origin="zigzag")
        draw_schedule(
            result.name,
            [trace(schedule(zigzag, images=round(train_images)))],
            folder / "zigzag.png",
        )


def _draw_range_test(
    result: Reproduction, dataset: Dataset, *, device: str, on_event: OnEvent
) -> None:
    """The range test that the project's page shows; one without an answer is only a note."""
    try:
        curve = lr_find(result.recipe, data=dataset, device=device, on_event=on_event)
        figures.save(figures.lr_curve(curve), result.folder / "lr_find.png")
    except ResightError as error:
        on_event(Message(f"no range test to show: {error}"))
        return
    write_text(result.folder / "lr_find.json", json.dumps(curve.to_dict()))


def _validation_curve(run: Run) -> dict[int, float]:
    rows = run.history.epochs
    return {row.epoch: row.val_accuracy for row in rows if row.val_accuracy is not None}


# --- the page -------------------------------------------------------------------------------


def page(result: Reproduction) -> str:
    """Return the Markdown page: reported and reached, and where each figure is."""
    recipe = result.recipe
    lines = [f"# {result.name}, reproduced", ""]
    if result.interrupted:
        lines += ["**Stopped before its end.** The same command goes on.", ""]
    lines += _table_lines(result)
    chosen = "that validation chose."
    if not recipe.data.val_fraction:
        chosen = "of the last epoch: nothing was held out to choose by."
    lines += ["", f"Reached is on the test set, read once, by the weights {chosen}", ""]
    lines += ["![accuracy](accuracy.png)", ""]
    lines += ["| figure | file |", "| --- | --- |"]
    for file, what in OWN_FIGURES.items():
        if (result.folder / file).exists():
            lines.append(f"| {what} | [{file}]({file}) |")
    for folder in [run.folder for run in result.runs[:1]]:
        for file, what in FIGURES.items():
            if (folder / file).exists():
                lines.append(f"| {what} | [{folder.name}/{file}]({folder.name}/{file}) |")
    changed = differences(recipe, get_preset(result.name))
    changed.pop("data.source", None)
    if changed:
        lines += ["", f"Set otherwise than in `{result.name}`: {', '.join(map(_code, changed))}."]
    lines += ["", "```toml", to_toml(recipe).strip(), "```"]
    return "\n".join(lines) + "\n"


def _table_lines(result: Reproduction) -> list[str]:
    published = result.published
    summaries = [run.summary for run in result.runs if run.summary]
    accuracy = result.accuracy
    reached = "-" if accuracy is None else _interval_text(accuracy, len(result.runs))
    best = _list([summary.best_epoch or 0 for summary in summaries])
    secs = _list([summary.train_secs for summary in summaries], " s")
    images = _data_text(summaries[0].data if summaries else None)
    train = _train_accuracy(result.runs)
    return [
        "| | as published | reached here |",
        "| --- | --- | --- |",
        f"| test accuracy | {published.accuracy:.2%}, best epoch by the test set | {reached} |",
        f"| epochs | {published.epochs} | {result.recipe.schedule.epochs} |",
        f"| best epoch | {published.best_epoch or '-'} | {best} |",
        f"| train accuracy | {_percent(published.train_accuracy)} | {train} |",
        f"| images | 50,000 to train on, original pixels | {images} |",
        f"| training time | - | {secs} |",
    ]


def _code(setting: str) -> str:
    return f"`{setting}`"


def _interval_text(interval: Interval, runs: int) -> str:
    count = f"n = {interval.n:,} images, one run" if runs == 1 else f"mean of {runs} runs"
    return f"{interval.value:.2%} ({interval.low:.2%} to {interval.high:.2%}, {count})"


def _list(numbers: Sequence[float], unit: str = "") -> str:
    return ", ".join(f"{number:,.0f}{unit}" for number in numbers) or "-"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _train_accuracy(runs: Sequence[Run]) -> str:
    last = [run.history.epochs[-1].train_accuracy for run in runs]
    return ", ".join(f"{share:.2%}" for share in last) + " (augmented images)" if last else "-"


def _data_text(data: DataSummary | None) -> str:
    if data is None:
        return "-"
    return (
        f"{data.train:,} to train on, {data.val:,} held out, {data.test:,} to test, "
        f"from {Path(data.source).name}"
    )
