"""Which column of a table names the pictures, which their class, and which their split."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..splits import split_of
from ..tree import is_picture
from .table_file import Table

# The names of columns without spaces, underscores and case; the first that fits is taken.
_FILES = (
    *("filename", "file", "filepath", "imagepath", "imagefile", "imagefilename", "path", "image"),
    *("img", "imgpath", "imagename", "imgname", "imageid", "imgid", "picture", "photo", "fname"),
    *("id", "name", "uid", "uuid", "key", "idcode"),
)
_LABELS = (
    *("label", "labels", "class", "classname", "target", "category", "labelname", "breed"),
    *("species", "diagnosis", "dx", "classid", "labelid", "categoryid", "categoryname", "y", "tag"),
    *("cls", "genus", "variety", "emotion", "classlabel", "labelclass", "groundtruth", "plantname"),
)
_SPLITS = ("split", "set", "subset", "partition", "usage", "dataset", "phase", "datasettype")
_MANY = 100  # classes from which on each needs two pictures, or the column is no label
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class LabelColumn:
    """How a table tells the class of a row.

    one_hot: the columns of which the one with a 1 is the class; else `column` holds it.
    problem: why no column was taken; the table then has no labels.
    """

    column: int | None = None
    one_hot: tuple[int, ...] = ()
    problem: str = ""


def file_column(table: Table, is_file: Callable[[str], bool]) -> int | None:
    """Return the column that names pictures, or None."""
    sample = table.rows[:: max(1, len(table.rows) // 200)]
    shares = {
        place: sum(is_file(row[place]) for row in sample) / len(sample)
        for place in range(len(table.columns))
    }
    keys = [_key(column) for column in table.columns]
    known = [place for place, key in enumerate(keys) if key in _FILES and shares[place] >= 0.2]
    if known:
        return min(known, key=lambda place: (shares[place] < 0.5, _FILES.index(keys[place])))
    others = [
        place
        for place, share in shares.items()
        if share >= 0.5
        and keys[place] not in (*_LABELS, *_SPLITS)
        # Numbers of classes may also be names of files; those of files do not repeat.
        and len({row[place] for row in sample}) > len(sample) / 2
    ]
    return max(others, key=shares.__getitem__) if others else None


def named_pictures(table: Table) -> tuple[str, list[str]] | None:
    """Return the column that should name pictures by its name, and its cells."""
    for place, column in enumerate(table.columns):
        cells = [row[place] for row in table.rows[:3]]
        if _key(column) in _FILES and all(map(is_picture, cells)):
            return column, cells
    return None


def split_column(table: Table, files: int) -> int | None:
    """Return the column that names the split of each row, or None."""
    for place, column in enumerate(table.columns):
        words = {row[place] for row in table.rows[:1000] if row[place]}
        if place != files and names_splits(column) and words and all(map(split_of, words)):
            return place
    return None


def names_splits(column: str) -> bool:
    """Return whether a column is called as one that names the split of each row."""
    return _key(column) in _SPLITS


def label_column(
    table: Table, files: int, split: int | None, *, wanted: str | None = None
) -> LabelColumn:
    """Return the column of the class, or why there is none."""
    places = [place for place in range(len(table.columns)) if place not in (files, split)]
    columns = ", ".join(table.columns[place] for place in places) or "none besides the file"
    if wanted is not None:
        matching = [place for place in places if table.columns[place] == wanted]
        if matching:
            return LabelColumn(matching[0])
        return LabelColumn(problem=f"{table.name} has no column {wanted!r} (it has {columns})")
    if not table.has_header:
        if files + 1 in places:
            return LabelColumn(files + 1)
        is_before = files - 1 in places and _is_class(table, files - 1)
        return LabelColumn(files - 1 if is_before else None)
    known = [p for p in places if _key(table.columns[p]) in _LABELS and _is_class(table, p)]
    known.sort(key=lambda place: _LABELS.index(_key(table.columns[place])))
    if known:
        same = [place for place in known if _bijective(table, known[0], place)]
        rivals = [place for place in known if place not in same]
        if rivals and _key(table.columns[known[0]]) not in _LABELS[:4]:
            return LabelColumn(problem=_several(table, [known[0], *rivals]))
        # Of a number and a word for the same class, take the word.
        return LabelColumn(next((place for place in same if _has_words(table, place)), known[0]))
    flags = _flags(table, places)
    if len(flags) > 1 and len(flags) == len(places):
        counts = [sum(row[place].startswith("1") for place in flags) for row in table.rows]
        if set(counts) == {1}:
            return LabelColumn(one_hot=flags)
        several = sum(count != 1 for count in counts)
        return LabelColumn(
            problem=f"{several:,} rows of {table.name} have none or several of the labels "
            f"{columns}; give one label a picture"
        )
    few = [place for place in places if _is_class(table, place)]
    if len(few) == 1:
        return LabelColumn(few[0])
    if few:
        return LabelColumn(problem=_several(table, few))
    return LabelColumn(problem=_no_class(table, places, columns))


def _several(table: Table, places: Sequence[int]) -> str:
    columns = ", ".join(table.columns[place] for place in places)
    return (
        f"{table.name} has several columns that may be the label ({columns}); choose one by "
        f'--set data.label_column={table.columns[places[0]]} (label_column="...")'
    )


def _no_class(table: Table, places: Sequence[int], columns: str) -> str:
    labels = [place for place in places if _key(table.columns[place]) in _LABELS]
    if not places:
        return f"{table.name} has no column of labels"
    if not labels:
        return f"no column of {table.name} is a label (besides the file it has: {columns})"
    place = labels[0]
    words = {row[place] for row in table.rows}
    if len(words) == 1:
        return f"column {table.columns[place]} of {table.name} holds one class, {min(words)!r}"
    return (
        f"column {table.columns[place]} of {table.name} holds {len(words):,} different values in "
        f"{len(table.rows):,} rows, so they are measurements or texts, not classes"
    )


def _flags(table: Table, places: Sequence[int]) -> tuple[int, ...]:
    """Return the columns of 0 and 1."""
    words = {"0", "1", "0.0", "1.0"}
    return tuple(place for place in places if words.issuperset(row[place] for row in table.rows))


def _is_class(table: Table, place: int) -> bool:
    """Whether a column has few values, and they are no measurements."""
    counts = Counter(row[place] for row in table.rows if row[place])
    if len(counts) < 2:
        return False
    if any(_NUMBER.fullmatch(word) and float(word) % 1 for word in counts):
        return False
    return 2 * len(counts) <= counts.total() or (len(counts) < _MANY and counts.total() < 20)


def _has_words(table: Table, place: int) -> bool:
    return not any(_NUMBER.fullmatch(row[place]) for row in table.rows)


def _bijective(table: Table, first: int, second: int) -> bool:
    pairs = {(row[first], row[second]) for row in table.rows}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def _key(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.lower())
