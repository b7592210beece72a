"""Why it was wrong, and which labels may be wrong, in words for the template and for the script."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..files import as_written
from ..records import Predictions
from ..runs.causes import Cause, Causes, MistakeGroup
from ..runs.run import Run

MAX_ROWS = 30  # of label issues in the table of the page; the script has all
_KINDS = {"test": "test images", "train": "training images", "images": "images"}


def why(run: Run) -> dict[str, Any] | None:
    """Return the causes of a run's mistakes for the template; None if they were not looked for."""
    causes, predictions = run.causes, run.predictions
    if causes is None or predictions is None:
        return None
    left = causes.mistakes - causes.explained
    return {
        "mistakes": causes.mistakes,
        "images": len(predictions),
        "images_are": _KINDS[run.summary.predicted] if run.summary else "images",
        "explained": causes.explained,
        "left": left,
        "left_share": left / max(causes.mistakes, 1),
        "causes": [
            {
                "kind": cause.kind,
                "count": len(cause.rows),
                "share": len(cause.rows) / max(causes.mistakes, 1),
                "sentence": as_written(cause.sentence),
                "test": as_written(cause.test),
                "advice": as_written(cause.advice),
            }
            for cause in causes.causes
        ],
        "groups": [
            {
                "count": len(group.rows),
                "sentence": as_written(group.sentence),
                "true": as_written(group.true),
                "pred": as_written(group.pred),
            }
            for group in causes.groups
        ],
        "notes": list(map(as_written, causes.notes)),
    }


def mistake_sets(run: Run, predictions: Predictions) -> list[dict[str, Any]]:
    """Return the sets of mistakes that the page can filter by: causes, the rest, and groups.

    Each has a name, the rows in the order in which they are shown, and for a group the tiles of its
    nearest training images, of class true and of class pred.
    """
    if run.causes is None:
        return []
    causes: Causes = run.causes
    kinds = [cause.kind for cause in causes.causes]
    explained = {row for cause in causes.causes for row in cause.rows}
    losses = np.argsort(-predictions.losses, kind="stable")
    wrong = losses[~predictions.correct[losses]].tolist()
    tiles: dict[int, int] = {}
    if run.gallery is not None and run.gallery.neighbors is not None:
        tiles = {row: n for n, row in enumerate(run.gallery.neighbors.train_rows, 1)}

    def entry(name: str, part: Cause | MistakeGroup) -> dict[str, Any]:
        sides = part.neighbors if isinstance(part, MistakeGroup) else ()
        near = [[tiles[row] for row in side if row in tiles][:3] for side in sides]
        return {"name": name, "rows": list(part.rows), "near": near}

    numbered = (f"{n}. {kind}" for n, kind in enumerate(kinds, 1))
    unexplained = [row for row in wrong if row not in explained]
    return [
        *(entry(name, cause) for name, cause in zip(numbered, causes.causes, strict=True)),
        {"name": "no cause found", "rows": unexplained, "near": []},
        *(
            entry(f"group: {as_written(f'{group.true} taken for {group.pred}')}", group)
            for group in causes.groups
        ),
    ]


def label_lines(issues: Sequence[dict[str, str]]) -> dict[str, Any] | None:
    """Return the label issues for the template: the first rows, and how many are likely wrong."""
    if not issues:
        return None
    shares = [_share(row.get("p_wrong")) for row in issues]
    known = [share for share in shares if share is not None]
    return {
        "total": len(issues),
        "wrong": round(sum(known)) if len(known) == len(issues) else None,
        "rows": [{k: _rounded(v, k) for k, v in row.items()} for row in issues[:MAX_ROWS]],
    }


def issue_rows(issues: Sequence[dict[str, str]], predictions: Predictions) -> list[list[int]]:
    """Return row and suggested class of each label issue whose image and class are known."""
    rows = {as_written(id): row for row, id in enumerate(predictions.ids)}
    classes = {as_written(name): k for k, name in enumerate(predictions.classes)}
    return [
        [rows[issue["id"]], classes[issue["suggested"]]]
        for issue in issues
        if issue["id"] in rows and issue.get("suggested") in classes
    ]


def _share(cell: str | None) -> float | None:
    """A probability that a cell of the table has, or None."""
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def _rounded(cell: str, column: str) -> str:
    """A share with three digits in the columns of shares; any other text stays as it is."""
    share = _share(cell) if column.startswith("p_") else None
    return cell if share is None else f"{share:.3f}"
