"""Causes in the labels: wrong ones in the test set, and near copies in train with another label."""

import numpy as np
import torch

from ...diagnosis.near_copies import near_copies
from ...metrics.mistakes import wrong_label_probs
from ...records import FloatArray, IntArray
from ...runs.causes import Cause
from .chance import as_p, more_often, more_often_in, number, share
from .inputs import CauseInputs

_MIN_WRONG = 2 / 3  # of the labels that are claimed, by their estimated probabilities
_MIN_LABELS = 5  # claims; fewer are chance
_NO_SUPPORT = 0.2  # added to the share of neighbors, as 20 of them without the class may be chance
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
    # Two tests, as few copies are learned by heart: mistakes have copies more often than images
    # that are right; or their wrong class is that of the copy more often than without a copy.
    p_follow, rate = _follows(inputs, rows[at[wrong & other]], labels[wrong & other])
    p = min(
        1.0, 2 * min(more_often(len(hits), len(inputs.wrong), among_right, len(right)), p_follow)
    )
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
                f"A copy with another label lies in the training images for {len(hits):,} of "
                f"{number(len(inputs.wrong), 'mistake')}, and for {among_right} of "
                f"{number(len(right), 'image')} right; of mistakes of these classes without a "
                f"copy, {rate:.0%} have that class ({as_p(p)}). The surest is a copy of {first}."
            ),
            rows=tuple(hits.tolist()),
            advice="Look at both pictures, and correct the label that is wrong, or drop one.",
            values={"p": p, "right": float(among_right), "checked_right": float(len(right))},
        )
    ]


def _follows(inputs: CauseInputs, rows: IntArray, labels: IntArray) -> tuple[float, float]:
    """The p-value that mistakes have the class of their copy no more often than those without one.

    rows, labels: mistakes with a copy of another label, and that label. They are compared with the
    mistakes of the same class. The second number is how often those have that label, on average.
    """
    predictions, strata, expected = inputs.predictions, [], 0.0
    without = inputs.wrong[~np.isin(inputs.wrong, rows)]
    pairs, sizes = np.unique(
        np.stack([predictions.labels[rows], labels], axis=1), axis=0, return_counts=True
    )
    for (true, label), n in zip(pairs.tolist(), sizes.tolist(), strict=True):
        own = rows[(predictions.labels[rows] == true) & (labels == label)]
        others = predictions.preds[without[predictions.labels[without] == true]]
        hits = int((others == label).sum())
        strata.append((int((predictions.preds[own] == label).sum()), n, hits, len(others)))
        expected += n * share(hits, len(others))
    return more_often_in(strata), share(expected, len(rows))


def wrong_label_causes(inputs: CauseInputs) -> list[Cause]:
    """Return the mistakes whose label is likely wrong, the likeliest first.

    Neither the network nor the training images nearby support such a label. They are ordered by
    the probability of the label times its share of the neighbors, which is ahead of either alone
    and of the margin; a prediction of a third class counts as well as one of the right class. As
    many are claimed as leave two thirds of them wrong, by the estimate of `wrong_label_probs`.
    """
    predictions, mistakes = inputs.predictions, inputs.wrong
    p_wrong = wrong_label_probs(predictions)
    near = inputs.near_shares[mistakes, predictions.labels[mistakes]]
    support = predictions.probs[mistakes, predictions.labels[mistakes]] * (near + _NO_SUPPORT)
    rows = mistakes[np.argsort(support, kind="stable")][: _num_wrong(p_wrong[mistakes])]
    if len(rows) < _MIN_LABELS:
        return []
    shares = inputs.near_shares[rows]
    own = shares[np.arange(len(rows)), predictions.labels[rows]]
    other = shares[np.arange(len(rows)), predictions.preds[rows]]
    others = mistakes[~np.isin(mistakes, rows)]
    rest = inputs.near_shares[others, predictions.labels[others]]
    count = float(p_wrong[rows].sum())
    return [
        Cause(
            kind="wrong label",
            sentence=(
                "The label may be wrong, not the network: {mistakes}, of which about "
                f"{share(count, len(rows)):.0%} have a wrong label, judged by how sure the "
                "network is."
            ),
            test=(
                f"Of the {inputs.near[0].shape[1]} training images nearest to each, "
                f"{other.mean():.0%} have the predicted class and {own.mean():.0%} the "
                f"given one; for all other mistakes {share(rest.sum(), len(rest)):.0%} have the "
                "given one."
            ),
            rows=tuple(rows.tolist()),
            advice="Look at them, and correct the labels that are wrong (data.relabel).",
            values={
                "likely_wrong": count,
                "neighbors_predicted": float(other.mean()),
                "neighbors_given": float(own.mean()),
            },
        )
    ]


def _num_wrong(p_wrong: FloatArray) -> int:
    """How many of the likeliest labels are claimed, so that two thirds of them are wrong."""
    means = np.cumsum(np.sort(p_wrong)[::-1]) / np.arange(1, len(p_wrong) + 1)
    return int((means >= _MIN_WRONG).sum())  # the means fall
