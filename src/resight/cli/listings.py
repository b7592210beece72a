"""What there is to choose from, as text for a terminal. The lists do not import torch."""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ..errors import UsageError, suggest
from ..recipe import KINDS, Model, Recipe
from ..recipe.presets import PRESETS, get_preset, load_recipe
from ..recipe.presets.published import PUBLISHED
from ..recipe.sources import BUILT_IN
from ..recipe.toml import differences, to_toml, with_changes, with_overrides

if TYPE_CHECKING:
    from ..metrics.intervals import Interval
    from ..runs.compare import Comparison

ACCURACY_OF = (
    "Published: as the project reports it, original pixels, best epoch by the test set. "
    "JPEG 75: CIFAR-10 re-encoded."
)


def source_list(*, as_json: bool = False) -> str:
    """The built-in data sets, and what else `--data` takes."""
    if as_json:
        return json.dumps(BUILT_IN)
    table = _table("data", "what it is")
    for name, what in BUILT_IN.items():
        table.add_row(name, what)
    table.add_row("PATH", "a folder per class, Parquet, CIFAR archives or folders, .npz")
    return _text(table)


def data_text(found: dict[str, Any]) -> str:
    """What `look.describe_data` found, in lines."""
    classes = found["classes"]
    shown = ", ".join(classes[:12]) + (f", ... {len(classes)} in all" if len(classes) > 12 else "")
    channels, height, width = found["shape"]
    color = "gray" if channels == 1 else "color"
    lines = [
        f"{found['name']}: {found['train']:,} training and {found['test']:,} test images, "
        f"{color}, {height} x {width} px",
        f"classes  {shown}",
        f"mean     {_numbers(found['mean'])}  (of the training images, in [0, 1])",
        f"std      {_numbers(found['std'])}",
        *found["notes"],
    ]
    if found["preview"]:
        lines.append(f"preview  {found['preview']}")
    return "\n".join(lines)


def recipe_list(*, as_json: bool = False) -> str:
    """The named recipes."""
    if as_json:
        return json.dumps({name: get_preset(name).model_dump() for name in PRESETS})
    columns = ("recipe", "network", "epochs", "test accuracy", "published", "what it is", "source")
    table = _table(*columns, right=("epochs",))
    for name, entry in PRESETS.items():
        recipe = get_preset(name)
        epochs = str(recipe.schedule.epochs)
        published = f"{100 * PUBLISHED[name].accuracy:.2f} %" if name in PUBLISHED else "-"
        figures = (entry.accuracy, published)
        table.add_row(name, recipe.model.name, epochs, *figures, entry.summary, entry.source)
    return (
        _text(table) + f"\n\n{ACCURACY_OF}\nWhat a run costs on this machine: resight recipes cost"
    )


def recipe_costs(*, device: str = "auto", as_json: bool = False) -> str:
    """What one run of each named recipe takes: counted, and timed on this machine for seconds."""
    from ..html_report.view import duration
    from ..training.cost import cost, images_per_sec

    rates: dict[tuple[Model, str], float] = {}  # many recipes share a network
    found = {}
    for name in PRESETS:
        recipe = get_preset(name)
        way = (recipe.model, recipe.training.precision)
        rate = rates[way] = rates.get(way) or images_per_sec(recipe, device=device)
        counted = cost(recipe)
        found[name] = {**asdict(counted), "images_per_sec": rate, "secs": counted.secs(rate)}
    if as_json:
        return json.dumps(found)
    columns = ("parameters", "MFLOP an image", "epochs", "TFLOP a run", "images/s", "about")
    table = _table("recipe", *columns, right=columns)
    for name, of in found.items():
        table.add_row(
            name,
            f"{of['parameters']:,}",
            f"{of['forward_flop'] / 1e6:,.0f}",
            str(get_preset(name).schedule.epochs),
            f"{of['run_flop'] / 1e12:,.1f}",
            f"{of['images_per_sec']:,.0f}",
            duration(of["secs"]),
        )
    return (
        _text(table)
        + "\n\nMFLOP of a forward pass; a run is three of each image. Timed over three "
        "steps a network just now, so busy machines look slow; evaluation comes on top."
    )


def recipe_text(name: str, *, as_json: bool = False) -> str:
    """One named recipe: where it comes from, how and why it differs from its base, its TOML."""
    recipe = get_preset(name)
    if as_json:
        return json.dumps(recipe.model_dump())
    entry = PRESETS[name]
    lines = [f"# {name}: {entry.summary}", f"# source: {entry.source}"]
    lines.append(
        f'# differs from "{entry.base}":' if entry.base else "# differs from the defaults:"
    )
    for path, (value, why) in entry.changes.items():
        lines.append(f"#   {path} = {_shown(value)}  ({why})")
    return "\n".join([*lines, "", to_toml(recipe)]).rstrip()


def recipe_difference(one: str, other: str, *, as_json: bool = False) -> str:
    """Every setting in which two recipes (names or TOML files) differ, side by side."""
    a, b = load_recipe(one), load_recipe(other)
    changed = {path: pair for path, pair in differences(b, a).items() if path != "name"}
    if as_json:
        return json.dumps({path: {one: old, other: new} for path, (old, new) in changed.items()})
    if not changed:
        return f"{one} and {other} are the same but for their names"
    table = _table("setting", one, other)
    for path, pair in changed.items():
        table.add_row(path, *("-" if value is None else _shown(value) for value in pair))
    return _text(table)


