"""Shortcuts: a place or a color of the picture that stands for a class, whatever else is there.

The search is an intervention from the start. A place of training images of a class is pasted into
test images of other classes, and into mistakes of the class. How many turn to the class, beyond
those that turn to it when the same place comes from images of other classes? The first says that
the place is enough for the class, the second that the class is missed without it. Candidates are
tested again on other images.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...records import BoolArray, IntArray
from ...runs.causes import Cause
from .chance import as_p, more_often, share
from .inputs import CauseInputs
from .places import Place, places

_BUDGET = 7_000  # images of the first search, for targets of other classes
_FIRST_TARGETS = 4  # into which each donor's place is pasted
_MIN_MISTAKES = 15  # of a class, from which it is tried whether a place makes them right
_MIN_FIRST = 0.12  # net share of the first search that is tested again
_MIN_TESTED, _MAX_TESTED = 3, 12  # pairs of class and place that are tested again
_TESTED_PIXELS = 12 * 64**2  # pairs times pixels: a test takes 1,300 predictions, dear on photos
_NUM_DONORS, _NUM_TARGETS = 40, 16  # of such a test: 40 images, each pasted into 16
_CARRIES = 0.25  # share of its targets that must follow an image
_MIN_NET = 0.15  # of pictures, beyond those that follow other classes; at most 0.12 on clean data
_MIN_NET_OF_MISTAKES = 0.4  # water below a ship makes a fifth of mistakes right: no shortcut
_ALPHA = 0.01  # after correction for the number of pairs
_NO_SHADOW = 0.5  # of the strongest effect of another class at the same place
_NEARLY = 0.7  # of the strongest effect: the smallest place that has as much is the place


@dataclass(frozen=True, eq=False)
class _Shortcut:
    """A place that stands for a class, as the second test measured it."""

    label: int
    place: Place
    into_mistakes: bool  # of the class, and not into images of other classes
    net: float
    turned: float  # share of pictures that follow
    by_chance: float  # share that follow the same place of other classes
    p: float  # corrected
    carriers: IntArray  # training rows whose place pictures follow, the most first
    carrying: float  # their share of those tried
    others: IntArray  # training rows of other classes


def shortcut_causes(inputs: CauseInputs) -> list[Cause]:
    """Return the shortcuts that a second test confirms, with the mistakes that they explain."""
    generator = np.random.default_rng(0)
    tried = places(*inputs.test.shape[1:])
    candidates = _first_search(inputs, tried, generator)
    looks = 2 * len(tried) * len(inputs.classes)
    tests = [_second_test(inputs, *candidate, looks, generator) for candidate in candidates]
    confirmed = [
        test
        for test in tests
        if test
        and test.net >= (_MIN_NET_OF_MISTAKES if test.into_mistakes else _MIN_NET)
        and test.p < _ALPHA
    ]
    # Where one class is known by a place, what has nothing there is taken for other classes.
    shadows = [
        test
        for test in confirmed
        if any(
            other.label != test.label
            and other.place.meets(test.place)
            and test.net < _NO_SHADOW * other.net
            for other in confirmed
        )
    ]
    confirmed = [test for test in confirmed if test not in shadows]
    causes = []
    for label in sorted({test.label for test in confirmed}):
        own = [test for test in confirmed if test.label == label]
        strongest = max(test.net for test in own)
        best = min((t for t in own if t.net >= _NEARLY * strongest), key=lambda t: t.place.size)
        causes.append(_cause(inputs, best, looks, generator))
    return causes


def _right_rows(inputs: CauseInputs) -> IntArray:
    return np.asarray(np.flatnonzero(inputs.predictions.correct))


def _pasted(inputs: CauseInputs, place: Place, donors: Tensor, targets: Tensor) -> IntArray:
    """Predictions (D, T): what each target is taken for with the place of each donor."""
    d, t = len(donors), len(targets)
    images = place.transplant(targets.repeat(d, 1, 1, 1), donors.repeat_interleave(t, dim=0))
    return inputs.preds(images).reshape(d, t)


def _first_search(
    inputs: CauseInputs, tried: tuple[Place, ...], generator: np.random.Generator
) -> list[tuple[int, Place, bool]]:
    """Class, place and kind of target that many pictures follow, the most first."""
    k = len(inputs.classes)
    count = int(np.clip(_BUDGET // (k * len(tried) * _FIRST_TARGETS), 1, 12))
    labels, true = inputs.train_labels, inputs.predictions.labels
    donors = np.concatenate(
        [_some(np.flatnonzero(labels == c), count, generator) for c in range(k)]
    )
    images, donor_labels = inputs.train_images(donors), labels[donors]
    mistakes = [inputs.wrong[true[inputs.wrong] == c] for c in range(k)]
    right = _right_rows(inputs)
    results = []
    for place in tried:
        if len(right):
            targets = generator.choice(right, size=(len(donors), _FIRST_TARGETS))
            preds = _pasted_each(inputs, place, images, targets)
            other = true[targets]
            for label in range(k):
                follows, own = preds == label, (donor_labels == label)[:, None]
                net = _mean(follows[own & (other != label)])
                net -= _mean(follows[~own & (other != label)])
                results.append((net, label, place, False))
        for label, rows in enumerate(mistakes):
            if len(rows) < _MIN_MISTAKES:
                continue
            own, others = (np.flatnonzero((donor_labels == label) == is_own) for is_own in (1, 0))
            chosen = [_some(part, 5, generator) for part in (own, others)]
            both = np.concatenate(chosen)
            targets = generator.choice(rows, size=(len(both), _FIRST_TARGETS))
            follows = _pasted_each(inputs, place, images[both], targets) == label
            net = _mean(follows[: len(chosen[0])]) - _mean(follows[len(chosen[0]) :])
            results.append((net, label, place, True))
    results = [result for result in results if result[0] >= _MIN_FIRST]
    results.sort(key=lambda result: -result[0])
    pixels = images.shape[-1] * images.shape[-2]
    tested = int(np.clip(_TESTED_PIXELS // pixels, _MIN_TESTED, _MAX_TESTED))
    return [(label, place, into) for _, label, place, into in results[:tested]]


def _pasted_each(inputs: CauseInputs, place: Place, donors: Tensor, targets: IntArray) -> IntArray:
    """Predictions (D, T): what the targets (D, T) of each donor are taken for with its place."""
    images = inputs.images(targets.ravel())
    changed = place.transplant(images, donors.repeat_interleave(targets.shape[1], dim=0))
    return inputs.preds(changed).reshape(targets.shape)


def _mean(values: BoolArray) -> float:
    return float(values.mean()) if len(values) else 0.0


def _some(rows: IntArray, count: int, generator: np.random.Generator) -> IntArray:
    return generator.permutation(rows)[:count]


def _second_test(
    inputs: CauseInputs,
    label: int,
    place: Place,
    into_mistakes: bool,
    looks: int,
    generator: np.random.Generator,
) -> _Shortcut | None:
    """Measure one pair on other images; None if there are too few images.

    The unit of the test is the donor: it carries the shortcut if at least a quarter of the pictures
    follow it. Carriers among images of the class are compared with those among images of others.
    """
    labels, right = inputs.train_labels, _right_rows(inputs)
    rows = right[inputs.predictions.labels[right] != label]
    if into_mistakes:
        rows = inputs.wrong[inputs.predictions.labels[inputs.wrong] == label]
    targets = _some(rows, _NUM_TARGETS, generator)
    own = _some(np.flatnonzero(labels == label), _NUM_DONORS, generator)
    others = _some(np.flatnonzero(labels != label), _NUM_DONORS, generator)
    if not (len(targets) and len(own) and len(others)):
        return None
    images = inputs.images(targets)
    follows = _pasted(inputs, place, inputs.train_images(own), images) == label
    by_chance = _pasted(inputs, place, inputs.train_images(others), images) == label
    carries, chance = (part.mean(axis=1) >= _CARRIES for part in (follows, by_chance))
    p = more_often(int(carries.sum()), len(own), int(chance.sum()), len(others))
    turned, base = float(follows.mean()), float(by_chance.mean())
    return _Shortcut(
        label=label,
        place=place,
        into_mistakes=into_mistakes,
        net=turned - base,
        turned=turned,
        by_chance=base,
        p=min(1.0, p * looks),
        carriers=own[np.argsort(-follows.mean(axis=1), kind="stable")][: int(carries.sum())],
        carrying=share(int(carries.sum()), len(own)),
        others=others[~chance],
    )


def _cause(
    inputs: CauseInputs, test: _Shortcut, looks: int, generator: np.random.Generator
) -> Cause:
    name, place = inputs.classes[test.label], test.place.name
    lacking, having = _lacking(inputs, test), _having(inputs, test, generator)
    where = f"the {place}"
    into = f"mistakes of {name}" if test.into_mistakes else "test images of other classes"
    why = f"{{mistakes}} in pictures of {name} without it"
    if len(having):
        why = f"{{mistakes}} in pictures of {name} without it, or of other classes with it"
    if not len(lacking) + len(having):
        why = "no mistake shows it, as the test set has it too"
    return Cause(
        kind="shortcut",
        sentence=f"The network takes {where} for {name}: {why}.",
        test=(
            f"Put from training images of {name} into {into}, {where} turned {test.turned:.0%} to "
            f"{name}; from images of other classes, {test.by_chance:.0%} "
            f"({as_p(test.p)}, corrected for {looks} tries)."
        ),
        rows=(*lacking.tolist(), *having.tolist()),
        advice=(
            f"Remove or vary the {place} in the training images of {name}, or cut it off from all, "
            "and train again."
        ),
        values={
            "net": test.net,
            "turned": test.turned,
            "by_chance": test.by_chance,
            "p": test.p,
            "carriers": test.carrying,
            "lacking": float(len(lacking)),
            "having": float(len(having)),
        },
    )


def _lacking(inputs: CauseInputs, test: _Shortcut) -> IntArray:
    """Mistakes of the class that most carriers make right, and most images of others do not."""
    rows: IntArray = inputs.wrong[inputs.predictions.labels[inputs.wrong] == test.label]
    if not len(rows):
        return rows
    targets, votes = inputs.images(rows), []
    for donors in (test.carriers[:3], test.others[:3]):
        preds = _pasted(inputs, test.place, inputs.train_images(donors), targets)
        votes.append((preds == test.label).mean(axis=0))
    order = np.argsort(votes[1] - votes[0], kind="stable")
    return np.asarray(rows[order][((votes[0] > 0.5) & (votes[1] < 0.5))[order]])


def _having(inputs: CauseInputs, test: _Shortcut, generator: np.random.Generator) -> IntArray:
    """Mistakes taken for the class because of their own place.

    It makes other pictures follow, and without it the picture is no longer taken for the class.
    """
    predictions, right = inputs.predictions, _right_rows(inputs)
    rows: IntArray = inputs.wrong[predictions.preds[inputs.wrong] == test.label]
    targets = _some(right[predictions.labels[right] != test.label], 6, generator)
    if not len(rows) or not len(targets):
        return np.zeros(0, dtype=np.int64)
    images = inputs.images(rows)
    carries = _pasted(inputs, test.place, images, inputs.images(targets)) == test.label
    donors = inputs.train_images(test.others[:3])
    away = _pasted(inputs, test.place, donors, images) != test.label
    return np.asarray(rows[(carries.mean(axis=1) >= 0.5) & (away.mean(axis=0) > 0.5)])
