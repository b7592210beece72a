"""Check what the loss makes of the outputs."""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from ..networks.eval_mode import eval_mode
from ..networks.outputs import take_logits
from .issues import Issue, Skipped, error, warning
from .probe import Probe, are_class_numbers, has_class_rows
from .samples import some_rows

NUM_IMAGES = 32  # that a loss is tried on one by one
LOSS_RANGE = (0.02, 50.0)  # of cross entropy; a weight of a part of a loss is in between
CE_LIMIT = 100  # classes up to which each is tried as a label


def logits(probe: Probe) -> Iterator[Issue]:
    """Check that the loss takes what the model gives: logits, log-probabilities or probabilities.

    Cross entropy does not change when a number is added to all logits, because its softmax removes
    the number. The negative log likelihood falls in proportion to the number. Logits grow with the
    weights of the last layer; what comes out of a sigmoid, a tanh or a ReLU does not.

    Why is this bad:
        After a softmax or a sigmoid in the model, cross entropy takes a second one: the loss falls
        slowly, and never near 0. A negative log likelihood of logits falls without bound.
    Example:
        model = nn.Sequential(model, nn.Softmax(dim=1))
        loss_fn = nn.CrossEntropyLoss()
    Fix:
        Let the model give logits and use cross entropy.
    """
    if not has_class_rows(probe.outputs) or not are_class_numbers(probe.targets):
        yield from _two_sigmoids(probe)
        return
    labels, values = probe.labels, probe.outputs.float()
    zero, three, six = (probe.loss_of(values + added, labels) for added in (0, 3, 6))
    unmoved = abs(six - zero) <= 1e-3 * max(1.0, abs(zero))
    falls = zero - three > 0.5 and abs((zero - six) - 2 * (zero - three)) < 0.01 * (zero - six)
    if probe.kind == "probabilities" and unmoved:
        yield error(
            "the model gives probabilities, and the loss takes a softmax of them: the loss can "
            f"then not fall below {_lowest_loss(values.shape[1], 1):.2f}",
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
    elif unmoved and zero:
        yield from _bounded_logits(probe)


def mean_loss(probe: Probe) -> Iterator[Issue]:
    """Check that the loss is a mean over images.

    The check gives the loss random outputs, because those of an untrained network may all be equal.

    Why is this bad:
        A mean that is divided by the number of images again, of the batch or of the data set, makes
        every step that much too short. A sum ties the best learning rate to the batch size.
    Example:
        def loss_fn(outputs, labels):
            return F.cross_entropy(outputs, labels) / len(labels)
    Fix:
        Divide once: torch's losses are means already.
    """
    labels = probe.labels[probe.counted]
    if len(labels) < 2:
        raise Skipped("needs two images in a batch")
    outputs = _random_outputs(probe, len(labels))
    once = probe.loss_of(outputs, labels)
    twice = probe.loss_of(outputs.repeat(2, 1), labels.repeat(2))
    factor = _cross_entropy_factor(probe, labels)
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
    elif factor is not None and not LOSS_RANGE[0] < factor < LOSS_RANGE[1]:
        yield error(
            f"the loss is {factor:.3g} times the mean cross entropy, and so are all gradients",
            "leave out the factor, for example a division by the size of the data set",
        )


def label_loss(probe: Probe) -> Iterator[Issue]:
    """Check that the loss depends on the label of each image, and on no other label.

    Why is this bad:
        A loss without labels teaches nothing. Outputs (N, 1) less labels (N,) are (N, N) numbers:
        every output is compared with every label. A class of weight 0, or the one that
        `ignore_index` names, is never learned.
    Example:
        loss_fn = nn.CrossEntropyLoss(ignore_index=0)
    Fix:
        Look at what the loss does with labels. Give outputs and labels one shape.
    """
    if not has_class_rows(probe.outputs) or not are_class_numbers(probe.targets):
        yield from _broadcast(probe)
        return
    labels = probe.labels[probe.counted]
    if len(labels) < 2:
        raise Skipped("needs two images in a batch")
    outputs = _random_outputs(probe, len(labels))
    if probe.loss_of(outputs, labels) == probe.loss_of(outputs, (labels + 1) % outputs.shape[1]):
        yield error(
            "the loss is the same with every label changed",
            "look at what loss_fn does with its second argument",
        )
    elif idle := _idle_classes(probe, outputs):
        yield warning(
            f"the loss does not count images of class {idle[0]}"
            + (f" and of {len(idle) - 1} other classes" if len(idle) > 1 else ""),
            "look at ignore_index and at the weights of the classes",
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
    rows = probe.counted
    labels, classes = probe.labels[rows].long(), probe.outputs.shape[1]
    loss = float(F.cross_entropy(probe.outputs[rows].float(), labels))
    share = torch.bincount(labels, minlength=classes) / len(labels)
    entropy, chance = float(torch.special.entr(share).sum()), math.log(classes)
    if probe.is_better_than_guessing():
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


def _lowest_loss(classes: int, reach: float) -> float:
    """Return the lowest cross entropy of logits of which one is `reach` above all others."""
    return math.log(math.exp(reach) + classes - 1) - reach


def _random_outputs(probe: Probe, n: int) -> Tensor:
    """Return random outputs (n, K) of the kind that the model gives."""
    outputs = torch.randn(n, probe.outputs.shape[1]).to(probe.outputs.device)
    if probe.kind != "logits":
        outputs = outputs.log_softmax(dim=1)
    return outputs.exp() if probe.kind == "probabilities" else outputs


def _bounded_logits(probe: Probe) -> Iterator[Issue]:
    """Look at the outputs after the weights of the last layer were made large, both ways."""
    layer = probe.last_layer
    name = next((n for n, p in probe.model.named_parameters() if layer and p is layer.weight), None)
    if name is None:
        return
    inputs = some_rows(probe.inputs, slice(NUM_IMAGES))
    with eval_mode(probe.model):
        scaled = torch.cat(
            [
                take_logits(
                    functional_call(probe.model, {name: factor * layer.weight.detach()}, (inputs,))
                )[0]
                for factor in (1e3, -1e3)
            ]
        ).float()
    low, high = float(scaled.min()), float(scaled.max())
    if not math.isfinite(low + high) or low == high:
        return
    if low > -1.01 and high < 1.01:
        end = "a sigmoid" if low >= 0 else "a tanh, or vectors of length 1"
        lowest = _lowest_loss(scaled.shape[1], 1 if low >= 0 else 2)
        yield error(
            f"outputs stay between {0 if low >= 0 else -1} and 1 whatever the weights are, as "
            f"after {end}: the loss can then not fall below {lowest:.2f}",
            "end the model in a linear layer; multiply cosines by a scale",
        )
    elif low >= 0:
        yield error(
            "outputs are never below 0 whatever the weights are, as after a ReLU",
            "end the model in a linear layer, without a ReLU after it",
        )


def _two_sigmoids(probe: Probe) -> Iterator[Issue]:
    """Look for probabilities that are given to a loss which takes their sigmoid once more."""
    outputs, targets = probe.outputs.float(), probe.targets
    if (
        not isinstance(targets, Tensor)
        or targets.shape != outputs.shape
        or not (targets.is_floating_point() and bool(((targets >= 0) & (targets <= 1)).all()))
    ):
        raise Skipped("needs class numbers, or labels between 0 and 1 in the shape of the outputs")
    sure = (40 * (2 * targets - 1)).to(outputs.dtype)
    try:
        right, wrong = probe.loss_of(sure, targets), probe.loss_of(-sure, targets)
    except RuntimeError:  # binary cross entropy of probabilities refuses other numbers
        return
    takes_logits = abs(right) < 0.01 * abs(wrong)
    takes_logits = takes_logits and probe.loss_of(2 * sure, targets) < 0.01 * abs(wrong)
    if takes_logits and bool(((outputs >= 0) & (outputs <= 1)).all()) and len(outputs) > 1:
        yield error(
            "the model ends in a sigmoid, and the loss takes another: no probability can be below "
            "50 %",
            "remove the sigmoid at the end of the model",
        )


def _broadcast(probe: Probe) -> Iterator[Issue]:
    """Compare the loss of some images with the mean of the loss of each of them."""
    outputs, targets = probe.outputs[:NUM_IMAGES], probe.targets
    if not isinstance(targets, Tensor) or outputs.shape == targets[:NUM_IMAGES].shape:
        return
    targets = targets[:NUM_IMAGES]
    if outputs.numel() != targets.numel() or len(outputs) < 4:
        raise Skipped("needs four images in a batch, and an output for each label")
    right = targets.reshape(outputs.shape).to(outputs.dtype)  # what is compared shows best
    edges = pairwise(range(len(right) + 1))
    alone = [probe.loss_of(right[a:b], targets[a:b]) for a, b in edges]
    together, mean = probe.loss_of(right, targets), sum(alone) / len(alone)
    if abs(together - mean) > 0.01 * abs(mean) + 1e-6:
        yield error(
            f"outputs {tuple(probe.outputs.shape)} and labels {tuple(probe.targets.shape)} have "
            "other shapes, and the loss compares each output with each label",
            "give both one shape: outputs.squeeze(1), or labels[:, None]",
        )


def _cross_entropy_factor(probe: Probe, labels: Tensor) -> float | None:
    """Return by which constant the loss differs from cross entropy, if it does by one."""
    factors = []
    for scale in (0.5, 1.0, 2.0):
        outputs = _random_outputs(probe, len(labels)) * scale
        if probe.kind != "logits":
            return None
        factors.append(
            probe.loss_of(outputs, labels) / float(F.cross_entropy(outputs, labels.long()))
        )
    alike = max(factors) - min(factors) < 0.02 * abs(max(factors))
    return factors[0] if alike else None


def _idle_classes(probe: Probe, outputs: Tensor) -> list[int]:
    """Return the classes whose images the loss leaves out."""
    rows = outputs[:2]
    if outputs.shape[1] > CE_LIMIT:
        return []
    losses = [
        probe.loss_of(rows, probe.labels.new_full((len(rows),), c)) for c in range(outputs.shape[1])
    ]
    return [c for c, loss in enumerate(losses) if loss == 0 or not math.isfinite(loss)]
