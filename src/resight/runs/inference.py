"""The predictions of a trained run: for a test set, or for picture files of your own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from ..datasets import Dataset, Split, read_pictures
from ..errors import ResightError, UsageError
from ..events import OnEvent, ignore_events
from ..files import remove_leftovers, safe_name
from ..metrics.classification import TestResult, check_finite, test_result
from ..networks.unwrap import device_of
from ..recipe.toml import with_changes
from ..records import Predictions
from ..training.device import pick_device
from ..training.predict import predict_split
from ..training.setup import load_dataset
from .checkpoint import ModelInfo, load_model
from .results import draw_predictions
from .run import Run


@dataclass(frozen=True)
class EvaluationResult:
    """What a run reaches on a test set; the tables and pictures are in `folder`."""

    data: str
    tta: str | None  # test-time augmentation
    folder: Path
    test: TestResult
    predictions: Predictions

    def to_dict(self) -> dict[str, Any]:
        """Return all but the predictions, fit for JSON."""
        name = self.folder.name
        return {"data": self.data, "tta": self.tta, "folder": name, **self.test.to_dict()}

    def __str__(self) -> str:
        pairs = self.test.most_confused[:3]
        return "\n".join(
            [
                f"{self.data}: {self.test}",
                *(f"  {pair.count} x {pair.true} taken for {pair.pred}" for pair in pairs),
                f"calibration error {self.test.calibration.ece:.3f}",
                f"tables and pictures in {self.folder}/",
            ]
        )


def evaluate(
    run: str | Path | Run,
    *,
    data: Dataset | str | Path | None = None,
    model: nn.Module | None = None,
    tta: Literal["flip", "flip_shift", "none"] | None = None,
    device: str = "auto",
    offline: bool = False,
    skip_unreadable: bool = False,
    on_event: OnEvent = ignore_events,
) -> EvaluationResult:
    """Measure a run's kept weights on a test set: its own, or that of `data`.

    The result is also written into the run folder, under `evaluation-<data>[-<tta>]/`. `tta`
    stands in for the recipe's test-time augmentation.

    Raises:
        UsageError: the classes or the channels of `data` are not those the run was trained on, or
            the run's own data has changed.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    network, info = load_model(run.folder, model, pick_device(device))
    changes: dict[str, Any] = {}
    if tta is not None:  # views of every image, as the caller wants
        changes["evaluation"] = {"tta": tta, "tta_below": "none"}
    if data is not None:
        changes["data"] = {"image_size": info.image_size, "skip_unreadable": skip_unreadable}
    info = replace(info, recipe=with_changes(info.recipe, changes, origin="evaluate"))
    dataset = load_dataset(info.recipe, data, offline=offline, on_event=on_event)
    if data is None:
        _check_unchanged(dataset, run)
    _check_fits(dataset, info)
    predictions = predict_images(network, dataset.test, info)
    tta_used = info.recipe.evaluation.tta
    name = safe_name(f"evaluation-{dataset.name}{f'-{tta_used}' if tta_used else ''}")
    folder = run.folder / name
    result = EvaluationResult(dataset.name, tta_used, folder, test_result(predictions), predictions)
    _write(result, dataset.test.images, count=info.recipe.explain.images)
    return result


def _write(result: EvaluationResult, images: Tensor, *, count: int) -> None:
    """Write summary, predictions and figures into the folder of an evaluation."""
    try:
        result.folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ResightError(f"cannot make {result.folder}: {error.strerror}") from error
    remove_leftovers(result.folder)
    run = Run(result.folder)
    run.write_json("summary.json", result.to_dict())
    run.write_predictions(result.predictions)
    draw_predictions(result.folder, result.predictions, images, count=count)


@dataclass(frozen=True)
class ImagePrediction:
    """What a network makes of one picture: class names with probabilities, likeliest first."""

    id: str
    ranking: tuple[tuple[str, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as plain Python, fit for JSON."""
        return {"id": self.id, "classes": dict(self.ranking)}


def predict(
    run: str | Path | Run,
    images: Sequence[str | Path],
    *,
    model: nn.Module | None = None,
    device: str = "auto",
) -> list[ImagePrediction]:
    """Classify picture files by a run's kept weights, sized and colored as in training.

    Raises:
        UsageError: no pictures, or one that does not exist or cannot be read.
    """
    if not images:
        raise UsageError("no pictures were given; name at least one file")
    run = run if isinstance(run, Run) else Run.open(run)
    network, info = load_model(run.folder, model, pick_device(device))
    pictures = read_pictures(
        [Path(image) for image in images], image_size=info.image_size, channels=info.channels
    )
    predictions = predict_images(network, pictures, info)
    return [
        ImagePrediction(id, tuple((info.classes[k], float(probs[k])) for k in (-probs).argsort()))
        for id, probs in zip(predictions.ids, predictions.probs, strict=True)
    ]


def predict_images(model: nn.Module, images: Split, info: ModelInfo) -> Predictions:
    """Predict images in the precision and with the test-time augmentation of a run's recipe.

    Raises:
        ResightError: an output is not finite.
    """
    predictions = predict_split(
        model,
        images.to(device_of(model, images.images.device)),
        info.stats,
        classes=info.classes,
        training=info.recipe.training,
        evaluation=info.recipe.evaluation,
    )
    check_finite(predictions)
    return predictions


def _check_unchanged(dataset: Dataset, run: Run) -> None:
    """Refuse the run's own data if it has changed: its test images may have been trained on."""
    summary = run.summary
    if summary is not None and summary.data.fingerprint != dataset.fingerprint:
        raise UsageError(
            f"the data in {summary.data.source} has changed since the run was trained, so its test "
            "images may be among those that were trained on; put it back, or test what is there "
            f"now by --data {summary.data.source}"
        )


def _check_fits(dataset: Dataset, info: ModelInfo) -> None:
    if dataset.classes != info.classes:
        raise UsageError(
            f"the classes of {dataset.name} ({_first_names(dataset.classes)}) are not those the "
            f"run was trained on ({_first_names(info.classes)}); give data with the same classes"
        )
    channels = dataset.test.images.shape[1]
    if channels != info.channels:
        raise UsageError(
            f"the images of {dataset.name} have {channels} channels, but the run was trained on "
            f"{info.channels}; give images with {info.channels} channels"
        )


def _first_names(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f", ... {len(names)} in all" if len(names) > limit else "")
