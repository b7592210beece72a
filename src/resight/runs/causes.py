"""Why a network was wrong: causes with the mistakes that each explains, as a run folder keeps them.

`resight.interpret.causes` finds them; the report reads them from `causes.json`.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..files import json_text, write_csv, write_text
from ..records import Predictions
from .parts import checked, read_json

CauseKind = Literal[
    "wrong label",  # the label, not the prediction, is wrong
    "near copy",  # a near copy in the training images has another label
    "shortcut",  # a place or a color stands for a class
    "property",  # pictures that are darker, more blurred, ... than those it learned from
    "rare",  # too few training images are like it
    "outlier",  # it is unlike all training images
    "similar classes",  # the two classes cannot be told apart here
    "prior",  # the network says this class of an empty picture as well
    "training",  # the network has learned too little, or its training images by heart
]


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One cause of mistakes: what it is, what it explains, and the test that confirmed it."""

    kind: CauseKind
    sentence: str  # what a person should know, as "dog is taken for cat where ...: 21 mistakes"
    test: str  # the intervention that confirmed it, with its figures, in one sentence
    rows: tuple[int, ...]  # of its mistakes in the predictions, the most typical first
    advice: str  # what to do about it, in one sentence
    values: dict[str, float]  # the figures behind sentence and test, by name


@dataclass(frozen=True, kw_only=True)
class MistakeGroup:
    """Mistakes of one confused pair that lie together in the features of the network."""

    true: str
    pred: str
    sentence: str  # as "dog taken for cat, 21: darker than other dogs, seen at the lower border"
    rows: tuple[int, ...]  # of its mistakes in the predictions, the most typical first
    neighbors: tuple[tuple[int, ...], tuple[int, ...]]  # training rows of class true, of pred


@dataclass(frozen=True, kw_only=True)
class Causes:
    """The causes of a run's mistakes, the one that explains most first; a mistake has at most one.

    The mistakes in no cause are unexplained, and the report says how many they are.
    """

    mistakes: int
    causes: tuple[Cause, ...]
    groups: tuple[MistakeGroup, ...]
    notes: tuple[str, ...] = ()  # what the network says of an empty picture; what was not tested

    @property
    def explained(self) -> int:
        """How many mistakes have a cause."""
        return sum(len(cause.rows) for cause in self.causes)


def write_causes(folder: Path, causes: Causes, predictions: Predictions) -> None:
    """Write `causes.json`, and for people `causes.csv` with a row for each mistake.

    The table has the mistakes in the order of the predictions; an unexplained one has no cause.
    """
    write_text(folder / "causes.json", json_text(asdict(causes), indent=1) + "\n")
    write_csv(folder / "causes.csv", _csv_rows(causes, predictions))


def _csv_rows(causes: Causes, predictions: Predictions) -> Iterator[list[Any]]:
    by_row = {row: cause for cause in causes.causes for row in cause.rows}
    yield ["row", "id", "true", "pred", "cause", "sentence"]
    for row in np.flatnonzero(~predictions.correct).tolist():
        cause = by_row.get(row)
        classes = (
            predictions.classes[k] for k in (predictions.labels[row], predictions.preds[row])
        )
        why = (cause.kind, cause.sentence) if cause else ("", "")
        yield [row, predictions.ids[row], *classes, *why]


def read_causes(path: Path, *, images: int | None = None) -> Causes:
    """Return what `write_causes` wrote, whose rows must be of that many images.

    Raises one of `parts.DAMAGE` if the file is not as it was written.
    """
    causes = checked(Causes, read_json(path))
    explained = [row for cause in causes.causes for row in cause.rows]
    if len(set(explained)) < len(explained):
        raise ValueError("a mistake has two causes")
    rows = {*explained, *(row for group in causes.groups for row in group.rows)}
    if any(row < 0 or (images is not None and row >= images) for row in rows):
        raise ValueError(f"it has rows beyond the {images} images")
    return causes
