"""A folder of predictions with what the page shows of them, but without a training.

A cross-validation leaves one, of its training images out of fold, and `report` another, of a model
that was trained elsewhere. It has the files of a run folder except for the recipe, the weights and
the history; `summary.json` says what was predicted.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..recipe import Recipe
from ..recipe.toml import with_changes
from ..records import History
from .run import Run


class PredictionsFolder(Run):
    """The content of such a folder; its recipe is the default one, named as the summary says."""

    @cached_property
    def recipe(self) -> Recipe:
        """The default recipe, named as the summary says: nothing was trained by it."""
        if self.summary is None:
            return Recipe()
        names = {"name": self.summary.recipe, "data": {"source": self.summary.data.source}}
        return with_changes(Recipe(), names, origin=str(self.folder))

    @cached_property
    def history(self) -> History:
        """Empty."""
        return History((), *[np.zeros(0)] * 3)

    @cached_property
    def environment(self) -> dict[str, Any] | None:
        """None: it is not recorded."""
        return None


def open_folder(folder: str | Path | Run) -> Run:
    """Open a run folder, or a folder of predictions alone, with its files as they are now.

    Raises:
        UsageError: it is neither.
    """
    path = folder.folder if isinstance(folder, Run) else Path(folder)
    if not (path / "recipe.toml").exists():
        predictions = PredictionsFolder(path)
        if predictions.summary and predictions.summary.predicted != "test":
            return predictions
    return Run.open(path)
