"""Neighbors of an image: the training images whose features in the network are most similar."""

from collections.abc import Collection, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets import Split, Statistics, batch_size_for
from ..datasets.originals import display_images
from ..figures import NeighborImages
from ..networks.unwrap import device_of
from ..recipe import Training
from ..records import evenly_spaced
from ..training.features import features

MAX_CANDIDATES = 10_000  # images of 32 px to search for neighbors


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

    def in_class(query: Tensor, label: int) -> tuple[list[int], list[float]]:
        members = (candidates.labels == label).nonzero().flatten().cpu()
        rows, cosines = nearest_neighbors(query[None], candidate_features[members], k)
        return members[rows[0]].tolist(), cosines[0].tolist()

    chosen = [
        in_class(query, label)
        for query, pair in zip(query_features, pairs, strict=True)
        for label in pair
    ]
    numbers = np.array([row for rows, _ in chosen for row in rows], dtype=np.int64)
    ends = np.cumsum([len(rows) for rows, _ in chosen])[:-1]
    pictures = np.split(display_images(candidates, numbers).pictures, ends)
    images = [
        NeighborImages(shown, tuple(candidates.ids[row] for row in rows), tuple(cosines))
        for shown, (rows, cosines) in zip(pictures, chosen, strict=False)
    ]
    neighbors = list(zip(images[::2], images[1::2], strict=True))
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
