"""Does augmentation change images, each by a draw of its own?"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from .issues import Issue, Skipped, error, warning

Transform = Callable[[Tensor], Tensor]
NUM_DRAWS = 8  # so that a flip by one draw for the whole batch shows, but for once in 128
MIN_CHANGED = (
    200  # draws for one image or another, after which even a rare change should have shown
)


def transform(change: Transform, images: Tensor) -> Iterator[Issue]:
    """Of one transform, images (N, ...) -> images (N, ...)."""
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
        yield (error if NUM_DRAWS * len(images) >= MIN_CHANGED else warning)(
            f"it changes none of {len(images)} images in {NUM_DRAWS} draws",
            "use what it returns; look at its probability and its sizes",
        )
        return
    copies = images[:1].expand(len(images), *images.shape[1:]).clone()
    drawn = [change(copies) for _ in range(NUM_DRAWS)]
    alike = all(bool((out == out[:1]).all()) for out in drawn)
    if len(images) > 1 and alike and not all(_same(out, drawn[0]) for out in drawn):
        yield error(
            "all images of a batch are changed alike: one draw for the whole batch",
            "draw for each image, or transform image by image",
        )
    elif all(_same(out, after[0]) for out in after):
        yield warning(
            f"{NUM_DRAWS} calls change the images in the same way: it is seeded, or leaves nothing to "
            "chance",
            "draw anew at every call",
        )


def _same(one: Tensor, other: Tensor) -> bool:
    """But for rounding, as of sums in another order."""
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), atol=1e-5)


def named_transforms(augment: Transform | Mapping[str, Transform]) -> dict[str, Transform]:
    """Each under a name for the list of checks."""
    if isinstance(augment, Mapping):
        return {f"augment {name}": change for name, change in augment.items()}
    return {"augment": augment}
