"""Anyone's model, optimizer, loss and batches, and what one forward and backward pass showed."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import UsageError
from ..lr_finder.range_test import LossFunction
from ..networks.unwrap import device_of, unwrap
from ..training.restore import seed_everything
from .issues import Skipped

BATCHES, IMAGES = 4, 256  # batches that are looked at, and images of each that are passed through
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """What the checks look at. Outputs are (B, K), detached."""

    model: nn.Module  # without the wrappers of DDP and torch.compile
    optimizer: Optimizer
    loss_fn: LossFunction
    scheduler: Any
    steps: int | None
    source: Any  # of the batches, as given
    val_batches: Any
    batches: tuple[tuple[Tensor, Tensor], ...]  # images (B, C, H, W) and labels, where they lay
    tracked: int  # batches that batch norm had seen before
    images: Tensor  # those that were passed through, on the model's device
    outputs: Tensor  # of them, in training mode
    gradients: dict[str, Tensor | None]  # name of each trainable parameter -> its gradient
    idle_dropout: tuple[str, ...]  # dropout layers that the pass did not go through

    @property
    def labels(self) -> Tensor:
        """(B,) the class of each image that gave `outputs`.

        Raises:
            LeftOut: labels are no class numbers, or outputs not a row of classes an image.
        """
        labels = self.batches[0][1][: len(self.outputs)].to(self.outputs.device)
        hard = labels.ndim == 1 and not labels.is_floating_point()
        if self.outputs.ndim != 2 or self.outputs.shape[1] < 2 or not hard:
            raise Skipped("needs outputs (N, K) and a class number an image")
        return labels

    @property
    def kind(self) -> Literal["logits", "log-probabilities", "probabilities"]:
        """What the outputs look like: probabilities are not negative and add up to 1."""
        found = self.outputs.float()
        if bool((found >= 0).all()) and _add_up(found):
            return "probabilities"
        return "log-probabilities" if _add_up(found.exp()) else "logits"

    def loss_of(self, outputs: Tensor, labels: Tensor) -> float:
        """Of outputs that need not be the model's."""
        with torch.no_grad():
            return float(self.loss_fn(outputs, labels))


def run_probe(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    *,
    scheduler: Any = None,
    steps: int | None = None,
    val_batches: Iterable[Any] | None = None,
) -> Probe:
    """Pass the first batch through, forward and backward; the caller gives everything back.

    Raises:
        UsageError: batches that are not (images, labels), or a loss that is not one number.
    """
    model = unwrap(model)
    device = device_of(model, torch.device("cpu"))
    seed_everything(0, device)
    pairs = tuple(map(pair, islice(batches, BATCHES)))
    if not pairs:
        raise UsageError("batches is empty; diagnosing needs at least one batch")
    images, labels = (part[:IMAGES].to(device) for part in pairs[0])
    counts = (int(b) for n, b in model.named_buffers() if n.endswith("num_batches_tracked"))
    tracked = max(counts, default=0)
    if not model.training:  # otherwise, a part that is frozen in evaluation mode stays so
        model.train()
    with torch.enable_grad(), _idle_dropout(model) as idle:
        outputs = model(images)
        if not isinstance(outputs, Tensor):
            raise UsageError(
                f"the model gives a {type(outputs).__name__}, not a tensor; wrap it in a module "
                "that gives its logits"
            )
        for _, found in pairs:
            _check_labels(outputs, found, ignored(loss_fn))
        loss = loss_fn(outputs, labels)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise UsageError("loss_fn must give one number, the mean of a batch")
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    return Probe(
        model=model,
        optimizer=optimizer,
        loss_fn=loss_fn,
        scheduler=scheduler,
        steps=steps,
        source=batches,
        val_batches=val_batches,
        batches=pairs,
        tracked=tracked,
        images=images,
        outputs=outputs.detach(),
        gradients={n: p.grad for n, p in model.named_parameters() if p.requires_grad},
        idle_dropout=tuple(idle),
    )


def pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Images and labels of a batch; UsageError if it is no such pair."""
    if (
        not isinstance(batch, tuple | list)
        or len(batch) < 2
        or not all(isinstance(part, Tensor) for part in batch[:2])
    ):
        raise UsageError(
            f"a batch is a {type(batch).__name__}, not two tensors (images, labels); wrap the "
            "batches in a generator that gives pairs"
        )
    return batch[0], batch[1]


def ignored(loss_fn: LossFunction) -> int:
    """The label that a loss passes over; torch's is -100."""
    return int(getattr(loss_fn, "ignore_index", -100))


def _add_up(probs: Tensor) -> bool:
    sums = probs.sum(dim=1)
    return torch.allclose(sums, torch.ones_like(sums), rtol=1e-2)


def _check_labels(outputs: Tensor, labels: Tensor, passed_over: int) -> None:
    """Refuse what a loss answers with an error of its own, on a GPU one that ends the process."""
    if outputs.ndim != 2 or outputs.shape[1] < 2 or labels.ndim != 1 or labels.is_floating_point():
        return
    classes = outputs.shape[1]
    outside = labels[((labels < 0) | (labels >= classes)) & (labels != passed_over)]
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
