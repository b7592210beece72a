"""What went wrong: mistakes ranked and grouped, and labels that may be at fault themselves."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

import numpy as np

from ..errors import UsageError, suggest
from ..records import IntArray, Predictions
from .choices import MistakeOrder as MistakeOrder
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
    """An image that the model takes for another class as surely as that class's own images."""

    row: int  # in the predictions
    id: str
    given: str
    suggested: str
    p_given: float  # to four places, as a person reads them
    p_suggested: float
    margin: float  # p_given minus the largest other probability; -1 is the most suspicious


def mistakes(predictions: Predictions, *, rank: MistakeOrder = "loss") -> list[Mistake]:
    """Every mistake, the worst first: by loss, by confidence or by margin; equals by loss.

    Raises UsageError for another `rank`.
    """
    check_order(rank)
    order = top_losses(predictions)
    order = order[~predictions.correct[order]]
    confidence = predictions.confidence
    margin = confidence - predictions.probs[np.arange(len(predictions)), predictions.labels]
    worst = {"loss": predictions.losses, "confidence": confidence, "margin": margin}[rank]
    order = order[np.argsort(-worst[order], kind="stable")]
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
    """UsageError unless mistakes can be ranked so."""
    if rank not in get_args(MistakeOrder):
        raise UsageError(
            f"rank = {rank!r}{suggest(str(rank), get_args(MistakeOrder))} "
            f"(valid: {', '.join(get_args(MistakeOrder))})"
        )


def group_by_pair(found: Sequence[Mistake]) -> dict[tuple[str, str], list[Mistake]]:
    """(true, predicted) -> its mistakes in their order; the most frequent pair first."""
    pairs: dict[tuple[str, str], list[Mistake]] = {}
    for mistake in found:
        pairs.setdefault((mistake.true, mistake.pred), []).append(mistake)
    return dict(sorted(pairs.items(), key=lambda pair: -len(pair[1])))


def sheet_rows(
    predictions: Predictions, count: int, *, rank: MistakeOrder = "loss"
) -> tuple[IntArray, IntArray]:
    """Rows of the `count` worst mistakes, pair by pair, and of as many right answers, evenly."""
    worst = mistakes(predictions, rank=rank)[:count]
    wrong = [mistake.row for group in group_by_pair(worst).values() for mistake in group]
    right = np.flatnonzero(predictions.correct)
    right = right[np.linspace(0, len(right) - 1, min(count, len(right))).astype(int)]
    return np.array(wrong, dtype=np.int64), right


def additional_rows(predictions: Predictions, most: int, sheet: IntArray) -> IntArray:
    """Rows for the gallery beside those on the sheets: mistakes, then right answers evenly."""
    wrong = np.array([m.row for m in mistakes(predictions)], dtype=np.int64)
    wrong = wrong[~np.isin(wrong, sheet)][: max(most - len(sheet), 0)]
    right = np.setdiff1d(np.flatnonzero(predictions.correct), sheet)
    room = min(max(most - len(sheet) - len(wrong), 0), len(right))
    return np.concatenate([wrong, right[np.linspace(0, len(right) - 1, room).astype(int)]])


def label_issues(predictions: Predictions) -> list[LabelIssue]:
    """Labels that are likely wrong, the most suspicious first: confident learning.

    Northcutt et al. 2021 (arXiv:1911.00068). t_j is the mean probability of class j over the
    images labeled j; an image belongs to the class of largest p_j among those with p_j >= t_j.
    Where that is not its label, nor the model's answer its label, the label is suspicious. They
    are ranked by normalized margin, p_given - max over other classes.

    The predictions must be out of sample: of images that the model was not trained on. A model
    that is wrong and sure looks the same as a wrong label; only a person can tell, by looking.
    """
    n, labels, probs = len(predictions), predictions.labels, predictions.probs
    given = confusion(predictions).sum(axis=1)  # (K,) images labeled so
    own = probs[np.arange(n), labels]  # (N,)
    total = np.bincount(labels, weights=own, minlength=len(given))
    thresholds = np.where(given > 0, total / np.maximum(given, 1), np.inf)  # (K,)
    sure = probs >= thresholds  # (N, K)
    belongs = np.where(sure, probs, -1.0).argmax(axis=1)  # (N,)
    suspicious = sure.any(axis=1) & (belongs != labels) & ~predictions.correct
    others = probs.copy()
    others[np.arange(n), labels] = -1.0
    margin = own - others.max(axis=1)
    rows = np.flatnonzero(suspicious)
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
    kind: type[Mistake] | type[LabelIssue], found: Sequence[Mistake | LabelIssue]
) -> list[list[Any]]:
    """A header and a line each, without the row number: what the CSV files hold."""
    header = [field.name for field in fields(kind) if field.name != "row"]
    return [header, *([getattr(item, name) for name in header] for item in found)]
