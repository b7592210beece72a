"""The command that lists the networks, or shows one layer by layer."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..errors import UsageError, suggest
from ..recipe import KINDS, Recipe
from ..recipe.toml import with_changes, with_overrides
from ..text import table
from .options import CommandResult, OutputOptions, SetOption, emit

if TYPE_CHECKING:
    from ..networks.summary import LayerRow

NETWORKS = {  # name -> the first line of its documentation
    name: (kind.__doc__ or "").splitlines()[0]
    for name, kind in KINDS["model"].items()
    if name not in ("custom", "import")
}


def models(
    name: str | None = None,
    /,
    *,
    set_: SetOption = None,
    image_size: int = 32,
    channels: int = 3,
    classes: int = 10,
    output: OutputOptions = OutputOptions(),
) -> None:
    """List the networks, or show one layer by layer.

    Parameters
    ----------
    name
        Show shape, map size, receptive field, parameters and FLOP of each layer of this network.
    image_size
        Take images of this side, in px.
    channels
        Take images of 1 or 3 channels.
    classes
        Tell this many classes apart.
    """
    if name is None:
        networks = table(NETWORKS.items(), "model", "what it is")
        text = f"{networks}\n\nLayer by layer: resight models NAME"
        emit(CommandResult(NETWORKS, text), output)
    else:
        layers = model_layers(name, set_ or [], (channels, image_size, image_size), classes=classes)
        rows = [asdict(layer) for layer in layers]
        emit(CommandResult(rows, layer_text(name, layers)), output)


def layer_text(name: str, layers: "Sequence[LayerRow]") -> str:
    """Return the layers of a network as a table."""
    columns = ("layer", "kind", "output", "map px", "field px", "parameters", "MFLOP")
    rows = [
        (
            layer.path or name,
            layer.kind,
            "x".join(map(str, layer.output_shape)),
            "x".join(map(str, layer.map_size or ())),
            str(layer.receptive_field or ""),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.flop / 1e6:.1f}" if layer.flop else "",
        )
        for layer in layers
    ]
    return table(rows, *columns, right=columns[2:])


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
