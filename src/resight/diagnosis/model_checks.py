"""Check what the network makes of a batch, and what the loss makes of the outputs."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from ..networks.eval_mode import eval_mode
from .issues import Issue, Skipped, error, first_names, warning
from .probe import Probe, has_class_rows, ignored_label


def outputs(probe: Probe) -> Iterator[Issue]:
    """Check that outputs are finite and differ from image to image.

    Why is this bad:
        Outputs that are NaN stay NaN. Outputs that do not depend on the image carry no
        information, and often no gradient.
    Example:
        with torch.no_grad():
            model.conv.weight.fill_(float("nan"))
    Fix:
        Look at the pixels, and look for a division by 0, a log of 0, or a layer that gives 0
        throughout.
    """
    logits = probe.outputs
    if not has_class_rows(logits):
        raise Skipped(
            f"needs outputs (N, K), a logit a class; their shape is {tuple(logits.shape)}"
        )
    if not bool(logits.isfinite().all()):
        yield error(
            "outputs are NaN or infinite before the first step",
            "look at the pixels, and for a division by 0 or a log of 0",
        )
    elif len(logits) > 1 and float(logits.float().std(dim=0).max()) <= 1e-6 * _mean_size(logits):
        yield warning(
            "outputs are the same for every image",
            "look for a layer that gives 0 throughout, unless the last one starts at 0 on purpose",
        )


def logits(probe: Probe) -> Iterator[Issue]:
    """Check that the loss takes what the model gives: logits, log-probabilities or probabilities.

    Cross entropy does not change when a number is added to all logits, because its softmax removes
    the number. The negative log likelihood falls in proportion to the number.

    Why is this bad:
        After a softmax in the model, cross entropy takes a second softmax: the loss falls slowly,
        and never near 0. A negative log likelihood of logits falls without bound.
    Example:
        model = nn.Sequential(model, nn.Softmax(dim=1))
        loss_fn = nn.CrossEntropyLoss()
    Fix:
        Let the model give logits and use cross entropy.
    """
    labels, values = probe.labels, probe.outputs.float()
    zero, three, six = (probe.loss_of(values + added, labels) for added in (0, 3, 6))
    unmoved = abs(six - zero) <= 1e-3 * max(1.0, abs(zero))
    falls = zero - three > 0.5 and abs((zero - six) - 2 * (zero - three)) < 0.01 * (zero - six)
    if probe.kind == "probabilities" and unmoved:
        # The lowest cross entropy of probabilities: one of them is 1, the rest are 0.
        lowest = math.log(math.e + values.shape[1] - 1) - 1
        yield error(
            "the model gives probabilities, and the loss takes a softmax of them: the loss can "
            f"then not fall below {lowest:.2f}",
            "remove the softmax at the end of the model",
        )
    elif probe.kind == "log-probabilities" and unmoved:
        yield warning(
            "the model ends in a log-softmax, and the loss takes another, which changes nothing",
            "remove one of the two",
        )
    elif falls and probe.kind != "log-probabilities":
        yield error(
            f"the loss expects log-probabilities, and the model gives {probe.kind}: the loss falls "
            "without bound",
            "use cross entropy, or end the model in a log-softmax",
        )


def mean_loss(probe: Probe) -> Iterator[Issue]:
    """Check that the loss is a mean over images and depends on the labels.

    The check gives the loss random outputs, because those of an untrained network may all be equal.

    Why is this bad:
        A mean that is divided by the number of images again makes every step that much too short.
        A sum ties the best learning rate to the batch size. A loss without labels teaches nothing.
    Example:
        def loss_fn(outputs, labels):
            return F.cross_entropy(outputs, labels) / len(labels)
    Fix:
        Divide once: torch's losses are means already.
    """
    labels = probe.labels[probe.labels != ignored_label(probe.loss_fn)]
    if len(labels) < 2:
        raise Skipped("needs two images in a batch")
    random_outputs = torch.randn(len(labels), probe.outputs.shape[1]).to(labels.device)
    if probe.kind != "logits":
        random_outputs = random_outputs.log_softmax(dim=1)
    if probe.kind == "probabilities":
        random_outputs = random_outputs.exp()
    once = probe.loss_of(random_outputs, labels)
    twice = probe.loss_of(random_outputs.repeat(2, 1), labels.repeat(2))
    if once and abs(twice / once - 0.5) < 0.05:
        yield error(
            "the loss halves when every image is given twice: a mean is divided by the number of "
            "images again, and steps are that much too short",
            "divide once",
        )
    elif once and abs(twice / once - 2) < 0.2:
        yield warning(
            "the loss is a sum over images, so the best rate depends on the size of a batch",
            "take the mean",
        )
    if once == probe.loss_of(random_outputs, (labels + 1) % random_outputs.shape[1]):
        yield error(
            "the loss is the same with every label changed",
            "look at what loss_fn does with its second argument",
        )


def first_loss(probe: Probe) -> Iterator[Issue]:
    """Check that the loss before the first step is that of guessing.

    Guessing has log K with K classes. If some classes are more frequent, it can be as low as the
    entropy of the labels.

    Why is this bad:
        A much lower loss means that the model was trained before, or that images tell their
        labels. A much higher loss means that the network is wrong and sure, and the first steps
        are spent on unlearning.
    Example:
        with torch.no_grad():
            model.head.weight *= 200
    Fix:
        Start from a newly built model, and initialize the last layer with small weights.
    """
    rows = probe.labels != ignored_label(probe.loss_fn)
    labels, classes = probe.labels[rows].long(), probe.outputs.shape[1]
    loss = float(F.cross_entropy(probe.outputs[rows].float(), labels))
    share = torch.bincount(labels, minlength=classes) / len(labels)
    entropy, chance = float(torch.special.entr(share).sum()), math.log(classes)
    if loss < 0.5 * entropy:
        yield warning(
            f"cross entropy is {loss:.2f}, where guessing has {entropy:.2f}: already trained, or "
            "images tell their labels",
            "start from a newly built model",
        )
    elif loss > 2 * chance:
        yield warning(
            f"cross entropy is {loss:.2f}, where guessing has {chance:.2f}: the network is wrong "
            f"and sure, with outputs up to {float(probe.outputs.abs().max()):.0f}",
            "start with smaller weights in the last layer, or warm the rate up for longer",
        )


def gradients(probe: Probe) -> Iterator[Issue]:
    """Check that the loss reaches every parameter with a finite gradient.

    Why is this bad:
        A parameter without a gradient never learns: its layer is not called, or something cuts
        the graph between it and the loss.
    Example:
        def loss_fn(outputs, labels):
            return F.cross_entropy(outputs.detach(), labels)
    Fix:
        Call the layer in forward, and look for `detach()`, `no_grad()` or `.item()` on the way.
    """
    if not probe.gradients:
        raise Skipped("every parameter is frozen")
    idle = [name for name, gradient in probe.gradients.items() if gradient is None]
    if len(idle) == len(probe.gradients):
        yield error(
            "the loss has no gradient in any parameter",
            "look for detach(), no_grad() or .item() between model and loss",
        )
    elif idle:
        yield warning(
            f"{len(idle)} tensors have no gradient in the loss of this batch: {first_names(idle)}",
            "look for layers that forward does not call, and for detach() or no_grad() behind "
            "them; ignore it if blocks are skipped at random",
        )
    bad = [n for n, g in probe.gradients.items() if g is not None and not bool(g.isfinite().all())]
    if bad:
        yield error(
            f"gradients are NaN or infinite in {first_names(bad)}",
            "look at the pixels and the loss of the first batch",
        )


def dropout(probe: Probe) -> Iterator[Issue]:
    """Check that forward goes through every dropout layer.

    Why is this bad:
        A dropout layer that is never called regularizes nothing.
    Example:
        model.extra = nn.Dropout(0.5)  # forward does not call it
    Fix:
        Call the layer in forward, or remove it.
    """
    if probe.idle_dropout:
        yield warning(
            f"forward did not go through {first_names(probe.idle_dropout)}",
            "call it, or remove it; ignore it if only its p is used, or blocks are skipped",
        )


def evaluation_mode(probe: Probe) -> Iterator[Issue]:
    """Check that an image has one output in evaluation mode, whatever else is in the batch.

    Why is this bad:
        If the output is random, or depends on the other images, then so do the accuracy and every
        prediction.
    Example:
        class Noisy(nn.Sequential):
            def forward(self, images):
                return F.dropout(super().forward(images), 0.5)  # in evaluation mode too


        model = Noisy(model)
    Fix:
        Use `nn.Dropout`, or pass `training=self.training` to `F.dropout`. Use norms with running
        statistics.
    """
    with eval_mode(probe.model):
        batches = (probe.images, probe.images, probe.images[:1])
        first, second, alone = (probe.model(images) for images in batches)
    close = 0.02 * _mean_size(first)
    if not bool(first.isfinite().all()):
        yield error(
            "outputs are NaN or infinite in evaluation mode",
            "look at the running statistics of the norms",
        )
    elif float((first - second).abs().max()) > close:
        yield error(
            "in evaluation mode the same images have other outputs each time",
            "pass training=self.training to F.dropout, or use nn.Dropout",
        )
    elif float((alone - first[:1]).abs().max()) > close:
        yield error(
            "in evaluation mode the output for an image depends on the other images in its batch",
            "look for a norm without running statistics, or a view() that mixes images",
        )


def _mean_size(outputs: torch.Tensor) -> float:
    """Return the mean absolute value of the outputs, and never 0."""
    return max(float(outputs.float().abs().mean()), 1e-12)
