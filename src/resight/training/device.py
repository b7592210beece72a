"""The device of a run, and the devices and models that can train together."""

import ctypes
import io
import math
import multiprocessing
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed
from torch import nn

from ..errors import UsageError, is_memory_full
from ..recipe import Training
from .distributed import Rank

# Options of mallopt in glibc's malloc.h, and their values.
_TRIM_THRESHOLD, _KEPT_BYTES = -1, 512 * 2**20
_MMAP_THRESHOLD, _LARGEST_KEPT = -3, 32 * 2**20  # no higher value is taken


def check_devices(
    name: str, count: int, batch_size: int = sys.maxsize, model: nn.Module | None = None
) -> tuple[str, int]:
    """Return the device of this process, and how many processes share each batch.

    Under torchrun they are its processes, and each has the GPU of its local rank.

    Raises:
        UsageError: there are fewer devices, or the processes cannot be started or work together.
    """
    device, started, problem = pick_device(name), Rank.of_environment().count, ""
    available = {"cuda": torch.cuda.device_count(), "cpu": num_cores()}.get(device.type, 1)
    index = int(os.environ.get("LOCAL_RANK", 0)) if started > 1 else 0
    needed = count if started == 1 else index + 1 if device.type == "cuda" else 1
    total = count if started == 1 else started
    if count < 1:
        problem = " must be at least 1; give the number of devices that share each batch"
    elif started > 1 and count not in (1, started):
        problem = f", but torchrun has started {started} processes; leave out devices"
    elif needed > available:
        unit = "core" if device.type == "cpu" else f"{device.type} device"
        problem = f", but this machine has {available} {unit}{'' if available == 1 else 's'}; give "
        problem += f"1 to {available}" + " as --nproc-per-node" * (started > 1)
    elif total > 1 and device.index is not None:
        problem = f", but {device} is one device; give --device {device.type}, and choose the "
        problem += "devices with CUDA_VISIBLE_DEVICES"
    elif batch_size < 2 * total and total > 1:
        problem = f", but training.batch_size = {batch_size} does not give each two images; give a "
        problem += f"batch of at least {2 * total}, or fewer devices"
    elif total > 1 and torch.distributed.is_initialized():
        problem = ", but this process already belongs to a group (torch.distributed); leave it"
    elif total > started and getattr(multiprocessing.current_process(), "_inheriting", False):
        problem = ", whose processes import this script: put what it does under "
        problem += '`if __name__ == "__main__":`'
    if problem:
        raise UsageError(f"devices = {count if count > 1 else total}{problem}")
    if model is not None and total > started:
        packed(model, total)
    return f"cuda:{index}" if device.type == "cuda" and total > 1 else name, total


def packed(model: nn.Module, count: int) -> bytes:
    """Return a model as other processes can read it.

    Raises:
        UsageError: its classes are not where they could find them.
    """
    content, script = io.BytesIO(), hasattr(sys.modules["__main__"], "__file__")
    try:
        for module in model.modules():
            if type(module).__module__ == "__main__" and not script:
                raise TypeError(f"the notebook itself defines {type(module).__qualname__}")
        torch.save(model, content)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
        raise UsageError(
            f"the model cannot be sent to the other processes of devices = {count} ({error}); "
            "build it of importable classes and functions, or start the script by torchrun"
        ) from error
    return content.getvalue()


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Let this process keep up to 512 MB that it has freed, for the arrays that come next.

    Otherwise each micro-batch on a CPU gives its memory back, and the system hands it out again
    page by page, filled with zeros: 5 % of a step of a small network. glibc alone has this.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)


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
