"""Tests of counts, against the books and against all that can happen."""

import math
from itertools import product

import numpy as np

from resight.interpret.causes.chance import (
    as_p,
    holm,
    more_often,
    more_often_in,
    more_than_half,
    normal_tail,
    number,
)


def test_the_tests_of_chance_are_those_of_the_books() -> None:
    assert math.isclose(more_often(4, 4, 0, 4), 1 / 70)  # Fisher's tea
    assert math.isclose(more_often(3, 4, 1, 4), 17 / 70)
    assert more_often(0, 5, 0, 5) == 1
    assert math.isclose(more_than_half(8, 9), 10 / 512)
    assert math.isclose(normal_tail(1.959964), 0.025, rel_tol=1e-6)


def test_strata_are_added_as_all_draws_of_both_say() -> None:
    strata = [(2, 3, 1, 4), (3, 4, 0, 3)]
    laws = []
    for successes, n, others, m in strata:
        hits, total = successes + others, n + m
        ways = [math.comb(hits, k) * math.comb(total - hits, n - k) for k in range(n + 1)]
        laws.append([way / math.comb(total, n) for way in ways])
    expected = sum(
        laws[0][a] * laws[1][b]
        for a, b in product(range(4), range(5))
        if a + b >= strata[0][0] + strata[1][0]
    )
    assert math.isclose(more_often_in(strata), expected)
    assert math.isclose(more_often_in([*strata, (3, 3, 0, 0)]), expected)  # nothing to compare with


def test_holm_is_the_worked_case_of_the_books() -> None:
    assert np.allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1, 1]


def test_sentences_have_one_of_one() -> None:
    assert number(1, "mistake") == "1 mistake"
    assert number(1200, "mistake") == "1,200 mistakes"
    assert (as_p(0.0031), as_p(1e-300)) == ("p = 0.003", "p < 1e-12")
