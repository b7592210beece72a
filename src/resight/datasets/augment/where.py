"""Changes of some images of a batch, without a loop over images."""

from collections.abc import Callable

import torch
from torch import Tensor


def where_drawn(
    images: Tensor, drawn: Tensor, change: Callable[..., Tensor], *amounts: Tensor
) -> Tensor:
    """Return the images with `change(images, *amounts)` where `drawn` (N,) bool, else as they were.

    Each of `amounts` is (N, ...). `change` sees some of the images, or all of them.
    """
    if images.device.type == "cpu":  # the same result for less work
        rows = drawn.nonzero().squeeze(1)
        if not len(rows):
            return images
        return images.index_copy(0, rows, change(images[rows], *(x[rows] for x in amounts)))
    # A GPU changes all images: to count the drawn ones, the CPU would have to wait for it.
    return torch.where(drawn[:, None, None, None], change(images, *amounts), images)
