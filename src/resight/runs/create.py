"""A new run folder, and the environment that is written into it."""

import itertools
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..errors import UsageError
from ..files import move, read_text, remove_leftovers, temporary_path, write_text
from ..recipe import Recipe
from ..recipe.toml import to_toml
from ..training.setup import TrainSetup, correction_tables
from .checkpoint import save_checkpoint
from .replace import (
    MOVING,
    check_is_run,
    is_proven,
    is_replacing,
    put_back,
    put_back_if_half,
    set_aside,
)
from .run import Run

MAX_NAME_BYTES = 200  # of 255 that file systems allow, for what is put before and behind it


def new_run_path(out: Path, name: str | None, recipe: Recipe, *, force: bool) -> Path:
    """Return where a new run goes: under `out`, by default named after the time and the recipe.

    A default name gets a number behind it where something is there already.

    Raises:
        UsageError: the name is none of a folder, or something is there, and `force` was not given
            or it is not a run.
    """
    folder = name or f"{time.strftime('%Y%m%d-%H%M%S')}-{recipe.name}"
    _check_name(folder, "name" if name else "the recipe's name in")
    path = out / folder
    try:
        if name is None:
            return _free(path)
        exists = path.exists()
    except OSError as error:
        raise _cannot_make(path, error) from error
    if exists and not force:
        raise UsageError(_taken(path))
    if exists:
        check_is_run(path)
    return path


def _check_name(name: str, lead: str) -> None:
    """Refuse a name that leaves its folder, is hidden or is too long for a file system."""
    size = len(name.encode("utf-8", "surrogateescape"))
    problem = ""
    if size > MAX_NAME_BYTES:
        problem = f"has {size} bytes, but the name of a folder has at most {MAX_NAME_BYTES}"
    elif "/" in name or "\\" in name:
        problem = "is a path, not the name of a folder; --out names the folder that it is made in"
    elif name.startswith("."):
        problem = "begins with a dot, so the folder would be hidden"
    elif not name.isprintable():
        problem = "has control characters"
    if problem:
        raise UsageError(f'{lead} "{name[:40]}" {problem}; choose another --name, such as swift-1')


def _free(path: Path) -> Path:
    """Return `path`, or the first of `path`-2, `path`-3, ... where there is nothing yet."""
    free, numbers = path, itertools.count(2)
    while free.exists():
        free = path.with_name(f"{path.name}-{next(numbers)}")
    return free


@contextmanager
def started_run(
    path: Path, setup: TrainSetup, *, devices: int = 1, force: bool = False, named: bool = True
) -> Iterator[Run]:
    """Make a new run folder that can be resumed, and keep it locked for the block.

    It appears whole: a process killed in between leaves nothing at `path`. With `force` a run that
    is there makes way (see `replace`): it comes back if the block fails before the new run has
    finished its first epoch. A run that was not `named` by a person takes the next free name where
    another process was faster.

    Raises:
        UsageError: it cannot be made, another run took the name in the meantime, or another
            process is training in the run that is to make way.
    """
    replaces = force and named and path.exists()
    if path.parent.is_dir():
        remove_leftovers(path.parent)
    if not replaces:
        path = _make_folder(path, setup, devices, named=named)
    run = Run(path)
    with training_lock(run):
        if replaces:
            try:
                set_aside(path)
                _write_start(path, setup, devices)
            except OSError as error:
                raise _cannot_make(path, error) from error
        yield run


@contextmanager
def training_lock(run: Run) -> Iterator[None]:
    """Keep other processes out of a run's folder, and clear what killed ones have left.

    If the block fails before the run has finished an epoch, the run that it replaced comes back.

    Raises:
        UsageError: another process is training here.
    """
    with run.lock():
        put_back_if_half(run.folder)
        for folder in (run.folder, run.folder / "gallery", Path(tempfile.gettempdir())):
            remove_leftovers(folder)
        try:
            yield
        except BaseException:
            if not is_proven(run.folder):
                put_back(run.folder)
            raise


def finish_replacement(folder: Path) -> None:
    """Put back the run that a killed `train --force` was about to replace, if it must be."""
    if (folder / MOVING).is_dir() or is_replacing(folder):
        with Run(folder).lock():
            put_back_if_half(folder)


def _make_folder(path: Path, setup: TrainSetup, devices: int, *, named: bool) -> Path:
    new = temporary_path(path)
    try:
        new.mkdir(parents=True)
        _write_start(new, setup, devices)
        while True:
            try:
                move(new, path)  # refuses a folder with something in it
                return path
            except OSError as error:
                if not path.exists():
                    raise
                if named:
                    raise UsageError(_taken(path)) from error
                path = _free(path)
    except OSError as error:
        raise _cannot_make(path, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write_start(folder: Path, setup: TrainSetup, devices: int) -> None:
    """Write the start of a run; the last file is the checkpoint, by which it can be resumed."""
    write_text(folder / "recipe.toml", to_toml(setup.recipe))
    for name, table in correction_tables(setup.recipe).items():
        write_text(folder / f"{name}.csv", read_text(table))
    Run(folder).write_json("env.json", _environment(setup.device, devices))
    save_checkpoint(folder, setup)


def _cannot_make(path: Path, error: OSError) -> UsageError:
    return UsageError(f"cannot make the run folder {path}: {error.strerror}; choose another --out")


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
