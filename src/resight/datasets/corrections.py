"""Corrections of a data set: labels that are replaced, and images that are left out, by id.

The tables are CSV, as a spreadsheet writes it. Their ids are those of `mistakes.csv`,
`label_issues.csv` and every message: the file or the row that an image came from.
"""

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..errors import UsageError, suggest
from ..files import as_written, parse_csv, read_text
from .dataset import Dataset, Split

_MAX_COMPARED = 5_000  # ids that a wrong one is compared with


def corrected(
    dataset: Dataset,
    *,
    relabel: str | Path | Mapping[str, str] | None = None,
    exclude: str | Path | Collection[str] | None = None,
) -> Dataset:
    """Return a data set with other labels for some images, and without some others.

    relabel: the class of each id; or a CSV file with the columns id and label, in which a row
    without a label changes nothing. exclude: the ids; or a CSV file with the column id, or with
    nothing but ids. Training, validation and test images are corrected alike, and the notes count
    the changes. Which images are in which split stays as it was.

    Raises:
        UsageError: an id is not in the data, a class is unknown, an id has two labels, or nothing
            is left of a class or a split.
    """
    places = _places(dataset)
    labels, label_origin = _labels(relabel, dataset.classes)
    ids, id_origin = _ids(exclude, places)
    _check_ids(labels, places, label_origin)
    _check_ids(ids, places, id_origin)
    excluded = set(ids)
    splits: dict[str, Split] = {}
    changes: dict[str, Counter[tuple[str, str]]] = {}
    for name, split in dataset.splits.items():
        keys = [as_written(id) for id in split.ids]
        kept = torch.tensor([row for row, key in enumerate(keys) if key not in excluded])
        splits[name], changes[name] = _relabeled(split.select(kept.long()), labels, dataset.classes)
    _check_left(splits, dataset.classes, id_origin or label_origin)
    notes = [*_relabel_notes(changes, labels, label_origin)]
    if excluded:
        counts = {name: len(dataset.splits[name]) - len(split) for name, split in splits.items()}
        notes.append(f"images that {id_origin} leaves out: {len(excluded):,} ({_by_split(counts)})")
    return replace(
        dataset,
        train=splits["train"],
        val=splits.get("val"),
        test=splits["test"],
        notes=(*dataset.notes, *notes),
    )


def _places(dataset: Dataset) -> dict[str, str]:
    """Return the split of each id, as tables have it; "" where several images share the id."""
    places: dict[str, str] = {}
    for name, split in dataset.splits.items():
        for id in split.ids:
            key = as_written(id)
            places[key] = "" if key in places else name
    return places


def _relabeled(
    split: Split, labels: Mapping[str, str], classes: Sequence[str]
) -> tuple[Split, Counter[tuple[str, str]]]:
    """Return a split with its new labels, and how often which class became which."""
    numbers, new = {name: k for k, name in enumerate(classes)}, split.labels.clone()
    pairs: Counter[tuple[str, str]] = Counter()
    for row, id in enumerate(split.ids):
        label = labels.get(as_written(id))
        before = classes[int(new[row])] if label is not None else None
        if label is not None and before is not None and label != before:
            new[row] = numbers[label]
            pairs[before, label] += 1
    return replace(split, labels=new), pairs


# --- tables ---------------------------------------------------------------------------------


def _labels(
    relabel: str | Path | Mapping[str, str] | None, classes: Sequence[str]
) -> tuple[dict[str, str], str]:
    """Return the new class of each id, and where it was given."""
    if relabel is None or isinstance(relabel, Mapping):
        labels, origin = {as_written(id): label for id, label in (relabel or {}).items()}, "relabel"
    else:
        labels, origin = _read_labels(Path(relabel)), Path(relabel).name
    for id, label in labels.items():
        if label not in classes:
            known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
            raise UsageError(
                f"{origin} gives {id!r} the label {label!r}, which is no class of the data"
                f"{suggest(label, classes) or f'; the classes are {known}'}"
            )
    return labels, origin


def _read_labels(path: Path) -> dict[str, str]:
    header, *rows = _read_rows(path) or [[]]
    names = [cell.strip().lower() for cell in header]
    if not {"id", "label"} <= set(names):
        raise UsageError(
            f"{path} has the columns {', '.join(header) or '(none)'}; it needs id and label, with "
            "the right class in label, or nothing where the label stays"
        )
    id_column, label_column = names.index("id"), names.index("label")
    labels: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        if not any(row):
            continue
        if len(row) <= max(id_column, label_column):
            raise UsageError(
                f"row {number} of {path} has {len(row)} cells, but the header has {len(header)}; "
                "write both id and label"
            )
        id, label = row[id_column], row[label_column].strip()
        if not label:
            continue
        if labels.setdefault(id, label) != label:
            raise UsageError(
                f"row {number} of {path} gives {id!r} the label {label!r}, but a row above gives "
                f"it {labels[id]!r}; keep one of them"
            )
    return labels


