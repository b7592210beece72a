"""The command that shows where a network looked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import ResightError
from ..metrics import MistakeOrder
from ..recipe import Method
from .options import AllowImport, Device, Offline, OutputOptions, RunFolder, emit, progress
from .streams import show_problem


@Parameter(name="*")
@dataclass(frozen=True)
class ExplainOptions:
    """What is shown of the mistakes or pictures, and how."""

    layers: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None
    "Draw maps of these layers (see `resight models`); by default the last of each map size."
    method: Method | None = None
    "Draw heat maps by this method; by default the recipe's. Part of layercam is the image alone."
    rank: MistakeOrder | None = None
    "Show the mistakes that are worst by this measure; by default by loss."
    count: Annotated[int | None, Parameter(name="--images")] = None
    "Show this many images on each sheet."
    label: str | None = None
    "Give the true class of your pictures, where you know it."


def explain(
    run: RunFolder,
    /,
    *pictures: Path,
    options: ExplainOptions = ExplainOptions(),
    data: str | None = None,
    device: Device = "auto",
    offline: Offline = False,
    allow_import: AllowImport = False,
    output: OutputOptions = OutputOptions(),
) -> int:
    """Show a run's mistakes, heat maps and label issues.

    Parameters
    ----------
    pictures
        Explain these picture files of your own in place of the test set.
    data
        Read the run's data here, if it has moved.
    """
    from ..interpret import explain as interpret
    from ..runs.run import Run

    with progress(output) as on_event:
        explanation = interpret.explain(
            Run.open(run, allow_import=allow_import),
            pictures,
            **vars(options),
            data=data,
            device=device,
            offline=offline,
            on_event=on_event,
        )
    emit(explanation, output)
    if output.quiet:  # otherwise the progress lines have named the failures
        for line in explanation.failed:
            show_problem(line)
    return ResightError.exit_code if explanation.failed else 0
