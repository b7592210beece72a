"""95 % intervals of a share, of a mean over runs, and of differences."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..records import BoolArray

_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution: 95 % lie within +-z


@dataclass(frozen=True)
class Interval:
    """A figure and the 95 % interval in which it would lie over many more images, or runs.

    A share of n images lies in [0, 1], and the difference of two shares in [-1, 1]. A mean over n
    runs has the interval of Student's t, however wide.
    """

    value: float
    low: float
    high: float
    n: int


def wilson(successes: int, n: int) -> Interval:
    """Return Wilson's 95 % score interval for `successes` out of n >= 1 (Wilson 1927).

    center = (p + z^2 / 2n) / (1 + z^2 / n),
    half width = z / (1 + z^2 / n) sqrt(p (1 - p) / n + z^2 / 4n^2).
    Unlike p +- z sqrt(p (1 - p) / n) it stays in [0, 1] and is not empty at p = 0 or 1.
    """
    if not 0 <= successes <= n or n == 0:
        raise UsageError(f"{successes} of {n} is not a share; give 0 <= successes <= n and n >= 1")
    p, z2 = successes / n, _Z95**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # Exactly 0 and 1 at the ends, where the two terms cancel only up to rounding.
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == n else center + half
    return Interval(p, low, high, n)


# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond, the last is on the safe
# side.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of a figure over n >= 2 runs; its 95 % interval is mean +- t s / sqrt(n)."""
    n = len(values)
    if n < 2:
        raise UsageError(f"{n} runs give no interval; give at least 2")
    mean = statistics.fmean(values)
    half = _T95[min(n - 2, len(_T95) - 1)] * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def mean_difference(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Return the mean of `after` minus the mean of `before`, with a 95 % interval (Welch 1947).

    Each side needs at least 2 runs; their numbers and variances may differ. Runs that are all the
    same say nothing about the spread of further runs, so at least one side must vary.
    """
    first, second = mean_interval(before), mean_interval(after)
    parts = [statistics.variance(values) / len(values) for values in (before, after)]
    total = sum(parts)
    if total == 0:
        raise UsageError("the runs of neither side vary, so the difference has no interval")
    # Degrees of freedom by Welch and Satterthwaite, rounded down, which is on the safe side.
    weighed = parts[0] ** 2 / (first.n - 1) + parts[1] ** 2 / (second.n - 1)
    half = _T95[min(int(total**2 / weighed), len(_T95)) - 1] * math.sqrt(total)
    difference = second.value - first.value
    return Interval(difference, difference - half, difference + half, first.n + second.n)


def paired_difference(before: BoolArray, after: BoolArray) -> Interval:
    """Return the share of `after` minus that of `before`, both (N,) of the same images, in [-1, 1].

    The interval is Wald's with half an image more in each of the four cells, which holds for few
    images too (Agresti and Min 2005, Statistics in Medicine 24).
    """
    n = len(before)
    if n == 0 or len(after) != n:
        raise UsageError(
            f"{n} and {len(after)} images are not pairs; give equal numbers, at least 1"
        )
    won, lost = int((after & ~before).sum()), int((before & ~after).sum())
    size, net = n + 2, won - lost
    center = net / size
    half = _Z95 * math.sqrt(won + lost + 1 - net * net / size) / size
    return Interval(net / n, max(-1.0, center - half), min(1.0, center + half), n)
