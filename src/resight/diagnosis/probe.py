"""Your model, optimizer, loss and batches, and what one forward and backward pass gave."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
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

MAX_BATCHES, MAX_IMAGES = 4, 256  # that are checked: batches, and images of the first batch
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """What the checks of a training look at; outputs are (B, K), detached."""

    model: nn.Module  # without the wrappers of DDP and torch.compile
    optimizer: Optimizer
    loss_fn: LossFunction
    scheduler: Any = None
    steps: int | None = None
    source: Any  # the batches as they were passed in
    val_batches: Any = None
    batches: tuple[tuple[Tensor, Tensor], ...]  # images (B, C, H, W) and labels, where they lie
    tracked: int  # batches that batch norm had counted before
    images: Tensor  # of the first batch, on the model's device
    outputs: Tensor  # for these images, in training mode
    gradients: dict[str, Tensor | None]  # name of each trainable parameter -> its gradient
    idle_dropout: tuple[str, ...]  # dropout layers that forward did not go through

    @property
    def labels(self) -> Tensor:
        """The class (B,) of each image that gave `outputs`.

        Raises:
            Skipped: labels are no class numbers, or outputs not a row of classes an image.
        """
        labels = self.batches[0][1][: len(self.outputs)].to(self.outputs.device)
        if not has_class_rows(self.outputs) or not has_class_numbers(labels):
            raise Skipped("needs outputs (N, K) and a class number an image")
        return labels

    @property
    def kind(self) -> Literal["logits", "log-probabilities", "probabilities"]:
        """What the outputs look like: probabilities are not negative and add up to 1."""
        outputs = self.outputs.float()
        if bool((outputs >= 0).all()) and _add_up(outputs):
            return "probabilities"
        return "log-probabilities" if _add_up(outputs.exp()) else "logits"

    def loss_of(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the loss of outputs that need not be the model's."""
        with torch.no_grad():
            return float(self.loss_fn(outputs, labels))


def run_probe(
    model: nn.Module, optimizer: Optimizer, loss_fn: LossFunction, batches: Iterable[Any]
) -> Probe:
    """Pass the first batch forward and backward; the caller restores the state of everything.

    Raises:
        UsageError: batches that are not (images, labels), or a loss that is not one number.
    """
    model = unwrap(model)
    device = device_of(model, torch.device("cpu"))
    seed_everything(0, device)
    pairs = tuple(map(image_label_pair, islice(batches, MAX_BATCHES)))
    if not pairs:
        raise UsageError("batches is empty; diagnosing needs at least one batch")
    images, labels = (part[:MAX_IMAGES].to(device) for part in pairs[0])
    counts = (int(b) for n, b in model.named_buffers() if n.endswith("num_batches_tracked"))
    tracked = max(counts, default=0)
    if not model.training:  # otherwise, a part that is frozen in evaluation mode stays so
        model.train()
    with torch.enable_grad(), _idle_dropout(model) as idle_dropout:
        outputs = model(images)
        _check_outputs(outputs, [labels for _, labels in pairs], ignored_label(loss_fn))
        loss = loss_fn(outputs, labels)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise UsageError("loss_fn must give one number, the mean of a batch")
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    return Probe(
        model=model,
        optimizer=optimizer,
        loss_fn=loss_fn,
        source=batches,
        batches=pairs,
        tracked=tracked,
        images=images,
        outputs=outputs.detach(),
        gradients={n: p.grad for n, p in model.named_parameters() if p.requires_grad},
        idle_dropout=tuple(idle_dropout),
    )


def image_label_pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Return images and labels of a batch; raises UsageError if it is no such pair."""
    match batch:
        case [Tensor() as images, Tensor() as labels, *_]:
            return images, labels
    raise UsageError(
        f"a batch is a {type(batch).__name__}, not two tensors (images, labels); wrap the "
        "batches in a generator that gives pairs"
    )


def has_class_rows(outputs: Tensor) -> bool:
    """Whether outputs are (N, K), a number for each of at least two classes."""
    return outputs.ndim == 2 and outputs.shape[1] >= 2


def has_class_numbers(labels: Tensor) -> bool:
    """Whether labels are one class number an image, not shares of classes."""
    return labels.ndim == 1 and not labels.is_floating_point()


def ignored_label(loss_fn: LossFunction) -> int:
    """Return the label that a loss ignores; torch's is -100."""
    return int(getattr(loss_fn, "ignore_index", -100))


def _add_up(probs: Tensor) -> bool:
    sums = probs.sum(dim=1)
    return torch.allclose(sums, torch.ones_like(sums), rtol=1e-2)


def _check_outputs(outputs: Any, batches_of_labels: list[Tensor], ignored: int) -> None:
    """Refuse labels for which a loss raises an error, on a GPU one that ends the process."""
    if not isinstance(outputs, Tensor):
        raise UsageError(
            f"the model gives a {type(outputs).__name__}, not a tensor; wrap it in a module "
            "that gives its logits"
        )
    if not has_class_rows(outputs):
        return
    classes = outputs.shape[1]
    for labels in filter(has_class_numbers, batches_of_labels):
        outside = labels[((labels < 0) | (labels >= classes)) & (labels != ignored)]
        if len(outside):
            raise UsageError(
                f"label {int(outside[0])} is none of the model's {classes} classes, 0 to "
                f"{classes - 1}; number classes from 0 and give the model an output for each"
            )


@contextmanager
def _idle_dropout(model: nn.Module) -> Iterator[dict[str, None]]:
    """Yield the names of the dropout layers; each is removed when its layer is called."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, DROPOUT) and m.p > 0}
    idle = dict.fromkeys(layers)
    with ExitStack() as hooks:
        for name, layer in layers.items():
            hook = layer.register_forward_hook(lambda *_, name=name: idle.pop(name, None))
            hooks.callback(hook.remove)
        yield idle
