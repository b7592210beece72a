"""Check that optimizer and model belong together, with usual settings, and nothing trained yet."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import optim

from .issues import Issue, error, first_names, note, warning
from .probe import Probe
from .schedule_checks import simulated_rates, steps_done

# Optimizers that divide by the size of the gradient: a step moves a weight by about the rate.
ADAPTIVE = (optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.RMSprop)
ADAPTIVE_RANGE = (1e-7, 0.05)  # weights are smaller than 1, most of them than 0.1
SGD_RANGE = (1e-4, 30.0)  # of lr / (1 - momentum), how far a constant gradient moves a weight


def optimizer_parameters(probe: Probe) -> Iterator[Issue]:
    """Check that the optimizer holds every trainable parameter, and none of another model.

    Why is this bad:
        Parameters that the optimizer does not hold are never trained. This happens when the model
        is built again, or a layer is replaced, after the optimizer was built.
    Example:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.head = nn.Linear(8, 10)
    Fix:
        Build the optimizer after the last change to the model.
    """
    held = {id(p) for group in probe.optimizer.param_groups for p in group["params"]}
    parameters = dict(probe.model.named_parameters())
    known = {id(p) for p in parameters.values()}
    known |= {id(p) for p in getattr(probe.loss_fn, "parameters", list)()}
    missing = [name for name, p in parameters.items() if p.requires_grad and id(p) not in held]
    fix = "build the optimizer from model.parameters() after the last change to the model"
    if not held & known:
        yield error(
            f"none of the {len(held)} tensors in the optimizer is this model's, so stepping does "
            "not train it",
            fix,
        )
        return
    if num_foreign := len(held - known):
        yield warning(
            f"{num_foreign} of the {len(held)} tensors in the optimizer are not this model's", fix
        )
    if missing:
        yield warning(
            f"{len(missing)} trainable tensors are in no group of this optimizer: "
            f"{first_names(missing)}",
            "add them, unless another optimizer has them; else set requires_grad = False on them",
        )


def learning_rate(probe: Probe) -> Iterator[Issue]:
    """Check that the highest learning rate is one that this kind of optimizer trains with.

    Adam and its relatives divide by the size of the gradient, so a step moves a weight by about
    the rate. With SGD, a constant gradient moves a weight by lr / (1 - momentum) of itself.

    Why is this bad:
        With a rate of 0 every step leaves the weights as they are. With a rate far outside the
        usual range training diverges, or does not move.
    Example:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
        scheduler = None
    Fix:
        Set a usual rate; `resight.lr_range_test` finds one.
    """
    groups, peaks = probe.optimizer.param_groups, _peak_rates(probe)
    fix = "set a rate; resight.lr_range_test finds one"
    if not any(peaks):
        scheduled = "no scheduler raises it" if probe.scheduler is None else "stays there"
        yield error(f"the optimizer has lr = 0 and {scheduled}", fix)
        return
    if num_still := sum(peak == 0 for peak in peaks):
        yield warning(
            f"{num_still} of {len(groups)} parameter groups have lr = 0, so they are not trained",
            "give them a rate, or set requires_grad = False on their parameters",
        )
    group, peak = max(zip(groups, peaks, strict=True), key=lambda pair: pair[1])
    kind, momentum = type(probe.optimizer).__name__, float(group.get("momentum") or 0.0)
    if isinstance(probe.optimizer, ADAPTIVE):
        low, high = ADAPTIVE_RANGE
        reach, how = peak, ""
    elif isinstance(probe.optimizer, optim.SGD):
        low, high = SGD_RANGE
        reach = peak / (1 - momentum) if momentum < 1 else float("inf")
        how = f" and momentum {momentum:g}" if momentum else ""
    else:
        return
    if not low <= reach <= high:
        size = "low" if reach < low else "high"
        yield warning(f"{kind} with lr {peak:.3g}{how}: far too {size} for most networks", fix)
    first, second = (*group.get("betas", (0.0, 1.0)), 1.0)[:2]
    if second < first:
        yield warning(
            f"betas are ({first:g}, {second:g}), where the second is mostly the larger one",
            "pass betas=(0.9, 0.999)",
        )


def untrained(probe: Probe) -> Iterator[Issue]:
    """Check that nothing was trained before the first epoch.

    Batch norm that has counted batches is no issue if the loss is that of guessing: then a
    pretrained body has a new head.

    Why is this bad:
        If you run the training cell of a notebook twice, the second "epoch 1" goes on from trained
        weights, and its result cannot be compared with other results.
    Example:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    Fix:
        Build model, optimizer and scheduler again before you train. Ignore the warning if you
        resume from a checkpoint.
    """
    signs = []
    states = probe.optimizer.state.values()  # some optimizers start with one, after no step
    if num_stepped := sum(bool(state and state.get("step", 1)) for state in states):
        signs.append(f"the optimizer has stepped ({num_stepped} tensors have a state)")
    if probe.tracked and (signs or probe.is_better_than_guessing(0.9)):
        signs.append(f"batch norm has seen {probe.tracked} batches")
    if done := steps_done(probe.scheduler):
        signs.append(f"the scheduler is at step {done}")
    if signs:
        yield warning(
            f"something was trained before: {'; '.join(signs)}",
            "build model, optimizer and scheduler again, unless you resume from a checkpoint",
        )


def weight_decay(probe: Probe) -> Iterator[Issue]:
    """Check that weight decay is not huge, acts on weights only, and is a true decay.

    Why is this bad:
        A huge decay pulls all weights to 0. Decay of biases and of the scales of norms rarely
        helps. Adam adds the decay to the gradient and then divides by the gradient's size, so
        weights with large gradients hardly decay (Loshchilov and Hutter 2019).
    Example:
        optimizer = torch.optim.Adam(model.parameters(), weight_decay=0.01)
    Fix:
        Use AdamW, and a group with `weight_decay=0` for tensors of one dimension.
    """
    groups = [group for group in probe.optimizer.param_groups if group.get("weight_decay")]
    flat = [p for group in groups for p in group["params"] if p.ndim <= 1 and p.requires_grad]
    kind = type(probe.optimizer)
    decoupled = kind is optim.AdamW or probe.optimizer.defaults.get("decoupled_weight_decay")
    largest = max((float(group["weight_decay"]) for group in groups), default=0.0)
    if largest >= (1.0 if decoupled else 0.1) and kind in (optim.SGD, *ADAPTIVE):
        usual = "0.01 to 0.3" if decoupled else "1e-5 to 1e-2"
        yield warning(
            f"weight decay is {largest:g}, where {kind.__name__} mostly has {usual}",
            "lower it: it pulls all weights to 0",
        )
    if flat:
        yield note(
            f"weight decay acts on {len(flat)} tensors of one dimension: biases, and the scales "
            "of norms",
            "put them in a group of their own with weight_decay=0",
        )
    if groups and kind is optim.Adam and not decoupled:
        yield note(
            "Adam adds weight decay to the gradient and then divides by the gradient's size, so "
            "weights with large gradients hardly decay",
            "use AdamW (Loshchilov and Hutter 2019)",
        )


def _peak_rates(probe: Probe) -> list[float]:
    """Return the highest rate of each parameter group: by the schedule, as far as it is known."""
    groups: list[dict[str, Any]] = probe.optimizer.param_groups
    names = ("lr",) if probe.scheduler is None else ("lr", "initial_lr", "max_lr")
    peaks = [max(float(group.get(name) or 0.0) for name in names) for group in groups]
    if probe.scheduler is None or getattr(probe.scheduler, "optimizer", None) is not (
        probe.optimizer
    ):
        return peaks
    try:
        rates = simulated_rates(probe)
    except Exception:  # someone else's scheduler; `schedule_length` reports what it raises
        return peaks
    return [float(peak) for peak in np.abs(rates).max(axis=0)]
