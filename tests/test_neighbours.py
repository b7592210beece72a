"""Penultimate features are what the last linear layer is given; the nearest are the nearest."""

import pytest
import torch
from torch import Tensor, nn

from resight.augment import normalise
from resight.datasets import Dataset, Split, Statistics
from resight.errors import UsageError
from resight.neighbours import features, nearest

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
    found = features(model, tiny.test, STATS)
    expected = model.pooled(normalise(tiny.test.images, STATS)).detach()
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert model.training
    assert hooks(model) == 0


def test_more_images_than_a_batch(tiny: Dataset) -> None:
    many = tiny.train.select(torch.arange(3000) % len(tiny.train))  # 16 px: batches of 2000
    found = features(Small(), many, STATS)
    assert found.shape == (3000, 5)
    torch.testing.assert_close(found[: len(tiny.train)], found[91:182])


def test_hooks_are_gone_after_a_fault(tiny: Dataset) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UsageError, match="Sequential has no linear layer"):
        features(model, tiny.test, STATS)
    assert hooks(model) == 0
    model = Small()
    grey = Split(tiny.test.images[:, :1], tiny.test.labels, tiny.test.ids)
    with pytest.raises(RuntimeError):
        features(model, grey, Statistics((0.5,), (0.25,)))
    assert hooks(model) == 0


def test_nearest_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, known = (torch.randn(n, 4, generator=generator) for n in (5, 30))
    rows, cosines = nearest(queries, known, 3)
    for query, found, values in zip(queries, rows, cosines, strict=True):
        all_cosines = torch.stack([torch.cosine_similarity(query, k, dim=0) for k in known])
        expected = sorted(range(30), key=lambda i: -all_cosines[i])[:3]
        assert found.tolist() == expected
        torch.testing.assert_close(values, all_cosines[expected])


def test_nearest_of_few_and_of_nothing() -> None:
    rows, cosines = nearest(torch.eye(2), torch.tensor([[3.0, 0.0], [0.0, 0.0]]), 5)
    assert rows.shape == cosines.shape == (2, 2)
    assert cosines.tolist() == [[1, 0], [0, 0]]
