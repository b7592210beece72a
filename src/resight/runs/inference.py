"""Asking a trained run: about a test set, or about pictures of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..datasets import Dataset, read_pictures
from ..errors import UsageError
from ..events import OnEvent
from ..metrics.classification import summarize
from ..networks import build_model
from ..recipe.toml import with_changes
from ..records import Predictions
from ..training.device import pick_device
from ..training.predict import predict_split
from ..training.setup import load_dataset
from .results import write_evaluation
from .run import ModelInfo, RunFolder


def evaluate(
    run: str | Path,
    *,
    data: Dataset | str | Path | None = None,
    model: nn.Module | None = None,
    tta: Literal["flip", "flip_shift", "none"] | None = None,
    device: str = "auto",
    offline: bool = False,
    skip_unreadable: bool = False,
    on_event: OnEvent | None = None,
) -> tuple[dict[str, Any], Predictions]:
    """Ask a run's chosen weights about a test set: its own, or that of `data`.

    Returns the summary and the predictions, which are also written into the run folder, under
    `evaluation-<data>[-<tta>]/`. `tta` stands in for the recipe's test-time augmentation.

    Raises:
        UsageError: the classes or the colors of `data` are not those the run was trained on.
    """
    folder = RunFolder.open(Path(run))
    module, info = load_model(folder, model, pick_device(device))
    recipe = info.recipe
    if tta is not None:
        asked = {"tta": tta, "tta_below": "none"}  # of every image, as asked for
        recipe = with_changes(recipe, {"evaluation": asked}, origin="evaluate")
    if data is not None:
        read_as = {"image_size": info.image_size, "skip_unreadable": skip_unreadable}
        recipe = with_changes(recipe, {"data": read_as}, origin="evaluate")
    dataset = load_dataset(recipe, data, offline=offline, on_event=on_event or (lambda event: None))
    if dataset.classes != info.classes:
        raise UsageError(
            f"the classes of {dataset.name} ({_listed(dataset.classes)}) are not those the run was "
            f"trained on ({_listed(info.classes)}); give data with the same classes"
        )
    if dataset.test.images.shape[1] != info.channels:
        raise UsageError(
            f"the images of {dataset.name} have {dataset.test.images.shape[1]} channels, but the "
            f"run was trained on {info.channels}"
        )
    predictions = predict_split(
        module,
        dataset.test.to(pick_device(device)),
        info.stats,
        classes=info.classes,
        training=recipe.training,
        evaluation=recipe.evaluation,
    )
    used = recipe.evaluation.tta
    name = f"evaluation-{dataset.name}" + (f"-{used}" if used else "")
    found = {"data": dataset.name, "tta": used, "folder": name, **summarize(predictions)}
    write_evaluation(folder.path / name, found, predictions, dataset.test.images)
    return found, predictions


@dataclass(frozen=True)
class ImagePrediction:
    """What a model makes of one picture: class names with probabilities, likeliest first."""

    id: str
    ranking: tuple[tuple[str, float], ...]


def predict(
    run: str | Path,
    images: Sequence[str | Path],
    *,
    model: nn.Module | None = None,
    device: str = "auto",
) -> list[ImagePrediction]:
    """What a run's chosen weights see in picture files, sized and colored as in training.

    Raises:
        UsageError: no pictures, or one that does not exist or cannot be read.
    """
    if not images:
        raise UsageError("no pictures were given; name at least one file")
    module, info = load_model(RunFolder.open(Path(run)), model, pick_device(device))
    pictures = read_pictures(
        [Path(image) for image in images], image_size=info.image_size, channels=info.channels
    )
    predictions = predict_split(
        module,
        pictures.to(pick_device(device)),
        info.stats,
        classes=info.classes,
        training=info.recipe.training,
        evaluation=info.recipe.evaluation,
    )
    return [
        ImagePrediction(id, tuple((info.classes[k], float(probs[k])) for k in (-probs).argsort()))
        for id, probs in zip(predictions.ids, predictions.probs, strict=True)
    ]


def load_model(
    folder: RunFolder, model: nn.Module | None, device: torch.device
) -> tuple[nn.Module, ModelInfo]:
    """A run's network, or `model`, with the chosen weights, on the device."""
    weights, info = folder.load_best()
    if model is None:
        model = build_model(
            info.recipe.model,
            in_channels=info.channels,
            num_classes=len(info.classes),
            image_size=info.image_size,
            seed=info.recipe.seed,
        )
    model.load_state_dict(weights)
    return model.to(device), info


def _listed(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f", ... {len(names)} in all" if len(names) > limit else "")
