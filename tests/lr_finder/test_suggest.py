"""Rules against the tools that they are named after, and verdicts against curves worked by hand."""

import json
import math
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure

from resight.errors import UsageError
from resight.figures import lr_curve, save
from resight.lr_finder.find import merge_curves
from resight.lr_finder.rules import slide, steepest, valley
from resight.lr_finder.suggest import analyze, recommend, smooth

LRS = np.geomspace(1e-4, 10, 60)
CHANCE = math.log(10)


def clean():
    """Falls from 2.3 by 0.8, fastest at 10^-1.5 = 0.032, and climbs again from 0.5."""
    fall = 0.8 / (1 + np.exp(-4 * (np.log10(LRS) + 1.5)))
    return 2.3 - fall + np.where(LRS > 0.5, 0.6 * np.log(LRS / 0.5) ** 2, 0)


def noisy(scatter, seed=0):
    return clean() + np.random.default_rng(seed).normal(0, scatter, len(LRS))


def read(losses, **settings):
    return analyze(LRS[: len(losses)], losses, images=640, chance=CHANCE, **settings)


def reason(curve):
    assert not curve.verdict.ok
    assert len(curve.verdict.reasons) == 1
    return curve.verdict.reasons[0]


# --- smoothing ------------------------------------------------------------------------------


def test_smoothing_keeps_straight_lines_to_both_ends():
    line = 3 - 0.02 * np.arange(50)
    np.testing.assert_allclose(smooth(line), line, rtol=1e-12)


def test_smoothing_does_not_move_a_valley_sideways():
    steps = np.arange(81)
    smoothed = smooth(2 + np.abs(steps - 40) / 40)
    assert smoothed.argmin() == 40
    np.testing.assert_allclose(smoothed, smoothed[::-1], rtol=1e-12)


def test_smoothing_takes_out_most_of_the_noise():
    before, after = noisy(0.1) - clean(), smooth(noisy(0.1)) - clean()
    flat = slice(0, 20)
    assert after[flat].std() < 0.6 * before[flat].std()


def test_a_single_spike_leaves_no_trace():
    losses = clean()
    losses[8] = 1e6
    np.testing.assert_allclose(smooth(losses), smooth(clean()), atol=0.01)


def test_an_explosion_does_not_drown_the_minimum():
    losses = np.append(clean()[:45], [50.0, 1e9, 1e30])
    assert smooth(losses)[:40] == pytest.approx(smooth(clean()[:45])[:40], abs=0.05)


def test_nan_stays_where_it_is():
    losses = clean()
    losses[50:] = math.nan, math.inf, *losses[52:]
    smoothed = smooth(losses)
    assert np.flatnonzero(~np.isfinite(smoothed)).tolist() == [50, 51]
    assert np.isnan(smooth(np.full(4, math.nan))).all()


# --- rules, each against its definition -----------------------------------------------------


def running_average(losses, factor=0.05):
    """torch-lr-finder's smoothing."""
    out = [losses[0]]
    for loss in losses[1:]:
        out.append(factor * loss + (1 - factor) * out[-1])
    return np.array(out)


def corrected_average(losses, beta=0.98):
    """fastai's smoothing: an average that is corrected for having begun at 0."""
    out, average = [], 0.0
    for i, loss in enumerate(losses, 1):
        average = beta * average + (1 - beta) * loss
        out.append(average / (1 - beta**i))
    return np.array(out)


