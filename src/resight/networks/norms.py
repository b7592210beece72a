"""Normalization layers: made from the recipe's name for them, and recognized again."""

import math

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from ..recipe import Norm


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Return a layer that normalizes over N,H,W (`batch`), C,H,W (`layer`) or groups (`group`).

    `layer` is GroupNorm(1, C), with a scale and shift for each channel, so the parameter count is
    that of batch norm. `group` has 32 groups (Wu & He 2018), or the largest smaller power of two
    that divides C.
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
