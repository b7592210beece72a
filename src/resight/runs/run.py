"""A run: one folder, and the content of its files.

    recipe.toml          every setting, resolved     metrics.jsonl, .csv   a line an epoch
    env.json             versions, machine, command  steps.npz             a value a step
    last.pt, previous.pt resume from here            best.safetensors      the kept weights
    summary.json         the result                  predictions.npz, .csv of the test set
    confidence.npz       for `predict`: answers and features of validation and training images
    trained_images.npz   for `evaluate`: a digest of each training image
    lr_find.json         the range test              label_issues.csv      labels to look at
    relabel.csv          labels that were replaced   exclude.csv           images left out
    causes.json, .csv    why it was wrong, a row for each mistake
    gallery/             pictures and heat maps      report.html           all of it as one page

Every file is written whole or not at all. `previous.pt` is the checkpoint before `last.pt`, in
case `last.pt` cannot be read. Reading needs no torch: only `model()` does.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout

from ..errors import ResightError, UsageError
from ..files import json_text, write_csv, write_text
from ..lr_finder.suggest import LRCurve
from ..metrics.classification import TestResult, confusion_rows, prediction_rows
from ..recipe import Recipe
from ..recipe.toml import read_toml, with_changes
from ..records import History, Predictions
from . import parts
from .causes import Causes, read_causes
from .gallery import Gallery, read_gallery
from .replace import LOCK
from .summary import FORMAT_VERSION, Summary

if TYPE_CHECKING:
    from torch import nn

Part = TypeVar("Part")

# Properties that are read from files, in the order in which `missing` names them.
PARTS = (
    *("summary", "environment", "history", "predictions", "gallery", "label_issues", "lr_curve"),
    "causes",
)


class Run:
    """One run: its folder, and the content of the files in it.

    The content of a missing or damaged file is None (or empty), and `missing` has a line for it.
    The test set is read once, after the last epoch: until then `predictions` is None.
    """

    def __init__(
        self, folder: str | Path, *, interrupted: bool = False, allow_import: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.allow_import = allow_import  # of the network that the recipe names; it runs code
        self.interrupted = interrupted  # of a training that has just returned
        self._missing: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    # --- open --------------------------------------------------------------------

    @classmethod
    def open(cls, folder: "str | Path | Run", *, allow_import: bool = False) -> "Run":
        """Open the folder of an earlier run; a run that is open already is returned as it is.

        allow_import: whether a network may be imported that the run's recipe names by an import
        path. Importing runs the code of that module, so look at it first if the run is not yours.

        Raises:
            UsageError: it does not exist, holds no run, or one of another version of resight.
        """
        if isinstance(folder, Run):
            return folder
        run = cls(folder, allow_import=allow_import)
        try:
            is_folder, has_recipe = run.folder.is_dir(), (run.folder / "recipe.toml").exists()
        except OSError as error:
            raise UsageError(f"{folder} is not a run folder: {error.strerror}") from error
        if not has_recipe:
            problem = "holds no recipe.toml" if is_folder else "does not exist"
            raise UsageError(f"{folder} is not a run folder: it {problem}; see `ls runs/`")
        try:
            version = parts.read_json(run.folder / "summary.json").get("format")
        except parts.DAMAGE:
            return run  # not finished, or damaged: what reads it says so
        if version != FORMAT_VERSION:
            raise UsageError(
                f"{folder} was written by another version of resight (run format {version or 1}; "
                f"this version reads {FORMAT_VERSION}); use that version, or train the run again"
            )
        return run

    @classmethod
    def newest(cls, out: Path) -> "Run":
        """Open the run under `out` that was trained last; explaining one does not count."""
        folders = [path.parent for path in out.glob("[!.]*/recipe.toml")]
        if not folders:
            raise UsageError(f"there is no run in {out}/; name a run folder")
        return cls.open(max(folders, key=_trained_at))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training in this folder; a killed one keeps nobody out.

        Raises:
            UsageError: another process is training here.
        """
        try:
            lock = FileLock(self.folder / LOCK).acquire(timeout=0)
        except Timeout as error:
            raise UsageError(
                f"another process is training in {self.folder}; wait for it, or stop it first"
            ) from error
        with lock:
            yield

    # --- read -------------------------------------------------------------------------------

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that the run was started with, resolved.

        Raises UsageError if it cannot be read.
        """
        file = self.folder / "recipe.toml"
        return with_changes(Recipe(), read_toml(file), origin=str(file))

    @cached_property
    def summary(self) -> Summary | None:
        """The result of the run so far."""
        return self._read(
            "summary.json",
            parts.read_summary,
            f"No result: the run is not finished; resight resume {self.folder}",
        )

    @property
    def test(self) -> TestResult:
        """The result on the test set.

        Raises ResightError if the test set was not read, because the run is not finished.
        """
        if self.summary is None or self.summary.test is None:
            raise ResightError(
                f"{self.folder} was stopped before its end, so the test set was not read; "
                f"go on with `resight resume {self.folder}`"
            )
        return self.summary.test

    @cached_property
    def history(self) -> History:
        """The figures of every epoch, and rate, momentum and loss of every step."""
        without = "No training curves: no epoch was finished"
        rows = self._read("metrics.jsonl", parts.read_rows, without) or ()
        steps = self._read("steps.npz", parts.read_steps, None) or (np.zeros(0),) * 3
        return History(rows, *steps)

    @cached_property
    def predictions(self) -> Predictions | None:
        """The logits of every image of the test set, by the kept weights."""
        if self.summary is None:
            return None
        if self.summary.test is None:
            self._missing["predictions.npz"] = (
                "No test accuracy and no confusion matrix: the run stopped before the end, so the "
                f"test set was not read; resight resume {self.folder}"
            )
            return None
        return self._read(
            "predictions.npz",
            lambda path: parts.read_predictions(path, images=self.test.images),
            "No images and no confusion matrix: there is no predictions.npz",
        )

    @cached_property
    def environment(self) -> dict[str, Any] | None:
        """Versions, machine and command line."""
        return self._read("env.json", parts.read_json, "No environment: there is no env.json")

    @cached_property
    def lr_curve(self) -> LRCurve | None:
        """The learning-rate range test that the run began with, if it had one."""
        return self._read("lr_find.json", parts.read_lr_curve, None)

    @cached_property
    def gallery(self) -> Gallery | None:
        """Pictures of the test set and their heat maps, as `explain` left them."""
        if self.predictions is None:
            return None
        images = len(self.predictions)

        def read(path: Path) -> Gallery:
            gallery = read_gallery(path.parent)
            if gallery is None:
                raise ResightError("it holds no gallery.json")
            if gallery.images != images:
                raise ValueError(f"it is of {gallery.images} images, not {images}")
            return gallery

        without = "No pictures and no heat maps: there is no gallery; resight explain"
        return self._read("gallery", read, f"{without} {self.folder}")

    @cached_property
    def label_issues(self) -> list[dict[str, str]]:
        """The rows of `label_issues.csv`: labels that may be wrong, the most suspicious first."""
        return self._read("label_issues.csv", parts.read_label_issues, None) or []

    @cached_property
    def causes(self) -> Causes | None:
        """Why the mistakes of the test set were made, as `explain` left it."""
        if self.predictions is None:
            return None
        count = len(self.predictions)
        return self._read("causes.json", lambda path: read_causes(path, images=count), None)

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """A line for every file that is missing, damaged, or shown only in part."""
        for part in PARTS:
            getattr(self, part)
        lines = [*self._missing.values()]
        if (rows := self.history.epochs) and all(row.val_accuracy is None for row in rows):
            lines.append("No validation: none of the training images were held out")
        if self.gallery is not None:
            lines += [f"Not everything is shown: {note}" for note in self.gallery.notes]
        return tuple(lines)

    def model(self, device: str = "cpu") -> "nn.Module":
        """Return the trained network with the kept weights, in evaluation mode.

        Load `best.safetensors` yourself into a network that was passed in from Python.
        """
        from ..training.device import pick_device  # the only import of torch
        from .checkpoint import load_model

        allow, chosen = self.allow_import, pick_device(device)
        return load_model(self.folder, None, chosen, allow_import=allow)[0].eval()

    def to_dict(self) -> dict[str, Any]:
        """Return folder, state and summary as plain Python, fit for JSON."""
        summary = self.summary.to_dict() if self.summary else {}
        return {"folder": str(self.folder), "interrupted": self.interrupted, **summary}

    def __str__(self) -> str:
        if self.summary is None or self.summary.test is None:
            return f"run folder {self.folder}/: stopped; go on with resight resume {self.folder}"
        lines = [
            *self.summary.lines(self.recipe.evaluation.views),
            f"run folder {self.folder}/",
        ]
        if pictures := sorted(path.name for path in self.folder.glob("*.png")):
            lines.append(f"pictures   {' '.join(pictures)}")
        if (self.folder / "report.html").exists():
            lines.append(f"why        {self.folder / 'report.html'}, mistakes.csv")
        return "\n".join(lines)

    # --- write ------------------------------------------------------------------------------

    def write_history(self, history: History) -> None:
        """Write `metrics.jsonl` and `metrics.csv`, a line an epoch, and `steps.npz`."""
        parts.write_history(self.folder, history)

    def write_predictions(self, predictions: Predictions) -> None:
        """Write `predictions.npz`, and for people `predictions.csv` and `confusion_matrix.csv`."""
        parts.write_predictions(self.folder / "predictions.npz", predictions)
        write_csv(self.folder / "predictions.csv", prediction_rows(predictions))
        write_csv(self.folder / "confusion_matrix.csv", confusion_rows(predictions))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write plain Python as indented JSON."""
        write_text(self.folder / name, json_text(content, indent=2) + "\n")

    def _read(self, name: str, read: Callable[[Path], Part], without: str | None) -> Part | None:
        """Return the content of a file, or None and a line if it is missing or damaged."""
        path = self.folder / name
        if not path.exists():
            if without is not None:
                self._missing[name] = without
            return None
        try:
            return read(path)
        except parts.DAMAGE as error:
            self._missing[name] = f"{name} is damaged and was passed over: {error}"
            return None


def _trained_at(folder: Path) -> float:
    checkpoint = folder / "last.pt"
    return (checkpoint if checkpoint.exists() else folder / "recipe.toml").stat().st_mtime
