"""Parts of a network that do not train, named by patterns."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import nn

from ..errors import UsageError, suggest
from ..recipe.training import BACKBONE
from .norms import norm_kind


def head_of(model: nn.Module) -> tuple[str, nn.Module]:
    """Return the name and the module of the head: the last layer that makes the logits.

    It is the linear layer, or without any the convolution, that is defined last.

    Raises:
        UsageError: the network has neither.
    """
    for kind in (nn.Linear, nn.Conv2d):
        layers = [(name, part) for name, part in model.named_modules() if isinstance(part, kind)]
        if layers:
            return layers[-1]
    raise UsageError(f"the {type(model).__name__} has no linear layer that could be its head")


def check_frozen(model: nn.Module, patterns: Sequence[str]) -> None:
    """Raise UsageError if a pattern of `training.freeze` matches nothing, or if all match all.

    A pattern is "backbone", the name of a layer or weight as in "layer1", or has wildcards, as
    "layer[12].*".
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if pattern != BACKBONE and not any(_matches(name, pattern) for name in names):
            parts = [name for name, _ in model.named_modules() if name]
            hint = suggest(pattern, parts) or f"; layers are {', '.join(_outermost(model))}"
            raise UsageError(
                f'training.freeze: no weight of the network matches "{pattern}"{hint}, or '
                f'"{BACKBONE}" for all but the head'
            )
    frozen = _frozen_names(model, patterns)
    if not any(p.requires_grad and name not in frozen for name, p in model.named_parameters()):
        raise UsageError(
            f"training.freeze = [{', '.join(patterns)}] leaves no weight to train; leave out a "
            "pattern"
        )


@contextmanager
def frozen(model: nn.Module, patterns: Sequence[str]) -> Iterator[None]:
    """Hold the weights that match one of `patterns`, and give them back to training at the end.

    A normalization layer whose weights are held stays in evaluation mode, so that its running
    statistics are held as well.
    """
    names = _frozen_names(model, patterns)
    held = [p for name, p in model.named_parameters() if name in names and p.requires_grad]
    norms = [
        part
        for path, part in model.named_modules()
        if norm_kind(part) is not None and part.training and _is_held(path, part, names)
    ]
    try:
        for parameter in held:
            parameter.requires_grad_(False)
            parameter.grad = None
        for norm in norms:
            norm.eval()
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
        for norm in norms:
            norm.train()


def _frozen_names(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    if not patterns:
        return set()
    names = [name for name, _ in model.named_parameters()]
    if BACKBONE in patterns:
        head = head_of(model)[0]
        patterns = [*patterns, *(name for name in names if not name.startswith(f"{head}."))]
    return {name for name in names for pattern in patterns if _matches(name, pattern)}


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _is_held(path: str, norm: nn.Module, names: set[str]) -> bool:
    own = [f"{path}.{name}" for name, _ in norm.named_parameters(recurse=False)]
    return bool(own) and all(name in names for name in own)


def _outermost(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_children()]
