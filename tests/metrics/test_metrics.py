"""Evaluation numbers against scikit-learn, torchmetrics and cases worked by hand."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from sklearn import metrics as sklearn_metrics
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

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


def imbalanced(seed=0, skill=2.0) -> Predictions:
    """Five classes of 300, 100, 50, 20 and 10 images, in which a few are right in each."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(5), [300, 100, 50, 20, 10])
    logits = rng.normal(size=(480, 5)) + skill * np.eye(5)[labels]
    return by_hand(logits, labels, classes=tuple(f"class {i}" for i in range(5)))


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


@pytest.mark.parametrize("seed", range(3))
def test_precision_and_f1_agree_with_scikit_learn(seed):
    p = imbalanced(seed)
    expected = sklearn_metrics.precision_recall_fscore_support(p.labels, p.preds)
    results = (metrics.per_class_precision, metrics.per_class_accuracy, metrics.per_class_f1)
    for result, values in zip(results, expected, strict=False):
        assert list(result(p)) == list(p.classes)
        assert [interval.value for interval in result(p).values()] == pytest.approx(values)
    assert [x.n for x in metrics.per_class_precision(p).values()] == np.bincount(p.preds).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_means_over_classes_agree_with_scikit_learn(seed):
    p = imbalanced(seed)
    result = metrics.test_result(p)
    value = sklearn_metrics.balanced_accuracy_score(p.labels, p.preds)
    assert result.balanced_accuracy == metrics.balanced_accuracy(p)
    assert result.balanced_accuracy.value == pytest.approx(value, rel=1e-12)
    assert result.balanced_accuracy.n == len(p)
    for name, function in [("precision", "precision_score"), ("f1", "f1_score")]:
        value = getattr(sklearn_metrics, function)(p.labels, p.preds, average="macro")
        assert getattr(result, f"macro_{name}") == pytest.approx(value, rel=1e-12)


def test_numbers_of_classes_without_images_or_predictions():
    """No owl was there or predicted; no rat was predicted; one cat is right and one a dog."""
    p = by_hand([[9, 0, 0, 0], [0, 9, 0, 0], [0, 9, 0, 0]], [0, 0, 3], ("cat", "dog", "owl", "rat"))
    result = metrics.test_result(p)
    assert {name: x and x.value for name, x in result.per_class.items()} == {
        "cat": 0.5, "dog": None, "owl": None, "rat": 0.0,
    }  # fmt: skip
    assert {name: x and x.value for name, x in result.precision.items()} == {
        "cat": 1.0, "dog": 0.0, "owl": None, "rat": None,
    }  # fmt: skip
    assert {name: x and x.value for name, x in result.f1.items()} == {
        "cat": pytest.approx(2 / 3), "dog": 0.0, "owl": None, "rat": 0.0,
    }  # fmt: skip
    # Over cat and rat, which have images; scikit-learn too counts a precision of nothing as 0.
    assert result.balanced_accuracy.value == 0.25
    assert result.macro_precision == 0.5
    assert result.macro_f1 == pytest.approx(1 / 3)


def test_the_difference_of_balanced_accuracies_is_that_of_both():
    before, after = imbalanced(0), imbalanced(0, skill=3.0)
    assert (before.labels == after.labels).all()
    difference = metrics.balanced_difference(before, after)
    one, two = metrics.balanced_accuracy(before), metrics.balanced_accuracy(after)
    assert difference.value == pytest.approx(two.value - one.value)
    back = metrics.balanced_difference(after, before)
    assert (back.low, back.high) == pytest.approx((-difference.high, -difference.low))
    assert metrics.balanced_difference(before, before).value == 0


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_accuracy_agrees_with_torchmetrics(k):
    p = predictions(k=30, n=500)
    oracle = MulticlassAccuracy(num_classes=30, top_k=k, average="micro")
    expected = oracle(torch.tensor(p.logits), torch.tensor(p.labels))
    assert metrics.top_k_accuracy(p, k).value == pytest.approx(float(expected), abs=1e-6)
    assert metrics.top_k_accuracy(p, 30).value == 1


def test_of_equal_logits_the_first_are_the_likeliest():
    p = by_hand(np.zeros((30, 30)), np.arange(30), tuple(map(str, range(30))))
    assert metrics.top_k_accuracy(p, 1).value == metrics.accuracy(p).value == 1 / 30
    assert metrics.top_k_accuracy(p, 5).value == 5 / 30


def test_only_many_classes_have_a_top_5_accuracy():
    assert metrics.test_result(predictions(k=19)).top5 is None
    result = metrics.test_result(predictions(k=20))
    assert f"top-5 accuracy {result.top5.value:.2%}" in str(result)


@pytest.mark.parametrize(("small", "shown"), [(20, False), (19, True)])
def test_balanced_accuracy_is_printed_where_classes_differ_in_size(small, shown):
    labels = np.repeat([0, 1], [30, small])  # and no owls
    result = metrics.test_result(by_hand(np.eye(3)[labels * 0], labels))
    assert result.imbalanced == shown
    assert ("balanced accuracy 50.00% (" in str(result)) == shown


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
        "balanced_accuracy",
        "precision",
        "f1",
        "macro_precision",
        "macro_f1",
        "top5",
    ]
    for later in list(content)[6:]:  # a run of an earlier version does not have them
        del content[later]
    old = TypeAdapter(metrics.TestResult).validate_python(content)
    assert not old.imbalanced
    assert str(old) == "40.00% (95 % interval 11.76% to 76.93%, n = 5), loss 2.187"
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
    metrics.per_class_precision,
    metrics.per_class_f1,
    metrics.balanced_accuracy,
    lambda p: metrics.top_k_accuracy(p, 5),
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
