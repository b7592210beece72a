"""Whether the model relies on what a map shows: the areas under deletion and insertion curves."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..datasets import batch_size_for
from ..errors import UsageError
from ..networks.unwrap import match_weights, unwrap
from .hooks import borrow, run_logits
from .maps import Heatmaps, class_probabilities


@dataclass(frozen=True)
class Faithfulness:
    """The probability of each map's class as pixels are deleted or inserted, strongest first.

    Areas lie in [0, 1]. Low deletion and high insertion are good: what the map shows is
    enough, and without it the class is lost. Both contain what the network says of an empty image,
    which can be much: take `empty` off. Compare areas between maps of one image and class, such as
    two methods, or a method and chance; alone an area says little.
    """

    deletion: Tensor  # (N, M) float32, area
    insertion: Tensor  # (N, M) float32, area
    fractions: Tensor  # (S + 1,) share of the pixels that are deleted, or inserted
    deletion_curves: Tensor  # (N, M, S + 1) probability
    insertion_curves: Tensor  # (N, M, S + 1) probability

    @property
    def empty(self) -> Tensor:
        """(N, M) the probability of each map's class in an image whose pixels are all deleted."""
        return self.deletion_curves[:, :, -1]


def faithfulness(
    model: nn.Module,
    images: Tensor,
    heatmaps: Heatmaps,
    layer: str | None = None,
    *,
    steps: int = 20,
    baseline: Tensor | None = None,
    batch_size: int | None = None,
    multi_label: bool | None = None,
) -> Faithfulness:
    """Delete pixels from each image, or insert them into an empty one, in the order of its map.

    Petsiuk et al. 2018, "RISE", arXiv 1806.07421, section 4.1. The order is that of the raw, signed
    map, enlarged to the image: what speaks against the class goes last. Areas are by the trapezoid
    rule over the fraction of pixels.

    Args:
        model: as in `heatmaps`; it comes back as it was.
        images: (N, C, H, W), those of the maps.
        heatmaps: the maps (N, M, h, w) and their classes (N, M).
        layer: the layer of the maps; None takes the last.
        steps: S, into how many parts the pixels are divided.
        baseline: the value of an absent pixel; None is 0, the mean color of normalized images.
        batch_size: images in one pass; by default about as many pixels as 256 images of 32 px.
        multi_label: see `heatmaps`; None: as in the maps.

    Raises:
        UsageError: the maps belong to other images, or the layer has no maps.
    """
    _check(images, heatmaps, steps)
    maps = heatmaps._at(list(heatmaps.maps)[-1] if layer is None else layer)  # (N, M, h, w)
    pixels = math.prod(heatmaps.image_size)
    counts = torch.linspace(0, pixels, min(steps, pixels) + 1, device=maps.device).round().long()
    curves = _curves(
        unwrap(model),
        images,
        torch.zeros_like(images) if baseline is None else baseline.expand_as(images),
        ranks=_pixel_ranks(maps, heatmaps.image_size),
        counts=counts,
        classes=heatmaps.classes,
        batch_size=batch_size or batch_size_for(images, 256),
        multi_label=heatmaps.multi_label if multi_label is None else multi_label,
    )
    deletion, insertion = (curve.contiguous() for curve in curves.unbind(3))
    fractions = counts / pixels
    low, high = (torch.trapezoid(curve, fractions, dim=2) for curve in (deletion, insertion))
    return Faithfulness(low, high, fractions, deletion, insertion)


def _pixel_ranks(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, M, h, w) -> (N, M, H * W) the rank of each pixel; 0 is the strongest evidence."""
    large = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    order = large.flatten(2).argsort(dim=2, descending=True, stable=True)
    return order.argsort(dim=2)


def _curves(
    network: nn.Module,
    images: Tensor,
    empty: Tensor,
    *,
    ranks: Tensor,
    counts: Tensor,
    classes: Tensor,
    batch_size: int,
    multi_label: bool,
) -> Tensor:
    """(N, M, S + 1, 2) the probability of each class after deletion and after insertion.

    All maps of an image share the ends of their curves: the whole image and the empty one.
    """
    (n, m, pixels), device, channels = ranks.shape, ranks.device, images.shape[1]
    ranks = ranks.reshape(n * m, pixels)
    # A job is a map, a number of pixels, and whether they are deleted (0) or inserted (1).
    jobs = torch.cartesian_prod(
        torch.arange(n * m, device=device),
        torch.arange(1, len(counts) - 1, device=device),
        torch.arange(2, device=device),
    ).reshape(-1, 3)
    with borrow(network, device):
        pictures = match_weights(images.to(device), network).reshape(n, channels, pixels)
        blanks = empty.to(pictures).reshape(n, channels, pixels)

        def probabilities(inputs: Tensor) -> Tensor:
            output = run_logits(network, inputs.reshape(-1, channels, *images.shape[2:]))
            return class_probabilities(output.values, multi_label or output.single)

        scores = []
        for batch in torch.split(jobs, batch_size) if len(jobs) else ():
            maps, points, kinds = batch.unbind(1)
            strong = ranks[maps] < counts[points][:, None]
            visible = (strong == (kinds == 1)[:, None])[:, None]  # (jobs, 1, pixels)
            mixed = torch.where(visible, pictures[maps // m], blanks[maps // m])
            scores.append(probabilities(mixed).gather(1, classes.flatten()[maps, None])[:, 0])
        whole, blank = (
            torch.cat([probabilities(part) for part in torch.split(ends, batch_size)])
            for ends in (pictures, blanks)
        )
    ends = [probs.gather(1, classes)[:, :, None] for probs in (whole, blank)]  # (N, M, 1)
    first, last = torch.stack(ends, dim=3), torch.stack(ends[::-1], dim=3)  # (N, M, 1, 2)
    inner = torch.cat([*scores, first.new_zeros(0)]).reshape(n, m, len(counts) - 2, 2)
    return torch.cat([first, inner, last], dim=2)


def _check(images: Tensor, heatmaps: Heatmaps, steps: int) -> None:
    if steps < 1:
        raise UsageError(f"steps = {steps}; it must be at least 1")
    n, size = len(heatmaps.classes), heatmaps.image_size
    if images.ndim != 4 or len(images) != n or tuple(images.shape[2:]) != size:
        raise UsageError(
            f"images {tuple(images.shape)} are not those of the maps, which are of {n} images of "
            f"{size[0]}x{size[1]} px"
        )
