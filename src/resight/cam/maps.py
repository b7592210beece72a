"""Heat maps as a result: raw maps, and how to scale them for display."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError, suggest
from ..records import COARSE_CELLS


@dataclass(frozen=True)
class Heatmaps:
    """The evidence for M classes of each of N images at some layers, on the model's device.

    The maps are raw and signed, as the method defines them before any final ReLU: positive where
    the layer speaks for the class, negative where it speaks against it. They carry no gradient.
    """

    maps: dict[str, Tensor]  # layer -> (N, M, h, w) float32
    classes: Tensor  # (N, M) int64, the class of each map
    logits: Tensor  # (N, K) float32, from the same forward pass
    method: str
    image_size: tuple[int, int]  # (H, W) px
    notes: tuple[str, ...]  # limits of the maps, one line each
    multi_label: bool = False  # each logit has a probability of its own, by a sigmoid

    def probabilities(self) -> Tensor:
        """Return (N, K): the sigmoid of each logit if `multi_label`, else the softmax."""
        return class_probabilities(self.logits, self.multi_label)

    def normalized(self, layer: str) -> Tensor:
        """Return (N, M, h, w) in [0, 1]: positive evidence over the maximum of the image's M maps.

        The M maps of an image share one scale, so that a weaker class looks weaker. Negative
        evidence is 0; a map without any positive evidence is 0 everywhere.
        """
        maps = self._at(layer).nan_to_num(nan=0.0).relu()
        largest = maps.amax(dim=(1, 2, 3), keepdim=True)  # (N, 1, 1, 1)
        return maps / torch.where(largest > 0, largest, 1.0)

    def upsampled(self, layer: str, size: tuple[int, int] | None = None) -> Tensor:
        """Return (N, M, H, W) in [0, 1]: the normalized maps, bilinear, as large as the images.

        `size`: (height, width) in px, to use in place of the images' own size.
        """
        maps = self.normalized(layer)
        return F.interpolate(maps, size or self.image_size, mode="bilinear", align_corners=False)

    def _at(self, layer: str) -> Tensor:
        if layer not in self.maps:
            hint, names = suggest(layer, self.maps), ", ".join(self.maps)
            raise UsageError(f"there are no maps of layer {layer!r}{hint} (there are: {names})")
        return self.maps[layer]


def class_probabilities(logits: Tensor, multi_label: bool) -> Tensor:
    """Return the probabilities (N, K) in float32 that belong to logits (N, K)."""
    return logits.float().sigmoid() if multi_label else logits.float().softmax(dim=1)


def reading_notes(maps: Mapping[str, Tensor], image_size: tuple[int, int]) -> list[str]:
    """Return the limits of the maps: few cells, no positive evidence, values not finite."""
    notes = []
    for layer, values in maps.items():
        n, m, h, w = values.shape
        if min(h, w) < COARSE_CELLS:
            down, across = f"{image_size[0] / h:.3g}", f"{image_size[1] / w:.3g}"
            cell = down if down == across else f"{down}x{across}"
            notes.append(f"{layer}: {h}x{w} map, a cell covers {cell} px: too coarse to say where")
        total = f"{n * m} maps ({n} images, {m} classes)" if m > 1 else f"{n} images"
        finite = values.isfinite().all(-1).all(-1)  # (N, M)
        if blank := int((finite & (values.amax((2, 3)) <= 0)).sum()):
            notes.append(f"all evidence negative or zero for {blank} of {total} at {layer}")
        if broken := int((~finite).sum()):
            notes.append(f"infinite or not a number for {broken} of {total} at {layer}")
    return notes
