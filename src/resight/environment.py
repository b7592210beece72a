"""Where a run was made: what its result depends on beside the recipe."""

import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from typing import Any

import torch


def environment(device: str) -> dict[str, Any]:
    """What a result depends on beside the recipe: versions, machine, revision, command line."""
    revision = None
    if shutil.which("git"):
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
        revision = asked.stdout.strip() or None
    return {
        "resight": version("resight"),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "device": device,
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "git_revision": revision,
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
