"""The command that finds a learning rate."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from ..lr_finder.suggest import LRScale
from .options import (
    DataOptions,
    Device,
    OutputOptions,
    RecipeName,
    SetOption,
    emit,
    progress,
    recipe_from_flags,
)

if TYPE_CHECKING:
    from ..lr_finder.suggest import LRCurve
    from ..recipe import Recipe


@dataclass(frozen=True)
class LRFindText:
    """The range test of a recipe, with the figure of it."""

    recipe: "Recipe"
    curve: "LRCurve"
    figure: Path | None

    def to_dict(self) -> dict[str, Any]:
        figure = str(self.figure) if self.figure else None
        return {"recipe": self.recipe.name, "figure": figure, **self.curve.to_dict()}

    def __str__(self) -> str:
        from ..lr_finder.text import curve_text

        text = curve_text(self.recipe, self.curve)
        return f"{text}\nfigure     {self.figure}" if self.figure else text


@Parameter(name="*")
@dataclass(frozen=True)
class RangeTestOptions:
    """How the range test runs."""

    repeats: int = 1
    "Number of tests, with other weights and images; 3 give an interval."
    steps: int | None = None
    "Number of rates."
    start: float | None = None
    "The lowest rate; by default chosen for the optimizer."
    end: float | None = None
    "The highest rate; by default chosen for the optimizer."
    scale: LRScale = "exponential"
    "Whether rates grow by equal factors or by equal differences."
    on_validation: bool = False
    "Score held-out images after every step, not the training loss."


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

    if out is not None:
        figures.check_path(out)
    flags = {flag: value for flag, value in vars(test_options).items() if value is not None}
    options = find.LRRangeOptions(**flags)
    offline = data_options.offline
    with progress(output) as on_event:
        curve = find.lr_find(
            changed, device=device, offline=offline, options=options, on_event=on_event
        )
    if out is not None:
        figures.save(figures.lr_curve(curve), out)
    emit(LRFindText(changed, curve, out), output)
    return 0 if curve.verdict.ok else 1
