"""Causes in the labels: wrong ones in the test set, and near copies in train with another label."""

import numpy as np
import torch

from ...diagnosis.near_copies import near_copies
from ...metrics.mistakes import label_issues, wrong_label_probs
from ...records import BoolArray, FloatArray
from ...runs.causes import Cause
from .chance import more_often, share
from .inputs import CauseInputs

_MIN_WRONG = 2 / 3  # of the labels that are claimed, by their estimated probabilities
_MIN_LABELS = 5  # claims; fewer are chance
_MAX_PRODUCTS = 2**30  # pairs of images that are compared in search of copies
_NUM_RIGHT = 500  # images that are right, which say how often a copy has another label
_ALPHA = 0.01


def near_copy_causes(inputs: CauseInputs) -> list[Cause]:
    """Return the mistakes that have a near copy in train with the label that was predicted."""
    predictions, generator = inputs.predictions, np.random.default_rng(2)
    right = generator.permutation(np.flatnonzero(predictions.correct))[:_NUM_RIGHT]
    rows = np.concatenate([inputs.wrong, right])
    if not len(inputs.wrong):
        return []
    queries = inputs.test.select(torch.from_numpy(rows))
    copies = near_copies(queries, inputs.train, max_products=_MAX_PRODUCTS)
    at, matches = copies.rows.numpy(), copies.matches.numpy()
    labels = inputs.train_labels[matches]
    other = labels != predictions.labels[rows[at]]
    wrong = at < len(inputs.wrong)
    agree = wrong & other & (labels == predictions.preds[rows[at]])
    order = np.argsort(-copies.details.numpy()[agree], kind="stable")
    hits, sources = rows[at[agree]][order], matches[agree][order]
    among_right = int((other & ~wrong).sum())
    p = more_often(len(hits), len(inputs.wrong), among_right, len(right))
    if not len(hits) or p >= _ALPHA:
        return []
    first = inputs.train.ids[int(sources[0])]
    return [
        Cause(
            kind="near copy",
            sentence=(
                "Near copies in the training images have another label, which is the one that "
                "was predicted: {mistakes}."
            ),
            test=(
                f"A copy with another label lies in the training images for {len(hits)} of "
                f"{len(inputs.wrong):,} mistakes, and for {among_right} of {len(right):,} images "
                f"that are right (p = {p:.1g}); the surest is a copy of {first}."
            ),
            rows=tuple(hits.tolist()),
            advice="Look at both pictures, and correct the label that is wrong, or drop one.",
            values={"p": p, "right": float(among_right), "checked_right": float(len(right))},
        )
    ]


def wrong_label_causes(inputs: CauseInputs) -> list[Cause]:
    """Return the mistakes whose label is likely wrong, the likeliest first.

    They are label issues whose neighbors in train agree: the suggested class is more frequent among
    them than the given one. As many are claimed as leave two thirds of them wrong, by estimate.
    """
    predictions = inputs.predictions
    rows = np.array([issue.row for issue in label_issues(predictions)], dtype=np.int64)
    if not len(rows):
        return []
    p_wrong = wrong_label_probs(predictions)[rows]
    shares = inputs.near_shares[rows]
    own = shares[np.arange(len(rows)), predictions.labels[rows]]
    other = shares[np.arange(len(rows)), predictions.preds[rows]]
    kept = _as_many_as_are_wrong(p_wrong, other > own)
    likely = p_wrong[kept]
    if len(likely) < _MIN_LABELS:
        return []
    others = inputs.wrong[~np.isin(inputs.wrong, rows[kept])]
    rest = inputs.near_shares[others, predictions.labels[others]]
    count = float(likely.sum())
    return [
        Cause(
            kind="wrong label",
            sentence=(
                "The label may be wrong, not the network: {mistakes}, of which about "
                f"{share(count, len(likely)):.0%} have a wrong label, judged by how sure the "
                "network is."
            ),
            test=(
                f"Of the {inputs.near[0].shape[1]} training images nearest to each, "
                f"{other[kept].mean():.0%} have the predicted class and {own[kept].mean():.0%} the "
                f"given one; for all other mistakes {share(rest.sum(), len(rest)):.0%} have the "
                "given one."
            ),
            rows=tuple(rows[kept].tolist()),
            advice="Look at them, and correct the labels that are wrong (data.relabel).",
            values={
                "likely_wrong": float(likely.sum()),
                "neighbors_predicted": float(other[kept].mean()),
                "neighbors_given": float(own[kept].mean()),
            },
        )
    ]


def _as_many_as_are_wrong(p_wrong: FloatArray, eligible: BoolArray) -> BoolArray:
    """The largest part of the eligible labels of which two thirds are wrong, by estimate."""
    order = np.flatnonzero(eligible)[np.argsort(-p_wrong[eligible], kind="stable")]
    means = np.cumsum(p_wrong[order]) / np.arange(1, len(order) + 1)
    kept = np.zeros(len(p_wrong), dtype=bool)
    kept[order[: int((means >= _MIN_WRONG).sum())]] = True  # the means fall
    return kept
