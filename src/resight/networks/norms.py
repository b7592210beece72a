"""Normalization layers: made by the recipe's word for them, and recognized again."""

import math

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ..recipe import Norm


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Normalize (N, C, H, W) over N,H,W (`batch`), C,H,W (`layer`) or groups of channels (`group`).

    `layer` is GroupNorm(1, C), so it has one scale and shift a channel, as batch norm does, and the
    parameter count does not change. `group` has 32 groups (Wu & He 2018), or the largest power of
    two below that which divides C.
    """
    match norm:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "layer":
            return nn.GroupNorm(1, channels)
        case "group":
            return nn.GroupNorm(math.gcd(32, channels), channels)


def norm_kind(module: nn.Module) -> str | None:
    """`batch`, `layer`, `group`, `instance` or `rms`; None where `module` is no normalization."""
    match module:
        case _InstanceNorm():
            return "instance"
        case _BatchNorm():
            return "batch"
        case nn.GroupNorm():
            return "layer" if module.num_groups == 1 else "group"
        case nn.LayerNorm():
            return "layer"
        case nn.RMSNorm():
            return "rms"
    return None


def norm_kinds(model: nn.Module) -> set[str]:
    """Every kind of normalization in `model`: {"layer"} proves that no batch norm remains."""
    return {kind for module in model.modules() if (kind := norm_kind(module)) is not None}
