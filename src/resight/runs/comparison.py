"""The result of comparing runs, as a frozen value that prints itself as tables."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import UsageError
from ..metrics.classification import balanced_accuracy
from ..metrics.intervals import Interval
from ..records import IntArray, Predictions
from ..text import TableStyle, setting_text, styled_table, table
from .run import Run
from .summary import Summary


@dataclass(frozen=True)
class OverSeeds:
    """The mean of a share over the runs of a recipe; intervals need two that differ."""

    mean: float  # in [0, 1]
    deviation: float | None  # standard deviation of a run; None: one run, or a seed twice
    interval: Interval | None
    difference: Interval | None  # of the mean, to that of the first recipe
    paired: bool  # whether the difference is of pairs of runs with equal seeds


@dataclass(frozen=True)
class RecipeGroup(OverSeeds):
    """Runs of one recipe over seeds, and the mean of their test accuracy.

    The seed does not decide the weights of a network that was passed in from Python, so each such
    run is a group of its own.
    """

    runs: tuple[str, ...]
    balanced: OverSeeds | None  # balanced accuracy; None: the test set is not imbalanced


@dataclass(frozen=True)
class Flips:
    """A run against the first, image by image."""

    run: str
    difference: Interval  # of the accuracies, over images
    gained: IntArray  # rows of the test set: wrong in the first run, right in this one
    lost: IntArray  # rows of the test set: right in the first run, wrong in this one
    by_class: dict[str, int]  # images gained minus lost, of each true class
    balanced: Interval | None  # of the balanced accuracies; None: the test set is not imbalanced


@dataclass(frozen=True, repr=False)
class Comparison:
    """Runs that were tested on the same images; printed, it is a table."""

    names: tuple[str, ...]  # folder names, or paths if two are the same
    runs: tuple[Run, ...]
    groups: tuple[RecipeGroup, ...]
    settings: dict[str, tuple[Any, ...]]  # path -> its value in each group, where they differ
    flips: tuple[Flips, ...]  # of every run but the first
    notes: tuple[str, ...]  # limits of the comparison, one line each

    @cached_property
    def predictions(self) -> tuple[Predictions, ...]:
        """The predictions of each run, of the same images."""
        return tuple(finished_result(run)[1] for run in self.runs)

    @property
    def flipped(self) -> IntArray:
        """Rows of the images that one run has right and another has wrong."""
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
                    **asdict(flips),
                    "gained": [ids[row] for row in flips.gained],
                    "lost": [ids[row] for row in flips.lost],
                }
                for flips in self.flips
            ],
            "notes": list(self.notes),
        }

    def text(self, *, images: bool) -> str:
        """Return the comparison as tables and lines.

        `images` adds what each run gained and lost. Two runs, or runs of one seed, always say it.
        """
        columns, rows = _run_table(self)
        images |= len(self.runs) == 2 or all(group.deviation is None for group in self.groups)
        parts = [
            table(rows, *columns),
            _setting_table(self),
            "\n".join([*_group_lines(self), *(_flip_lines(self) if images else [])]),
            _notes(self, images=images),
        ]
        return "\n\n".join(part for part in parts if part)

    def to_table(self, style: TableStyle) -> str:
        """Return the runs and the means of the recipes as a table for another program."""
        columns, rows = _run_table(self)
        return styled_table(rows, columns, style)

    def __repr__(self) -> str:
        return self.text(images=False)


def finished_result(run: Run) -> tuple[Summary, Predictions]:
    """Return the summary and the predictions of a finished run.

    Raises:
        UsageError: the run has no predictions of its test set.
    """
    if run.summary is None or run.predictions is None:
        lines = ("No result", "No test accuracy", "No images", "summary.json", "predictions.npz")
        why = next(line for line in run.missing if line.startswith(lines))
        raise UsageError(f"{run.folder} cannot be compared. {why}")
    return run.summary, run.predictions


def _run_dict(name: str, run: Run) -> dict[str, Any]:
    summary, predictions = finished_result(run)
    return {
        "name": name,
        "folder": str(run.folder),
        "seed": run.recipe.seed,
        "test": {
            "accuracy": asdict(run.test.accuracy),
            "balanced_accuracy": asdict(balanced_accuracy(predictions)),
            "loss": run.test.loss,
        },
        "validation": summary.validation and asdict(summary.validation),
        "epochs": summary.epochs,
        "train_secs": summary.train_secs,
    }


def _run_table(comparison: Comparison) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return columns, a row for each run, and a row of mean and deviation for each recipe."""
    recipe_of = {name: k for k, group in enumerate(comparison.groups, 1) for name in group.runs}
    columns = ["run", "recipe", "seed", "test accuracy", "loss", "val accuracy", "epochs"]
    imbalanced = comparison.runs[0].test.imbalanced
    if imbalanced:
        columns.insert(4, "balanced accuracy")
    rows = []
    for name, run in zip(comparison.names, comparison.runs, strict=True):
        summary, predictions = finished_result(run)
        validation = summary.validation
        accuracies = [run.test.accuracy]
        if imbalanced:
            accuracies.append(balanced_accuracy(predictions))
        rows.append(
            (
                name,
                str(recipe_of[name]),
                str(run.recipe.seed),
                *map(_share, accuracies),
                f"{run.test.loss:.3f}",
                _share(validation.accuracy) if validation else "-",
                str(summary.epochs),
                f"{summary.train_secs:,.0f} s",
            )
        )
    for k, group in enumerate(comparison.groups, 1):
        if group.deviation is not None:
            means = [group, *([group.balanced] if group.balanced else [])]
            cells = (f"{100 * m.mean:.2f} % ± {100 * (m.deviation or 0):.2f}" for m in means)
            rows.append(("mean ± std", str(k), f"{len(group.runs)} runs", *cells, *"----"))
    return [*columns, "training"], rows


