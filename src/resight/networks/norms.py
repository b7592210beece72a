"""Normalization layers: made from the recipe's name for them, and recognized again."""

import math

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ..recipe import Norm


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Return a layer that normalizes over N,H,W (`batch`), C,H,W (`layer`) or groups (`group`).

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
    """Return `batch`, `layer`, `group`, `instance` or `rms`; None for any other module."""
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
    """Return the kinds of normalization in `model`: {"layer"} means that no batch norm is left."""
    return {kind for module in model.modules() if (kind := norm_kind(module)) is not None}
