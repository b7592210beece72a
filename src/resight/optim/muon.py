"""Muon: momentum whose step turns every filter bank by the same amount (Jordan et al. 2024).

A gradient of a convolution, seen as a matrix (C_out, C_in * h * w), is mostly a few directions.
Muon replaces the singular values of its momentum by about 1, so that the rare directions learn as
fast as the common ones (https://kellerjordan.github.io/posts/muon/). That suits hidden layers;
biases, norms and the last layer are left to SGD with Nesterov momentum.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# An odd polynomial that lifts small singular values quickly and keeps them near 1, not at it: three
# rounds bring values from 0.03 to 1 into 0.68..1.21, five from 0.003. Coefficients of Jordan.
_A, _B, _C = 3.4445, -4.7750, 2.0315


class MuonOptimizer(Optimizer):
    """Muon for groups with "orthogonal": True, and SGD with Nesterov momentum for other groups.

    Each group has an "lr", and a group of SGD may have a "weight_decay", added to the gradient.
    Before each step a filter bank is scaled to a norm of sqrt(C_out), one a filter, so `lr` is the
    angle in radians by which a step turns it. A normalization has to follow the bank and cancel its
    scale.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, momentum: float, rounds: int = 3
    ) -> None:
        defaults = {"orthogonal": False, "momentum": momentum, "weight_decay": 0, "rounds": rounds}
        super().__init__(list(groups), defaults)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Take one step; unlike torch's optimizers, without a closure."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step_one(weight, group)

    def _step_one(self, weight: Tensor, group: dict[str, Any]) -> None:
        gradient, state = weight.grad, self.state[weight]
        assert gradient is not None
        if not group["orthogonal"] and group["weight_decay"]:
            gradient = gradient.add(weight, alpha=group["weight_decay"])
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        update = gradient.add(buffer, alpha=group["momentum"])  # Nesterov
        if group["orthogonal"]:
            update = orthogonal(update.flatten(1), group["rounds"]).view_as(weight)
            weight.mul_(len(weight) ** 0.5 / weight.norm())
        weight.add_(update, alpha=-group["lr"])


def orthogonal(matrix: Tensor, rounds: int) -> Tensor:
    """Return a matrix (m, n) of the same directions with its singular values near 1.

    Newton-Schulz iteration, `rounds` times: matrix products, in the precision of autocast, bfloat16
    or float16, which is accurate enough. A matrix of zeros stays one.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T  # smaller square on the left
    wide = wide / (wide.norm() + 1e-7)  # no singular value above 1, and nothing that overflows
    kind = matrix.device.type
    if kind != "cpu" and torch.is_autocast_enabled(kind):  # on a GPU a cast is a kernel of its own
        wide = wide.to(torch.get_autocast_dtype(kind))
    for _ in range(rounds):
        square = wide @ wide.T
        wide = _A * wide + (_B * square + _C * square @ square) @ wide
    result: Tensor = wide if matrix.shape[0] <= matrix.shape[1] else wide.T
    return result.to(matrix.dtype)
