"""Where classes meet: pictures that two classes share, and pictures that are unlike all others."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...metrics.intervals import Interval, wilson
from ...records import BoolArray, IntArray, evenly_spaced
from ...runs.causes import Cause
from ..neighbors import nearest_neighbors
from .chance import as_p, more_often, number, share
from .inputs import CauseInputs

_MIN_MISTAKES = 5  # of a pair
_MIN_PROB = 0.1  # of the true class, at least so likely, to be one of two answers
_MIN_NEAR = 0.15  # of the nearest training images: so many of either class
_MAX_WITHIN = 0.65  # accuracy within a pair of classes below which they are told apart by chance
_BY_CHANCE = 0.55  # the interval of that accuracy must reach down to it
_NUM_RIGHT = 500  # images that are right, which say how often one lies between classes by chance
_TAIL = 0.999  # quantile of the training images' own distances
_ALPHA = 0.01


def moved_views(images: Tensor) -> list[Tensor]:
    """Return images (n, C, H, W) as they are, and moved by a sixteenth of the side each way."""
    dy, dx = max(1, images.shape[-2] // 16), max(1, images.shape[-1] // 16)
    padded = torch.nn.functional.pad(images.float(), (dx, dx, dy, dy), mode="replicate").byte()
    height, width = images.shape[-2:]
    return [
        padded[..., y : y + height, x : x + width]
        for y, x in ((dy, dx), (0, 0), (0, 2 * dx), (2 * dy, 0), (2 * dy, 2 * dx))
    ]


def inseparable_causes(inputs: CauseInputs) -> list[Cause]:
    """Return the pairs of classes that neither the network nor the nearest images can tell apart.

    Each of their mistakes counts. The control is how often other pairs are told apart.
    """
    causes, pairs = [], _confused_pairs(inputs)
    measured = [_within_pair(inputs, pair) for pair, _ in pairs]
    moved: IntArray | None = None  # of all mistakes, so once for all pairs
    for k, (pair, of_pair) in enumerate(pairs):
        within, near_within = measured[k]
        is_chance = within.low < _BY_CHANCE and within.high < _MAX_WITHIN
        if is_chance and near_within.value < _MAX_WITHIN:
            names = " and ".join(inputs.classes[label] for label in pair)
            others = [other.value for j, (other, _) in enumerate(measured) if j != k]
            what = f"{names} cannot be told apart: {within.value:.0%} are right within the pair"
            control = f"judged by the nearest images, {near_within.value:.0%} of the pair are right"
            if others:
                control += f"; within the median of the other pairs, {np.median(others):.0%} are"
            moved = _preds_of_views(inputs, inputs.wrong) if moved is None else moved
            causes.append(_cause(inputs, of_pair, what, moved, control))
    return causes


def between_causes(inputs: CauseInputs) -> list[Cause]:
    """Return the mistakes that lie between two classes.

    Both classes are likely, training images of both are near, and moving the picture by a few
    pixels leads to both answers. The control are images that are right, and the class that came
    second: they must lie between classes less often.
    """
    predictions, rows = inputs.predictions, inputs.wrong
    right = np.flatnonzero(predictions.correct)
    right = right[evenly_spaced(len(right), _NUM_RIGHT)]
    second = predictions.probs[right].argsort(axis=1)[:, -2] if len(right) else right
    moved = _preds_of_views(inputs, rows)
    between = _between(inputs, rows, predictions.labels[rows], predictions.preds[rows], moved)
    by_chance = _between(inputs, right, second, predictions.labels[right])
    chance = int(by_chance.sum()), len(right)
    p = more_often(int(between.sum()), len(rows), *chance)
    counts = [(int((between & of_pair).sum()), pair) for pair, of_pair in _confused_pairs(inputs)]
    if not counts or p >= _ALPHA:
        return []
    largest = sorted(counts, key=lambda count: -count[0])[:3]
    first = ", ".join(
        f"{inputs.classes[one]} and {inputs.classes[two]} ({count})"
        for count, (one, two) in largest
        if count
    )
    what = f"Classes meet in these pictures, most of all {first}"
    control = (
        f"so {share(int(between.sum()), len(rows)):.0%} of all mistakes lie between classes, and "
        f"{share(*chance):.0%} of {number(chance[1], 'image')} right ({as_p(p)})"
    )
    cause = _cause(inputs, between, what, moved, control, chosen_by_views=True)
    return [replace(cause, values={**cause.values, "by_chance": share(*chance), "p": p})]


def _between(
    inputs: CauseInputs,
    rows: IntArray,
    others: IntArray,
    classes: IntArray,
    moved: IntArray | None = None,
) -> BoolArray:
    """(R,) whether images lie between two classes each: a view of one is taken for the other."""
    moved = _preds_of_views(inputs, rows) if moved is None else moved
    near, at = inputs.near_shares[rows], np.arange(len(rows))
    return np.asarray(
        (inputs.predictions.probs[rows, others] >= _MIN_PROB)
        & (near[at, others] >= _MIN_NEAR)
        & (near[at, classes] >= _MIN_NEAR)
        & (moved == others).any(axis=0)
    )


def _confused_pairs(inputs: CauseInputs) -> list[tuple[tuple[int, int], BoolArray]]:
    """Pairs of classes with at least 5 mistakes, and which of all mistakes are theirs."""
    rows = inputs.wrong
    true, pred = inputs.predictions.labels[rows], inputs.predictions.preds[rows]
    keys = np.minimum(true, pred) * len(inputs.classes) + np.maximum(true, pred)
    pairs, counts = np.unique(keys, return_counts=True)
    return [
        (divmod(key, len(inputs.classes)), keys == key)
        for key in pairs[counts >= _MIN_MISTAKES].tolist()
    ]


def _preds_of_views(inputs: CauseInputs, rows: IntArray) -> IntArray:
    """Predictions (5, R) of test images at rows, moved by a few pixels."""
    return np.stack([inputs.preds(view) for view in moved_views(inputs.images(rows))])


def _within_pair(inputs: CauseInputs, pair: tuple[int, int]) -> tuple[Interval, Interval]:
    """How often a pair of classes is told apart by the network, and by the nearest images."""
    predictions = inputs.predictions
    inside = np.isin(predictions.labels, pair) & np.isin(predictions.preds, pair)
    shares, labels = inputs.near_shares[inside], predictions.labels[inside]
    nearer = np.where(shares[:, pair[0]] > shares[:, pair[1]], *pair)
    n = int(inside.sum())
    return wilson(int(predictions.correct[inside].sum()), n), wilson(
        int((nearer == labels).sum()), n
    )


def _cause(
    inputs: CauseInputs,
    chosen: BoolArray,
    what: str,
    moved: IntArray,
    control: str,
    *,
    chosen_by_views: bool = False,
) -> Cause:
    """The cause of the chosen (M,) of all mistakes; moved (5, M) are the answers to their views."""
    predictions, rows = inputs.predictions, inputs.wrong[chosen]
    at = np.arange(len(rows))
    labels, preds, shares = (
        predictions.labels[rows],
        predictions.preds[rows],
        inputs.near_shares[rows],
    )
    near_true, near_pred = float(shares[at, labels].mean()), float(shares[at, preds].mean())
    flips = float((moved[:, chosen] == labels).any(axis=0).mean())
    base = float((moved == predictions.labels[inputs.wrong]).any(axis=0).mean())
    margin = predictions.probs[rows, preds] - predictions.probs[rows, labels]
    views = f"moved by a few pixels, {flips:.0%} get the true class in one of five views"
    if chosen_by_views:  # where the share says nothing
        views = "all of them get the true class when they are moved by a few pixels"
    views += f" (of all mistakes, {base:.0%})"
    return Cause(
        kind="similar classes",
        sentence=f"{what[0].upper()}{what[1:]}: {{mistakes}}.",
        test=(
            f"Of the training images nearest to them, {near_true:.0%} have the true class and "
            f"{near_pred:.0%} the predicted one; {views}; {control}."
        ),
        rows=tuple(rows[np.argsort(margin, kind="stable")].tolist()),
        advice=(
            "Look at both classes side by side: merge them, or give what tells them apart more "
            "pixels or more training images."
        ),
        values={"near_true": near_true, "near_predicted": near_pred, "views_disagree": flips},
    )


def outlier_causes(inputs: CauseInputs) -> list[Cause]:
    """Return the mistakes that are farther from all training images than these are from each other.

    It is a cause if the network errs more often on such pictures than on all others.
    """
    features = inputs.explained.features
    own = torch.cat(
        [
            nearest_neighbors(part, features.train, 2)[1][:, -1]  # the first is the image itself
            for part in torch.split(features.train, 1000)
        ]
    )
    limit = float(np.quantile(1 - own.double().numpy(), _TAIL))
    distance = 1 - inputs.near[1][:, 0]
    far, wrong = distance > limit, ~inputs.predictions.correct
    counts = int((far & wrong).sum()), int(far.sum())
    rest = int((~far & wrong).sum()), int((~far).sum())
    p = more_often(*counts, *rest)
    if not counts[0] or p >= _ALPHA:
        return []
    rows = np.flatnonzero(far & wrong)
    return [
        Cause(
            kind="outlier",
            sentence="Unlike all training images: {mistakes}.",
            test=(
                f"Of {number(counts[1], 'test image')} beyond {_TAIL:.1%} of the distances between "
                f"training images, {share(*counts):.0%} are wrong; of all others "
                f"{share(*rest):.0%} ({as_p(p)})."
            ),
            rows=tuple(rows[np.argsort(-distance[rows], kind="stable")].tolist()),
            advice="Add training images like them, or refuse such pictures: `resight predict` "
            "marks them.",
            values={"limit": limit, "far": float(counts[1]), "p": p},
        )
    ]
