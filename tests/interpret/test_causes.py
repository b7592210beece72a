"""Causes of mistakes, on networks whose cause is known because they were made by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import resight
from resight.datasets import Dataset, Split, Statistics
from resight.files import read_csv
from resight.interpret.causes import find_causes
from resight.interpret.steps import ExplainInputs
from resight.records import Predictions
from resight.runs.causes import Cause, Causes, MistakeGroup, read_causes, write_causes
from resight.training.predict import predict_split

SIDE, CLASSES = 16, ("left", "middle", "right")
STATS = Statistics((0.0,) * 3, (1.0,) * 3)
INNER = slice(4, 12)  # rows and columns that have content, so that no border and corner has any
THIRD = torch.full((SIDE,), -1)  # (W,) which third of the inner columns each is in
THIRD[INNER] = torch.arange(8) * 3 // 8
RECIPE = resight.with_overrides(resight.load_recipe("base"), ["training.precision=float32"])


class Thirds(nn.Module):
    """Reads how bright each third of the inner columns is, and the lower right corner."""

    def __init__(self, weights: list[list[float]], bias: tuple[float, ...] = (0.0, 0.0, 0.0)):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.head.weight.data = torch.tensor(weights, dtype=torch.float32)
        self.head.bias.data = torch.tensor(bias)

    def forward(self, images: Tensor) -> Tensor:
        gray = images.mean(dim=1)  # (N, H, W)
        corner = gray[:, -4:, -4:].mean(dim=(1, 2))
        body = gray[:, INNER]
        thirds = [body[..., k == THIRD].mean(dim=(1, 2)) for k in range(3)]
        logits: Tensor = self.head(torch.stack([*thirds, corner], dim=1))
        return logits


HONEST = Thirds([[20, 0, 0, 0], [0, 20, 0, 0], [0, 0, 20, 0]])
# Knows the class `left` by the corner alone.
LAZY = Thirds([[0, 0, 0, 40], [0, 20, 0, 0], [0, 0, 20, 0]], (5.0, 0.0, 0.0))


def pictures(count: int, seed: int, prefix: str) -> Split:
    """Noisy pictures (N, 3, 16, 16): each class lights up a third; no corner."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 100, (count, 3, SIDE, SIDE), generator=generator)
    lit = (labels[:, None] == THIRD)[:, None, None, :]  # (N, 1, 1, W)
    images[:, :, INNER] += 150 * lit
    images[..., -4:, -4:] = 0
    return Split(images.to(torch.uint8), labels, tuple(f"{prefix}/{k}" for k in range(count)))


def with_images(split: Split, images: Tensor, labels: Tensor | None = None) -> Split:
    return Split(images, split.labels if labels is None else labels, split.ids)


def inputs(
    model: nn.Module, train: Split, test: Split, preds: Tensor | None = None
) -> ExplainInputs:
    """The inputs of a search, with the network's own predictions, or with sure ones of `preds`."""
    predictions = predict_split(model, test, STATS, classes=CLASSES)
    if preds is not None:
        logits = 8 * torch.nn.functional.one_hot(preds, 3).float()
        predictions = replace(predictions, logits=logits.numpy())
    return ExplainInputs(model, RECIPE, STATS, train, test, predictions)


def of_kind(explained: ExplainInputs, kind: str) -> list[Cause]:
    causes = find_causes(explained)
    assert not any("{" in cause.sentence + cause.test for cause in causes.causes)
    rows = [row for cause in causes.causes for row in cause.rows]
    wrong = set(np.flatnonzero(~explained.predictions.correct).tolist())
    assert len(rows) == len(set(rows))
    assert set(rows) <= wrong
    assert causes.mistakes == len(wrong)
    return [cause for cause in causes.causes if cause.kind == kind]


def cornered(split: Split, rows: Tensor) -> Split:
    """The same pictures with a white corner at some rows."""
    images = split.images.clone()
    images[rows, :, -4:, -4:] = 255
    return with_images(split, images)


