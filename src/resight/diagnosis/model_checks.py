"""What the network makes of a batch, and what the loss makes of that."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from ..networks.eval_mode import eval_mode
from .issues import Issue, Skipped, error, warning
from .optimizer_checks import named
from .probe import Probe, ignored


def outputs(of: Probe) -> Iterator[Issue]:
    """Finite numbers, which depend on the image."""
    found = of.outputs
    if found.ndim != 2 or found.shape[1] < 2:
        raise Skipped(f"needs outputs (N, K), a logit a class; these are {tuple(found.shape)}")
    if not bool(found.isfinite().all()):
        yield error(
            "outputs are NaN or infinite before the first step",
            "look at the pixels, and for a division by 0 or a log of 0",
        )
    elif len(found) > 1 and float(found.float().std(dim=0).max()) <= 1e-6 * _size(found):
        yield warning(
            "outputs are the same for every image",
            "look for a layer that gives 0 throughout, unless the last one begins so on purpose",
        )


def logits(of: Probe) -> Iterator[Issue]:
    """The loss takes what the model gives: logits, log-probabilities or probabilities.

    Cross entropy of logits does not change when a number is added to all of them, as its softmax
    takes it out; the negative log likelihood falls in proportion to that number.
    """
    labels, found = of.labels, of.outputs.float()
    zero, three, six = (of.loss_of(found + added, labels) for added in (0, 3, 6))
    unmoved = abs(six - zero) <= 1e-3 * max(1.0, abs(zero))
    falls = zero - three > 0.5 and abs((zero - six) - 2 * (zero - three)) < 0.01 * (zero - six)
    if of.kind == "probabilities" and unmoved:
        yield error(
            "the model gives probabilities, and the loss takes a softmax of them: the loss can "
            f"then not fall below {_floor(found.shape[1]):.2f}",
            "leave out the softmax at the end of the model",
        )
    elif of.kind == "log-probabilities" and unmoved:
        yield warning(
            "the model ends in a log-softmax, and the loss takes another, which changes nothing",
            "leave one of the two out",
        )
    elif falls and of.kind != "log-probabilities":
        yield error(
            f"the loss expects log-probabilities, and the model gives {of.kind}: it falls without "
            "bound",
            "use cross entropy, or end the model in a log-softmax",
        )


def mean_loss(of: Probe) -> Iterator[Issue]:
    """The loss is a mean over images, and depends on the labels.

    Asked of made-up outputs of the same kind, as those of a fresh network may all be equal.
    """
    labels = of.labels[of.labels != ignored(of.loss_fn)]
    if len(labels) < 2:
        raise Skipped("needs two images in a batch")
    made_up = torch.randn(len(labels), of.outputs.shape[1]).to(labels.device)
    if of.kind != "logits":
        made_up = made_up.log_softmax(dim=1)
        made_up = made_up.exp() if of.kind == "probabilities" else made_up
    once = of.loss_of(made_up, labels)
    twice = of.loss_of(made_up.repeat(2, 1), labels.repeat(2))
    if once and abs(twice / once - 0.5) < 0.05:
        yield error(
            "the same images twice over have half the loss: a mean is divided by the number of "
            "images again, and steps are that much too short",
            "divide once",
        )
    elif once and abs(twice / once - 2) < 0.2:
        yield warning(
            "the loss is a sum over images, so the best rate depends on the size of a batch",
            "take the mean",
        )
    if once == of.loss_of(made_up, (labels + 1) % made_up.shape[1]):
        yield error(
            "the loss is the same with every label changed",
            "look at what loss_fn does with its second argument",
        )


def start(of: Probe) -> Iterator[Issue]:
    """Before the first step, the loss is that of guessing: log K.

    Who knows how frequent each class is guesses better, at the entropy of the labels.
    """
    rows = of.labels != ignored(of.loss_fn)
    labels, classes = of.labels[rows].long(), of.outputs.shape[1]
    found = float(F.cross_entropy(of.outputs[rows].float(), labels))
    share = torch.bincount(labels, minlength=classes) / len(labels)
    entropy, chance = float(torch.special.entr(share).sum()), math.log(classes)
    if found < 0.5 * entropy:
        yield warning(
            f"cross entropy is {found:.2f}, where guessing has {entropy:.2f}: already trained, or "
            "images tell their labels",
            "start from a freshly built model",
        )
    elif found > 2 * chance:
        yield warning(
            f"cross entropy is {found:.2f}, where guessing has {chance:.2f}: the network is wrong "
            f"and sure, with outputs up to {float(of.outputs.abs().max()):.0f}",
            "begin the last layer smaller, or warm the rate up for longer",
        )


def gradients(of: Probe) -> Iterator[Issue]:
    """The loss reaches every parameter."""
    if not of.gradients:
        raise Skipped("every parameter is frozen")
    idle = [name for name, gradient in of.gradients.items() if gradient is None]
    if len(idle) == len(of.gradients):
        yield error(
            "the loss has no gradient in any parameter",
            "look for detach(), no_grad() or .item() between model and loss",
        )
    elif idle:
        yield warning(
            f"{len(idle)} tensors have no gradient in the loss of this batch: {named(idle)}",
            "look for layers that forward does not call, and for detach() or no_grad() behind "
            "them; blocks that are skipped by chance are well",
        )
    bad = [n for n, g in of.gradients.items() if g is not None and not bool(g.isfinite().all())]
    if bad:
        yield error(
            f"gradients are NaN or infinite in {named(bad)}",
            "look at the pixels and the loss of the first batch",
        )


def dropout(of: Probe) -> Iterator[Issue]:
    """Dropout layers act in training."""
    if of.idle_dropout:
        yield warning(
            f"{named(of.idle_dropout)}: forward did not go through it",
            "call it, or take it out; well where only its p is used, or blocks are skipped",
        )


def evaluation(of: Probe) -> Iterator[Issue]:
    """In evaluation mode an image has one answer, whatever is beside it in the batch."""
    with eval_mode(of.model):
        one, two, alone = (of.model(x) for x in (of.images, of.images, of.images[:1]))
    close = 0.02 * _size(one)
    if not bool(one.isfinite().all()):
        yield error(
            "outputs are NaN or infinite in evaluation mode",
            "look at the running statistics of the norms",
        )
    elif float((one - two).abs().max()) > close:
        yield error(
            "in evaluation mode the same images get other answers each time",
            "pass training=self.training to F.dropout, or use nn.Dropout",
        )
    elif float((alone - one[:1]).abs().max()) > close:
        yield error(
            "in evaluation mode an image's answer depends on the others in its batch",
            "look for a norm without running statistics, or a view() that mixes images",
        )


def _size(found: torch.Tensor) -> float:
    """The usual size of an output."""
    return max(float(found.float().abs().mean()), 1e-12)


def _floor(classes: int) -> float:
    """Cross entropy of a softmax over probabilities, at its lowest: one is 1, the others 0."""
    return math.log(math.e + classes - 1) - 1
