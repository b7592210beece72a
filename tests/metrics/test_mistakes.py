"""Ranking, grouping and label issues, on cases worked by hand and on planted label errors."""

from pathlib import Path

import numpy as np
import pytest
import torch

import resight
from resight.errors import UsageError
from resight.metrics.mistakes import (
    LabelIssue,
    Mistake,
    csv_rows,
    group_by_pair,
    label_issues,
    mistakes,
    num_wrong,
    sheet_rows,
    wrong_label_probs,
)
from resight.records import Predictions

CLASSES = ("ant", "bee", "cow")


def predictions_of(probs: list[list[float]], labels: list[int]) -> Predictions:
    """Predictions with these probabilities."""
    ids = tuple(f"image {i}" for i in range(len(labels)))
    return Predictions(ids, np.log(probs).astype(np.float32), np.array(labels), CLASSES)


SMALL = predictions_of(
    [
        [0.70, 0.20, 0.10],  # 0 right
        [0.40, 0.35, 0.25],  # 1 bee taken for ant, by a little
        [0.08, 0.90, 0.02],  # 2 ant taken for bee, surely
        [0.48, 0.05, 0.47],  # 3 bee taken for ant, the largest loss
        [0.20, 0.10, 0.70],  # 4 right
        [0.01, 0.60, 0.39],  # 5 cow taken for bee
    ],
    [0, 1, 0, 1, 2, 2],
)


def test_ranked_by_hand() -> None:
    assert [m.row for m in mistakes(SMALL)] == [3, 2, 1, 5]  # p(true) 0.05 0.08 0.35 0.39
    assert [m.row for m in mistakes(SMALL, rank="confidence")] == [2, 5, 3, 1]
    assert [m.row for m in mistakes(SMALL, rank="margin")] == [2, 3, 5, 1]  # 0.82 0.43 0.21 0.05
    worst = mistakes(SMALL)[0]
    assert (worst.id, worst.true, worst.pred) == ("image 3", "bee", "ant")
    assert worst.confidence == pytest.approx(0.48)
    assert worst.loss == pytest.approx(-np.log(0.05))
    assert worst.margin == pytest.approx(0.43)


def test_grouped_by_pair() -> None:
    pairs = group_by_pair(mistakes(SMALL))
    assert list(pairs) == [("bee", "ant"), ("ant", "bee"), ("cow", "bee")]
    assert [m.row for m in pairs["bee", "ant"]] == [3, 1]


def test_rows_of_the_sheets() -> None:
    wrong, right = sheet_rows(SMALL, 3)
    assert wrong.tolist() == [3, 1, 2]  # the worst three, the pair that comes twice first
    assert right.tolist() == [0, 4]
    assert [rows.tolist() for rows in sheet_rows(SMALL, 1, rank="margin")] == [[2], [0]]


def test_nothing_wrong() -> None:
    perfect = predictions_of([[0.8, 0.1, 0.1]], [0])
    assert mistakes(perfect) == label_issues(perfect) == []
    assert [rows.tolist() for rows in sheet_rows(perfect, 20)] == [[], [0]]
    assert group_by_pair([]) == {}


def test_only_mistakes_are_mistakes() -> None:
    rng = np.random.default_rng(0)
    many = predictions_of(rng.dirichlet([1, 1, 1], 200).tolist(), rng.integers(0, 3, 200).tolist())
    for rank in ("loss", "confidence", "margin"):
        ranked = mistakes(many, rank=rank)
        assert sorted(m.row for m in ranked) == np.flatnonzero(~many.correct).tolist()
        values = [getattr(m, rank) for m in ranked]
        assert values == sorted(values, reverse=True)
        assert min(m.margin for m in ranked) >= 0
    assert sum(map(len, group_by_pair(ranked).values())) == len(ranked)


def test_without_truth_there_are_no_mistakes() -> None:
    with pytest.raises(UsageError, match="no true class"):
        mistakes(predictions_of([[0.8, 0.1, 0.1]], [-1]))


def test_label_issues_by_hand() -> None:
    """Thresholds: ant (0.9 + 0.8 + 0.1) / 3 = 0.6, bee (0.8 + 0.5) / 2 = 0.65; cow is not given."""
    predictions = predictions_of(
        [
            [0.90, 0.05, 0.05],  # ant, and predicted so
            [0.80, 0.10, 0.10],  # ant, and predicted so
            [0.10, 0.85, 0.05],  # ant, but as surely a bee as bees are: an issue
            [0.10, 0.80, 0.10],  # bee, and predicted so
            [0.30, 0.50, 0.20],  # bee, unsure
        ],
        [0, 0, 0, 1, 1],
    )
    (issue,) = label_issues(predictions)
    assert (issue.row, issue.given, issue.suggested) == (2, "ant", "bee")
    assert issue.p_given == pytest.approx(0.10)
    assert issue.p_suggested == pytest.approx(0.85)
    assert 0 <= issue.p_wrong <= 1


