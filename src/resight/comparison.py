"""Several runs side by side: what they reach, where their recipes differ, which images flipped.

Made from the run folders alone. Runs that differ in nothing but the seed are one setting.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import figures
from .errors import UsageError
from .files import write_csv
from .gallery import Gallery
from .gallery.tiles import read_tiles
from .html_report.reading import Answers, Found, read_run
from .listings import comparison_text
from .metrics import Interval, mean_difference, mean_interval, paired_difference
from .recipe import Recipe
from .recipe_text import differences
from .records import Ints

APART = {"name", "seed", "data.source"}  # what may differ within a setting


@dataclass(frozen=True)
class Setting:
    """Runs of one recipe over seeds. A single run has no interval over seeds."""

    runs: tuple[str, ...]
    mean: float  # test accuracy, in [0, 1]
    interval: Interval | None
    difference: Interval | None  # of the mean, to that of the first setting; from 2 runs of both


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
    summaries: tuple[dict[str, Any], ...]
    settings: tuple[Setting, ...]
    knobs: dict[str, tuple[Any, ...]]  # path -> its value in each run, where not all are the same
    flips: tuple[Flips, ...]  # of every run but the first
    answers: tuple[Answers, ...]
    galleries: tuple[Gallery | None, ...]

    def __repr__(self) -> str:
        return comparison_text(self)

    @property
    def flipped(self) -> Ints:
        """Rows of the images that one run has right and another has not."""
        right = np.stack([of.right for of in self.answers])  # (runs, N)
        return np.flatnonzero(right.any(axis=0) & ~right.all(axis=0))

    def rows(self) -> list[list[str]]:
        """A header, then id, truth and each run's prediction, of the flipped images."""
        first = self.answers[0]
        names = first.classes
        return [
            ["id", "truth", *self.names],
            *(
                [first.ids[row], names[first.labels[row]]]
                + [names[of.preds[row]] for of in self.answers]
                for row in self.flipped
            ),
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it but the answers, fit for JSON; flips by the ids of their images."""
        ids = self.answers[0].ids
        return {
            "runs": [
                {
                    "name": name,
                    "folder": str(folder),
                    "test": {key: of["test"][key] for key in ("accuracy", "loss")},
                    "validation": of["validation"],
                    "epochs": of["epochs"],
                    "train_secs": of["train_secs"],
                }
                for name, folder, of in zip(self.names, self.folders, self.summaries, strict=True)
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
        }


def compare(runs: Sequence[str | Path]) -> Comparison:
    """Put finished runs side by side; the first is what the others are compared with.

    The interval of a difference between two runs is over images: it says which of two networks is
    better. Which recipe is better takes several seeds of each, and the interval over those.

    Raises:
        UsageError: fewer than two runs, one twice, one that is no run or has not read its test
            set, or runs that were tested on different images.
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
    for of, said in zip(found, answers, strict=True):
        _check_same_images(found[0], of, answers[0], said)
    names = _names(folders)
    summaries = tuple(of.summary for of in found if of.summary is not None)
    recipes = [of.recipe for of in found]
    return Comparison(
        names=names,
        folders=folders,
        summaries=summaries,
        settings=_settings(names, recipes, summaries),
        knobs=_knobs(recipes),
        flips=tuple(
            _flips(name, said, answers[0])
            for name, said in zip(names[1:], answers[1:], strict=True)
        ),
        answers=answers,
        galleries=tuple(of.gallery for of in found),
    )


def write_flipped(found: Comparison, path: Path) -> int:
    """The images that one run has right and another has not, as a new file; returns how many.

    A .csv has all of them (`Comparison.rows`), a .png or .svg the pictures of those whose losses
    differ most between the runs.

    Raises:
        UsageError: another suffix, no such folder, a file that is there already, or no run with a
            gallery to take pictures from.
    """
    if path.exists():
        raise UsageError(f"{path} exists already; choose another --out")
    kind = path.suffix.lower()
    if kind in (".png", ".svg"):
        shown = flipped_pictures(found)
        title = f"Right in one run and wrong in another: {len(shown)} of {len(found.flipped):,}"
        figures.save(figures.flip_sheet(shown, title), path)
    elif kind != ".csv":
        raise UsageError(f"cannot write to {path.name}; the name must end in .csv, .png or .svg")
    elif not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: the folder {path.parent} does not exist; make it")
    else:
        write_csv(path, found.rows())
    return len(found.flipped)


def flipped_pictures(found: Comparison, limit: int = 20) -> list[figures.Seen]:
    """The flipped images whose losses differ most between the runs, with what each run says.

    Those that no run's gallery has kept are left out.

    Raises:
        UsageError: no run has a gallery.
    """
    losses = np.stack([of.losses for of in found.answers])  # (runs, N)
    rows = found.flipped
    apart = losses[:, rows].max(axis=0) - losses[:, rows].min(axis=0)
    chosen = rows[np.argsort(-apart, kind="stable")][:limit]
    pictures: dict[int, Any] = {}
    for folder, gallery in zip(found.folders, found.galleries, strict=True):
        if gallery is not None:
            pictures |= read_tiles(folder, gallery, set(chosen.tolist()) - pictures.keys())
    if not any(found.galleries):
        raise UsageError(
            "none of the runs has a gallery to take pictures from; "
            f"`resight explain {found.folders[0]}` makes one, or write a .csv"
        )
    classes = found.answers[0].classes
    return [
        figures.Seen(
            picture=pictures[row],
            id=found.answers[0].ids[row],
            true=classes[found.answers[0].labels[row]],
            said=tuple(
                (name, classes[of.preds[row]], float(of.confidence[row]), bool(of.right[row]))
                for name, of in zip(found.names, found.answers, strict=True)
            ),
        )
        for row in chosen.tolist()
        if row in pictures
    ]


def _answers(found: Found) -> Answers:
    if found.answers is None:
        about = ("No result", "No test accuracy", "No images", "summary.json", "predictions.csv")
        why = next(line for line in found.missing if line.startswith(about))
        raise UsageError(f"{found.run} cannot be compared. {why}")
    return found.answers


def _check_same_images(first: Found, other: Found, one: Answers, two: Answers) -> None:
    if (one.ids, one.classes) != (two.ids, two.classes) or (one.labels != two.labels).any():
        raise UsageError(
            f"{first.run} was tested on {len(one.ids):,} images of {first.recipe.data.source} and "
            f"{other.run} on {len(two.ids):,} others of {other.recipe.data.source}; compare runs "
            "with the same test set"
        )


def _names(folders: Sequence[Path]) -> tuple[str, ...]:
    """Folder names; where two are the same, paths."""
    names = tuple(folder.resolve().name for folder in folders)
    return names if len(set(names)) == len(names) else tuple(map(str, folders))


def _knobs(recipes: Sequence[Recipe]) -> dict[str, tuple[Any, ...]]:
    changed = [differences(recipe, recipes[0]) for recipe in recipes]
    paths = dict.fromkeys(path for of in changed for path in of if path != "name")
    found = {}
    for path in paths:
        first = next(of[path][0] for of in changed if path in of)
        found[path] = tuple(of[path][1] if path in of else first for of in changed)
    return found


def _settings(
    names: Sequence[str], recipes: Sequence[Recipe], summaries: Sequence[dict[str, Any]]
) -> tuple[Setting, ...]:
    groups: list[list[int]] = []
    for i, (recipe, summary) in enumerate(zip(recipes, summaries, strict=True)):
        for group in groups:
            j = group[0]
            same_data = summaries[j]["data"].get("fingerprint") == summary["data"].get(
                "fingerprint"
            )
            if same_data and differences(recipe, recipes[j]).keys() <= APART:
                group.append(i)
                break
        else:
            groups.append([i])
    accuracies = [[summaries[i]["test"]["accuracy"]["value"] for i in group] for group in groups]
    several = [len(values) > 1 for values in accuracies]
    return tuple(
        Setting(
            runs=tuple(names[i] for i in group),
            mean=float(np.mean(values)),
            interval=_share(mean_interval(values)) if several[k] else None,
            difference=(
                mean_difference(accuracies[0], values) if k and several[0] and several[k] else None
            ),
        )
        for k, (group, values) in enumerate(zip(groups, accuracies, strict=True))
    )


def _share(found: Interval) -> Interval:
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def _flips(name: str, here: Answers, first: Answers) -> Flips:
    won = here.right.astype(int) - first.right.astype(int)  # (N,) of -1, 0, 1
    return Flips(
        run=name,
        difference=paired_difference(first.right, here.right),
        gained=np.flatnonzero(won > 0),
        lost=np.flatnonzero(won < 0),
        by_class={
            class_name: int(won[first.labels == k].sum())
            for k, class_name in enumerate(first.classes)
        },
    )
