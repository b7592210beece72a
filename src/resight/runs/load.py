"""A run's network for a program of your own: pixels in, logits out."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..datasets import Statistics
from ..networks.outputs import take_logits
from ..training.device import pick_device
from .checkpoint import load_model
from .run import Run


class PixelModel(nn.Module):
    """A trained network behind its normalization, in evaluation mode.

    Its images (N, C, H, W) are uint8, or floats in [0, 1]; its output are logits (N, K). `classes`
    names the K classes, and `image_size` is the side of the images that it was trained with.
    """

    def __init__(
        self, network: nn.Module, stats: Statistics, classes: tuple[str, ...], image_size: int
    ) -> None:
        super().__init__()
        self.network, self.classes, self.image_size = network, classes, image_size
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(stats.mean)[:, None, None])  # (C, 1, 1)
        self.register_buffer("std", torch.tensor(stats.std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K) logits."""
        pixels = images if images.is_floating_point() else images / 255
        return take_logits(self.network((pixels.to(self.mean) - self.mean) / self.std))[0]


def load(run: str | Path | Run, *, device: str = "cpu", allow_import: bool = False) -> PixelModel:
    """Return a run's network as a module that takes pixels, in evaluation mode.

    It normalizes the images itself, so that nothing has to be known about the run. `Run.model()`
    is the bare network, which takes normalized images.

    Raises:
        UsageError: no such run, or its network has to be imported and that is not allowed.
        ResightError: the run has no weights, or they are damaged.
    """
    opened = Run.open(run, allow_import=allow_import)
    network, info = load_model(
        opened.folder, None, pick_device(device), allow_import=opened.allow_import
    )
    model = PixelModel(network, info.stats, info.classes, info.image_size)
    return model.to(pick_device(device)).eval()
