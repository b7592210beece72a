"""Neighbors of an image: the training images whose features in the network are most similar."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets import Split, Statistics, batch_size_for
from ..errors import UsageError
from ..figures import NeighborImages
from ..networks.unwrap import device_of
from ..recipe import Training
from ..records import evenly_spaced
from ..training.predict import predict_split
from .steps import as_pictures

MAX_CANDIDATES = 10_000  # images of 32 px to search for neighbors


def features(
    model: nn.Module, split: Split, stats: Statistics, *, training: Training | None = None
) -> Tensor:
    """Return the penultimate features of a split, (N, D) float32, on the device of the split.

    They are the input of the linear layer that runs last: pooled maps, before they become logits.
    The model runs in evaluation mode without gradients, and comes back without hooks.

    Raises:
        UsageError: no linear layer runs.
    """
    with _inputs_of_linear(model) as batches:
        predict_split(model, split, stats, classes=(), training=training)
    return torch.cat(batches)


def find_neighbors(
    model: nn.Module,
    queries: Split,
    train: Split,
    pairs: Sequence[tuple[int, int]],
    stats: Statistics,
    *,
    k: int,
    training: Training | None = None,
) -> tuple[list[tuple[NeighborImages, NeighborImages]], str]:
    """Find the k images of `train` most similar to each query, in either class of its pair.

    Only some images of large classes, or of many pixels, are compared, see `candidate_rows`. The
    text is a line that says how many.
    """
    classes = {label for pair in pairs for label in pair}
    candidates = train.select(candidate_rows(train, classes))
    device = device_of(model, train.images.device)
    query_features, candidate_features = (
        features(model, split.to(device), stats, training=training).cpu()
        for split in (queries, candidates)
    )

    def in_class(query: Tensor, label: int) -> NeighborImages:
        members = (candidates.labels == label).nonzero().flatten().cpu()
        rows, cosines = nearest_neighbors(query[None], candidate_features[members], k)
        images = candidates.select(members[rows[0]])
        return NeighborImages(as_pictures(images), images.ids, tuple(cosines[0].tolist()))

    neighbors = [
        (in_class(query, one), in_class(query, other))
        for query, (one, other) in zip(query_features, pairs, strict=True)
    ]
    total = sum(int((train.labels == label).sum()) for label in classes)
    among = f"{len(candidates):,} of {total:,}" if len(candidates) < total else f"{total:,}"
    text = (
        f"most similar among {among} training images of these classes, by cosine of the "
        "penultimate features"
    )
    return neighbors, text


def candidate_rows(split: Split, classes: Collection[int]) -> Tensor:
    """Return rows (M,) of images of these classes, evenly, few enough to compare in a short time.

    That is 10,000, or as many as have the pixels of 10,000 images of 32 px.
    """
    members = torch.isin(split.labels, torch.tensor(sorted(classes)).to(split.labels))
    rows = members.nonzero().flatten()
    count = min(MAX_CANDIDATES, batch_size_for(split.images, MAX_CANDIDATES))
    return rows[torch.from_numpy(evenly_spaced(len(rows), count))]


def nearest_neighbors(queries: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k of `candidates` (N, D) most similar to each of `queries` (M, D), by cosine.

    Returns their rows (M, k) and cosines (M, k) in [-1, 1], the most similar first; with fewer
    than k candidates, all of them. A row of zeros is similar to nothing: cosine 0.
    """
    cosines = F.normalize(queries, dim=1) @ F.normalize(candidates, dim=1).T  # (M, N)
    values, rows = cosines.sort(dim=1, descending=True, stable=True)
    return rows[:, :k], values[:, :k]


@contextmanager
def _inputs_of_linear(model: nn.Module) -> Iterator[list[Tensor]]:
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
