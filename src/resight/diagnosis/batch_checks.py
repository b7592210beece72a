"""Check what the model is given: the order of images, their pixels, and their labels."""

import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import SequentialSampler, WeightedRandomSampler

from .dataset_checks import is_blank, slashed
from .issues import Issue, Skipped, error, note, warning
from .pictures import is_viewed_as_channels_first, views
from .probe import BATCH_NORMS, MAX_BATCHES, MAX_IMAGES, Probe, are_class_numbers
from .samples import dataset_labels, digests, image_batches, sampler_of

MIN_IMAGES = 8  # with fewer images, an issue may be a coincidence
RARE_RATIO = 20  # so many times as many images has the most frequent class as the rarest


def data_order(probe: Probe) -> Iterator[Issue]:
    """Check that training images of several classes come in random order.

    Why is this bad:
        If data is sorted by class, every batch is of one class or two, and each step undoes the
        last. If the order never changes, every epoch has the same batches.
    Example:
        rows = labels.argsort()
        batches = DataLoader(TensorDataset(images[rows], labels[rows]), batch_size=20)
    Fix:
        Pass `shuffle=True` to the `DataLoader`.
    """
    unshuffled = isinstance(sampler_of(probe.source), SequentialSampler)
    classes = _class_numbers(probe)
    counts = Counter(classes).values()
    # ln of the number of orders that these labels could be in
    orders = math.lgamma(len(classes) + 1) - sum(math.lgamma(count + 1) for count in counts)
    known = dataset_labels(probe.source)
    others = 1.0 if known is None or not classes else float((known != classes[0]).float().mean())
    if classes and classes == sorted(classes) and orders > math.log(10_000):
        yield error(
            f"the first {len(classes):,} images are sorted by class",
            "shuffle, for example by shuffle=True of a DataLoader",
        )
    elif len(classes) >= 32 and len(counts) == 1 and not 0 < others * len(classes) < 8:
        yield (error if unshuffled else warning)(
            f"the first {len(classes):,} images are all of class {classes[0]}",
            "shuffle data that is sorted by class; else look at how labels are read",
        )
    elif unshuffled:
        yield warning(
            "the DataLoader does not shuffle, so every epoch has the same batches",
            "pass shuffle=True",
        )


