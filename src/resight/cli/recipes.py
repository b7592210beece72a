"""The commands of the named recipes: `recipes`, and its `show`, `diff` and `cost`."""

from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import App, Parameter

from ..errors import UsageError
from ..recipe import Import, Model
from ..recipe.presets import PRESETS, get_preset, load_recipe
from ..recipe.presets import recipes as all_recipes
from ..recipe.presets.published import PUBLISHED
from ..recipe.toml import differences, to_toml
from ..text import setting_text, table
from .options import CommandResult, Device, OutputOptions, RecipeName, emit

recipes = App(name="recipes")


@recipes.default
def list_recipes(
    *names: Annotated[str, Parameter(show=False)], output: OutputOptions = OutputOptions()
) -> None:
    """List the named recipes."""
    if names:
        get_preset(names[0])  # a mistyped name has its own message
        raise UsageError(
            f"`resight recipes` takes no name; write `resight recipes show {names[0]}`"
        )
    content = {name: recipe.model_dump() for name, recipe in all_recipes().items()}
    emit(CommandResult(content, recipe_list()), output)


@recipes.command
def show(
    name: Annotated[str, Parameter(help="Give the name of a recipe.")],
    /,
    *,
    output: OutputOptions = OutputOptions(),
) -> None:
    """Show a recipe: its source, how and why it differs from its base, and its TOML."""
    recipe, preset = get_preset(name), PRESETS[name]
    base = f'"{preset.base}"' if preset.base else "the defaults"
    lines = [
        f"# {name}: {preset.summary}",
        f"# source: {preset.source}",
        f"# differs from {base}:",
        *(
            f"#   {path} = {setting_text(value)}  ({reason})"
            for path, (value, reason) in preset.changes.items()
        ),
        "",
        to_toml(recipe).rstrip(),
    ]
    emit(CommandResult(recipe.model_dump(), "\n".join(lines)), output)


@recipes.command
def diff(
    first: RecipeName, second: RecipeName, /, *, output: OutputOptions = OutputOptions()
) -> None:
    """Show every setting in which two recipes differ."""
    changes = differences(load_recipe(second), load_recipe(first))
    changes.pop("name", None)
    content = {path: {first: old, second: new} for path, (old, new) in changes.items()}
    text = f"{first} and {second} are the same but for their names"
    if changes:
        rows = [(path, *map(setting_text, pair)) for path, pair in changes.items()]
        text = table(rows, "setting", first, second)
    emit(CommandResult(content, text), output)


@recipes.command
def cost(*, device: Device = "auto", output: OutputOptions = OutputOptions()) -> None:
    """Estimate parameters, operations and time of a run of each recipe on this machine."""
    costs = recipe_costs(device)
    emit(CommandResult(costs, cost_text(costs)), output)


def recipe_list() -> str:
    """Return the named recipes as a table, a line each."""
    columns = ("recipe", "network", "epochs", "test accuracy", "published", "what it is", "source")
    rows = [
        (
            name,
            recipe.model.name,
            str(recipe.schedule.epochs),
            PRESETS[name].accuracy,
            f"{100 * PUBLISHED[name].accuracy:.2f} %" if name in PUBLISHED else "-",
            PRESETS[name].summary,
            PRESETS[name].source,
        )
        for name, recipe in all_recipes().items()
    ]
    return (
        f"{table(rows, *columns, right=('epochs',))}\n\n"
        "Published: as the project reports it, original pixels, best epoch by the test set. "
        "JPEG 75: CIFAR-10 re-encoded.\n"
        "What a run costs on this machine: resight recipes cost"
    )


def recipe_costs(device: str) -> dict[str, dict[str, Any]]:
    """Return the cost of one run of each named recipe, with images and seconds on this device.

    Recipes that import a network are left out: their cost is that of the user's own pictures.
    """
    from ..training import cost as training_cost

    speeds: dict[tuple[Model, str], float] = {}  # many recipes share a network
    costs = {}
    for name, recipe in all_recipes().items():
        if isinstance(recipe.model, Import):
            continue
        key = (recipe.model, recipe.training.precision)
        if key not in speeds:
            speeds[key] = training_cost.images_per_sec(recipe, device=device)
        counts = training_cost.cost(recipe)
        timed = {"images_per_sec": speeds[key], "secs": counts.secs(speeds[key])}
        costs[name] = {**asdict(counts), **timed}
    return costs


def cost_text(costs: dict[str, dict[str, Any]]) -> str:
    """Return what `recipe_costs` gives as a table."""
    from ..html_report.view import duration

    columns = ("parameters", "MFLOP an image", "epochs", "TFLOP a run", "images/s", "about")
    rows = [
        (
            name,
            f"{counts['parameters']:,}",
            f"{counts['forward_flop'] / 1e6:,.0f}",
            str(get_preset(name).schedule.epochs),
            f"{counts['run_flop'] / 1e12:,.1f}",
            f"{counts['images_per_sec']:,.0f}",
            duration(counts["secs"]),
        )
        for name, counts in costs.items()
    ]
    return (
        f"{table(rows, 'recipe', *columns, right=columns)}\n\n"
        "MFLOP of a forward pass; a run is three of each image. Timed over three steps a "
        "network just now, so a busy machine looks slow; evaluation comes on top.\n"
        "Recipes that import a network (probe, finetune) are left out, as they are for your photos."
    )
