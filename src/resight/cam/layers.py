"""Which layers of a network have maps, and which of them to look at."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import suggest
from ..networks.unwrap import unwrap
from .hooks import borrow, find_layers, map_sizes, named_layers, no_map

_LARGEST, _SMALLEST = 3 / 4, 3  # sides of the maps of `default_layers`: of the image, in cells


def default_layers(model: nn.Module, shape: Sequence[int]) -> tuple[str, ...]:
    """The outermost layer of each map size, from 3/4 of the image's side down to 3 cells.

    Of several the last: mostly the ends of a network's stages. Larger maps are those of edges and
    colors, and say little about a class; a smaller one does not say where. Pooling layers are
    left out; none at all where no layer has such a map. `shape` is (C, H, W).
    """
    network, image = unwrap(model), _blank(model, shape)
    with borrow(network, image.device):
        known = named_layers(network)
        sizes = map_sizes(network, known, image)  # in the order in which they finish
    largest = _LARGEST**2 * shape[1] * shape[2]
    chosen: dict[int, str] = {}
    for name, cells in sizes.items():
        fits = _SMALLEST**2 <= cells <= largest and "Pool" not in type(known[name]).__name__
        if fits and name.count(".") <= chosen.get(cells, name).count("."):
            chosen[cells] = name
    return tuple(name for _, name in sorted(chosen.items(), reverse=True))


def check_layers(model: nn.Module, names: Sequence[str], shape: Sequence[int]) -> None:
    """UsageError, with a list of those that do, unless all of these layers put out a map."""
    network, image = unwrap(model), _blank(model, shape)
    with borrow(network, image.device):
        found = find_layers(network, list(names), image)
        with_map = map_sizes(network, found, image)
        if flat := [name for name in found if name not in with_map]:
            sizes = map_sizes(network, named_layers(network), image)
            fault = f"layer {flat[0]!r} puts out no map (N, C, h, w){suggest(flat[0], sizes)}"
            raise no_map(network, fault, sizes)


def _blank(model: nn.Module, shape: Sequence[int]) -> Tensor:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, *shape, device=like.device, dtype=like.dtype)
