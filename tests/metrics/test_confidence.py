"""The temperature of logits against its loss and simulations; the table of answers by hand."""

import numpy as np
import pytest

from resight.errors import ResightError, UsageError
from resight.metrics.classification import calibration, mean_loss
from resight.metrics.confidence import (
    check_threshold,
    coverage_table,
    fit_temperature,
    with_temperature,
)
from resight.records import Predictions


def drawn(seed: int, *, n: int, temperature: float, k: int = 5) -> Predictions:
    """Predictions whose labels are drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = (3 * rng.normal(size=(n, k))).astype(np.float32)
    noise = rng.gumbel(size=(n, k))  # the class of the largest sum has just these odds
    labels = (logits / temperature + noise).argmax(axis=1)
    ids = tuple(map(str, range(n)))
    return Predictions(ids, logits, labels, tuple(map(str, range(k))))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_it_is_where_the_loss_is_lowest(temperature: float) -> None:
    predictions = drawn(0, n=2000, temperature=temperature)

    fit = fit_temperature(predictions)
    below, at, above = (
        mean_loss(with_temperature(predictions, fit.value * factor)) for factor in (0.99, 1, 1.01)
    )
    assert below > at < above
    assert fit.value == pytest.approx(temperature, rel=0.1)
    assert fit.low is not None
    assert fit.high is not None
    assert fit.low < fit.value < fit.high
    assert not fit.note


def test_the_interval_holds_the_true_temperature_in_95_of_100_cases() -> None:
    fits = [fit_temperature(drawn(seed, n=400, temperature=1.7)) for seed in range(400)]
    assert not any(fit.note for fit in fits)
    share = np.mean([fit.low <= 1.7 <= fit.high for fit in fits if fit.low and fit.high])
    assert 0.92 <= share <= 0.98


def test_confidence_matches_accuracy_afterwards_and_no_class_changes() -> None:
    fit = fit_temperature(drawn(0, n=2000, temperature=2.5))
    other = drawn(1, n=5000, temperature=2.5)
    calibrated = with_temperature(other, fit.value)
    np.testing.assert_array_equal(calibrated.preds, other.preds)
    assert calibration(other).ece > 0.15
    assert calibration(calibrated).ece < 0.03


def test_without_a_fit_it_is_1_and_says_why() -> None:
    fit = fit_temperature(None)
    assert (fit.value, fit.images, str(fit)) == (
        1.0,
        0,
        "1 (there are no validation images to fit it on)",
    )
    few = fit_temperature(drawn(0, n=12, temperature=1.5))
    assert few.value == 1.0
    assert "12 validation images" in few.note
    all_right = drawn(0, n=300, temperature=0.001)
    assert all_right.correct.all()
    assert str(fit_temperature(all_right)) == (
        "1 (all of the 300 validation images are predicted correctly)"
    )
    # Labels that the network finds the least likely: the best temperature has no end.
    wrong = Predictions(
        all_right.ids, all_right.logits, all_right.logits.argmin(axis=1), all_right.classes
    )
    assert "say nothing" in fit_temperature(wrong).note


def test_of_a_wide_interval_it_is_the_value_nearest_1() -> None:
    for n, temperature in ((40, 0.2), (60, 6.0)):
        fit = fit_temperature(drawn(0, n=n, temperature=temperature))
        assert fit.low is not None
        assert fit.high is not None
        assert fit.high > 2 * fit.low
        assert fit.value == (fit.high if temperature < 1 else fit.low)
        assert "nearest 1" in fit.note


def test_logits_that_are_all_equal_have_no_temperature() -> None:
    flat = Predictions(("a", "b"), np.ones((2, 2), np.float32), np.array([0, 1]), ("x", "y"))
    assert fit_temperature(flat).value == 1.0
    broken = Predictions(("a",), np.full((1, 2), np.nan, np.float32), np.array([0]), ("x", "y"))
    with pytest.raises(ResightError, match="a is not finite"):
        fit_temperature(broken)


def test_the_table_by_hand() -> None:
    confidence = np.array([0.95, 0.85, 0.8, 0.4])
    correct = np.array([True, True, False, False])
    rows = coverage_table(confidence, correct, (0.99, 0.8, 0.5, 0.8))
    assert [row.threshold for row in rows] == [0.5, 0.8, 0.99]
    half, most, none = rows
    assert (half.coverage.value, half.coverage.n) == (0.75, 4)
    assert most.accuracy is not None
    assert most.accuracy.value == pytest.approx(2 / 3)
    assert most.accuracy.n == 3
    assert (none.coverage.value, none.accuracy) == (0.0, None)
    assert coverage_table(np.zeros(0), np.zeros(0, bool)) == ()


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, 80.0, float("nan")])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(UsageError, match="above 0 and below 1"):
        check_threshold(threshold)
