"""The command that finds a learning rate."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from ..lr_finder.suggest import LRScale
from .options import (
    CommandResult,
    DataOptions,
    Device,
    OutputOptions,
    RecipeName,
    SetOption,
    emit,
    progress,
    recipe_from_flags,
)


@Parameter(name="*")
@dataclass(frozen=True)
class RangeTestOptions:
    """How the range test runs."""

    repeats: int = 1
    "Take this many tests, each with other weights and images; 3 give an interval."
    steps: int | None = None
    "Try this many rates."
    start: float | None = None
    "Begin at this rate; by default one for the optimizer is chosen."
    end: float | None = None
    "End at this rate; by default one for the optimizer is chosen."
    scale: LRScale = "exponential"
    "Let the rates grow by equal factors (exponential) or by equal differences."
    on_validation: bool = False
    "Score held-out images after every step, in place of the training loss."


def lr_find(
    recipe: RecipeName,
    /,
    *,
    data_options: DataOptions = DataOptions(),
    test_options: RangeTestOptions = RangeTestOptions(),
    set_: SetOption = None,
    out: Path | None = None,
    device: Device = "auto",
    output: OutputOptions = OutputOptions(),
) -> int:
    """Find the learning rate by a range test, and judge the result.

    The exit code is 1 if the result cannot be trusted. `resight train RECIPE --find-lr` trains with
    the rate that is found.

    Parameters
    ----------
    out
        Draw a figure: a .png or .svg file.
    """
    changed = recipe_from_flags(recipe, data_options, set_=set_)

    from .. import figures  # torch: only now that the request makes sense
    from ..lr_finder import find
    from ..lr_finder.text import curve_text

    if out is not None:
        figures.check_path(out)
    flags = {flag: value for flag, value in vars(test_options).items() if value is not None}
    with progress(output) as on_event:
        curve = find.lr_find(
            changed,
            device=device,
            offline=data_options.offline,
            options=find.LRRangeOptions(**flags),
            on_event=on_event,
        )
    text = curve_text(changed, curve)
    if out is not None:
        figures.save(figures.lr_curve(curve), out)
        text += f"\nfigure     {out}"
    content = {"recipe": changed.name, "figure": out and str(out), **curve.to_dict()}
    emit(CommandResult(content, text), output)
    return 0 if curve.verdict.ok else 1
