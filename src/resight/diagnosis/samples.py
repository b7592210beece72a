"""Batches that have labels, and the data sets behind a loader."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from ..errors import UsageError
from ..lr_finder.batches import Pair, input_label_pair, map_tensors, tensors_in

_DRAWS_ALL = (SequentialSampler, RandomSampler, WeightedRandomSampler, DistributedSampler)


def labeled_pair(batch: Any) -> Pair:
    """Return the inputs and the labels of a batch; both hold tensors.

    Raises:
        UsageError: the batch is no such pair.
    """
    inputs, labels = input_label_pair(batch)
    if next(tensors_in(inputs), None) is None or not isinstance(labels, Tensor | Mapping):
        raise UsageError(
            f"a batch has inputs of type {type(inputs).__name__} and labels of type "
            f"{type(labels).__name__}; give two tensors (images, labels)"
        )
    return inputs, labels


def some_rows(nest: Any, rows: slice) -> Any:
    """Return some rows of a nest: of each tensor that is as long as the first one."""
    size = len(first_tensor(nest))
    return map_tensors(nest, lambda t: t[rows] if t.ndim and len(t) == size else t)


def first_tensor(inputs: Any) -> Tensor:
    """Return the first tensor of four dimensions in a nest, else the first tensor."""
    tensors = list(tensors_in(inputs))
    return next((tensor for tensor in tensors if tensor.ndim == 4), tensors[0])


def image_batches(pairs: tuple[Pair, ...], n: int) -> Tensor | None:
    """Return up to n images (N, C, H, W) a batch, as float32; None if they have another shape."""
    parts = [first_tensor(inputs)[:n].float() for inputs, _ in pairs]
    if not parts or parts[0].ndim != 4:
        return None
    return torch.cat([part for part in parts if part.shape[1:] == parts[0].shape[1:]])


def sampler_of(source: Any) -> Any:
    """Return what draws the rows of a DataLoader; None for a stream or a custom BatchSampler."""
    if not isinstance(source, DataLoader) or isinstance(source.dataset, IterableDataset):
        return None
    batches = source.batch_sampler
    return batches.sampler if type(batches) is BatchSampler else None


def dataset_and_rows(source: Any) -> tuple[Any, list[int]]:
    """Return the data set below all subsets of a DataLoader, and its rows that are drawn."""
    sampler = sampler_of(source)
    if sampler is None:
        return None, []
    dataset, rows = source.dataset, []
    if isinstance(sampler, SubsetRandomSampler):
        rows = [int(row) for row in sampler.indices]
    elif isinstance(sampler, _DRAWS_ALL):
        rows = list(range(len(dataset)))
    while isinstance(dataset, Subset):
        rows = [int(dataset.indices[row]) for row in rows]
        dataset = dataset.dataset
    return dataset, rows


def dataset_labels(source: Any) -> Tensor | None:
    """Return the class number of each row that a loader draws, if the data set keeps them."""
    dataset, rows = dataset_and_rows(source)
    labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        labels = dataset.tensors[1]
    try:
        numbers = torch.as_tensor(labels)[rows]
    except (TypeError, ValueError, RuntimeError, IndexError):
        return None
    return numbers if numbers.ndim == 1 and not numbers.is_floating_point() else None


def class_names(source: Any) -> tuple[str, ...] | None:
    """Return the names of the classes in the order of their numbers, if the data set has them."""
    dataset, _ = dataset_and_rows(source)
    index = getattr(dataset, "class_to_idx", None)
    if isinstance(index, Mapping):
        return tuple(str(name) for name in sorted(index, key=lambda name: index[name]))
    classes = getattr(dataset, "classes", None)
    return tuple(map(str, classes)) if isinstance(classes, tuple | list) else None


def image_keys(source: Any) -> tuple[str, set[Any]]:
    """Return what tells the images that a loader draws apart, before transforms, and its kind.

    It is the path of a file, or the bytes of the pixels; an empty set if the data set has neither.
    """
    dataset, rows = dataset_and_rows(source)
    files = getattr(dataset, "samples", getattr(dataset, "imgs", None))
    if isinstance(files, list) and files and isinstance(files[0], tuple):
        return "files", {str(files[row][0]) for row in rows}
    stored = getattr(dataset, "data", None)
    if isinstance(dataset, TensorDataset):
        stored = dataset.tensors[0]
    if isinstance(stored, np.ndarray | Tensor) and len(stored) == len(dataset):
        pixels = np.asarray(stored)
        kind = f"{pixels.dtype} {pixels.shape[1:]}"
        return kind, {hash(pixels[row].tobytes()) for row in rows}
    return "", set()


def digests(images: Tensor) -> list[bytes]:
    """Return the bytes of each image."""
    array = images.detach().cpu().float().contiguous().numpy()
    return [image.tobytes() for image in array]


def distinct_rows(images: Tensor) -> list[int]:
    """Return the rows of the images without copies, as a sampler with replacement draws them."""
    return sorted({digest: row for row, digest in enumerate(digests(images))}.values())
