"""Context managers that restore a model, its optimizer and the random numbers at their end."""

import random
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ..errors import UsageError


@contextmanager
def preserve_state(*borrowed: Optimizer | nn.Module) -> Iterator[None]:
    """Restore a training on exit, bit for bit and object for object, also after an exception.

    Restored are every attribute of the modules (`training` too) and of the optimizer (its state,
    groups, hooks and step counts), with the lists, dictionaries, sets and tensors inside them, the
    gradients, and the random numbers of Python, NumPy and torch on every device in use. A change
    inside an object of another kind is not restored, nor one in a tensor that is the result of a
    computation with gradients.

    Raises:
        UsageError: a lazy layer has no weights yet.
    """
    containers, tensors = _contents(borrowed)
    if any(is_lazy(tensor) for tensor in tensors):
        raise UsageError("the model has lazy layers without weights; pass one batch through first")
    saved_containers = [(c, dict(c) if isinstance(c, dict) else list(c)) for c in containers]
    saved_tensors = [
        (tensor, tensor.detach().clone(), tensor.requires_grad, tensor.grad)
        for tensor in tensors
        if _is_writable(tensor)
    ]
    try:
        for tensor, *_ in saved_tensors:
            tensor.grad = None  # the gradients themselves are only put aside
        with _random_kept():
            yield
    finally:
        for container, saved in saved_containers:
            _refill(container, saved)
        with torch.no_grad():
            for tensor, value, requires_grad, gradient in saved_tensors:
                if tensor.is_leaf:  # a buffer may have become the result of a computation
                    tensor.requires_grad_(requires_grad).grad = gradient
                tensor.copy_(value)


_Container = dict[Any, Any] | list[Any] | set[Any] | deque[Any]


def _contents(roots: Iterable[Optimizer | nn.Module]) -> tuple[list[_Container], list[Tensor]]:
    """The containers and tensors in optimizers, in modules and in one another, each once."""
    containers: list[_Container] = []
    tensors: list[Tensor] = []
    visited: set[int] = set()
    pending: list[Any] = list(roots)
    for root in roots:
        if isinstance(root, nn.Module):  # a scripted one has no dictionaries of its parts
            pending += [*root.modules(), *root.parameters(), *root.buffers()]
    while pending:
        value = pending.pop()
        if id(value) in visited:
            continue
        match value:
            case nn.Module() | Optimizer():
                pending.append(vars(value))
            case Tensor():
                tensors.append(value)
            case dict():
                containers.append(value)
                pending += [*value.keys(), *value.values()]  # the keys of `state` are parameters
            case list() | set() | deque():
                containers.append(value)
                pending += value
            case tuple():
                pending += value
            case _:
                continue
        visited.add(id(value))
    return containers, tensors


def _refill(container: _Container, saved: dict[Any, Any] | list[Any]) -> None:
    container.clear()
    if isinstance(container, dict | set):
        container.update(saved)
    else:
        container.extend(saved)


def _is_writable(tensor: Tensor) -> bool:
    """Whether a value can be put back into a tensor: not into a result, nor an expanded view."""
    if tensor.layout == torch.strided:
        dimensions = zip(tensor.size(), tensor.stride(), strict=True)
        if any(size > 1 and stride == 0 for size, stride in dimensions):
            return False
    return tensor.is_leaf and not tensor.is_inference()


@contextmanager
def _random_kept() -> Iterator[None]:
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    # CUDA that is not in use yet has no state to keep, and asking for it would set it up.
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if in_use else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002
        if mps is not None:
            torch.mps.set_rng_state(mps)


@contextmanager
def preserve_positions(*sources: Any) -> Iterator[None]:
    """Restore the generators that data loaders and their samplers draw their order from."""
    holders = list(sources)
    for source in sources:
        sampler = getattr(source, "batch_sampler", None)
        holders += [getattr(source, "sampler", None), sampler, getattr(sampler, "sampler", None)]
    generators = [getattr(holder, "generator", None) for holder in holders]
    kept = [(g, g.get_state()) for g in generators if isinstance(g, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in kept:
            generator.set_state(state)


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed the generators that training may draw from: Python's, NumPy's and torch's."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the user's augmentation may draw from it
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def seeded_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which dropout draws from, and give them back."""
    # torch.manual_seed would reseed every GPU, and on the CPU alone takes a hundred times longer.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":  # the one that fork_rng cannot give back
            torch.mps.manual_seed(seed)
        yield


@contextmanager
def scaled_momentum(model: nn.Module, parts: int) -> Iterator[None]:
    """Make batch norm's running statistics forget by the step, not by the micro-batch.

    Each of the m micro-batches of a step updates them, so a momentum p would reach back m times
    less far, and validation would follow the noise of single micro-batches: 1 - (1 - p)^(1/m)
    keeps the reach.
    """
    borrowed = [
        (module, module.momentum)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.momentum is not None  # None: the plain mean over all batches so far
        and parts > 1
    ]
    try:
        for norm, momentum in borrowed:
            norm.momentum = 1 - (1 - momentum) ** (1 / parts)
        yield
    finally:
        for norm, momentum in borrowed:
            norm.momentum = momentum
