"""Explain predictions of a model that was trained elsewhere, into a folder of their own."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..datasets import Split, Statistics
from ..datasets.augment import normalize
from ..datasets.objects import load_objects
from ..datasets.readers.contents import ReadOptions
from ..errors import ResightError, UsageError
from ..events import OnEvent
from ..metrics.classification import check_finite, test_result
from ..networks.outputs import take_logits
from ..networks.unwrap import device_of, unwrap
from ..recipe import Recipe
from ..recipe.toml import with_changes
from ..records import Predictions
from ..runs.predictions_folder import PredictionsFolder, open_folder
from ..runs.results import draw_predictions
from ..runs.summary import DataSummary, ModelSummary, Summary
from .explain_run import explain_run
from .steps import ExplainInputs

_NUM_COMPARED = 64  # images whose predictions are compared with those of the model
_MIN_SAME = 0.9  # of them, which must be predicted alike


class NoModel(nn.Module):
    """Stands for a model that was not given: it has no layers, and prefers no class."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K) zeros."""
        return images.flatten(1)[:, :1].float() * torch.zeros(self.num_classes).to(images.device)


def explain_predictions(
    predictions: Predictions,
    images: Any,
    *,
    model: nn.Module | None,
    train: Any,
    stats: Statistics | None,
    settings: Mapping[str, Any],
    folder: Path,
    on_event: OnEvent,
) -> Path:
    """Write a folder that explains predictions; see `report`, which returns the page."""
    check_finite(predictions)
    if images is None:
        raise UsageError("report(predictions, images) needs the images of the predictions")
    if len(predictions) == 0 or (predictions.labels < 0).any():
        raise UsageError("some predictions have no label (-1), or there are none; leave such out")
    test = _split(images, predictions.labels, predictions.classes, "images")
    if len(test) != len(predictions):
        raise UsageError(
            f"{len(test):,} images have {len(predictions):,} predictions; give as many"
        )
    test = replace(test, ids=predictions.ids)
    names = "(images, labels)"
    if train is not None and not (isinstance(train, tuple) and len(train) == 2):
        raise UsageError(f"train is a {type(train).__name__}; give the pair {names}")
    others = _split(*train, predictions.classes, "train") if train else test.select(_NO_ROWS)
    if others.shape[1:] != test.shape[1:]:
        shapes = ["x".join(map(str, split.shape[1:])) for split in (others, test)]
        raise UsageError(f"train has images of {shapes[0]}, and images of {shapes[1]}; give one")
    channels = test.shape[1]
    stats = stats or Statistics((0.0,) * channels, (1.0,) * channels)
    network = unwrap(model) if model is not None else NoModel(len(predictions.classes))
    if model is not None:
        _check_model(network, test, stats, predictions)
    recipe = with_changes(Recipe(), {"explain": dict(settings)}, origin="report")
    run = _open(folder)
    run.write_predictions(predictions)
    draw_predictions(folder, predictions, test, recipe.explain)
    title = type(network).__name__ if model is not None else "your model"
    summary = _summary(predictions, network, title, len(others))
    run.write_json("summary.json", summary.to_dict())
    inputs = ExplainInputs(network, recipe, stats, others, test, predictions)
    result = explain_run(run, inputs, recipe.explain, on_event=on_event)
    page = folder / "report.html"
    if "report.html" not in result.files:
        raise ResightError(f"{page} was not written: {'; '.join(result.failed)}")
    return page


_NO_ROWS = torch.zeros(0, dtype=torch.int64)


def _split(images: Any, labels: Any, classes: tuple[str, ...], name: str) -> Split:
    """Return images and labels of any form as a split."""
    if isinstance(images, Split):
        return images
    numbers = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    try:
        split = load_objects((images, numbers), None, ReadOptions(), classes).train
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    assert split is not None  # a pair is read as training images
    return split


def _check_model(
    model: nn.Module, test: Split, stats: Statistics, predictions: Predictions
) -> None:
    """Refuse a model that says something else of the images than the predictions do."""
    count = min(_NUM_COMPARED, len(test))
    images = normalize(test.images_at(slice(count)), stats).to(device_of(model, test.device))
    was_training = model.training
    try:
        with torch.inference_mode():
            preds = take_logits(model.eval()(images))[0].argmax(1).cpu().numpy()
    except (RuntimeError, TypeError, ValueError) as error:
        line = str(error).partition("\n")[0]
        shape = tuple(images.shape)
        raise UsageError(f"the model cannot take images {shape}, float32: {line}") from error
    finally:
        model.train(was_training)
    same = int((preds == predictions.preds[:count]).sum())
    if same < _MIN_SAME * count:
        raise UsageError(
            f"the model predicts the class of the predictions for {same} of the first {count} "
            "images only; give both in one order, and as `stats` what the images of the model are "
            "normalized by, as in resight.Statistics(mean, std)"
        )


def _open(folder: Path) -> PredictionsFolder:
    """Make the folder; what is there already must have been made by `report`."""
    try:
        if not folder.exists() or not any(folder.iterdir()):
            folder.mkdir(parents=True, exist_ok=True)
            return PredictionsFolder(folder)
        opened = open_folder(folder)
    except OSError as error:
        raise UsageError(f"cannot make {folder}: {error.strerror}; choose another out") from error
    except UsageError:
        opened = None
    if opened is None or not opened.summary or opened.summary.predicted != "images":
        raise UsageError(
            f"{folder} has files that are no report of predictions; choose another out"
        )
    return PredictionsFolder(folder)


def _summary(predictions: Predictions, model: nn.Module, title: str, train: int) -> Summary:
    n, k = predictions.logits.shape
    parameters = sum(value.numel() for value in model.parameters())
    data = DataSummary(f"{n} images", k, train, 0, n, "", ())
    return Summary(
        recipe=title,
        data=data,
        model=ModelSummary(title, parameters),
        epochs=0,
        steps=0,
        best_epoch=None,
        selected_by="last",
        validation=None,
        test=test_result(predictions),
        train_secs=0.0,
        predicted="images",
    )
