"""Diagnose your own PyTorch objects: errors that do not stop a training.

Each check is a function of a `Probe`, and looks for an error of published work. `docs/doctor.md`
lists the checks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..lr_finder.range_test import LossFunction
from ..training.restore import preserve_positions, preserve_state
from . import batch_checks, model_checks, optimizer_checks
from .augment_checks import Transform
from .augment_checks import augment as check_augment
from .issues import Diagnosis, apply_checks, by_name
from .probe import run_probe

OBJECT_CHECKS = by_name(
    optimizer_checks.optimizer_parameters,
    optimizer_checks.scheduler_optimizer,
    optimizer_checks.schedule_length,
    optimizer_checks.zero_lr,
    optimizer_checks.untrained,
    optimizer_checks.weight_decay,
    batch_checks.data_order,
    batch_checks.pixel_values,
    batch_checks.repeated_images,
    batch_checks.validation_data,
    model_checks.outputs,
    model_checks.logits,
    model_checks.mean_loss,
    model_checks.first_loss,
    model_checks.gradients,
    model_checks.dropout,
    model_checks.evaluation_mode,
)


def diagnose(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    *,
    scheduler: Any = None,
    steps: int | None = None,
    val_batches: Iterable[Any] | None = None,
    augment: Transform | Mapping[str, Transform] | None = None,
) -> Diagnosis:
    """Look for errors that do not stop a training, just before the first step.

    One batch goes forward and backward in training mode and forward in evaluation mode; nothing
    is stepped. Weights, buffers, gradients and random numbers are restored. Two things cannot be:
    the position of an iterator that has already started, and the generator of `augment`, if it
    has its own.

    Args:
        model, optimizer, loss_fn: as for `lr_range_test`.
        batches: gives (images, labels) as the model is to see them; the first four are checked.
        scheduler: what sets the learning rate.
        steps: how often scheduler.step() will be called.
        val_batches: what validation reads.
        augment: images (N, C, H, W) -> the same, augmented, where the batches lie; or several by
            name, each of which is checked alone.

    Raises:
        UsageError: batches, outputs or a loss that are not of this form.
    """
    modules = [m for m in (model, loss_fn) if isinstance(m, nn.Module)]
    with preserve_state(optimizer, *modules), preserve_positions(batches, val_batches):
        probe = replace(
            run_probe(model, optimizer, loss_fn, batches),
            scheduler=scheduler,
            steps=steps,
            val_batches=val_batches,
        )
        diagnosis = apply_checks(probe, OBJECT_CHECKS, foreign_code=True)
        if augment is None:
            return diagnosis + Diagnosis((), (), {"augment": "needs augment="})
        if isinstance(augment, Mapping):
            transforms = {f"augment {name}": change for name, change in augment.items()}
        else:
            transforms = {"augment": augment}
        checks = {name: partial(check_augment, change) for name, change in transforms.items()}
        images = probe.batches[0][0][:64].nan_to_num()
        with torch.no_grad():
            return diagnosis + apply_checks(images, checks, foreign_code=True)
