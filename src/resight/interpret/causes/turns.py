"""Pictures that lie on their side or stand on their head, where training images stand upright."""

import numpy as np

from ...records import BoolArray, IntArray
from ...runs.causes import Cause
from .chance import as_p, more_than_half, number, share
from .inputs import CauseInputs

_ANGLES = {1: "on their side", 2: "upside down", 3: "on their side"}  # quarter turns back
_NUM_MISTAKES = 60  # of a class that are turned first
_MIN_IMAGES = 15  # mistakes of a class
_MIN_NET = 0.15  # share of mistakes that turn right, beyond those at another angle
_SURE = 0.25  # quantile of the confidence of right pictures that a turned picture must reach
_ALPHA = 0.01


def turn_causes(inputs: CauseInputs) -> list[Cause]:
    """Return the classes, or all, whose mistakes turn right when their pictures are turned back.

    A turned picture gets its class by chance as well. So it must be about as sure as pictures that
    are right, and the control are the same mistakes, turned by the angle that helps least.
    """
    height, width = inputs.test.shape[2:]
    if height != width:
        return []
    predictions, generator = inputs.predictions, np.random.default_rng(3)
    labels = predictions.labels[inputs.wrong]
    sample = [
        generator.permutation(inputs.wrong[labels == label])[:_NUM_MISTAKES]
        for label in range(len(inputs.classes))
    ]
    rows = np.concatenate(sample)
    right = {angle: _right_when_turned(inputs, rows, angle) for angle in _ANGLES}
    # Each class counts alike, as the sample has it.
    scopes: list[tuple[int | None, BoolArray]] = [(None, np.full(len(rows), True))]
    scopes += [(k, predictions.labels[rows] == k) for k in range(len(inputs.classes))]
    looks = len(scopes) * len(_ANGLES) * (len(_ANGLES) - 1)  # ordered pairs of angles
    tests = []
    for label, inside in scopes:
        n = int(inside.sum())
        if n < _MIN_IMAGES:
            continue
        counts = {angle: int(hits[inside].sum()) for angle, hits in right.items()}
        best, least = (choose(counts, key=lambda a: counts[a]) for choose in (max, min))
        # The same pictures are turned both ways, so those that differ are counted.
        gained = int((right[best] & ~right[least] & inside).sum())
        lost = int((right[least] & ~right[best] & inside).sum())
        p = min(1.0, more_than_half(gained, gained + lost) * looks)
        if share(gained - lost, n) >= _MIN_NET and p < _ALPHA:
            tests.append((label, best, counts[best], counts[least], n, p))
    if tests and tests[0][0] is None:
        # All classes are turned only if most of them are, each by itself.
        tests = tests[:1] if len(tests) > 1 + len(inputs.classes) / 2 else tests[1:]
    return [_cause(inputs, *test) for test in tests]


def _right_when_turned(inputs: CauseInputs, rows: IntArray, angle: int) -> BoolArray:
    """Whether each picture, turned by quarter turns, surely gets its class."""
    predictions = inputs.predictions
    confidence = predictions.confidence[predictions.correct]
    limit = np.quantile(confidence, _SURE) if len(confidence) else 1.0
    probs = inputs.probs(inputs.images(rows).rot90(angle, (2, 3)))
    hits: BoolArray = probs.argmax(axis=1) == predictions.labels[rows]
    return np.asarray(hits & (probs.max(axis=1, initial=0.0) >= limit))


def _cause(
    inputs: CauseInputs, label: int | None, angle: int, hits: int, least: int, n: int, p: float
) -> Cause:
    rows = inputs.wrong
    if label is not None:
        rows = rows[inputs.predictions.labels[rows] == label]
    rows = rows[_right_when_turned(inputs, rows, angle)]
    words = _ANGLES[angle]
    name = "pictures" if label is None else f"pictures of {inputs.classes[label]}"
    return Cause(
        kind="property",
        sentence=(
            f"{name[0].upper()}{name[1:]} {words} are taken for other classes, and right "
            "when the picture is turned back: {mistakes}."
        ),
        test=(
            f"Turned by {angle * 90} degrees, {share(hits, n):.0%} of {number(n, 'mistake')} "
            f"surely got their class; by the angle that helped least, {share(least, n):.0%} "
            f"({as_p(p)})."
        ),
        rows=tuple(rows.tolist()),
        advice=f"Turn the pictures upright, or add {name} {words} to the training images, for "
        "example by augment.rotate.",
        values={"turned_right": share(hits, n), "by_chance": share(least, n), "p": p},
    )
