"""The images that one run has right and another has wrong: as a table, and as pictures."""

from pathlib import Path

import numpy as np

from .. import figures
from ..errors import UsageError
from ..files import write_csv
from ..records import ImageArray
from .comparison import Comparison
from .gallery import read_tiles

MAX_SHOWN = 20  # pictures, at most


def check_out(path: Path) -> None:
    """Check that `write_flipped` could write to `path`, before anything is read.

    Raises:
        UsageError: another suffix, no such folder, or a file that is there already.
    """
    if path.suffix.lower() not in (".csv", ".png", ".svg"):
        raise UsageError(f"cannot write to {path.name}; the name must end in .csv, .png or .svg")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: the folder {path.parent} does not exist; make it")
    if path.exists():
        raise UsageError(f"{path} exists already; choose another --out")


def write_flipped(comparison: Comparison, path: Path) -> int:
    """Write the images that one run has right and another has wrong; return how many.

    A .csv has all of them (`flipped_rows`), a .png or .svg the pictures of those whose losses
    differ most between the runs.

    Raises:
        UsageError: no run has a gallery to take pictures from.
    """
    total = len(comparison.flipped)
    if path.suffix.lower() == ".csv":
        write_csv(path, flipped_rows(comparison))
        return total
    pictures = flipped_pictures(comparison)
    title = f"Right in one run and wrong in another: {len(pictures)} of {total:,} images"
    figures.save(figures.flip_sheet(pictures, comparison.names, title), path)
    return len(pictures)


def flipped_rows(comparison: Comparison) -> list[list[str]]:
    """Return a header, then id, truth and each run's prediction of every flipped image."""
    first = comparison.predictions[0]
    classes = first.classes
    return [
        ["id", "truth", *comparison.names],
        *(
            [first.ids[row], classes[first.labels[row]]]
            + [classes[predictions.preds[row]] for predictions in comparison.predictions]
            for row in comparison.flipped
        ),
    ]


def flipped_pictures(comparison: Comparison, limit: int = MAX_SHOWN) -> list[figures.FlippedImage]:
    """Return the flipped images whose losses differ most, with what each run predicts.

    Images that no run's gallery has kept are passed over.

    Raises:
        UsageError: no run has a gallery.
    """
    if not any(run.gallery for run in comparison.runs):
        raise UsageError(
            "none of the runs has a gallery to take pictures from; "
            f"`resight explain {comparison.runs[0].folder}` makes one, or write a .csv"
        )
    losses = np.stack([predictions.losses for predictions in comparison.predictions])  # (runs, N)
    flipped = comparison.flipped
    spread = (losses.max(axis=0) - losses.min(axis=0))[flipped]
    tiles: dict[int, ImageArray] = {}
    for run in comparison.runs:
        if run.gallery is not None:
            tiles |= read_tiles(run.folder, run.gallery, set(flipped.tolist()) - tiles.keys())
    order = flipped[np.argsort(-spread, kind="stable")].tolist()
    first = comparison.predictions[0]
    return [
        figures.FlippedImage(
            picture=tiles[row],
            id=first.ids[row],
            true=first.classes[first.labels[row]],
            predictions=tuple(
                (first.classes[one.preds[row]], float(one.confidence[row]), bool(one.correct[row]))
                for one in comparison.predictions
            ),
        )
        for row in [row for row in order if row in tiles][:limit]
    ]
