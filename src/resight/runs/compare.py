"""Several runs side by side: what they reach, where their recipes differ, which images flipped.

Made from the run folders alone. Runs of one recipe and data that differ in the seed
alone are a group; what only changes the explanation does not count.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..metrics.intervals import Interval, mean_difference, mean_interval, paired_difference
from ..recipe import Recipe
from ..recipe.toml import differences
from ..records import Predictions
from .comparison import Comparison, Flips, RecipeGroup
from .run import Run

MAY_DIFFER = ("name", "seed", "data.source", "explain.")  # between runs of one recipe


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
