"""95 % intervals against scipy, their equations and cases worked by hand."""

import numpy as np
import pytest
from scipy import stats

from resight.errors import UsageError
from resight.metrics import intervals


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # 8 of 10: z^2 = 3.841459, center (0.8 + 0.192073) / 1.384146 = 0.716740,
        # half 1.416010 sqrt(0.016 + 0.009604) = 0.226578
        (8, 10, 0.490162, 0.943318),
        # At the ends the interval is z^2 / (n + z^2) wide: 3.841459 / 13.841459 = 0.277533
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (1, 1, 0.206549, 1.0),  # 1 / 4.841459
        # center 0.940992 / 1.000384 = 0.940631, half 1.959211 sqrt(5.579139e-6) = 0.004628
        (9408, 10000, 0.936003, 0.945259),
    ],
)
def test_wilson_by_hand(successes, n, low, high):
    interval = intervals.wilson(successes, n)
    assert interval.value == successes / n
    assert interval.low == pytest.approx(low, abs=2e-6)
    assert interval.high == pytest.approx(high, abs=2e-6)


def test_wilson_ends_exactly_at_0_and_1():
    for n in range(1, 50):
        assert intervals.wilson(0, n).low == 0
        assert intervals.wilson(n, n).high == 1


def test_wilson_solves_its_equation():
    """The bounds are the shares p whose z-score for the value observed is exactly 1.96."""
    for successes, n in [(1, 3), (57, 64), (4999, 5000)]:
        interval = intervals.wilson(successes, n)
        for p in (interval.low, interval.high):
            z = abs(successes / n - p) / (p * (1 - p) / n) ** 0.5
            assert z == pytest.approx(1.959963984540054, rel=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 4), (5, 4)])
def test_wilson_refuses_impossible_shares(successes, n):
    with pytest.raises(UsageError, match=f"{successes} of {n}"):
        intervals.wilson(successes, n)


def test_the_difference_of_pairs_by_hand():
    before = np.array([True] * 6 + [False] * 4)
    after = np.array([True] * 5 + [False] + [True] * 3 + [False])  # three won, one lost
    interval = intervals.paired_difference(before, after)
    half = 1.959964 * np.sqrt(5 - 4 / 12) / 12  # won and lost and half an image each, of 12
    assert (interval.value, interval.n) == (pytest.approx(0.2), 10)
    assert (interval.low, interval.high) == (
        pytest.approx(2 / 12 - half),
        pytest.approx(2 / 12 + half),
    )
    with pytest.raises(UsageError, match="10 and 9 images"):
        intervals.paired_difference(before, after[:9])


@pytest.mark.parametrize("n", [20, 300])
def test_the_interval_of_a_difference_of_pairs_holds_it(n):
    rng = np.random.default_rng(n)
    cells = np.array([0.8, 0.09, 0.05, 0.06])  # both right, only after, only before, neither
    hits = 0
    for _ in range(2000):
        kind = rng.choice(4, size=n, p=cells)
        interval = intervals.paired_difference((kind == 0) | (kind == 2), kind <= 1)
        hits += interval.low <= 0.09 - 0.05 <= interval.high
    assert 0.94 <= hits / 2000 <= 0.985


def test_nothing_changed_still_has_an_interval():
    same = np.ones(50, dtype=bool)
    interval = intervals.paired_difference(same, same)
    assert interval.low < interval.value == 0 < interval.high < 0.06
    assert intervals.paired_difference(~same, same).high == 1


def test_the_difference_of_means_agrees_with_scipy():
    spread = np.array([-0.01, 0.0, 0.01])
    interval = intervals.mean_difference(0.9 + spread, 0.92 + spread)  # 4 degrees of freedom
    exact = stats.ttest_ind(0.92 + spread, 0.9 + spread, equal_var=False).confidence_interval()
    assert (interval.value, interval.n) == (pytest.approx(0.02), 6)
    assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high), abs=1e-5)
    with pytest.raises(UsageError, match="neither side vary"):
        intervals.mean_difference([0.5, 0.5], [0.6, 0.6])
    rng = np.random.default_rng(0)
    for sizes in [(2, 3), (3, 7), (5, 2), (12, 9)]:  # fractions of a degree are on the safe side
        one, two = (rng.normal(size=size) * (1 + i) for i, size in enumerate(sizes))
        interval = intervals.mean_difference(one, two)
        exact = stats.ttest_ind(two, one, equal_var=False).confidence_interval()
        half = (exact.high - exact.low) / 2
        assert 0.999 * half <= interval.high - interval.value <= 1.5 * half
        assert interval.high - interval.value == pytest.approx(interval.value - interval.low)