def _setting_table(comparison: Comparison) -> str:
    """The settings in which the recipes differ, a column a recipe."""
    if not comparison.settings:
        return ""
    rows = [(path, *map(setting_text, values)) for path, values in comparison.settings.items()]
    return table(rows, "setting", *(f"recipe {k + 1}" for k in range(len(comparison.groups))))


def _group_lines(comparison: Comparison) -> list[str]:
    """Return the mean of each recipe over its seeds, and its difference to the first."""
    lines = []
    for k, group in enumerate(comparison.groups, 1):
        balanced = group.balanced
        if len(group.runs) > 1:
            ends = f" ({_ends(group.interval)})" if group.interval else ""
            lines.append(
                f"recipe {k}: mean of {len(group.runs)} runs {100 * group.mean:.2f} %{ends}"
                + (f", balanced {100 * balanced.mean:.2f} %" if balanced else "")
            )
        if group.difference is not None:
            points = _points(group.difference, balanced.difference if balanced else None)
            over = "paired by seed" if group.paired else "over seeds"
            lines.append(
                f"recipe {k} against 1: {points}, {over}{_verdict(group.difference, 'runs')}"
            )
    return lines


def _flip_lines(comparison: Comparison) -> list[str]:
    """Return what changed image by image, a line for each run but the first."""
    lines = []
    for flips in comparison.flips:
        changes = sorted(flips.by_class.items(), key=lambda item: -abs(item[1]))[:3]
        classes = ", ".join(f"{name} {net:+d}" for name, net in changes if net)
        lines.append(
            f"{flips.run} against {comparison.names[0]}: "
            f"{_points(flips.difference, flips.balanced)}, over images; "
            f"{len(flips.gained):,} gained, {len(flips.lost):,} lost"
            + (f"; {classes}" if classes else "")
            + (_verdict(flips.difference, "images") if len(flips.gained) + len(flips.lost) else "")
        )
    return lines


def _notes(comparison: Comparison, *, images: bool) -> str:
    intervals = (
        f"95 % intervals: of a run over its {comparison.runs[0].test.images:,} test images, of a "
        "mean over its runs."
    ) + images * " By class: gained minus lost, the three largest."
    return "\n".join([intervals, *comparison.notes])


def _verdict(difference: Interval, what: str) -> str:
    """Say so if the interval of a difference has both signs."""
    return f"; too few {what} to tell" if difference.low <= 0 <= difference.high else ""


def _share(interval: Interval) -> str:
    return f"{100 * interval.value:.2f} % ({_ends(interval)})"


def _points(difference: Interval, balanced: Interval | None = None) -> str:
    text = f"{100 * difference.value:+.2f} points ({_ends(difference, '+')})"
    return text + (f", balanced {_points(balanced)}" if balanced else "")


def _ends(interval: Interval, sign: str = "") -> str:
    return f"{100 * interval.low:{sign}.2f} to {100 * interval.high:{sign}.2f}"
