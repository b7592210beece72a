"""Properties of pictures that make the network err: dark, blurred, pale, compressed, small.

`tails` says in which pictures the network errs more often. Changed pictures say whether the
property is why: pictures that were right turn wrong when they get it, mistakes turn right when they
lose it. Any change of a picture costs answers, so each has a control that is changed too. Where
some classes alone lack the property in training, the control are images of all other classes that
get it as well: the difference of both differences is what the training images are to blame for.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...records import BoolArray, FloatArray, IntArray
from ...runs.causes import Cause
from .attributes import ATTRIBUTES, Attribute, with_values
from .chance import as_p, more_often, number, share
from .inputs import CauseInputs
from .tails import Tail, shifted_tails, weak_ends

_MAX_TESTED = 8  # tails that are tested by changing pictures
_NUM_CHANGED = 150  # pictures a test
_MIN_IMAGES = 20  # mistakes that can be a control
_MIN_EFFECT = 0.15  # share of pictures that must change their answer, beyond those of the control
_ALPHA = 0.01


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
    def net(self) -> float:
        """Both effects together."""
        return self.harmed - self.harmed_control + self.rescued - self.rescued_control

    @property
    def harms(self) -> bool:
        return self.harmed - self.harmed_control >= _MIN_EFFECT and self.harm_p < _ALPHA

    @property
    def rescues(self) -> bool:
        return self.rescued - self.rescued_control >= _MIN_EFFECT and self.rescue_p < _ALPHA


def property_causes(inputs: CauseInputs) -> list[Cause]:
    """Return the properties that changed pictures confirm, with the mistakes that they explain.

    Both changes must confirm a tail that training images have too, and one of both a tail that they
    lack: its share is a test of its own, and few changes can be undone. If some classes lack it,
    that one is the first, as its control are all other classes. Of several tails that are
    the same pictures, the one remains whose change does most.
    """
    generator = np.random.default_rng(1)
    shifts = shifted_tails(inputs)[:_MAX_TESTED]
    rows = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(tail.rows for tail in shifts)]))
    tests = []
    for tail in [*shifts, *weak_ends(inputs, known=rows)]:
        effect = _effect(inputs, tail, generator)
        confirmed = effect.harms and (effect.rescues or tail.is_shift)
        if confirmed or (effect.rescues and tail.is_shift and tail.labels is None):
            gain = tail.test_share - tail.train_share
            tests.append((effect.net * gain if tail.is_shift else -1 / effect.net, tail, effect))
    tests.sort(key=lambda test: -test[0])
    causes, taken = [], np.zeros(len(inputs.test), dtype=bool)
    for _, tail, effect in tests:
        if taken[tail.rows].mean() <= 0.5:
            taken[tail.rows] = True
            causes.append(_cause(inputs, tail, effect))
    return causes


def _can_be_undone(tail: Tail) -> bool:
    attribute = ATTRIBUTES[tail.attribute]
    return attribute.raises if tail.low else attribute.lowers


def _typical(inputs: CauseInputs, tail: Tail) -> float:
    """The median of the training images of the classes, which a picture is changed to."""
    own = tail.scope(inputs.train_labels[inputs.train_rows])
    return float(np.median(inputs.train_attributes[own, tail.attribute]))


def _effect(inputs: CauseInputs, tail: Tail, generator: np.random.Generator) -> _Effect:
    """Give the property to pictures that were right, and take it from mistakes."""
    inside = np.zeros(len(inputs.test), dtype=bool)
    inside[tail.rows] = True
    harmed, n, harmed_control, m = _harm(inputs, tail, inside, generator)
    rescued, hits, rescued_control, others = _rescue(inputs, tail, inside, generator)
    return _Effect(
        harmed=share(harmed, n),
        harmed_control=share(harmed_control, m),
        harm_p=more_often(harmed, n, harmed_control, m),
        rescued=share(rescued, hits),
        rescued_control=share(rescued_control, others),
        rescue_p=more_often(rescued, hits, rescued_control, others),
    )


def _harm(
    inputs: CauseInputs, tail: Tail, inside: BoolArray, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """How many pictures that were right turn wrong with the property, and in the control.

    The control of all classes are the same pictures, changed to values of pictures outside the
    tail. That of some classes are pictures of all other classes, changed to the same values.
    """
    predictions, attribute = inputs.predictions, ATTRIBUTES[tail.attribute]
    values, scope = inputs.attributes[:, tail.attribute], tail.scope(predictions.labels)
    right = predictions.correct & ~inside
    chosen = generator.permutation(np.flatnonzero(right & scope))[:_NUM_CHANGED]
    others, source = chosen, np.flatnonzero(~inside & scope)
    if tail.labels is not None:
        others = generator.permutation(np.flatnonzero(right & ~scope))[:_NUM_CHANGED]
        source = tail.rows
    counts = []
    for rows, donors in ((chosen, tail.rows), (others, source)):
        targets = values[generator.choice(donors, size=len(rows))] if len(donors) else values[rows]
        preds = inputs.preds(with_values(inputs.images(rows), attribute, targets))
        counts += [int((preds != predictions.labels[rows]).sum()), len(rows)]
    return counts[0], counts[1], counts[2], counts[3]


def _rescue(
    inputs: CauseInputs, tail: Tail, inside: BoolArray, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """How many mistakes turn right without the property, and in the control.

    The control are mistakes of the same classes outside the tail. They are changed in two ways, to
    the same value and by as much, and the one that helps them more counts. If there are too few,
    the control are the mistakes themselves, changed to the median of the tail.
    """
    values, attribute = inputs.attributes[:, tail.attribute], ATTRIBUTES[tail.attribute]
    wrong = ~inputs.predictions.correct & tail.scope(inputs.predictions.labels)
    mistakes, others = (
        generator.permutation(np.flatnonzero(part & wrong))[:_NUM_CHANGED]
        for part in (inside, ~inside)
    )
    typical = _typical(inputs, tail)

    def hits(rows: IntArray, targets: FloatArray | float) -> int:
        return int(_turns_right(inputs, rows, attribute, targets).sum())

    if len(others) < _MIN_IMAGES:
        others = mistakes
        control = hits(others, float(np.median(values[tail.rows])))
    else:
        moves = typical - values[generator.choice(tail.rows, size=len(others))]
        control = max(hits(others, typical), hits(others, values[others] + moves))
    return hits(mistakes, typical), len(mistakes), control, len(others)


def _turns_right(
    inputs: CauseInputs, rows: IntArray, attribute: Attribute, values: FloatArray | float
) -> BoolArray:
    if not len(rows):
        return np.zeros(0, dtype=bool)
    targets = np.broadcast_to(values, len(rows)).copy()
    changed: Tensor = with_values(inputs.images(rows), attribute, targets)
    return np.asarray(inputs.preds(changed) == inputs.predictions.labels[rows])


def _cause(inputs: CauseInputs, tail: Tail, effect: _Effect) -> Cause:
    predictions, attribute = inputs.predictions, ATTRIBUTES[tail.attribute]
    rows = tail.rows[~predictions.correct[tail.rows]]
    if not tail.is_shift:
        rows = rows[_turns_right(inputs, rows, attribute, _typical(inputs, tail))]
    sign = 1 if tail.low else -1
    rows = rows[np.argsort(sign * inputs.attributes[rows, tail.attribute], kind="stable")]
    names = "pictures"
    if tail.labels is not None:
        names = f"pictures of {' and '.join(inputs.classes[k] for k in tail.labels)}"
    accuracy = float(predictions.correct[tail.rows].mean())
    whose = "of these classes" if tail.labels is not None else "of the same classes"
    excess = round(tail.drop * len(tail.rows))
    return Cause(
        kind="property" if tail.labels is None else "rare",
        sentence=(
            f"{names[0].upper()}{names[1:]} that are {tail.words} are often wrong: {{mistakes}}; "
            f"{accuracy:.0%} of such pictures are right, and {accuracy + tail.drop:.0%} of other "
            f"pictures {whose}. {tail.test_share:.1%} of the test images are like them, and "
            f"{tail.train_share:.1%} of the training images."
        ),
        test=_test_sentence(tail, effect),
        rows=tuple(rows.tolist()),
        advice=(
            f"Add {names} that are {tail.words} to the training images, or vary the "
            f"{attribute.name} by augmentation."
        ),
        values={
            "images": float(len(tail.rows)),
            "accuracy": accuracy,
            "drop": tail.drop,
            "excess": float(excess),
            "p": tail.p,
            "p_shift": tail.p_shift,
            "harmed": effect.harmed,
            "harmed_control": effect.harmed_control,
            "rescued": effect.rescued,
            "rescued_control": effect.rescued_control,
            "train_share": tail.train_share,
            "test_share": tail.test_share,
        },
    )


def _test_sentence(tail: Tail, effect: _Effect) -> str:
    control = "changed to values of other pictures"
    if tail.labels is not None:
        control = "pictures of other classes, changed to the same values"
    text = (
        f"Made {tail.words}, {effect.harmed:.0%} of pictures that were right turned wrong "
        f"({control}: {effect.harmed_control:.0%})"
    )
    if _can_be_undone(tail):
        text += (
            f"; changed to the median of the training images, {effect.rescued:.0%} of their "
            f"mistakes turned right (in the control: {effect.rescued_control:.0%})"
        )
    excess = number(round(tail.drop * len(tail.rows)), "mistake")
    text += (
        f". Of {number(len(tail.rows), 'such picture')} about {excess} would not be there if they "
        f"were right as often as others of their class ({as_p(tail.p)})"
    )
    if tail.is_shift:
        text += f"; that training images have them less often is no chance ({as_p(tail.p_shift)})"
    return f"{text}."
