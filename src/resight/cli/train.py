"""The commands that train: `train`, `resume`, `demo`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ..errors import UsageError
from .options import (
    CommandResult,
    DataOptions,
    Device,
    Devices,
    Epochs,
    Offline,
    OutputOptions,
    RecipeName,
    SetOption,
    TrainingOptions,
    emit,
    emit_run,
    progress,
    recipe_from_flags,
)


@Parameter(name="*")
@dataclass(frozen=True)
class FolderOptions:
    """Where the run folder is made."""

    out: Path = Path("runs")
    "The folder in which run folders are made."
    name: str | None = None
    "The run folder's name; by default time and recipe."
    force: bool = False
    "Replace a run folder of that name."


def train(
    recipe: RecipeName,
    /,
    *,
    data_options: DataOptions = DataOptions(),
    epochs: Epochs = None,
    training_options: TrainingOptions = TrainingOptions(),
    find_lr: bool = False,
    repeats: int | None = None,
    set_: SetOption = None,
    folder: FolderOptions = FolderOptions(),
    dry_run: bool = False,
    device: Device = "auto",
    devices: Devices = 1,
    output: OutputOptions = OutputOptions(),
) -> int:
    """Train by a recipe, then read the test set once.

    Parameters
    ----------
    find_lr
        Find the learning rate by a range test first (see `resight lr-find`).
    repeats
        Range tests of --find-lr; their median counts. One test can be off by a factor of 2.
    dry_run
        Check recipe and data, print the resolved recipe, and stop.
    """
    if repeats is not None and not find_lr:
        raise UsageError(f"--repeats {repeats} needs --find-lr; give both or neither")
    if find_lr:
        _check_find_lr(training_options.lr, set_ or [], dry_run=dry_run)
    changed = recipe_from_flags(recipe, data_options, training_options, set_=set_, epochs=epochs)

    from .. import experiment  # torch: only now that the request makes sense
    from ..lr_finder.find import LRRangeOptions
    from ..recipe.toml import to_toml

    options: dict[str, Any] = {"device": device, "devices": devices}
    options["offline"] = data_options.offline
    with progress(output) as on_event:
        if dry_run:
            resolved = experiment.dry_run(changed, **options, on_event=on_event)
            emit(CommandResult(resolved.model_dump(), to_toml(resolved).rstrip("\n")), output)
            return 0
        range_test = LRRangeOptions(repeats=repeats or 1) if find_lr else False
        run = experiment.train(
            changed, find_lr=range_test, **vars(folder), **options, on_event=on_event
        )
    return emit_run(run, output)


def _check_find_lr(lr: float | None, overrides: Sequence[str], *, dry_run: bool) -> None:
    """Refuse flags that contradict --find-lr."""
    conflicts = [f"--lr {lr:g}"] if lr is not None else []
    conflicts += [f"--set {text}" for text in overrides if text.startswith("optimizer.lr=")]
    conflicts += ["--dry-run"] if dry_run else []
    if conflicts:
        raise UsageError(f"--find-lr and {conflicts[0]} contradict each other; give one of them")


def resume(
    run: Annotated[Path | None, Parameter(help="The run folder; by default the newest.")] = None,
    /,
    *,
    out: Path = Path("runs"),
    device: Device = "auto",
    devices: int | None = None,
    offline: Offline = False,
    output: OutputOptions = OutputOptions(),
) -> int:
    """Go on with a run that was stopped, as if it had not been.

    Parameters
    ----------
    out
        The folder in which the newest run is looked for.
    devices
        Number of devices that share each batch; by default as many as the run started on.
    """
    from .. import experiment

    with progress(output) as on_event:
        resumed = experiment.resume(
            run, out=out, device=device, devices=devices, offline=offline, on_event=on_event
        )
    return emit_run(resumed, output)


def demo(*, out: Path = Path("runs"), output: OutputOptions = OutputOptions()) -> int:
    """Train on the bundled digits and explain the mistakes, in under a minute.

    Parameters
    ----------
    out
        The folder in which the run folder is made.
    """
    from .. import experiment

    with progress(output) as on_event:
        run = experiment.demo(out=out, on_event=on_event)
    return emit_run(run, output)
