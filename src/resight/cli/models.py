"""The command that lists the networks, or shows one layer by layer."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, suggest
from ..recipe import KINDS, Recipe
from ..recipe.toml import with_changes, with_overrides
from ..text import table, table_text
from .options import OutputOptions, SetOption, emit

if TYPE_CHECKING:
    from ..networks.summary import LayerRow

NETWORKS = {name: kind for name, kind in KINDS["model"].items() if name != "custom"}


def models(
    name: str | None = None,
    /,
    *,
    set_: SetOption = None,
    image_size: int = 32,
    channels: int = 3,
    classes: int = 10,
    output: OutputOptions = OutputOptions(),
) -> int:
    """List the networks, or show one layer by layer.

    Parameters
    ----------
    name
        A network: show shape, map size, receptive field, parameters and FLOP of each layer.
    image_size
        Side of the images, in px.
    channels
        Channels of the images, 1 or 3.
    classes
        Number of classes.
    """
    if name is None:
        emit(ModelList(), output)
    else:
        shape = (channels, image_size, image_size)
        emit(ModelTable(name, model_layers(name, set_ or [], shape, classes=classes)), output)
    return 0


@dataclass(frozen=True)
class ModelList:
    """The networks that recipes can name, each with the first line of its documentation."""

    def to_dict(self) -> dict[str, str]:
        return {name: (kind.__doc__ or "").splitlines()[0] for name, kind in NETWORKS.items()}

    def __str__(self) -> str:
        networks = table("model", "what it is")
        for name, line in self.to_dict().items():
            networks.add_row(name, line)
        return table_text(networks) + "\n\nLayer by layer: resight models NAME"


@dataclass(frozen=True)
class ModelTable:
    """A network layer by layer."""

    name: str
    rows: Sequence["LayerRow"]

    def to_dict(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]

    def __str__(self) -> str:
        columns = ("layer", "kind", "output", "map px", "field px", "parameters", "MFLOP")
        layers = table(*columns, right=columns[2:])
        for row in self.rows:
            layers.add_row(
                row.path or self.name,
                row.kind,
                "x".join(map(str, row.output_shape)),
                "x".join(map(str, row.map_size)) if row.map_size else "",
                str(row.receptive_field) if row.receptive_field else "",
                f"{row.parameters:,}" if row.parameters else "",
                f"{row.flop / 1e6:.1f}" if row.flop else "",
                style="bold" if row.depth <= 1 else None,
            )
        return table_text(layers)


def model_layers(
    name: str, overrides: Sequence[str], input_shape: tuple[int, int, int], *, classes: int
) -> "list[LayerRow]":
    """Return the layers of a named network, for images of `input_shape` (C, H, W).

    Raises:
        UsageError: no such network or setting, or numbers that are too small.
    """
    if name not in NETWORKS:
        valid = ", ".join(NETWORKS)
        raise UsageError(f'there is no model "{name}"{suggest(name, NETWORKS)} (valid: {valid})')
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
    return layer_table(model, input_shape)
