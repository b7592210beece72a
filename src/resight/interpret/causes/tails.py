"""Tails of an attribute, as the darkest pictures, where the network errs more often than elsewhere.

Two searches, and neither tests a tail on what chose it.

Shifts: a tail that training images hardly have, compared with test images of the same classes. The
shares need no mistakes, so they are tested first, and mistakes only in the few tails that differ
(a hierarchy of tests, as Meinshausen 2008, Biometrika 95). Where train and test are draws of one
population, the null hypothesis is true whatever the network does, and its p-value is exact.

Weak ends: a tail that training images have too. It is chosen on one half of the test images and
tested on the other (Cox 1975, Biometrika 62), in all classes together. It is not tried in one
class: at the end of a class lie pictures that look like other classes, and any network, also the
best one, errs there more often. Such a tail is no sub-group that is treated worse than others.

Mistakes are counted against images of the same class outside the tail by an exact test: at a
p-value of 2e-5, a normal approximation of 20 images with 90 % accuracy is wrong by a factor of 20.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ...records import BoolArray, FloatArray, IntArray
from .attributes import ATTRIBUTES
from .chance import holm, more_often_in, share
from .inputs import CauseInputs

# Of training and test images together, at either end. So who is in train does not choose the cut.
_CUTS = (0.003, 0.006, 0.01, 0.02, 0.035, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4)
_RARE = 1 / 3  # of the share in test: a tail with less in train is rare there
_HALF = (0.02, 0.05, 0.1, 0.2, 1 / 3)  # of one half of the test images
_MAX_WEAK = 3  # tails that are tested on the other half
_MIN_IMAGES = 15  # of a tail
_MIN_DROP = 0.1  # of accuracy, from that of the same classes outside the tail
_MIN_EXCESS = 5  # mistakes beyond those that the same classes have outside the tail
_ALPHA = 0.01


@dataclass(frozen=True)
class Tail:
    """The test images at one end of an attribute, of all classes or of some."""

    attribute: int
    labels: tuple[int, ...] | None  # None for all classes
    low: bool
    rows: IntArray  # of the test images
    test_share: float  # of the test images of its classes
    train_share: float
    p_shift: float  # that training images have it as often; 1 if nothing says that they do not
    drop: float = 0.0  # of accuracy
    p: float = 1.0  # that the accuracy is no lower, corrected

    @property
    def words(self) -> str:
        """What such pictures are called."""
        attribute = ATTRIBUTES[self.attribute]
        return attribute.low if self.low else attribute.high

    @property
    def is_shift(self) -> bool:
        """Whether training images hardly have it."""
        return self.p_shift < _ALPHA

    def scope(self, labels: IntArray) -> BoolArray:
        """(n,) whether images with these labels are of its classes."""
        return np.full(len(labels), True) if self.labels is None else np.isin(labels, self.labels)


@dataclass(frozen=True)
class _End:
    """One end of an attribute: the lower its values, the further out is an image."""

    attribute: int
    low: bool
    test: FloatArray  # (N,)
    train: FloatArray  # (M,)


def shifted_tails(inputs: CauseInputs) -> list[Tail]:
    """Return the tails that training images hardly have, in which the network errs more often.

    The one that differs most between train and test comes first.
    """
    sizes = np.bincount(inputs.predictions.labels, minlength=len(inputs.classes))
    scopes = (None, *np.flatnonzero(sizes >= _MIN_IMAGES).tolist())
    looks = [
        (end, label, _p_shift(inputs, end, label)) for end in _ends(inputs) for label in scopes
    ]
    corrected = holm([p for *_, p in looks])
    shifts: dict[tuple[int, bool], tuple[_End, dict[int | None, float]]] = {}
    for (end, label, _), p in zip(looks, corrected, strict=True):
        if p < _ALPHA:
            shifts.setdefault((end.attribute, end.low), (end, {}))[1][label] = p
    tails = [_shift(inputs, end, ps) for end, ps in shifts.values()]
    tails = [_with_mistakes(inputs, tail) for tail in tails if len(tail.rows) >= _MIN_IMAGES]
    return sorted(_weaker(tails), key=lambda tail: tail.train_share - tail.test_share)


def weak_ends(inputs: CauseInputs, *, known: IntArray) -> list[Tail]:
    """Return the tails of all classes in which both halves of the test images err more often.

    The images `known` are left aside, as a cause of their mistakes is known.
    """
    order = np.random.default_rng(5).permutation(len(inputs.test))
    first, second = np.array_split(order[~np.isin(order, known)], 2)
    candidates = []
    for end in _ends(inputs):
        values = np.sort(end.test[first])
        for cut in _HALF:
            limit = values[max(0, round(cut * len(values)) - 1)] if len(values) else 0.0
            inside = end.test <= limit
            drop, deviation = _drop(inputs, inside, first)
            if deviation and drop >= _MIN_DROP:
                candidates.append((drop / deviation, end, inside))
    best: list[tuple[_End, BoolArray]] = []
    for _, end, inside in sorted(candidates, key=lambda candidate: -candidate[0]):
        if all(end is not other for other, _ in best):
            best.append((end, inside))
    tails = []
    for end, inside in best[:_MAX_WEAK]:
        inside[known] = False
        if inside[second].sum() >= _MIN_IMAGES:
            tail = _tail(inputs, end, None, np.flatnonzero(inside), 1.0)
            tails.append(_with_mistakes(inputs, tail, second))
    return _weaker(tails)


def _ends(inputs: CauseInputs) -> Iterator[_End]:
    """Yield the ends that a picture can be changed to, of the attributes that are known."""
    for k, attribute in enumerate(ATTRIBUTES):
        test, train = inputs.attributes[:, k], inputs.train_attributes[:, k]
        if np.isfinite(test).all() and np.isfinite(train).all():
            if attribute.lowers:
                yield _End(k, True, test, train)
            if attribute.raises:
                yield _End(k, False, -test, -train)


def _of_class(inputs: CauseInputs, end: _End, label: int) -> tuple[FloatArray, FloatArray]:
    own = inputs.train_labels[inputs.train_rows] == label
    return end.test[inputs.predictions.labels == label], end.train[own]


def _p_shift(inputs: CauseInputs, end: _End, label: int | None) -> float:
    """The p-value that images of a class, or of each, have the tail as often in train as in test.

    The least over the cuts, times their number. A cut is a quantile of all images, and the number
    of test images beyond it is compared with chance among all beyond it, class by class.
    """
    classes = range(len(inputs.classes)) if label is None else (label,)
    parts = [_of_class(inputs, end, k) for k in classes]
    n, m = (sum(len(part[side]) for part in parts) for side in (0, 1))
    if not n or not m:
        return 1.0
    both = np.sort(np.concatenate([values for part in parts for values in part]))
    least = 1.0
    for cut in _CUTS:
        limit = both[max(0, round(cut * len(both)) - 1)]
        counts = [tuple(int((side <= limit).sum()) for side in part) for part in parts]
        r, k = (sum(count[side] for count in counts) for side in (0, 1))
        if r >= _MIN_IMAGES and k / m <= _RARE * r / n:
            pairs = zip(counts, parts, strict=True)
            strata = ((a, len(test), b, len(train)) for (a, b), (test, train) in pairs)
            least = min(least, more_often_in(strata))
    return min(1.0, least * len(_CUTS))


def _shift(inputs: CauseInputs, end: _End, ps: dict[int | None, float]) -> Tail:
    """The tail of all classes if half of them have it more in test; else of those that surely do.

    ps: corrected p-values of the classes that surely do, and of all together.
    """
    num, own = len(inputs.classes), sorted(label for label in ps if label is not None)
    limits = np.full(num, -np.inf)
    is_general = len(own) == num
    if None in ps:
        limit = _limit(end.test, end.train)
        gains = []
        for label in range(num):
            test, train = _of_class(inputs, end, label)
            if len(test) and len(train):
                gains.append((test <= limit).mean() - (train <= limit).mean())
        overall = (end.test <= limit).mean() - (end.train <= limit).mean()
        is_general = is_general or not own or float(np.median(gains)) >= overall / 2
        limits[:] = limit if is_general else -np.inf
    if not is_general:
        limits[own] = [_limit(*_of_class(inputs, end, label)) for label in own]
    rows = np.flatnonzero(end.test <= limits[inputs.predictions.labels])
    p = ps[None] if is_general and None in ps else min(ps.values())
    in_tail = end.train <= limits[inputs.train_labels[inputs.train_rows]]
    return _tail(inputs, end, None if is_general else tuple(own), rows, p, in_tail)


def _limit(test: FloatArray, train: FloatArray) -> float:
    """The value below which test images lie more often than three times as many training images.

    Up to there any values are so rare in train. The tests are done: this only says where the tail
    ends.
    """
    values = np.sort(test)
    in_test = np.searchsorted(values, values, side="right") / len(values)
    in_train = np.searchsorted(np.sort(train), values, side="right") / len(train)
    gain = np.where(in_test <= 0.5, in_test - in_train / _RARE, 0)
    return float(values[gain.argmax()]) if gain.max() > 0 else -np.inf


def _tail(
    inputs: CauseInputs,
    end: _End,
    labels: tuple[int, ...] | None,
    rows: IntArray,
    p: float,
    train: BoolArray | None = None,
) -> Tail:
    if train is None:
        train = end.train <= (end.test[rows].max() if len(rows) else -np.inf)
    tail = Tail(end.attribute, labels, end.low, rows, 0.0, 0.0, p)
    in_test = int(tail.scope(inputs.predictions.labels).sum())
    own = tail.scope(inputs.train_labels[inputs.train_rows])
    return replace(
        tail,
        test_share=share(len(rows), in_test),
        train_share=share(int(train[own].sum()), int(own.sum())),
    )


def _counts(inputs: CauseInputs, inside: BoolArray, rows: IntArray) -> tuple[IntArray, ...]:
    """Mistakes and images in the tail, and outside of it, of each class among rows; (K,) each."""
    labels, wrong = inputs.predictions.labels[rows], ~inputs.predictions.correct[rows]
    near, far = inside[rows], ~inside[rows]
    return tuple(
        np.bincount(labels[chosen], minlength=len(inputs.classes))
        for chosen in (near & wrong, near, far & wrong, far)
    )


def _drop(inputs: CauseInputs, inside: BoolArray, rows: IntArray) -> tuple[float, float]:
    """How much accuracy falls from outside to inside of a tail, class by class, and its deviation.

    The deviation is that of the hypergeometric distributions, and 0 where nothing can be compared.
    """
    wrong, n, others, m = (part.astype(float) for part in _counts(inputs, inside, rows))
    total, hits = n + m, wrong + others
    both = (n > 0) & (m > 0)
    if not both.any():
        return 0.0, 0.0
    wrong, n, others, m, total, hits = (x[both] for x in (wrong, n, others, m, total, hits))
    variance = n * m * hits * (total - hits) / (total**2 * np.maximum(total - 1, 1))
    size = n.sum()
    drop = (wrong - n * others / m).sum() / size
    scale = (n * total / m).sum() / n.sum() / size  # of wrong - n hits / total to the drop
    return float(drop), float(np.sqrt(variance.sum()) * scale)


def _with_mistakes(inputs: CauseInputs, tail: Tail, rows: IntArray | None = None) -> Tail:
    """The tail with its drop of accuracy among rows, and the p-value, which is not corrected."""
    rows = np.flatnonzero(tail.scope(inputs.predictions.labels)) if rows is None else rows
    inside = np.zeros(len(inputs.test), dtype=bool)
    inside[tail.rows] = True
    counts = (part.tolist() for part in _counts(inputs, inside, rows))
    p = more_often_in(zip(*counts, strict=True))
    return replace(tail, drop=_drop(inputs, inside, rows)[0], p=p)


def _weaker(tails: list[Tail]) -> list[Tail]:
    """The tails in which accuracy surely is lower, with corrected p-values."""
    ps = holm([tail.p for tail in tails])
    tails = [replace(tail, p=p) for tail, p in zip(tails, ps, strict=True)]
    return [
        tail
        for tail in tails
        if tail.p < _ALPHA and tail.drop >= _MIN_DROP and tail.drop * len(tail.rows) >= _MIN_EXCESS
    ]