def pixel_values(probe: Probe) -> Iterator[Issue]:
    """Check that images are normalized: mean 0 and deviation 1 a channel, nothing far outside.

    What the first layer gets is checked too, so a model may normalize its images itself.

    Why is this bad:
        Learning rates and initial weights are made for inputs of this size. Pixels from 0 to 255,
        or a fill value of 127 after normalizing, are a hundred times as large.
    Example:
        batches = [((images * 60 + 128).clamp(0, 255).round(), labels)]  # pixels as stored
    Fix:
        Subtract the mean and divide by the standard deviation of the training images, channel by
        channel, as the last transform. Ignore the warning if the model was pretrained with other
        statistics.
    """
    images = image_batches(probe.batches, MAX_IMAGES // 4)
    if images is None:
        raise Skipped("needs images of shape (N, C, H, W)")
    if bad := int((~images.isfinite()).sum()):
        yield error(
            f"{bad:,} values are NaN or infinite",
            "look at the pictures; do not divide a channel that never varies by its deviation, 0",
        )
        return
    if len(images) < 4 * MIN_IMAGES:
        raise Skipped(f"needs {4 * MIN_IMAGES} images in the first {MAX_BATCHES} batches")
    soft = isinstance(probe.targets, Tensor) and probe.targets.is_floating_point()
    lowest = 0.5 if soft else 0.8  # mixup lowers the contrast
    mean, std = views(images)[0]
    if _is_normal(images, lowest) or _normalizes(probe, lowest):
        return
    message, fix = _pixel_problem(images, mean, std)
    mild = bool((mean.abs() < 0.75).all() and ((std > 0.4) & (std < 1)).all())
    pretrained = probe.tracked > 0 and bool((mean.abs() < 1).all() and (abs(std - 1) < 0.6).all())
    if pretrained and not probe.is_better_than_guessing():
        return  # by the statistics that it was pretrained with
    yield (note if mild else warning)(
        message, f"{fix}; ignore it if the model was pretrained with these statistics"
    )


def pixel_order(probe: Probe) -> Iterator[Issue]:
    """Check that the pixels of a row are neighbors in the picture.

    Why is this bad:
        Images of shape (H, W, C) that are reshaped to (C, H, W) by `view` or `reshape` are
        scrambled: the three colors of a pixel lie side by side, and shapes are lost.
    Example:
        smooth = F.avg_pool2d(images, 5, stride=1, padding=2)
        colored = smooth + torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1)
        batches = [(colored.permute(0, 2, 3, 1).reshape(256, 3, 16, 16), labels)]
    Fix:
        Use `permute(2, 0, 1)`, or `permute(0, 3, 1, 2)` for a batch.
    """
    images = image_batches(probe.batches, MAX_IMAGES // 4)
    if images is None or images.shape[1] != 3:
        raise Skipped("needs images of shape (N, 3, H, W)")
    if is_viewed_as_channels_first(images):
        yield error(
            "pixels three apart are nearer in color than neighbors: (H, W, C) was reshaped to "
            "(C, H, W), which scrambles the picture",
            "use permute(2, 0, 1) in place of view or reshape",
        )


def repeated_images(probe: Probe) -> Iterator[Issue]:
    """Check that the images of a batch are not copies of each other, and that none is blank.

    Why is this bad:
        If the data set gives one image for several rows, or blank images, you train on fewer
        images than you think.
    Example:
        batches = [(images[:4].repeat(16, 1, 1, 1), labels[:64])]
    Fix:
        Look at how the data set uses its index, and at the images after its transforms.
    """
    images = probe.images
    if len(images) < MIN_IMAGES or getattr(sampler_of(probe.source), "replacement", False):
        raise Skipped(f"needs {MIN_IMAGES} images in a batch, drawn without replacement")
    num_copies = len(images) - len(set(digests(images)))
    if num_copies >= len(images) / 4:
        yield error(
            f"{num_copies} of {len(images)} images of a batch are copies of another",
            "look at how the data set uses its index",
        )
    elif images.ndim == 4 and (num_blank := int(is_blank(images).sum())):
        yield warning(
            f"{num_blank} of {len(images)} images of a batch have one color throughout",
            "look at them; a transform may leave nothing",
        )


def class_shares(probe: Probe) -> Iterator[Issue]:
    """Check that no class has nearly all images, unless the loss or the sampler weighs classes.

    Why is this bad:
        A network that always predicts the most frequent class has a high accuracy, and a low loss,
        and nothing else was learned.
    Example:
        rare = (torch.arange(256) % 64 == 5).long()
        batches = DataLoader(TensorDataset(images, rare), batch_size=64, shuffle=True)
    Fix:
        Pass `weight=` to the loss, or draw rare classes more often with a
        `WeightedRandomSampler`, and look at the accuracy of each class.
    """
    labels = dataset_labels(probe.source)
    classes = _class_numbers(probe) if labels is None else labels.tolist()
    if len(classes) < 100:
        raise Skipped("needs the class numbers of 100 images")
    weighted = any(
        getattr(probe.loss_fn, name, None) is not None for name in ("weight", "pos_weight")
    )
    if weighted or isinstance(sampler_of(probe.source), WeightedRandomSampler):
        return
    ((most, most_count), *_), total = (counts := Counter(classes)).most_common(), len(classes)
    fewest_count = min(counts.values())
    fix = "weigh the classes in the loss or the sampler, and look at the accuracy of each class"
    if most_count > 0.9 * total and len(classes) > most_count:
        yield warning(f"{most_count / total:.1%} of the images are of class {most}", fix)
    elif most_count >= RARE_RATIO * fewest_count and total > RARE_RATIO * len(counts):
        yield note(
            f"class {most} has {most_count / fewest_count:.0f} times as many images as the rarest "
            f"class, which has {fewest_count}",
            fix,
        )


def norm_batch(probe: Probe) -> Iterator[Issue]:
    """Check that batch norm takes its statistics over several images, in the last batch too.

    Why is this bad:
        The mean and the variance of few images are mostly noise, and differ from the running
        statistics that evaluation uses. Of one image after pooling there is no variance: torch
        raises an error.
    Example:
        batches = DataLoader(TensorDataset(images, labels), batch_size=2, shuffle=True)
    Fix:
        Use larger batches, `drop_last=True`, or group norm.
    """
    norms = [m for m in probe.model.modules() if isinstance(m, BATCH_NORMS) and m.training]
    if not norms:
        return
    size = len(probe.images)
    if size < MIN_IMAGES:
        yield warning(
            f"batch norm takes its statistics over {size} images at a time",
            "use larger batches, or group norm",
        )
    sampler = sampler_of(probe.source)
    if sampler is None:
        return
    batches = probe.source.batch_sampler
    if batches.drop_last or len(sampler) % batches.batch_size != 1:
        return
    flat = any(isinstance(norm, torch.nn.BatchNorm1d) for norm in norms)
    yield (error if flat else warning)(
        f"the last of {len(probe.source)} batches has 1 image, over which batch norm "
        f"{'raises an error' if flat else 'has no statistics'}",
        "pass drop_last=True to the DataLoader",
    )


def _class_numbers(probe: Probe) -> list[int]:
    """Return the class numbers of the first batches, in their order."""
    hard = [labels for _, labels in probe.batches if are_class_numbers(labels)]
    return [label for labels in hard for label in labels.tolist()]


def _is_normal(images: Tensor, lowest: float) -> bool:
    """Whether images have mean 0 and deviation 1 in every channel; or their middle, if padded."""
    chance = 3 * images.mean(dim=(2, 3)).std(dim=0) / len(images) ** 0.5  # (C,)
    whole, middle = (
        bool(((mean.abs() < 0.3 + chance) & (std > lowest) & (std < 1.19)).all())
        for mean, std in views(images)
    )
    return whole or (middle and bool((images.abs() < 10).all()))


def _normalizes(probe: Probe, lowest: float) -> bool:
    """Whether the model normalizes images before, or in, its first layer."""
    values, calls = probe.trace.first_input, probe.trace.calls
    if calls and "Norm" in type(probe.model.get_submodule(calls[0])).__name__:
        return True
    if values is None or values.ndim != 4 or not values.is_floating_point():
        return False
    changed = values.shape != probe.images.shape or not torch.equal(values, probe.images)
    return changed and _is_normal(values.float(), lowest)


def _pixel_problem(images: Tensor, mean: Tensor, std: Tensor) -> tuple[str, str]:
    """Return the problem with pixels that are not normalized, and its fix."""
    low, high = float(images.min()), float(images.max())
    far = float((images.abs() > 10).any(dim=1).float().mean())  # share of the pixels
    measure = "measure mean and standard deviation of the training images, channel by channel"
    if low >= 0 and high > 10 and bool((images == images.round()).all()):
        return f"pixels are as they are stored, from {low:.0f} to {high:.0f}", measure
    if far:
        return (
            f"{far:.2%} of the pixels lie more than 10 deviations out, from {low:.0f} to "
            f"{high:.0f}: filled in after normalizing, in units of stored pixels, or not scaled"
        ), "pad, rotate and cut out first and normalize last, or fill with 0"
    if bool((std == 0).any()):
        return f"channel {int(std.argmin())} never varies", "look at the pictures"
    return (
        f"channels have means {slashed(mean.tolist())} and standard deviations "
        f"{slashed(std.tolist())}, not 0 and 1: not normalized, or by the statistics of other "
        "images"
    ), measure
