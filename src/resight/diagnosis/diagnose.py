"""Diagnose your own PyTorch objects: errors that do not stop a training.

Each check is a function of a `Probe`, and looks for an error of published work. `docs/doctor.md`
lists the checks.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..networks.outputs import LossFunction
from ..training.restore import preserve_positions, preserve_state
from . import (
    batch_checks,
    loss_checks,
    model_checks,
    optimizer_checks,
    schedule_checks,
    step_checks,
    transform_checks,
    validation_checks,
    weight_checks,
)
from .augment_checks import Transform
from .augment_checks import augment as check_augment
from .issues import Diagnosis, apply_checks, by_name
from .probe import run_probe
from .samples import first_tensor

OBJECT_CHECKS = by_name(
    optimizer_checks.optimizer_parameters,
    weight_checks.unregistered_weights,
    schedule_checks.scheduler_optimizer,
    schedule_checks.schedule_length,
    optimizer_checks.learning_rate,
    optimizer_checks.untrained,
    batch_checks.data_order,
    batch_checks.pixel_values,
    batch_checks.pixel_order,
    batch_checks.repeated_images,
    batch_checks.class_shares,
    transform_checks.dataset_transform,
    validation_checks.validation_data,
    validation_checks.validation_pixels,
    validation_checks.validation_labels,
    model_checks.outputs,
    model_checks.num_outputs,
    loss_checks.logits,
    loss_checks.mean_loss,
    loss_checks.label_loss,
    loss_checks.first_loss,
    weight_checks.gradients,
    weight_checks.initial_weights,
    weight_checks.frozen_weights,
    model_checks.dropout,
    batch_checks.norm_batch,
    model_checks.evaluation_mode,
    model_checks.training_mode,
    step_checks.step_gradient,
    step_checks.step_clipping,
    step_checks.step_learning,
    optimizer_checks.weight_decay,
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
    step: Callable[[Any, Any], object] | None = None,
) -> Diagnosis:
    """Look for errors that do not stop a training, just before the first step.

    One batch goes forward and backward in training mode and forward in evaluation mode. Only with
    `step` is anything stepped. Weights, buffers, gradients, the states of optimizer and scheduler,
    and random numbers are restored. What cannot be: the position of an iterator that has already
    started, generators inside `augment` and transforms, and what else `step` changes.

    Args:
        model, optimizer, loss_fn: as for `lr_range_test`.
        batches: gives (images, labels) as the model is to see them, nested or as arrays too, or a
            dictionary with "labels". Of a DataLoader, the data set is checked too.
        scheduler: what sets the learning rate.
        steps: how often scheduler.step() will be called.
        val_batches: what validation reads.
        augment: images (N, C, H, W) -> the same, augmented, where the batches lie; or several by
            name, each of which is checked alone.
        step: (images, labels) -> anything; makes one step of your loop, with this model and this
            optimizer: zero_grad, forward, backward, step. It is called 35 times.

    Raises:
        UsageError: batches, outputs or a loss that are not of this form.
    """
    modules = [m for m in (model, loss_fn) if isinstance(m, nn.Module)]
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        preserve_state(optimizer, *modules),
        preserve_positions(batches, val_batches),
    ):
        probe = replace(
            run_probe(model, optimizer, loss_fn, batches),
            scheduler=scheduler,
            steps=steps,
            val_batches=val_batches,
            step=step,
        )
        diagnosis = apply_checks(probe, OBJECT_CHECKS, foreign_code=True)
        return diagnosis + _diagnose_augment(augment, first_tensor(probe.batches[0][0])[:64])


def _diagnose_augment(
    augment: Transform | Mapping[str, Transform] | None, images: Tensor
) -> Diagnosis:
    """Check one transform of images (N, C, H, W), or each of several."""
    if augment is None:
        return Diagnosis((), (), {"augment": "needs augment="})
    if isinstance(augment, Mapping):
        transforms = {f"augment {name}": change for name, change in augment.items()}
    else:
        transforms = {"augment": augment}
    checks = {name: partial(check_augment, change) for name, change in transforms.items()}
    with torch.no_grad():
        return apply_checks(images.nan_to_num(), checks, foreign_code=True)
