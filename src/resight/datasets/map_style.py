"""Data sets of PyTorch: every item is an image and its label, read once and in order."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import UsageError
from .readers.contents import ReadOptions
from .readers.limits import check_memory

_READS = 4  # of each of the first items, to notice a random transform
_FIRST = 3
_EVERY = 512  # items between two reports of progress
_IMAGES = ("image", "img", "pixel_values", "x", "picture")
_LABELS = ("label", "labels", "target", "fine_label", "class", "y")
_PLAIN_MODES = ("1", "L", "LA", "RGB", "RGBA", "I", "I;16", "CMYK", "F")


def read_items(dataset: Any, where: str, options: ReadOptions) -> tuple[list[Any], list[Any]]:
    """Return the images and the labels of a map-style data set.

    An image is an array, or the bytes of a picture that was one of Pillow's. The global random
    state is the same afterwards.

    Raises:
        UsageError: an item is no pair, or differs when it is read again.
    """
    count = len(dataset)
    images: list[Any] = []
    labels: list[Any] = []
    with _random_state_kept():
        for place in range(min(_FIRST, count)):
            _check_same(dataset, place, where)
        for place in range(count):
            image, label = _pair(dataset[place], f"{where}[{place}]")
            image = picture_bytes(image) if isinstance(image, Image.Image) else as_array(image)
            if not place:
                size = len(image) if isinstance(image, bytes) else image.nbytes
                check_memory(f"{count:,} images of {where}", count * size)
            images.append(image)
            labels.append(label)
            if place % _EVERY == 0:
                options.on_progress("read images", place, count)
    options.on_progress("read images", count, count)
    return images, labels


def is_map_style(source: Any) -> bool:
    """Return whether an object gives items by number and says how many it has."""
    return hasattr(source, "__getitem__") and hasattr(source, "__len__")


def classes_of(dataset: Any) -> Sequence[str] | None:
    """Return the `classes` of a data set, or of the one that it is a part of; None without them.

    Of several names of one class, as ImageNet has them, the first is taken.
    """
    names = getattr(dataset, "classes", None)
    if isinstance(names, list | tuple) and names:
        return [str(name[0] if isinstance(name, tuple) and name else name) for name in names]
    inner = getattr(dataset, "dataset", None)  # of torch.utils.data.Subset
    return classes_of(inner) if inner is not None else None


def item_ids(dataset: Any, where: str) -> list[str]:
    """Return the id of each item: the path of its file where the data set lists them."""
    samples = getattr(dataset, "samples", None)  # of torchvision's ImageFolder
    if isinstance(samples, list) and len(samples) == len(dataset):
        paths = [sample[0] for sample in samples if isinstance(sample, tuple) and sample]
        if len(paths) == len(samples) and all(isinstance(path, str) for path in paths):
            return paths
    inner, rows = getattr(dataset, "dataset", None), getattr(dataset, "indices", None)
    if inner is not None and rows is not None and len(rows) == len(dataset):
        ids = item_ids(inner, where)
        return [ids[int(row)] for row in rows]
    return [f"{where}[{row}]" for row in range(len(dataset))]


def as_array(image: Any) -> Any:
    """Return a tensor or anything like an array as an array of NumPy."""
    if isinstance(image, torch.Tensor):
        return image.detach().cpu().numpy()
    return np.asarray(image)


def picture_bytes(image: Image.Image) -> bytes:
    """Return a picture as a file in memory, with every pixel as it is."""
    if image.has_transparency_data and image.mode not in ("LA", "RGBA"):
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    elif image.mode not in _PLAIN_MODES:
        image = image.convert("RGB")
    stream = BytesIO()
    image.save(stream, "TIFF")
    return stream.getvalue()


def _pair(item: Any, where: str) -> tuple[Any, Any]:
    if isinstance(item, dict):
        image = next((key for key in _IMAGES if key in item), None)
        label = next((key for key in _LABELS if key in item), None)
        if image is None or label is None:
            raise UsageError(
                f"{where} has the keys {', '.join(map(str, item))}; expected image and label"
            )
        return item[image], item[label]
    if isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    raise UsageError(f"{where} is a {type(item).__name__}; expected a pair of image and label")


def _check_same(dataset: Any, place: int, where: str) -> None:
    """Refuse a data set whose images differ from one reading to the next."""
    first, *others = (
        as_array(_pair(dataset[place], f"{where}[{place}]")[0]) for _ in range(_READS)
    )
    if not all(np.array_equal(first, other, equal_nan=first.dtype.kind == "f") for other in others):
        raise UsageError(
            f"{where}[{place}] differs when it is read again, so its transform is random; leave "
            "the augmentation out there, and set it in the recipe (augment.*)"
        )


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Give back the global random states, which transforms may use."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
