"""The report of a run, or of predictions that were made without resight."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import html_report
from ..errors import UsageError
from ..events import OnEvent, show_events
from ..records import Predictions
from ..runs.run import Run

if TYPE_CHECKING:
    from torch import nn

    from ..datasets import Statistics


def report(
    run: str | Path | Run | Predictions,
    images: Any = None,
    *,
    model: "nn.Module | None" = None,
    train: Any = None,
    stats: "Statistics | None" = None,
    layers: Sequence[str] | None = None,
    method: str | None = None,
    count: int | None = None,
    out: str | Path = "report",
    on_event: OnEvent = show_events,
) -> Path:
    """Write the report of a run, or of predictions of any model; return the path of the page.

    Of a run, it writes `report.html` into its folder from its files alone, without torch.

    Of `predictions` and their `images`, it writes a folder `out` with the mistakes, labels that may
    be wrong, and report.html. With `model`, they have heat maps; with `train`, the pair (images,
    labels) that it was trained on, they have similar training images beside them. Images are
    arrays or tensors (N, H, W, C) or (N, C, H, W), or PIL pictures or paths. The model takes them
    as floats in [0, 1], or normalized by `stats`. `layers`, `method` and `count` are as in
    `explain`. A second call writes the folder anew.

    Raises:
        UsageError: it is no run; or the images, labels or model do not fit the predictions.
        ResightError: a file cannot be written.
    """
    if isinstance(run, Predictions):
        from .own_predictions import explain_predictions  # the only import of torch

        settings = {"layers": layers, "method": method, "images": count}
        settings = {key: value for key, value in settings.items() if value is not None}
        given = {"model": model, "train": train, "stats": stats, "settings": settings}
        return explain_predictions(run, images, **given, folder=Path(out), on_event=on_event)
    given = {"images": images, "model": model, "train": train, "stats": stats}
    given |= {"layers": layers, "method": method, "count": count}
    if names := [name for name, value in given.items() if value is not None]:
        raise UsageError(
            f"{names[0]} goes with predictions, not with a run, which has all of it; leave it out, "
            "or see `resight.explain`"
        )
    return html_report.write_page(run)
