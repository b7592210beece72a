"""The predictions of a trained run, and what it reaches on a test set."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ..datasets import Dataset, Split
from ..errors import ResightError
from ..events import Message, OnEvent, show_events
from ..files import remove_leftovers, safe_name
from ..metrics.classification import TestResult, calibration, check_finite, test_result
from ..metrics.confidence import with_temperature
from ..networks.unwrap import device_of
from ..recipe import Explain
from ..recipe.toml import with_changes
from ..records import Predictions
from ..training.device import pick_device
from ..training.predict import predict_split
from .checkpoint import ModelInfo, load_model
from .evaluation_data import EvaluationOptions, SplitChoice, evaluation_images
from .run import Run
from .summary import ConfidenceResult


@dataclass(frozen=True)
class EvaluationResult:
    """What a run reaches on a test set; the tables and pictures are in `folder`."""

    data: str
    scored: str  # which images these are, and what the number means
    tta: str | None  # test-time augmentation
    folder: Path
    test: TestResult
    predictions: Predictions
    confidence: ConfidenceResult | None  # the run's, with the calibration error of these images

    def to_dict(self) -> dict[str, Any]:
        """Return all but the predictions, fit for JSON."""
        name = self.folder.name
        about = {"data": self.data, "scored": self.scored, "tta": self.tta}
        after = self.confidence and {
            "temperature": self.confidence.temperature.value,
            "ece": self.confidence.ece,
        }
        return {**about, "folder": name, **self.test.to_dict(), "calibrated": after}

    def __str__(self) -> str:
        pairs, before = self.test.most_confused[:3], self.test.calibration.ece
        return "\n".join(
            [
                f"{self.data}: {self.test}",
                f"  on {self.scored}",
                *(f"  {pair.count} x {pair.true} taken for {pair.pred}" for pair in pairs),
                self.confidence.describe(before, "these images")
                if self.confidence
                else f"calibration error {before:.1%} on these images",
                f"tables and pictures in {self.folder}/",
            ]
        )


def evaluate(
    run: str | Path | Run,
    *,
    data: Dataset | str | Path | None = None,
    split: SplitChoice | None = None,
    changed_data: bool = False,
    model: nn.Module | None = None,
    tta: Literal["flip", "flip_shift", "none"] | None = None,
    device: str = "auto",
    offline: bool = False,
    skip_unreadable: bool = False,
    layout: str | None = None,
    on_event: OnEvent = show_events,
) -> EvaluationResult:
    """Measure a run's kept weights on its test images, or on those of `data`.

    Without `split`, the test split is taken, else the validation split, else all of `data`; of the
    run's own data it is always the test images, which were never trained on. Classes are matched
    by name, and `data` may lack some. The result is also written into the run folder, under
    `evaluation-<data>[-<split>][-<tta>]/`. `tta` stands in for the recipe's test-time augmentation.

    Raises:
        UsageError: a class or the channels of `data` are unknown to the run, there is no such
            split; or, without `changed_data`, its data has changed or most images were trained on.
    """
    run = Run.open(run)
    where = pick_device(device)
    network, info = load_model(run.folder, model, where, allow_import=run.allow_import)
    for note in info.notes:
        on_event(Message(note))
    options = EvaluationOptions(data, split, changed_data, offline, skip_unreadable, layout)
    chosen = evaluation_images(run, info, options, on_event)
    if tta is not None:  # views of every image, as the caller wants
        views = {"evaluation": {"tta": tta, "tta_below": "none"}}
        info = replace(info, recipe=with_changes(info.recipe, views, origin="evaluate"))
    predictions = predict_images(network, chosen.images, info)
    tta_used = info.recipe.evaluation.tta
    parts = ("evaluation", chosen.name, split, tta_used)
    folder = run.folder / safe_name("-".join(part for part in parts if part))
    result = EvaluationResult(
        chosen.name,
        chosen.description,
        tta_used,
        folder,
        test_result(predictions),
        predictions,
        _confidence(run, info, predictions),
    )
    _write(result, chosen.images, info.recipe.explain)
    return result


def _confidence(run: Run, info: ModelInfo, predictions: Predictions) -> ConfidenceResult | None:
    """Return what the run says of its confidence, with the calibration error of `predictions`."""
    if run.summary is None or run.summary.confidence is None:
        return None
    calibrated = with_temperature(predictions, info.temperature)
    return replace(run.summary.confidence, ece=calibration(calibrated).ece)


def _write(result: EvaluationResult, images: Split, options: Explain) -> None:
    """Write summary, predictions and figures into the folder of an evaluation."""
    from .results import draw_predictions  # with matplotlib, which `predict` does without

    try:
        result.folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ResightError(f"cannot make {result.folder}: {error.strerror}") from error
    remove_leftovers(result.folder)
    run = Run(result.folder)
    run.write_json("summary.json", result.to_dict())
    run.write_predictions(result.predictions)
    draw_predictions(result.folder, result.predictions, images, options)


def predict_images(model: nn.Module, images: Split, info: ModelInfo) -> Predictions:
    """Predict images in the precision and with the test-time augmentation of a run's recipe.

    Raises:
        ResightError: an output is not finite.
    """
    predictions = predict_split(
        model,
        images.to(device_of(model, images.device)),
        info.stats,
        classes=info.classes,
        training=info.recipe.training,
        evaluation=info.recipe.evaluation,
    )
    check_finite(predictions)
    return predictions
