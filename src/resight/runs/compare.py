"""Several runs side by side: what they reach, where their recipes differ, which images flipped.

Made from the run folders alone. Runs of one recipe and data that differ in the seed
alone are a group; what only changes the explanation does not count.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..cli.listings import comparison_text
from ..errors import UsageError
from ..metrics.intervals import Interval, mean_difference, mean_interval, paired_difference
from ..recipe import Recipe
from ..recipe.toml import differences
from ..records import IntArray, Predictions
from .run import Run

MAY_DIFFER = ("name", "seed", "data.source", "explain.")  # between runs of one recipe


@dataclass(frozen=True)
class RecipeGroup:
    """Runs of one recipe over seeds.

    Intervals are over runs and need two that are not the same. The seed does not decide the
    weights of a network that was passed in from Python, so each such run is a group of its own.
    """

    runs: tuple[str, ...]
    mean: float  # test accuracy, in [0, 1]
    interval: Interval | None
    difference: Interval | None  # of the mean, to that of the first group


@dataclass(frozen=True)
class Flips:
    """A run against the first, image by image."""

    run: str
    difference: Interval  # of the accuracies, over images
    gained: IntArray  # rows of the test set that the first has wrong and this one right
    lost: IntArray  # the other way round
    by_class: dict[str, int]  # images gained minus lost, of each true class


@dataclass(frozen=True, repr=False)
class Comparison:
    """Runs that were tested on the same images; printed, it is a table."""

    names: tuple[str, ...]  # as short as they can be
    runs: tuple[Run, ...]
    groups: tuple[RecipeGroup, ...]
    settings: dict[str, tuple[Any, ...]]  # path -> its value in each group, where they differ
    flips: tuple[Flips, ...]  # of every run but the first
    notes: tuple[str, ...]  # what to know of it, one line each

    def __repr__(self) -> str:
        return comparison_text(self)

    @cached_property
    def predictions(self) -> tuple[Predictions, ...]:
        """The predictions of each run, of the same images."""
        return tuple(run.predictions for run in self.runs if run.predictions is not None)

    @property
    def flipped(self) -> IntArray:
        """Rows of the images that one run has right and another has not."""
        right = np.stack([predictions.correct for predictions in self.predictions])  # (runs, N)
        return np.flatnonzero(right.any(axis=0) & ~right.all(axis=0))

    def to_dict(self) -> dict[str, Any]:
        """Return all but the predictions, fit for JSON; flips by the ids of their images."""
        ids = self.predictions[0].ids
        return {
            "runs": [_run_dict(name, run) for name, run in zip(self.names, self.runs, strict=True)],
            "groups": [asdict(group) for group in self.groups],
            "settings": {path: list(values) for path, values in self.settings.items()},
            "flips": [
                {
                    "run": flips.run,
                    "difference": asdict(flips.difference),
                    "gained": [ids[row] for row in flips.gained],
                    "lost": [ids[row] for row in flips.lost],
                    "by_class": flips.by_class,
                }
                for flips in self.flips
            ],
            "notes": list(self.notes),
        }


def compare(runs: Sequence[str | Path | Run]) -> Comparison:
    """Put finished runs side by side; the first is what the rest are compared with.

    The interval of a difference between two runs is over images: it says which of two networks is
    better. Which recipe is better takes several seeds of each, and the interval over those, which
    holds for these test images.

    Raises:
        UsageError: fewer than two runs, one twice, one that is no run or has not read its test
            set, or runs that were tested on images of other names or labels.
    """
    if len(runs) < 2:
        raise UsageError(f"{len(runs)} given, but comparing takes at least 2 runs; see `ls runs/`")
    opened = tuple(run if isinstance(run, Run) else Run.open(run) for run in runs)
    if len({run.folder.resolve() for run in opened}) < len(opened):
        raise UsageError("a run was named twice; name different run folders")
    for run in opened:
        _check_finished(run)
    for run in opened[1:]:
        _check_same_images(opened[0], run)
    names = _names([run.folder for run in opened])
    groups = _groups(opened)
    return Comparison(
        names=names,
        runs=opened,
        groups=_recipe_groups(groups, dict(zip(opened, names, strict=True))),
        settings=_settings_that_differ([group[0].recipe for group in groups]),
        flips=tuple(
            _flips(name, run, opened[0]) for name, run in zip(names[1:], opened[1:], strict=True)
        ),
        notes=_notes(opened, names, groups),
    )


def _run_dict(name: str, run: Run) -> dict[str, Any]:
    assert run.summary is not None  # `compare` takes finished runs only
    summary = run.summary
    return {
        "name": name,
        "folder": str(run.folder),
        "seed": run.recipe.seed,
        "test": {"accuracy": asdict(run.test.accuracy), "loss": run.test.loss},
        "validation": summary.validation and asdict(summary.validation),
        "epochs": summary.epochs,
        "train_secs": summary.train_secs,
    }


def _check_finished(run: Run) -> None:
    if run.predictions is None:
        lines = ("No result", "No test accuracy", "No images", "summary.json", "predictions.npz")
        why = next(line for line in run.missing if line.startswith(lines))
        raise UsageError(f"{run.folder} cannot be compared. {why}")


def _tested(run: Run) -> Predictions:
    assert run.predictions is not None  # `_check_finished`
    return run.predictions


def _check_same_images(first: Run, second: Run) -> None:
    one, two = _tested(first), _tested(second)
    if (one.ids, one.classes) == (two.ids, two.classes) and (one.labels == two.labels).all():
        return
    pairs = [
        [f"{id} ({side.classes[k]})" for id, k in zip(side.ids, side.labels, strict=True)]
        for side in (one, two)
    ]
    apart = next((f"{a} and {b}" for a, b in zip(*pairs, strict=False) if a != b), "none")
    raise UsageError(
        f"{first.folder} and {second.folder} were not tested on the same images: "
        f"{len(one.ids):,} of {len(one.classes)} classes and {len(two.ids):,} of "
        f"{len(two.classes)}, the first to differ {apart}; compare runs of one test set"
    )


def _names(folders: Sequence[Path]) -> tuple[str, ...]:
    """Folder names; where two are the same, paths."""
    names = tuple(folder.resolve().name for folder in folders)
    return names if len(set(names)) == len(names) else tuple(map(str, folders))


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of each recipe."""
    groups: list[list[Run]] = []
    for run in runs:
        custom = run.recipe.model.name == "custom"  # its recipe has no more than its class
        for group in groups:
            same = _fingerprint(run) == _fingerprint(group[0])
            if same and not custom and not _differences(run.recipe, group[0].recipe):
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def _differences(recipe: Recipe, other: Recipe) -> dict[str, tuple[Any, Any]]:
    """The settings by which they are two recipes."""
    changed = differences(recipe, other)
    return {path: pair for path, pair in changed.items() if not path.startswith(MAY_DIFFER)}


