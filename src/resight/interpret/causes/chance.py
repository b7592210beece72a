"""How likely counts are by chance: the one-sided tests that causes must pass."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from ...records import FloatArray


def more_often(successes: int, n: int, others: int, m: int) -> float:
    """Return the p-value of Fisher's exact test that `successes` of n is no more than others of m.

    The sum of the hypergeometric probabilities of as many successes or more.
    """
    return more_often_in([(successes, n, others, m)])


def more_often_in(strata: Iterable[tuple[int, int, int, int]]) -> float:
    """Return the p-value of Fisher's exact test over strata, each as `more_often` takes it.

    Counts are compared within each stratum, such as a class, and the strata are added. So what
    differs between strata is no evidence. The distribution of the sum is the convolution of the
    hypergeometric ones (the exact test of Cochran, Mantel and Haenszel: Mehta, Patel and Gray 1985,
    J. Am. Stat. Assoc. 80).
    """
    total, first, law = 0, 0, np.ones(1)
    for successes, n, others, m in strata:
        hits = successes + others
        if n == 0 or m == 0 or hits == 0:
            continue
        start, part = _hypergeometric(hits, n, m)
        total, first, law = total + successes, first + start, np.convolve(law, part)
    return min(1.0, float(law[max(0, total - first) :].sum()))


def _hypergeometric(hits: int, n: int, m: int) -> tuple[int, FloatArray]:
    """The least possible number of hits among n, and the probabilities from it on."""

    def log_choose(a: int, b: int) -> float:
        return math.lgamma(a + 1) - math.lgamma(b + 1) - math.lgamma(a - b + 1)

    base, start = log_choose(n + m, n), max(0, hits - m)
    return start, np.array(
        [
            math.exp(log_choose(hits, k) + log_choose(n + m - hits, n - k) - base)
            for k in range(start, min(n, hits) + 1)
        ]
    )


def more_than_half(successes: int, n: int) -> float:
    """Return the probability of as many heads or more among n tosses of a coin.

    It is the exact test of McNemar, if n are the pairs of which one alone is a success.
    """
    return float(min(1.0, sum(math.comb(n, k) for k in range(successes, n + 1)) / 2**n))


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979, Scand. J. Stat. 6).

    It bounds the chance of one false claim or more as Bonferroni's correction does, whatever
    depends on what, and is never larger.
    """
    corrected, least = [0.0] * len(ps), 0.0
    for rank, k in enumerate(sorted(range(len(ps)), key=lambda k: ps[k])):
        least = max(least, min(1.0, ps[k] * (len(ps) - rank)))
        corrected[k] = least
    return corrected


def normal_tail(z: float) -> float:
    """Return the probability that a standard normal variable is at least z."""
    return math.erfc(z / math.sqrt(2)) / 2


def share(part: float, n: int) -> float:
    """Return part / n, and 0 where there is nothing."""
    return part / n if n else 0.0


def as_p(p: float) -> str:
    """Return a p-value as sentences have it, such as "p = 0.003"."""
    return "p < 1e-12" if p < 1e-12 else f"p = {p:.1g}"


def number(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 mistake" and "1,200 mistakes"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