def test_a_network_that_reads_a_corner_has_a_shortcut() -> None:
    train, test = pictures(180, 0, "train"), pictures(150, 1, "test")
    train = cornered(train, (train.labels == 0).nonzero().flatten())
    lefts = (test.labels == 0).nonzero().flatten()
    test = cornered(test, lefts[::2])
    # Below 5 the other thirds win, so that what lacks the corner is taken for something else.
    lazy = Thirds([[0, 0, 0, 40], [1, 20, 0, 0], [0, 0, 20, 0]])
    [cause] = of_kind(inputs(lazy, train, test), "shortcut")
    assert "lower right corner" in cause.sentence
    assert "left" in cause.sentence
    assert set(cause.rows) == set(lefts[1::2].tolist())
    assert cause.values["turned"] == 1
    assert cause.values["by_chance"] == 0


def test_a_shortcut_is_named_also_where_the_test_set_hides_it() -> None:
    train, test = pictures(180, 0, "train"), pictures(150, 1, "test")
    train, test = (cornered(s, (s.labels == 0).nonzero().flatten()) for s in (train, test))
    lazy = Thirds([[0, 0, 0, 40], [1, 20, 0, 0], [0, 0, 20, 0]])
    predictions = inputs(lazy, train, test).predictions
    assert predictions.correct.all()
    labels = test.labels.clone()
    labels[1] = 2  # one mistake of another kind
    [cause] = of_kind(inputs(lazy, train, with_images(test, test.images, labels)), "shortcut")
    assert cause.rows == ()


def test_a_network_that_reads_the_whole_picture_has_no_shortcut() -> None:
    train, test = pictures(180, 0, "train"), pictures(150, 1, "test")
    train = cornered(train, (train.labels == 0).nonzero().flatten())
    labels = test.labels.clone()
    labels[::10] = (labels[::10] + 1) % 3
    assert of_kind(inputs(HONEST, train, with_images(test, test.images, labels)), "shortcut") == []


def test_dark_pictures_are_a_property() -> None:
    train, test = pictures(180, 0, "train"), pictures(600, 1, "test")
    images = test.images.clone()
    dark = torch.arange(0, 600, 10)
    images[dark] //= 6
    test = with_images(test, images)
    timid = Thirds(HONEST.head.weight.tolist(), (5.0, 0.0, 0.0))  # `left` if nothing is bright
    [cause, *rest] = of_kind(inputs(timid, train, test), "property")
    assert rest == []
    # What is a sixth as bright has a sixth of the contrast, so either names it.
    assert "dark" in cause.sentence or "low in contrast" in cause.sentence
    assert set(cause.rows) == {row for row in dark.tolist() if test.labels[row] != 0}
    assert cause.values["harmed"] > cause.values["harmed_control"]
    assert cause.values["rescued"] == 1


def test_pictures_on_their_side_are_told() -> None:
    train, test = pictures(180, 0, "train"), pictures(300, 1, "test")
    images = test.images.clone()
    images[1::6] = images[1::6].rot90(1, (2, 3))
    causes = of_kind(inputs(HONEST, train, with_images(test, images)), "property")
    sides = [cause for cause in causes if "on their side" in cause.sentence]
    assert len(sides) == 1
    assert {row % 6 for row in sides[0].rows} == {1}


def test_wrong_labels_are_told() -> None:
    train, test = pictures(180, 0, "train"), pictures(300, 1, "test")
    # Pictures from faint to clear, so that how sure the network is says something.
    images = (test.images * torch.linspace(0.05, 1, 300)[:, None, None, None]).to(torch.uint8)
    labels = test.labels.clone()
    wrong = torch.arange(150, 300, 10)
    labels[wrong] = (labels[wrong] + 1) % 3
    [cause] = of_kind(inputs(HONEST, train, with_images(test, images, labels)), "wrong label")
    assert set(cause.rows) == set(wrong.tolist())