def test_label_issues_begin_with_the_least_probable_labels() -> None:
    """By the margin p_given - p_other of the paper, the second of the two would be the first."""
    sure = [[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.05, 0.05, 0.9]] * 4
    predictions = predictions_of(
        [*sure, [0.12, 0.87, 0.01], [0.1, 0.81, 0.09]], [*[0, 1, 2] * 4, 0, 0]
    )
    assert [issue.row for issue in label_issues(predictions)] == [13, 12]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_number_of_wrong_labels_is_estimated(share: float, temperature: float) -> None:
    """Labels are drawn from the softmax of the logits, so that only a share of them is wrong."""
    rng = np.random.default_rng(3)
    n, k = 8000, 10
    z = rng.normal(0, 3, (n, k))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    labels = (p.cumsum(axis=1) < rng.uniform(size=(n, 1))).sum(axis=1).clip(0, k - 1)
    wrong = rng.uniform(size=n) < share
    labels[wrong] = (labels[wrong] + rng.integers(1, k, wrong.sum())) % k
    ids = tuple(map(str, range(n)))
    predictions = Predictions(ids, (z * temperature).astype(np.float32), labels, (*"abcdefghij",))
    probs = wrong_label_probs(predictions)
    assert probs.sum() == pytest.approx(wrong.sum(), abs=0.012 * n)
    issues = label_issues(predictions)
    among = sum(wrong[issue.row] for issue in issues)
    assert num_wrong(issues) == pytest.approx(among, rel=0.05, abs=0.008 * n)


def test_the_list_has_the_least_likely_labels_of_all_mistakes() -> None:
    """Also those whose image the network is not sure of, which confident learning leaves out."""
    rng = np.random.default_rng(4)
    z = rng.normal(0, 1.5, (3000, 10)).astype(np.float32)
    labels = z.argmax(axis=1)
    labels[:300] = (labels[:300] + rng.integers(1, 10, 300)) % 10  # planted
    labels[300:900] = z[300:900].argsort(axis=1)[:, -2]  # mistakes of the network, by a little
    ids = tuple(map(str, range(3000)))
    predictions = Predictions(ids, z, labels, (*"abcdefghij",))
    rows = [issue.row for issue in label_issues(predictions)]
    wrong = wrong_label_probs(predictions)
    out = np.setdiff1d(np.flatnonzero(~predictions.correct), rows)
    assert len(rows) >= 100
    assert wrong[rows].min() >= wrong[out].max()
    assert np.mean(np.array(rows[:100]) < 300) >= 0.9


def test_an_unsure_mistake_is_no_label_issue() -> None:
    predictions = predictions_of(
        [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.4, 0.5, 0.1], [0.05, 0.05, 0.9]], [0, 1, 0, 2]
    )
    assert [m.row for m in mistakes(predictions)] == [2]
    assert label_issues(predictions) == []


def test_a_class_without_images_is_never_suggested() -> None:
    predictions = predictions_of([[0.1, 0.1, 0.8], [0.9, 0.05, 0.05], [0.1, 0.8, 0.1]], [0, 0, 1])
    assert label_issues(predictions) == []


def test_tables() -> None:
    rows = csv_rows(Mistake, mistakes(SMALL))
    assert rows[0] == ["id", "true", "pred", "confidence", "loss", "margin"]
    assert rows[1][:3] == ["image 3", "bee", "ant"]
    assert len(rows) == 5
    assert csv_rows(LabelIssue, []) == [
        ["id", "given", "suggested", "p_given", "p_suggested", "p_wrong"]
    ]


@pytest.mark.slow
def test_label_issues_are_the_planted_errors(tmp_path: Path) -> None:
    """5 % of all labels of the digits are changed, in training and test alike."""
    clean = resight.data("digits")
    generator = torch.Generator().manual_seed(4)

    def with_errors(split: resight.Split) -> tuple[resight.Split, set[int]]:
        rows = torch.randperm(len(split), generator=generator)[: round(0.05 * len(split))]
        shift = torch.randint(1, 10, (len(rows),), generator=generator)
        labels = split.labels.clone()
        labels[rows] = (labels[rows] + shift) % 10
        return resight.Split(split.images, labels, split.ids), set(rows.tolist())

    train, _ = with_errors(clean.train)
    test, planted = with_errors(clean.test)
    data = resight.Dataset("digits with errors", clean.classes, train, test)
    recipe = resight.with_overrides(
        resight.load_recipe("digits"),
        ["model.widths=[16,32,32]", "explain={report=false,pictures=false}"],
    )
    run = resight.train(resight.with_epochs(recipe, 4), data=data, out=tmp_path)
    assert run.predictions is not None
    issues = label_issues(run.predictions)
    hits = {label.row for label in issues} & planted
    assert len(planted) == 18
    assert len(hits) >= 7  # about half: the rest are mistakes without confidence
    assert len(hits) >= 0.8 * len(issues)
    suggested = [label for label in issues if label.row in planted]
    true = [clean.classes[clean.test.labels[label.row]] for label in suggested]
    assert sum(a.suggested == b for a, b in zip(suggested, true, strict=True)) >= 0.9 * len(true)
