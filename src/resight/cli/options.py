"""Flags that several commands share, and where results and progress go."""

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol, get_type_hints

from cyclopts import Parameter

from ..recipe.training import Precision

if TYPE_CHECKING:
    from ..events import OnEvent
    from ..recipe import Recipe
    from ..runs.run import Run
    from .progress import ProgressLines


class Result(Protocol):
    """What a command can show: as plain Python, and as text by `str`."""

    def to_dict(self) -> Any: ...


@Parameter(name="*")
@dataclass(frozen=True)
class OutputOptions:
    """How results are shown."""

    quiet: bool = False
    "Show the result without progress."
    json: bool = False
    "Print the result as JSON on standard output."


Offline = Annotated[bool, Parameter(help="Never download.")]

# --- flags that set a field of the recipe -------------------------------------------------------


@dataclass(frozen=True)
class RecipeField:
    """Marks a flag that sets the field of the recipe at `path`; None leaves the field alone."""

    path: str


DataSource = Annotated[
    str | None,
    RecipeField("data.source"),
    Parameter(help="A data set's name (see `resight data`) or path."),
]
SkipUnreadable = Annotated[
    bool | None,
    RecipeField("data.skip_unreadable"),
    Parameter(help="Skip pictures that cannot be read, and name them."),
]


@Parameter(name="*")
@dataclass(frozen=True)
class DataOptions:
    """Which data is read, and how."""

    data: DataSource = None
    skip_unreadable: SkipUnreadable = None
    offline: Offline = False


@Parameter(name="*")
@dataclass(frozen=True)
class TrainingOptions:
    """The settings that are changed most often; every other setting is changed by --set."""

    batch_size: Annotated[
        int | None, RecipeField("training.batch_size"), Parameter(help="Images in a step.")
    ] = None
    lr: Annotated[
        float | None,
        RecipeField("optimizer.lr"),
        Parameter(help="The highest learning rate of the schedule."),
    ] = None
    seed: Annotated[
        int | None,
        RecipeField("seed"),
        Parameter(help="The seed of weights, order, augmentation, dropout and validation split."),
    ] = None
    precision: Annotated[
        Precision | None,
        RecipeField("training.precision"),
        Parameter(help="The number format of a step."),
    ] = None
    deterministic: Annotated[
        bool | None,
        RecipeField("training.deterministic"),
        Parameter(help="Refuse operations whose result varies between runs on a GPU."),
    ] = None


# --- other shared flags -------------------------------------------------------------------------

RecipeName = Annotated[str, Parameter(help="A name (see `resight recipes`) or a .toml file.")]
RunFolder = Annotated[str, Parameter(help="The run folder.")]
SetOption = Annotated[
    list[str] | None, Parameter(name="--set", help="Change a setting, as in schedule.epochs=40.")
]
Epochs = Annotated[
    int | None, Parameter(help="Stretch or shrink the whole schedule to this many epochs.")
]
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:N or mps.")]
Devices = Annotated[
    int, Parameter(help="Number of GPUs that share each batch; on a CPU, of processes.")
]


def emit(result: Result | Sequence[Result], output: OutputOptions) -> None:
    """Print a result, or one after the other, on standard output: as text or as JSON."""
    many = isinstance(result, Sequence)
    results = result if isinstance(result, Sequence) else [result]
    if output.json:
        values = [each.to_dict() for each in results]
        print(json.dumps(values if many else values[0]))
    else:
        for each in results:
            print(each)


def emit_run(run: "Run", output: OutputOptions) -> int:
    """Print what came of a run; return the exit code."""
    if output.json or not run.interrupted:
        emit(run, output)
    if run.interrupted:
        print(f"stopped; go on with: resight resume {run.folder}", file=sys.stderr)
        return 130
    return 0


def progress(output: OutputOptions) -> "ProgressLines | nullcontext[OnEvent]":
    """Return the listener of a run: lines and a bar on standard error, or nothing."""
    if output.quiet:
        return nullcontext(lambda event: None)
    from rich.console import Console

    from .progress import ProgressLines

    return ProgressLines(Console(stderr=True))


def recipe_from_flags(
    name: str,
    *options: DataOptions | TrainingOptions,
    set_: Sequence[str] | None,
    epochs: int | None = None,
) -> "Recipe":
    """Return the recipe with what the flags change.

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
