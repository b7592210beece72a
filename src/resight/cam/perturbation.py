"""Methods that change the image or the activations and run the network again, without gradients.

They cost a forward pass for each channel of the layer. Activations are A (N, C, h, w); weights are
(N, K, C), for all K classes, as one pass gives the logits of all.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .hooks import run_logits
from .layouts import Grid


def score_weights(
    model: nn.Module, images: Tensor, activations: Tensor, *, batch_size: int
) -> Tensor:
    """Weight of channel k for class c: softmax over k of y_c(image * mask_k).

    mask_k is A_k, brought to [0, 1] by its own extremes and enlarged to the image; a constant A_k
    gives an empty mask. The paper subtracts the logit of an empty image, which the softmax undoes.

    Wang et al. 2020, "Score-CAM", arXiv 1910.01279, equations 3 to 6.
    """
    n, channels = activations.shape[:2]
    low, high = activations.amin((2, 3), keepdim=True), activations.amax((2, 3), keepdim=True)
    masks = (activations - low) / torch.where(high > low, high - low, 1.0)
    masks = masks.reshape(n * channels, 1, *masks.shape[2:])
    logits = []
    for first in range(0, n * channels, batch_size):
        rows = torch.arange(first, min(first + batch_size, n * channels), device=images.device)
        large = F.interpolate(
            masks[rows], images.shape[2:], mode="bilinear", align_corners=False
        )  # (rows, 1, H, W)
        masked = images[rows // channels] * large.to(images.dtype)
        logits.append(run_logits(model, masked).values.float())
    scores = torch.cat(logits).reshape(n, channels, -1)  # (N, C, K)
    return scores.softmax(dim=1).transpose(1, 2)


def ablation_weights(
    model: nn.Module, images: Tensor, layer: nn.Module, *, grid: Grid, logits: Tensor, channels: int
) -> Tensor:
    """Weight of channel k for class c: (y_c - y_c without A_k) / |y_c|.

    The paper divides by y_c, which it takes to be positive; where it is negative, that would turn
    evidence for the class into evidence against it. Where y_c is 0 nothing is divided.

    Desai & Ramaswamy 2020, "Ablation-CAM", WACV, equation 3.
    """
    drops = []
    for k in range(channels):

        def without(module: nn.Module, args: Any, output: Tensor, k: int = k) -> Tensor:
            output = output.clone()
            grid.map_of(output)[:, k] = 0
            return output

        ablated = run_logits(model, images, [(layer, without)]).values
        drops.append(logits - ablated.float())  # (N, K)
    size = torch.where(logits != 0, logits.abs(), 1.0)
    return torch.stack(drops, dim=2) / size[..., None]
