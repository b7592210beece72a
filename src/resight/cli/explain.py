"""The command that shows where a network looked."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import ResightError
from ..metrics import MistakeOrder
from .options import Device, OutputOptions, progress

if TYPE_CHECKING:
    from ..interpret.explain_run import Explanation


def explain(
    run: Path,
    /,
    *pictures: Path,
    layers: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    method: str | None = None,
    rank: MistakeOrder | None = None,
    images: int | None = None,
    label: str | None = None,
    data: str | None = None,
    device: Device = "auto",
    offline: bool = False,
    show: OutputOptions = OutputOptions(),
) -> int:
    """Show a run's mistakes, where the network looked, and which labels are suspicious.

    Parameters
    ----------
    run
        The run folder.
    pictures
        Picture files of your own, to explain in place of the test set.
    layers
        Where to look, by name (see `resight models`); by default the last of each map size.
    method
        grad-cam, grad-cam++, hirescam, layercam, xgrad-cam, eigen-cam, score-cam, ablation-cam
        or finer-cam.
    rank
        What makes a mistake worse than another; by default its loss.
    images
        How many on each sheet.
    label
        The true class of your pictures, where it is known.
    data
        Where the run's data is, if it has moved.
    offline
        Never download.
    """
    from ..interpret.explain import explain as ask

    with progress(show) as on_event:
        found = ask(
            run,
            pictures,
            layers=layers,
            method=method,
            rank=rank,
            count=images,
            label=label,
            data=data,
            device=device,
            offline=offline,
            on_event=on_event,
        )
    if show.json:
        print(json.dumps(as_json(found)))
    else:
        print_found(found, mistakes=not pictures)
    if show.quiet:  # otherwise the watch has said so
        for line in found.failed:
            print(f"resight: {line}", file=sys.stderr)
    return ResightError.exit_code if found.failed else 0


def print_found(found: "Explanation", *, mistakes: bool) -> None:
    """What was found, and where it lies."""
    if mistakes:
        print_mistakes(found)
    if found.layers:
        print(f"heat maps   {found.method} at {', '.join(found.layers)}")
    for name in found.files:
        print(f"written     {found.folder / name}")


def print_mistakes(found: "Explanation") -> None:
    """The most frequent pairs and the most suspicious labels, a line each."""
    from ..metrics.mistakes import group_by_pair

    print(f"mistakes    {len(found.mistakes):,}")
    for (true, pred), group in list(group_by_pair(found.mistakes).items())[:5]:
        print(f"  {len(group)} x {true} taken for {pred}, the worst {group[0].id}")
    print(f"suspicious  {len(found.suspicious):,} labels")
    for label in found.suspicious[:5]:
        print(f"  {label.id}: labeled {label.given}, suggested {label.suggested}")


def as_json(found: "Explanation") -> dict[str, object]:
    """The whole of an explanation, as plain Python."""
    return {
        "folder": str(found.folder),
        "files": list(found.files),
        "method": found.method,
        "layers": list(found.layers),
        "mistakes": [asdict(mistake) for mistake in found.mistakes],
        "suspicious": [asdict(label) for label in found.suspicious],
        "notes": list(found.notes),
        "failed": list(found.failed),
    }