SMOOTHINGS = [running_average, corrected_average, smooth]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_steepest_is_that_of_torch_lr_finder(smoothing, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a notebook when it is imported
        tool = pytest.importorskip("torch_lr_finder")
    losses = smoothing(noisy(0.1, seed))
    finder = tool.LRFinder.__new__(tool.LRFinder)
    finder.history = {"lr": LRS.tolist(), "loss": losses.tolist()}
    _, theirs = finder.plot(skip_start=0, skip_end=0, suggest_lr=True, ax=Figure().subplots())
    assert steepest(LRS, losses) == theirs


def test_steepest_looks_at_the_log_of_the_rate():
    lrs = np.linspace(0.01, 1, 100)
    losses = 2 - 0.5 / (1 + np.exp(-6 * (np.log(lrs) - np.log(0.1))))  # steepest in log lr at 0.1
    assert steepest(lrs, losses) == pytest.approx(0.1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_valley_is_that_of_fastai(smoothing, seed):
    losses = smoothing(noisy(0.2, seed))
    length = []  # of the longest falling subsequence that ends here
    for i, loss in enumerate(losses):
        length.append(1 + max((length[j] for j in range(i) if losses[j] > loss), default=0))
    longest = max(length)
    begin = length.index(longest) - longest
    third = longest / 3
    assert valley(LRS, losses) == LRS[begin + int(third) + int(third / 2)]


def test_valley_by_hand():
    lrs = np.geomspace(1, 1e9, 10)
    # 9 8 7 6 5 4 fall, six long, and end at place 7; the valley begins at 1 and 2 + 1 lies at 4.
    assert valley(lrs, np.array([3, 9, 8, 7, 6, 8.5, 5, 4, 10, 11.0])) == lrs[4]
    assert valley(lrs, np.arange(10.0)) == lrs[0]  # nothing falls


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_slide_is_that_of_fastai(smoothing, seed):
    losses = smoothing(noisy(0.05, seed))
    slopes = np.gradient(losses)
    apart = np.abs(slopes[15:] - slopes[:-15])  # of point i and i + 15
    steady = np.flatnonzero(apart <= 0.005)
    left = min(steady.max() + 1, len(apart) - 1) if len(steady) else 0
    assert slide(LRS, losses) == LRS[left]
    assert slide(LRS[:15], losses[:15]) is None


def test_minimum_by_hand():
    curve = read(clean())
    assert curve.best_loss == curve.smoothed.min()
    assert curve.best_lr == curve.suggestions["minimum"] == LRS[curve.smoothed.argmin()]
    assert curve.suggestions["minimum_10"] == curve.best_lr / 10


# --- the recommendation and the verdict -----------------------------------------------------


@pytest.mark.parametrize("scatter", [0, 0.02, 0.1])
def test_a_good_curve_is_trusted(scatter):
    curve = read(noisy(scatter))
    assert curve.verdict.ok, curve.verdict
    assert 0.07 < curve.peak < 0.3  # between the steepest point, 0.03, and the climb from 0.5
    assert curve.constant < curve.peak
    assert curve.suggestions["steepest"] == pytest.approx(0.0316, rel=0.7)
    assert 0.15 < curve.best_lr < 0.8


def test_the_peak_does_not_depend_on_where_the_range_begins_or_how_far_it_diverges():
    whole = read(clean()).peak
    late = analyze(LRS[15:], clean()[15:], images=1).peak
    short = read(clean()[:50]).peak
    assert late == pytest.approx(whole, rel=0.25)
    assert short == pytest.approx(whole, rel=0.25)


def test_the_rates_scale_with_the_range():
    curve = analyze(7 * LRS, noisy(0.05), images=1)
    assert curve.peak == pytest.approx(7 * read(noisy(0.05)).peak)


def test_a_second_fall_behind_a_breakdown_is_no_evidence():
    losses = clean()
    losses[54:] = 1.4 - 0.05 * np.arange(6)  # as low as never before, after the loss rose to 3.9
    curve = read(losses)
    assert curve.verdict.ok, curve.verdict
    assert curve.peak == pytest.approx(read(clean()).peak, rel=0.25)
    assert curve.suggestions["minimum"] == 10  # the rule itself is as it is known


def test_nan_never_is_the_answer():
    losses = np.append(clean()[:48], math.nan)
    curve = read(losses, stopped="the loss became nan after step 49 of 60, at lr 1.16")
    assert curve.verdict.ok, curve.verdict
    assert curve.peak == pytest.approx(read(clean()).peak, rel=0.25)
    for rate in (curve.peak, curve.constant, *curve.suggestions.values()):
        assert LRS[0] / 10 <= rate < LRS[48]
    assert "NaN" not in json.dumps(curve.to_dict())
    assert curve.to_dict()["losses"][-1] is None


def test_noise_that_hides_the_fall():
    assert "too noisy" in " ".join(read(noisy(0.9)).verdict.reasons)


def test_a_flat_curve():
    losses = CHANCE + np.random.default_rng(0).normal(0, 0.01, 60)
    assert reason(read(losses)).startswith("the loss never fell")
    assert read(losses).peak is None


def test_diverging_from_the_start():
    losses = np.array([3.0, 9.0, 80.0, 1e4])
    curve = read(losses, stopped="the loss rose to 80, over 4 times its best, after step 3")
    assert reason(curve).startswith("diverged at once: the loss rose to 80")
    assert reason(curve).endswith("start the range at 1e-06")
    assert curve.peak is None
    assert curve.constant is None


def test_climbing_from_the_start_without_an_early_end():
    assert reason(read(2.3 * np.exp(0.06 * np.arange(60)))).startswith(
        "diverged at once: the loss only climbs"
    )


def test_a_fall_to_the_loss_of_guessing_is_no_learning():
    assert reason(read(clean() + 0.85)).startswith(
        "the loss never fell below that of guessing, 2.303"
    )
    assert read(clean() + 0.85).peak is None
    assert read(clean() + 0.3).verdict.ok  # the same fall, but to below it


def test_nothing_but_nan():
    curve = read(np.array([]), stopped="the loss is nan before the first step")
    assert reason(curve).startswith("the loss is nan before the first step; check")
    assert curve.best_loss is None
    assert set(curve.suggestions.values()) == {None}


def test_an_already_trained_model():
    losses = 0.1 + np.random.default_rng(0).normal(0, 0.01, 60)
    losses[48:] += np.linspace(0, 3, 12)
    assert "already trained" in reason(read(losses))
    # A trained start that still falls a lot, as in fine-tuning, is none of its business.
    assert analyze(LRS, clean() / 2.5, images=1, chance=CHANCE).verdict.ok


def test_a_pick_at_the_end_of_the_range():
    curve = read(clean()[:35])  # to 0.075, still falling
    assert "still falls at the end of the range; end it at 0.8 " in curve.verdict.reasons[0]


def test_a_pick_at_the_start_of_the_range():
    lrs, losses = LRS[42:], clean()[42:]  # from 0.36: the fall is nearly over
    losses[:3] += 0.3, 0.2, 0.1
    curve = analyze(lrs, losses, images=1)
    assert reason(curve).startswith("the pick, 0.65")
    assert reason(curve).endswith("is at the start of the range; start it at 0.004")


def test_rules_that_disagree():
    x = np.log10(LRS)
    two_falls = 2.3 - 0.5 / (1 + np.exp(-9 * (x + 3))) - 0.4 / (1 + np.exp(-3 * x))
    losses = two_falls + np.where(x > 0.8, 60 * (x - 0.8) ** 2, 0)
    assert "the rules disagree by more than a decade: steepest 0.001" in reason(read(losses))


def test_a_coarse_grid_reads_two_steps_less():
    """The same shape by step: where a step is a factor of 1.69, the reading is 1.3 ^ -2 of it."""
    coarse = np.geomspace(1e-4, 1e-4 * 1.69**59, 60)
    fine = np.geomspace(1e-4, 1e-4 * 1.3**59, 60)
    shape = 2.3 - 0.8 / (1 + np.exp(-0.5 * (np.arange(60) - 30)))
    reading, late = recommend(fine, shape), recommend(coarse, shape)
    low = int(np.flatnonzero(shape <= shape[:6].max() - 0.8 * 0.8)[0])
    assert reading == pytest.approx(1.5 * fine[low], rel=1e-6)
    assert late == pytest.approx(1.5 * coarse[low] / 1.3**2, rel=1e-6)


def test_a_small_fall_on_a_coarse_grid_is_too_little():
    coarse = np.geomspace(1e-4, 10, 20)
    losses = np.interp(np.log(coarse), np.log(LRS), clean())
    assert analyze(coarse, losses, images=1, chance=CHANCE).verdict.ok
    small = CHANCE + (losses - CHANCE) / 12
    assert "too few steps: the rate grows 1.8 times a step" in reason(
        analyze(coarse, small, images=1, chance=CHANCE)
    )
    assert read(CHANCE + (clean() - CHANCE) / 12).verdict.ok  # 60 steps are enough


def test_a_peak_that_no_optimizer_of_its_kind_bears():
    assert analyze(LRS, clean(), images=1, max_lr=0.5).verdict.ok
    for losses in (clean(), clean()[:42]):  # the second still falls at its end
        curve = analyze(LRS[: len(losses)], losses, images=1, max_lr=0.1)
        assert "is above 0.1, where a step" in reason(curve)


def test_a_fall_before_the_first_rate():
    """Of the fall from 2.3 to 1.5, a curve from 0.03 on shows the lower half."""
    late = analyze(LRS[30:], clean()[30:], images=1, chance=CHANCE, initial_loss=2.3)
    assert late.verdict.reasons[0].startswith("the loss already falls at the first rate, 0.03")
    assert late.verdict.reasons[0].endswith("start the range at 0.0003")
    assert read(clean(), initial_loss=2.3).verdict.ok
    assert read(clean(), initial_loss=9.0).verdict.ok  # down to the loss of guessing at any rate


def test_a_floor_moves_every_threshold():
    curves = [noisy(0.05), clean() + 0.85, np.full(60, CHANCE), 2.3 * np.exp(0.06 * np.arange(60))]
    for losses in curves:
        plain = read(losses, initial_loss=2.3)
        moved = analyze(
            *(LRS, losses + 6),
            images=640,
            chance=CHANCE + 6,
            floor=6.0,
            initial_loss=8.3,
        )
        assert moved.peak == pytest.approx(plain.peak) if plain.peak else moved.peak is None
        assert moved.verdict.ok == plain.verdict.ok
        for reasons in zip(moved.verdict.reasons, plain.verdict.reasons, strict=True):
            assert reasons[0].split()[:4] == reasons[1].split()[:4]
        np.testing.assert_allclose(moved.smoothed, plain.smoothed + 6)


def test_a_flat_curve_that_rises_late_did_not_diverge_at_once():
    losses = np.append(np.full(46, CHANCE), [3.0, 50.0])
    stopped = "the loss rose to 50, over 4 times its best, after step 48 of 60, at lr 0.9"
    text = reason(read(losses, stopped=stopped))
    assert text.startswith("the loss never fell: it stayed near 2.3 for 4")
    assert "at once" not in text
    assert reason(read(losses)).startswith("the loss never fell: it stayed near 2.3")


def test_too_few_points():
    lrs = np.geomspace(1e-3, 1, 7)
    curve = analyze(lrs, np.array([2.3, 2.3, 2.2, 1.8, 1.6, 1.7, 2.5]), images=1)
    assert reason(curve).startswith("7 points are too few")


def test_curves_that_are_none():
    for lrs, losses in [
        ([1.0, 2.0], [1.0]),
        ([2.0, 1.0], [1.0, 1.0]),
        ([0.0, 1.0], [1.0, 1.0]),
    ]:
        with pytest.raises(UsageError):
            analyze(np.array(lrs), np.array(losses), images=1)


def test_headroom_lifts_the_peak_and_nothing_else():
    plain = read(clean())
    lifted = read(clean(), headroom=2.0)
    assert lifted.peak == 2 * plain.peak
    assert lifted.constant == plain.constant
    assert lifted.verdict == plain.verdict


def test_recommend_needs_a_fall():
    assert recommend(LRS, np.linspace(2, 3, 60)) is None
    assert recommend(LRS[:2], np.array([2.0, 1.0])) is None


# --- repeats --------------------------------------------------------------------------------


def test_repeats_give_a_median_and_an_interval():
    curves = [read(noisy(0.1, seed)) for seed in range(3)]
    merged = merge_curves(curves)
    peaks = sorted(curve.peak for curve in curves)
    assert merged.peak == pytest.approx(peaks[1])
    assert merged.constant == pytest.approx(peaks[1] / 3)
    assert merged.interval == (peaks[0], peaks[2])
    assert merged.images == 3 * 640
    np.testing.assert_array_equal(merged.losses, np.median([c.losses for c in curves], axis=0))
    assert merged.verdict.ok


def test_repeats_of_which_one_stopped_early():
    stopped = read(clean()[:46], stopped="the loss rose to 9 after step 46")
    merged = merge_curves([read(clean()), stopped, read(clean())])
    assert len(merged.losses) == 60
    assert merged.verdict.ok, merged.verdict
    assert merged.stopped == "1 of 3 repeats stopped early; the loss rose to 9 after step 46"
    most = merge_curves([read(clean()), stopped, stopped])
    assert np.isfinite(most.losses).sum() == 46


def test_repeats_that_do_not_fit_together():
    flat = read(np.full(60, CHANCE))
    merged = merge_curves([read(clean()), flat, read(clean())])
    assert "1 of 3 repeats show no rate: the loss never fell" in merged.verdict.reasons[-1]
    shifted = analyze(LRS, np.append(np.full(14, 2.3), clean()[:46]), images=1)
    assert "the repeats disagree" in merge_curves([read(clean()), shifted]).verdict.reasons[-1]
    with pytest.raises(UsageError, match="at least one"):
        merge_curves([])
    with pytest.raises(UsageError, match="different learning rates"):
        merge_curves([read(clean()), analyze(2 * LRS, clean(), images=1)])


# --- the figure -----------------------------------------------------------------------------


def test_the_figure_names_every_rule_and_the_verdict(tmp_path):
    merged = merge_curves([read(noisy(0.1, seed)) for seed in range(3)])
    figure = lr_curve(merged)
    words = " ".join(text.get_text() for text in figure.axes[0].get_legend().get_texts())
    for rule in ("steepest", "valley", "minimum", "minimum / 10", "slide", "one-cycle peak"):
        assert f"{rule}: " in words
    markers = [line.get_marker() for line in figure.axes[0].lines if line.get_marker() != "None"]
    assert len(set(markers[1:])) == len(markers[1:]) == 5  # the first are the raw points
    save(figure, tmp_path / "lr_find.png")

    bad = lr_curve(read(np.full(60, CHANCE)))
    assert bad.get_suptitle().startswith("Do not trust this curve: the loss never fell")
    with pytest.raises(UsageError, match="nothing to draw"):
        lr_curve(read(np.array([]), stopped="the loss is nan before the first step"))
