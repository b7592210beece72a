"""One error at a time in optimizer, scheduler or data: the check of that name has the only issue.

Rows without an issue are usual. Objects are built by functions, within the test.
"""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from own_loop import (
    CLASSES,
    Net,
    diagnose_loop,
    flip,
    one_batch,
    one_cycle,
    pictures,
    row,
    severities_and_checks,
    sgd,
    shuffled,
)
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR
from torch.utils import data


def without_head(model: Net) -> SGD:
    return SGD([*model.conv.parameters(), *model.norm.parameters()], 0.1)


def stepped(model: Net) -> SGD:
    optimizer = sgd(model, lr=1e-3)
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    optimizer.step()
    return optimizer


def stepped_scheduler(optimizer: SGD, steps: int) -> Any:
    scheduler = one_cycle(optimizer)
    for _ in range(steps):
        optimizer.step()  # without a gradient: it has no state
        scheduler.step()
    return scheduler


def coupled_decay(model: Net) -> Adam:
    weights = [p for p in model.parameters() if p.ndim > 1]
    flat = [p for p in model.parameters() if p.ndim <= 1]
    return Adam([{"params": weights, "weight_decay": 1e-2}, {"params": flat}], lr=1e-3)


def frozen_but_for_the_head() -> Net:
    model = Net().requires_grad_(False)
    model.head.requires_grad_(True)
    return model


OPTIMIZERS = [
    row("another model", "error optimizer-parameters", optimizer=lambda model: sgd(Net())),
    row("no head", "warning optimizer-parameters", optimizer=without_head),
    row("replaced", "error scheduler-optimizer", scheduler=lambda optimizer: one_cycle(sgd(Net()))),
    row("epochs", "error schedule-length", scheduler=lambda opt: one_cycle(opt, steps=5)),
    row("cosine", "error schedule-length", scheduler=lambda opt: CosineAnnealingLR(opt, 1000)),
    row("a step", "warning untrained", optimizer=stepped),
    row("step 1", "warning untrained", scheduler=lambda opt: stepped_scheduler(opt, 1), steps=99),
    row("resumed", "warning untrained", scheduler=lambda o: stepped_scheduler(o, 40), steps=60),
    row("decay of norms", "note weight-decay", optimizer=lambda m: sgd(m, weight_decay=5e-4)),
    row(
        "coupled decay",
        "note weight-decay",
        optimizer=coupled_decay,
        scheduler=lambda optimizer: OneCycleLR(optimizer, max_lr=1e-3, total_steps=100),
    ),
    row("cosine to the last epoch", scheduler=lambda opt: CosineAnnealingLR(opt, 99)),
    row(
        "frozen",
        "warning frozen-weights",
        model=frozen_but_for_the_head,
        optimizer=lambda model: sgd(model.head),
    ),
    row(
        "a state before any step",
        optimizer=lambda model: Adagrad(model.parameters(), lr=0.01),
        scheduler=lambda optimizer: LambdaLR(optimizer, lambda step: 0.9**step),
    ),
]


def by_class(n: int) -> data.TensorDataset:
    images, labels = pictures(n).tensors
    rows = labels.argsort(stable=True)
    return data.TensorDataset(images[rows], labels[rows])


def painted(where: Any, value: Any) -> Tensor:
    images = torch.randn(64, 3, 8, 8)
    images[where] = value
    return images


def wrong_deviations() -> Tensor:
    """Images divided by the widely copied deviations of CIFAR-10, which are too small."""
    scale = torch.tensor([0.2470 / 0.2023, 0.2435 / 0.1994, 0.2616 / 0.2010])
    return torch.randn(64, 3, 8, 8) * scale[:, None, None]


