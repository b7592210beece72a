"""A published project, reproduced: its recipe over several seeds, beside what was reported.

reproductions/resnet18-plateau/
  README.md          what was reported and what was reached, side by side
  accuracy.png       validation accuracy of every seed over the published curve
  lr_find.png  schedule.png  zigzag.png     where the project's page shows them
  seed0/  seed1/     run folders, with every other figure
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .. import figures
from ..datasets import Dataset
from ..errors import ResightError
from ..events import Message, OnEvent
from ..figures.curves import draw_schedule
from ..files import json_text, write_text
from ..lr_finder.find import lr_find
from ..optim.curve import schedule, trace
from ..recipe import Recipe
from ..recipe.presets import get_preset
from ..recipe.presets.published import PublishedProject, get_published
from ..recipe.sources import source_name
from ..recipe.toml import differences, to_toml, with_changes, with_epochs, with_overrides
from .series import Series

OWN_FIGURES = {  # beside the run folders
    "schedule.png": "schedule, before training",
    "lr_find.png": "learning-rate finder",
    "zigzag.png": "zigzag of the cyclic schedule",
}
FIGURES = {  # in a run folder -> the figure that the projects show
    "curves.png": "accuracy and loss of every epoch",
    "rates.png": "learning rate and momentum as run",
    "confusion_matrix.png": "confusion matrix",
    "misclassified.png": "misclassified images",
    "misclassified_grad-cam.png": "Grad-CAM of the same misclassified images, at several layers",
    "correct.png": "correctly classified images",
    "correct_grad-cam.png": "Grad-CAM of these, at several layers",
}


@dataclass(frozen=True, kw_only=True)
class Reproduction(Series):
    """The result of a published recipe over its seeds."""

    name: str

    @property
    def published(self) -> PublishedProject:
        """The project whose recipe this is, or that its recipe changes."""
        return get_published(self.name)

    def to_dict(self) -> dict[str, Any]:
        """Return the accuracies as plain Python, fit for JSON."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "published": self.published.accuracy,
            "reached": self.accuracy and asdict(self.accuracy),
            "interrupted": self.interrupted,
        }

    def __str__(self) -> str:
        reached = self.accuracy
        text = f"{reached.value:.2%} ({reached.low:.2%} to {reached.high:.2%})" if reached else "-"
        return (
            f"{self.name}: published {self.published.accuracy:.2%}, reached {text}\n"
            f"page {self.folder / 'README.md'}"
        )


def project_recipe(
    name: str, *, all_train: bool, epochs: int | None, overrides: Sequence[str]
) -> Recipe:
    """Return the recipe of a published project, with the changes that a reproduction allows.

    Raises:
        UsageError: not one of the projects, or a setting that does not exist.
    """
    get_published(name)  # another recipe has no published accuracy
    recipe = get_preset(name)
    if epochs is not None:
        recipe = with_epochs(recipe, epochs)
    if all_train:
        changes = {"data": {"val_fraction": "none"}, "training": {"select": "last"}}
        recipe = with_changes(recipe, changes, origin="--all-train")
    return with_overrides(recipe, overrides)


def write_reproduction(
    result: Reproduction, dataset: Dataset, *, device: str, on_event: OnEvent
) -> None:
    """Write the figures and the page of a reproduction into its folder."""
    folder, recipe, published = result.folder, result.recipe, result.published
    curves = {"published, test": published.points}
    for run in result.runs:
        rows = run.history.epochs
        curve = {row.epoch: row.val_accuracy for row in rows if row.val_accuracy is not None}
        if curve:
            curves[f"seed {run.folder.name[4:]}"] = curve
    title = f"{result.name}: validation accuracy of this run, test accuracy as published"
    figures.save(figures.compare_accuracy(curves, title=title), folder / "accuracy.png")
    images = round(len(dataset.train) * (1 - (recipe.data.val_fraction or 0)))
    schedules = {"schedule.png": recipe}
    if published.zigzag:
        changes = {"schedule": {"name": "triangular"}}
        schedules["zigzag.png"] = with_changes(recipe, changes, origin="zigzag")
    for file, changed in schedules.items():
        draw_schedule(result.name, [trace(schedule(changed, images=images))], folder / file)
    if published.lr_finder and not result.interrupted and not (folder / "lr_find.png").exists():
        try:
            lr_curve = lr_find(recipe, data=dataset, device=device, on_event=on_event)
            write_text(folder / "lr_find.json", json_text(lr_curve.to_dict()))
            figures.save(figures.lr_curve(lr_curve), folder / "lr_find.png")  # says that both are
        except ResightError as error:
            on_event(Message(f"no range test to show: {error}"))
    write_text(folder / "README.md", _page(result))


def _page(result: Reproduction) -> str:
    """The Markdown page: the published and the reached results, and the path of each figure."""
    lines = [f"# {result.name}, reproduced", ""]
    if result.interrupted:
        lines += ["**Stopped before its end.** The same command goes on.", ""]
    lines += _table_lines(result)
    chosen = "that validation chose."
    if not result.recipe.data.val_fraction:
        chosen = "of the last epoch: nothing was held out to choose by."
    lines += ["", f"Reached is on the test set, read once, by the weights {chosen}", ""]
    lines += ["![accuracy](accuracy.png)", "", "| figure | file |", "| --- | --- |"]
    paths = OWN_FIGURES
    if result.runs:
        first = result.runs[0].folder.name
        paths = paths | {f"{first}/{file}": text for file, text in FIGURES.items()}
    lines += [
        f"| {text} | [{path}]({path}) |"
        for path, text in paths.items()
        if (result.folder / path).exists()
    ]
    changed = differences(result.recipe, get_preset(result.name))
    changed.pop("data.source", None)
    if changed:
        settings = ", ".join(f"`{setting}`" for setting in changed)
        lines += ["", f"Set otherwise than in `{result.name}`: {settings}."]
    lines += ["", "```toml", to_toml(result.recipe).strip(), "```"]
    return "\n".join(lines) + "\n"


def _table_lines(result: Reproduction) -> list[str]:
    published, accuracy = result.published, result.accuracy
    summaries = [run.summary for run in result.runs if run.summary]
    reached = images = "-"
    if accuracy is not None:
        runs = len(result.runs)
        count = f"n = {accuracy.n:,} images, one run" if runs == 1 else f"mean of {runs} runs"
        reached = f"{accuracy.value:.2%} ({accuracy.low:.2%} to {accuracy.high:.2%}, {count})"
    if summaries:
        data = summaries[0].data
        images = (
            f"{data.train:,} to train on, {data.val:,} held out, {data.test:,} to test, "
            f"from {source_name(data.source)}"
        )
    best = ", ".join(str(summary.best_epoch or 0) for summary in summaries)
    secs = ", ".join(f"{summary.train_secs:,.0f} s" for summary in summaries)
    train = ", ".join(f"{run.history.epochs[-1].train_accuracy:.2%}" for run in result.runs)
    if train:
        train += " (augmented images)"
    published_train = "-" if published.train_accuracy is None else f"{published.train_accuracy:.2%}"
    return [
        "| | as published | reached here |",
        "| --- | --- | --- |",
        f"| test accuracy | {published.accuracy:.2%}, best epoch by the test set | {reached} |",
        f"| epochs | {published.epochs} | {result.recipe.schedule.epochs} |",
        f"| best epoch | {published.best_epoch or '-'} | {best or '-'} |",
        f"| train accuracy | {published_train} | {train or '-'} |",
        f"| images | 50,000 to train on, original pixels | {images} |",
        f"| training time | - | {secs or '-'} |",
    ]
