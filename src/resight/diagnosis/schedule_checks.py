"""Check that the scheduler sets the rate of this optimizer, for as long as the training is."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from ..optim.torch_scheduler import ScheduleLR
from ..records import FloatArray
from .issues import Issue, Skipped, error, warning
from .probe import Probe

MAX_STEPS = 100_000  # that a copy of the scheduler is stepped: about a second
MAX_CYCLES = 20  # more ups and downs than a person would draw
DEAD_SHARE = 0.003  # of the peak: three tenfold steps down, where nothing is learned any more
TWO_LENGTHS = "give it the epochs if it is stepped once an epoch, else the epochs times the batches"


def scheduler_optimizer(probe: Probe) -> Iterator[Issue]:
    """Check that the scheduler sets the learning rate of the optimizer that steps.

    Why is this bad:
        The scheduler changes the rate of an unused optimizer, and training runs at a constant
        rate.
    Example:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30)
        optimizer = torch.optim.AdamW(model.parameters())
    Fix:
        Build the scheduler from the optimizer that steps, after that optimizer.
    """
    if probe.scheduler is None:
        raise Skipped("needs scheduler=")
    other = getattr(probe.scheduler, "optimizer", None)
    if other is None:
        raise Skipped(f"a {type(probe.scheduler).__name__} has no .optimizer to look at")
    groups = {id(group) for group in probe.optimizer.param_groups}
    if not groups & {id(group) for group in other.param_groups}:  # a wrapper shares its groups
        rates = ", ".join(f"{group['lr']:g}" for group in probe.optimizer.param_groups)
        yield error(
            f"{type(probe.scheduler).__name__} is bound to another optimizer, so the rate stays at "
            f"{rates}",
            "build the scheduler from the optimizer that steps, after it",
        )


def schedule_length(probe: Probe) -> Iterator[Issue]:
    """Check that the schedule is as long as the training.

    The check steps a copy of the scheduler as often as the training will, and looks at the rates.

    Why is this bad:
        If the schedule is too long, training ends at a high rate, or still warms up. If it is too
        short, the rate is near 0 for most of the training, starts again, or falls below 0. Often
        someone counted epochs instead of steps.
    Example:
        epochs, steps = 20, 20 * 391
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    Fix:
        Give the schedule the number of times that you call `scheduler.step()`.
    """
    if probe.scheduler is None or probe.steps is None:
        raise Skipped("needs scheduler= and steps=, how often scheduler.step() will be called")
    name, steps = type(probe.scheduler).__name__, steps_done(probe.scheduler) + probe.steps
    if length_and_end := _known_length(probe.scheduler):
        length, spare, after = length_and_end
        if not 0.95 * length <= steps <= length + spare:
            early = "training ends before the rate is down"
            yield error(
                f"{name} is {length} steps long but is stepped {steps} times: "
                f"{early if steps < length else after}",
                TWO_LENGTHS,
            )
        return
    if isinstance(probe.scheduler, ReduceLROnPlateau) and probe.steps > 1000:
        yield warning(
            f"{name} is stepped {probe.steps} times: one step is to be one validation, mostly an "
            "epoch",
            "step it once an epoch, with the metric of validation",
        )
        return
    yield from _rate_issues(name, simulated_rates(probe).max(axis=1), probe.scheduler)


def simulated_rates(probe: Probe) -> FloatArray:
    """Return the rates (steps, groups) that a copy of the scheduler gives in training.

    A plateau scheduler is given a metric that never improves.

    Raises:
        Skipped: there is no scheduler, no number of steps, or too many.
    """
    if probe.scheduler is None or probe.steps is None or not 0 < probe.steps <= MAX_STEPS:
        raise Skipped(f"needs scheduler= and steps=, up to {MAX_STEPS:,}")
    if isinstance(probe.scheduler, ScheduleLR):
        raise Skipped("a ScheduleLR is judged by its length")
    real = getattr(probe.scheduler, "optimizer", probe.optimizer)
    stand_in: Any = SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    stand_in.param_groups = [
        {k: v for k, v in group.items() if k != "params"} | {"params": []}
        for group in real.param_groups
    ]
    scheduler = copy.deepcopy(probe.scheduler, {id(real): stand_in})
    metric = [1.0] if isinstance(scheduler, ReduceLROnPlateau) else []
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "call optimizer.step() first": there is none
        for _ in range(probe.steps):
            rates.append([float(group["lr"]) for group in stand_in.param_groups])
            scheduler.step(*metric)
    return np.array(rates)


def steps_done(scheduler: Any) -> int:
    """Return how often a scheduler has stepped so far."""
    return max(0, getattr(scheduler, "last_epoch", 0) or 0)


def _known_length(scheduler: Any) -> tuple[int, int, str] | None:
    """Return a schedule's length, how many steps more do no harm, and what comes after those."""
    if isinstance(scheduler, OneCycleLR):
        return scheduler.total_steps, 0, "it raises an error after that"
    if isinstance(scheduler, ScheduleLR):
        return scheduler.schedule.total_steps, 0, "it raises an error after that"
    if isinstance(scheduler, CosineAnnealingLR):
        # The last step of the schedule comes after the last step of the training.
        return scheduler.T_max, 1, "its rate rises again after that"
    return None


def _rate_issues(name: str, rates: FloatArray, scheduler: Any) -> Iterator[Issue]:
    """Judge the rates (steps,) of a training."""
    n, peak = len(rates), float(rates.max())
    top = int((rates >= 0.99 * peak).argmax())  # the first step at the peak
    falls = rates[top:].min() < 0.5 * peak
    dead = int((rates[top:][::-1] > DEAD_SHARE * peak).argmax()) if peak > 0 else 0
    groups = getattr(getattr(scheduler, "optimizer", None), "param_groups", ())
    base = max((float(group.get("initial_lr") or 0.0) for group in groups), default=0.0)
    highs = rates > 0.8 * peak
    cycles = int((highs[1:] & ~highs[:-1]).sum())
    if rates.min() < 0:
        yield error(
            f"{name} sets a rate below 0 after {int((rates < 0).argmax())} of {n} steps, which "
            "makes the loss rise",
            TWO_LENGTHS,
        )
    elif top >= 0.9 * n and rates[0] < 0.9 * peak:
        yield error(f"{name} still warms up at the end of {n} steps", TWO_LENGTHS)
    elif dead > 0.5 * n:
        yield error(
            f"{name} is near 0 from step {n - dead} of {n} on: the rate is below "
            f"{DEAD_SHARE * peak:.2g}, after a peak of {peak:.2g}",
            TWO_LENGTHS,
        )
    elif cycles > MAX_CYCLES:
        yield warning(f"{name} goes up and down {cycles} times in {n} steps", TWO_LENGTHS)
    elif peak < 0.02 * base:
        yield warning(
            f"{name} never sets more than {peak / base:.2g} of the optimizer's rate, {base:g}",
            "return a factor of the optimizer's rate, not a rate",
        )
    elif not falls and n > 1 and (top == 0 or rates[-1] < peak) and name != "ConstantLR":
        plateau = isinstance(scheduler, ReduceLROnPlateau)
        decays = isinstance(scheduler, StepLR | MultiStepLR | ReduceLROnPlateau)
        yield (error if decays and rates[-1] == peak else warning)(
            f"{name} hardly lowers the rate in {n} steps: it ends at {rates[-1]:.3g}, after a peak "
            f"of {peak:.3g}" + (", even if validation never improves" if plateau else ""),
            "give it less patience, or train for longer" if plateau else TWO_LENGTHS,
        )
