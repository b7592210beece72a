"""Check one step of your loop: its gradients, and what thirty of them learn from one batch."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..networks.outputs import take_logits
from ..training.restore import preserve_state, seed_everything
from .issues import Issue, Skipped, error, warning
from .probe import BATCH_NORMS, DROPOUT, Probe
from .samples import some_rows

NUM_STEPS = 30  # on one batch
NUM_IMAGES = 64
CLIPPED = 0.02  # of a gradient's norm: what is left does not depend on the gradient's size
NUM_SEEDS, MAX_SHIFTS = 3, 32  # of a step; by which labels are given to other images


@dataclass
class Steps:
    """What an optimizer saw while a step ran."""

    gradients: list[dict[str, Tensor]] = field(default_factory=list)  # at each optimizer.step()
    training: list[bool] = field(default_factory=list)
    moved: bool = False  # whether a weight of the model changed
    after: float = 0.0  # the norm of the gradients after the step


def step_gradient(probe: Probe) -> Iterator[Issue]:
    """Check that a step uses the gradient of its batch, once, and changes the weights.

    The check makes the same step twice, with the same weights and the same random numbers.

    Why is this bad:
        Without `zero_grad()` gradients of all batches add up. If it comes between `backward()` and
        `optimizer.step()`, nothing is learned. In evaluation mode batch norm and dropout do not
        train.
    Example:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


        def step(images, labels):
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    Fix:
        Call `optimizer.zero_grad()`, the model, `loss.backward()` and `optimizer.step()`, in this
        order.
    """
    first, second = _two_steps(probe)
    if not first.gradients:
        yield error("step does not call optimizer.step()", "call it after loss.backward()")
        return
    if len(first.gradients) > 1:
        yield warning(
            f"step calls optimizer.step() {len(first.gradients)} times for a batch",
            "call it once, after loss.backward()",
        )
    yield from _gradient_issues(probe, first, second)
    modal = any(isinstance(m, (*DROPOUT, *BATCH_NORMS)) for m in probe.model.modules())
    if modal and not any(first.training):
        yield error(
            "the model is in evaluation mode while it is trained",
            "call model.train() before the step",
        )


def step_clipping(probe: Probe) -> Iterator[Issue]:
    """Check that gradients are clipped before the step, and not to nearly nothing.

    Why is this bad:
        After the step, clipping has no effect. If the limit is far below the usual norm, every
        step has the same length, and the learning rate means something else.
    Example:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


        def step(images, labels):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1e-4)
            optimizer.step()
    Fix:
        Clip between `backward()` and `optimizer.step()`, at about the usual norm or above it.
    """
    steps, _ = _two_steps(probe)
    norm = _norm(steps.gradients[-1]) if steps.gradients else 0.0
    whole = _norm({n: g for n, g in probe.gradients.items() if g is not None})
    if not norm or not whole:
        raise Skipped("needs a step with a gradient")
    if 0 < steps.after < 0.999 * norm:
        yield error(
            f"gradients are clipped after optimizer.step(), from a norm of {norm:.3g} to "
            f"{steps.after:.3g}",
            "clip between loss.backward() and optimizer.step()",
        )
    elif norm < CLIPPED * whole:
        yield warning(
            f"the gradient has a norm of {whole:.3g}, and the optimizer gets one of {norm:.3g}",
            "raise the limit of clipping, or look for a factor of the loss",
        )


def step_learning(probe: Probe) -> Iterator[Issue]:
    """Check that thirty steps on one batch lower its loss, by what belongs to each image.

    The gradient of the step is compared with the gradients of the batch: with its labels, and with
    each label given to another image. It is to be nearest to the gradient with its labels.

    Why is this bad:
        A loop that cannot learn a single batch by heart cannot learn a data set. If the gradient is
        that of any labels, images or labels got lost or shuffled on the way.
    Example:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


        def step(images, labels):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels.roll(1)).backward()
            optimizer.step()
    Fix:
        Look at what the step gives to the model and to the loss, and at the learning rate.
    """
    _needs_step(probe)
    inputs, labels = (some_rows(part, slice(NUM_IMAGES)) for part in (probe.inputs, probe.targets))
    if not isinstance(labels, Tensor) or len(labels) < 4:
        raise Skipped("needs four images in a batch, and a label for each")
    before, after, outputs = _learn(probe, inputs, labels)
    if not math.isfinite(after):
        yield error(
            f"after {NUM_STEPS} steps on one batch the loss is {after}",
            "lower the rate; resight.lr_range_test finds one",
        )
    elif outputs.std(dim=0).max() <= 1e-6 * outputs.abs().mean() and len(outputs) > 1:
        yield error(
            f"after {NUM_STEPS} steps on one batch the outputs are the same for every image",
            "lower the rate: too large steps leave units that give 0 for every image",
        )
    elif after >= before:
        yield error(
            f"the loss of one batch does not fall in {NUM_STEPS} steps on it: from {before:.3g} to "
            f"{after:.3g}",
            "look at the images, the labels and the loss of the step, and at the rate",
        )
    elif (share := _nearer_labels(probe, inputs, labels)) > 0.1:
        yield error(
            f"the gradient of a step is nearer to the one with labels of other images than to the "
            f"one with its own, in {share:.0%} of the ways to shift labels",
            "look at whether the step changes images or labels apart from each other",
        )


def _gradient_issues(probe: Probe, first: Steps, second: Steps) -> Iterator[Issue]:
    """Judge the gradients that two equal steps give to the optimizer."""
    norm, other = _norm(first.gradients[0]), _norm(second.gradients[0] if second.gradients else {})
    rates = any(group["lr"] for group in probe.optimizer.param_groups)
    if norm == 0:
        yield error(
            "the gradients are 0 when optimizer.step() is called",
            "call zero_grad() before backward(), not after it, and see that the loss is of this "
            "model's outputs",
        )
    elif not first.moved and rates:
        yield error(
            "optimizer.step() changes no weight of this model",
            "build the optimizer from the parameters of the model that is trained",
        )
    elif abs(other / norm - 2) < 0.02 and _cosine(first.gradients[0], second.gradients[0]) > 0.99:
        yield error(
            "the second step on a batch has twice the gradient of the first: gradients add up",
            "call optimizer.zero_grad() in each step",
        )


def _needs_step(probe: Probe) -> None:
    if probe.step is None:
        raise Skipped("needs step=, a function of images and labels that makes one step")


def _two_steps(probe: Probe) -> tuple[Steps, Steps]:
    """Make the same step twice; gradients stay in between, and all is restored at the end."""
    _needs_step(probe)
    with _restored(probe):
        weights = [(p, p.detach().clone()) for p in probe.model.parameters()]
        first = _one_step(probe, probe.inputs, probe.targets)
        with torch.no_grad():
            for parameter, before in weights:
                parameter.copy_(before)
        return first, _one_step(probe, probe.inputs, probe.targets)


def _learn(probe: Probe, inputs: Any, labels: Tensor) -> tuple[float, float, Tensor]:
    """Return the loss of a batch before and after NUM_STEPS steps on it, and the last outputs."""
    with _restored(probe):
        before = _loss(probe, inputs, labels)
        for _ in range(NUM_STEPS):
            probe.step(inputs, labels)
        return before, _loss(probe, inputs, labels), _outputs(probe, inputs).float()


def _nearer_labels(probe: Probe, inputs: Any, labels: Tensor) -> float:
    """Return the share of shifted labels whose gradient is nearer to the step's than the true."""
    with _restored(probe):
        steps = []
        for seed in range(NUM_SEEDS):  # of random transforms inside the step
            with _restored(probe):
                steps.append(_one_step(probe, inputs, labels, seed=seed))
        made = [step.gradients[0] for step in steps if step.gradients]
        if not made or not all(map(_norm, made)):
            return 0.0
        cosines = []
        for shift in range(min(len(labels), MAX_SHIFTS)):
            gradient = _gradient(probe, inputs, labels.roll(shift, 0))
            cosines.append(sum(_cosine(gradient, one) for one in made))
    return sum(cosine >= cosines[0] for cosine in cosines[1:]) / (len(cosines) - 1)


