"""The commands of the named recipes: `recipes`, and its `show`, `diff` and `cost`."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from cyclopts import App, Parameter

from ..errors import UsageError
from ..recipe import Model
from ..recipe.presets import PRESETS, get_preset, load_recipe
from ..recipe.presets.published import PUBLISHED
from ..recipe.toml import differences, to_toml
from ..text import setting_text, table, table_text
from .options import Device, OutputOptions, RecipeName, emit

recipes = App(name="recipes")


@recipes.default
def list_recipes(
    *names: Annotated[str, Parameter(show=False)], output: OutputOptions = OutputOptions()
) -> int:
    """List the named recipes."""
    if names:
        get_preset(names[0])  # a mistyped name has its own message
        raise UsageError(
            f"`resight recipes` takes no name; write `resight recipes show {names[0]}`"
        )
    emit(RecipeList(), output)
    return 0


@recipes.command
def show(
    name: Annotated[str, Parameter(help="A named recipe.")],
    /,
    *,
    output: OutputOptions = OutputOptions(),
) -> int:
    """Show a recipe: its source, how and why it differs from its base, and its TOML."""
    get_preset(name)
    emit(RecipeText(name), output)
    return 0


@recipes.command
def diff(
    first: RecipeName, second: RecipeName, /, *, output: OutputOptions = OutputOptions()
) -> int:
    """Show every setting in which two recipes differ."""
    changes = differences(load_recipe(second), load_recipe(first))
    changes.pop("name", None)
    emit(RecipeDifference(first, second, changes), output)
    return 0


@recipes.command
def cost(*, device: Device = "auto", output: OutputOptions = OutputOptions()) -> int:
    """Estimate parameters, operations and time of a run of each recipe on this machine."""
    emit(RecipeCosts(recipe_costs(device)), output)
    return 0


@dataclass(frozen=True)
class RecipeList:
    """The named recipes, a line each."""

    def to_dict(self) -> dict[str, Any]:
        return {name: get_preset(name).model_dump() for name in PRESETS}

    def __str__(self) -> str:
        columns = ("recipe", "network", "epochs", "test accuracy", "published")
        listed = table(*columns, "what it is", "source", right=("epochs",))
        for name, preset in PRESETS.items():
            recipe = get_preset(name)
            listed.add_row(
                name,
                recipe.model.name,
                str(recipe.schedule.epochs),
                preset.accuracy,
                f"{100 * PUBLISHED[name].accuracy:.2f} %" if name in PUBLISHED else "-",
                preset.summary,
                preset.source,
            )
        return (
            f"{table_text(listed)}\n\n"
            "Published: as the project reports it, original pixels, best epoch by the test set. "
            "JPEG 75: CIFAR-10 re-encoded.\n"
            "What a run costs on this machine: resight recipes cost"
        )


@dataclass(frozen=True)
class RecipeText:
    """A named recipe: where it comes from, how and why it differs from its base, its TOML."""

    name: str

    def to_dict(self) -> dict[str, Any]:
        return get_preset(self.name).model_dump()

    def __str__(self) -> str:
        preset = PRESETS[self.name]
        base = f'"{preset.base}"' if preset.base else "the defaults"
        return "\n".join(
            [
                f"# {self.name}: {preset.summary}",
                f"# source: {preset.source}",
                f"# differs from {base}:",
                *(
                    f"#   {path} = {_value(value)}  ({reason})"
                    for path, (value, reason) in preset.changes.items()
                ),
                "",
                to_toml(get_preset(self.name)).rstrip(),
            ]
        )


@dataclass(frozen=True)
class RecipeDifference:
    """The settings in which two recipes differ, side by side."""

    first: str
    second: str
    changes: dict[str, tuple[Any, Any]]  # path -> value in the first and in the second

    def to_dict(self) -> dict[str, dict[str, Any]]:
        return {
            path: {self.first: old, self.second: new} for path, (old, new) in self.changes.items()
        }

    def __str__(self) -> str:
        if not self.changes:
            return f"{self.first} and {self.second} are the same but for their names"
        settings = table("setting", self.first, self.second)
        for path, (old, new) in self.changes.items():
            settings.add_row(path, _value(old), _value(new))
        return table_text(settings)


@dataclass(frozen=True)
class RecipeCosts:
    """The cost of one run of each recipe: counted, and timed on this machine for seconds."""

    costs: dict[str, dict[str, Any]]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        return self.costs

    def __str__(self) -> str:
        from ..html_report.view import duration

        columns = ("parameters", "MFLOP an image", "epochs", "TFLOP a run", "images/s", "about")
        rows = table("recipe", *columns, right=columns)
        for name, costs in self.costs.items():
            rows.add_row(
                name,
                f"{costs['parameters']:,}",
                f"{costs['forward_flop'] / 1e6:,.0f}",
                str(get_preset(name).schedule.epochs),
                f"{costs['run_flop'] / 1e12:,.1f}",
                f"{costs['images_per_sec']:,.0f}",
                duration(costs["secs"]),
            )
        return (
            f"{table_text(rows)}\n\n"
            "MFLOP of a forward pass; a run is three of each image. Timed over three steps a "
            "network just now, so a busy machine looks slow; evaluation comes on top."
        )


def recipe_costs(device: str) -> dict[str, dict[str, Any]]:
    """Return the cost of one run of each named recipe, with images and seconds on this device."""
    from ..training import cost as training_cost

    speeds: dict[tuple[Model, str], float] = {}  # many recipes share a network
    costs = {}
    for name in PRESETS:
        recipe = get_preset(name)
        key = (recipe.model, recipe.training.precision)
        if key not in speeds:
            speeds[key] = training_cost.images_per_sec(recipe, device=device)
        counts = training_cost.cost(recipe)
        timed = {"images_per_sec": speeds[key], "secs": counts.secs(speeds[key])}
        costs[name] = {**asdict(counts), **timed}
    return costs


def _value(value: Any) -> str:
    return "-" if value is None else setting_text(value)
