"""Heat maps as sheets and galleries take them: which layers, in which batches, as arrays."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .augment import normalise
from .cam import heatmaps
from .cam.capture import bare, borrowed, find_layers, map_sizes, named_layers, no_map
from .datasets import Split, Statistics
from .recipe import Method
from .recipe_text import suggest
from .records import Ints

Evidence = dict[str, NDArray[np.float32]]  # layer -> (R, 2, h, w), raw and signed

PER_IMAGE = ("score-cam", "ablation-cam")  # many passes an image: not for thousands of images

_LARGEST, _SMALLEST = 3 / 4, 3  # sides of the maps of `usual_layers`: of the image, in cells


def usual_layers(model: nn.Module, shape: Sequence[int]) -> tuple[str, ...]:
    """The outermost layer of each map size, from 3/4 of the image's side down to 3 cells.

    Of several the last: mostly the ends of a network's stages. Larger maps are those of edges and
    colours, and say little about a class; a smaller one does not say where. Pooling layers are
    left out; none at all where no layer has such a map. `shape` is (C, H, W).
    """
    network, image = bare(model), _blank(model, shape)
    with borrowed(network, image.device):
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
    network, image = bare(model), _blank(model, shape)
    with borrowed(network, image.device):
        found = find_layers(network, list(names), image)
        with_map = map_sizes(network, found, image)
        if flat := [name for name in found if name not in with_map]:
            sizes = map_sizes(network, named_layers(network), image)
            fault = f"layer {flat[0]!r} puts out no map (N, C, h, w){suggest(flat[0], sizes)}"
            raise no_map(network, fault, sizes)


def evidence(
    model: nn.Module,
    split: Split,
    stats: Statistics,
    classes: Ints,
    *,
    layers: Sequence[str],
    method: Method,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Evidence:
    """Maps of R images for two classes each, (R, 2), on the CPU; values that are no numbers are 0.

    Finer-CAM tells each of the two from the other.
    """
    pixels = split.images.shape[-2] * split.images.shape[-1]
    batch = max(1, 256 * 32 * 32 // pixels)
    device = next((p.device for p in model.parameters()), split.images.device)
    parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for first in range(0, len(split), batch):
        images = normalise(split.images[first : first + batch].to(device), stats)
        both = torch.from_numpy(classes[first : first + batch]).to(device)  # (n, 2)
        maps = _two_classes(model, images, both, layers, method)
        for layer in layers:
            parts[layer].append(maps[layer].nan_to_num(0.0, 0.0, 0.0).cpu())
        on_batch(min(first + batch, len(split)))
    return {layer: torch.cat(maps).numpy() for layer, maps in parts.items()}


def _two_classes(
    model: nn.Module, images: Tensor, both: Tensor, layers: Sequence[str], method: Method
) -> dict[str, Tensor]:
    """Maps (n, 2, h, w) for the two classes of each image."""
    one, other = both[:, 0], both[:, 1]
    if method != "finer-cam":
        return heatmaps(model, images, layers, (one, other), method).maps
    a = heatmaps(model, images, layers, one, method, against=other).maps
    b = heatmaps(model, images, layers, other, method, against=one).maps
    return {layer: torch.cat([a[layer], b[layer]], dim=1) for layer in layers}


def _blank(model: nn.Module, shape: Sequence[int]) -> Tensor:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, *shape, device=like.device, dtype=like.dtype)
