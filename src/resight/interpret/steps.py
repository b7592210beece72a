"""What the steps of an explanation share: the trained network with its data, and a log."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..datasets import Split, Statistics
from ..errors import ResightError
from ..recipe import Recipe
from ..records import Predictions


@dataclass(frozen=True)
class ExplainInputs:
    """A trained network, and the data that it was trained on and tested on."""

    model: nn.Module
    recipe: Recipe
    stats: Statistics
    train: Split
    test: Split
    predictions: Predictions  # of `test`

    @property
    def pictures(self) -> NDArray[np.uint8]:
        """The test images as figures take them: (N, H, W, C)."""
        return as_pictures(self.test)


@dataclass(frozen=True)
class StepLog:
    """What has come of the steps so far."""

    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, name: str, *files: str) -> Iterator[None]:
        """Run a step that writes `files`; what goes wrong is a line in `failed`.

        The one place that catches everything: networks and listeners are anybody's code, and what
        breaks in them must cost neither a training that is done nor the steps that would work.
        """
        try:
            yield
            self.files.extend(files)
        except Exception as error:
            line, kind = str(error).partition("\n")[0], type(error).__name__
            if not isinstance(error, ResightError):
                line = f"{kind}: {line}" if line else kind
            self.failed.append(f"{name} failed: {line}")


def as_pictures(split: Split) -> NDArray[np.uint8]:
    """Return the images of a split as figures take them: (N, H, W, C)."""
    return np.asarray(split.images.permute(0, 2, 3, 1).cpu().numpy())
