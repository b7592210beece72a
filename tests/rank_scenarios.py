"""What the tests of several ranks train, and what each rank of them does in its own process.

It imports no test library: every process that is started imports this file.
"""

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import resight
from resight.datasets import Dataset
from resight.errors import ResightError
from resight.events import StepDone
from resight.recipe.toml import with_overrides
from resight.training.distributed import Rank
from resight.training.loop import fit
from resight.training.setup import TrainSetup, prepare

DEFAULTS: dict[str, Any] = {"on_event": lambda event: None, "offline": True, "device": "cpu"}


def recipe(*settings: str) -> resight.Recipe:
    """Of 73 training images, in batches of 35: the last, of three, is too small to share."""
    return with_overrides(
        resight.load_recipe("digits"),
        ["model.widths=[8,8,16]", "training.batch_size=35", "data.val_fraction=0.2",
         "augment.crop.pad=2", "augment.flip=random", "schedule.name=constant", "schedule.epochs=2",
         "explain.report=false", "training.micro_batch=none", "training.precision=float32",
         *settings],
    )  # fmt: skip


class Branching(nn.Module):
    """Has no batch norm, and passes over its middle for some batches: no gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.ReLU())
        self.middle, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.first(images).mean((2, 3))
        if self.training and images[0, 0, 0, 0] > 0:
            x = x + self.middle(x)
        return self.last(x)


class Plain(Branching):
    """Has no batch norm, so batches may be divided in any way."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(self.first(images).mean((2, 3))))


class Restless(Plain):
    """Changes a weight by itself, on rank 1 alone."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if dist.get_rank() == 1:
            self.last.bias.data[0] += 1e-6
        return super().forward(images)


# name -> settings, network: what each number of ranks has to train to the same weights
NETWORKS = {
    "branches": (
        ["loss.l1=1e-4", "loss.class_weights=balanced", "training.ema_decay=0.5",
         "optimizer.lr=0.02"],
        Branching,
    ),
    "micro-batches": (["training.micro_batch=5", "optimizer.lr=0.02"], Plain),
    "batch norm": (["training.sync_batch_norm=true"], lambda: None),
}  # fmt: skip


def setup(name: str, data: Dataset, *settings: str) -> TrainSetup:
    """The setup of one of `NETWORKS`."""
    own, network = NETWORKS[name]
    return prepare(recipe(*own, *settings), data=data, model=network(), **DEFAULTS)


def train(setup: TrainSetup, rank: Rank) -> dict[str, Any]:
    """Train to the end; return what the ranks and one process have to agree on."""
    events, gradients = [], {}
    for event in fit(setup.state, setup.recipe, setup.splits, rank=rank):
        events.append(event)
        if len(events) == 1:  # of 35 images, which no number of ranks divides evenly
            weights = setup.state.model.named_parameters()
            gradients = {name: w.grad.clone() for name, w in weights if w.grad is not None}
    return {
        "gradients": gradients,
        "weights": setup.state.evaluated.state_dict(),
        "losses": setup.state.step_losses,
        "correct": [int(event.correct) for event in events if isinstance(event, StepDone)],
        "val": [(row.val_loss, row.val_accuracy) for row in setup.state.rows],
    }


def be_rank(index: int, count: int, port: int, data: Dataset, folder: Path) -> None:
    """Do all scenarios as one rank; what they lead to is written for the test."""
    torch.set_num_threads(1)
    rank = Rank(index, count)
    log = folder / f"{index}.log"
    os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY), 2)  # torch's C++ writes there by number
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=store, rank=index, world_size=count)
    results: dict[str, Any] = {name: train(setup(name, data), rank) for name in NETWORKS}
    results["flags"] = [rank.any(index == count - 1), rank.any(False)]
    results["first loss"] = first_loss(data, rank)
    results["statistics"] = after_one_step(data, rank)
    results["resumed"] = [whole_and_resumed(data, rank, events) for events in (1, 3, 4)]
    try:
        train(prepare(recipe(), data=data, model=Restless(), **DEFAULTS), rank)
    except ResightError as error:
        results["problem"] = str(error)
    dist.destroy_process_group()
    results["standard error"] = log.read_text()
    torch.save(results, folder / f"{index}.pt")


def whole_and_resumed(
    data: Dataset, rank: Rank, events: int
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The weights that a run ends with: by itself, and saved after some events and loaded anew."""
    whole, resumed = (prepare(recipe(), data=data, model=None, **DEFAULTS) for _ in range(2))
    for number, _ in enumerate(fit(whole.state, whole.recipe, whole.splits, rank=rank), 1):
        if number == events:
            resumed.state.load_state_dict(deepcopy(whole.state.state_dict()))
    for _ in fit(resumed.state, resumed.recipe, resumed.splits, rank=rank):
        pass
    return whole.state.model.state_dict(), resumed.state.model.state_dict()


def first_loss(data: Dataset, rank: Rank) -> float:
    """The loss of a batch of three images, which every rank sees whole, with dropout."""
    changed = recipe("training.batch_size=3", "model.dropout=0.5")
    chosen = prepare(changed, data=data, model=None, **DEFAULTS)
    return float(next(fit(chosen.state, chosen.recipe, chosen.splits, rank=rank)).loss)


def after_one_step(data: Dataset, rank: Rank) -> torch.Tensor:
    """The running mean of the first batch norm after a step of the usual network."""
    chosen = prepare(recipe(), data=data, model=None, **DEFAULTS)
    next(fit(chosen.state, chosen.recipe, chosen.splits, rank=rank))
    return first_norm(chosen.state.model).running_mean


def first_norm(network: nn.Module) -> nn.BatchNorm2d:
    """The first batch norm of a network."""
    return next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
