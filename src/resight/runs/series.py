"""Several runs of one recipe in one folder: over seeds, or over the folds of a cross-validation.

runs/digits-seeds/
  README.md          what the runs reach, and how they differ: what `resight compare` prints
  data.json          which data they are of
  seed0/  seed1/     run folders

The folder over a cross-validation also has the out-of-fold predictions: see `folds`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..datasets import Dataset
from ..errors import UsageError
from ..events import Message, OnEvent
from ..files import json_text, remove_leftovers, write_text
from ..metrics.intervals import Interval, mean_interval
from ..recipe import Recipe
from ..recipe.toml import differences, to_toml, with_changes
from .compare import compare
from .comparison import Comparison
from .parts import DAMAGE, read_json
from .run import Run

MAX_RUNS = 100


@dataclass(frozen=True, kw_only=True)
class Series:
    """The runs of one recipe. If it was interrupted, it has fewer runs than were asked for."""

    folder: Path
    recipe: Recipe
    runs: tuple[Run, ...]  # the finished ones
    interrupted: bool

    @property
    def accuracy(self) -> Interval | None:
        """The test accuracy: of one run over its images, of several over the runs."""
        accuracies = [run.test.accuracy for run in self.runs]
        if len(accuracies) > 1:
            return mean_interval([accuracy.value for accuracy in accuracies])
        return accuracies[0] if accuracies else None

    @cached_property
    def comparison(self) -> Comparison | None:
        """The runs side by side; None before there are two."""
        return compare(self.runs) if len(self.runs) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Return the accuracies as plain Python, fit for JSON."""
        return {
            "folder": str(self.folder),
            "accuracy": self.accuracy and asdict(self.accuracy),
            "interrupted": self.interrupted,
            "comparison": self.comparison and self.comparison.to_dict(),
        }

    def __str__(self) -> str:
        parts = [str(self.comparison)] if self.comparison else [str(run) for run in self.runs]
        return "\n\n".join([*parts, f"page {self.folder / 'README.md'}"])


def seed_recipes(recipe: Recipe, seeds: int) -> dict[str, Recipe]:
    """Return a recipe with as many seeds, from its own on, by the names of their run folders.

    Raises:
        UsageError: the number of seeds is not 1 to 100.
    """
    if not 1 <= seeds <= MAX_RUNS:
        raise UsageError(f"seeds = {seeds} must be 1 to {MAX_RUNS}; 3 give an interval")
    return {
        f"seed{seed}": with_changes(recipe, {"seed": seed}, origin="seeds")
        for seed in range(recipe.seed, recipe.seed + seeds)
    }


def run_each(
    folder: Path,
    recipes: Mapping[str, Recipe],
    *,
    train: Callable[[Recipe, str], Run],
    resume: Callable[[Path], Run],
    on_event: OnEvent,
) -> tuple[Run, ...]:
    """Train each recipe into the run folder of its name, unless it is there; return the runs.

    A finished run is kept, and a stopped one resumed. After an interrupted run no other begins, and
    it is not returned.
    """
    runs: list[Run] = []
    for k, (name, recipe) in enumerate(recipes.items(), 1):
        path = folder / name
        if not path.exists():
            on_event(Message(f"{path}: run {k} of {len(recipes)}"))
            run = train(recipe, name)
        elif not is_complete(run := Run.open(path)):
            on_event(Message(f"{path}: run {k} of {len(recipes)}, which goes on"))
            run = resume(path)
        if run.interrupted:
            break
        runs.append(run)
    return tuple(runs)


def check_same(folder: Path, recipe: Recipe, dataset: Dataset) -> None:
    """Make the folder; refuse to mix the runs of two recipes, or of two data sets, in it.

    Seed and fold are what runs of one recipe may differ in.
    """
    if (folder / "recipe.toml").exists():
        raise UsageError(f"{folder} is the folder of a run; choose another --name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make the folder {folder}: {error.strerror}; choose another --out"
        ) from error
    remove_leftovers(folder)
    mark = folder / "data.json"
    if not mark.exists():
        write_text(mark, json_text({"name": dataset.name, "fingerprint": dataset.fingerprint}))
    elif _fingerprint_in(mark) != dataset.fingerprint:
        raise UsageError(f"{folder} has runs of other data; choose another --out")
    may = {"seed", "data.source", "data.fold.index"}
    for setting in ("micro_batch", "precision"):
        if getattr(recipe.training, setting) == "auto":  # a run has what was measured
            may.add(f"training.{setting}")
    if not getattr(recipe.model, "digest", None):  # a run has that of the file it imported
        may.add("model.digest")
    for path in sorted(folder.glob("[!.]*/recipe.toml")):
        changed = differences(Run(path.parent).recipe, recipe)
        odd = [setting for setting in changed if setting not in may]
        if odd:
            raise UsageError(
                f"{path.parent} ran with another {', '.join(odd[:3])}; choose another --out"
            )


def is_complete(run: Run) -> bool:
    """Whether a run of a series has its result, and its explanation if its recipe wants one.

    Of the files that a run leaves, `summary.json` is the last, and `report.html` of those that
    explain it.
    """
    explained = (run.folder / "report.html").exists() or not run.recipe.explain.report
    return run.predictions is not None and explained


def _fingerprint_in(mark: Path) -> str:
    try:
        return str(read_json(mark)["fingerprint"])
    except DAMAGE as error:
        raise UsageError(
            f"{mark}, which names the data of the runs beside it, is damaged ({error}); remove it "
            "if all of them ran on this data, or choose another --out"
        ) from error


def write_series(result: Series) -> None:
    """Write the page of a series into its folder."""
    lines = [f"# Runs of the recipe `{result.recipe.name}`", ""]
    if result.interrupted:
        lines += ["**Stopped before its end.** The same command goes on.", ""]
    lines += ["```text", str(result).rpartition("\n\n")[0], "```", ""]
    lines += [f"- [{run.folder.name}]({run.folder.name}/)" for run in result.runs]
    lines += ["", "```toml", to_toml(result.recipe).strip(), "```"]
    write_text(result.folder / "README.md", "\n".join(lines) + "\n")
