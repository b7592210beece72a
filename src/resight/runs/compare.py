"""Several runs side by side: what they reach, where their recipes differ, which images flipped.

Made from the run folders alone. Runs of one recipe and data that differ in the seed are one
setting; what only changes the explanation does not count.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..cli.listings import comparison_text
from ..errors import UsageError
from ..metrics.classification import Interval, mean_difference, mean_interval, paired_difference
from ..recipe import Recipe
from ..recipe.toml import differences
from ..records import IntArray
from .gallery import Gallery
from .reading import Answers, read_run

_APART = ("name", "seed", "data.source", "explain.")  # what may differ within a setting


@dataclass(frozen=True)
class Finished:
    """A run that has read its test set, and a name for it that is as short as it can be."""

    name: str
    folder: Path
    recipe: Recipe
    summary: dict[str, Any]
    answers: Answers
    gallery: Gallery | None


@dataclass(frozen=True)
class RecipeGroup:
    """Runs of one recipe over seeds.

    Intervals are over runs and need two that are not the same; of a module of one's own, whose
    weights the seed does not decide, every run is a setting.
    """

    runs: tuple[str, ...]
    mean: float  # test accuracy, in [0, 1]
    interval: Interval | None
    difference: Interval | None  # of the mean, to that of the first setting


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

    runs: tuple[Finished, ...]
    groups: tuple[RecipeGroup, ...]
    settings: dict[str, tuple[Any, ...]]  # path -> its value in each setting, where they differ
    flips: tuple[Flips, ...]  # of every run but the first
    notes: tuple[str, ...]  # what to know of it, one line each

    def __repr__(self) -> str:
        return comparison_text(self)

    @property
    def flipped(self) -> IntArray:
        """Rows of the images that one run has right and another has not."""
        right = np.stack([run.answers.right for run in self.runs])  # (runs, N)
        return np.flatnonzero(right.any(axis=0) & ~right.all(axis=0))

    def to_dict(self) -> dict[str, Any]:
        """All of it but the answers, fit for JSON; flips by the ids of their images."""
        ids = self.runs[0].answers.ids
        return {
            "runs": [
                {
                    "name": run.name,
                    "folder": str(run.folder),
                    "seed": run.recipe.seed,
                    "test": {key: run.summary["test"][key] for key in ("accuracy", "loss")},
                    "validation": run.summary["validation"],
                    "epochs": run.summary["epochs"],
                    "train_secs": run.summary["train_secs"],
                }
                for run in self.runs
            ],
            "groups": [asdict(of) for of in self.groups],
            "settings": {path: list(values) for path, values in self.settings.items()},
            "flips": [
                {
                    "run": of.run,
                    "difference": asdict(of.difference),
                    "gained": [ids[row] for row in of.gained],
                    "lost": [ids[row] for row in of.lost],
                    "by_class": of.by_class,
                }
                for of in self.flips
            ],
            "notes": list(self.notes),
        }


def compare(runs: Sequence[str | Path]) -> Comparison:
    """Put finished runs side by side; the first is what the others are compared with.

    The interval of a difference between two runs is over images: it says which of two networks is
    better. Which recipe is better takes several seeds of each, and the interval over those, which
    holds for these test images.

    Raises:
        UsageError: fewer than two runs, one twice, one that is no run or has not read its test
            set, or runs that were tested on images of other names or labels.
    """
    folders = tuple(Path(run) for run in runs)
    if len(folders) < 2:
        raise UsageError(
            f"{len(folders)} given, but comparing takes at least 2 runs; see `ls runs/`"
        )
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("a run was named twice; name different run folders")
    found = tuple(map(_finished, _names(folders), folders))
    for run in found[1:]:
        _check_same_images(found[0], run)
    groups = _groups(found)
    return Comparison(
        runs=found,
        groups=_groups_of(groups),
        settings=_settings_that_differ([group[0].recipe for group in groups]),
        flips=tuple(_flips(run, found[0].answers) for run in found[1:]),
        notes=_notes(found, groups),
    )


def _finished(name: str, folder: Path) -> Finished:
    found = read_run(folder)
    if found.summary is None or found.answers is None:
        about = ("No result", "No test accuracy", "No images", "summary.json", "predictions.csv")
        why = next(line for line in found.missing if line.startswith(about))
        raise UsageError(f"{folder} cannot be compared. {why}")
    return Finished(name, folder, found.recipe, found.summary, found.answers, found.gallery)


def _check_same_images(first: Finished, other: Finished) -> None:
    one, two = first.answers, other.answers
    if (one.ids, one.classes) == (two.ids, two.classes) and (one.labels == two.labels).all():
        return
    pairs = [
        [f"{id} ({of.classes[k]})" for id, k in zip(of.ids, of.labels, strict=True)]
        for of in (one, two)
    ]
    apart = next((f"{a} and {b}" for a, b in zip(*pairs, strict=False) if a != b), "none")
    raise UsageError(
        f"{first.folder} and {other.folder} were not tested on the same images: {len(one.ids):,} "
        f"of {len(one.classes)} classes and {len(two.ids):,} of {len(two.classes)}, the first to "
        f"differ {apart}; compare runs of one test set"
    )


def _names(folders: Sequence[Path]) -> tuple[str, ...]:
    """Folder names; where two are the same, paths."""
    names = tuple(folder.resolve().name for folder in folders)
    return names if len(set(names)) == len(names) else tuple(map(str, folders))


def _groups(found: Sequence[Finished]) -> list[list[Finished]]:
    """The runs of each setting."""
    groups: list[list[Finished]] = []
    for run in found:
        own = run.recipe.model.name == "custom"  # its recipe has no more than its class
        for group in groups:
            same = _data(run) == _data(group[0]) and not _apart(run.recipe, group[0].recipe)
            if same and not own:
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def _apart(recipe: Recipe, other: Recipe) -> dict[str, tuple[Any, Any]]:
    """The settings that make them two settings."""
    changed = differences(recipe, other)
    return {path: pair for path, pair in changed.items() if not path.startswith(_APART)}


def _data(run: Finished) -> object:
    return run.summary["data"].get("fingerprint", run.folder)


def _settings_that_differ(recipes: Sequence[Recipe]) -> dict[str, tuple[Any, ...]]:
    changed = [_apart(recipe, recipes[0]) for recipe in recipes]
    found = {}
    for path in dict.fromkeys(path for of in changed for path in of):
        first = next(of[path][0] for of in changed if path in of)
        found[path] = tuple(of[path][1] if path in of else first for of in changed)
    return found


def _groups_of(groups: Sequence[Sequence[Finished]]) -> tuple[RecipeGroup, ...]:
    reached = [[float(run.answers.right.mean()) for run in group] for group in groups]
    first = reached[0]
    drawn = [len({run.recipe.seed for run in group}) == len(group) > 1 for group in groups]
    return tuple(
        RecipeGroup(
            runs=tuple(run.name for run in group),
            mean=float(np.mean(values)),
            interval=_share(mean_interval(values)) if drawn[k] and len(set(values)) > 1 else None,
            difference=(
                mean_difference(first, values)
                if k and drawn[0] and drawn[k] and max(len(set(first)), len(set(values))) > 1
                else None
            ),
        )
        for k, (group, values) in enumerate(zip(groups, reached, strict=True))
    )


def _share(found: Interval) -> Interval:
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def _flips(run: Finished, first: Answers) -> Flips:
    here = run.answers
    won = here.right.astype(np.int64) - first.right  # (N,) of -1, 0, 1
    net = np.bincount(first.labels, weights=won, minlength=len(first.classes))
    return Flips(
        run=run.name,
        difference=paired_difference(first.right, here.right),
        gained=np.flatnonzero(won > 0),
        lost=np.flatnonzero(won < 0),
        by_class={name: int(count) for name, count in zip(first.classes, net, strict=True)},
    )


def _notes(found: Sequence[Finished], groups: Sequence[Sequence[Finished]]) -> tuple[str, ...]:
    notes = []
    for group in groups:
        seeds = sorted((run.recipe.seed, run.name) for run in group)
        notes += [
            f"{one} and {other} have the same seed, so they are not two draws: no interval"
            for (seed, one), (again, other) in pairwise(seeds)
            if seed == again
        ]
    first = found[0]
    notes += [
        f"the data of {run.name} is not that of {first.name}, though the ids of its test images are"
        for run in found
        if _data(run) != _data(first)
    ]
    if len(groups) > 1 and any(len(group) == 1 for group in groups):
        notes.append(
            "An interval over images tells which of two networks is better; which recipe is better "
            "takes several seeds of each."
        )
    return tuple(notes)
