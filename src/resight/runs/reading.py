"""A run folder's files as values. What is missing or damaged becomes a line, not an error."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ResightError, UsageError
from ..lr_finder.suggest import LRCurve
from ..lr_finder.verdict import Verdict
from ..metrics.classification import Interval, ReliabilityBin
from ..recipe import Recipe
from ..recipe.toml import from_toml
from ..records import EpochRow, IntArray
from .gallery import Gallery, as_written, digest, read_gallery

Part = TypeVar("Part")

# What reading a file that is not as it was written may raise.
DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error, ResightError)
SUSPICIOUS = 30  # rows of suspicious_labels.csv that are shown, the first


@dataclass(frozen=True)
class Answers:
    """`predictions.csv`: what was said of each of N images."""

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels: IntArray  # (N,)
    preds: IntArray  # (N,)
    confidence: NDArray[np.float32]  # (N,)
    losses: NDArray[np.float32]  # (N,)

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,)"""
        return np.asarray(self.preds == self.labels)

    def confusion(self) -> IntArray:
        """(K, K) counts [true, pred]."""
        k = len(self.classes)
        return np.bincount(self.labels * k + self.preds, minlength=k * k).reshape(k, k)


@dataclass
class Found:
    """Everything that a run folder says."""

    run: Path
    recipe: Recipe
    summary: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None
    history: tuple[EpochRow, ...] = ()
    answers: Answers | None = None
    gallery: Gallery | None = None
    lr_curve: LRCurve | None = None
    suspicious: list[dict[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def said_otherwise(self) -> dict[int, int]:
        """Row -> predicted class of images that were another class when the gallery was made."""
        if self.gallery is None or self.answers is None:
            return {}
        then = np.array(self.gallery.preds)
        return {int(row): int(then[row]) for row in np.flatnonzero(then != self.answers.preds)}


def read_run(run: Path) -> Found:
    """All there is in a run folder.

    Raises:
        UsageError: it holds no recipe, so it is no run, or one that cannot be read.
    """
    file = run / "recipe.toml"
    if not file.is_file():
        fault = "holds no recipe.toml" if run.is_dir() else "does not exist"
        raise UsageError(f"{run} is not a run folder: it {fault}; see `ls runs/`")
    try:
        recipe = from_toml(file.read_text(encoding="utf-8"), origin=str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    found = Found(run, recipe)

    def part(name: str, read: Callable[[Path], Part], without: str | None) -> Part | None:
        """What `read` makes of a file; `without` is said where there is none."""
        path = run / name
        if not path.exists():
            if without is not None:
                found.missing.append(without)
            return None
        try:
            return read(path)
        except DAMAGE as error:
            found.missing.append(f"{name} is damaged and was passed over: {error}")
            return None

    found.summary = part(
        "summary.json", _summary, f"No result: the run is not finished; resight resume {run}"
    )
    found.environment = part("env.json", _table, "No environment: there is no env.json")
    history = part("metrics.jsonl", _history, "No training curves: no epoch was finished")
    found.history = history or ()
    if found.summary and not found.summary["test"]:
        found.missing.append(
            "No test accuracy and no confusion matrix: the run stopped before the end, so the "
            f"test set was not read; resight resume {run}"
        )
    elif found.summary:
        test = found.summary["test"]
        found.answers = part(
            "predictions.csv",
            lambda path: _answers(path, tuple(test["per_class"]), test["images"]),
            "No images and no confusion matrix: there is no predictions.csv",
        )
    if found.answers is not None:
        found.gallery = part(
            "gallery",
            lambda path: _gallery(run, found.answers),
            f"No pictures and no heat maps: there is no gallery; resight explain {run}",
        )
        found.suspicious = part("suspicious_labels.csv", _suspicious, None) or []
    found.lr_curve = part("lr_find.json", _lr_curve, None)
    if found.history and all(row.val_accuracy is None for row in found.history):
        found.missing.append("No validation: none of the training images were held out")
    if found.gallery is not None:
        found.missing += [f"Not everything is shown: {note}" for note in found.gallery.notes]
        if differ := len(found.said_otherwise()):
            found.missing.append(
                f"The answers that the heat maps belong to, and those in predictions.csv, differ "
                f"for {differ:,} of {found.gallery.images:,} images: they were made again, perhaps "
                "on another device; where they differ a heat map names the class that it is for"
            )
    return found


_COUNTS = (("data", "train"), ("data", "val"), ("data", "test"), ("model", "parameters"))


def _table(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it is not a table")
    return content


def _summary(path: Path) -> dict[str, Any]:
    content = _table(path)
    for name in ("epochs", "best_epoch", "selected_by", "validation", "train_secs"):
        content[name]  # what is not there is a KeyError, here and below
    float(content["train_secs"])
    if validation := content["validation"]:
        Interval(**validation["accuracy"])
    for section, name in _COUNTS:
        int(content[section][name])
    if test := content["test"]:
        float(test["loss"]) + float(test["calibration"]["ece"])
        for interval in (test["accuracy"], *filter(None, test["per_class"].values())):
            Interval(**interval)
        # JSON gives back the name itself where CSV has it as it was written.
        test["per_class"] = {as_written(k): v for k, v in test["per_class"].items()}
        for row in test["calibration"]["bins"]:
            ReliabilityBin(**row)
    return content


def _history(path: Path) -> tuple[EpochRow, ...]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(EpochRow(**json.loads(line)) for line in lines)


def _answers(path: Path, classes: tuple[str, ...], images: int) -> Answers:
    number = {name: k for k, name in enumerate(classes)}
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != images:
        raise ValueError(f"it has {len(rows)} images, not {images}")
    return Answers(
        ids=tuple(row["id"] for row in rows),
        classes=classes,
        labels=np.array([number[row["truth"]] for row in rows], dtype=np.int64),
        preds=np.array([number[row["prediction"]] for row in rows], dtype=np.int64),
        confidence=np.array([float(row["confidence"]) for row in rows], dtype=np.float32),
        losses=np.array([float(row["loss"]) for row in rows], dtype=np.float32),
    )


def _gallery(run: Path, answers: Answers | None) -> Gallery | None:
    gallery = read_gallery(run)
    if gallery is None:
        raise ResightError("it holds no gallery.json")
    if answers is None or gallery.ids != digest(answers.ids):
        raise ResightError(f"its pictures are of other predictions; resight explain {run}")
    if not set(gallery.preds) <= set(range(len(answers.classes))):
        raise ValueError(f"it names classes beyond the {len(answers.classes)} there are")
    return gallery


def _suspicious(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if "id" not in (rows.fieldnames or ()):
            raise ValueError("it has no column id")
        return [
            {str(k): str(v) for k, v in row.items()}
            for row, _ in zip(rows, range(SUSPICIOUS), strict=False)
        ]


def _lr_curve(path: Path) -> LRCurve:
    content = _table(path)
    kept = {f.name: content[f.name] for f in fields(LRCurve)}
    for name in ("lrs", "losses", "smoothed"):
        values = [math.nan if x is None else float(x) for x in kept[name]]
        kept[name] = np.array(values, dtype=np.float64)
    verdict = kept["verdict"]
    kept["verdict"] = Verdict(bool(verdict["ok"]), tuple(map(str, verdict["reasons"])))
    kept["interval"] = tuple(kept["interval"]) if kept["interval"] else None
    return LRCurve(**kept)
