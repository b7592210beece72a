"""Anyone's model, optimizer, loss and batches, and what one forward and backward pass showed."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import UsageError
from ..findings import LeftOut
from ..lr_range import LossFunction
from ..networks.modes import evaluating

BATCHES, IMAGES = 4, 256  # batches that are looked at, and images of each that are passed through
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@dataclass(frozen=True, kw_only=True, eq=False)
class Patient:
    """What the checks look at. Outputs are (B, K), detached."""

    model: nn.Module
    optimizer: Optimizer
    loss_fn: LossFunction
    scheduler: Any
    steps: int | None
    source: Any  # of the batches, as given
    val_batches: Any
    tracked: int  # batches that batch norm had seen before
    batches: tuple[tuple[Tensor, Tensor], ...]  # images (B, C, H, W), labels (B,)
    outputs: Tensor  # in training mode, of the first batch
    loss: float  # of these
    gradients: dict[str, Tensor | None]  # name of each trainable parameter -> its gradient
    idle_dropout: tuple[str, ...]  # dropout layers that the pass did not go through
    evaluated: tuple[Tensor, Tensor]  # in evaluation mode, of the same images, twice
    alone: Tensor  # (1, K) likewise, of the first image by itself

    @property
    def labels(self) -> Tensor:
        """(B,) the class of each image that gave `outputs`.

        Raises:
            LeftOut: labels are no class numbers, or outputs not a row of classes an image.
        """
        labels = self.batches[0][1][: len(self.outputs)]
        if self.outputs.ndim != 2 or labels.ndim != 1 or labels.is_floating_point():
            raise LeftOut("needs outputs (N, K) and a class number an image")
        return labels

    @property
    def chance(self) -> float:
        """The cross entropy of guessing among K classes."""
        return math.log(self.outputs.shape[1])

    def loss_of(self, outputs: Tensor, labels: Tensor) -> float:
        """Of outputs that need not be the model's."""
        with torch.no_grad():
            return float(self.loss_fn(outputs, labels))


def measure(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    *,
    scheduler: Any,
    steps: int | None,
    val_batches: Iterable[Any] | None,
) -> Patient:
    """Pass the first batch through, forward and backward; the caller gives everything back.

    Raises:
        UsageError: batches that are not (images, labels), or a loss that is not one number.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    pairs = tuple(pair(batch, device) for batch in islice(batches, BATCHES))
    if not pairs:
        raise UsageError("batches is empty; diagnosing needs at least one batch")
    images, labels = (part[:IMAGES] for part in pairs[0])
    counts = (int(b) for n, b in model.named_buffers() if n.endswith("num_batches_tracked"))
    tracked = max(counts, default=0)
    if not model.training:  # otherwise, a part that is frozen in evaluation mode stays so
        model.train()
    with torch.enable_grad(), _idle_dropout(model) as idle:
        outputs = model(images)
        _check_labels(outputs, pairs)
        loss = loss_fn(outputs, labels)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise UsageError("loss_fn must give one number, the mean of a batch")
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    with evaluating(model):
        evaluated, alone = (model(images), model(images)), model(images[:1])
    return Patient(
        model=model,
        optimizer=optimizer,
        loss_fn=loss_fn,
        scheduler=scheduler,
        steps=steps,
        source=batches,
        val_batches=val_batches,
        tracked=tracked,
        batches=pairs,
        outputs=outputs.detach(),
        loss=float(loss.detach()),
        gradients=gradients,
        idle_dropout=tuple(idle),
        evaluated=evaluated,
        alone=alone,
    )


def pair(batch: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and labels of a batch, on `device`; UsageError if it is no such pair."""
    if (
        not isinstance(batch, tuple | list)
        or len(batch) < 2
        or not all(isinstance(part, Tensor) for part in batch[:2])
    ):
        raise UsageError(
            f"a batch is a {type(batch).__name__}, not two tensors (images, labels); wrap the "
            "batches in a generator that gives pairs"
        )
    return batch[0].to(device), batch[1].to(device)


def _check_labels(outputs: Any, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Refuse what a loss answers with an error of its own, on a GPU one that ends the process."""
    if not isinstance(outputs, Tensor):
        raise UsageError(
            f"the model gives a {type(outputs).__name__}, not a tensor; wrap it in a module "
            "that gives its logits"
        )
    for _, labels in pairs:
        if outputs.ndim == 2 and labels.ndim == 1 and not labels.is_floating_point():
            classes = outputs.shape[1]
            outside = labels[(labels < 0) | (labels >= classes)]
            if len(outside):
                raise UsageError(
                    f"label {int(outside[0])} is none of the model's {classes} classes, 0 to "
                    f"{classes - 1}; number classes from 0 and give the model an output for each"
                )


@contextmanager
def _idle_dropout(model: nn.Module) -> Iterator[list[str]]:
    """Names of the dropout layers that are not called inside, filled in at the end."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, DROPOUT) and m.p > 0}
    called: set[str] = set()
    handles = [
        layer.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, layer in layers.items()
    ]
    idle: list[str] = []
    try:
        yield idle
    finally:
        for handle in handles:
            handle.remove()
    idle += [name for name in layers if name not in called]
