"""Check that augmentation changes images, each by a random draw, in the units of the images."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .dataset_checks import is_blank
from .issues import Issue, Skipped, error, warning

Transform = Callable[[Tensor], Tensor]
NUM_DRAWS = 8  # a flip by one draw for the whole batch shows, except once in 128 times
MIN_CHANGES = 200  # images times draws, after which even a rare change should have shown


def augment(change: Transform, images: Tensor) -> Iterator[Issue]:
    """Check that a transform of images (N, ...) changes them, each by a draw for itself.

    Why is this bad:
        A transform that changes nothing, or every image of a batch in the same way, helps little
        or not at all. A transform that changes its input damages the data set a little more in
        every epoch. A fill value in other units than the images is far brighter than any pixel.
    Example:
        def cutout(images):
            images.clone()[:, :, 8:16, 8:16] = 0
            return images


        augment = cutout
    Fix:
        Return the changed copy, and draw random numbers for each image.
    """
    before, after = images.clone(), []
    for _ in range(NUM_DRAWS):
        after.append(change(images))
        if not torch.equal(images, before):
            images.copy_(before)
            yield error(
                "it changes the images that it is given, so changes add up over epochs",
                "work on images.clone()",
            )
            return
    if any(len(out) != len(images) for out in after):
        raise Skipped("needs as many images back as it is given")
    if all(is_same(out.to(images), images) for out in after):
        yield (error if NUM_DRAWS * len(images) >= MIN_CHANGES else warning)(
            f"it changes none of {len(images)} images in {NUM_DRAWS} draws",
            "use its return value; look at its probability and its sizes",
        )
    elif len(images) > 1 and _draws_once_a_batch(change, images):
        yield error(
            "it changes all images of a batch in the same way: one draw for the whole batch",
            "draw for each image, or transform image by image",
        )
    elif all(is_same(out, after[0]) for out in after):
        yield warning(
            f"{NUM_DRAWS} calls change the images in the same way: it is seeded, or not random",
            "draw again at every call",
        )
    for out in after:
        if problem := unit_problem(images, out.to(images)) or _blank_problem(images, out):
            yield error(problem, "fill and shift in the units of the images that it is given")
            return


def unit_problem(before: Tensor, after: Tensor) -> str:
    """Return the problem with a part of the pixels that was set far outside the others, or ""."""
    if before.shape != after.shape:
        return ""
    low, high = float(before.min()), float(before.max())
    changed = before != after
    share = float(changed.float().mean())
    values = after[changed].float()
    far = (values < low - 2 * (high - low)) | (values > high + 2 * (high - low))
    if not 0 < share < 0.8 or not bool(far.any()):  # normalizing changes nearly every pixel
        return ""
    value = float(values[far][0])
    return (
        f"it sets pixels to {value:.4g}, where images go from {low:.3g} to {high:.3g}: a value in "
        "other units"
    )


def is_same(one: Tensor, other: Tensor) -> bool:
    """Whether both are equal except for rounding, as of sums in another order."""
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), atol=1e-5)


def _blank_problem(before: Tensor, after: Tensor) -> str:
    """Return the problem with images that are left with one color, or ""."""
    if before.ndim != 4 or after.ndim != 4:
        return ""
    num_blank = int(is_blank(after).sum()) - int(is_blank(before).sum())
    return (
        f"it leaves one color in {num_blank} of {len(after)} images"
        if num_blank > 0.1 * len(after)
        else ""
    )


def _draws_once_a_batch(change: Transform, images: Tensor) -> bool:
    """Whether copies of one image stay equal within a batch, and differ between batches."""
    copies = images[:1].expand(len(images), *images.shape[1:]).clone()
    batches = [change(copies) for _ in range(NUM_DRAWS)]
    equal = all(bool((out == out[:1]).all()) for out in batches)
    return equal and not all(is_same(out, batches[0]) for out in batches)
