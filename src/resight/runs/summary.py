"""The result of a run as frozen values: what `summary.json` holds."""

from dataclasses import asdict, dataclass
from typing import Any

from ..metrics.classification import TestResult
from ..metrics.intervals import Interval

FORMAT_VERSION = 2  # of the files of a run folder


@dataclass(frozen=True)
class DataSummary:
    """The data that a run was trained and tested on, in numbers of images."""

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
    """What the kept weights reach on the validation images; the loss is a mean over them."""

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
        test = self.test.to_dict() if self.test else None
        return {"format": FORMAT_VERSION, **asdict(self), "test": test}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Summary":
        """Return what `to_dict` gave as a value again.

        Raises KeyError, TypeError or ValueError where the content is not of that form.
        """
        fields = {name: value for name, value in content.items() if name != "format"}
        validation, test = content["validation"], content["test"]
        data = {**content["data"], "notes": tuple(content["data"]["notes"])}
        for count in ("train", "val", "test"):
            data[count] = int(data[count])
        return cls(
            **{
                **fields,
                "data": DataSummary(**data),
                "model": ModelSummary(
                    content["model"]["name"], int(content["model"]["parameters"])
                ),
                "validation": validation
                and ValidationResult(Interval(**validation["accuracy"]), float(validation["loss"])),
                "test": test and TestResult.from_dict(test),
                "train_secs": float(content["train_secs"]),
            }
        )
