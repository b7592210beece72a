"""Check that optimizer, scheduler and model belong together, and that nothing is trained yet."""

from collections.abc import Iterator

from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from .issues import Issue, Skipped, error, first_names, warning
from .probe import Probe


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
    if isinstance(probe.loss_fn, nn.Module):
        known |= {id(p) for p in probe.loss_fn.parameters()}
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
    """Check that a one-cycle or cosine schedule is as long as the training.

    Why is this bad:
        If the schedule is too long, training ends at a high rate. If it is too short, the cosine
        raises the rate again, and one cycle raises an error. Often someone counted epochs instead
        of steps.
    Example:
        epochs, steps = 20, 20 * 391
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    Fix:
        Give the schedule the number of times that you call `scheduler.step()`.
    """
    if probe.scheduler is None or probe.steps is None:
        raise Skipped("needs scheduler= and steps=, how often scheduler.step() will be called")
    if isinstance(probe.scheduler, OneCycleLR):
        length, spare, after = probe.scheduler.total_steps, 0, "it raises an error after that"
    elif isinstance(probe.scheduler, CosineAnnealingLR):
        # The last step of the schedule comes after the last step of the training.
        length, spare, after = probe.scheduler.T_max, 1, "its rate rises again after that"
    else:
        raise Skipped(f"a {type(probe.scheduler).__name__} does not say how long it is")
    steps = _steps_done(probe) + probe.steps
    if not 0.95 * length <= steps <= length + spare:
        early = "training ends before the rate is down"
        yield error(
            f"{type(probe.scheduler).__name__} is {length} steps long but is stepped {steps} "
            f"times: {early if steps < length else after}",
            "give it the epochs if it is stepped once an epoch, else the epochs times the batches",
        )


def zero_lr(probe: Probe) -> Iterator[Issue]:
    """Check that the learning rate is not 0 without a scheduler that raises it.

    Why is this bad:
        Every step leaves the weights as they are.
    Example:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        scheduler = None
    Fix:
        Set a learning rate; `resight.lr_range_test` finds one.
    """
    if probe.scheduler is None and not any(group["lr"] for group in probe.optimizer.param_groups):
        yield error(
            "the optimizer has lr = 0 and no scheduler raises it",
            "set a rate; resight.lr_range_test finds one",
        )


def untrained(probe: Probe) -> Iterator[Issue]:
    """Check that nothing was trained before the first epoch.

    Why is this bad:
        If you run the training cell of a notebook twice, the second "epoch 1" goes on from trained
        weights, and its result cannot be compared with other results.
    Example:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    Fix:
        Build model, optimizer and scheduler again before you train. Ignore the warning if you
        resume from a checkpoint or start from pretrained weights.
    """
    signs = []
    states = probe.optimizer.state.values()  # some optimizers start with one, after no step
    if num_stepped := sum(bool(state and state.get("step", 1)) for state in states):
        signs.append(f"the optimizer has stepped ({num_stepped} tensors have a state)")
    if probe.tracked:
        signs.append(f"batch norm has seen {probe.tracked} batches")
    if _steps_done(probe):
        signs.append(f"the scheduler is at step {_steps_done(probe)}")
    if signs:
        yield warning(
            f"something was trained before: {'; '.join(signs)}",
            "build model, optimizer and scheduler again, unless you resume from a checkpoint or "
            "start from pretrained weights",
        )


def weight_decay(probe: Probe) -> Iterator[Issue]:
    """Check that weight decay acts on weights only, and that it is a true decay.

    Why is this bad:
        Decay pulls biases and the scales of norms to 0, which rarely helps. Adam adds the decay to
        the gradient and then divides by the gradient's size, so weights with large gradients
        hardly decay (Loshchilov and Hutter 2019).
    Example:
        optimizer = torch.optim.Adam(model.parameters(), weight_decay=0.01)
    Fix:
        Use AdamW, and a group with `weight_decay=0` for tensors of one dimension.
    """
    groups = [group for group in probe.optimizer.param_groups if group.get("weight_decay")]
    flat = [p for group in groups for p in group["params"] if p.ndim <= 1 and p.requires_grad]
    if flat:
        yield warning(
            f"weight decay acts on {len(flat)} tensors of one dimension: biases, and the scales "
            "of norms",
            "put them in a group of their own with weight_decay=0",
        )
    decoupled = probe.optimizer.defaults.get("decoupled_weight_decay")
    if groups and type(probe.optimizer) is Adam and not decoupled:
        yield warning(
            "Adam adds weight decay to the gradient and then divides by the gradient's size, so "
            "weights with large gradients hardly decay",
            "use AdamW (Loshchilov and Hutter 2019)",
        )


def _steps_done(probe: Probe) -> int:
    """Return how often the scheduler has stepped so far."""
    return max(0, getattr(probe.scheduler, "last_epoch", 0) or 0)
