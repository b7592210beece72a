"""Lend a model and its optimizer out, and get them back as they were."""

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
    """Whatever is done inside, afterwards all is as it was, bit for bit and object for object.

    That is: parameters, buffers, gradients, every attribute of the modules (`training` too), the
    optimizer's state and groups, and the random numbers of Python, NumPy and torch on every
    device in use. It holds after an exception and after Ctrl-C.

    Not given back: what a module or an optimizer changes inside an attribute that is not a
    parameter, a buffer or optimizer state, such as a list it appends to.

    Raises UsageError for a lazy layer that has no weights yet.
    """
    parameters = {p for group in optimizer.param_groups for p in group["params"]}
    parameters.update(p for module in modules for p in module.parameters())
    if any(torch.nn.parameter.is_lazy(p) for p in parameters):
        raise UsageError("the model has lazy layers without weights; pass one batch through first")
    values = parameters | {b for module in modules for b in module.buffers()}
    tables: list[MutableMapping[Any, Any]] = [vars(optimizer), *optimizer.param_groups]
    for module in {m for root in modules for m in root.modules()}:
        tables += [vars(module), module._parameters, module._buffers]
    states = [(entry, _copied(entry)) for entry in optimizer.state.values()]
    values |= {v for entry in optimizer.state.values() for v in entry.values() if _is_tensor(v)}

    kept_tables = [(table, dict(table)) for table in [optimizer.state, *tables]] + states
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


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _copied(entry: dict[str, Any]) -> dict[str, Any]:
    """One parameter's optimizer state: its own tensors (values are kept apart), the rest copied."""
    return {name: v if _is_tensor(v) else copy.deepcopy(v) for name, v in entry.items()}


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
    """Give back the generators that data loaders and their samplers draw their order from."""
    holders = list(sources)
    for source in sources:
        sampler = getattr(source, "batch_sampler", None)
        holders += [getattr(source, "sampler", None), sampler, getattr(sampler, "sampler", None)]
    found = [getattr(holder, "generator", None) for holder in holders]
    kept = [(g, g.get_state()) for g in found if isinstance(g, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in kept:
            generator.set_state(state)
