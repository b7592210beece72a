"""The data of the page's script: predictions, gallery and pictures of a run."""

import base64
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..figures.heat import PALETTE
from ..files import as_written, read_bytes, safe_name
from ..metrics.classification import confusion
from ..records import COARSE_CELLS, Predictions
from ..runs.gallery import Neighbors, shared_start
from ..runs.run import Run
from .why import issue_rows, mistake_sets


def script_data(run: Run, predictions: Predictions) -> dict[str, Any]:
    """Return everything the script draws from; the numbers of images as typed arrays in base64."""
    ids, classes = (
        list(map(as_written, names)) for names in (predictions.ids, predictions.classes)
    )
    shared = shared_start(ids)
    wide = len(classes) > 256
    kind = np.uint16 if wide else np.uint8
    counts = confusion(predictions)
    return {
        "classes": classes,
        "count": len(ids),
        "idPrefix": shared,
        "ids": [id[len(shared) :] for id in ids],
        "wide": wide,
        "labels": _base64(predictions.labels.astype(kind)),
        "preds": _base64(predictions.preds.astype(kind)),
        "confidence": _base64(predictions.confidence.astype("<f4")),
        "losses": _base64(predictions.losses.astype("<f4")),
        "confusion": [[t, p, int(counts[t, p])] for t, p in np.argwhere(counts).tolist()],
        "gallery": _gallery(run),
        "neighbors": _neighbors(run.gallery.neighbors) if run.gallery else None,
        "sets": mistake_sets(run, predictions),
        "causes": len(run.causes.causes) if run.causes else 0,  # the first of the sets
        "issues": issue_rows(run.label_issues, predictions),
        "run": _run_id(predictions),
        "palette": PALETTE.ravel().tolist(),  # red, green, blue, red, ... from none to strongest
        "coarse": COARSE_CELLS,
        "file": f"{safe_name(run.folder.resolve().name) or 'run'}-images.csv",
    }


def _run_id(predictions: Predictions) -> str:
    """What the marks of a person are remembered under: it differs between runs and data sets."""
    content = as_written("\n".join(predictions.ids)).encode()
    return sha256(content + predictions.logits.tobytes()).hexdigest()[:16]


def _gallery(run: Run) -> dict[str, Any] | None:
    """Where each image's picture and maps are.

    `place` has a byte an image: the number of its sheet, from 1 (0: none), + 128 with a map for
    the predicted class, + 64 with one for the true class too. Tiles and maps lie in the order of
    the test set, so their place in a sheet follows by counting.
    """
    gallery = run.gallery
    if gallery is None:
        return None
    place = np.zeros(gallery.images, dtype=np.uint8)
    for number, (_, rows) in enumerate(gallery.pictures, 1):
        place[list(rows)] = number
    place[list(gallery.map_rows)] |= 128
    place[list(gallery.true_rows)] |= 64
    return {
        "place": _base64(place),
        "sheets": [{"columns": s.columns, "size": s.size} for s, _ in gallery.pictures],
        "maps": [
            {"layer": name, "whole": whole, "columns": s.columns, "size": s.size}
            for s, name, whole in gallery.maps
        ],
        "method": gallery.method,
        "seen": gallery.seen_px,
        "mapped": len(gallery.map_rows),
    }


def _neighbors(neighbors: Neighbors | None) -> dict[str, Any] | None:
    """Return which training images are beside which mistakes, as the script takes them."""
    if neighbors is None:
        return None
    ids = list(map(as_written, neighbors.ids))
    shared = shared_start(ids)
    sides = zip(neighbors.pred, neighbors.true, strict=True)
    places = np.array([(*pred, *true) for pred, true in sides], dtype="<u2")  # (M, 2 k)
    return {
        "columns": neighbors.sheet.columns,
        "size": neighbors.sheet.size,
        "idPrefix": shared,
        "ids": [id[len(shared) :] for id in ids],
        "each": len(neighbors.pred[0]) if neighbors.pred else 0,
        "rows": _base64(np.array(neighbors.rows, dtype="<u4")),
        "places": _base64(places),  # see MAX_TILES
        "percents": _base64(np.clip(np.array(neighbors.percents), 0, 100).astype(np.uint8)),
    }


def atlases(run: Run) -> list[tuple[str, str]]:
    """Return element id and data URL of every atlas."""
    if run.gallery is None:
        return []
    sheets = [(f"pictures-{i}", "webp", s) for i, (s, _) in enumerate(run.gallery.pictures)]
    sheets += [(f"maps-{i}", "png", s) for i, (s, *_) in enumerate(run.gallery.maps)]
    if run.gallery.neighbors is not None:
        sheets.append(("train", "webp", run.gallery.neighbors.sheet))
    contents = [read_bytes(run.folder / "gallery" / sheet.file) for *_, sheet in sheets]
    return [
        (id, f"data:image/{kind};base64,{base64.b64encode(content).decode()}")
        for (id, kind, _), content in zip(sheets, contents, strict=True)
    ]


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode()
