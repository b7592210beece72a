"""A new run folder."""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import move, write_text
from ..recipe import Recipe
from ..recipe.toml import to_toml
from .checkpoint import save_checkpoint
from .environment import environment
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


def create_run(
    path: Path,
    recipe: Recipe,
    state: Mapping[str, Any],
    *,
    fingerprint: str,
    force: bool = False,
    device: str = "cpu",
    devices: int = 1,
) -> Run:
    """Make a new folder that can be resumed; with `force`, in place of a run that is there.

    It appears whole: a process killed in between leaves nothing at `path`, or the old run.

    Raises:
        UsageError: it cannot be made, or another run took the name in the meantime.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.part")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        new.mkdir(parents=True)
        write_text(new / "recipe.toml", to_toml(recipe))
        Run(new).write_json("env.json", environment(device, devices))
        save_checkpoint(new, recipe, state, fingerprint=fingerprint)
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


def _taken(path: Path) -> str:
    return (
        f"{path} exists already; choose another --name, go on with it by "
        f"`resight resume {path}`, or pass --force to replace it"
    )
