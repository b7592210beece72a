"""Groups of mistakes: those of a confused pair that lie together, and how they differ."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...records import FloatArray, IntArray
from ...runs.causes import MistakeGroup
from .attributes import ATTRIBUTES
from .chance import normal_tail
from .inputs import CauseInputs

_MAX_PAIRS, _MAX_GROUPS = 8, 3  # pairs, and groups of each
_MIN_SIZE = 8  # mistakes of a group
_NUM_NEIGHBORS = 3  # training images of either class
_ROUNDS = 20
_ALPHA = 0.01
_MAX_WORDS = 2  # attributes that a sentence names


def mistake_groups(inputs: CauseInputs) -> list[MistakeGroup]:
    """Return the groups of the most frequent pairs, the most frequent pair first."""
    predictions, rows = inputs.predictions, inputs.wrong
    k = len(inputs.classes)
    keys = predictions.labels[rows] * k + predictions.preds[rows]
    pairs, counts = np.unique(keys, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MAX_PAIRS]
    groups = []
    for pair, count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True):
        if count < _MIN_SIZE:
            continue
        own = rows[keys == pair]
        parts = _clusters(inputs.explained.features.test[torch.from_numpy(own)])
        groups += [_group(inputs, pair // k, pair % k, own[part]) for part in parts]
    return groups


def _clusters(features: Tensor) -> list[IntArray]:
    """Divide features (n, D) into at most 3 groups by k-means on the sphere, the largest first.

    The result needs no random numbers: the first center is the mean, each further one the feature
    farthest from all centers. The members of a group are in order of their distance to its center.
    """
    vectors = F.normalize(features.float(), dim=1)
    count = min(_MAX_GROUPS, len(vectors) // _MIN_SIZE)
    centers = F.normalize(vectors.mean(dim=0, keepdim=True), dim=1)
    while len(centers) < count:
        farthest = (vectors @ centers.T).amax(dim=1).argmin()
        centers = torch.cat([centers, vectors[farthest][None]])
    for _ in range(_ROUNDS):
        nearest = (vectors @ centers.T).argmax(dim=1)
        sums = torch.zeros_like(centers).index_add_(0, nearest, vectors)
        centers = F.normalize(sums, dim=1)
    similarity = vectors @ centers.T
    nearest = similarity.argmax(dim=1)
    groups = []
    for k in range(len(centers)):
        members = (nearest == k).nonzero().flatten()
        if len(members):
            order = similarity[members, k].argsort(descending=True, stable=True)
            groups.append(members[order].numpy())
    large = [group for group in groups if len(group) >= _MIN_SIZE]
    return sorted(large, key=lambda group: -len(group))


def _group(inputs: CauseInputs, true: int, pred: int, rows: IntArray) -> MistakeGroup:
    predictions = inputs.predictions
    right = np.flatnonzero(predictions.correct & (predictions.labels == true))
    words = _differences(inputs.attributes[rows], inputs.attributes[right])
    names = inputs.classes[true], inputs.classes[pred]
    how = f"more often {' and '.join(words)} than the {names[0]} images that are right"
    text = how if words else "no measured attribute sets them apart"
    nearest, _ = inputs.explained.features.nearest(rows[:1], [(true, pred)], k=_NUM_NEIGHBORS)
    sides = [tuple(row for row in side.tolist() if row >= 0) for side in nearest[0]]
    return MistakeGroup(
        true=names[0],
        pred=names[1],
        sentence=f"{names[0]} taken for {names[1]}, {len(rows)}: {text}",
        rows=tuple(rows.tolist()),
        neighbors=(sides[0], sides[1]),
    )


def _differences(values: FloatArray, others: FloatArray) -> list[str]:
    """Name the attributes in which two sets of images (n, A), (m, A) differ, the largest first.

    By the rank-sum test (Mann and Whitney 1947), corrected for the number of attributes, and only
    where at least two thirds of all pairs of images differ in the same direction.
    """
    n, m = len(values), len(others)
    if not m:
        return []
    names = []
    for k, attribute in enumerate(ATTRIBUTES):
        if not (np.isfinite(values[:, k]).all() and np.isfinite(others[:, k]).all()):
            continue
        ranks = _ranks(np.concatenate([values[:, k], others[:, k]]))
        above = (ranks[:n].sum() - n * (n + 1) / 2) / (n * m)  # share of pairs
        z = abs(above - 0.5) / math.sqrt((n + m + 1) / (12 * n * m))
        p = 2 * normal_tail(z) * len(ATTRIBUTES)
        if p < _ALPHA and abs(above - 0.5) > 1 / 6:
            names.append((abs(above - 0.5), attribute.high if above > 0.5 else attribute.low))
    return [name for _, name in sorted(names, reverse=True)[:_MAX_WORDS]]


def _ranks(values: FloatArray) -> FloatArray:
    """The ranks of values (n,), from 1; equal ones share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: FloatArray = (ends - counts + 1 + ends) / 2
    return means[inverse]
