"""One pass over a split: what the model says about every image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets import Split, Statistics
from ..networks.eval_mode import eval_mode
from ..recipe import Evaluation, Training
from ..records import Predictions
from .batches import eval_batches
from .distributed import SINGLE_PROCESS, Rank
from .precision import autocast, to_memory_format


def predict_split(
    model: nn.Module,
    split: Split,
    stats: Statistics,
    *,
    classes: tuple[str, ...],
    training: Training | None = None,
    evaluation: Evaluation | None = None,
    batch_size: int | None = None,
    rank: Rank = SINGLE_PROCESS,
) -> Predictions:
    """Logits for every image of `split`, on the device the split is on, in its order.

    `training` gives precision and memory layout, `evaluation` the test-time augmentation. By
    default a batch has about as many pixels as 500 images of 32 px, on a GPU as 2,000. Of several
    ranks each asks about its share and is told of all.
    """
    pixels = split.images.shape[-2] * split.images.shape[-1]
    images_32_px = 500 if split.images.device.type == "cpu" else 2000
    batch_size = batch_size or max(1, images_32_px * 32 * 32 // pixels)
    training = training or Training()
    evaluation = evaluation or Evaluation()
    device = split.images.device
    part = rank.share(len(split))
    asked = split if rank.count == 1 else split.select(torch.arange(len(split))[part])
    found = []
    with eval_mode(model), autocast(training, device):
        for images, _ in eval_batches(asked, stats, batch_size=batch_size):
            images = to_memory_format(images, training)
            found.append(tta_logits(model, images, evaluation.tta, below=evaluation.tta_below))
    logits = torch.cat(found)  # (N, K)
    if rank.count > 1:
        whole = logits.new_zeros(len(split), logits.shape[1])
        whole[part] = logits / rank.copies(len(split))
        rank.sum_([whole])  # the rows of the others are zeros
        logits = whole
    return Predictions(
        ids=split.ids,
        logits=logits.cpu().numpy(),
        labels=split.labels.cpu().numpy(),
        classes=classes,
    )


def tta_logits(
    model: nn.Module, images: Tensor, tta: str | None, *, below: float | None = None
) -> Tensor:
    """Logits (N, K) in float32, averaged over the views of test-time augmentation.

    `flip`: the image and its mirror. `flip_shift` (Jordan 2024): those two, and the same shifted
    by one pixel up-left and down-right; the unshifted pair weighs as much as the shifted four.
    `below`: images whose highest probability reaches it are left at their plain logits.
    """
    logits: Tensor = model(images).float()
    if tta is None:
        return logits
    if below is None:
        return _mean_over_views(model, images, logits, tta)
    unsure = logits.softmax(dim=1).amax(dim=1) < below  # (N,)
    if unsure.any():
        logits = logits.clone()  # a model may hand out a part of its images
        logits[unsure] = _mean_over_views(model, images[unsure], logits[unsure], tta)
    return logits


def _mean_over_views(model: nn.Module, images: Tensor, logits: Tensor, tta: str) -> Tensor:
    """The mean over the views of `tta`, where `logits` are those of the images as they are."""

    def mirrored(view: Tensor) -> Tensor:
        found: Tensor = model(view.flip(-1)).float()
        return found

    unshifted = (logits + mirrored(images)) / 2
    if tta == "flip":
        return unshifted
    height, width = images.shape[-2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")  # (N, C, H + 2, W + 2)
    up_left, down_right = (padded[..., d : d + height, d : d + width] for d in (2, 0))
    shifted = torch.stack([model(view).float() + mirrored(view) for view in (up_left, down_right)])
    return unshifted / 2 + shifted.sum(0) / 8
