"""A new run folder, and the environment that is written into it."""

import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..errors import UsageError
from ..files import move, write_text
from ..recipe import Recipe
from ..recipe.toml import to_toml
from ..training.setup import TrainSetup
from .checkpoint import save_checkpoint
from .run import Run


def new_run_path(out: Path, name: str | None, recipe: Recipe, *, force: bool) -> Path:
    """Return where a new run goes: under `out`, by default named after the time and the recipe.

    Raises:
        UsageError: something is there, and `force` was not given or it is not a run.
    """
    path = out / (name or f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe.name}")
    if not path.exists():
        return path
    if not force:
        raise UsageError(_taken(path))
    if not path.is_dir() or (any(path.iterdir()) and not (path / "recipe.toml").exists()):
        raise UsageError(
            f"{path} exists and is not a run folder, so --force will not replace it; "
            "choose another --name"
        )
    return path


def create_run(path: Path, setup: TrainSetup, *, devices: int = 1, force: bool = False) -> Run:
    """Make a new folder that can be resumed; with `force`, in place of a run that is there.

    It appears whole: a process killed in between leaves nothing at `path`, or the old run.

    Raises:
        UsageError: it cannot be made, or another run took the name in the meantime.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.part")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        new.mkdir(parents=True)
        write_text(new / "recipe.toml", to_toml(setup.recipe))
        Run(new).write_json("env.json", _environment(setup.device, devices))
        save_checkpoint(new, setup)
        if force and path.exists():
            move(path, old)
        move(new, path)  # refuses a folder with something in it
    except OSError as error:
        if old.exists() and not path.exists():
            move(old, path)
        if path.exists() and not force:
            raise UsageError(_taken(path)) from error
        raise UsageError(
            f"cannot make the run folder {path}: {error.strerror}; choose another --out"
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return Run(path)


def write_resume_entry(run: Run, device: torch.device, devices: int) -> None:
    """Add to `env.json` when a run is resumed, and what has changed since it was started."""
    first = run.environment or {}
    now = _environment(device, devices)
    changed = {k: v for k, v in now.items() if k == "started" or first.get(k, ...) != v}
    resumed = [*first.get("resumed", []), changed]
    run.write_json("env.json", {**first, "resumed": resumed})


def _environment(device: torch.device, devices: int) -> dict[str, Any]:
    """What a result depends on beside the recipe: versions, machine, revision, command."""
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
        "device": str(device),
        "devices": devices,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "git_revision": revision,
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _taken(path: Path) -> str:
    return (
        f"{path} exists already; choose another --name, go on with it by "
        f"`resight resume {path}`, or pass --force to replace it"
    )
