"""The batches of a range test: of any nesting, on the model's device, as often as needed."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError


def to_device(value: Any, device: torch.device) -> Any:
    """Return a value on a device, with every tensor and NumPy array inside it.

    Tuples, lists and dictionaries keep their form. An inference tensor is copied, as no gradient
    can be computed from it.
    """
    if isinstance(value, np.ndarray):
        return torch.tensor(value, device=device)
    if isinstance(value, Tensor):
        return (value.clone() if value.is_inference() else value).to(device)
    if hasattr(value, "to"):  # such as a BatchEncoding
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: to_device(part, device) for key, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [to_device(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def input_target_pair(batch: Any, device: torch.device) -> tuple[Any, Any]:
    """Return the inputs and the targets of a batch on a device.

    Raises:
        UsageError: the batch is no such pair.
    """
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise UsageError(
            f"a batch is a {type(batch).__name__}, not (images, labels); wrap the batches in "
            "a generator that gives pairs"
        )
    return to_device(batch[0], device), to_device(batch[1], device)


def num_images(inputs: Any, targets: Any) -> int:
    """Count the images of a batch: the rows of its first tensor, of the targets if they have one.

    Raises:
        UsageError: the batch has no tensor.
    """
    for tensor in _tensors([targets, inputs]):
        if tensor.ndim:
            return len(tensor)
    raise UsageError(
        "a batch has no tensor or NumPy array with a row for each image; give (images, labels)"
    )


def training_pairs(batches: Iterable[Any], device: torch.device) -> Iterator[tuple[Any, Any]]:
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
            inputs, targets = input_target_pair(batch, device)
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


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
