"""One pass over a split: what the model says about every image."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batches import eval_batches
from .datasets import Split, Statistics
from .recipe import Evaluation, Training
from .records import Predictions


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's `training` flag is given back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, flag in flags:
            module.training = flag


def autocast(training: Training, device: torch.device) -> torch.autocast:
    """The mixed-precision context that `training.precision` asks for; float32 is a no-op."""
    dtype = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[training.precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def predict_split(
    model: nn.Module,
    split: Split,
    stats: Statistics,
    *,
    classes: tuple[str, ...],
    training: Training | None = None,
    evaluation: Evaluation | None = None,
    batch_size: int = 500,
) -> Predictions:
    """Logits for every image of `split`, on the device the split is on, in its order.

    `training` gives precision and memory layout, `evaluation` the test-time augmentation.
    """
    training = training or Training()
    tta = evaluation.tta if evaluation else None
    device = split.images.device
    logits = []
    with evaluating(model), autocast(training, device):
        for images, _ in eval_batches(split, stats, batch_size=batch_size):
            images = in_layout(images, training)
            logits.append(view_logits(model, images, tta).float())
    return Predictions(
        ids=split.ids,
        logits=torch.cat(logits).cpu().numpy(),  # (N, K)
        labels=split.labels.cpu().numpy(),
        classes=classes,
    )


def in_layout(images: Tensor, training: Training) -> Tensor:
    """`images` in the memory layout that `training.channels_last` asks for."""
    return images.contiguous(
        memory_format=torch.channels_last if training.channels_last else torch.contiguous_format
    )


def view_logits(model: nn.Module, images: Tensor, tta: str | None) -> Tensor:
    """Logits (N, K), averaged over the views of test-time augmentation.

    `flip`: the image and its mirror. `flip_shift` (Jordan 2024): those two, and the same shifted
    by one pixel up-left and down-right; the unshifted pair weighs as much as the shifted four.
    """
    if tta is None:
        return model(images)  # type: ignore[no-any-return]
    mirrored = (model(images) + model(images.flip(-1))) / 2
    if tta == "flip":
        return mirrored  # type: ignore[no-any-return]
    height, width = images.shape[-2:]
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    shifted = [padded[..., d : d + height, d : d + width] for d in (0, 2)]
    views = [view for image in shifted for view in (image, image.flip(-1))]
    return mirrored / 2 + sum(model(view) for view in views) / 8  # type: ignore[no-any-return]
