"""The losses of a guess and of a perfect answer, measured with the loss function itself.

A range test judges a loss by its distance from both. So any loss will do, and a part of it that
never moves, such as a penalty or another term, changes nothing.
"""

import math
import warnings
from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets.augment import MixedLabels
from ..networks.outputs import LossFunction
from ..training.restore import preserve_state

OutputKind = Literal["logits", "log-probabilities", "probabilities"]

# How sure a perfect answer may be. Cross entropy wants certainty; label smoothing does not.
_LOGITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_TINY = 1e-6  # a share of 0, where its logarithm is needed


def reference_losses(
    loss_fn: LossFunction, outputs: Any, targets: Any
) -> tuple[float | None, float | None]:
    """Return the loss of guessing (`chance`) and of a perfect answer (`floor`) for one batch.

    A guess is the same answer for every image: each class alike, or the mean of the targets. A
    perfect answer is as sure as the loss likes best. Either is None if the loss function raises an
    error for such answers or gives no finite number, or if outputs or targets are no tensors. The
    loss function may keep a state: of a module it is restored, and so are the random numbers.
    """
    shares = targets
    if isinstance(targets, MixedLabels) and isinstance(outputs, Tensor):
        shares = targets.shares(outputs.shape[1])
    if not (isinstance(outputs, Tensor) and isinstance(shares, Tensor)):
        return None, None
    references = _reference_outputs(outputs.detach(), shares)
    if references is None:
        return None, None
    modules = (loss_fn,) if isinstance(loss_fn, nn.Module) else ()
    with preserve_state(*modules), torch.no_grad(), warnings.catch_warnings(action="ignore"):
        guesses, perfect = (_losses(loss_fn, kind, targets) for kind in references)
    chance = min(guesses, default=None)
    if chance is None:
        return None, None
    return chance, min((loss for loss in perfect if loss < chance), default=None)


def has_class_numbers(outputs: Tensor, targets: Tensor) -> bool:
    """Whether targets (N, ...) are the numbers of the classes in outputs (N, K, ...)."""
    return (
        outputs.ndim >= 2
        and outputs.shape[1] >= 2
        and targets.shape == outputs.shape[:1] + outputs.shape[2:]
        and not targets.is_floating_point()
    )


def _reference_outputs(
    outputs: Tensor, targets: Tensor
) -> tuple[list[Tensor], list[Tensor]] | None:
    """Guesses and perfect answers in the form of the outputs; None for an unknown form."""
    if not outputs.is_floating_point():
        return None
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if has_class_numbers(outputs, targets):
        return _class_outputs(outputs, targets)
    if targets.numel() == outputs.numel():
        return _value_outputs(outputs, targets)
    return None


def _class_outputs(outputs: Tensor, targets: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    classes = targets.long().clamp(0, outputs.shape[1] - 1)  # a label to ignore may be negative
    one_hot = torch.zeros_like(outputs).scatter_(1, classes.unsqueeze(1), 1.0)  # (N, K, ...)
    kind = output_kind(outputs)

    def as_output(logits: Tensor) -> Tensor:
        if kind == "logits":
            return logits
        return F.softmax(logits, 1) if kind == "probabilities" else F.log_softmax(logits, 1)

    return [as_output(0 * one_hot)], [as_output(size * one_hot) for size in _LOGITS]


def _value_outputs(outputs: Tensor, targets: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Answers where a target has a number for each output: values, several labels, soft labels."""
    values = targets.to(outputs.dtype).reshape(outputs.shape)
    kind = output_kind(outputs)
    if kind != "logits":
        uniform = torch.full_like(outputs, 1 / outputs.shape[1])
        shares = values.clamp_min(_TINY)
        if kind == "probabilities":
            return [uniform], [values]
        return [uniform.log()], [shares.log()]
    mean = values.mean(dim=0, keepdim=True).expand_as(values).clone()
    guesses, perfect = [torch.zeros_like(values), mean], [values]
    if bool(((values >= 0) & (values <= 1)).all()):
        guesses.append(mean.clamp(_TINY, 1 - _TINY).logit())
        perfect += [values.clamp_min(_TINY).log()]  # soft labels
        perfect += [size * (2 * values - 1) for size in _LOGITS]  # several labels an image
    return guesses, perfect


def output_kind(outputs: Tensor) -> OutputKind:
    """Return what outputs (N, K, ...) look like: probabilities of an image add up to 1."""
    if outputs.ndim < 2 or outputs.shape[1] < 2:
        return "logits"

    def add_up(shares: Tensor) -> bool:
        sums = shares.sum(dim=1)
        return torch.allclose(sums, torch.ones_like(sums), rtol=1e-2)

    if bool((outputs >= 0).all()) and add_up(outputs):
        return "probabilities"
    return "log-probabilities" if bool((outputs <= 0).all()) and add_up(outputs.exp()) else "logits"


def _losses(loss_fn: LossFunction, candidates: Iterable[Tensor], targets: Tensor) -> list[float]:
    """The finite losses of outputs; those for which the loss function raises are left out."""
    losses = []
    for outputs in candidates:
        try:
            loss = float(loss_fn(outputs, targets))
        except Exception:  # someone else's function, given what it may not be made for
            continue
        if math.isfinite(loss):
            losses.append(loss)
    return losses
