"""Several runs side by side: what they reach, where their recipes differ, which images flipped.

Made from the run folders alone. Runs of one recipe and data that differ in the seed
or the fold alone are a group; what only changes the explanation does not count.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..metrics.classification import balanced_accuracy, balanced_difference
from ..metrics.intervals import mean_difference, mean_interval, paired_difference
from ..recipe import Recipe
from ..recipe.toml import differences
from ..records import Predictions
from .comparison import Comparison, Flips, OverSeeds, RecipeGroup, finished_result
from .run import Run

# Between runs of one recipe.
MAY_DIFFER = (
    *("name", "seed", "data.source", "data.fold.index"),
    *("training.checkpoint_minutes", "explain."),
)


def compare(runs: Sequence[str | Path | Run]) -> Comparison:
    """Put finished runs side by side; every run is compared with the first.

    The interval of a difference between two runs is over images: it says which of two networks is
    better. Which recipe is better takes several seeds of each, and the interval over those, which
    holds for these test images. Where two recipes have the same seeds, their runs are paired by
    seed: what a seed does to both is no part of the difference then.

    Raises:
        UsageError: fewer than two runs, one twice, one that is no run or has not read its test
            set, or runs that were tested on images of other names or labels.
    """
    if len(runs) < 2:
        raise UsageError(f"{len(runs)} given, but comparing takes at least 2 runs; see `ls runs/`")
    opened = tuple(run if isinstance(run, Run) else Run.open(run) for run in runs)
    if len({run.folder.resolve() for run in opened}) < len(opened):
        raise UsageError("a run was named twice; name different run folders")
    first, *rest = [finished_result(run)[1] for run in opened]
    for run, predictions in zip(opened[1:], rest, strict=True):
        _check_same_images(opened[0].folder, first, run.folder, predictions)
    short = tuple(run.folder.resolve().name for run in opened)
    names = short if len(set(short)) == len(short) else tuple(str(run.folder) for run in opened)
    name_of = dict(zip(opened, names, strict=True))
    groups = _groups(opened)
    return Comparison(
        names=names,
        runs=opened,
        groups=_recipe_groups(groups, name_of),
        settings=_settings_that_differ([group[0].recipe for group in groups]),
        flips=tuple(
            _flips(*pair, first, imbalanced=opened[0].test.imbalanced)
            for pair in zip(names[1:], rest, strict=True)
        ),
        notes=_notes(groups, name_of),
    )


def _check_same_images(folder: Path, one: Predictions, other: Path, two: Predictions) -> None:
    if (one.ids, one.classes) == (two.ids, two.classes) and (one.labels == two.labels).all():
        return
    pairs = [
        [f"{id} ({side.classes[k]})" for id, k in zip(side.ids, side.labels, strict=True)]
        for side in (one, two)
    ]
    apart = next((f"{a} and {b}" for a, b in zip(*pairs, strict=False) if a != b), "none")
    raise UsageError(
        f"{folder} and {other} were not tested on the same images: "
        f"{len(one):,} of {len(one.classes)} classes and {len(two):,} of "
        f"{len(two.classes)}, the first to differ {apart}; compare runs of one test set"
    )


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


def _draw(run: Run) -> tuple[int, int]:
    """What is drawn by chance for a run: its seed, and its fold; -1 without folds."""
    fold = run.recipe.data.fold
    return run.recipe.seed, -1 if fold is None else fold.index


def _fingerprint(run: Run) -> str:
    return finished_result(run)[0].data.fingerprint


def _settings_that_differ(recipes: Sequence[Recipe]) -> dict[str, tuple[Any, ...]]:
    """Path -> the value of each recipe, where any differs from the first."""
    changed = [_differences(recipe, recipes[0]) for recipe in recipes]
    first = {path: pair[0] for changes in changed for path, pair in changes.items()}
    return {
        path: tuple(changes.get(path, (None, value))[1] for changes in changed)
        for path, value in first.items()
    }


def _recipe_groups(
    groups: Sequence[Sequence[Run]], name_of: dict[Run, str]
) -> tuple[RecipeGroup, ...]:
    groups = [sorted(group, key=_draw) for group in groups]  # so that pairs stand at equal places
    draws = [[_draw(run) for run in group] for group in groups]
    accuracies = [[run.test.accuracy.value for run in group] for group in groups]
    balanced: Sequence[OverSeeds | None] = [None] * len(groups)
    if groups[0][0].test.imbalanced:
        predictions = [[finished_result(run)[1] for run in group] for group in groups]
        values = [[balanced_accuracy(p).value for p in group] for group in predictions]
        balanced = _over_seeds(values, draws)
    return tuple(
        RecipeGroup(**vars(accuracy), runs=tuple(name_of[run] for run in group), balanced=means)
        for group, accuracy, means in zip(
            groups, _over_seeds(accuracies, draws), balanced, strict=True
        )
    )


def _over_seeds(
    values: Sequence[Sequence[float]], draws: Sequence[Sequence[tuple[int, int]]]
) -> list[OverSeeds]:
    """The means of each recipe's shares; intervals where it has several seeds, each once."""
    several = [len(set(group)) == len(group) > 1 for group in draws]
    result = []
    for k, shares in enumerate(values):
        interval = difference = None
        gains = [b - a for a, b in zip(values[0], shares, strict=False)]
        # Equal gains say nothing about the spread of further ones.
        paired = k > 0 and several[k] and draws[k] == draws[0] and len(set(gains)) > 1
        if several[k] and len(set(shares)) > 1:
            mean = mean_interval(shares)
            interval = replace(mean, low=max(0.0, mean.low), high=min(1.0, mean.high))
        if paired:
            difference = mean_interval(gains)
        elif k and several[0] and several[k] and max(len(set(values[0])), len(set(shares))) > 1:
            difference = mean_difference(values[0], shares)
        deviation = float(np.std(shares, ddof=1)) if several[k] else None
        result.append(
            OverSeeds(float(np.mean(shares)), deviation, interval, difference, paired=paired)
        )
    return result


