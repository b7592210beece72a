"""Pooling that torch lacks."""

from torch import Tensor, nn


class GlobalMaxPool(nn.Module):
    """(N, C, H, W) -> (N, C, 1, 1): the largest value of each map.

    As AdaptiveMaxPool2d(1), whose backward pass on a GPU is not deterministic.
    """

    def forward(self, maps: Tensor) -> Tensor:
        largest: Tensor = maps.flatten(2).max(dim=2).values  # (N, C)
        return largest[..., None, None]
