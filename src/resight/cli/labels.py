"""The command that finds training labels that are likely wrong."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from .interrupt import INTERRUPTED
from .options import (
    DataOptions,
    Device,
    Devices,
    Epochs,
    Offline,
    OutputOptions,
    SetOption,
    emit,
    progress,
    recipe_from_flags,
)
from .streams import show_problem


def labels(
    data: Annotated[str, Parameter(help="Give a data set's name (see `resight data`) or path.")],
    recipe: Annotated[
        str | None,
        Parameter(help="Give a recipe's name or .toml file; by default one that fits the data."),
    ] = None,
    /,
    *,
    folds: int = 5,
    epochs: Epochs = None,
    set_: SetOption = None,
    out: Path = Path("runs"),
    name: str | None = None,
    device: Device = "auto",
    devices: Devices = 1,
    offline: Offline = False,
    output: OutputOptions = OutputOptions(),
) -> int:
    """Find training labels that are likely wrong, and mark them in a page.

    A network is trained for each fold, and predicts the images of its fold. A second call goes on.

    Parameters
    ----------
    folds
        Divide the training images into this many parts.
    out
        Make the folder of the folds in this folder.
    name
        Name the folder of the folds; by default by the data and "-labels".
    """
    from ..recipe.presets import load_recipe
    from ..recipe.sources import find_source

    find_source(data)
    if recipe is not None:
        load_recipe(recipe)
    from ..experiment import many_runs  # torch: only now that the request makes sense

    options: dict[str, Any] = {"device": device, "devices": devices, "out": out, "name": name}
    with progress(output) as on_event:
        options |= {"offline": offline, "on_event": on_event}
        if recipe is None:
            recipe = many_runs.labels_recipe(data, offline=offline, on_event=on_event)
        changed = recipe_from_flags(recipe, DataOptions(data=data), set_=set_, epochs=epochs)
        result = many_runs.labels(data, changed, folds=folds, **options)
    emit(result, output)
    if result.interrupted:
        show_problem("stopped; the same command goes on")
    return INTERRUPTED if result.interrupted else 0
