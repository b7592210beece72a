"""Everything before the first step: from a recipe and its data to a model on a device."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..cam.layers import check_layers
from ..datasets import Dataset, hold_out, load, statistics
from ..datasets.augment import check_augment, normalize
from ..errors import UsageError
from ..events import Message, OnEvent, Progress
from ..networks import MIN_PX, build_model, prepare_model
from ..optim.schedules import describe
from ..recipe import Custom, Recipe, Swift
from ..recipe.sources import find_source
from ..recipe.toml import with_changes
from .autotune import resolve_auto
from .device import pick_device
from .state import TrainData, TrainState, init_state

NUM_WHITENING_IMAGES = 5_000  # training images that whitening looks at


@dataclass(frozen=True)
class TrainSetup:
    """Everything that a run needs before its first step, or before a checkpoint is loaded."""

    recipe: Recipe  # resolved: data and model written down, no "auto" left
    dataset: Dataset
    splits: TrainData
    state: TrainState

    @property
    def device(self) -> torch.device:
        """The device that it trains on."""
        return self.splits.train.images.device


def resolve(recipe: Recipe, data: Dataset | str | Path | None, model: nn.Module | None) -> Recipe:
    """Return the recipe that names the data and the model passed in; paths become absolute."""
    changes: dict[str, Any] = {}
    if model is not None:
        target = f"{type(model).__module__}.{type(model).__qualname__}"
        changes["model"] = {"name": "custom", "target": target}
    elif isinstance(recipe.model, Custom):
        raise UsageError(
            f'model.name = "custom" ({recipe.model.target}) has to be passed in from Python: '
            "resight.train(recipe, model=...)"
        )
    if isinstance(data, Dataset):
        changes["data"] = {"source": data.name}
    else:
        source = find_source(str(data or recipe.data.source))
        changes["data"] = {"source": str(source.resolve() if isinstance(source, Path) else source)}
    return with_changes(recipe, changes, origin="train")


def prepare(
    recipe: Recipe,
    *,
    data: Dataset | str | Path | None,
    model: nn.Module | None,
    device: str,
    offline: bool,
    on_event: OnEvent,
) -> TrainSetup:
    """Check, load, split and build everything that a run needs before its first step.

    Raises:
        UsageError: recipe, data, model and device do not fit each other.
    """
    chosen = pick_device(device)
    if model is not None:
        check_module(model)
        check_trainable(model)
    if recipe.training.deterministic:  # cuBLAS asks once, at the first matrix product
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    recipe = resolve(recipe, data, model)
    dataset = load_dataset(recipe, data, offline=offline, on_event=on_event)
    splits = make_splits(recipe, dataset, chosen)
    state = init_state(recipe, splits, init_model(recipe, splits) if model is None else model)
    if recipe.explain.report and recipe.explain.layers:
        check_layers(state.model, recipe.explain.layers, dataset.train.images.shape[1:])
    recipe, lines = resolve_auto(recipe, state, splits)
    for line in (describe(state.schedule), *lines):
        on_event(Message(line))
    return TrainSetup(recipe, dataset, splits, state)


def check_module(model: nn.Module) -> None:
    """Raise UsageError unless a model passed in is a module whose weights exist, in float32."""
    if not isinstance(model, nn.Module):
        name = model.__name__ if isinstance(model, type) else repr(model)
        raise UsageError(f"model = {name} is no torch.nn.Module; pass a network, as MyNetwork(...)")
    for name, weight in model.named_parameters():
        if is_lazy(weight):
            problem = "has no shape yet; pass a batch of images through the model first"
        elif weight.is_meta:
            problem = "is on the device meta, without values; build the model on the CPU"
        elif weight.is_inference():
            problem = "was made in inference mode; build the model outside torch.inference_mode()"
        elif weight.is_floating_point() and weight.dtype != torch.float32:
            problem = (
                f"is {weight.dtype}, but weights are kept in float32: call model.float(); to "
                'compute in less, set training.precision = "bf16"'
            )
        else:
            continue
        raise UsageError(f"the weight {name} of the model {problem}")


def check_trainable(model: nn.Module) -> None:
    """Raise UsageError if a model has no weight to train."""
    weights = list(model.parameters())
    if not any(weight.requires_grad for weight in weights):
        problem = "are all frozen (requires_grad is False)" if weights else "do not exist"
        raise UsageError(
            f"the weights of the {type(model).__name__} {problem}, so there is nothing to train; "
            "call requires_grad_(True) on the layers to train"
        )


def load_dataset(
    recipe: Recipe, data: Dataset | str | Path | None, *, offline: bool, on_event: OnEvent
) -> Dataset:
    """Load `data`, by default the recipe's own; the data set's notes become messages."""
    if not isinstance(data, Dataset):
        data = load.data(
            str(data or recipe.data.source),
            image_size=recipe.data.image_size,
            offline=offline,
            skip_unreadable=recipe.data.skip_unreadable,
            on_progress=lambda *progress: on_event(Progress(*progress)),
        )
    for note in data.notes:
        on_event(Message(note))
    return data


def make_splits(recipe: Recipe, dataset: Dataset, device: torch.device) -> TrainData:
    """Make the training and validation split on the device; the test set stays where it is."""
    channels, size = dataset.train.images.shape[1], dataset.train.images.shape[-1]
    check_augment(recipe.augment, channels, size)
    early, name = recipe.training.progressive, recipe.model.name
    smallest = MIN_PX.get(name, 1)
    if early and not smallest <= early.px < size:
        raise UsageError(
            f"training.progressive.px = {early.px} is not below the images' {size} px and at least "
            f"{smallest}, which {name} needs"
        )
    train_split, val = dataset.train, None
    if recipe.data.val_fraction is not None:
        train_split, val = hold_out(train_split, recipe.data.val_fraction, recipe.seed)
    return TrainData(
        train=train_split.to(device),
        val=val and val.to(device),
        stats=statistics(train_split),
        classes=dataset.classes,
    )


def init_model(recipe: Recipe, splits: TrainData) -> nn.Module:
    """Build the recipe's network: weights from its seed and, for some, the training images."""
    images = splits.train.images
    model = build_model(
        recipe.model,
        in_channels=images.shape[1],
        num_classes=len(splits.classes),
        image_size=images.shape[-1],
        seed=recipe.seed,
    )
    if isinstance(recipe.model, Swift):
        step = math.ceil(len(images) / NUM_WHITENING_IMAGES)  # data may be sorted by class
        prepare_model(model, normalize(images[::step], splits.stats))
    return model
