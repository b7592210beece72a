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

from .errors import UsageError
from .gallery import Gallery
from .html_report.reading import Answers, Found, read_run
from .listings import comparison_text
from .metrics import Interval, mean_difference, mean_interval, paired_difference
from .recipe import Recipe
from .recipe_text import differences
from .records import Ints

_APART = ("name", "seed", "data.source", "explain.")  # what may differ within a setting


@dataclass(frozen=True)
class Setting:
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
    gained: Ints  # rows of the test set that the first has wrong and this one right
    lost: Ints  # the other way round
    by_class: dict[str, int]  # images gained minus lost, of each true class


@dataclass(frozen=True, repr=False)
class Comparison:
    """Runs that were tested on the same images; printed, it is a table. Names are short ones."""

    names: tuple[str, ...]
    folders: tuple[Path, ...]
    seeds: tuple[int, ...]
    summaries: tuple[dict[str, Any], ...]
    settings: tuple[Setting, ...]
    knobs: dict[str, tuple[Any, ...]]  # path -> its value in each setting, where they differ
    flips: tuple[Flips, ...]  # of every run but the first
    answers: tuple[Answers, ...]
    galleries: tuple[Gallery | None, ...]
    notes: tuple[str, ...]  # what to know of it, one line each

    def __repr__(self) -> str:
        return comparison_text(self)

    @property
    def flipped(self) -> Ints:
        """Rows of the images that one run has right and another has not."""
        right = np.stack([of.right for of in self.answers])  # (runs, N)
        return np.flatnonzero(right.any(axis=0) & ~right.all(axis=0))

    def to_dict(self) -> dict[str, Any]:
        """All of it but the answers, fit for JSON; flips by the ids of their images."""
        ids = self.answers[0].ids
        return {
            "runs": [
                {
                    "name": name,
                    "folder": str(folder),
                    "seed": seed,
                    "test": {key: of["test"][key] for key in ("accuracy", "loss")},
                    "validation": of["validation"],
                    "epochs": of["epochs"],
                    "train_secs": of["train_secs"],
                }
                for name, folder, seed, of in zip(
                    self.names, self.folders, self.seeds, self.summaries, strict=True
                )
            ],
            "settings": [asdict(of) for of in self.settings],
            "knobs": {path: list(values) for path, values in self.knobs.items()},
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
    found = [read_run(folder) for folder in folders]
    answers = tuple(_answers(of) for of in found)
    for of, said in zip(found[1:], answers[1:], strict=True):
        _check_same_images(found[0].run, of.run, answers[0], said)
    names = _names(folders)
    groups = _groups(found)
    return Comparison(
        names=names,
        folders=folders,
        seeds=tuple(of.recipe.seed for of in found),
        summaries=tuple(of.summary for of in found if of.summary is not None),
        settings=_settings(names, found, groups),
        knobs=_knobs([found[group[0]].recipe for group in groups]),
        flips=tuple(
            _flips(name, said, answers[0])
            for name, said in zip(names[1:], answers[1:], strict=True)
        ),
        answers=answers,
        galleries=tuple(of.gallery for of in found),
        notes=_notes(names, found, groups),
    )


def _answers(found: Found) -> Answers:
    if found.answers is None:
        about = ("No result", "No test accuracy", "No images", "summary.json", "predictions.csv")
        why = next(line for line in found.missing if line.startswith(about))
        raise UsageError(f"{found.run} cannot be compared. {why}")
    return found.answers


def _check_same_images(first: Path, other: Path, one: Answers, two: Answers) -> None:
    if (one.ids, one.classes) == (two.ids, two.classes) and (one.labels == two.labels).all():
        return
    lists = [
        [(id, of.classes[k]) for id, k in zip(of.ids, of.labels, strict=True)] for of in (one, two)
    ]
    why = f"{len(one.ids):,} images of {len(one.classes)} classes and {len(two.ids):,} of "
    why += f"{len(two.classes)}"
    for a, b in zip(*lists, strict=False):
        if a != b:
            why += f"; the first to differ are {a[0]} ({a[1]}) and {b[0]} ({b[1]})"
            break
    raise UsageError(
        f"{first} and {other} were not tested on the same images: {why}; compare runs of one test "
        "set"
    )


def _names(folders: Sequence[Path]) -> tuple[str, ...]:
    """Folder names; where two are the same, paths."""
    names = tuple(folder.resolve().name for folder in folders)
    return names if len(set(names)) == len(names) else tuple(map(str, folders))


def _groups(found: Sequence[Found]) -> list[list[int]]:
    """The runs of each setting, by number."""
    groups: list[list[int]] = []
    for i, run in enumerate(found):
        for group in groups:
            other = found[group[0]]
            own = run.recipe.model.name == "custom"  # its recipe has no more than its class
            if not own and _data(run) == _data(other) and not _apart(run.recipe, other.recipe):
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def _apart(recipe: Recipe, other: Recipe) -> dict[str, tuple[Any, Any]]:
    """The knobs that make them two settings."""
    changed = differences(recipe, other)
    return {path: pair for path, pair in changed.items() if not path.startswith(_APART)}


def _data(run: Found) -> str:
    return str((run.summary or {})["data"].get("fingerprint", run.run))


def _knobs(recipes: Sequence[Recipe]) -> dict[str, tuple[Any, ...]]:
    changed = [_apart(recipe, recipes[0]) for recipe in recipes]
    found = {}
    for path in dict.fromkeys(path for of in changed for path in of):
        first = next(of[path][0] for of in changed if path in of)
        found[path] = tuple(of[path][1] if path in of else first for of in changed)
    return found


def _settings(
    names: Sequence[str], found: Sequence[Found], groups: Sequence[Sequence[int]]
) -> tuple[Setting, ...]:
    reached = [
        [float(said.right.mean()) for i in group if (said := found[i].answers) is not None]
        for group in groups
    ]
    first = reached[0]
    drawn = [len({found[i].recipe.seed for i in group}) == len(group) > 1 for group in groups]
    return tuple(
        Setting(
            runs=tuple(names[i] for i in group),
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


def _flips(name: str, here: Answers, first: Answers) -> Flips:
    won = here.right.astype(np.int64) - first.right  # (N,) of -1, 0, 1
    net = np.bincount(first.labels, weights=won, minlength=len(first.classes))
    return Flips(
        run=name,
        difference=paired_difference(first.right, here.right),
        gained=np.flatnonzero(won > 0),
        lost=np.flatnonzero(won < 0),
        by_class={name: int(count) for name, count in zip(first.classes, net, strict=True)},
    )


def _notes(
    names: Sequence[str], found: Sequence[Found], groups: Sequence[Sequence[int]]
) -> tuple[str, ...]:
    notes = []
    for group in groups:
        seeds = sorted((found[i].recipe.seed, names[i]) for i in group)
        notes += [
            f"{one} and {other} have the same seed, so they are not two draws: no interval"
            for (seed, one), (again, other) in pairwise(seeds)
            if seed == again
        ]
    notes += [
        f"the data of {names[i]} is not that of {names[0]}, though the ids of its test images are"
        for i, run in enumerate(found)
        if _data(run) != _data(found[0])
    ]
    if len(groups) > 1 and any(len(group) == 1 for group in groups):
        notes.append(
            "An interval over images tells which of two networks is better; which recipe is better "
            "takes several seeds of each."
        )
    return tuple(notes)
