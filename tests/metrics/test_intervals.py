"""95 % intervals against scipy, their equations and cases worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
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


def test_the_interval_of_f1_by_hand():
    """TP 8, FN 1, FP 1: J is 8 of 10, as above, and F1 = 2 J / (1 + J)."""
    interval = intervals.f1_interval(8, 1, 1)
    assert (interval.value, interval.n) == (pytest.approx(16 / 18), 10)
    assert interval.low == pytest.approx(2 * 0.490162 / 1.490162, abs=2e-6)
    assert interval.high == pytest.approx(2 * 0.943318 / 1.943318, abs=2e-6)
    assert intervals.f1_interval(0, 3, 0).low == 0
    assert intervals.f1_interval(3, 0, 0).high == 1


@pytest.mark.parametrize(
    ("n", "cells"), [(1000, (0.09, 0.01, 0.01)), (100, (0.03, 0.04, 0.02)), (200, (0.05, 0.05, 0))]
)
def test_the_interval_of_f1_holds_it(n, cells):
    both, only_true, only_pred = cells
    truth = 2 * both / (2 * both + only_true + only_pred)
    draws = np.random.default_rng(n).multinomial(n, [*cells, 1 - sum(cells)], size=2000)
    held = [intervals.f1_interval(*row[:3]) for row in draws.tolist() if any(row[:3])]
    assert 0.935 <= np.mean([i.low <= truth <= i.high for i in held]) <= 0.975


def test_the_mean_of_shares_by_hand():
    """8 of 10 and 30 of 30: of the 4 images more the first gets 3 and the second 1."""
    interval = intervals.mean_share(np.array([8, 30]), np.array([10, 30]))
    one, two = 9.5 / 13, 30.5 / 31
    half = 1.959964 * np.sqrt(one * (1 - one) / 13 + two * (1 - two) / 31) / 2
    assert (interval.value, interval.n) == (pytest.approx(0.9), 40)
    assert interval.low == pytest.approx((one + two) / 2 - half)
    assert interval.high == pytest.approx(min(1, (one + two) / 2 + half))


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [
        ((1000,) * 10, (0.9,) * 10),
        ((10,) * 100, (0.97,) * 100),
        ((500, 10), (0.99, 0.5)),
        ((9, 3000, 3000, 3000), (0.2, 0.9, 0.9, 0.9)),  # all uncertainty is in a small class
        ((20, 20), (0.95, 0.97)),
        ((9,), (0.8,)),
    ],
)
def test_the_interval_of_a_mean_of_shares_holds_it(sizes, shares):
    draws = np.random.default_rng(1).binomial(sizes, shares, size=(2000, len(sizes)))
    held = [intervals.mean_share(row, np.array(sizes)) for row in draws]
    assert 0.93 <= np.mean([i.low <= np.mean(shares) <= i.high for i in held]) <= 0.99


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).filter(any), min_size=1))
def test_a_mean_of_shares_lies_in_its_interval_and_in_0_to_1(counts):
    successes = np.array([right for right, _ in counts])
    sizes = np.array([right + wrong for right, wrong in counts])
    interval = intervals.mean_share(successes, sizes)
    assert interval.value == pytest.approx(np.mean(successes / sizes))
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low < interval.high
    difference = intervals.mean_paired_difference(successes, 0 * sizes, sizes)
    assert difference.low <= difference.value <= difference.high <= 1


@pytest.mark.parametrize(
    ("sizes", "cells"),
    [
        ((100,) * 5, [(0.8, 0.09, 0.05, 0.06)] * 5),
        ((10,) * 100, [(0.9, 0.04, 0.03, 0.03)] * 100),
        ((500, 20), [(0.9, 0.02, 0.05, 0.03), (0.3, 0.4, 0.1, 0.2)]),
    ],
)
def test_the_interval_of_a_mean_of_differences_holds_it(sizes, cells):
    rng = np.random.default_rng(2)  # cells: both right, only after, only before, neither
    truth = np.mean([cell[1] - cell[2] for cell in cells])
    draws = np.stack([rng.multinomial(*row, size=2000) for row in zip(sizes, cells, strict=True)])
    held = [
        intervals.mean_paired_difference(draws[:, i, 1], draws[:, i, 2], np.array(sizes))
        for i in range(2000)
    ]
    assert 0.935 <= np.mean([i.low <= truth <= i.high for i in held]) <= 0.98


def test_a_mean_over_no_images_is_refused():
    for sizes in ([], [3, 0]):
        zeros = np.zeros(len(sizes), dtype=np.int64)
        with pytest.raises(UsageError, match="at least 1 image each"):
            intervals.mean_share(zeros, np.array(sizes, dtype=np.int64))


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


def test_the_difference_of_two_shares_is_newcombe_s():
    """The first two of the examples that Newcombe (1998) works out for his method 10."""
    before, after = intervals.wilson(48, 80), intervals.wilson(56, 70)
    difference = intervals.share_difference(before, after)
    assert difference.value == pytest.approx(0.2)
    assert (difference.low, difference.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    difference = intervals.share_difference(intervals.wilson(3, 10), intervals.wilson(9, 10))
    assert (difference.low, difference.high) == pytest.approx((0.1705, 0.8090), abs=5e-5)


def test_of_sixty_images_ninety_percent_may_be_eighty():
    interval = intervals.wilson(54, intervals.MIN_TO_TELL)
    assert (interval.low, interval.high) == pytest.approx((0.80, 0.95), abs=0.005)
    # With ten validation images, 80 % against 70 % is no difference.
    difference = intervals.share_difference(intervals.wilson(7, 10), intervals.wilson(8, 10))
    assert difference.low < 0 < difference.high
