"""Mistakes, ranked and grouped, and labels that may be wrong themselves."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

import numpy as np

from ..errors import UsageError, suggest
from ..records import IntArray, Predictions, evenly_spaced
from . import MistakeOrder as MistakeOrder
from .classification import confusion, top_losses


@dataclass(frozen=True)
class Mistake:
    """An image whose likeliest class is not the true one."""

    row: int  # in the predictions
    id: str
    true: str
    pred: str
    confidence: float  # probability of the predicted class
    loss: float
    margin: float  # probability of the predicted class minus that of the true one, >= 0


@dataclass(frozen=True)
class LabelIssue:
    """A label that is likely wrong, and the class that the model is confident of instead."""

    row: int  # in the predictions
    id: str
    given: str
    suggested: str
    p_given: float  # to four places, as a person reads them
    p_suggested: float
    margin: float  # p_given minus the largest other probability; the likeliest issue has -1


def mistakes(predictions: Predictions, *, rank: MistakeOrder = "loss") -> list[Mistake]:
    """Return every mistake, the worst first: by loss, confidence or margin; equal ones by loss."""
    check_order(rank)
    order = top_losses(predictions)
    order = order[~predictions.correct[order]]
    confidence = predictions.confidence
    margin = confidence - predictions.probs[np.arange(len(predictions)), predictions.labels]
    key = {"loss": predictions.losses, "confidence": confidence, "margin": margin}[rank]
    order = order[np.argsort(-key[order], kind="stable")]
    classes = predictions.classes
    return [
        Mistake(
            row=row,
            id=predictions.ids[row],
            true=classes[predictions.labels[row]],
            pred=classes[predictions.preds[row]],
            confidence=float(confidence[row]),
            loss=float(predictions.losses[row]),
            margin=float(margin[row]),
        )
        for row in order.tolist()
    ]


def check_order(rank: str) -> None:
    """Raise UsageError unless `rank` is a way to rank mistakes."""
    valid = get_args(MistakeOrder)
    if rank not in valid:
        hint = suggest(str(rank), valid)
        raise UsageError(f"rank = {rank!r}{hint} (valid: {', '.join(valid)})")


def group_by_pair(mistakes: Sequence[Mistake]) -> dict[tuple[str, str], list[Mistake]]:
    """Return (true, predicted) -> its mistakes in their order; the most frequent pair first."""
    pairs: dict[tuple[str, str], list[Mistake]] = {}
    for mistake in mistakes:
        pairs.setdefault((mistake.true, mistake.pred), []).append(mistake)
    return dict(sorted(pairs.items(), key=lambda pair: -len(pair[1])))


def sheet_rows(
    predictions: Predictions, count: int, *, rank: MistakeOrder = "loss"
) -> tuple[IntArray, IntArray]:
    """Return the rows of the `count` worst mistakes, by pair, and of as many correct images."""
    worst = mistakes(predictions, rank=rank)[:count]
    wrong = [mistake.row for group in group_by_pair(worst).values() for mistake in group]
    correct = np.flatnonzero(predictions.correct)
    return np.array(wrong, dtype=np.int64), correct[evenly_spaced(len(correct), count)]


def additional_rows(predictions: Predictions, limit: int, sheet: IntArray) -> IntArray:
    """Return rows to add to those of the `sheet` in the gallery: at most `limit` in all.

    Mistakes come first, those of largest loss before the rest, then correct images, evenly.
    """
    room = max(limit - len(sheet), 0)
    order = top_losses(predictions)
    wrong = order[~predictions.correct[order] & ~np.isin(order, sheet)][:room]
    correct = np.setdiff1d(np.flatnonzero(predictions.correct), sheet)
    return np.concatenate([wrong, correct[evenly_spaced(len(correct), room - len(wrong))]])


def label_issues(predictions: Predictions) -> list[LabelIssue]:
    """Return the labels that are likely wrong, the likeliest first: confident learning.

    Northcutt et al. 2021 (arXiv:1911.00068). t_j is the mean probability of class j over the
    images labeled j; an image belongs to the class of largest p_j among those with p_j >= t_j.
    Where that class is not its label, and the predicted class is not its label either, the label
    is an issue. Issues are ranked by normalized margin, p_given - max over other classes.

    The predictions must be out of sample: of images that the model was not trained on. A confident
    mistake looks the same as a wrong label; only a person can tell, by looking at the image.
    """
    n, labels, probs = len(predictions), predictions.labels, predictions.probs
    counts = confusion(predictions).sum(axis=1)  # (K,) images labeled so
    own = probs[np.arange(n), labels]  # (N,)
    total = np.bincount(labels, weights=own, minlength=len(counts))
    thresholds = np.where(counts > 0, total / np.maximum(counts, 1), np.inf)  # (K,)
    confident = probs >= thresholds  # (N, K)
    belongs = np.where(confident, probs, -1.0).argmax(axis=1)  # (N,)
    issue = confident.any(axis=1) & (belongs != labels) & ~predictions.correct
    others = probs.copy()
    others[np.arange(n), labels] = -1.0
    margin = own - others.max(axis=1)
    rows = np.flatnonzero(issue)
    rows = rows[np.argsort(margin[rows], kind="stable")]
    return [
        LabelIssue(
            row=row,
            id=predictions.ids[row],
            given=predictions.classes[labels[row]],
            suggested=predictions.classes[belongs[row]],
            p_given=round(float(own[row]), 4),
            p_suggested=round(float(probs[row, belongs[row]]), 4),
            margin=round(float(margin[row]), 4),
        )
        for row in rows.tolist()
    ]


def csv_rows(
    kind: type[Mistake] | type[LabelIssue], items: Sequence[Mistake | LabelIssue]
) -> list[list[Any]]:
    """Return the rows of a CSV file: a header, then each of `items` without its row number."""
    header = [field.name for field in fields(kind) if field.name != "row"]
    return [header, *([getattr(item, name) for name in header] for item in items)]
