"""Flags that several commands share, and where results and progress go."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, get_type_hints

from cyclopts import Parameter

from ..events import ignore_events
from ..files import json_text
from ..recipe.training import Precision
from ..text import printable
from .interrupt import INTERRUPTED
from .streams import is_follower, write_result

if TYPE_CHECKING:
    from ..events import OnEvent
    from ..recipe import Recipe
    from ..runs.run import Run

# --- flags that set a field of the recipe -------------------------------------------------------


@dataclass(frozen=True)
class RecipeField:
    """Marks a flag that sets the field of the recipe at `path`; None leaves the field alone."""

    path: str


DataSource = Annotated[
    str | None,
    RecipeField("data.source"),
    Parameter(help="Read this data: a name (see `resight data`) or a path."),
]
SkipUnreadable = Annotated[
    bool | None,
    RecipeField("data.skip_unreadable"),
    Parameter(help="Skip pictures that cannot be read, and name them."),
]
Layout = Annotated[
    str | None,
    RecipeField("data.layout"),
    Parameter(help="Read the data as this layout, such as folders, if it is not recognized."),
]
Classes = Annotated[
    Literal["same", "train"] | None,
    RecipeField("data.classes"),
    Parameter(help="If the splits differ in their classes, train takes those of train alone."),
]
Log = Annotated[
    Sequence[Literal["tensorboard", "wandb", "mlflow", "trackio"]],
    Parameter(
        help="Keep the run in these trackers too.", consume_multiple=True, show_default=False
    ),
]
Offline = Annotated[bool, Parameter(help="Never download anything.")]
AllowImport = Annotated[
    bool, Parameter(help="Import the network that the run names, which runs its code.")
]


@Parameter(name="*")
@dataclass(frozen=True)
class DataOptions:
    """Which data is read, and how."""

    data: DataSource = None
    layout: Layout = None
    classes: Classes = None
    skip_unreadable: SkipUnreadable = None
    offline: Offline = False


@Parameter(name="*")
@dataclass(frozen=True)
class TrainingOptions:
    """The settings that are changed most often; every other setting is changed by --set."""

    batch_size: Annotated[int | None, RecipeField("training.batch_size")] = None
    "Take this many images in a step."
    lr: Annotated[float | None, RecipeField("optimizer.lr")] = None
    "Set the highest learning rate of the schedule."
    seed: Annotated[int | None, RecipeField("seed")] = None
    "Seed the weights, order, augmentation, dropout and validation split."
    precision: Annotated[Precision | None, RecipeField("training.precision")] = None
    "Compute a step in this number format."
    deterministic: Annotated[bool | None, RecipeField("training.deterministic")] = None
    "Refuse operations whose result varies between runs on a GPU."


# --- other shared flags -------------------------------------------------------------------------

RecipeName = Annotated[
    str, Parameter(help="Give a recipe's name (see `resight recipes`) or a .toml file.")
]
RunFolder = Annotated[str, Parameter(help="Give the folder of a run, such as runs/first.")]
SetOption = Annotated[
    list[str] | None, Parameter(name="--set", help="Change a setting, as in schedule.epochs=40.")
]
Epochs = Annotated[
    int | None, Parameter(help="Stretch or shrink the whole schedule to this many epochs.")
]
Device = Annotated[str, Parameter(help="Compute on auto, cpu, cuda, cuda:N or mps.")]
Devices = Annotated[
    int, Parameter(help="Share each batch among this many GPUs, or processes on a CPU.")
]


@Parameter(name="*")
@dataclass(frozen=True)
class OutputOptions:
    """How results are shown."""

    quiet: bool = False
    "Show the result without progress."
    json: bool = False
    "Print the result as JSON on standard output."


class Result(Protocol):
    """What a command can print: `str` gives the text, `to_dict` plain Python for JSON."""

    def to_dict(self) -> Any: ...


@dataclass(frozen=True)
class CommandResult:
    """A result that has no class in the library: its content as plain Python, and its text."""

    content: Any
    text: str

    def to_dict(self) -> Any:
        return self.content

    def __str__(self) -> str:
        return self.text


def emit(result: Result, output: OutputOptions) -> None:
    """Print a result on standard output: as text, or as JSON."""
    write_result(json_text(result.to_dict(), ascii_only=True) if output.json else str(result))


def emit_run(run: "Run", output: OutputOptions, *, requeue: bool = False) -> int:
    """Print the result of a run; return the exit code.

    With `requeue` a run that was stopped goes back into the queue of SLURM, if it came from there.
    """
    if is_follower():
        return INTERRUPTED if run.interrupted and not requeue else 0
    if output.json or not run.interrupted:
        emit(run, output)
    if not run.interrupted:
        return 0
    print(printable(f"stopped; go on with: resight resume {run.folder}"), file=sys.stderr)
    if requeue:
        requeue_job()
    return 0 if requeue else INTERRUPTED


def requeue_job() -> None:
    """Put this process back into the queue of SLURM, if it came from there."""
    if (job := os.environ.get("SLURM_JOB_ID")) and not is_follower():
        subprocess.run(["scontrol", "requeue", job], check=False)


@contextmanager
def progress(output: OutputOptions, log: Log = ()) -> "Iterator[OnEvent]":
    """Give the listener of a run: lines and a bar on standard error, and the trackers in `log`."""
    from .progress import show_progress

    silent = output.quiet or is_follower()
    with nullcontext(ignore_events) if silent else show_progress() as on_event:
        if log:
            from ..trackers import log_to

            on_event = log_to(*log, on_event=on_event)
        yield on_event


def recipe_from_flags(
    name: str,
    *options: DataOptions | TrainingOptions,
    set_: Sequence[str] | None,
    epochs: int | None = None,
) -> "Recipe":
    """Return the recipe with the changes that the flags make.

    Raises:
        UsageError: no such recipe, setting or data, before anything heavy is imported.
    """
    from ..recipe.presets import load_recipe
    from ..recipe.sources import find_source
    from ..recipe.toml import unflatten, with_changes, with_epochs, with_overrides

    recipe = load_recipe(name)
    if epochs is not None:
        recipe = with_epochs(recipe, epochs)
    changes = [
        (mark.path, value)
        for group in options
        for flag, annotation in get_type_hints(type(group), include_extras=True).items()
        for mark in getattr(annotation, "__metadata__", ())
        if isinstance(mark, RecipeField) and (value := getattr(group, flag)) is not None
    ]
    recipe = with_overrides(with_changes(recipe, unflatten(changes), origin="flags"), set_ or [])
    find_source(recipe.data.source)
    return recipe
