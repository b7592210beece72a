"""Check the transforms inside a data set: each part by itself, and what reading an image gives."""

import copy
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from ..records import evenly_spaced
from .augment_checks import is_same, unit_problem
from .issues import Issue, Skipped, error, warning
from .probe import Probe
from .samples import first_tensor, sampler_of

NUM_IMAGES, NUM_READS = 8, 8  # images that are read, and how often
MAX_DRAWS = 256  # of a part that seems to change nothing
RANDOM_NAME = re.compile("random|jitter|augment|erasing|cutout|noise", re.IGNORECASE)


def dataset_transform(probe: Probe) -> Iterator[Issue]:
    """Check that random transforms of a data set change images, by new draws, in the right units.

    The check reads a few images several times, and applies each part of the data set's
    `transform` by itself.

    Why is this bad:
        Images that are augmented in the same way each time, or not at all, are learned by heart. A
        data set that seeds the global generators also fixes the order of the images.
    Example:
        class Seeded(TensorDataset):
            def __getitem__(self, index):
                torch.manual_seed(0)
                return super().__getitem__(index)


        batches = DataLoader(Seeded(images, labels), batch_size=64, shuffle=True)
    Fix:
        Draw new random numbers each time that an image is read, and augment after what is cached.
    """
    dataset = getattr(probe.source, "dataset", None)
    if sampler_of(probe.source) is None or not isinstance(dataset, Dataset):
        raise Skipped("needs a DataLoader of data with a length, with torch's own BatchSampler")
    rows = evenly_spaced(len(dataset), NUM_IMAGES).tolist()  # type: ignore[arg-type]
    if seeded := _generators_seeded(lambda: dataset[rows[0]]):
        yield error(
            f"reading an image seeds the global random numbers of {' and '.join(seeded)}, so "
            "every image and every epoch gets the same draws",
            "seed once, before training; draw from the global generator",
        )
        return
    holder = _with_transform(dataset)
    if holder is None:
        return
    with _recorded(holder) as given:
        reads = [[_image(dataset[row]) for _ in range(NUM_READS)] for row in rows]
    if not given:
        return
    images = given[::NUM_READS][:NUM_IMAGES] if len(given) == NUM_READS * len(rows) else given[:1]
    any_random = False
    for part in _parts(holder.transform):
        is_random, issues, images = _judge(part, images)
        any_random |= is_random
        yield from issues
    if any_random and all(_all_same(row) for row in reads):
        yield error(
            "its transform is random, but an image is the same each time that it is read: it was "
            "augmented once and kept",
            "keep images as they are before random transforms",
        )


def _judge(part: Callable[[Any], Any], images: list[Any]) -> tuple[bool, list[Issue], list[Any]]:
    """Apply one part of a transform; return whether it is random, its issues, and its outputs."""
    name, prob = type(part).__name__, getattr(part, "p", None)
    name = getattr(part, "__name__", name)
    outputs = [[part(copy.deepcopy(image)) for _ in range(NUM_READS)] for image in images]
    changes = [not _equal(out, x) for x, outs in zip(images, outputs, strict=True) for out in outs]
    draws_differ = not all(_all_same(outs) for outs in outputs)
    claims = bool(RANDOM_NAME.search(name)) or (isinstance(prob, float) and prob < 1)
    issues = []
    if claims and not any(changes) and not _changes_in_the_end(part, images):
        issues.append(
            error(
                f"{name} changes none of {len(images)} images"
                + (f": its probability is {prob:g}" if prob == 0 else ""),
                "return the changed image; look at its probability and its sizes",
            )
        )
    elif claims and any(changes) and not draws_differ and (prob is None or prob < 1):
        issues.append(
            warning(
                f"{name} changes an image in the same way each time: it is seeded, or not random",
                "draw from the global generator, or from one that is built once",
            )
        )
    pairs = [(x, out) for x, outs in zip(images, outputs, strict=True) for out in outs]
    tensors = [(x, out) for x, out in pairs if isinstance(x, Tensor) and isinstance(out, Tensor)]
    if problem := next(filter(None, (unit_problem(x, out) for x, out in tensors)), ""):
        issues.append(
            error(f"{name}: {problem}", "fill in the units that images have at this place")
        )
    return draws_differ, issues, [outs[0] for outs in outputs]


def _changes_in_the_end(part: Callable[[Any], Any], images: list[Any]) -> bool:
    draws = range(MAX_DRAWS // max(1, len(images)))
    return any(not _equal(part(copy.deepcopy(image)), image) for image in images for _ in draws)


def _generators_seeded(read: Callable[[], object]) -> list[str]:
    """Return which libraries have the same global state after a read, whatever it was before."""
    states = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the user's transforms draw from it
        torch.default_generator.manual_seed(seed)
        read()
        numpy_state = np.random.get_state()  # noqa: NPY002
        states.append(
            {
                "torch": torch.get_rng_state().numpy().tobytes(),
                "Python": random.getstate(),
                "NumPy": (numpy_state[1].tobytes(), numpy_state[2]),  # type: ignore[index]
            }
        )
    return [name for name in states[0] if states[0][name] == states[1][name]]


def _with_transform(dataset: Any) -> Any:
    """Return the first data set, below subsets and wrappers, with a `transform` to call."""
    for _ in range(8):
        if callable(getattr(dataset, "transform", None)):
            return dataset
        if isinstance(dataset, ConcatDataset):
            dataset = dataset.datasets[0]
        elif isinstance(dataset, Subset) or isinstance(getattr(dataset, "dataset", None), Dataset):
            dataset = dataset.dataset
        else:
            return None
    return None


@contextmanager
def _recorded(holder: Any) -> Iterator[list[Any]]:
    """Yield a list that collects what the transform of a data set is given."""
    transform, given = holder.transform, []

    def record(image: Any) -> Any:
        given.append(image)
        return transform(image)

    holder.transform = record
    try:
        yield given
    finally:
        holder.transform = transform


def _parts(transform: Any) -> Iterator[Callable[[Any], Any]]:
    """Yield the parts of a transform one by one, where it is a sequence of parts."""
    parts = getattr(transform, "transforms", None)
    if isinstance(parts, list | tuple) and "Compose" in type(transform).__name__:
        for part in parts:
            yield from _parts(part)
    else:
        yield transform


def _image(item: Any) -> Any:
    return item[0] if isinstance(item, tuple | list) and item else item


def _all_same(values: list[Any]) -> bool:
    return all(_equal(value, values[0]) for value in values)


def _equal(one: Any, other: Any) -> bool:
    """Whether two images, which may be tensors, arrays or pictures, are the same."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return is_same(one, other)
    if isinstance(one, dict | list | tuple):
        return bool(is_same(first_tensor(one), first_tensor(other)))
    return type(one) is type(other) and np.array_equal(np.asarray(one), np.asarray(other))
