"""The command that searches for better settings."""

from pathlib import Path
from typing import Any

from .interrupt import INTERRUPTED
from .options import DataSource, Device, Offline, OutputOptions, emit, progress
from .streams import show_problem


def sweep(
    file: Path,
    /,
    *,
    trials: int | None = None,
    storage: str | None = None,
    data: DataSource = None,
    out: Path = Path("sweeps"),
    name: str | None = None,
    device: Device = "auto",
    offline: Offline = False,
    output: OutputOptions = OutputOptions(),
) -> int:
    """Search for better settings of a recipe, then train the best and test it.

    The same command goes on where it stopped. Started several times at once, here or on other
    machines with one --storage, it divides the trials among the workers.

    Parameters
    ----------
    file
        Give a .toml file with a recipe and ranges of its settings.
    trials
        Try this many settings, the recipe as it is among them; by default as the file says.
    storage
        Keep the trials in this file, or at a URL such as postgresql://user@host/database.
    out
        Make the folder of the sweep in this folder.
    name
        Name the sweep and its folder; by default by the file.
    """
    from ..recipe.sources import find_source
    from ..runs.sweeps.space import load_sweep

    checked = load_sweep(file)[1]
    find_source(data or checked.base.data.source)

    from ..experiment import search

    options: dict[str, Any] = {"trials": trials, "storage": storage, "data": data, "out": out}
    options |= {"name": name, "device": device, "offline": offline}
    with progress(output) as on_event:
        result = search.sweep(file, **options, on_event=on_event)
    emit(result, output)
    if result.interrupted:
        show_problem("stopped; the same command goes on")
    return INTERRUPTED if result.interrupted else 0
