"""The head of a network: pooling over the whole map, dropout and a linear layer."""

from collections import OrderedDict

from torch import Tensor, nn


class GlobalMaxPool(nn.Module):
    """(N, C, H, W) -> (N, C, 1, 1): the largest value of each map.

    As AdaptiveMaxPool2d(1), whose backward pass on a GPU is not deterministic.
    """

    def forward(self, maps: Tensor) -> Tensor:
        largest: Tensor = maps.flatten(2).max(dim=2).values  # (N, C)
        return largest[..., None, None]


def make_head(pool: nn.Module, linear: nn.Linear, dropout: float | None) -> nn.Sequential:
    """Return (N, C, H, W) -> (N, K); dropout acts on the pooled features (N, C)."""
    return nn.Sequential(
        OrderedDict(pool=pool, flatten=nn.Flatten(), dropout=nn.Dropout(dropout or 0.0), fc=linear)
    )
