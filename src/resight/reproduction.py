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
from typing import Any

from . import figures
from .datasets import Dataset
from .errors import ResightError, UsageError
from .events import Message, OnEvent
from .experiment import resume, train
from .figures.curves import draw_schedule
from .files import write_text
from .lr_finder.find import lr_find
from .metrics.classification import Interval, mean_interval
from .optim.curve import schedule, trace
from .recipe import Recipe
from .recipe.presets import get_preset
from .recipe.presets.published import PublishedProject, get_published
from .recipe.toml import differences, to_toml, with_changes, with_epochs, with_overrides
from .runs.run import RunFolder
from .training.setup import load_dataset

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
    """What came of a recipe over its seeds. An interrupted one has fewer summaries than seeds."""

    name: str
    folder: Path
    recipe: Recipe
    published: PublishedProject
    summaries: tuple[dict[str, Any], ...]  # of the finished runs
    accuracy: Interval | None  # test: of one run over its images, of several over the runs
    interrupted: bool


def reproduce(
    name: str,
    *,
    data: Dataset | str | Path | None = None,
    seeds: int = 1,
    all_train: bool = False,
    epochs: int | None = None,
    overrides: Sequence[str] = (),
    out: str | Path = "reproductions",
    device: str = "auto",
    devices: int = 1,
    offline: bool = False,
    on_event: OnEvent | None = None,
) -> Reproduction:
    """Run the recipe of a published project and put what it reaches beside what was reported.

    Called again it goes on: finished seeds are kept, one that was stopped is resumed. `all_train`
    holds nothing out and keeps the last epoch; `epochs` shrinks the run, for a first look;
    `overrides` such as `training.precision=bf16` are for what the description leaves open.

    Raises:
        UsageError: not one of the projects, no seeds, or another recipe ran in that folder.
    """
    on_event = on_event or (lambda event: None)
    recipe = _recipe(name, all_train=all_train, epochs=epochs, overrides=overrides)
    if seeds < 1:
        raise UsageError(f"seeds = {seeds} must be at least 1; 3 give an interval")
    dataset = load_dataset(recipe, data, offline=offline, on_event=on_event)
    if data is not None and not isinstance(data, Dataset):
        recipe = with_changes(recipe, {"data": {"source": str(data)}}, origin=name)
    folder = Path(out) / name
    folder.mkdir(parents=True, exist_ok=True)
    _check_same(folder, recipe, dataset)
    given = data if isinstance(data, Dataset) else None
    runs, interrupted = [], False
    for seed in range(seeds):
        seeded = with_changes(recipe, {"seed": seed}, origin=name)
        on_event(Message(f"{name}, seed {seed}"))
        path = folder / f"seed{seed}"
        if not path.exists():
            run = train(
                seeded, data=given, out=folder, name=path.name, device=device, devices=devices,
                offline=offline, on_event=on_event,
            )  # fmt: skip
            interrupted = run.interrupted
        elif not (path / "summary.json").exists() or not RunFolder(path).read_summary()["test"]:
            run = resume(
                path, data=given, device=device, devices=devices, offline=offline, on_event=on_event
            )
            interrupted = run.interrupted
        if interrupted:
            break
        runs.append(path)
    done = _conclude(name, folder, recipe, runs, interrupted=interrupted)
    _draw(done, dataset, runs)
    write_text(folder / "README.md", page(done, runs))
    if done.published.lr_finder and not interrupted and not (folder / "lr_find.png").exists():
        _draw_range_test(done, dataset, device=device, on_event=on_event)
        write_text(folder / "README.md", page(done, runs))
    return done


def _recipe(name: str, *, all_train: bool, epochs: int | None, overrides: Sequence[str]) -> Recipe:
    get_published(name)  # other recipes have nothing to be put beside
    recipe = get_preset(name)
    if epochs is not None:
        recipe = with_epochs(recipe, epochs)
    if all_train:
        changes = {"data": {"val_fraction": "none"}, "training": {"select": "last"}}
        recipe = with_changes(recipe, changes, origin="--all-train")
    return with_overrides(recipe, overrides)


def _check_same(folder: Path, recipe: Recipe, dataset: Dataset) -> None:
    """Refuse to mix the runs of two recipes, or of two data sets, in one folder."""
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
        changed = differences(RunFolder(path.parent).recipe, recipe)
        odd = [setting for setting in changed if setting not in may]
        if odd:
            raise UsageError(
                f"{path.parent} ran with another {', '.join(odd[:3])}; choose another --out"
            )


def _conclude(
    name: str, folder: Path, recipe: Recipe, runs: Sequence[Path], *, interrupted: bool
) -> Reproduction:
    summaries = tuple(RunFolder(path).read_summary() for path in runs)
    accuracies = [summary["test"]["accuracy"] for summary in summaries]
    interval = None
    if len(accuracies) == 1:
        interval = Interval(**accuracies[0])
    elif accuracies:
        interval = mean_interval([a["value"] for a in accuracies])
    return Reproduction(name, folder, recipe, get_published(name), summaries, interval, interrupted)


