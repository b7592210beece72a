"""The inputs that the steps of an explanation share, and a log of what they write."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from torch import nn

from ..datasets import Split, Statistics
from ..datasets.originals import display_images
from ..errors import ResightError, UsageError
from ..figures import SheetImages
from ..recipe import Recipe
from ..records import IntArray, Predictions
from ..training.features import name_to_keep
from .neighbors import RunFeatures, run_features


@dataclass(frozen=True)
class ExplainInputs:
    """A trained network, the data that it was trained and tested on, and its predictions."""

    model: nn.Module
    recipe: Recipe
    stats: Statistics
    train: Split
    test: Split
    predictions: Predictions  # of `test`

    @cached_property
    def features(self) -> RunFeatures:
        """Features of the test images and of training images, computed once for all steps.

        Raises UsageError if the network has no linear layer, or if there are no training images.
        """
        if not len(self.train):
            raise UsageError("there are no training images to compare with")
        return run_features(
            self.model,
            self.test,
            self.train,
            self.stats,
            training=self.recipe.training,
            keep=name_to_keep(self.recipe),
        )


@dataclass(frozen=True)
class StepLog:
    """The files, notes and failures of the steps so far."""

    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, name: str, *files: str) -> Iterator[None]:
        """Run a step that writes `files`; an error becomes a line in `failed`.

        This is the one place that catches every error. Networks and listeners are code of the user,
        and an error in them must cost neither the finished training nor the steps that would work.
        """
        try:
            yield
            self.files.extend(files)
        except Exception as error:
            line, kind = str(error).partition("\n")[0], type(error).__name__
            if not isinstance(error, ResightError):
                line = f"{kind}: {line}" if line else kind
            self.failed.append(f"{name} failed: {line}")


def sheet_images(
    split: Split, predictions: Predictions, rows: IntArray, others: IntArray
) -> SheetImages:
    """Return rows (R,) of a split and its predictions as sheets of heat maps take them."""
    shown = display_images(split, rows)
    return SheetImages(shown.pictures, predictions, rows, others, shown.seen_px, shown.notes)
