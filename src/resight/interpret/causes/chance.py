"""How likely counts are by chance: the one-sided tests that causes must pass."""

import math


def more_often(successes: int, n: int, others: int, m: int) -> float:
    """Return the p-value of Fisher's exact test that `successes` of n is no more than others of m.

    The sum of the hypergeometric probabilities of as many successes or more.
    """
    total, hits = n + m, successes + others
    if n == 0 or m == 0 or hits == 0:
        return 1.0

    def log_choose(a: int, b: int) -> float:
        return math.lgamma(a + 1) - math.lgamma(b + 1) - math.lgamma(a - b + 1)

    base = log_choose(total, n)
    return min(
        1.0,
        sum(
            math.exp(log_choose(hits, k) + log_choose(total - hits, n - k) - base)
            for k in range(successes, min(n, hits) + 1)
            if n - k <= total - hits
        ),
    )


def normal_tail(z: float) -> float:
    """Return the probability that a standard normal variable is at least z."""
    return math.erfc(z / math.sqrt(2)) / 2


def share(part: float, n: int) -> float:
    """Return part / n, and 0 where there is nothing."""
    return part / n if n else 0.0
