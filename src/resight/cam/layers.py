"""The layers to look at by default, and a check of layers named by the user."""

from collections.abc import Sequence

import torch
from torch import nn

from ..networks.unwrap import match_weights, unwrap
from .hooks import borrow, find_layers, forward, is_pool, map_sizes, named_layers

# The side of a map of `default_layers`: at most this share of the image's, at least these cells.
MAX_SIDE_SHARE, MIN_SIDE_CELLS = 3 / 4, 3


def default_layers(model: nn.Module, shape: Sequence[int]) -> tuple[str, ...]:
    """Return the outermost layer of each map size, from 3/4 of the image's side down to 3 cells.

    Of several such layers the last counts: mostly the end of a stage. Larger maps show edges and
    colors, and say little about a class; a smaller map does not say where. Pooling layers are
    passed over. The result is empty if no layer has such a map. `shape` is (C, H, W).
    """
    network = unwrap(model)
    image, known = match_weights(torch.zeros(1, *shape), network), named_layers(network)
    with borrow(network, image.device):
        sizes = map_sizes(network, known, image)  # in the order in which they finish
    max_cells = MAX_SIDE_SHARE**2 * shape[1] * shape[2]
    chosen: dict[int, str] = {}
    for name, cells in sizes.items():
        fits = MIN_SIDE_CELLS**2 <= cells <= max_cells and not is_pool(known[name])
        if fits and name.count(".") <= chosen.get(cells, name).count("."):
            chosen[cells] = name
    return tuple(name for _, name in sorted(chosen.items(), reverse=True))


def check_layers(model: nn.Module, names: Sequence[str], shape: Sequence[int]) -> None:
    """Raise UsageError unless each of these layers has a map for an image of `shape` (C, H, W)."""
    network = unwrap(model)
    image = match_weights(torch.zeros(1, *shape), network)
    with borrow(network, image.device):
        forward(network, image, find_layers(network, names, image), graph=False)
