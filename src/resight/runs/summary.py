"""The result of a run as frozen values: what `summary.json` holds."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..metrics.classification import TestResult
from ..metrics.confidence import CoverageRow, Temperature
from ..metrics.intervals import MIN_TO_TELL, Interval

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
class ConfidenceResult:
    """How sure the kept weights may be: `coverage` is of the validation images."""

    temperature: Temperature
    coverage: tuple[CoverageRow, ...]
    ece: float | None = None  # calibration error of the test images at this temperature

    def describe(self, before: float, images: str) -> str:
        """Return the calibration error of `images` before and after the temperature, in words."""
        text = f"calibration error {before:.1%} on {images}"
        if self.temperature.note or self.ece is None:
            return f"{text}; temperature {self.temperature}"
        used = "which `resight predict` uses"
        return f"{text}, {self.ece:.1%} at temperature {self.temperature}, {used}"


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
    confidence: ConfidenceResult | None = None  # None: not finished, or of an earlier version
    # What `test` is of: the test set; training images out of fold; images of your own model.
    predicted: Literal["test", "train", "images"] = "test"

    @property
    def calibration(self) -> str | None:
        """The calibration error on the test images before and after the temperature, in words."""
        if not self.test or not self.confidence or self.confidence.ece is None:
            return None
        return self.confidence.describe(self.test.calibration.ece, "test")

    @property
    def kept(self) -> str:
        """Which weights are kept, and whether validation had the images to choose them."""
        text = f"weights of epoch {self.best_epoch}, by {self.selected_by}"
        if self.selected_by != "last" and self.data.val < MIN_TO_TELL:
            text += f" ({self.data.val} images: too few to tell epochs apart)"
        return text

    def lines(self, views: str | None) -> list[str]:
        """Return the result in words, a line each; `views` are those of the test images."""
        lines = [f"test accuracy {self.test}"]
        if views:
            lines.append(f"by the mean of {views}")
        return [*lines, *([self.calibration] if self.calibration else []), self.kept]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain Python, fit for JSON."""
        return {"format": FORMAT_VERSION, **asdict(self)}
