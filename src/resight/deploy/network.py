"""A trained network that takes pixels: normalization, softmax and heat map are part of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..cam.closed_form import channel_weights
from ..cam.hooks import borrow, forward
from ..cam.layers import find_layers, layer_grids, recorders
from ..cam.layouts import Grid, LayerOutputs
from ..datasets import Statistics
from ..errors import UsageError
from ..networks.outputs import take_logits
from ..networks.unwrap import unwrap


@dataclass(frozen=True)
class ClassMaps:
    """How the heat maps of all classes follow from the map of one layer, without gradients."""

    layer: str
    grid: Grid
    weights: Tensor  # (K, C) of each channel for each class


def class_maps(model: nn.Module, images: Tensor) -> ClassMaps | None:
    """Return how the heat maps follow from the last layer's map, or None where they do not.

    They do where the network ends in global pooling and a linear layer: Grad-CAM is a product of
    the map with weights that are the same for every image, see `cam.closed_form`. That is measured
    on `images`, (n, C, H, W) normalized, at least two.
    """
    network = unwrap(model)
    with borrow(network, images.device):
        try:
            layers = find_layers(network, None, images[:1], None)
        except UsageError:  # no layer has a map
            return None
        outputs = LayerOutputs(tuple(images.shape), None)
        record = forward(network, images, layers, graph=True, hooks=recorders(network, outputs))
        [(name, grid)] = layer_grids(network, outputs, layers).items()
        one_hot = torch.eye(record.logits.shape[1])[:, None]  # (K, 1, K)
        weights = channel_weights(record, one_hot.expand(-1, len(images), -1), grid)  # (n, K, C)
    if weights is None or not _is_same(weights):
        return None
    return ClassMaps(name, grid, weights[0].clone())


def _is_same(weights: Tensor) -> bool:
    """Whether weights (n, K, C) are the same for each image, but for rounding."""
    scale = float(weights.abs().amax())
    return torch.allclose(weights, weights[:1].expand_as(weights), rtol=1e-4, atol=1e-6 * scale)


class PixelNetwork(nn.Module):
    """A trained network behind its normalization, with softmax and heat maps behind it.

    images: uint8 (N, C, H, W), levels 0 to 255. temperature: what the logits are divided by before
    the softmax. The outputs are float32: `probabilities` and
    `logits` (N, K) and, with `maps`, `heatmap` (N, K, h, w), raw and signed as Grad-CAM has it.
    """

    def __init__(
        self,
        model: nn.Module,
        stats: Statistics,
        *,
        temperature: float = 1.0,
        maps: ClassMaps | None = None,
    ) -> None:
        super().__init__()
        self.network = unwrap(model)
        self.temperature = temperature
        self.layer = maps.layer if maps else ""
        self.grid = maps.grid if maps else None
        self.register_buffer("class_weights", maps.weights if maps else None)
        self.mean: Tensor
        self.register_buffer("mean", _by_channel(stats.mean))
        self.std: Tensor
        self.register_buffer("std", _by_channel(stats.std))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) uint8 -> the outputs by name."""
        normalized = (images.to(torch.float32) / 255 - self.mean) / self.std
        kept: list[Tensor] = []
        if self.grid is None:
            logits, _ = take_logits(self.network(normalized))
        else:
            # A copy, as a layer behind may work in place.
            layer = self.network.get_submodule(self.layer)
            hook = layer.register_forward_hook(lambda *call: kept.append(call[2].clone()))
            try:
                logits, _ = take_logits(self.network(normalized))
            finally:
                hook.remove()
        outputs = {"probabilities": (logits / self.temperature).softmax(dim=1), "logits": logits}
        if self.grid is not None:
            maps = self.grid.map_of(kept[0])  # (N, C, h, w)
            outputs["heatmap"] = torch.einsum("kc,nchw->nkhw", self.class_weights, maps)
        return outputs


def _by_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None]  # (C, 1, 1)