def _ids(
    exclude: str | Path | Collection[str] | None, known: Mapping[str, str]
) -> tuple[list[str], str]:
    """Return the ids to leave out, and where they were given."""
    if exclude is None:
        return [], ""
    if not isinstance(exclude, str | Path):
        return list(dict.fromkeys(map(as_written, exclude))), "exclude"
    path = Path(exclude)
    lines = [line.rstrip("\r") for line in _read(path).split("\n") if line.strip()]
    if lines and lines[0] in known:  # a list of ids, which may hold any separator
        return list(dict.fromkeys(lines)), path.name
    rows = _read_rows(path)
    names = [cell.strip().lower() for cell in rows[0]] if rows else []
    first = rows[0][0] if rows and rows[0] else ""
    if "id" not in names and first not in known:
        raise UsageError(
            f"{path} has no column id, and {first!r} is no id of the data"
            f"{_nearest_id(first, known)}; give a table with a column id, or a list of ids"
        )
    column = names.index("id") if "id" in names else 0
    rows = rows[1:] if "id" in names else rows
    return list(dict.fromkeys(row[column] for row in rows if len(row) > column)), path.name


def _read_rows(path: Path) -> list[list[str]]:
    """Return the rows of a table, whose cells a comma, a semicolon or a tab separates."""
    text = _read(path)
    head = text.partition("\n")[0]
    try:
        return parse_csv(text, max(",;\t", key=head.count))
    except csv.Error as error:
        raise UsageError(f"{path} is no CSV file: {error}; save the table as CSV") from error


def _read(path: Path) -> str:
    try:
        return read_text(path).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8; save the table as CSV in UTF-8") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; give another path") from error


# --- what may be wrong ----------------------------------------------------------------------


def _check_ids(ids: Iterable[str], places: Mapping[str, str], origin: str) -> None:
    for id in ids:
        if id not in places:
            raise UsageError(
                f"{origin} has the id {id!r}, which no image of the data has"
                f"{_nearest_id(id, places)}"
            )
        if not places[id]:
            raise UsageError(
                f"{origin} has the id {id!r}, which several images of the data have; make the ids "
                "of the data differ first"
            )


def _nearest_id(id: str, known: Iterable[str]) -> str:
    """Return a hint at the id that was meant: of the same file, else one that is written alike."""
    if not id:
        return ""
    same = (other for other in known if other.endswith(f"/{id}") or id.endswith(f"/{other}"))
    if other := next(same, None):
        return f'; did you mean "{other}"?'
    likely = sorted(known, key=lambda other: abs(len(other) - len(id)))[:_MAX_COMPARED]
    return suggest(id, likely)


def _check_left(splits: Mapping[str, Split], classes: Sequence[str], origin: str) -> None:
    for name, split in splits.items():
        if not len(split):
            raise UsageError(f"{origin} leaves no {name} image; leave out fewer")
    counts = torch.bincount(splits["train"].labels, minlength=len(classes)).tolist()
    if 0 in counts:
        raise UsageError(
            f"{origin} leaves no training image of class {classes[counts.index(0)]!r}; keep one, "
            "or remove the class from the data"
        )


# --- notes ----------------------------------------------------------------------------------


def _relabel_notes(
    changes: Mapping[str, Counter[tuple[str, str]]], labels: Mapping[str, str], origin: str
) -> Iterable[str]:
    """Say how many labels changed, from what to what, and that test labels are among them."""
    if not labels:
        return
    pairs = sum(changes.values(), Counter[tuple[str, str]]())
    counts = {name: changed.total() for name, changed in changes.items()}
    common = [f"{count:,} from {a} to {b}" for (a, b), count in pairs.most_common(3)]
    more = [f"{len(pairs) - 3} further pairs"] if len(pairs) > 3 else []
    text = f"labels that {origin} changes: {pairs.total():,}"
    if pairs:
        text += f" ({_by_split(counts)}); {', '.join([*common, *more])}"
    same = len(labels) - pairs.total()
    yield text + (f"; as they were before: {same:,}" if same else "")
    if counts.get("test"):
        yield (
            f"test labels are among them ({counts['test']:,}), so compare the accuracy only with "
            "runs on the same labels"
        )


def _by_split(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
