"""Penultimate features and nearest neighbors, against plain torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resight.datasets import Dataset, Split, Statistics
from resight.datasets.augment import normalize
from resight.datasets.originals import images_as_pictures
from resight.errors import UsageError
from resight.interpret.neighbors import (
    candidate_rows,
    nearest_neighbors,
    neighbor_images,
    run_features,
)
from resight.training.features import features

STATS = Statistics((0.5,) * 3, (0.25,) * 3)


class Small(nn.Module):
    """Two linear layers; the one that is defined last runs first."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(5, 3)
        self.squeeze = nn.Linear(3, 5)
        self.drop = nn.Dropout(0.5)

    def pooled(self, images: Tensor) -> Tensor:
        return torch.tanh(self.squeeze(images.mean(dim=(2, 3))))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.drop(self.pooled(images)))
        return logits


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_features_are_the_input_of_the_last_linear_layer(tiny: Dataset) -> None:
    model = Small().train()
    values = features(model, tiny.test, STATS)
    expected = model.pooled(normalize(tiny.test.images, STATS)).detach()
    torch.testing.assert_close(values, expected)
    assert not values.requires_grad
    assert model.training
    assert hooks(model) == 0


def test_more_images_than_a_batch(tiny: Dataset) -> None:
    many = tiny.train.select(torch.arange(3000) % len(tiny.train))  # 16 px: batches of 2000
    values = features(Small(), many, STATS)
    assert values.shape == (3000, 5)
    torch.testing.assert_close(values[: len(tiny.train)], values[91:182])


def test_hooks_are_gone_after_an_error(tiny: Dataset) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UsageError, match="Sequential has no linear layer"):
        features(model, tiny.test, STATS)
    assert hooks(model) == 0
    model = Small()
    gray = Split(tiny.test.images[:, :1], tiny.test.labels, tiny.test.ids)
    with pytest.raises(RuntimeError):
        features(model, gray, Statistics((0.5,), (0.25,)))
    assert hooks(model) == 0


def test_nearest_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, candidates = (torch.randn(n, 4, generator=generator) for n in (5, 30))
    rows, cosines = nearest_neighbors(queries, candidates, 3)
    for query, nearest, values in zip(queries, rows, cosines, strict=True):
        all_cosines = torch.stack([torch.cosine_similarity(query, k, dim=0) for k in candidates])
        expected = sorted(range(30), key=lambda i: -all_cosines[i])[:3]
        assert nearest.tolist() == expected
        torch.testing.assert_close(values, all_cosines[expected])


@pytest.mark.parametrize("k", [1, 3, 20])
def test_of_equally_near_ones_the_first_count(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    candidates = torch.randn(60, 4, generator=generator).repeat(2, 1)[
        torch.randperm(120, generator=generator)
    ]
    candidates[50:60] = candidates[0]
    candidates[90:] = 0
    queries = torch.cat([candidates[:40], torch.zeros(1, 4), -candidates[:40]])
    rows, cosines = nearest_neighbors(queries, candidates, k)
    unit = torch.nn.functional.normalize
    expected = (unit(queries, dim=1) @ unit(candidates, dim=1).T).sort(
        dim=1, descending=True, stable=True
    )
    assert torch.equal(rows, expected.indices[:, :k])
    assert torch.equal(cosines, expected.values[:, :k])


def test_nearest_of_few_and_of_nothing() -> None:
    rows, cosines = nearest_neighbors(torch.eye(2), torch.tensor([[3.0, 0.0], [0.0, 0.0]]), 5)
    assert rows.shape == cosines.shape == (2, 2)
    assert cosines.tolist() == [[1, 0], [0, 0]]


class Keyed(Small):
    """Its last layer is given the features by name."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classify(input=self.pooled(images))
        return logits


def test_features_that_are_given_by_name(tiny: Dataset) -> None:
    model = Keyed()
    expected = model.pooled(normalize(tiny.test.images, STATS)).detach()
    torch.testing.assert_close(features(model, tiny.test, STATS), expected)


def test_only_the_named_classes_are_compared(tiny: Dataset) -> None:
    rows = candidate_rows(tiny.train, {0, 2})
    assert rows.tolist() == [i for i, k in enumerate(tiny.train.labels.tolist()) if k != 1]
    assert candidate_rows(tiny.train, {7}).tolist() == []


def test_few_of_large_images_are_compared() -> None:
    """Shape without memory: 40,000 images of 64 px have the pixels of 160,000 of 32 px."""
    for side, most in ((32, 10_000), (64, 2_500), (16, 10_000), (8192, 1)):
        images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(40_000, 3, side, side)
        many = Split(images, torch.zeros(40_000, dtype=torch.int64), ("",) * 40_000)
        rows = candidate_rows(many, {0})
        assert len(rows) == most
        assert rows[0] == 0
        assert most == 1 or rows[-1] == 39_999


def test_the_most_similar_of_either_class(tiny: Dataset) -> None:
    model, queries = Small(), np.array([3, 0, 2, 1])
    pairs = [(0, 1), (1, 0), (2, 1), (0, 2)]
    index = run_features(model, tiny.test, tiny.train, STATS)
    rows, cosines = index.nearest(queries, pairs, k=2)
    images = neighbor_images(tiny.train, rows, cosines)
    tests, candidates = (features(model, split, STATS) for split in (tiny.test, tiny.train))
    for i, (query, pair) in enumerate(zip(queries, pairs, strict=True)):
        for side, label in enumerate(pair):
            own = (tiny.train.labels == label).nonzero().flatten()
            nearest, values = nearest_neighbors(tests[query][None], candidates[own], 2)
            assert rows[i, side].tolist() == own[nearest[0]].tolist()
            assert cosines[i, side] == pytest.approx(values[0].tolist(), abs=1e-6)
            shown = images[i][side]
            assert shown.ids == tuple(tiny.train.ids[row] for row in rows[i, side])
            expected = images_as_pictures(tiny.train)[rows[i, side]]
            np.testing.assert_array_equal(shown.pictures, expected)
    assert index.note.startswith("most similar among 91 training images, by cosine")


def test_a_class_with_fewer_images_than_neighbors(tiny: Dataset) -> None:
    labels = tiny.train.labels.clone()
    labels[labels == 2] = 0
    labels[7] = 2
    index = run_features(Small(), tiny.test, replace(tiny.train, labels=labels), STATS)
    rows, cosines = index.nearest(np.array([1]), [(2, 0)], k=3)
    assert rows[0, 0].tolist() == [7, -1, -1]
    assert cosines[0, 0, 1:].tolist() == [0, 0]
    ((few, more),) = neighbor_images(tiny.train, rows, cosines)
    assert few.ids == (tiny.train.ids[7],)
    assert few.cosines == (cosines[0, 0, 0],)
    assert len(more.pictures) == 3
    assert neighbor_images(tiny.train, rows[:0], cosines[:0]) == []
