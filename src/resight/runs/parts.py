"""The files of a run folder as values, each checked to be as it was written."""

import csv
import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ResightError
from ..files import atomic_write
from ..lr_finder.suggest import LRCurve
from ..lr_finder.verdict import Verdict
from ..records import EpochRow, FloatArray, Predictions

# What reading a file that is not as it was written may raise.
DAMAGE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, ResightError),
    *(csv.Error, zipfile.BadZipFile, zlib.error),
)
MAX_LABEL_ISSUES = 30  # rows of label_issues.csv that are shown, the first


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name as a `.npz` file; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def json_table(path: Path) -> dict[str, Any]:
    """Return a JSON object."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it is not a table")
    return content


def read_rows(path: Path) -> tuple[EpochRow, ...]:
    """Return the rows of `metrics.jsonl`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(EpochRow(**json.loads(line)) for line in lines)


def read_steps(path: Path) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return learning rate, momentum and training loss of every step, from `steps.npz`."""
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["lrs"], arrays["momenta"], arrays["losses"]


def read_predictions(path: Path, *, images: int) -> Predictions:
    """Return `predictions.npz`, which has to be of so many images."""
    with np.load(path, allow_pickle=False) as arrays:
        predictions = Predictions(
            ids=tuple(arrays["ids"].tolist()),
            logits=arrays["logits"],
            labels=arrays["labels"],
            classes=tuple(arrays["classes"].tolist()),
        )
    n, k = len(predictions.ids), len(predictions.classes)
    if n != images or predictions.logits.shape != (n, k) or predictions.labels.shape != (n,):
        raise ValueError(f"it has {n} images of {k} classes, not {images} images")
    if not set(np.unique(predictions.labels)) <= set(range(k)):
        raise ValueError(f"it has labels beyond the {k} classes")
    return predictions


def read_label_issues(path: Path) -> list[dict[str, str]]:
    """Return the first rows of `label_issues.csv`."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if "id" not in (rows.fieldnames or ()):
            raise ValueError("it has no column id")
        return [
            {str(name): str(cell) for name, cell in row.items()}
            for row, _ in zip(rows, range(MAX_LABEL_ISSUES), strict=False)
        ]


def read_lr_curve(path: Path) -> LRCurve:
    """Return the range test of `lr_find.json`."""
    content = json_table(path)
    values = {field.name: content[field.name] for field in fields(LRCurve)}
    for name in ("lrs", "losses", "smoothed"):
        numbers = [math.nan if number is None else float(number) for number in values[name]]
        values[name] = np.array(numbers, dtype=np.float64)
    verdict = values["verdict"]
    values["verdict"] = Verdict(bool(verdict["ok"]), tuple(map(str, verdict["reasons"])))
    values["interval"] = tuple(values["interval"]) if values["interval"] else None
    return LRCurve(**values)
