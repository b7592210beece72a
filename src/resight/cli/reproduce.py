"""The command that trains a published project again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..recipe.presets.published import PUBLISHED, get_published
from .options import (
    CommandResult,
    DataSource,
    Device,
    Devices,
    Epochs,
    Offline,
    OutputOptions,
    SetOption,
    emit,
    progress,
)

if TYPE_CHECKING:
    from ..runs.reproduction import Reproduction


def reproduce(
    name: str,
    /,
    *,
    data: DataSource = None,
    seeds: int = 1,
    all_train: bool = False,
    epochs: Epochs = None,
    set_: SetOption = None,
    out: Path = Path("reproductions"),
    device: Device = "auto",
    devices: Devices = 1,
    offline: Offline = False,
    output: OutputOptions = OutputOptions(),
) -> int:
    """Train a published project again, and compare the accuracies.

    The same command goes on where it stopped, and keeps the seeds that are finished.

    Parameters
    ----------
    name
        Give a published project (see `resight recipes`), or all.
    seeds
        Train this many runs; from 2 on their mean has an interval.
    all_train
        Hold nothing out, and keep the weights of the last epoch.
    out
        Make the folder of each project in this folder.
    """
    if name != "all":
        get_published(name)  # a mistyped name is refused before torch is imported

    from ..experiment import many_runs

    options: dict[str, Any] = {"data": data, "seeds": seeds, "all_train": all_train}
    options |= {"epochs": epochs, "overrides": set_ or [], "out": out}
    options |= {"device": device, "devices": devices, "offline": offline}
    results: list[Reproduction] = []
    for project in PUBLISHED if name == "all" else [name]:
        with progress(output) as on_event:
            result = many_runs.reproduce(project, **options, on_event=on_event)
        results.append(result)
        if not output.json:  # a table at the end would come days after the first result
            emit(result, output)
        if result.interrupted:
            break
    if output.json:
        emit(CommandResult([result.to_dict() for result in results], ""), output)
    return 130 if results[-1].interrupted else 0
