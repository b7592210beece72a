"""The rules that people know, as torch-lr-finder and fastai define them.

Each takes a smoothed curve without NaN and gives a rate. No rule knows when it is wrong.
"""

from bisect import bisect_left

import numpy as np

from ..records import FloatArray


def steepest(lrs: FloatArray, losses: FloatArray) -> float:
    """Return the rate where d loss / d log lr is lowest.

    On evenly spaced exponential rates this is torch-lr-finder's suggestion, which differentiates
    by the step, to the last digit.
    """
    return float(lrs[np.gradient(losses, np.log(lrs)).argmin()])


def valley(lrs: FloatArray, losses: FloatArray) -> float:
    """Return the middle of the longest valley: fastai's `valley`.

    The length l of the longest strictly decreasing subsequence counts as the length of the
    valley, which ends where that subsequence first does; the rate lies at l / 3 + l / 6 from
    its start. fastai compares all pairs of points; patience sorting finds the same in O(n log n).
    """
    tails: list[float] = []  # tails[k]: the best end of a falling run of k + 1 points, negated
    longest = end = 0
    for i, loss in enumerate((-losses).tolist()):
        length = bisect_left(tails, loss)
        tails[length : length + 1] = [loss]
        if length + 1 > longest:
            longest, end = length + 1, i
    third = longest / 3
    return float(lrs[max(0, end - longest + int(third) + int(third / 2))])


def slide(
    lrs: FloatArray, losses: FloatArray, *, lr_diff: int = 15, thresh: float = 0.005
) -> float | None:
    """Return the first rate, from the right, behind which the slope is steady: fastai's `slide`.

    Two points `lr_diff` apart slide down until their slopes a step differ by at most `thresh`;
    the rate is that of the left one. None if the curve is not longer than `lr_diff`.
    """
    slopes = np.gradient(losses)
    right, left = len(losses) - 1, len(losses) - 1 - lr_diff
    if left < 0:
        return None
    rate = lrs[left]
    while left >= 0 and abs(slopes[right] - slopes[left]) > thresh:
        rate = lrs[left]
        right, left = right - 1, left - 1
    return float(rate)


def rule_rates(lrs: FloatArray, losses: FloatArray) -> dict[str, float | None]:
    """Return the rate of every rule; `minimum_10` is what fastai calls `minimum`."""
    if len(lrs) < 2:
        return dict.fromkeys(("steepest", "valley", "minimum", "minimum_10", "slide"))
    low = float(lrs[losses.argmin()])
    return {
        "steepest": steepest(lrs, losses),
        "valley": valley(lrs, losses),
        "minimum": low,
        "minimum_10": low / 10,
        "slide": slide(lrs, losses),
    }
