"""Tables as people keep them: CSV with any separator, TSV, JSON, lists; all cells as text."""

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import UsageError
from ..tree import SourceTree

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt", ".lst")
MAX_BYTES = 2**28
_SEPARATORS = (",", ";", "\t", "|")
_MAX_COLUMNS = 200  # more are pixels


@dataclass(frozen=True)
class Table:
    """Rows of cells, as many in each row as there are columns.

    has_header: whether the file names its columns; else they are "column 1", "column 2", ...
    """

    name: str
    columns: tuple[str, ...]
    rows: list[list[str]]
    has_header: bool
    notes: tuple[str, ...] = ()


def read_table(tree: SourceTree, name: str, is_file: Callable[[str], bool]) -> Table | None:
    """Return a table; None if the file is no table.

    is_file: whether a cell names a picture; a first row with such a cell is no header.

    Raises:
        UsageError: the file cannot be read, or is damaged.
    """
    path = tree.path(name)
    try:
        content = tree.read(name, MAX_BYTES)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    text, notes = _decode(content, path)
    lines = text.splitlines()
    if not any(line.strip() for line in lines[:100]):
        return None
    suffix = os.path.splitext(name)[1].lower()
    if suffix in (".jsonl", ".ndjson"):
        return _of_records(name, _json_lines(lines, path), notes)
    if suffix == ".json":
        return _json(name, text, is_file, notes)
    if max(map(lines[0].count, _SEPARATORS)) > _MAX_COLUMNS:
        return None
    try:
        rows = _rows(text, lines, suffix, is_file)
    except csv.Error as error:
        raise UsageError(f"{path} is a damaged table ({error}); write it anew as CSV") from error
    rows = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    width = max(map(len, rows), default=0)
    has_header = bool(rows) and not any(map(is_file, rows[0]))
    columns = rows.pop(0) if has_header else []
    columns += [f"column {place + 1}" for place in range(len(columns), width)]
    if not rows:
        return None
    padded = [row + [""] * (width - len(row)) for row in rows]
    return Table(name, tuple(columns), padded, has_header, notes)


def _decode(content: bytes, path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the text of a table, and a note if it is in no form of Unicode."""
    notes: tuple[str, ...] = ()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", errors="replace")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
            notes = (f"{path.name} is not UTF-8, so it was read as Latin-1",)
    if "\0" in text:
        raise UsageError(f"{path} is no text (it holds NUL characters); write it anew as CSV")
    return text, notes


def _rows(
    text: str, lines: list[str], suffix: str, is_file: Callable[[str], bool]
) -> list[list[str]]:
    first = next((line for line in lines if line.strip() and not line.startswith("#")), None)
    if first is None:  # comments alone
        return []
    counts = {separator: first.count(separator) for separator in _SEPARATORS}
    separator = max(counts, key=counts.__getitem__)
    while lines[0].startswith("#") and lines[0].count(separator) != counts[separator]:
        lines = lines[1:]
        text = text.partition("\n")[2]
    if suffix in (".txt", ".lst"):
        lines = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if is_file(first.strip()):
            return [[line] for line in lines]
        if not counts[separator]:  # "path label", where the path may have spaces
            pairs = [line.rsplit(None, 1) for line in lines]
            if is_file(pairs[0][0]):
                return pairs
            return [line.split() for line in lines]
        text = "\n".join(lines)
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))


def _json(
    name: str, text: str, is_file: Callable[[str], bool], notes: tuple[str, ...]
) -> Table | None:
    """Return the table of `{"1.png": "cat", ...}` or of `[{"file": "1.png", ...}, ...]`."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):  # it may be of any program
        return None
    if isinstance(content, dict) and any(map(is_file, content)):
        rows = [[key, _cell(value)] for key, value in content.items()]
        return Table(name, ("file", "label"), rows, True, notes)
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        return _of_records(name, content, notes)
    return None


def _json_lines(lines: list[str], path: Path) -> list[dict[str, object]]:
    records: list[dict[str, object]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path} line {number} is no JSON; mend or remove the line") from error
        if not isinstance(record, dict):
            raise UsageError(f"{path} line {number} is no JSON object; write one on each line")
        records.append(record)
    return records


def _of_records(
    name: str, records: Sequence[Mapping[str, object]], notes: tuple[str, ...]
) -> Table:
    columns = tuple(dict.fromkeys(key for record in records for key in record))
    rows = [[_cell(record.get(column)) for column in columns] for record in records]
    return Table(name, columns, rows, True, notes)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value)
