"""The files of a run that hold tensors: checkpoints to resume from, and the kept weights."""

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as format_safetensors
from torch import Tensor, nn

from ..datasets import Statistics
from ..errors import ResightError, UsageError
from ..files import atomic_write, check_file, move, read_bytes
from ..networks import build_model
from ..networks.imported import source_digest
from ..networks.outputs import only_logits
from ..recipe import Import, Recipe
from ..recipe.toml import from_toml, to_toml
from ..records import EpochRow
from ..text import one_line
from ..training.network import check_module
from ..training.setup import TrainSetup
from ..training.state import TrainState
from .parts import DAMAGE, check_unpacked_size, checked
from .summary import FORMAT_VERSION

MAX_TENSOR_BYTES = 2**35  # of weights or a checkpoint


@dataclass(frozen=True)
class ModelInfo:
    """All that it takes to use a run's weights: kept in the head of `best.safetensors`."""

    recipe: Recipe
    classes: tuple[str, ...]
    stats: Statistics
    channels: int
    image_size: int
    epoch: int
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0  # that logits are divided by
    notes: tuple[str, ...] = ()  # what is different from when the run was trained


@dataclass(frozen=True)
class _Counts:
    """The part of a state that is no tensor, and that nothing checks when it is loaded."""

    rows: tuple[EpochRow, ...]
    step: int
    epoch_secs: float
    lrs: tuple[float, ...]
    momenta: tuple[float | None, ...]


def save_checkpoint(folder: Path, setup: TrainSetup) -> None:
    """Write `last.pt`; the one before it becomes `previous.pt`."""
    write_checkpoint(folder, snapshot(setup))


def snapshot(setup: TrainSetup) -> io.BytesIO:
    """Return the content of a checkpoint, which shares no memory with the state."""
    content = {
        "format": FORMAT_VERSION,
        "recipe": to_toml(setup.recipe),
        "fingerprint": setup.dataset.fingerprint,
        "state": setup.state.state_dict(),
    }
    # By way of memory: torch reports a full disk as a RuntimeError among many.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer


def write_checkpoint(folder: Path, content: io.BytesIO) -> None:
    """Write a snapshot as `last.pt`; the one before it becomes `previous.pt`."""
    last = folder / "last.pt"
    with atomic_write(last) as temporary:
        temporary.write_bytes(content.getbuffer())
        if last.exists():
            move(last, folder / "previous.pt")


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the newest checkpoint that can be read, on the CPU, and a line for each that cannot.

    Raises:
        ResightError: there is none.
    """
    problems: list[str] = []
    for content in _checkpoints(folder, problems):
        return content, problems
    raise _no_checkpoint(folder, problems)


def restore_state(folder: Path, state: TrainState) -> list[str]:
    """Continue from the newest checkpoint that can be read and fits `state`.

    Returns a line for each newer one that cannot or does not.

    Raises:
        ResightError: there is none.
    """
    problems: list[str] = []
    for content in _checkpoints(folder, problems):
        try:
            state.load_state_dict(content["state"])
            return problems
        except DAMAGE as error:
            problems.append(f"the state in {folder} does not fit the run and was passed over")
            problems[-1] += f" ({one_line(str(error), 200)})"
    raise _no_checkpoint(folder, problems)


def _checkpoints(folder: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the checkpoints that can be read, the newest first, and name in `problems` the rest."""
    for name in ("last.pt", "previous.pt"):
        file = folder / name
        if not file.exists():
            problems.append(f"{file} is missing")
        elif (content := _read_checkpoint(file)) is None:
            problems.append(f"{file} is damaged and was passed over")
        elif content["format"] == FORMAT_VERSION:
            yield content
        else:
            problems.append(f"{file} is of another version of resight (see env.json)")


def _no_checkpoint(folder: Path, problems: list[str]) -> ResightError:
    return ResightError(f"{folder} has no checkpoint to resume from: {'; '.join(problems)}")


def save_best(folder: Path, setup: TrainSetup, *, epoch: int) -> None:
    """Write `best.safetensors`: the weights of an epoch, and its `ModelInfo` in the head."""
    channels, _, image_size = setup.splits.train.shape[1:]
    head = {
        "recipe": to_toml(setup.recipe),
        "classes": setup.dataset.classes,
        "stats": asdict(setup.splits.stats),
        "channels": channels,
        "image_size": image_size,
        "epoch": epoch,
    }
    state = setup.state.evaluated.state_dict()
    # A copy of each: the format has no tensors that share memory, as those of tied layers do.
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
    }
    _write_best(folder, weights, head)


