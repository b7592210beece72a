"""One pass over a split: the logits of a model for every image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets import Split, Statistics, batch_size_for
from ..networks.eval_mode import eval_mode
from ..recipe import Evaluation, Training
from ..records import Predictions
from .batches import eval_batches
from .distributed import SINGLE_PROCESS, Rank
from .precision import autocast_to_predict, to_memory_format


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
    """Predict every image of `split`, in its order and on its device.

    `training` gives precision and memory layout, `evaluation` the test-time augmentation. By
    default a batch has about as many pixels as 500 images of 32 px, on a GPU as 2,000. Each of
    several ranks predicts its share and returns the predictions of all.
    """
    device = split.device
    batch_size = batch_size or batch_size_for(split, 500 if device.type == "cpu" else 2000)
    training = training or Training()
    evaluation = evaluation or Evaluation()
    rows = rank.share(len(split))
    share = split if rank.count == 1 else split.select(torch.arange(len(split))[rows])
    batches = []
    with eval_mode(model), autocast_to_predict(training, device):
        for images, _ in eval_batches(share, stats, batch_size=batch_size):
            images = to_memory_format(images, training)
            batches.append(tta_logits(model, images, evaluation.tta, below=evaluation.tta_below))
    logits = torch.cat(batches)  # (N, K)
    if rank.count > 1:
        whole = logits.new_zeros(len(split), logits.shape[1])
        whole[rows] = logits / rank.copies(len(split))
        rank.sum_(whole)  # the rows of other ranks are zeros
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
    """Return logits (N, K) in float32, averaged over the views of test-time augmentation.

    `flip`: the image and its mirror. `flip_shift` (Jordan 2024): both, and both shifted by one
    pixel up-left and down-right; the unshifted pair weighs as much as the shifted four. `below`:
    an image whose highest probability reaches it keeps its plain logits.
    """
    logits: Tensor = model(images).float()
    if tta is None:
        return logits
    if below is None:
        return _mean_over_views(model, images, logits, tta)
    unsure = logits.softmax(dim=1).amax(dim=1) < below  # (N,)
    if unsure.any():
        logits = logits.clone()  # a model may return a view of its input
        logits[unsure] = _mean_over_views(model, images[unsure], logits[unsure], tta)
    return logits


def _mean_over_views(model: nn.Module, images: Tensor, logits: Tensor, tta: str) -> Tensor:
    """The mean over the views of `tta`; `logits` are the plain images' own."""

    def mirrored(view: Tensor) -> Tensor:
        logits: Tensor = model(view.flip(-1)).float()
        return logits

    unshifted = (logits + mirrored(images)) / 2
    if tta == "flip":
        return unshifted
    height, width = images.shape[-2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")  # (N, C, H + 2, W + 2)
    up_left, down_right = (padded[..., d : d + height, d : d + width] for d in (2, 0))
    shifted = torch.stack([model(view).float() + mirrored(view) for view in (up_left, down_right)])
    return unshifted / 2 + shifted.sum(0) / 8
