"""Context managers that restore a model, its optimizer and the random numbers at their end."""

import copy
import random
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import UsageError


@contextmanager
def preserve_state(optimizer: Optimizer, *modules: nn.Module) -> Iterator[None]:
    """Restore a training on exit, bit for bit and object for object, also after an exception.

    Restored are parameters, buffers, gradients, every attribute of the modules (`training` too),
    the optimizer's state and groups, and the random numbers of Python, NumPy and torch on every
    device in use. A change inside another object is not: of a list that a module appends to.

    Raises:
        UsageError: a lazy layer has no weights yet.
    """
    parameters = {p for group in optimizer.param_groups for p in group["params"]}
    parameters.update(p for module in modules for p in module.parameters())
    if any(torch.nn.parameter.is_lazy(p) for p in parameters):
        raise UsageError("the model has lazy layers without weights; pass one batch through first")
    values = parameters | {b for module in modules for b in module.buffers()}
    tables: list[MutableMapping[Any, Any]] = [vars(optimizer), *optimizer.param_groups]
    for module in {m for root in modules for m in root.modules()}:
        tables += [vars(module), module._parameters, module._buffers]
    kept_tables = [(table, dict(table)) for table in [optimizer.state, *tables]]
    for entry in optimizer.state.values():  # of one parameter; the values of tensors are kept apart
        kept_tables.append(
            (entry, {k: v if isinstance(v, Tensor) else copy.deepcopy(v) for k, v in entry.items()})
        )
        values |= {v for v in entry.values() if isinstance(v, Tensor)}
    kept_values = [(value, value.detach().clone()) for value in values]
    gradients = [(parameter, parameter.grad) for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None  # the gradients themselves are only put aside
        with _random_kept():
            yield
    finally:
        for table, kept in kept_tables:
            table.update(kept)
            for key in [key for key in table if key not in kept]:
                del table[key]
        with torch.no_grad():
            for value, was in kept_values:
                value.copy_(was)
        for parameter, gradient in gradients:
            parameter.grad = gradient


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
