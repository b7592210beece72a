"""Properties of pictures that make the network err: dark, blurred, pale, turned, in all or a class.

A tail of an attribute is a property if the network errs more in it than the classes explain, and if
changing the attribute changes the answers: pictures that were right turn wrong when they get it,
mistakes turn right when they lose it. Where training images of the class lack the tail, the cause
is that too few are like it. A blur cannot be undone, so it is claimed only where training images
lack it.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...records import BoolArray, FloatArray, IntArray
from ...runs.causes import Cause
from .attributes import ATTRIBUTES, Attribute, with_values
from .chance import more_often, normal_tail, share
from .inputs import CauseInputs

_CUTS = (0.02, 0.05, 0.1, 0.2, 1 / 3)  # of the test images, at either end
_MIN_IMAGES = 20  # in a tail
_MIN_DROP = 0.12  # of accuracy, from what the classes explain
_MAX_TESTED = 8  # tails that are tested by changing pictures
_NUM_CHANGED = 150  # pictures a test
_MIN_EFFECT = 0.15  # share of pictures that must change their answer, beyond those of the control
_ALPHA = 0.01
_RARE = 1 / 3  # of the share in test: a tail with less in train is rare there


@dataclass(frozen=True)
class Tail:
    """The test images at one end of an attribute, of all classes or of one."""

    attribute: int
    label: int | None  # None for all classes
    low: bool
    limit: float
    rows: IntArray
    drop: float  # of accuracy
    p: float  # corrected

    @property
    def words(self) -> str:
        """What such pictures are called."""
        attribute = ATTRIBUTES[self.attribute]
        return attribute.low if self.low else attribute.high


@dataclass(frozen=True)
class _Effect:
    """What changing an attribute does: shares of pictures, and p-values against the control."""

    harmed: float
    harmed_control: float
    harm_p: float
    rescued: float
    rescued_control: float
    rescue_p: float

    @property
    def harms(self) -> bool:
        return self.harmed - self.harmed_control >= _MIN_EFFECT and self.harm_p < _ALPHA

    @property
    def rescues(self) -> bool:
        return self.rescued - self.rescued_control >= _MIN_EFFECT and self.rescue_p < _ALPHA


def property_causes(inputs: CauseInputs) -> list[Cause]:
    """Return the properties that changed pictures confirm, with the mistakes that they explain."""
    generator = np.random.default_rng(1)
    causes, taken = [], np.zeros(len(inputs.test), dtype=bool)
    for tail in tails(inputs)[:_MAX_TESTED]:
        if taken[tail.rows].mean() > 0.5:
            continue  # explained by a stronger one
        effect = _effect(inputs, tail, generator)
        undone = ATTRIBUTES[tail.attribute].raises or not tail.low
        confirmed = effect.rescues if undone else _shares(inputs, tail)[2]
        if not (effect.harms and confirmed):
            continue
        taken[tail.rows] = True
        causes.append(_cause(inputs, tail, effect, undone))
    return causes


def tails(inputs: CauseInputs) -> list[Tail]:
    """Return the tails in which the network errs more than elsewhere, the surest first.

    Of an attribute, a class and an end there is one, at the cut that is the surest.
    """
    predictions, values = inputs.predictions, inputs.attributes
    labels = predictions.labels
    sizes = np.maximum(np.bincount(labels, minlength=len(inputs.classes)), 1)
    accuracy = np.bincount(labels, weights=predictions.correct, minlength=len(sizes)) / sizes
    expected = accuracy[labels]
    scopes = [None, *range(len(sizes))] if len(sizes) <= 20 else [None]
    looks = len(scopes) * len(ATTRIBUTES) * 2 * len(_CUTS)
    result = []
    for label in scopes:
        rows = np.arange(len(labels)) if label is None else np.flatnonzero(labels == label)
        for k in range(len(ATTRIBUTES)):
            order = rows[np.argsort(values[rows, k], kind="stable")]
            for low in (True, False):
                ends = [
                    _tail(order if low else order[::-1], cut, predictions.correct, expected)
                    for cut in _CUTS
                ]
                z, drop, tail = max(ends, key=lambda end: end[0])
                p = min(1.0, normal_tail(z) * looks)
                if drop >= _MIN_DROP and p < _ALPHA and len(tail) >= _MIN_IMAGES:
                    limit = float(values[tail[-1], k])
                    result.append((z, Tail(k, label, low, limit, np.sort(tail), drop, p)))
    return [tail for _, tail in sorted(result, key=lambda pair: -pair[0])]


def _tail(
    order: IntArray, cut: float, correct: BoolArray, expected: FloatArray
) -> tuple[float, float, IntArray]:
    """The first rows of an order: how sure and how large the drop of accuracy is."""
    rows = order[: round(cut * len(order))]
    if len(rows) < _MIN_IMAGES:
        return 0.0, 0.0, rows
    p = expected[rows]
    drop = float((p - correct[rows]).mean())
    deviation = float(np.sqrt(max((p * (1 - p)).mean(), 1e-4) / len(rows)))
    return drop / deviation, drop, rows


def _typical(inputs: CauseInputs, tail: Tail) -> float:
    """The median of the training images of the class, which a picture is changed to."""
    own = inputs.train_labels[inputs.train_rows] == tail.label if tail.label is not None else ...
    return float(np.median(inputs.train_attributes[own, tail.attribute]))


def _effect(inputs: CauseInputs, tail: Tail, generator: np.random.Generator) -> _Effect:
    """Give the property to pictures that were right, and take it from mistakes.

    The control of the first are the same pictures, changed to values of pictures outside the tail.
    The control of the second are mistakes outside the tail, changed in the same way; if there are
    too few, it is the mistakes themselves, changed to the median of the tail.
    """
    predictions, attribute = inputs.predictions, ATTRIBUTES[tail.attribute]
    values = inputs.attributes[:, tail.attribute]
    scope = np.full(len(values), True) if tail.label is None else predictions.labels == tail.label
    inside = np.zeros(len(values), dtype=bool)
    inside[tail.rows] = True
    right, outside = predictions.correct & ~inside & scope, np.flatnonzero(~inside & scope)
    chosen = generator.permutation(np.flatnonzero(right))[:_NUM_CHANGED]
    harm = []
    for source in (tail.rows, outside):
        targets = values[generator.choice(source, size=len(chosen))]
        preds = inputs.preds(with_values(inputs.images(chosen), attribute, targets))
        harm.append(int((preds != predictions.labels[chosen]).sum()))
    wrong = [np.flatnonzero(part & scope & ~predictions.correct) for part in (inside, ~inside)]
    mistakes, others = (generator.permutation(rows)[:_NUM_CHANGED] for rows in wrong)
    typical = _typical(inputs, tail)
    rescue = [int(_turns_right(inputs, mistakes, attribute, typical).sum())]
    if len(others) >= _MIN_IMAGES:
        rescue.append(int(_turns_right(inputs, others, attribute, typical).sum()))
    else:
        others = mistakes
        stays = float(np.median(values[tail.rows]))
        rescue.append(int(_turns_right(inputs, others, attribute, stays).sum()))
    sizes = len(mistakes), len(others)
    n = len(chosen)
    return _Effect(
        harmed=share(harm[0], n),
        harmed_control=share(harm[1], n),
        harm_p=more_often(harm[0], n, harm[1], n),
        rescued=share(rescue[0], sizes[0]),
        rescued_control=share(rescue[1], sizes[1]),
        rescue_p=more_often(rescue[0], sizes[0], rescue[1], sizes[1]),
    )


def _turns_right(
    inputs: CauseInputs, rows: IntArray, attribute: Attribute, value: float
) -> BoolArray:
    if not len(rows):
        return np.zeros(0, dtype=bool)
    changed: Tensor = with_values(inputs.images(rows), attribute, np.full(len(rows), value))
    return np.asarray(inputs.preds(changed) == inputs.predictions.labels[rows])


def _cause(inputs: CauseInputs, tail: Tail, effect: _Effect, undone: bool) -> Cause:
    predictions, attribute = inputs.predictions, ATTRIBUTES[tail.attribute]
    rows = tail.rows[~predictions.correct[tail.rows]]
    if undone:
        rows = rows[_turns_right(inputs, rows, attribute, _typical(inputs, tail))]
    sign = 1 if tail.low else -1
    rows = rows[np.argsort(sign * inputs.attributes[rows, tail.attribute], kind="stable")]
    in_test, in_train, is_rare = _shares(inputs, tail)
    name = "pictures" if tail.label is None else f"pictures of {inputs.classes[tail.label]}"
    accuracy = float(predictions.correct[tail.rows].mean())
    return Cause(
        kind="rare" if is_rare and tail.label is not None else "property",
        sentence=(
            f"{name[0].upper()}{name[1:]} that are {tail.words} are often wrong: {{mistakes}}, "
            f"{accuracy:.0%} right where their classes let expect {accuracy + tail.drop:.0%}. "
            f"{in_test:.1%} of the test images are like them, and {in_train:.1%} of the training "
            "images."
        ),
        test=_test_sentence(tail, effect, undone),
        rows=tuple(rows.tolist()),
        advice=(
            f"Add {name} that are {tail.words} to the training images, or vary the "
            f"{attribute.name} by augmentation."
        ),
        values={
            "images": float(len(tail.rows)),
            "accuracy": accuracy,
            "drop": tail.drop,
            "p": tail.p,
            "harmed": effect.harmed,
            "harmed_control": effect.harmed_control,
            "rescued": effect.rescued,
            "rescued_control": effect.rescued_control,
            "train_share": in_train,
            "test_share": in_test,
        },
    )


def _test_sentence(tail: Tail, effect: _Effect, undone: bool) -> str:
    text = (
        f"Made {tail.words}, {effect.harmed:.0%} of pictures that were right turned wrong "
        f"(changed to values of other pictures: {effect.harmed_control:.0%})"
    )
    if undone:
        text += (
            f"; changed to the median of the training images, {effect.rescued:.0%} of their "
            f"mistakes turned right (in the control: {effect.rescued_control:.0%})"
        )
    return f"{text}."


def _shares(inputs: CauseInputs, tail: Tail) -> tuple[float, float, bool]:
    """The share of a tail in test and in train, of its class, and whether it is rare in train."""
    labels = inputs.train_labels[inputs.train_rows]
    values = inputs.train_attributes[:, tail.attribute]
    scope = np.full(len(labels), True) if tail.label is None else labels == tail.label
    inside = (values <= tail.limit) if tail.low else (values >= tail.limit)
    n, m = int(scope.sum()), int((inputs.predictions.labels == tail.label).sum())
    m = m if tail.label is not None else len(inputs.test)
    count = int((inside & scope).sum())
    in_test, in_train = share(len(tail.rows), m), share(count, n)
    p = more_often(len(tail.rows), m, count, n)
    return in_test, in_train, in_train <= _RARE * in_test and p < _ALPHA
