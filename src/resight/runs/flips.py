"""The images that one run has right and another has not: as a table, and as pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from .. import figures
from ..errors import UsageError
from ..files import write_csv
from .compare import Comparison
from .gallery.tiles import read_tiles

MAX_SHOWN = 20  # pictures, at most


def check_out(path: Path) -> None:
    """Whether `write_flipped` could write there: before anything is read.

    Raises:
        UsageError: another suffix, no such folder, or a file that is there already.
    """
    if path.suffix.lower() not in (".csv", ".png", ".svg"):
        raise UsageError(f"cannot write to {path.name}; the name must end in .csv, .png or .svg")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: the folder {path.parent} does not exist; make it")
    if path.exists():
        raise UsageError(f"{path} exists already; choose another --out")


def write_flipped(found: Comparison, path: Path) -> int:
    """The images that one run has right and another has not, as a new file; returns how many.

    A .csv has all of them (`flipped_rows`), a .png or .svg the pictures of those whose losses
    differ most between the runs.

    Raises:
        UsageError: it cannot be written there, or no run has a gallery to take pictures from.
    """
    check_out(path)
    if path.suffix.lower() == ".csv":
        write_csv(path, flipped_rows(found))
        return len(found.flipped)
    shown = flipped_pictures(found)
    title = f"Right in one run and wrong in another: {len(shown)} of {len(found.flipped):,} images"
    figures.save(figures.flip_sheet(shown, [run.name for run in found.runs], title), path)
    return len(shown)


def flipped_rows(found: Comparison) -> list[list[str]]:
    """A header, then id, truth and each run's prediction."""
    first = found.runs[0].answers
    names = first.classes
    return [
        ["id", "truth", *(run.name for run in found.runs)],
        *(
            [first.ids[row], names[first.labels[row]]]
            + [names[run.answers.preds[row]] for run in found.runs]
            for row in found.flipped
        ),
    ]


def flipped_pictures(found: Comparison, limit: int = MAX_SHOWN) -> list[figures.FlippedImage]:
    """The flipped images whose losses differ most between the runs, with what each run says.

    Those that no run's gallery has kept are passed over.

    Raises:
        UsageError: no run has a gallery.
    """
    if not any(run.gallery for run in found.runs):
        raise UsageError(
            "none of the runs has a gallery to take pictures from; "
            f"`resight explain {found.runs[0].folder}` makes one, or write a .csv"
        )
    flipped = found.flipped
    pictures: dict[int, Any] = {}
    for run in found.runs:
        if run.gallery is not None:
            missing = set(flipped.tolist()) - pictures.keys()
            pictures |= read_tiles(run.folder, run.gallery, missing)
    answers = [run.answers for run in found.runs]
    losses = np.stack([of.losses for of in answers])  # (runs, N)
    apart = (losses.max(axis=0) - losses.min(axis=0))[flipped]
    chosen = [row for row in flipped[np.argsort(-apart, kind="stable")].tolist() if row in pictures]
    first = answers[0]
    return [
        figures.FlippedImage(
            picture=pictures[row],
            id=first.ids[row],
            true=first.classes[first.labels[row]],
            said=tuple(
                (of.classes[of.preds[row]], float(of.confidence[row]), bool(of.right[row]))
                for of in answers
            ),
        )
        for row in chosen[:limit]
    ]