def _flips(name: str, here: Predictions, first: Predictions, *, imbalanced: bool) -> Flips:
    won = here.correct.astype(np.int64) - first.correct  # (N,) of -1, 0, 1
    net = np.bincount(first.labels, weights=won, minlength=len(first.classes))
    return Flips(
        run=name,
        difference=paired_difference(first.correct, here.correct),
        gained=np.flatnonzero(won > 0),
        lost=np.flatnonzero(won < 0),
        by_class={label: int(count) for label, count in zip(first.classes, net, strict=True)},
        balanced=balanced_difference(first, here) if imbalanced else None,
    )


def _notes(groups: Sequence[Sequence[Run]], name_of: dict[Run, str]) -> tuple[str, ...]:
    notes = []
    for group in groups:
        draws = sorted((_draw(run), name_of[run]) for run in group)
        notes += [
            f"{one} and {two} have the same seed, so they are not two draws: no interval"
            for (draw, one), (again, two) in pairwise(draws)
            if draw == again
        ]
    if any(len({_draw(run)[1] for run in group}) > 1 for group in groups):
        notes.append(
            "Runs of a cross-validation share most training images, so the interval of their mean "
            "is too narrow (Bengio and Grandvalet 2004)."
        )
    first = next(iter(name_of))
    notes += [
        f"the data of {name} is not that of {name_of[first]}, though the ids of its test images are"
        for run, name in name_of.items()
        if _fingerprint(run) != _fingerprint(first)
    ]
    if len(groups) > 1 and any(len(group) == 1 for group in groups):
        notes.append(
            "An interval over images tells which of two networks is better; which recipe is better "
            "takes several seeds of each."
        )
    return tuple(notes)
