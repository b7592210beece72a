"""Flags that several commands share, and where their results and progress go."""

import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from ..events import OnEvent
    from ..experiment import Run
    from ..recipe import Recipe
    from .progress import ProgressLines


@Parameter(name="*")
@dataclass(frozen=True)
class OutputOptions:
    """How results are shown."""

    quiet: bool = False
    "No progress, only the result."
    json: bool = False
    "The result as JSON on standard output."


@Parameter(name="*")
@dataclass(frozen=True)
class DataOptions:
    """How data is found and read."""

    offline: bool = False
    "Never download."
    skip_unreadable: bool = False
    "Leave out pictures that cannot be read, and say so."


SetOption = Annotated[
    list[str] | None, Parameter(name="--set", help="A setting, such as schedule.epochs=40.")
]
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:N or mps.")]
Devices = Annotated[
    int, Parameter(help="How many GPUs share each batch; with --device cpu, how many processes.")
]


def progress(show: OutputOptions) -> "ProgressLines | nullcontext[OnEvent]":
    """What watches a run: lines and a bar on standard error, or nothing."""
    if show.quiet:
        return nullcontext(lambda event: None)
    from rich.console import Console

    from .progress import ProgressLines

    return ProgressLines(Console(stderr=True))


def recipe_from_flags(
    name: str, data: str | None, set_: list[str] | None, find: DataOptions
) -> "Recipe":
    """The recipe with what the flags change; what they name is there."""
    from ..recipe.presets import load_recipe
    from ..recipe.sources import find_source
    from ..recipe.toml import unflatten, with_changes, with_overrides

    flags = {"data.source": data, "data.skip_unreadable": find.skip_unreadable or None}
    given = unflatten((path, value) for path, value in flags.items() if value is not None)
    recipe = with_overrides(with_changes(load_recipe(name), given, origin="flags"), set_ or [])
    find_source(recipe.data.source)
    return recipe


def print_run(run: "Run", show: OutputOptions) -> int:
    """Print what came of a run; returns the exit code."""
    if show.json:
        print(
            json.dumps({"folder": str(run.folder), "interrupted": run.interrupted, **run.summary})
        )
    elif run.summary["test"]:
        print(f"test accuracy {accuracy_text(run.summary['test'])}")
        if views := run.recipe.evaluation.views:
            print(f"by the mean of {views}")
        print(f"weights of epoch {run.summary['best_epoch']}, by {run.summary['selected_by']}")
        print(f"run folder {run.folder}/")
        pictures = sorted(path.name for path in run.folder.glob("*.png"))
        print(f"pictures   {' '.join(pictures)}")
        if (run.folder / "report.html").exists():
            print(f"why        {run.folder / 'report.html'}, mistakes.csv")
    if run.interrupted:
        print(f"stopped; go on with: resight resume {run.folder}", file=sys.stderr)
        return 130
    return 0


def accuracy_text(found: dict[str, Any]) -> str:
    """The accuracy of a summary with its interval, and the loss."""
    a = found["accuracy"]
    return (
        f"{a['value']:.2%} (95 % interval {a['low']:.2%} to {a['high']:.2%}, n = {a['n']:,}), "
        f"loss {found['loss']:.3f}"
    )