def _fingerprint(run: Run) -> str:
    assert run.summary is not None  # `compare` takes finished runs only
    return run.summary.data.fingerprint


def _settings_that_differ(recipes: Sequence[Recipe]) -> dict[str, tuple[Any, ...]]:
    changed = [_differences(recipe, recipes[0]) for recipe in recipes]
    settings = {}
    for path in dict.fromkeys(path for changes in changed for path in changes):
        first = next(changes[path][0] for changes in changed if path in changes)
        settings[path] = tuple(
            changes[path][1] if path in changes else first for changes in changed
        )
    return settings


def _recipe_groups(
    groups: Sequence[Sequence[Run]], names: dict[Run, str]
) -> tuple[RecipeGroup, ...]:
    accuracies = [[float(_tested(run).correct.mean()) for run in group] for group in groups]
    first = accuracies[0]
    drawn = [len({run.recipe.seed for run in group}) == len(group) > 1 for group in groups]
    return tuple(
        RecipeGroup(
            runs=tuple(names[run] for run in group),
            mean=float(np.mean(values)),
            interval=_share(mean_interval(values)) if drawn[k] and len(set(values)) > 1 else None,
            difference=(
                mean_difference(first, values)
                if k and drawn[0] and drawn[k] and max(len(set(first)), len(set(values))) > 1
                else None
            ),
        )
        for k, (group, values) in enumerate(zip(groups, accuracies, strict=True))
    )


def _share(interval: Interval) -> Interval:
    return replace(interval, low=max(0.0, interval.low), high=min(1.0, interval.high))


def _flips(name: str, run: Run, first_run: Run) -> Flips:
    first, here = _tested(first_run), _tested(run)
    won = here.correct.astype(np.int64) - first.correct  # (N,) of -1, 0, 1
    net = np.bincount(first.labels, weights=won, minlength=len(first.classes))
    return Flips(
        run=name,
        difference=paired_difference(first.correct, here.correct),
        gained=np.flatnonzero(won > 0),
        lost=np.flatnonzero(won < 0),
        by_class={label: int(count) for label, count in zip(first.classes, net, strict=True)},
    )


def _notes(
    runs: Sequence[Run], names: Sequence[str], groups: Sequence[Sequence[Run]]
) -> tuple[str, ...]:
    notes, name_of = [], dict(zip(runs, names, strict=True))
    for group in groups:
        seeds = sorted((run.recipe.seed, name_of[run]) for run in group)
        notes += [
            f"{one} and {two} have the same seed, so they are not two draws: no interval"
            for (seed, one), (again, two) in pairwise(seeds)
            if seed == again
        ]
    notes += [
        f"the data of {name_of[run]} is not that of {names[0]}, though the ids of its test images "
        "are"
        for run in runs
        if _fingerprint(run) != _fingerprint(runs[0])
    ]
    if len(groups) > 1 and any(len(group) == 1 for group in groups):
        notes.append(
            "An interval over images tells which of two networks is better; which recipe is better "
            "takes several seeds of each."
        )
    return tuple(notes)
