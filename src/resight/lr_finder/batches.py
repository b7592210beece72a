"""The batches of a range test: of any nesting, on the model's device, as often as needed."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError

Pair = tuple[Any, Any]  # inputs, which may be nested, and labels

_LABEL_KEYS = ("labels", "label", "targets", "target")


def input_label_pair(batch: Any) -> Pair:
    """Return the inputs and the labels of a batch, with tensors in place of NumPy's arrays.

    A batch is (inputs, labels), or a mapping in which one entry is the labels; if another one is
    left it is the inputs, else the rest of the mapping.

    Raises:
        UsageError: the batch is no such pair.
    """
    match batch:
        case Mapping() if key := next((k for k in _LABEL_KEYS if k in batch), None):
            inputs = {k: v for k, v in batch.items() if k != key}
            pair = (next(iter(inputs.values())) if len(inputs) == 1 else inputs), batch[key]
        case [inputs, labels, *_] if not isinstance(batch, Tensor | np.ndarray):
            pair = inputs, labels
        case _:
            raise UsageError(
                f"a batch is a {type(batch).__name__}, not (images, labels); wrap the batches in "
                "a generator that gives pairs"
            )
    inputs, labels = (map_tensors(part, _without_inference) for part in pair)
    return inputs, labels


def map_tensors(nest: Any, change: Callable[[Tensor], Any]) -> Any:
    """Return a nest of tuples, lists and dictionaries with each tensor or array changed."""
    if isinstance(nest, np.ndarray):
        nest = torch.tensor(nest)
    if isinstance(nest, Tensor):
        return change(nest)
    if isinstance(nest, Mapping):
        return {key: map_tensors(part, change) for key, part in nest.items()}
    if isinstance(nest, tuple | list):
        parts = [map_tensors(part, change) for part in nest]
        return type(nest)(*parts) if hasattr(nest, "_fields") else type(nest)(parts)
    return nest


def tensors_in(nest: Any) -> Iterator[Tensor]:
    """Yield every tensor of a nest, in order."""
    if isinstance(nest, Tensor):
        yield nest
    elif isinstance(nest, Mapping | tuple | list):
        for part in nest.values() if isinstance(nest, Mapping) else nest:
            yield from tensors_in(part)


def to_device(nest: Any, device: torch.device) -> Any:
    """Return a nest with every tensor and array on a device."""
    return map_tensors(nest, lambda tensor: tensor.to(device))


def num_images(inputs: Any, targets: Any) -> int:
    """Count the images of a batch: the rows of its first tensor, of the targets if they have one.

    Raises:
        UsageError: the batch has no tensor.
    """
    for tensor in tensors_in([targets, inputs]):
        if tensor.ndim:
            return len(tensor)
    raise UsageError(
        "a batch has no tensor or NumPy array with a row for each image; give (images, labels)"
    )


def training_pairs(batches: Iterable[Any], device: torch.device) -> Iterator[Pair]:
    """Yield the inputs and targets of batch after batch, from the first again when they end.

    A last batch of a single image is left out, as in resight's own training: batch norm can learn
    nothing from it, and on a 1x1 map cannot even compute.

    Raises:
        UsageError: there are no batches, or they cannot be started again.
    """
    drawn = 0
    while True:
        before, largest = drawn, 0
        for batch in batches:
            drawn += 1
            inputs, targets = to_device(input_label_pair(batch), device)
            largest = max(largest, num_images(inputs, targets))
            if largest == 1 or num_images(inputs, targets) > 1:
                yield inputs, targets
        if drawn == 0:
            raise UsageError("batches is empty; the range test needs at least one batch")
        if drawn == before:
            raise UsageError(
                f"batches ended after {drawn} and cannot be started again; give a list, a "
                "DataLoader, or an iterator that lasts for steps + 1 + probe batches"
            )


def _without_inference(tensor: Tensor) -> Tensor:
    """Copy a tensor of inference mode, as no gradient can be computed from it."""
    return tensor.clone() if tensor.is_inference() else tensor