def _gradient(probe: Probe, inputs: Any, labels: Tensor) -> dict[str, Tensor]:
    """Return the gradient of the loss of a batch in training mode."""
    seed_everything(0, probe.outputs.device)
    named = {name: p for name, p in probe.model.named_parameters() if p.requires_grad}
    probe.model.train()
    loss = probe.loss_fn(take_logits(probe.model(inputs))[0], labels)
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: g for n, g in zip(named, gradients, strict=True) if g is not None}


def _one_step(probe: Probe, inputs: Any, labels: Any, *, seed: int = 0) -> Steps:
    """Make a step on a batch, and record what the optimizer gets."""
    steps, named = Steps(), dict(probe.model.named_parameters())
    seed_everything(seed, probe.outputs.device)
    before = {name: p.detach().clone() for name, p in named.items()}

    def record(*_: object) -> None:
        grads = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
        steps.gradients.append(grads)
        steps.training.append(probe.model.training)

    handle = probe.optimizer.register_step_pre_hook(record)
    try:
        probe.step(inputs, labels)
    finally:
        handle.remove()
    steps.moved = any(not torch.equal(p, before[name]) for name, p in named.items())
    steps.after = _norm({name: p.grad for name, p in named.items() if p.grad is not None})
    return steps


@contextmanager
def _restored(probe: Probe) -> Iterator[None]:
    """Restore model, optimizer, loss and scheduler at the end."""
    modules = [m for m in (probe.model, probe.loss_fn) if isinstance(m, nn.Module)]
    scheduler: Any = probe.scheduler
    state = scheduler.state_dict() if hasattr(scheduler, "load_state_dict") else None
    optimizer: Optimizer = probe.optimizer
    try:
        with preserve_state(optimizer, *modules):
            yield
    finally:
        if state is not None:
            rates = [dict(group) for group in optimizer.param_groups]
            scheduler.load_state_dict(state)
            for group, kept in zip(optimizer.param_groups, rates, strict=True):
                group.update(kept)


def _outputs(probe: Probe, inputs: Any) -> Tensor:
    """Return the outputs for a batch in training mode, each time with the same random numbers."""
    seed_everything(0, probe.outputs.device)
    probe.model.train()
    with torch.no_grad():
        return take_logits(probe.model(inputs))[0]


def _loss(probe: Probe, inputs: Any, labels: Tensor) -> float:
    return probe.loss_of(_outputs(probe, inputs), labels)


def _norm(gradients: dict[str, Tensor]) -> float:
    return math.sqrt(sum(float(g.float().square().sum()) for g in gradients.values()))


def _cosine(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the cosine of two gradients."""
    product = sum(float((one[name] * other[name]).sum()) for name in one.keys() & other.keys())
    return product / max(_norm(one) * _norm(other), 1e-30)
