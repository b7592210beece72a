"""Everything that changes while training; a checkpoint saves and restores it."""

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..datasets import Split, Statistics
from ..datasets.augment import normalize
from ..errors import UsageError, is_memory_full
from ..networks.eval_mode import eval_mode
from ..networks.freeze import check_frozen
from ..optim.optimizers import build_optimizer
from ..optim.schedules import Schedule, schedule_of, steps_per_epoch
from ..recipe import Plateau, Recipe
from ..records import EpochRow, History
from ..text import one_line
from .precision import layout_for, scales_loss, to_memory_format


@dataclass(frozen=True)
class TrainData:
    """The training and validation splits on the training device, with train's statistics."""

    train: Split
    val: Split | None
    stats: Statistics
    classes: tuple[str, ...]


@dataclass
class TrainState:
    """The model, optimizer and records of a training, after `step` steps."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    averaged: nn.Module | None  # the same module with averaged weights
    step_losses: Tensor  # (total_steps,) float32 on the device, mean over the step's images
    step_correct: Tensor  # (total_steps,) int64 on the device
    step: int = 0  # steps done in the whole run
    lrs: list[float] = field(default_factory=list)
    momenta: list[float] = field(default_factory=list)
    rows: list[EpochRow] = field(default_factory=list)
    epoch_secs: float = 0.0  # of the current epoch, with the time that the caller of `fit` took

    @property
    def evaluated(self) -> nn.Module:
        """The module that is validated and kept: the averaged one if the recipe averages."""
        return self.model if self.averaged is None else self.averaged

    @property
    def plateau_metrics(self) -> list[float]:
        """The metric of each finished epoch, for the one schedule that looks at it."""
        spec = self.schedule.spec
        return [getattr(r, spec.metric) for r in self.rows] if isinstance(spec, Plateau) else []

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move the averaged weights and buffers towards the model's, after each step.

        After the first step they equal the model's. torch's `AveragedModel` keeps its count of
        steps on the CPU, so that every step would wait for a GPU.
        """
        assert self.averaged is not None
        moved: tuple[list[Tensor], list[Tensor]] = ([], [])
        for averaged, current in zip(_tensors(self.averaged), _tensors(self.model), strict=True):
            if self.step and averaged.is_floating_point():
                moved[0].append(averaged)
                moved[1].append(current)
            else:  # a count has no mean
                averaged.copy_(current)
        if moved[0]:
            get_ema_multi_avg_fn(decay)(*moved, None)  # type: ignore[no-untyped-call]

    @property
    def history(self) -> History:
        """The epochs, rates and losses so far."""
        return History(
            epochs=tuple(self.rows),
            lrs=np.array(self.lrs),
            momenta=np.array(self.momenta),
            losses=self.step_losses[: self.step].cpu().double().numpy(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain Python, which `torch.load(weights_only=True)` reads back.

        The tensors share memory with the state: save or copy them before the next step.
        """
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else None,
            "step_losses": self.step_losses,
            "step_correct": self.step_correct,
            "step": self.step,
            "lrs": self.lrs,
            "momenta": self.momenta,
            "rows": [asdict(row) for row in self.rows],
            "epoch_secs": self.epoch_secs,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.averaged:
            self.averaged.load_state_dict(saved["averaged"])
        self.step_losses.copy_(saved["step_losses"])
        self.step_correct.copy_(saved["step_correct"])
        self.step, self.epoch_secs = saved["step"], saved["epoch_secs"]
        self.lrs, self.momenta = list(saved["lrs"]), list(saved["momenta"])
        self.rows = [EpochRow(**row) for row in saved["rows"]]


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())


def init_state(recipe: Recipe, data: TrainData, model: nn.Module) -> TrainState:
    """Return the state before the first step; `model` is moved to the data's device.

    Raises:
        UsageError: the device cannot compute in `training.precision`, or the model cannot read
            the images, or its outputs are not one logit a class.
    """
    training, device = recipe.training, data.train.device
    if training.precision == "fp16" and device.type == "cpu":
        raise UsageError(
            'training.precision = "fp16" needs a GPU, but the device is cpu; use bf16 or float32'
        )
    memory_format = layout_for(training, device)
    model = model.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    _check_outputs(model, recipe, data)
    check_frozen(model, training.frozen_in(0))
    spe = steps_per_epoch(len(data.train), training.batch_size)
    schedule = schedule_of(recipe, steps_per_epoch=spe)
    return TrainState(
        model=model,
        optimizer=build_optimizer(recipe.optimizer, model),
        schedule=schedule,
        scaler=torch.amp.GradScaler(device.type, enabled=scales_loss(training, device)),
        averaged=None if training.ema_decay is None else copy.deepcopy(model),
        step_losses=torch.full((schedule.total_steps,), math.nan, device=device),
        step_correct=torch.zeros(schedule.total_steps, dtype=torch.int64, device=device),
    )


def _check_outputs(model: nn.Module, recipe: Recipe, data: TrainData) -> None:
    """Refuse outputs that would train without an error: not one a class, or probabilities.

    Log-probabilities pass: they are their own log-softmax.
    """
    images = normalize(data.train.images_at(slice(1)), data.stats)  # (1, C, H, W)
    with eval_mode(model):
        try:
            logits = model(to_memory_format(images, recipe.training))
        except (RuntimeError, ValueError) as error:
            if is_memory_full(error):
                raise
            raise UsageError(
                f"the model fails on an image of this data, {tuple(images.shape[1:])}: "
                f"{one_line(str(error))}; pass a model for images (N, {images.shape[1]}, H, W)"
            ) from error
    expected = (1, len(data.classes))
    if not isinstance(logits, Tensor) or logits.shape != expected:
        outputs = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(
            f"the model makes {outputs} of one image, but the data has {expected[1]} classes; "
            f"its forward has to return logits of shape {expected}"
        )
    if bool((logits >= 0).all()) and abs(float(logits.float().sum()) - 1) < 1e-3:
        raise UsageError(
            f"the model's {expected[1]} outputs are not negative and sum to 1, so they are "
            "probabilities, but the loss takes a softmax itself: a second one hardly lets it "
            "learn; leave out the softmax at the end of its forward"
        )
