"""Is the optimizer this model's, the scheduler this optimizer's, and nothing trained yet?"""

from collections.abc import Iterator, Sequence

from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from .issues import Issue, Skipped, error, warning
from .probe import Probe


def parameters(of: Probe) -> Iterator[Issue]:
    """The optimizer holds every parameter that can learn, and no other model's."""
    held = {id(p) for group in of.optimizer.param_groups for p in group["params"]}
    own = dict(of.model.named_parameters())
    known = {id(p) for p in own.values()}
    if isinstance(of.loss_fn, nn.Module):
        known |= {id(p) for p in of.loss_fn.parameters()}
    missing = [name for name, p in own.items() if p.requires_grad and id(p) not in held]
    fix = "build the optimizer from model.parameters() after the last change to the model"
    if not held & known:
        yield error(
            f"none of the {len(held)} tensors in the optimizer is this model's, so stepping does "
            "not train it",
            fix,
        )
        return
    if strangers := len(held - known):
        yield warning(
            f"{strangers} of the {len(held)} tensors in the optimizer are not this model's",
            fix,
        )
    if missing:
        yield warning(
            f"{len(missing)} tensors that could learn are in no group of this optimizer: "
            f"{named(missing)}",
            "add them, unless another optimizer has them; of those that are not to learn say "
            "requires_grad = False",
        )


def scheduler(of: Probe) -> Iterator[Issue]:
    """The scheduler sets the rate of the optimizer that steps."""
    if of.scheduler is None:
        raise Skipped("needs scheduler=")
    other = getattr(of.scheduler, "optimizer", None)
    if other is None:
        raise Skipped(f"a {type(of.scheduler).__name__} has no .optimizer to look at")
    groups = {id(group) for group in of.optimizer.param_groups}
    if not groups & {id(group) for group in other.param_groups}:  # a wrapper shares its groups
        yield error(
            f"{type(of.scheduler).__name__} is bound to another optimizer, so the rate stays at "
            f"{_rates(of.optimizer)}",
            "build the scheduler from the optimizer that steps, after it",
        )


def schedule_length(of: Probe) -> Iterator[Issue]:
    """The schedule is as long as the training."""
    if of.scheduler is None or of.steps is None:
        raise Skipped("needs scheduler= and steps=, how often scheduler.step() will be called")
    if isinstance(of.scheduler, OneCycleLR):
        length, most, after = of.scheduler.total_steps, 0, "it raises an error after that"
    elif isinstance(of.scheduler, CosineAnnealingLR):
        # The last of the steps comes after the last of the training.
        length, most, after = of.scheduler.T_max, 1, "its rate climbs again after that"
    else:
        raise Skipped(f"a {type(of.scheduler).__name__} does not say how long it is")
    steps = _done(of) + of.steps
    if not 0.95 * length <= steps <= length + most:
        early = "training ends with the rate not yet down"
        yield error(
            f"{type(of.scheduler).__name__} is {length} steps long but is stepped {steps} "
            f"times: {early if steps < length else after}",
            "give it the epochs if it is stepped once an epoch, else the epochs times the batches",
        )


def rate(of: Probe) -> Iterator[Issue]:
    """The rate is not 0."""
    if of.scheduler is None and not any(group["lr"] for group in of.optimizer.param_groups):
        yield error(
            "the optimizer has lr = 0 and no scheduler raises it",
            "give it a rate; resight.lr_range_test finds one",
        )


def fresh(of: Probe) -> Iterator[Issue]:
    """Nothing was trained before the first epoch."""
    signs = []
    states = of.optimizer.state.values()  # some optimizers have one from the start, of no steps
    if stepped := sum(1 for state in states if state and state.get("step", 1)):
        signs.append(f"the optimizer has stepped ({stepped} tensors have a state)")
    if of.tracked:
        signs.append(f"batch norm has seen {of.tracked} batches")
    if _done(of):
        signs.append(f"the scheduler is at step {_done(of)}")
    if signs:
        yield warning(
            f"this is not the beginning: {'; '.join(signs)}",
            "build model, optimizer and scheduler anew, unless it goes on from a checkpoint or "
            "from pretrained weights",
        )


def decay(of: Probe) -> Iterator[Issue]:
    """Weight decay acts on weights, and as a decay."""
    groups = [group for group in of.optimizer.param_groups if group.get("weight_decay")]
    flat = [p for group in groups for p in group["params"] if p.ndim <= 1 and p.requires_grad]
    if flat:
        yield warning(
            f"weight decay acts on {len(flat)} tensors of one dimension: biases, and the scales "
            "of norms",
            "put them in a group of their own with weight_decay=0",
        )
    coupled = type(of.optimizer) is Adam and not of.optimizer.defaults.get("decoupled_weight_decay")
    if groups and coupled:
        yield warning(
            "Adam adds weight decay to the gradient and then divides by the gradient's size, so "
            "weights with large gradients hardly decay",
            "use AdamW (Loshchilov and Hutter 2019)",
        )


def named(names: Sequence[str], most: int = 3) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _done(of: Probe) -> int:
    """Steps of the scheduler so far."""
    return max(0, getattr(of.scheduler, "last_epoch", 0) or 0)


def _rates(optimizer: Optimizer) -> str:
    return ", ".join(f"{group['lr']:g}" for group in optimizer.param_groups)
