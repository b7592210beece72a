"""Mistakes, ranked and grouped, and labels that may be wrong themselves."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

import numpy as np

from ..errors import UsageError, suggest
from ..records import FloatArray, IntArray, Predictions, evenly_spaced
from . import MistakeOrder as MistakeOrder
from .classification import confusion, top_losses

_MAX_FIT = 10_000  # images that the probability of wrong labels is fitted to
_TINY = 1e-300


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
    p_wrong: float  # estimated probability that the label is wrong, see `wrong_label_probs`


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
    """Return the labels that are likely wrong, the likeliest first.

    They are ordered by `wrong_label_probs`, and the mistakes alone are taken. As many are taken as
    two ways name. One is confident learning (Northcutt et al. 2021, arXiv:1911.00068): t_j is the
    mean probability of class j over the images labeled j, and an image belongs to the class of
    largest p_j among those with p_j >= t_j, which is not its label. The other is a probability of
    at least 1/2. Which labels confident learning names does not count: among planted errors it
    leaves out many whose true class the network is not sure of (docs/experiments.md).

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
    named = confident.any(axis=1) & (belongs != labels)
    belongs[~named] = predictions.preds[~named]
    if predictions.correct.all():
        return []
    wrong = wrong_label_probs(predictions)
    count = int(((named | (wrong >= 0.5)) & ~predictions.correct).sum())
    rows = np.flatnonzero(~predictions.correct)
    rows = rows[np.lexsort((own[rows], -wrong[rows]))][:count]
    return [
        LabelIssue(
            row=row,
            id=predictions.ids[row],
            given=predictions.classes[labels[row]],
            suggested=predictions.classes[belongs[row]],
            p_given=round(float(own[row]), 4),
            p_suggested=round(float(probs[row, belongs[row]]), 4),
            p_wrong=round(float(wrong[row]), 4),
        )
        for row in rows.tolist()
    ]


def num_wrong(issues: Sequence[LabelIssue]) -> int:
    """Return how many of the labels are likely wrong: the sum of their probabilities."""
    return round(sum(issue.p_wrong for issue in issues))


def wrong_label_probs(predictions: Predictions) -> FloatArray:
    """(N,) the estimated probability that each label is wrong.

    The model: a label is that of the image with probability 1 - e, and else one of the K - 1 other
    classes, all alike. If s is the softmax of the label's logit at temperature T, then a label has
    the probability (1 - e) s + e (1 - s) / (K - 1), whose second part is the wrong labels. T and e
    are fitted to all labels by maximum likelihood. So labels count as wrong only where the network
    is surely of another opinion more often than its confidence can explain. The predictions must
    be out of sample. Noise that prefers some classes breaks the model.
    """
    num_classes, n = len(predictions.classes), len(predictions)
    logits = predictions.log_probs  # at most 0, so that no exponential overflows
    own = logits[np.arange(n), predictions.labels]
    rows = evenly_spaced(n, _MAX_FIT)

    def shares(temperature: float, rows: IntArray) -> FloatArray:
        """(n, 2) the probability of each label if it is the image's, and if it is wrong."""
        z = logits[rows] / temperature
        right = np.exp(own[rows] / temperature) / np.maximum(np.exp(z).sum(axis=1), _TINY)
        return np.stack([right, (1 - right) / (num_classes - 1)], axis=1)

    def loss(temperature: float) -> float:
        parts = shares(temperature, rows)
        share = _share_of_second(parts)
        return -float(np.log(np.maximum(parts @ [1 - share, share], _TINY)).mean())

    temperature = min(np.geomspace(0.05, 20, 31), key=loss)
    temperature = min(temperature * np.geomspace(0.82, 1.22, 17), key=loss)
    share = _share_of_second(shares(temperature, rows))
    parts = shares(temperature, np.arange(n)) * [1 - share, share]
    return np.asarray(parts[:, 1] / np.maximum(parts.sum(axis=1), _TINY))


def _share_of_second(parts: FloatArray) -> float:
    """Return the likeliest share of the second of two distributions; parts (n, 2) are densities."""
    first, gain = parts[:, 0], parts[:, 1] - parts[:, 0]
    low, high = 0.0, 0.5  # more wrong labels than right ones cannot be told from right ones
    for _ in range(30):
        middle = (low + high) / 2
        rises = (gain / np.maximum(first + middle * gain, _TINY)).sum() > 0
        low, high = (middle, high) if rises else (low, middle)
    return low


def csv_rows(
    kind: type[Mistake] | type[LabelIssue], items: Sequence[Mistake | LabelIssue]
) -> list[list[Any]]:
    """Return the rows of a CSV file: a header, then each of `items` without its row number."""
    header = [field.name for field in fields(kind) if field.name != "row"]
    return [header, *([getattr(item, name) for name in header] for item in items)]
