"""Check what the network makes of a batch, in training and in evaluation mode."""

from collections.abc import Iterator

import torch

from ..networks.eval_mode import eval_mode
from ..networks.outputs import take_logits
from .issues import Issue, Skipped, error, first_names, note, warning
from .probe import BATCH_NORMS, DROPOUT, Probe, are_class_numbers, has_class_rows
from .samples import class_names, dataset_labels, some_rows

MAX_DROPOUT = 0.8


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
        last = probe.last_layer
        from_zero = last is not None and not bool(last.weight.any())
        yield (note if from_zero else warning)(
            "outputs are the same for every image",
            "let the last layer start at 0 only on purpose"
            if from_zero
            else "look for a layer that gives 0 throughout",
        )


def num_outputs(probe: Probe) -> Iterator[Issue]:
    """Check that the network has one output for each class.

    Why is this bad:
        Outputs that are no class are learned to be never right, and a pretrained head of 1000
        classes was not replaced. With a single output, cross entropy is always 0.
    Example:
        model.head = nn.Linear(8, 1000)
    Fix:
        Replace the last layer by one with as many outputs as there are classes, before the
        optimizer is built.
    """
    outputs, labels = probe.outputs, probe.targets
    if outputs.ndim != 2 or not are_class_numbers(labels):
        raise Skipped("needs outputs (N, K) and a class number an image")
    if outputs.shape[1] == 1:
        if float(probe.loss_of(outputs, labels)) == 0 == float(probe.loss_of(outputs + 1, labels)):
            yield error(
                "the network has one output, so cross entropy is always 0",
                "give it an output for each class, or use binary_cross_entropy_with_logits and "
                "labels that are floats (N, 1)",
            )
        return
    names, known = class_names(probe.source), dataset_labels(probe.source)
    every = known if known is not None else torch.cat([labels for _, labels in probe.batches])
    num_seen = int(every.max()) + 1 if len(every) else 0
    num_classes = max(len(names), num_seen) if names else num_seen
    mixed = bool((every.diff() < 0).any())  # of sorted data the first classes come first
    sure = names is not None or known is not None or (mixed and len(every) >= 5 * num_classes)
    # Of a few images not every class has one: at least a fifth of the outputs is idle then.
    if sure and outputs.shape[1] > (num_classes if names else 1.25 * num_classes):
        yield warning(
            f"the network has {outputs.shape[1]} outputs, and the data {num_classes} classes",
            "replace the last layer by one with an output for each class",
        )


def training_mode(probe: Probe) -> Iterator[Issue]:
    """Check that the model is in training mode before it is trained.

    Why is this bad:
        In evaluation mode dropout drops nothing, and batch norm keeps statistics that are not
        those of your images. Models of Hugging Face come in evaluation mode.
    Example:
        model.eval()
    Fix:
        Call `model.train()` at the begin of each epoch, after validation.
    """
    modal = [m for m in probe.model.modules() if isinstance(m, (*DROPOUT, *BATCH_NORMS))]
    if modal and not probe.was_training:
        yield note(
            "the model is in evaluation mode",
            "call model.train() before training, and after each validation",
        )


def dropout(probe: Probe) -> Iterator[Issue]:
    """Check that forward goes through every dropout layer, and that none drops nearly all.

    Why is this bad:
        A dropout layer that is never called regularizes nothing. One that drops nearly everything
        leaves too little to learn from; torch's p is the share to drop, not to keep.
    Example:
        model.extra = nn.Dropout(0.5)  # forward does not call it
    Fix:
        Call the layer in forward, or remove it.
    """
    layers = {name: m.p for name, m in probe.model.named_modules() if isinstance(m, DROPOUT)}
    if strong := [f"{name} (p={p:g})" for name, p in layers.items() if p > MAX_DROPOUT]:
        yield warning(
            f"nearly everything is dropped by {first_names(strong)}",
            "p is the share that is dropped, not the share that is kept",
        )
    idle = probe.trace.idle_dropout
    if idle:
        yield warning(
            f"forward did not go through {first_names(idle)}",
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
    singles = [some_rows(probe.inputs, slice(n, n + 1)) for n in range(min(4, len(probe.images)))]
    with eval_mode(probe.model):
        first, second = (take_logits(probe.model(probe.inputs))[0] for _ in range(2))
        alone = torch.cat([take_logits(probe.model(single))[0] for single in singles])
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
    elif float((alone - first[: len(alone)]).abs().max()) > close:
        yield error(
            "in evaluation mode the output for an image depends on the other images in its batch",
            "look for a norm without running statistics, or a view() that mixes images",
        )


def _mean_size(outputs: torch.Tensor) -> float:
    """Return the mean absolute value of the outputs, and never 0."""
    return max(float(outputs.float().abs().mean()), 1e-12)
