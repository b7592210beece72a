"""Is the optimizer this model's, the scheduler this optimizer's, and nothing trained yet?"""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from ..findings import Finding, LeftOut
from .patient import Patient


def parameters(of: Patient) -> Iterator[Finding]:
    """The optimizer holds every parameter that can learn, and no other model's."""
    held = {id(p) for p in _held(of.optimizer)}
    own = dict(of.model.named_parameters())
    known = {id(p) for p in own.values()}
    if isinstance(of.loss_fn, nn.Module):
        known |= {id(p) for p in of.loss_fn.parameters()}
    missing = [name for name, p in own.items() if p.requires_grad and id(p) not in held]
    if strangers := len(held - known):
        yield Finding(
            "parameters",
            "fault",
            f"{strangers} of the {len(held)} tensors in the optimizer are not of this model, so "
            "stepping does not train it",
            "build the optimizer from model.parameters() after the last change to the model",
        )
    if missing:
        yield Finding(
            "parameters",
            "fault",
            f"{len(missing)} trainable tensors are in no group of the optimizer and never learn: "
            f"{named(missing)}",
            "add them, or set requires_grad = False if that is meant",
        )


def scheduler(of: Patient) -> Iterator[Finding]:
    """The scheduler sets the rate of the optimizer that steps."""
    if of.scheduler is None:
        raise LeftOut("needs scheduler=")
    if getattr(of.scheduler, "optimizer", None) is not of.optimizer:
        yield Finding(
            "scheduler",
            "fault",
            f"{type(of.scheduler).__name__} is bound to another optimizer, so the rate stays at "
            f"{_rates(of.optimizer)}",
            "build the scheduler from the optimizer that steps, after it",
        )


def schedule_length(of: Patient) -> Iterator[Finding]:
    """The schedule is as long as the training."""
    if of.scheduler is None or of.steps is None:
        raise LeftOut("needs scheduler= and steps=, how often scheduler.step() will be called")
    length, after = None, ""
    if isinstance(of.scheduler, OneCycleLR):
        length, after = of.scheduler.total_steps, "it raises an error after that"
    elif isinstance(of.scheduler, CosineAnnealingLR):
        length, after = of.scheduler.T_max, "its rate climbs again after that"
    if length is not None and not 0.95 * length <= of.steps <= length:
        early = f"at {of.steps / length:.0%} of it training ends, with the rate not yet down"
        yield Finding(
            "schedule length",
            "fault",
            f"{type(of.scheduler).__name__} is {length} steps long but is stepped {of.steps} "
            f"times: {early if of.steps < length else after}",
            "give it the epochs if it is stepped once an epoch, else the epochs times the batches",
        )


def rate(of: Patient) -> Iterator[Finding]:
    """The rate is not 0."""
    rates = [float(group["lr"]) for group in of.optimizer.param_groups]
    if of.scheduler is None and 0.0 in rates:
        yield Finding(
            "rate",
            "fault",
            f"a group of the optimizer has lr = 0 and no scheduler raises it: {rates}",
            "give it a rate; resight.lr_range_test finds one",
        )


def fresh(of: Patient) -> Iterator[Finding]:
    """Nothing was trained before the first epoch."""
    signs = []
    if stepped := sum(1 for state in of.optimizer.state.values() if state):
        signs.append(f"the optimizer has stepped ({stepped} tensors have a state)")
    if of.tracked:
        signs.append(f"batch norm has seen {of.tracked} batches")
    if (done := getattr(of.scheduler, "last_epoch", 0)) > 0:
        signs.append(f"the scheduler is at step {done}")
    if signs:
        yield Finding(
            "fresh",
            "doubt",
            f"this is not the beginning: {'; '.join(signs)}",
            "build model, optimizer and scheduler anew, unless it goes on from a checkpoint",
        )


def decay(of: Patient) -> Iterator[Finding]:
    """Weight decay acts on weights, and as a decay."""
    groups = [group for group in of.optimizer.param_groups if group.get("weight_decay")]
    flat = [p for group in groups for p in group["params"] if p.ndim <= 1]
    if flat:
        yield Finding(
            "decay",
            "doubt",
            f"weight decay acts on {len(flat)} tensors of one dimension: biases, and the scales "
            "of norms",
            "put them in a group of their own with weight_decay=0",
        )
    coupled = type(of.optimizer) is Adam and not of.optimizer.defaults.get("decoupled_weight_decay")
    if groups and coupled:
        yield Finding(
            "decay",
            "doubt",
            "Adam adds weight decay to the gradient and then divides by the gradient's size, so "
            "weights with large gradients hardly decay",
            "use AdamW (Loshchilov and Hutter 2019)",
        )


def named(names: Sequence[str], most: int = 3) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _held(optimizer: Optimizer) -> Iterator[torch.Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _rates(optimizer: Optimizer) -> str:
    return ", ".join(f"{group['lr']:g}" for group in optimizer.param_groups)
