"""The layers of a network that have maps, and the ones to look at by default."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import suggest
from ..networks.unwrap import unwrap
from .hooks import borrow, find_layers, map_sizes, named_layers, no_map

# The side of a map of `default_layers`: at most this share of the image's, at least these cells.
MAX_SIDE_SHARE, MIN_SIDE_CELLS = 3 / 4, 3


def default_layers(model: nn.Module, shape: Sequence[int]) -> tuple[str, ...]:
    """Return the outermost layer of each map size, from 3/4 of the image's side down to 3 cells.

    Of several such layers the last counts: mostly the end of a stage. Larger maps show edges and
    colors, and say little about a class; a smaller map does not say where. Pooling layers are
    passed over. The result is empty if no layer has such a map. `shape` is (C, H, W).
    """
    network, image = unwrap(model), _blank(model, shape)
    with borrow(network, image.device):
        known = named_layers(network)
        sizes = map_sizes(network, known, image)  # in the order in which they finish
    max_cells = MAX_SIDE_SHARE**2 * shape[1] * shape[2]
    chosen: dict[int, str] = {}
    for name, cells in sizes.items():
        fits = MIN_SIDE_CELLS**2 <= cells <= max_cells and "Pool" not in type(known[name]).__name__
        if fits and name.count(".") <= chosen.get(cells, name).count("."):
            chosen[cells] = name
    return tuple(name for _, name in sorted(chosen.items(), reverse=True))


def check_layers(model: nn.Module, names: Sequence[str], shape: Sequence[int]) -> None:
    """Raise UsageError unless all of these layers put out a map; it lists the layers that do."""
    network, image = unwrap(model), _blank(model, shape)
    with borrow(network, image.device):
        layers = find_layers(network, list(names), image)
        with_map = map_sizes(network, layers, image)
        if flat := [name for name in layers if name not in with_map]:
            sizes = map_sizes(network, named_layers(network), image)
            problem = f"layer {flat[0]!r} puts out no map (N, C, h, w){suggest(flat[0], sizes)}"
            raise no_map(network, problem, sizes)


def _blank(model: nn.Module, shape: Sequence[int]) -> Tensor:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, *shape, device=like.device, dtype=like.dtype)
