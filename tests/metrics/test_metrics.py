"""Evaluation numbers against scikit-learn, torchmetrics and cases worked by hand."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from sklearn import metrics as sklearn_metrics
from torchmetrics.classification import MulticlassCalibrationError

from resight.errors import ResightError, UsageError
from resight.metrics import classification as metrics
from resight.records import Predictions


def predictions(seed=0, n=400, k=5, skill=2.0) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + skill * rng.random((n, 1)) * np.eye(k)[labels]
    return by_hand(logits * 2, labels, classes=tuple(f"class {i}" for i in range(k)))


def by_hand(logits, labels, classes=("cat", "dog", "owl")) -> Predictions:
    ids = tuple(f"{i}.png" for i in range(len(labels)))
    return Predictions(ids, np.asarray(logits, np.float32), np.asarray(labels, np.int64), classes)


# Rows 0 and 1 are right; a cat is taken for a dog once, a dog for a cat twice; no owls.
SMALL = by_hand(
    [[2, 0, 0], [0, 3, 0], [0, 1, 0], [4, 0, 0], [5, 0, 0]],
    [0, 1, 0, 1, 1],
)


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_and_confusion_agree_with_scikit_learn(seed):
    p = predictions(seed)
    value = sklearn_metrics.accuracy_score(p.labels, p.preds)
    assert metrics.accuracy(p).value == pytest.approx(value, abs=1e-15)
    assert metrics.accuracy(p).n == 400
    expected = sklearn_metrics.confusion_matrix(p.labels, p.preds, labels=range(5))
    np.testing.assert_array_equal(metrics.confusion(p), expected)


def test_confusion_rows_are_true_classes():
    np.testing.assert_array_equal(metrics.confusion(SMALL), [[1, 1, 0], [2, 1, 0], [0, 0, 0]])


def test_loss_agrees_with_scikit_learn():
    p = predictions()
    expected = sklearn_metrics.log_loss(p.labels, p.probs, labels=range(5))
    assert metrics.mean_loss(p) == pytest.approx(expected, rel=1e-12)


def test_per_class_accuracy_is_recall_over_all_images():
    p = predictions()
    expected = sklearn_metrics.recall_score(p.labels, p.preds, average=None)
    result = metrics.per_class_accuracy(p)
    assert list(result) == list(p.classes)
    assert [interval.value for interval in result.values()] == pytest.approx(expected)
    assert [interval.n for interval in result.values()] == np.bincount(p.labels).tolist()


def test_a_class_without_images_has_no_accuracy():
    assert metrics.per_class_accuracy(SMALL)["owl"] is None


def test_most_confused_pairs_in_order():
    pairs = [metrics.ConfusedPair("dog", "cat", 2), metrics.ConfusedPair("cat", "dog", 1)]
    assert metrics.most_confused(SMALL) == pairs
    assert metrics.most_confused(SMALL, limit=1) == pairs[:1]


def test_pairs_as_frequent_stay_in_the_order_of_the_classes():
    names = tuple(f"class {i}" for i in range(40))
    p = by_hand(np.eye(40)[np.arange(1, 41) % 40], np.arange(40), names)
    assert [pair.true for pair in metrics.most_confused(p)] == list(names)


def test_nothing_is_confused_when_all_is_right():
    p = by_hand(np.eye(3), [0, 1, 2])
    assert metrics.most_confused(p) == []


def test_top_losses_are_sorted_and_equals_keep_their_order():
    assert metrics.top_losses(SMALL).tolist() == [4, 3, 2, 0, 1]
    assert metrics.top_losses(SMALL, limit=2).tolist() == [4, 3]
    same = by_hand(np.zeros((100, 3)), np.arange(100) % 3)
    assert metrics.top_losses(same).tolist() == list(range(100))


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_agrees_with_torchmetrics(bins):
    p = predictions(n=2000)
    oracle = MulticlassCalibrationError(num_classes=5, n_bins=bins, norm="l1")
    expected = oracle(torch.tensor(p.probs), torch.tensor(p.labels))
    assert metrics.calibration(p, bins).ece == pytest.approx(float(expected), abs=1e-6)


def test_reliability_table_by_hand():
    """Two classes with logits (z, 0): confidence 1 / (1 + e^-z) is 0.6, 0.7 and, rounded, 1."""
    z = np.log([0.6 / 0.4, 0.7 / 0.3, 1e9])
    p = by_hand(np.stack([z, np.zeros(3)], axis=1), [0, 1, 0], classes=("no", "yes"))
    table = metrics.calibration(p, bins=4)
    assert table.bins[0] == metrics.ReliabilityBin(0.0, 0.25, None, None, 0)
    middle, last = table.bins[2:]
    assert (middle.low, middle.high, middle.accuracy, middle.count) == (0.5, 0.75, 0.5, 2)
    assert middle.confidence == pytest.approx(0.65, abs=1e-6)
    assert (last.accuracy, last.count) == (1.0, 1)
    assert table.ece == pytest.approx((2 * 0.15 + 0) / 3, abs=1e-6)


def test_the_bins_hold_every_image():
    p = predictions()
    assert sum(row.count for row in metrics.calibration(p).bins) == len(p)


def test_the_result_is_plain_json_and_comes_back_from_it():
    result = metrics.test_result(SMALL)
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert TypeAdapter(metrics.TestResult).validate_python(content) == result  # as a run does
    assert list(content) == [
        "images",
        "accuracy",
        "loss",
        "per_class",
        "most_confused",
        "calibration",
    ]
    assert content["images"] == 5
    assert content["accuracy"]["value"] == 0.4
    assert content["per_class"]["owl"] is None
    assert content["most_confused"][0] == {"true": "dog", "pred": "cat", "count": 2}
    assert len(content["calibration"]["bins"]) == 15


def test_rows_for_csv():
    header, first, *rest = metrics.prediction_rows(SMALL)
    assert header == ["id", "truth", "prediction", "confidence", "loss", "correct"]
    assert first[:3] == ["0.png", "cat", "cat"]
    assert first[3] == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    assert first[4] == pytest.approx(-np.log(first[3]))
    assert [row[5] for row in [first, *rest]] == [True, True, False, False, False]
    assert {type(value) for value in first} == {str, float, bool}
    assert metrics.confusion_rows(SMALL) == [
        ["truth", "cat", "dog", "owl"],
        ["cat", 1, 1, 0],
        ["dog", 2, 1, 0],
        ["owl", 0, 0, 0],
    ]


EVERY_NUMBER = [
    metrics.accuracy,
    metrics.mean_loss,
    metrics.per_class_accuracy,
    metrics.confusion,
    metrics.most_confused,
    metrics.top_losses,
    metrics.calibration,
    metrics.test_result,
    metrics.prediction_rows,
    metrics.confusion_rows,
]


@pytest.mark.parametrize("number", EVERY_NUMBER)
def test_predictions_without_images_are_refused(number):
    with pytest.raises(UsageError, match="no predictions"):
        number(by_hand(np.zeros((0, 3)), []))


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (by_hand(np.zeros((2, 3)), [0, -1]), UsageError, r"1\.png has no true class \(label -1\)"),
        (by_hand(np.zeros((1, 3)), [3]), UsageError, "labels 0 to 2"),
        (by_hand([[0, 0, np.nan]], [0]), ResightError, r"0\.png is not finite"),
        (by_hand([[0, np.inf, 0]], [0]), ResightError, r"0\.png is not finite"),
    ],
)
def test_predictions_that_cannot_be_evaluated_are_refused(bad, error, words):
    with pytest.raises(error, match=words):
        metrics.accuracy(bad)


def test_bins_must_be_positive():
    with pytest.raises(UsageError, match="bins = 0"):
        metrics.calibration(SMALL, bins=0)


def test_metrics_do_not_need_torch():
    code = "import sys, resight.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
