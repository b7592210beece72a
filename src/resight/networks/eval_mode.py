"""Put a module into evaluation mode for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import UsageError


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode without gradients; modes and weights come back as they were.

    The mode changes through `eval()` and `train()`, which a module may override: a LoRA layer
    merges its adapter into the weight in one and takes it out again in the other. What such a
    module does to its weights is undone bit for bit. A model that is in evaluation mode already is
    left alone.

    Raises:
        UsageError: the model cannot change its mode, as an exported one.
    """
    modes = {module: module.training for module in model.modules()}
    kept = _weights_of_own_modes(model) if any(modes.values()) else []
    try:
        if any(modes.values()):
            _set_eval(model)
        with torch.no_grad():  # in inference mode, what a module caches could not be trained with
            yield
    finally:
        if any(module.training != mode for module, mode in modes.items()):
            model.train(modes[model])
            _restore_modes(model, modes)
        with torch.no_grad():
            for value, before in kept:
                if not torch.equal(value, before):  # what train() took out left a rounding error
                    value.copy_(before)


def _set_eval(model: nn.Module) -> None:
    try:
        model.eval()
    except NotImplementedError as error:
        raise UsageError(
            f"the {type(model).__name__} has no evaluation mode ({str(error).rstrip('.')}), as a "
            "module of torch.export; give the module that was exported"
        ) from error


def _restore_modes(module: nn.Module, modes: Mapping[nn.Module, bool]) -> None:
    """Set the modes of a subtree by `train` where it has one, else by assignment."""
    parts = [part for part in module.modules() if part in modes]
    if all(part.training == modes[part] for part in parts):
        return
    if len({modes[part] for part in parts}) == 1:
        module.train(modes[parts[0]])
    for part in module.children():
        _restore_modes(part, modes)
    if module.training != modes.get(module, module.training):  # its parts have two modes
        module.training = modes[module]


def _weights_of_own_modes(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return the weights, each with a copy, of the modules whose `train` or `eval` is not torch's.

    Only these can change a weight, so that most models need no copy.
    """
    owners = [
        module
        for module in model.modules()
        for switch in (module.train, module.eval)
        if getattr(switch, "__module__", "").partition(".")[0] != "torch"
    ]
    weights = {w for owner in owners for w in chain(owner.parameters(), owner.buffers())}
    return [(w, w.detach().clone()) for w in weights if not is_lazy(w)]
