"""Neighbors of an image: the training images whose features in the network are most similar."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets import Split, Statistics, batch_size_for
from ..datasets.originals import display_images
from ..figures import NeighborImages
from ..networks.unwrap import device_of
from ..recipe import Training
from ..records import Float32Array, IntArray, evenly_spaced
from ..training.features import features

MAX_CANDIDATES = 10_000  # images of 32 px to search for neighbors


@dataclass(frozen=True)
class RunFeatures:
    """Features in a network of all test images, and of training images to compare them with."""

    test: Tensor  # (N, D) float32
    train: Tensor  # (M, D) float32, of the candidates
    rows: Tensor  # (M,) of the candidates in the training split
    labels: Tensor  # (M,) of the candidates
    note: str  # how they are compared, and with how many

    def nearest(
        self, queries: IntArray, pairs: Sequence[tuple[int, int]], *, k: int
    ) -> tuple[IntArray, Float32Array]:
        """Find the k training images of either class of each pair most similar to test images.

        queries: (Q,) rows of the test images; pairs: two classes for each. Returns the rows in the
        training split (Q, 2, k), the most similar first, and the cosines (Q, 2, k). Where a class
        has fewer than k, the row is -1.
        """
        nearest = np.full((len(queries), 2, k), -1, dtype=np.int64)
        cosines = np.zeros((len(queries), 2, k), dtype=np.float32)
        classes = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        for label in np.unique(classes):
            members = (self.labels == int(label)).nonzero().flatten()
            at, side = np.nonzero(classes == label)
            of_class = self.test[torch.from_numpy(np.asarray(queries)[at])]
            rows, values = nearest_neighbors(of_class, self.train[members], k)
            count = rows.shape[1]
            nearest[at, side, :count] = self.rows[members[rows]].numpy()
            cosines[at, side, :count] = values.numpy()
        return nearest, cosines


def run_features(
    model: nn.Module,
    test: Split,
    train: Split,
    stats: Statistics,
    *,
    training: Training | None = None,
    keep: str | None = None,
) -> RunFeatures:
    """Return the features of all of `test`, and of as many of `train` as `candidate_rows` says.

    `keep` is that of `training.features`.

    Raises:
        UsageError: the network has no linear layer, whose input the features are.
    """
    rows = candidate_rows(train, set(train.labels.tolist()))
    candidates = train.select(rows)
    device = device_of(model, train.device)
    test_features, train_features = (
        features(model, split.to(device), stats, training=training, keep=keep).cpu()
        for split in (test, candidates)
    )
    among = f"{len(train):,}" if len(rows) == len(train) else f"{len(rows):,} of {len(train):,}"
    note = f"most similar among {among} training images, by cosine of the penultimate features"
    return RunFeatures(test_features, train_features, rows.cpu(), candidates.labels.cpu(), note)


def neighbor_images(
    train: Split, rows: IntArray, cosines: Float32Array
) -> list[tuple[NeighborImages, NeighborImages]]:
    """Return the pictures, ids and cosines of what `RunFeatures.nearest` found, for each query."""
    sides, values = rows.reshape(-1, rows.shape[-1]), cosines.reshape(-1, rows.shape[-1])
    kept = [side[side >= 0] for side in sides]
    pictures = display_images(train, np.concatenate([*kept, np.zeros(0, np.int64)])).pictures
    parts = np.split(pictures, np.cumsum([len(side) for side in kept])[:-1]) if kept else []
    images = [
        NeighborImages(
            shown, tuple(train.ids[row] for row in side), tuple(value[: len(side)].tolist())
        )
        for shown, side, value in zip(parts, kept, values, strict=True)
    ]
    return list(zip(images[::2], images[1::2], strict=True))


def candidate_rows(split: Split, classes: Collection[int]) -> Tensor:
    """Return rows (M,) of images of these classes, evenly, few enough to compare in a short time.

    That is 10,000, or as many as have the pixels of 10,000 images of 32 px.
    """
    members = torch.isin(split.labels, torch.tensor(sorted(classes)).to(split.labels))
    rows = members.nonzero().flatten()
    count = min(MAX_CANDIDATES, batch_size_for(split, MAX_CANDIDATES))
    return rows[torch.from_numpy(evenly_spaced(len(rows), count))]


def nearest_neighbors(queries: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k of `candidates` (N, D) most similar to each of `queries` (M, D), by cosine.

    Returns their rows (M, k) and cosines (M, k) in [-1, 1], the most similar first; with fewer
    than k candidates, all of them. A row of zeros is similar to nothing: cosine 0.
    """
    cosines = F.normalize(queries, dim=1) @ F.normalize(candidates, dim=1).T  # (M, N)
    k = min(k, len(candidates))
    rows = cosines.topk(k, dim=1).indices.sort(dim=1).values  # a sort of all takes 4 times as long
    values, order = cosines.gather(1, rows).sort(dim=1, descending=True, stable=True)
    rows = rows.gather(1, order)
    tied = (cosines >= values[:, -1:]).sum(dim=1) > k  # of equal ones the first count
    if tied.any():
        values[tied], rows[tied] = (
            part[:, :k] for part in cosines[tied].sort(dim=1, descending=True, stable=True)
        )
    return rows, values
