"""The logits in what a network returns, a tensor or a result that holds them, and their loss."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import UsageError
from .eval_mode import eval_mode
from .unwrap import match_weights

LossFunction = Callable[[Any, Any], Tensor]  # (outputs, labels) -> the mean loss of a batch


class LogitsOnly(nn.Module):
    """A network whose outputs hold more than the logits, reduced to the logits."""

    def __init__(self, network: nn.Module, note: str) -> None:
        super().__init__()
        self.network = network
        self.note = note  # where the logits are in the outputs

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K)."""
        return take_logits(self.network(images))[0]


def only_logits(network: nn.Module, images: Tensor) -> nn.Module:
    """Return a network that returns nothing but logits: this one, or this one in `LogitsOnly`.

    `images` (N, C, H, W) show what it returns. One that fails on them is returned as it is.

    Raises:
        UsageError: it returns no logits.
    """
    try:
        with eval_mode(network):
            outputs = network(match_weights(images, network))
    except (RuntimeError, ValueError):  # what comes next says why
        return network
    note = take_logits(outputs)[1]
    return LogitsOnly(network, note) if note else network


def take_logits(outputs: Any) -> tuple[Tensor, str]:
    """Return the logits in the outputs of a network, and a note of where they were, or "".

    They are the outputs themselves if those are a tensor, `logits` of a mapping or an object (as
    the models of Hugging Face return), or the first part of a tuple or list.

    Raises:
        UsageError: there is no tensor at any of these places.
    """
    if isinstance(outputs, Tensor):
        return outputs, ""
    kind = type(outputs).__name__
    part, place = getattr(outputs, "logits", None), "its `logits` are taken"
    if part is None and isinstance(outputs, Mapping):
        part = outputs.get("logits")
    elif part is None and isinstance(outputs, tuple | list) and outputs:
        part, place = outputs[0], f"the first of its {len(outputs)} parts is taken as the logits"
    if isinstance(part, Tensor):
        return part, f"the network returns outputs of type {kind}: {place}"
    raise UsageError(
        f"the network returns outputs of type {kind} without logits; it must return a tensor "
        "(N, classes), or that tensor as `logits` of a result or as the first part of a tuple"
    )


def apply_loss(loss_fn: LossFunction, outputs: Any, labels: Any) -> tuple[Tensor, Any]:
    """Return the loss of the outputs of a network, as a scalar, and what it was computed from.

    That is the outputs themselves; or the logits in them, if they are no tensor and the loss
    function cannot use them.

    Raises:
        UsageError: the loss is not one number.
    """
    try:
        loss = loss_fn(outputs, labels)
    except (AttributeError, TypeError):
        if isinstance(outputs, Tensor):
            raise
        outputs, _ = take_logits(outputs)
        loss = loss_fn(outputs, labels)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        kind = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise UsageError(f"loss_fn gave {kind}; it must give one number, the mean of a batch")
    return loss.reshape(()), outputs
