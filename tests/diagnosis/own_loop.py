"""A small network, images, and the objects of a training that has no issue."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset, TensorDataset

import resight

CLASSES = 10


def unchanged(values: Tensor) -> Tensor:
    return values


class Net(nn.Module):
    """A small network for images; arguments plant an error."""

    def __init__(
        self,
        *,
        dropout: float = 0.15,
        tracked: bool = True,
        features: Callable[[Tensor], Tensor] = unchanged,
        outputs: Callable[[Tensor], Tensor] = unchanged,
        idle: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8, track_running_stats=tracked)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, CLASSES)
        self.features, self.outputs, self.idle = features, outputs, idle

    def forward(self, images: Tensor) -> Tensor:
        pooled = F.relu(self.norm(self.conv(images))).mean(dim=(2, 3))  # (N, 8)
        return self.outputs(self.head(self.dropout(self.features(pooled))))


@cache
def pictures(n: int = 256, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, 3, 8, 8, generator=generator), torch.arange(n) % CLASSES)


def shuffled(data: Dataset[Any]) -> DataLoader[Any]:
    return DataLoader(data, batch_size=64, shuffle=True)


def flip(images: Tensor) -> Tensor:
    """Mirror each image, or leave it, by its own coin."""
    coins = torch.rand(len(images)) < 0.5
    return torch.where(coins[:, None, None, None], images.flip(-1), images)


def sgd(model: nn.Module, **settings: float) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, **settings})


def one_cycle(optimizer: Any, steps: int = 100) -> OneCycleLR:
    return OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)


def usual_step(model: nn.Module, optimizer: Any, loss_fn: Any) -> Callable[[Tensor, Tensor], None]:
    """Return one step of a loop, without an error."""

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        loss_fn(model(images), labels).backward()
        optimizer.step()

    return step


def one_batch(images: Tensor, labels: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
    return [(images, torch.arange(len(images)) % CLASSES if labels is None else labels)]


def diagnose_loop(
    *,
    model: Callable[[], nn.Module] = Net,
    optimizer: Callable[[Any], Any] = sgd,
    scheduler: Callable[[Any], Any] = one_cycle,
    batches: Callable[[], Any] = lambda: shuffled(pictures()),
    images: Callable[[], Tensor] | None = None,  # the only batch
    val_batches: Callable[[], Any] | None = None,
    loss_fn: Any = F.cross_entropy,
    steps: int = 100,
    augment: Any = flip,
    step: Callable[[Any, Any, Any], Any] | None = None,
) -> resight.Diagnosis:
    """Diagnose a training without an issue, with some of its objects changed."""
    torch.manual_seed(0)
    network = model()
    its_optimizer = optimizer(network)
    held_out = DataLoader(pictures(70, seed=1), batch_size=32)
    return resight.diagnose(
        network,
        its_optimizer,
        loss_fn,
        batches() if images is None else one_batch(images()),
        scheduler=scheduler(its_optimizer),
        steps=steps,
        val_batches=val_batches() if val_batches else held_out if images is None else None,
        augment=augment,
        step=step and step(network, its_optimizer, loss_fn),
    )


def row(name: str, *issues: str, **objects: Any) -> Any:
    """Return a test case: the severity and the check of each issue that the objects have."""
    return pytest.param(set(issues), objects, id=name)


def severities_and_checks(diagnosis: resight.Diagnosis) -> set[str]:
    return {f"{issue.severity} {issue.check}" for issue in diagnosis.issues}
