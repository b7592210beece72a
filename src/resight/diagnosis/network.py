"""What the network makes of a batch, and what the loss makes of that."""

from collections.abc import Iterator

import torch

from ..findings import Finding, LeftOut
from .patient import Patient
from .wiring import named


def outputs(of: Patient) -> Iterator[Finding]:
    """One row of finite numbers an image, which depend on the image."""
    found = of.outputs
    if found.ndim != 2 or len(found) != len(of.evaluated[0]) or found.shape[1] < 2:
        yield Finding(
            "outputs",
            "fault",
            f"the model gives {tuple(found.shape)} of a batch",
            "a classifier gives (N, K): a logit a class, for each image",
        )
    elif not bool(found.isfinite().all()):
        yield Finding(
            "outputs",
            "fault",
            "outputs are NaN or infinite before the first step",
            "look at the pixels, and for a division by 0 or a log of 0",
        )
    elif len(found) > 1 and float(found.float().std(dim=0).max()) <= 1e-6 * _size(found):
        yield Finding(
            "outputs",
            "doubt",
            "outputs are the same for every image",
            "look for a layer that gives 0 throughout, unless the last one begins so on purpose",
        )


def logits(of: Patient) -> Iterator[Finding]:
    """The loss takes what the model gives: logits, log-probabilities or probabilities.

    Cross entropy of logits does not change when a number is added to all of them, as its softmax
    takes it out; the negative log likelihood falls by that number.
    """
    labels, found = of.labels, of.outputs.float()
    before, after = of.loss_of(found, labels), of.loss_of(found + 3, labels)
    unmoved = abs(after - before) <= 1e-3 * max(1.0, abs(before))
    falls = abs(before - after - 3) <= 1e-3 * max(1.0, abs(before))
    sums = found.exp().sum(dim=1)
    log_probs = bool((found <= 1e-6).all()) and torch.allclose(sums, torch.ones_like(sums), 1e-3)
    sums = found.sum(dim=1)
    probs = bool((found >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), 1e-3)
    if probs and unmoved:
        yield Finding(
            "logits",
            "fault",
            "the model gives probabilities, and the loss takes a softmax of them: the loss can "
            f"then not fall below {_floor(found.shape[1]):.2f}",
            "leave out the softmax at the end of the model",
        )
    elif log_probs and unmoved:
        yield Finding(
            "logits",
            "doubt",
            "the model ends in a log-softmax, and the loss takes another, which changes nothing",
            "leave one of the two out",
        )
    elif falls and not log_probs:
        yield Finding(
            "logits",
            "fault",
            "the loss expects log-probabilities, and the model gives "
            f"{'probabilities' if probs else 'logits'}: it falls without bound",
            "use cross entropy, or end the model in a log-softmax",
        )


def mean_loss(of: Patient) -> Iterator[Finding]:
    """The loss is a mean over images, and depends on the labels."""
    labels, found = of.labels, of.outputs
    if len(labels) < 2 or of.loss == 0:
        raise LeftOut("needs two images in a batch")
    once = of.loss_of(found, labels)
    twice = of.loss_of(torch.cat([found, found]), torch.cat([labels, labels]))
    if abs(twice / once - 0.5) < 0.05:
        yield Finding(
            "mean loss",
            "fault",
            "the same images twice over have half the loss: a mean is divided by the number of "
            "images again, and steps are that much too short",
            "divide once",
        )
    elif abs(twice / once - 2) < 0.2:
        yield Finding(
            "mean loss",
            "doubt",
            "the loss is a sum over images, so the best rate depends on the size of a batch",
            "take the mean",
        )
    others = (labels + 1) % found.shape[1]
    if once == of.loss_of(found, others):
        yield Finding(
            "mean loss",
            "fault",
            "the loss is the same with every label changed",
            "look at what loss_fn does with its second argument",
        )


def start(of: Patient) -> Iterator[Finding]:
    """Before the first step, the loss is that of guessing: log K."""
    labels, chance = of.labels, of.chance
    found = float(torch.nn.functional.cross_entropy(of.outputs.float(), labels.long()))
    if found < 0.5 * chance:
        yield Finding(
            "start",
            "doubt",
            f"cross entropy is {found:.2f}, where guessing has {chance:.2f}: already trained, or "
            "images tell their labels",
            "start from a freshly built model",
        )
    elif found > 2 * chance:
        yield Finding(
            "start",
            "doubt",
            f"cross entropy is {found:.2f}, where guessing has {chance:.2f}: the network is wrong "
            f"and sure, with logits up to {float(of.outputs.abs().max()):.0f}",
            "begin the last layer smaller, or warm the rate up for longer",
        )


def gradients(of: Patient) -> Iterator[Finding]:
    """The loss reaches every parameter."""
    idle = [name for name, gradient in of.gradients.items() if gradient is None]
    if len(idle) == len(of.gradients):
        yield Finding(
            "gradients",
            "fault",
            "the loss has no gradient in any parameter",
            "look for detach(), no_grad() or .item() between model and loss",
        )
    elif idle:
        yield Finding(
            "gradients",
            "fault",
            f"{len(idle)} tensors have no gradient, so forward does not use them: {named(idle)}",
            "call those layers, or take them out",
        )
    bad = [n for n, g in of.gradients.items() if g is not None and not bool(g.isfinite().all())]
    if bad:
        yield Finding(
            "gradients",
            "fault",
            f"gradients are NaN or infinite in {named(bad)}",
            "look at the pixels and the loss of the first batch",
        )


def dropout(of: Patient) -> Iterator[Finding]:
    """Dropout layers act in training."""
    if of.idle_dropout:
        yield Finding(
            "dropout",
            "fault",
            f"{named(of.idle_dropout)} is configured and forward never goes through it",
            "call it, or take it out",
        )


def evaluation(of: Patient) -> Iterator[Finding]:
    """In evaluation mode an image has one answer, whatever is beside it in the batch."""
    one, two = of.evaluated
    if one.ndim != 2:
        raise LeftOut("needs outputs (N, K)")
    close = 0.02 * _size(one)
    if float((one - two).abs().max()) > close:
        yield Finding(
            "evaluation",
            "fault",
            "in evaluation mode the same images get other answers each time",
            "pass training=self.training to F.dropout, or use nn.Dropout",
        )
    elif len(one) > 1 and float((of.alone - one[:1]).abs().max()) > close:
        yield Finding(
            "evaluation",
            "fault",
            "in evaluation mode an image's answer depends on the others in its batch",
            "look for a norm without running statistics, or a view() that mixes images",
        )


def _size(found: torch.Tensor) -> float:
    """The usual size of an output."""
    return max(float(found.float().abs().mean()), 1e-12)


def _floor(classes: int) -> float:
    """Cross entropy of a softmax over probabilities, at its lowest: one is 1, the others 0."""
    return float(torch.log(torch.e + torch.tensor(classes - 1.0))) - 1