def save_temperature(folder: Path, temperature: float) -> None:
    """Write the temperature of the logits into the head of `best.safetensors`.

    Raises:
        ResightError: the run has no weights, or the file is damaged.
    """
    weights, head = _read_best(folder)
    _write_best(folder, weights, {**head, "temperature": temperature})


def _write_best(folder: Path, weights: dict[str, Tensor], head: dict[str, Any]) -> None:
    # One entry: several are written in an order that changes from run to run.
    metadata = {"resight": json.dumps({**head, "sha256": _digest(weights, head)})}
    with atomic_write(folder / "best.safetensors") as temporary:
        temporary.write_bytes(format_safetensors(weights, metadata=metadata))


def load_best(folder: Path) -> tuple[dict[str, Tensor], ModelInfo]:
    """Return the kept weights of a run, and all that it takes to use them.

    Raises:
        ResightError: the run has none yet, or the file is damaged.
    """
    weights, head = _read_best(folder)
    file = folder / "best.safetensors"
    try:
        head["recipe"] = from_toml(head["recipe"], origin=str(file))
        return weights, checked(ModelInfo, head)
    except DAMAGE as error:
        raise ResightError(f"{file} is damaged: {one_line(str(error), 200)}") from error


def _read_best(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights and the head of `best.safetensors`, whose checksum is right."""
    file = folder / "best.safetensors"
    if not file.exists():
        raise ResightError(
            f"{folder} has no best.safetensors: no epoch was finished; "
            f"go on with `resight resume {folder}`"
        )
    try:
        content = read_bytes(file, MAX_TENSOR_BYTES)
        weights = parse_safetensors(content)
        head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        info = json.loads(head["__metadata__"]["resight"])
        if info.pop("sha256") != _digest(weights, info):
            raise ValueError("its checksum is not that of its weights and head")
        return weights, info
    except (*DAMAGE, SafetensorError) as error:
        raise ResightError(f"{file} is damaged: {one_line(str(error), 200)}") from error


def _digest(weights: dict[str, Tensor], head: dict[str, Any]) -> str:
    """Return the SHA-256 of weights and head, whatever the order in which they are stored."""
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_model(
    folder: Path, model: nn.Module | None, device: torch.device, *, allow_import: bool = False
) -> tuple[nn.Module, ModelInfo]:
    """Return a run's network, or `model`, with the kept weights, on the device.

    Raises:
        UsageError: the weights do not fit `model`, or the network has to be imported, which runs
            code, and that is not allowed.
        ResightError: the run has no weights, or they are damaged or not finite.
    """
    weights, info = load_best(folder)
    network = model
    if network is not None:
        check_module(network)
        image = torch.zeros(1, info.channels, info.image_size, info.image_size)
        network = only_logits(network, image)
    else:
        network = build_model(
            info.recipe.model,
            in_channels=info.channels,
            num_classes=len(info.classes),
            image_size=info.image_size,
            seed=info.recipe.seed,
            allow_import=allow_import,
        )
        info = replace(info, notes=_changed_code(info.recipe))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        problem = f"the weights of {folder / 'best.safetensors'} do not fit"
        why = one_line(str(error), 200)
        if model is None:
            raise ResightError(f"{problem} the network of its recipe: {why}") from error
        raise UsageError(f"{problem} the module; pass the one that was trained: {why}") from error
    for name, value in network.named_parameters():
        if not value.isfinite().all():
            raise ResightError(
                f"{folder / 'best.safetensors'} has a NaN or infinite weight in {name}, so it "
                "predicts nothing; take the file from a copy of the run, or train again"
            )
    return network.to(device), info


def _changed_code(recipe: Recipe) -> tuple[str, ...]:
    """Return a note if the code of an imported network is not what it was in training."""
    spec = recipe.model
    if not isinstance(spec, Import) or spec.digest == source_digest(spec.target):
        return ()
    return (f"the file of the network {spec.target} has changed since the run was trained",)


def _read_checkpoint(file: Path) -> dict[str, Any] | None:
    """Return what `save_checkpoint` wrote, or None if any byte of it is not as written."""
    try:
        check_file(file, MAX_TENSOR_BYTES)
        with zipfile.ZipFile(file) as members:  # torch's format; torch does not check the sums
            check_unpacked_size(members, MAX_TENSOR_BYTES)
            if members.testzip() is not None:
                return None
        content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        names = (field.name for field in fields(_Counts))
        counts = checked(_Counts, {name: content["state"][name] for name in names})
        if not counts.step == len(counts.lrs) == len(counts.momenta):
            return None
        return content if {"format", "recipe", "fingerprint"} <= set(content) else None
    except (*DAMAGE, pickle.UnpicklingError):
        return None
