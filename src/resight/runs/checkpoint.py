"""The files of a run that hold tensors: checkpoints to resume from, and the kept weights."""

import io
import json
import pickle
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as format_safetensors
from torch import Tensor, nn

from ..datasets import Statistics
from ..errors import ResightError
from ..files import atomic_write, move
from ..networks import build_model
from ..recipe import Recipe
from ..recipe.toml import from_toml, to_toml
from ..training.setup import TrainSetup
from .summary import FORMAT_VERSION


@dataclass(frozen=True)
class ModelInfo:
    """All that it takes to use a run's weights: kept in the head of `best.safetensors`."""

    recipe: Recipe
    classes: tuple[str, ...]
    stats: Statistics
    channels: int
    image_size: int
    epoch: int


def save_checkpoint(folder: Path, setup: TrainSetup) -> None:
    """Write `last.pt`; the one before it becomes `previous.pt`."""
    last = folder / "last.pt"
    content = {
        "format": FORMAT_VERSION,
        "recipe": to_toml(setup.recipe),
        "fingerprint": setup.dataset.fingerprint,
        "state": setup.state.state_dict(),
    }
    # By way of memory: torch reports a full disk as a RuntimeError among many.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(last) as temporary:
        temporary.write_bytes(buffer.getbuffer())
        if last.exists():
            move(last, folder / "previous.pt")


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the newest checkpoint that can be read, on the CPU, and a line for each that cannot.

    Raises:
        ResightError: there is none.
    """
    problems: list[str] = []
    for name in ("last.pt", "previous.pt"):
        file = folder / name
        if not file.exists():
            problems.append(f"{file} is missing")
        elif (content := _read_checkpoint(file)) is None:
            problems.append(f"{file} is damaged and was passed over")
        elif content["format"] == FORMAT_VERSION:
            return content, problems
        else:
            problems.append(f"{file} is of another version of resight (see env.json)")
    raise ResightError(f"{folder} has no checkpoint to resume from: {'; '.join(problems)}")


def save_best(folder: Path, setup: TrainSetup, *, epoch: int) -> None:
    """Write `best.safetensors`: the weights of an epoch, and its `ModelInfo` in the head."""
    channels, _, image_size = setup.splits.train.images.shape[1:]
    head = {
        "recipe": to_toml(setup.recipe),
        "classes": setup.dataset.classes,
        "stats": asdict(setup.splits.stats),
        "channels": channels,
        "image_size": image_size,
        "epoch": epoch,
    }
    # One entry: several are written in an order that changes from run to run.
    metadata = {"resight": json.dumps(head)}
    state = setup.state.evaluated.state_dict()
    weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with atomic_write(folder / "best.safetensors") as temporary:
        temporary.write_bytes(format_safetensors(weights, metadata=metadata))


def load_best(folder: Path) -> tuple[dict[str, Tensor], ModelInfo]:
    """Return the kept weights of a run, and all that it takes to use them.

    Raises:
        ResightError: the run has none yet, or the file is damaged.
    """
    file = folder / "best.safetensors"
    if not file.exists():
        raise ResightError(
            f"{folder} has no best.safetensors: no epoch was finished; "
            f"go on with `resight resume {folder}`"
        )
    try:
        content = file.read_bytes()
        weights = parse_safetensors(content)
        head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        info = json.loads(head["__metadata__"]["resight"])
        info["recipe"] = from_toml(info["recipe"], origin=str(file))
        info["classes"] = tuple(info["classes"])
        info["stats"] = Statistics(*(tuple(info["stats"][name]) for name in ("mean", "std")))
        return weights, ModelInfo(**info)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ResightError(f"{file} is damaged: {error}") from error


def load_model(
    folder: Path, model: nn.Module | None, device: torch.device
) -> tuple[nn.Module, ModelInfo]:
    """Return a run's network, or `model`, with the kept weights, on the device."""
    weights, info = load_best(folder)
    if model is None:
        model = build_model(
            info.recipe.model,
            in_channels=info.channels,
            num_classes=len(info.classes),
            image_size=info.image_size,
            seed=info.recipe.seed,
        )
    model.load_state_dict(weights)
    return model.to(device), info


def _read_checkpoint(file: Path) -> dict[str, Any] | None:
    """Return what `save_checkpoint` wrote, or None if any byte of it is not as written."""
    try:
        with zipfile.ZipFile(file) as parts:  # torch's format; torch does not check the sums
            if parts.testzip() is not None:
                return None
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        return content if {"format", "recipe", "fingerprint", "state"} <= set(content) else None
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError):
        return None
    except (EOFError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error):
        return None
