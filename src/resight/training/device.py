"""The device of a run, and the devices and models that can train together."""

import io
import math
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed
from torch import nn

from ..errors import UsageError, is_memory_full
from ..recipe import Training


def check_devices(name: str, count: int, *, batch_size: int) -> str:
    """Return the first device, if `count` devices of that name can train together.

    Raises:
        UsageError: this machine has fewer devices, or worker processes cannot be started.
    """
    device = pick_device(name)
    distributed = torch.distributed.is_available()
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    if several and distributed and torch.distributed.is_torchelastic_launched():
        raise UsageError(
            "torchrun starts this command several times over, each a run of its own; start it "
            "once, without torchrun: resight train ... --devices N"
        )
    if count == 1:
        return name
    if count < 1:
        raise UsageError(
            f"devices = {count} must be at least 1; give the number of devices that share each "
            "batch"
        )
    available = {"cuda": torch.cuda.device_count(), "cpu": num_cores()}.get(device.type, 1)
    if count > available:
        unit = "core" if device.type == "cpu" else f"{device.type} device"
        raise UsageError(
            f"devices = {count}, but this machine has {available} {unit}"
            f"{'' if available == 1 else 's'}; give 1 to {available}"
        )
    if device.index is not None:
        raise UsageError(
            f"{device} is one device, but devices = {count}; give --device {device.type}, and "
            "choose the devices with CUDA_VISIBLE_DEVICES"
        )
    if batch_size < 2 * count:
        raise UsageError(
            f"training.batch_size = {batch_size} does not give each of devices = {count} two "
            f"images; give a batch of at least {2 * count}, or fewer devices"
        )
    if not distributed or (device.type == "cuda" and not torch.distributed.is_nccl_available()):
        raise UsageError(
            f"devices = {count} needs torch.distributed, with NCCL for GPUs, which this torch was "
            "built without; give devices = 1"
        )
    if torch.distributed.is_initialized():
        raise UsageError(
            f"devices = {count} starts worker processes, but this one already belongs to a group "
            "(torch.distributed); leave the group, or give devices = 1"
        )
    return "cuda:0" if device.type == "cuda" else name


def check_model(model: nn.Module | None, count: int) -> None:
    """Raise UsageError if `model` could not be sent to the worker processes of `count` devices."""
    if model is None or count == 1:
        return
    for module in model.modules():
        if type(module).__module__ == "__main__":
            raise UsageError(
                f"the class {type(module).__qualname__} is defined in the script itself, where the "
                f"worker processes of devices = {count} cannot find it; put it into a module that "
                "the script imports"
            )
    try:
        torch.save(model, io.BytesIO())
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
        raise UsageError(
            f"the model cannot be sent to the worker processes of devices = {count} ({error}); "
            "build it of importable classes and functions"
        ) from error


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is RESIGHT_DEVICE if it is set, else a GPU if any.

    Raises:
        UsageError: torch knows no such device, or this machine has none.
    """
    origin = ""
    if name == "auto" and os.environ.get("RESIGHT_DEVICE", "auto") != "auto":
        name, origin = os.environ["RESIGHT_DEVICE"], "RESIGHT_DEVICE: "
    mps = torch.backends.mps.is_available()
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": mps}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    kind, _, index = name.partition(":")
    if kind not in available or (index and not index.isdigit()):
        raise UsageError(
            f"{origin}device {name!r} is unknown; choose auto, cpu, cuda, cuda:N or mps"
        )
    if not available[kind] or (kind == "cuda" and int(index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"{origin}this machine has no device {name}; choose --device auto or cpu")
    return torch.device(name)


@contextmanager
def name_full_memory(device: torch.device, training: Training, devices: int) -> Iterator[None]:
    """Turn torch's error of a full memory into one line that names the setting to change."""
    try:
        yield
    except Exception as error:  # torch has a class for it on CUDA alone
        if not is_memory_full(error):
            raise
        setting = "micro_batch" if device.type == "cpu" else "gpu_micro_batch"
        size = getattr(training, setting)
        size = size if isinstance(size, int) else math.ceil(training.batch_size / devices)
        raise UsageError(
            f"the memory of {device} is full; set training.{setting} to less than {size}"
        ) from error
