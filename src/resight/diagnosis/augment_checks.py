"""Check that augmentation changes images, each by a random draw for itself."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .issues import Issue, Skipped, error, warning

Transform = Callable[[Tensor], Tensor]
NUM_DRAWS = 8  # a flip by one draw for the whole batch shows, except once in 128 times
MIN_CHANGES = 200  # images times draws, after which even a rare change should have shown


def augment(change: Transform, images: Tensor) -> Iterator[Issue]:
    """Check that a transform of images (N, ...) changes them, each by a draw for itself.

    Why is this bad:
        A transform that changes nothing, or every image of a batch in the same way, helps little
        or not at all. A transform that changes its input damages the data set a little more in
        every epoch.
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
    if all(_same(out.to(images), images) for out in after):
        yield (error if NUM_DRAWS * len(images) >= MIN_CHANGES else warning)(
            f"it changes none of {len(images)} images in {NUM_DRAWS} draws",
            "use its return value; look at its probability and its sizes",
        )
    elif len(images) > 1 and _draws_once_a_batch(change, images):
        yield error(
            "it changes all images of a batch in the same way: one draw for the whole batch",
            "draw for each image, or transform image by image",
        )
    elif all(_same(out, after[0]) for out in after):
        yield warning(
            f"{NUM_DRAWS} calls change the images in the same way: it is seeded, or not random",
            "draw again at every call",
        )


def _draws_once_a_batch(change: Transform, images: Tensor) -> bool:
    """Whether copies of one image stay equal within a batch, and differ between batches."""
    copies = images[:1].expand(len(images), *images.shape[1:]).clone()
    batches = [change(copies) for _ in range(NUM_DRAWS)]
    equal = all(bool((out == out[:1]).all()) for out in batches)
    return equal and not all(_same(out, batches[0]) for out in batches)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether both are equal except for rounding, as of sums in another order."""
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), atol=1e-5)
