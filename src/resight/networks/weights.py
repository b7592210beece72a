"""Weights to start from: files of tensors, matched to a network by name and shape."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn

from ..errors import UsageError
from ..files import check_file, read_bytes
from ..text import one_line

_MAX_BYTES = 2**35
# The places of the weights within a checkpoint, and what wrappers put before the names.
_PLACES = ("state_dict", "model_state_dict", "model", "net", "weights", "params")
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "backbone.", "encoder.")
# torchvision's and timm's names of the parts of a ResNet-18 and -34, and ours.
_OF_TORCHVISION = (
    (re.compile(r"^conv1\."), "stem.0."),
    (re.compile(r"^bn1\."), "stem.1."),
    (re.compile(r"\.bn(\d)\."), r".norm\1."),
    (re.compile(r"\.downsample\."), ".shortcut."),
    (re.compile(r"^fc\."), "head.fc."),
)
_MAX_NAMES = 4  # in a message


@dataclass(frozen=True)
class WeightMatch:
    """Which tensors of a network were loaded.

    loaded: the number of tensors. missing: those that keep their first values, as the file has none
    of their shape. unexpected: those of the file that the network has no place for.
    """

    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.loaded:,} tensors loaded"
        if self.missing:
            text += f"; {_names(self.missing)} start fresh"
        if self.unexpected:
            text += f"; {_names(self.unexpected)} of the file are not used"
        return text


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a `.safetensors` file, or of a file of torch, without running code.

    Raises:
        UsageError: there is no such file, or it holds anything but tensors and plain Python.
    """
    try:
        if file.suffix == ".safetensors":
            return parse_safetensors(read_bytes(file, _MAX_BYTES))
        check_file(file, _MAX_BYTES)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(
            f"model.weights = {str(file)!r} cannot be read: {error.strerror or error}"
        ) from error
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"model.weights = {str(file)!r} holds no plain tensors "
            f"({one_line(str(error).splitlines()[0], 160)}); save them by "
            "torch.save(model.state_dict(), ...) or as .safetensors"
        ) from error
    except Exception as error:  # torch raises many kinds for files that are none of its own
        raise UsageError(
            f"model.weights = {str(file)!r} is damaged ({type(error).__name__}); get it again"
        ) from error
    weights = _tensors_in(content)
    if not weights:
        raise UsageError(
            f"model.weights = {str(file)!r} holds no named tensors; save them by "
            "torch.save(model.state_dict(), ...)"
        )
    return weights


@torch.no_grad()
def load_weights(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> WeightMatch:
    """Copy into `model` every tensor that has its name and shape in `weights`.

    Prefixes that wrappers put before all names, as "module.", are dropped where that matches more,
    and torchvision's names of the parts of a ResNet are understood.

    Raises:
        UsageError: no tensor matches.
    """
    own = model.state_dict()
    named = max(_spellings(weights), key=lambda spelling: len(_fitting(own, spelling)))
    fitting = _fitting(own, named)
    if not any(own[name].is_floating_point() for name in fitting):
        raise UsageError(
            f"model.weights = {origin!r}: none of its tensors ({_names(tuple(weights))}) fits the "
            f"network's ({_names(tuple(own))}); give weights of this kind of network"
        )
    for name in fitting:
        own[name].copy_(named[name])
    trained = {name for name, value in own.items() if value.is_floating_point()}
    return WeightMatch(
        loaded=len(fitting),
        missing=tuple(name for name in own if name in trained and name not in fitting),
        unexpected=tuple(name for name in named if name not in fitting),
    )


def _tensors_in(content: Any) -> dict[str, Tensor]:
    """Return the named tensors of a checkpoint, at the place where trainers put them."""
    for place in _PLACES:
        if isinstance(content, Mapping) and isinstance(content.get(place), Mapping):
            return _tensors_in(content[place])
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _spellings(weights: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    spellings = [dict(weights)]
    for _ in range(2):  # two wrappers
        spellings += [
            {name.removeprefix(prefix): value for name, value in spelling.items()}
            for spelling in list(spellings)
            for prefix in _PREFIXES
            if any(name.startswith(prefix) for name in spelling)
        ]
    spellings += [
        {_our_name(name): value for name, value in spelling.items()} for spelling in list(spellings)
    ]
    return spellings + [
        {f"{prefix}{name}": value for name, value in weights.items()} for prefix in _PREFIXES
    ]


def _our_name(name: str) -> str:
    for pattern, ours in _OF_TORCHVISION:
        name = pattern.sub(ours, name)
    return name


def _fitting(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    return [name for name in own if name in weights and own[name].shape == weights[name].shape]


def _names(names: tuple[str, ...]) -> str:
    more = f", ... {len(names):,} in all" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
