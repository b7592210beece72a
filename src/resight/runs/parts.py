"""The files of a run folder as values. Content that resight has not written raises `DAMAGE`."""

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from ..errors import ResightError
from ..files import atomic_write
from ..lr_finder.suggest import LRCurve
from ..lr_finder.verdict import Verdict
from ..records import EpochRow, FloatArray, Predictions
from .summary import Summary

Value = TypeVar("Value")

# Exceptions of reading a file that is not as it was written.
DAMAGE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, ResightError),
    *(RuntimeError, csv.Error, zipfile.BadZipFile, zlib.error),
)
MAX_LABEL_ISSUES = 30  # rows of label_issues.csv that are read, from the top


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name as a `.npz` file; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it is not a table")
    return content


def read_summary(path: Path) -> Summary:
    """Return the result of a run, from `summary.json`."""
    return _checked(Summary, read_json(path))


def read_rows(path: Path) -> tuple[EpochRow, ...]:
    """Return the rows of `metrics.jsonl`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return _checked(tuple[EpochRow, ...], [json.loads(line) for line in lines])


def read_steps(path: Path) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return learning rate, momentum and training loss of every step, from `steps.npz`."""
    arrays = _read_arrays(path)
    return arrays["lrs"], arrays["momenta"], arrays["losses"]


def read_predictions(path: Path, *, images: int) -> Predictions:
    """Return the predictions in `predictions.npz`, which must be of that many images."""
    arrays = _read_arrays(path)
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
            for row in islice(rows, MAX_LABEL_ISSUES)
        ]


def read_lr_curve(path: Path) -> LRCurve:
    """Return the range test of `lr_find.json`, where null stands for NaN."""
    content = read_json(path)
    values = {field.name: content[field.name] for field in fields(LRCurve)}
    for name in ("lrs", "losses", "smoothed"):
        values[name] = np.array(values[name], dtype=np.float64)  # None becomes NaN
    values["verdict"] = _checked(Verdict, values["verdict"])
    values["interval"] = values["interval"] and tuple(values["interval"])
    return LRCurve(**values)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    # By way of memory: NumPy would leave a damaged file open.
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
        return dict(arrays)


def _checked(kind: type[Value], content: Any) -> Value:
    """Return JSON content as a value of a type; ValueError names the first entry that is wrong."""
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {first['msg']}") from error
