"""The command that runs a published project again."""

import json
from pathlib import Path

from .options import Device, Devices, OutputOptions, SetOption, progress


def reproduce(
    name: str,
    /,
    *,
    data: str | None = None,
    seeds: int = 1,
    all_train: bool = False,
    epochs: int | None = None,
    set_: SetOption = None,
    out: Path = Path("reproductions"),
    device: Device = "auto",
    devices: Devices = 1,
    offline: bool = False,
    show: OutputOptions = OutputOptions(),
) -> int:
    """Run a published project's recipe, and put what it reaches beside what was reported.

    Called again it goes on: finished seeds are kept, one that was stopped is resumed.

    Parameters
    ----------
    name
        A published project (see `resight recipes`), or all.
    data
        A name (see `resight data`) or a path.
    seeds
        How many runs; from 2 on their mean has an interval.
    all_train
        Hold nothing out, and keep the weights of the last epoch.
    epochs
        Stretch or shrink the whole schedule to this many epochs.
    out
        Where the folder of each project is made.
    offline
        Never download.
    """
    from ..recipe.presets.published import PUBLISHED, get_published

    if name != "all":
        get_published(name)  # a slip is told before torch is imported

    from ..reproduction import reproduce as run_again

    found = []
    for project in PUBLISHED if name == "all" else [name]:
        with progress(show) as on_event:
            done = run_again(
                project,
                data=data,
                seeds=seeds,
                all_train=all_train,
                epochs=epochs,
                overrides=set_ or [],
                out=out,
                device=device,
                devices=devices,
                offline=offline,
                on_event=on_event,
            )
        a = done.accuracy
        found.append(
            {
                "name": project,
                "folder": str(done.folder),
                "published": done.published.accuracy,
                "reached": a and vars(a),
                "interrupted": done.interrupted,
            }
        )
        if not show.json:
            reached = f"{a.value:.2%} ({a.low:.2%} to {a.high:.2%})" if a else "-"
            print(f"{project}: published {done.published.accuracy:.2%}, reached {reached}")
            print(f"page {done.folder / 'README.md'}")
        if done.interrupted:
            break
    if show.json:
        print(json.dumps(found))
    return 130 if found[-1]["interrupted"] else 0
