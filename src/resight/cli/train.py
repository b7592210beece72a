"""The commands that train: `train`, `resume`, `demo`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ..errors import UsageError
from .interrupt import INTERRUPTED
from .options import (
    AllowImport,
    CommandResult,
    DataOptions,
    Device,
    Devices,
    Epochs,
    Log,
    Offline,
    OutputOptions,
    RecipeName,
    SetOption,
    TrainingOptions,
    emit,
    emit_run,
    progress,
    recipe_from_flags,
    requeue_job,
)
from .streams import show_problem

if TYPE_CHECKING:
    from ..recipe import Recipe
    from ..runs.series import Series


@Parameter(name="*")
@dataclass(frozen=True)
class FolderOptions:
    """Where the run folder is made."""

    out: Path = Path("runs")
    "Make the run folder in this folder."
    name: str | None = None
    "Name the run folder; by default by time and recipe."
    force: bool = False
    "Replace a run folder of the same --name."
    resume: bool = False
    "Go on with the run of the same --name, if there is one."
    requeue: bool = False
    "When stopped, go back into the queue of SLURM, if any, and exit with 0."


@Parameter(name="*")
@dataclass(frozen=True)
class LengthOptions:
    """How long a run is, and how many runs there are."""

    epochs: Epochs = None
    minutes: float | None = None
    "Choose the epochs by a measurement, so that the run ends in this time."
    seeds: int | None = None
    "Train with this many seeds in one folder, and compare the runs; a second call goes on."
    folds: int | None = None
    "Cross-validate: a run for each of this many folds; a second call goes on."

    @property
    def several(self) -> bool:
        """Whether there are several runs."""
        return self.seeds is not None or self.folds is not None


def train(
    recipe: RecipeName,
    /,
    *,
    data_options: DataOptions = DataOptions(),
    length: LengthOptions = LengthOptions(),
    training_options: TrainingOptions = TrainingOptions(),
    find_lr: bool = False,
    repeats: int | None = None,
    set_: SetOption = None,
    folder: FolderOptions = FolderOptions(),
    dry_run: bool = False,
    log: Log = (),
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
        Take the median of this many range tests with --find-lr; one can be off by a factor of 2.
    dry_run
        Check recipe and data, print the resolved recipe, and stop.
    """
    if find_lr:
        _check_find_lr(training_options.lr, set_ or [], dry_run=dry_run)
    elif repeats is not None:
        raise UsageError(f"--repeats {repeats} needs --find-lr; give both or neither")
    _check_length(length, folder, find_lr=find_lr, dry_run=dry_run)
    changed = recipe_from_flags(
        recipe, data_options, training_options, set_=set_, epochs=length.epochs
    )
    options: dict[str, Any] = {"device": device, "devices": devices}
    options |= {"offline": data_options.offline, "out": folder.out, "name": folder.name}
    if dry_run:
        return _check_only(changed, options, output)
    if length.several:
        return _train_series(changed, length, options, output, log)
    options |= {"force": folder.force, "resume": folder.resume, "minutes": length.minutes}
    options |= {"find_lr": find_lr, "repeats": repeats}
    return _train_one(changed, options, output, log, requeue=folder.requeue)


def _train_one(
    recipe: "Recipe", options: dict[str, Any], output: OutputOptions, log: Log, *, requeue: bool
) -> int:
    """Train one run, print the result, and return the exit code."""
    from .. import experiment  # torch: only now that the request makes sense
    from ..lr_finder.find import LRRangeOptions

    repeats = options.pop("repeats") or 1
    options["find_lr"] = LRRangeOptions(repeats=repeats) if options["find_lr"] else False
    try:
        with progress(output, log) as on_event:
            run = experiment.train(recipe, **options, on_event=on_event)
    except KeyboardInterrupt as error:  # outside of the steps
        if not requeue:
            raise
        show_problem(f"interrupted {error}")
        requeue_job()
        return 0
    return emit_run(run, output, requeue=requeue)