def thin_lines() -> Tensor:
    """Images normalized well, with a few pixels far out."""
    images, rows = torch.zeros(256, 3, 8, 8), torch.arange(256)
    images[rows, :, rows % 8, rows * 3 // 8 % 8] = 1
    images += 0.01 * torch.randn(256, 3, 8, 8)
    images[::4] = 0.01 * torch.randn(64, 3, 8, 8)
    return (images - images.mean()) / images.std()


def mixup() -> list[tuple[Tensor, Tensor]]:
    """Images laid over each other, which have less contrast; labels are shares."""
    images, labels = pictures().tensors
    soft = F.one_hot(labels, CLASSES).float()
    return one_batch(*(0.6 * part + 0.4 * part.flip(0) for part in (images, soft)))


def ignored_labels() -> list[tuple[Tensor, Tensor]]:
    images, labels = pictures().tensors
    return one_batch(images, torch.where(torch.arange(256) % 9 == 0, -100, labels))


def drawn_with_replacement() -> data.DataLoader[Any]:
    rare = torch.where(torch.arange(256) < 5, 50.0, 1.0)
    sampler = data.WeightedRandomSampler(rare.tolist(), 256)
    return data.DataLoader(pictures(), 64, sampler=sampler)


def custom_batch_sampler() -> data.DataLoader[Any]:
    class Custom(data.BatchSampler):
        pass

    sampler = Custom(data.RandomSampler(pictures()), 64, False)
    return data.DataLoader(pictures(), batch_sampler=sampler)


BATCHES = [
    row("sorted", "error data-order", batches=lambda: list(data.DataLoader(by_class(256), 20))),
    row("one class", "error data-order", batches=lambda: data.DataLoader(by_class(1024), 24)),
    row("same order", "warning data-order", batches=lambda: data.DataLoader(pictures(), 64)),
    row("stored", "warning pixel-values", images=lambda: (255 * torch.rand(64, 3, 8, 8)).round()),
    row("deviations", "warning pixel-values", images=wrong_deviations),
    row("not normalized", "warning pixel-values", images=lambda: torch.rand(64, 3, 8, 8)),
    row("cutout", "warning pixel-values", images=lambda: painted(np.s_[:, :, 2:4, 2:4], 127.5)),
    row("empty channel", "warning pixel-values", images=lambda: painted(np.s_[:, 1], 0.0)),
    row(
        "copies",
        "error repeated-images",
        images=lambda: torch.randn(4, 3, 8, 8).repeat(16, 1, 1, 1),
    ),
    row("blank", "warning repeated-images", images=lambda: painted(5, torch.rand(3, 1, 1))),
    row("drawn with replacement", batches=drawn_with_replacement),
    row("custom batch sampler", batches=custom_batch_sampler),
    row("thin lines", images=thin_lines),
    row("mixup", batches=mixup),
    row("ignored labels", batches=ignored_labels),
]


class Augmented(data.Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 70

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = pictures(70, seed=1)[index]
        return flip(image[None])[0], label


def with_drop_last(n: int) -> data.DataLoader[Any]:
    return data.DataLoader(pictures(n, seed=1), 32, drop_last=True)


def rows_of_pictures(rows: range) -> data.DataLoader[Any]:
    return data.DataLoader(pictures(), 64, sampler=data.SubsetRandomSampler(rows))


def subset_of_a_subset() -> data.DataLoader[Any]:
    part = data.Subset(data.Subset(pictures(), range(100, 256)), range(70))
    return data.DataLoader(part, batch_size=32)


def random_part(part: int) -> data.Subset[Any]:
    return data.random_split(pictures(), [200, 56], torch.Generator().manual_seed(0))[part]


VALIDATION = [
    row("training images", "error", val_batches=lambda: data.DataLoader(pictures(), 64)),
    row("training subset", "error", val_batches=subset_of_a_subset),
    row(
        "shared rows",
        "error",
        batches=lambda: rows_of_pictures(range(200)),
        val_batches=lambda: rows_of_pictures(range(190, 256)),
    ),
    row("smaller than a batch", "error", "warning", val_batches=lambda: with_drop_last(20)),
    row("dropped end", "error", val_batches=lambda: with_drop_last(70)),
    row("augmented", "warning", val_batches=lambda: data.DataLoader(Augmented(), 32)),
    row(
        "rows of one data set",
        batches=lambda: rows_of_pictures(range(200)),
        val_batches=lambda: rows_of_pictures(range(200, 256)),
    ),
    row(
        "random_split",
        batches=lambda: shuffled(random_part(0)),
        val_batches=lambda: data.DataLoader(random_part(1), 32),
    ),
]


@pytest.mark.parametrize(("issues", "objects"), OPTIMIZERS + BATCHES)
def test_optimizers_and_batches(issues: set[str], objects: dict[str, Any]) -> None:
    assert severities_and_checks(diagnose_loop(**objects)) == issues


@pytest.mark.parametrize(("severities", "objects"), VALIDATION)
def test_validation_data(severities: set[str], objects: dict[str, Any]) -> None:
    issues = {f"{severity} validation-data" for severity in severities}
    assert severities_and_checks(diagnose_loop(**objects)) == issues
