"""The files of a run folder as values. Content that resight has not written raises `DAMAGE`."""

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from ..errors import ResightError
from ..files import (
    atomic_write,
    json_text,
    read_bytes,
    read_csv,
    read_text,
    write_csv,
    write_text,
)
from ..lr_finder.suggest import LRCurve
from ..records import EpochRow, FloatArray, History, Predictions
from .summary import Summary

Value = TypeVar("Value")

# Exceptions of reading a file that is not as it was written.
DAMAGE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, ResightError),
    *(RuntimeError, ArithmeticError, MemoryError, csv.Error, zipfile.BadZipFile, zlib.error),
)
MAX_ARRAY_BYTES = 2**32  # of the arrays in a file, packed or not
MAX_NUMBER = 1e40  # a loss is a float32, and below 3.5e38
MAX_LABEL_ISSUES = 10_000  # rows of label_issues.csv that are read, from the top


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name as a `.npz` file; the same arrays give the same bytes.

    NumPy compresses at level 6, which takes 8 times as long for logits and saves 2 % more of them.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file."""
    content = parse_json(read_text(path))
    if not isinstance(content, dict):
        raise ValueError("it is not a table")
    return content


def parse_json(text: str) -> Any:
    """Return JSON as plain Python; a number that no run can have is a ValueError."""
    return json.loads(text, parse_float=_number, parse_int=_whole, parse_constant=_number)


def _number(text: str) -> float:
    value = float(text)
    if not abs(value) <= MAX_NUMBER:
        raise ValueError(f"it has the number {text[:20]}")
    return value


def _whole(text: str) -> int:
    _number(text)
    return int(text)


def read_summary(path: Path) -> Summary:
    """Return the result of a run, from `summary.json`."""
    return checked(Summary, read_json(path))


def read_rows(path: Path) -> tuple[EpochRow, ...]:
    """Return the rows of `metrics.jsonl`."""
    return checked(tuple[EpochRow, ...], [parse_json(x) for x in read_text(path).splitlines()])


def read_steps(path: Path) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return learning rate, momentum and training loss of every step, from `steps.npz`."""
    arrays = read_arrays(path)
    return arrays["lrs"], arrays["momenta"], arrays["losses"]


def write_history(folder: Path, history: History) -> None:
    """Write `metrics.jsonl`, `metrics.csv` and `steps.npz`, for `read_rows` and `read_steps`."""
    rows = [asdict(row) for row in history.epochs]
    lines = "".join(json_text(row, ascii_only=True) + "\n" for row in rows)
    write_text(folder / "metrics.jsonl", lines)
    steps = {"lrs": history.lrs, "momenta": history.momenta, "losses": history.losses}
    write_arrays(folder / "steps.npz", steps)
    if rows:
        table = [list(rows[0]), *(list(row.values()) for row in rows)]
        write_csv(folder / "metrics.csv", table)


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write the logits, labels, ids and classes of predictions, for `read_predictions`."""
    arrays = {
        "ids": np.array([*predictions.ids], dtype=np.str_),
        "classes": np.array(predictions.classes, dtype=np.str_),
        "labels": predictions.labels,
        "logits": predictions.logits,
    }
    write_arrays(path, arrays)


def read_predictions(path: Path, *, images: int) -> Predictions:
    """Return the predictions in `predictions.npz`, which must be of that many images."""
    arrays = read_arrays(path)
    kinds = {"ids": "U", "classes": "U", "labels": "i", "logits": "f"}
    if any(arrays[name].dtype.kind != kind for name, kind in kinds.items()):
        raise ValueError("its arrays are not text, whole numbers and numbers")
    if not (arrays["ids"].ndim == arrays["classes"].ndim == 1):
        raise ValueError("its ids or classes are not a list")
    predictions = Predictions(
        ids=tuple(arrays["ids"].tolist()),
        logits=arrays["logits"],
        labels=arrays["labels"],
        classes=tuple(arrays["classes"].tolist()),
    )
    n, k = len(predictions.ids), len(predictions.classes)
    if n != images or predictions.logits.shape != (n, k) or predictions.labels.shape != (n,):
        raise ValueError(f"it has {n} images of {k} classes, not {images} images")
    if not np.isfinite(predictions.logits).all():
        raise ValueError("it has logits that are not finite")
    if not set(np.unique(predictions.labels)) <= set(range(k)):
        raise ValueError(f"it has labels beyond the {k} classes")
    return predictions


def read_label_issues(path: Path) -> list[dict[str, str]]:
    """Return the first rows of `label_issues.csv`."""
    header, *rows = read_csv(path) or [[]]
    if "id" not in header:
        raise ValueError("it has no column id")
    return [dict(zip(header, row, strict=True)) for row in rows[:MAX_LABEL_ISSUES]]


def read_lr_curve(path: Path) -> LRCurve:
    """Return the range test of `lr_find.json`, where null stands for NaN."""
    content, hints = read_json(path), get_type_hints(LRCurve)
    arrays = ("lrs", "losses", "smoothed")
    values: dict[str, Any] = {
        # None becomes NaN
        name: np.array(content[name], dtype=np.float64) if name in arrays else checked(hint, value)
        for name, hint in hints.items()
        for value in [content[name]]
    }
    curve = LRCurve(**values)
    shapes = {getattr(curve, name).shape for name in arrays}
    rates = curve.lrs
    if shapes != {(rates.size,)} or not (np.isfinite(rates).all() and (rates > 0).all()):
        raise ValueError("its rates and losses are not lists of one length, with rates above 0")
    if np.isnan(curve.smoothed[np.isfinite(curve.losses)]).any():
        raise ValueError("it has losses without smoothed ones")
    return curve


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a `.npz` file by name."""
    # By way of memory: NumPy would leave a damaged file open.
    content = io.BytesIO(read_bytes(path, MAX_ARRAY_BYTES))
    with zipfile.ZipFile(content) as members:
        check_unpacked_size(members, MAX_ARRAY_BYTES)
    with np.load(content, allow_pickle=False) as arrays:
        return dict(arrays)


def check_unpacked_size(members: zipfile.ZipFile, max_bytes: int) -> None:
    """Refuse a zip file whose members are larger than `max_bytes` in all, before they are read."""
    size = sum(member.file_size for member in members.infolist())
    if size > max_bytes:
        raise ValueError(f"its arrays have {size:,} bytes, more than {max_bytes:,}")


def checked(kind: type[Value], content: Any) -> Value:
    """Return JSON content as a value of a type; ValueError names the first entry that is wrong."""
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {first['msg']}") from error