def _check_only(recipe: "Recipe", options: dict[str, Any], output: OutputOptions) -> int:
    """Check recipe and data, print the resolved recipe, and return the exit code."""
    from .. import experiment
    from ..recipe.toml import to_toml

    options = {key: options[key] for key in ("device", "devices", "offline")}
    with progress(output) as on_event:
        resolved = experiment.dry_run(recipe, **options, on_event=on_event)
    emit(CommandResult(resolved.model_dump(), to_toml(resolved).rstrip("\n")), output)
    return 0


def _train_series(
    recipe: "Recipe",
    length: LengthOptions,
    options: dict[str, Any],
    output: OutputOptions,
    log: Log,
) -> int:
    """Train over seeds or folds, print the result, and return the exit code."""
    from ..experiment import many_runs

    result: Series
    with progress(output, log) as on_event:
        if length.seeds is not None:
            result = many_runs.train_seeds(recipe, seeds=length.seeds, **options, on_event=on_event)
        else:
            assert length.folds is not None
            result = many_runs.cross_validate(
                recipe, folds=length.folds, **options, on_event=on_event
            )
    emit(result, output)
    if result.interrupted:
        show_problem("stopped; the same command goes on")
    return INTERRUPTED if result.interrupted else 0


def _check_length(
    length: LengthOptions, folder: FolderOptions, *, find_lr: bool, dry_run: bool
) -> None:
    """Refuse flags that contradict each other, of which none would be obeyed."""
    several = [f"--{word}" for word in ("seeds", "folds") if getattr(length, word) is not None]
    minutes = ["--minutes"] if length.minutes is not None else []
    flags = {"--find-lr": find_lr, "--dry-run": dry_run}
    others = [flag for flag, given in flags.items() if given]
    clash = [*several, *minutes, *others]
    if several and (folder.force or folder.resume):
        clash = [several[0], "--force" if folder.force else "--resume"]
    elif folder.force and folder.resume:
        clash = ["--force", "--resume"]
    elif minutes and length.epochs is not None:
        clash = ["--minutes", "--epochs"]
    elif not (several or minutes):
        clash = []
    if len(clash) > 1:
        raise UsageError(f"{clash[0]} and {clash[1]} contradict each other; give one of them")
    if folder.resume and folder.name is None:
        raise UsageError("--resume goes on with the run of a --name; give the name")


def _check_find_lr(lr: float | None, overrides: Sequence[str], *, dry_run: bool) -> None:
    """Refuse flags that contradict --find-lr."""
    conflicts = [f"--lr {lr:g}"] if lr is not None else []
    conflicts += [f"--set {text}" for text in overrides if text.startswith("optimizer.lr=")]
    conflicts += ["--dry-run"] if dry_run else []
    if conflicts:
        raise UsageError(f"--find-lr and {conflicts[0]} contradict each other; give one of them")


def resume(
    run: Annotated[
        Path | None, Parameter(help="Give the folder of a run; by default the newest.")
    ] = None,
    /,
    *,
    out: Path = Path("runs"),
    device: Device = "auto",
    devices: int | None = None,
    offline: Offline = False,
    allow_import: AllowImport = False,
    log: Log = (),
    output: OutputOptions = OutputOptions(),
) -> int:
    """Go on with a run that was stopped, as if it had not been.

    Parameters
    ----------
    out
        Look for the newest run in this folder.
    devices
        Share each batch among this many devices; by default as many as the run started on.
    """
    from .. import experiment

    with progress(output, log) as on_event:
        resumed = experiment.resume(
            run,
            out=out,
            device=device,
            devices=devices,
            offline=offline,
            allow_import=allow_import,
            on_event=on_event,
        )
    return emit_run(resumed, output)


def demo(*, out: Path = Path("runs"), output: OutputOptions = OutputOptions()) -> int:
    """Train on the bundled digits and explain the mistakes, in under a minute.

    Parameters
    ----------
    out
        Make the run folder in this folder.
    """
    from .. import experiment

    with progress(output) as on_event:
        run = experiment.demo(out=out, on_event=on_event)
    return emit_run(run, output)