def comparison_text(found: "Comparison") -> str:
    """Runs side by side: figures, the settings in which settings differ, means over seeds, flips."""
    setting_of = {run: k for k, of in enumerate(found.groups, start=1) for run in of.runs}
    columns = ("setting", "seed", "test accuracy", "loss", "val accuracy", "epochs", "training")
    table = _table("run", *columns)
    for run in found.runs:
        test, held_out = run.summary["test"], run.summary["validation"]
        a = test["accuracy"]
        table.add_row(
            run.name,
            str(setting_of[run.name]),
            str(run.recipe.seed),
            f"{100 * a['value']:.2f} % ({_ends(a['low'], a['high'])})",
            f"{test['loss']:.3f}",
            f"{100 * held_out['accuracy']['value']:.2f} %" if held_out else "-",
            str(run.summary["epochs"]),
            f"{run.summary['train_secs']:,.0f} s",
        )
    parts = [_text(table)]
    if found.settings:
        table = _table("setting", *(f"setting {k}" for k in range(1, 1 + len(found.groups))))
        for path, values in found.settings.items():
            table.add_row(path, *("-" if value is None else _shown(value) for value in values))
        parts.append(_text(table))
    said = []
    for k, setting in enumerate(found.groups, start=1):
        if len(setting.runs) > 1:
            over = f"mean of {len(setting.runs)} runs {100 * setting.mean:.2f} %"
            ends = setting.interval
            over += f" ({_ends(ends.low, ends.high)})" if ends else ""
            said.append(f"setting {k}: {over}")
        if setting.difference is not None:
            said.append(f"setting {k} against 1: {_points(setting.difference)}, over seeds")
    for flip in found.flips:
        changed = sorted(flip.by_class.items(), key=lambda item: -abs(item[1]))[:3]
        most = ", ".join(f"{name} {net:+d}" for name, net in changed if net)
        said.append(
            f"{flip.run} against {found.runs[0].name}: {_points(flip.difference)}, over images; "
            f"{len(flip.gained):,} gained, {len(flip.lost):,} lost{f'; {most}' if most else ''}"
        )
    parts.append("\n".join(said))
    images = len(found.runs[0].answers.ids)
    parts.append(
        "\n".join(
            [
                f"95 % intervals: of a run over its {images:,} test images, of a mean over its "
                "runs. By class: gained minus lost, the three largest.",
                *found.notes,
            ]
        )
    )
    return "\n\n".join(parts)


def model_list(*, as_json: bool = False) -> str:
    """The networks that recipes can name."""
    first_lines = {
        name: (kind.__doc__ or "").splitlines()[0]
        for name, kind in KINDS["model"].items()
        if name != "custom"
    }
    if as_json:
        return json.dumps(first_lines)
    table = _table("model", "what it is")
    for name, line in first_lines.items():
        table.add_row(name, line)
    return _text(table) + "\n\nLayer by layer: resight models NAME"


def model_table(
    name: str,
    overrides: Sequence[str],
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    as_json: bool = False,
) -> str:
    """A network layer by layer, for images of `input_shape` (C, H, W)."""
    valid = [kind for kind in KINDS["model"] if kind != "custom"]
    if name not in valid:
        raise UsageError(
            f'there is no model "{name}"{suggest(name, valid)} (valid: {", ".join(valid)})'
        )
    if input_shape[0] < 1 or classes < 2:
        raise UsageError(f"--channels {input_shape[0]} --classes {classes}: give at least 1 and 2")
    recipe = with_changes(Recipe(), {"model": {"name": name}}, origin="models")
    recipe = with_overrides(recipe, overrides)

    from ..networks import build_model, layer_table

    model = build_model(
        recipe.model,
        in_channels=input_shape[0],
        num_classes=classes,
        image_size=input_shape[1],
        seed=0,
    )
    rows = layer_table(model, input_shape)
    if as_json:
        return json.dumps([asdict(row) for row in rows])
    columns = ("layer", "kind", "output", "map px", "field px", "parameters", "MFLOP")
    table = _table(*columns, right=columns[2:])
    for row in rows:
        table.add_row(
            row.path or name,
            row.kind,
            "x".join(map(str, row.output_shape)),
            "x".join(map(str, row.map_size)) if row.map_size else "",
            str(row.receptive_field) if row.receptive_field else "",
            f"{row.parameters:,}" if row.parameters else "",
            f"{row.flop / 1e6:.1f}" if row.flop else "",
            style="bold" if row.depth <= 1 else None,
        )
    return _text(table)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _points(found: "Interval") -> str:
    return f"{100 * found.value:+.2f} points ({_ends(found.low, found.high, '+')})"


def _ends(low: float, high: float, sign: str = "") -> str:
    return f"{100 * low:{sign}.2f} to {100 * high:{sign}.2f}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _text(table: Table) -> str:
    """As wide as it needs: results are for pipes and files as well as for screens."""
    text = io.StringIO()
    Console(file=text, width=160, markup=False, emoji=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip("\n").split("\n"))
