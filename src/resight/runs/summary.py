"""The result of a run as frozen values: what `summary.json` holds."""

from dataclasses import asdict, dataclass
from typing import Any

from ..metrics.classification import TestResult
from ..metrics.intervals import Interval

FORMAT_VERSION = 3  # of the files of a run folder


@dataclass(frozen=True)
class DataSummary:
    """The data of a run; `train`, `val` and `test` are numbers of images."""

    source: str
    classes: int
    train: int
    val: int
    test: int
    fingerprint: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ModelSummary:
    """The network of a run."""

    name: str
    parameters: int


@dataclass(frozen=True)
class ValidationResult:
    """The result of the kept weights on the validation images; the loss is a mean over them."""

    accuracy: Interval
    loss: float


@dataclass(frozen=True)
class Summary:
    """The result of a run. `test` is None until the test set was read, after the last epoch."""

    recipe: str
    data: DataSummary
    model: ModelSummary
    epochs: int  # finished
    steps: int
    best_epoch: int | None  # whose weights are kept, counted from 1
    selected_by: str
    validation: ValidationResult | None
    test: TestResult | None
    train_secs: float

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain Python, fit for JSON."""
        return {"format": FORMAT_VERSION, **asdict(self)}
