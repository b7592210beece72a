"""Whether the model goes by what a map shows: the areas under deletion and insertion curves."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..datasets import batch_size_for
from ..errors import UsageError
from ..networks.unwrap import unwrap
from .hooks import borrow, check_logits, run
from .maps import Heatmaps


@dataclass(frozen=True)
class Faithfulness:
    """The probability of each map's class as pixels go or come, the strongest evidence first.

    Areas lie in [0, 1]. Low deletion and high insertion are good: what the map shows suffices, and
    without it the class is lost. They are to be compared between maps of one image and class, such
    as two methods, or a method and chance; alone a number says little.
    """

    deletion: Tensor  # (N, M) float32, area
    insertion: Tensor  # (N, M) float32, area
    fractions: Tensor  # (S + 1,) of the pixels that are gone, or there
    deletion_curves: Tensor  # (N, M, S + 1) probability
    insertion_curves: Tensor  # (N, M, S + 1) probability


def faithfulness(
    model: nn.Module,
    images: Tensor,
    heatmaps: Heatmaps,
    layer: str | None = None,
    *,
    steps: int = 20,
    baseline: Tensor | None = None,
    batch_size: int | None = None,
) -> Faithfulness:
    """Delete pixels from each image, or insert them into an empty one, in the order of its map.

    Petsiuk et al. 2018, "RISE", arXiv 1806.07421, section 4.1. The order is that of the raw, signed
    map, enlarged to the image: what speaks against the class goes last. Areas are by the trapezoid
    rule over the fraction of pixels.

    Args:
        model: as in `heatmaps`; it comes back as it was.
        images: (N, C, H, W), those of the maps.
        heatmaps: the maps (N, M, h, w) and the classes (N, M) they are of.
        layer: whose maps; None takes the last.
        steps: S, into how many parts the pixels are divided.
        baseline: what stands for no pixel, broadcast to the images; None is 0, the mean color of
            normalized images.
        batch_size: images in one pass; by default about as many pixels as 256 images of 32 px.

    Raises:
        UsageError: images that the maps are not of, or a layer without maps.
    """
    n, channels, height, width = _check(images, heatmaps, steps)
    layer = list(heatmaps.maps)[-1] if layer is None else layer
    pixels = height * width
    batch_size = batch_size or batch_size_for(images, 256)
    maps = heatmaps._at(layer)  # (N, M, h, w)
    device, m = maps.device, maps.shape[1]
    large = F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)
    order = large.flatten(2).argsort(dim=2, descending=True, stable=True)
    ranks = order.argsort(dim=2).reshape(n * m, pixels)  # 0 is the strongest evidence
    counts = torch.linspace(0, pixels, min(steps, pixels) + 1, device=device).round().long()

    # A job is a map, a number of pixels, and whether they are deleted (0) or inserted (1).
    jobs = torch.cartesian_prod(
        torch.arange(n * m, device=device),
        torch.arange(len(counts), device=device),
        torch.arange(2, device=device),
    )
    network, scores = unwrap(model), []
    with borrow(network, device):
        like = next((p for p in network.parameters() if p.is_floating_point()), images)
        flat = images.to(device, like.dtype).reshape(n, channels, pixels)
        empty = torch.zeros_like(images) if baseline is None else baseline.expand_as(images)
        empty = empty.to(flat).reshape(n, channels, pixels)
        for some in torch.split(jobs, batch_size):
            which, point, kind = some.unbind(1)
            strong = ranks[which] < counts[point][:, None]
            there = (strong == (kind == 1)[:, None])[:, None]  # (jobs, 1, pixels)
            row = which // m
            mixed = torch.where(there, flat[row], empty[row])
            logits = run(network, mixed.reshape(-1, channels, height, width))
            check_logits(network, logits, len(some))
            probs = logits.float().softmax(dim=1)
            scores.append(probs.gather(1, heatmaps.classes.flatten()[which, None])[:, 0])
    curves = torch.cat(scores).reshape(n, m, len(counts), 2)
    fractions = counts / pixels
    deletion, insertion = curves.unbind(3)
    return Faithfulness(
        deletion=torch.trapezoid(deletion, fractions, dim=2),
        insertion=torch.trapezoid(insertion, fractions, dim=2),
        fractions=fractions,
        deletion_curves=deletion.contiguous(),
        insertion_curves=insertion.contiguous(),
    )


def _check(images: Tensor, heatmaps: Heatmaps, steps: int) -> tuple[int, int, int, int]:
    if steps < 1:
        raise UsageError(f"steps = {steps}; it must be at least 1")
    n = len(heatmaps.classes)
    if images.ndim != 4 or len(images) != n or tuple(images.shape[2:]) != heatmaps.image_size:
        raise UsageError(
            f"images {tuple(images.shape)} are not those of the maps, which are of {n} images of "
            f"{heatmaps.image_size[0]}x{heatmaps.image_size[1]} px"
        )
    return n, images.shape[1], images.shape[2], images.shape[3]
