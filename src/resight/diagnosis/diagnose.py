"""A check-up of anyone's PyTorch objects: faults that train without complaint.

Each check is a function of a `Probe`. What they look for is what has gone wrong, unseen, in
published work; `docs/doctor.md` lists it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..lr_finder.range_test import LossFunction
from ..training.restore import preserve_positions, preserve_state
from . import batch_checks as seen
from . import model_checks as network
from . import optimizer_checks as wiring
from .augment_checks import Transform, named_transforms, transform
from .issues import Diagnosis, Issue, apply_checks
from .probe import Probe, run_probe

OBJECT_CHECKS: dict[str, Callable[[Probe], Iterator[Issue]]] = {
    "parameters": wiring.parameters,
    "scheduler": wiring.scheduler,
    "schedule length": wiring.schedule_length,
    "rate": wiring.rate,
    "fresh": wiring.fresh,
    "decay": wiring.decay,
    "order": seen.order,
    "pixels": seen.pixels,
    "copies": seen.copies,
    "validation": seen.validation,
    "outputs": network.outputs,
    "logits": network.logits,
    "mean loss": network.mean_loss,
    "start": network.start,
    "gradients": network.gradients,
    "dropout": network.dropout,
    "evaluation": network.evaluation,
}


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
    """Look for faults that train without complaint, just before the first step.

    One batch goes forward and backward in training mode and forward in evaluation mode; nothing
    is stepped. Everything is given back: weights, buffers, gradients, random numbers. What cannot
    be is the place in an iterator that is already under way, and a generator of augment's own.

    Args:
        model, optimizer, loss_fn: as for `lr_range_test`.
        batches: gives (images, labels) as the model is to see them; four are looked at.
        scheduler: what sets the rate.
        steps: how often scheduler.step() will be called.
        val_batches: what validation reads.
        augment: images (N, C, H, W) -> the same, augmented, where the batches lie; or several by
            name, each looked at by itself.

    Raises:
        UsageError: batches, outputs or a loss that are not as above.
    """
    modules = [m for m in (model, loss_fn) if isinstance(m, nn.Module)]
    with preserve_state(optimizer, *modules), preserve_positions(batches, val_batches):
        patient = run_probe(
            model,
            optimizer,
            loss_fn,
            batches,
            scheduler=scheduler,
            steps=steps,
            val_batches=val_batches,
        )
        found = apply_checks(patient, OBJECT_CHECKS, of_others=True)
        if augment is None:
            return found + Diagnosis((), (), {"augment": "needs augment="})
        changes = named_transforms(augment).items()
        with torch.no_grad():
            return found + apply_checks(
                patient.batches[0][0][:64].nan_to_num(),
                {name: partial(transform, change) for name, change in changes},
                of_others=True,
            )
