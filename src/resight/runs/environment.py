"""Where a run was made: what its result depends on beside the recipe."""

import json
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def environment(device: str, devices: int = 1) -> dict[str, Any]:
    """Return what a result depends on beside the recipe: versions, machine, revision, command."""
    revision = None
    if shutil.which("git"):
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
        revision = result.stdout.strip() or None
    return {
        "resight": version("resight"),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "device": device,
        "devices": devices,
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "git_revision": revision,
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def with_resume_entry(file: Path, device: str, devices: int = 1) -> dict[str, Any]:
    """Return the environment in `file`, of a run that goes on, with what is different now."""
    first = _read(file)
    everything = environment(device, devices)
    now = {k: v for k, v in everything.items() if k == "started" or first.get(k, ...) != v}
    return first | {"resumed": [*first.get("resumed", []), now]}


def num_devices(file: Path) -> int:
    """Return on how many devices a run was started, by its environment in `file`."""
    devices = _read(file).get("devices")
    return devices if isinstance(devices, int) else 1


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}  # gone or damaged; that of now is better than none