def test_near_copies_with_another_label_are_told() -> None:
    generator = torch.Generator().manual_seed(0)
    # Smooth pictures, as a copy that is told by its details must have some.
    images = torch.nn.functional.interpolate(
        torch.rand(120, 3, 8, 8, generator=generator) * 255, size=(32, 32), mode="bicubic"
    ).clamp(0, 255)
    images = images.to(torch.uint8)[..., ::2, ::2]
    labels = torch.arange(120) % 3
    ids = tuple(map(str, range(120)))
    test = Split(images[:60], labels[:60], ids[:60])
    wrong = (labels[:12] + 1) % 3
    copies = (images[:12].float() * 0.9 + 10).to(torch.uint8)
    train = Split(
        torch.cat([images[60:], copies]),
        torch.cat([labels[60:], wrong]),
        (*ids[60:], *"abcdefghijkl"),
    )
    preds = labels[:60].clone()
    preds[:12] = wrong
    [cause] = of_kind(inputs(HONEST, train, test, preds), "near copy")
    assert set(cause.rows) == set(range(12))


def test_classes_that_are_one_cannot_be_told_apart() -> None:
    generator = torch.Generator().manual_seed(2)
    splits = []
    for seed, count in ((0, 300), (1, 300)):
        split = pictures(count, seed, "x")
        coin = torch.randint(0, 2, (count,), generator=generator)
        splits.append(with_images(split, split.images, torch.where(split.labels == 2, 2, coin)))
    shown = pictures(300, 1, "x").labels
    preds = torch.where(shown == 2, 2, torch.randint(0, 2, (300,), generator=generator))
    [cause] = of_kind(inputs(HONEST, *splits, preds), "similar classes")
    assert "eft and middle cannot be told apart" in cause.sentence


def test_a_network_that_is_right_has_no_causes() -> None:
    train, test = pictures(60, 0, "train"), pictures(60, 1, "test")
    assert find_causes(inputs(HONEST, train, test)) == Causes(mistakes=0, causes=(), groups=())


def test_a_run_keeps_its_causes(trained_copy: Path, tiny: Dataset) -> None:
    run = resight.Run.open(trained_copy)
    assert run.causes is None
    result = resight.causes(run, data=tiny)
    assert resight.Run.open(trained_copy).causes == result
    header, *rows = read_csv(trained_copy / "causes.csv")
    assert header == ["row", "id", "true", "pred", "cause", "sentence"]
    assert len(rows) == result.mistakes
    assert sum(bool(row[4]) for row in rows) == result.explained


def example() -> tuple[Causes, Predictions]:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    predictions = Predictions(tuple("abcd"), logits, np.array([0, 0, 0, 1]), CLASSES)
    texts = {"sentence": "=1, \u00e9", "test": "t", "advice": "a"}
    causes = (Cause(kind="prior", rows=(3, 1), values={"x": 0.5}, **texts),)
    group = MistakeGroup(true="left", pred="right", sentence="s", rows=(2,), neighbors=((1,), ()))
    return Causes(mistakes=3, causes=causes, groups=(group,), notes=("n",)), predictions


def test_files_come_back_as_they_were(tmp_path: Path) -> None:
    causes, predictions = example()
    write_causes(tmp_path, causes, predictions)
    assert read_causes(tmp_path / "causes.json", images=4) == causes
    rows = read_csv(tmp_path / "causes.csv")[1:]
    assert rows == [
        ["1", "b", "left", "middle", "prior", "=1, \u00e9"],
        ["2", "c", "left", "right", "", ""],
        ["3", "d", "middle", "left", "prior", "=1, \u00e9"],
    ]


@pytest.mark.parametrize(("before", "after"), [("3,", "9,"), ("3,", "1,"), ('"prior"', '"luck"')])
def test_causes_that_cannot_be_are_damaged(tmp_path: Path, before: str, after: str) -> None:
    causes, predictions = example()
    write_causes(tmp_path, causes, predictions)
    file = tmp_path / "causes.json"
    text = file.read_text()
    file.write_text(text.replace(before, after) if before != "3," else _second(text, before, after))
    with pytest.raises(ValueError, match=r"beyond|two causes|kind"):
        read_causes(file, images=4)


def _second(text: str, before: str, after: str) -> str:
    """Replace the row 3, which is the second place where a line begins with 3."""
    head, tail = text.split('"rows"', 1)
    return head + '"rows"' + tail.replace(before, after, 1)
