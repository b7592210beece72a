"""The command that trains a published project again."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..recipe.presets.published import PUBLISHED, get_published
from .options import (
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


@dataclass(frozen=True)
class ReproductionText:
    """The accuracy of a reproduction beside the published one."""

    result: "Reproduction"

    def to_dict(self) -> dict[str, Any]:
        result = self.result
        return {
            "name": result.name,
            "folder": str(result.folder),
            "published": result.published.accuracy,
            "reached": result.accuracy and asdict(result.accuracy),
            "interrupted": result.interrupted,
        }

    def __str__(self) -> str:
        published, reached = self.result.published.accuracy, self.result.accuracy
        text = f"{reached.value:.2%} ({reached.low:.2%} to {reached.high:.2%})" if reached else "-"
        return (
            f"{self.result.name}: published {published:.2%}, reached {text}\n"
            f"page {self.result.folder / 'README.md'}"
        )


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
        A published project (see `resight recipes`), or all.
    seeds
        Number of runs; from 2 on their mean has an interval.
    all_train
        Hold nothing out, and keep the weights of the last epoch.
    out
        The folder in which the folder of each project is made.
    """
    if name != "all":
        get_published(name)  # a mistyped name is refused before torch is imported

    from .. import experiment

    settings: dict[str, Any] = {"data": data, "seeds": seeds, "all_train": all_train}
    settings |= {"epochs": epochs, "overrides": set_ or [], "out": out}
    settings |= {"device": device, "devices": devices, "offline": offline}
    results: list[ReproductionText] = []
    for project in PUBLISHED if name == "all" else [name]:
        with progress(output) as on_event:
            result = experiment.reproduce(project, **settings, on_event=on_event)
        results.append(ReproductionText(result))
        if not output.json:  # a table at the end would come days after the first result
            emit(results[-1], output)
        if result.interrupted:
            break
    if output.json:
        emit(results, output)
    return 130 if results[-1].result.interrupted else 0
