"""Features of images in a network: what its last linear layer gets."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..datasets import Split, Statistics
from ..datasets.cache_entries import cache_folder
from ..datasets.cache_file import mark_used, open_entry, write_entry
from ..errors import ResightError, UsageError
from ..networks.freeze import head_of
from ..recipe import Recipe, Training
from ..recipe.sources import source_name
from .predict import predict_split

_VERSION = 1  # of how features are computed; raise it when that changes
_NUM_COMPARED = 4  # images whose features are computed, to compare them with kept ones


def features(
    model: nn.Module,
    split: Split,
    stats: Statistics,
    *,
    training: Training | None = None,
    keep: str | None = None,
    on_batch: Callable[[int], None] = lambda count: None,
) -> Tensor:
    """Return the penultimate features of a split, (N, D) float32, on the device of the split.

    They are the input of the linear layer that runs last: pooled maps, before they become logits.
    The model runs in evaluation mode without gradients, and comes back without hooks.

    keep: the name under which the cache of decoded data keeps the features; None: it does not. The
    same images in the same weights, but for those of the head, then take no second pass.
    on_batch: is called with the number of images, batch by batch.

    Raises:
        UsageError: no linear layer runs.
    """
    training = training or Training()

    def compute(part: Split, tell: Callable[[int], None]) -> Tensor:
        with _inputs_of_linear(model, tell) as batches:
            predict_split(model, part, stats, classes=(), training=training)
        return torch.cat(batches)

    path = None
    if keep is not None:
        with suppress(UsageError):  # no folder for the cache is known
            path = _entry_path(model, split, stats, training)
    if path is None:
        return compute(split, on_batch)
    first = split.select(torch.arange(min(_NUM_COMPARED, len(split))))
    kept = _read(path, len(split), compute(first, lambda count: None).cpu())
    if kept is not None:
        on_batch(len(split))
        return kept.to(split.device)
    values = compute(split, on_batch)
    with suppress(OSError, ResightError):  # where the cache cannot be written, there is none
        write_entry(path, {"name": keep}, {"features": values.cpu()}, {})
    return values


def name_to_keep(recipe: Recipe) -> str | None:
    """Return what a run's features are kept under; None if training changes its weights."""
    is_fixed = recipe.probe is not None and recipe.probe.only
    return source_name(recipe.data.source) if is_fixed else None


def _entry_path(model: nn.Module, split: Split, stats: Statistics, training: Training) -> Path:
    """Return the file that has the features if they are kept: its name says all they depend on.

    Rounding depends on the version of torch, the device and the number of threads. What the names
    and values of weights do not say, as what a forward pass does with them, `_read` checks.
    """
    about = (
        *(_VERSION, torch.__version__, split.device.type, torch.get_num_threads()),
        *(tuple(split.shape), stats, training.precision, training.channels_last),
    )
    digest = hashlib.sha256(repr(about).encode())
    head = head_of(model)[0]
    for name, weight in model.state_dict().items():
        if isinstance(weight, Tensor) and not name.startswith(f"{head}."):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            content = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(content.numpy().data)
    if split.content:
        digest.update(split.content.encode())
    else:
        for images in split.parts():
            digest.update(images.cpu().contiguous().numpy().data)
    return cache_folder() / "features" / f"{digest.hexdigest()[:32]}.safetensors"


def _read(path: Path, count: int, first: Tensor) -> Tensor | None:
    """Return the features in an entry; None if there is none, or it is damaged or does not fit."""
    try:
        kept = open_entry(path).tensor("features")
    except (OSError, ResightError, KeyError, TypeError, ValueError, RecursionError):
        return None
    if kept.dtype != torch.float32 or kept.shape != (count, first.shape[1]):
        return None
    tolerance = 1e-2 * float(first.abs().max())
    if not torch.allclose(kept[: len(first)], first, rtol=1e-2, atol=tolerance):
        return None
    mark_used(path)
    return kept


@contextmanager
def _inputs_of_linear(model: nn.Module, on_batch: Callable[[int], None]) -> Iterator[list[Tensor]]:
    """Collects, for each pass through `model`, the input of the linear layer that ran last."""
    batches: list[Tensor] = []
    latest: list[Tensor] = []

    def keep(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        latest[:] = [(args[0] if args else named["input"]).detach()]

    def collect(model: nn.Module, args: Any, output: Any) -> None:
        if not latest:
            raise UsageError(
                f"{type(model).__name__} has no linear layer, so images cannot be compared by "
                "its input"
            )
        batches.append(latest.pop().flatten(1).float())  # (n, D)
        on_batch(len(batches[-1]))

    hooks = [
        layer.register_forward_pre_hook(keep, with_kwargs=True)
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
    ]
    hooks.append(model.register_forward_hook(collect))
    try:
        yield batches
    finally:
        for hook in hooks:
            hook.remove()
