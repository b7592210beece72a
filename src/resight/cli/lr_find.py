"""The command that looks for a learning rate."""

import json
from pathlib import Path

from .options import DataOptions, Device, OutputOptions, SetOption, progress, recipe_from_flags


def lr_find(
    recipe: str,
    /,
    *,
    data: str | None = None,
    repeats: int = 1,
    steps: int | None = None,
    start: float | None = None,
    end: float | None = None,
    linear: bool = False,
    on_validation: bool = False,
    set_: SetOption = None,
    out: Path | None = None,
    device: Device = "auto",
    find: DataOptions = DataOptions(),
    show: OutputOptions = OutputOptions(),
) -> int:
    """Find the learning rate by a range test, and say whether it can be trusted.

    Ends with exit code 1 where it cannot. `resight train RECIPE --find-lr` uses what it finds.

    Parameters
    ----------
    recipe
        A name (see `resight recipes`) or a .toml file.
    data
        A name (see `resight data`) or a path.
    repeats
        Tests with other weights and images; 3 give an interval.
    steps
        How many rates.
    start
        The lowest rate; by default chosen for the optimizer.
    end
        The highest rate.
    linear
        Rates at even differences, not even factors.
    on_validation
        Score held-out images after every step, not the training loss.
    out
        Draw a figure: a .png or .svg file.
    """
    changed = recipe_from_flags(recipe, data, set_, find)

    from .. import figures  # torch: only now that the request makes sense
    from ..lr_finder import find as rate_finder  # torch: only now that the request makes sense
    from ..lr_finder.text import curve_text

    if out is not None:
        figures.check_path(out)
    options = rate_finder.LRRangeOptions(
        start=start,
        end=end,
        steps=rate_finder.NUM_STEPS if steps is None else steps,
        scale="linear" if linear else "exponential",
        repeats=repeats,
        on_validation=on_validation,
    )
    with progress(show) as on_event:
        curve = rate_finder.lr_find(
            changed, device=device, offline=find.offline, options=options, on_event=on_event
        )
    if out is not None:
        figures.save(figures.lr_curve(curve), out)
    if show.json:
        print(json.dumps({"recipe": changed.name, "figure": out and str(out), **curve.to_dict()}))
    else:
        print(curve_text(changed, curve))
        if out is not None:
            print(f"figure     {out}")
    return 0 if curve.verdict.ok else 1