def _draw(done: Reproduction, dataset: Dataset, runs: Sequence[Path]) -> None:
    folder, recipe = done.folder, done.recipe
    curves = {f"seed {path.name[4:]}": _validation_curve(path) for path in runs}
    figure = figures.compare_accuracy(
        {"published, test": done.published.points, **{k: v for k, v in curves.items() if v}},
        title=f"{done.name}: validation accuracy of this run, test accuracy as published",
    )
    figures.save(figure, folder / "accuracy.png")
    train_images = len(dataset.train) * (1 - (recipe.data.val_fraction or 0))
    draw_schedule(
        done.name, [trace(schedule(recipe, images=round(train_images)))], folder / "schedule.png"
    )
    if done.published.zigzag:
        zigzag = with_changes(recipe, {"schedule": {"name": "triangular"}}, origin="zigzag")
        draw_schedule(
            done.name, [trace(schedule(zigzag, images=round(train_images)))], folder / "zigzag.png"
        )


def _draw_range_test(
    done: Reproduction, dataset: Dataset, *, device: str, on_event: OnEvent
) -> None:
    """The range test that the project's page shows; one without an answer is only a note."""
    try:
        curve = lr_find(done.recipe, data=dataset, device=device, on_event=on_event)
        figures.save(figures.lr_curve(curve), done.folder / "lr_find.png")
    except ResightError as error:
        on_event(Message(f"no range test to show: {error}"))
        return
    write_text(done.folder / "lr_find.json", json.dumps(curve.to_dict()))


def _validation_curve(path: Path) -> dict[int, float]:
    rows = map(json.loads, (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["epoch"]: row["val_accuracy"] for row in rows if row["val_accuracy"] is not None}


# --- the page -------------------------------------------------------------------------------


def page(done: Reproduction, runs: Sequence[Path]) -> str:
    """The Markdown page of a reproduction: reported and reached, and where each figure is."""
    said, recipe = done.published, done.recipe
    data = done.summaries[0]["data"] if done.summaries else None
    lines = [f"# {done.name}, reproduced", ""]
    if done.interrupted:
        lines += ["**Stopped before its end.** The same command goes on.", ""]
    lines += ["| | as published | reached here |", "| --- | --- | --- |"]
    reached = "-" if done.accuracy is None else _interval_text(done.accuracy, len(done.summaries))
    lines += [
        f"| test accuracy | {said.accuracy:.2%}, best epoch by the test set | {reached} |",
        f"| epochs | {said.epochs} | {recipe.schedule.epochs} |",
        f"| best epoch | {said.best_epoch or '-'} | {_listed(done, 'best_epoch')} |",
        f"| train accuracy | {_percent(said.train_accuracy)} | {_train_accuracy(runs)} |",
        f"| images | 50,000 to train on, original pixels | {_data_text(data)} |",
        f"| training time | - | {_listed(done, 'train_secs', ' s')} |",
        "",
        "Reached is on the test set, read once, by the weights "
        + (
            "that validation chose."
            if recipe.data.val_fraction
            else "of the last epoch: nothing was held out to choose by."
        ),
        "",
    ]
    lines += ["![accuracy](accuracy.png)", ""]
    lines += ["| figure | file |", "| --- | --- |"]
    for file, what in OWN_FIGURES.items():
        if (done.folder / file).exists():
            lines.append(f"| {what} | [{file}]({file}) |")
    for path in runs[:1]:
        for file, what in FIGURES.items():
            if (path / file).exists():
                lines.append(f"| {what} | [{path.name}/{file}]({path.name}/{file}) |")
    changed = differences(recipe, get_preset(done.name))
    changed.pop("data.source", None)
    if changed:
        lines += ["", f"Set otherwise than in `{done.name}`: {', '.join(map(_code, changed))}."]
    lines += ["", "```toml", to_toml(recipe).strip(), "```"]
    return "\n".join(lines) + "\n"


def _code(setting: str) -> str:
    return f"`{setting}`"


def _interval_text(found: Interval, runs: int) -> str:
    of = f"n = {found.n:,} images, one run" if runs == 1 else f"mean of {runs} runs"
    return f"{found.value:.2%} ({found.low:.2%} to {found.high:.2%}, {of})"


def _listed(done: Reproduction, key: str, unit: str = "") -> str:
    return ", ".join(f"{summary[key]:,.0f}{unit}" for summary in done.summaries) or "-"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _train_accuracy(runs: Sequence[Path]) -> str:
    last = [
        json.loads((path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        for path in runs
    ]
    shown = ", ".join(f"{row['train_accuracy']:.2%}" for row in last)
    return f"{shown} (augmented images)" if shown else "-"


def _data_text(data: dict[str, Any] | None) -> str:
    if data is None:
        return "-"
    return (
        f"{data['train']:,} to train on, {data['val']:,} held out, {data['test']:,} to test, "
        f"from {Path(data['source']).name}"
    )
