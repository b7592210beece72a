"""The tables of a source that name its pictures, and what each of them says."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...errors import UsageError
from ..tree import SourceTree, is_paper, is_picture, list_folder
from .arrangement import named_split
from .contents import SplitName
from .picture_index import PictureIndex
from .table_columns import LabelColumn, file_column, label_column, named_pictures, split_column
from .table_file import SUFFIXES, Table, read_table

_MAX_TABLES = 20  # in a folder; more are a text beside each picture
_FILLERS = re.compile(r"annotations?|metadata|list|classes|info|split|files?", re.IGNORECASE)


@dataclass(frozen=True)
class LabelTable:
    """What one table says: the rows whose pictures are there, and those that are missing."""

    table: Table
    split: SplitName | None  # by the name of the table or its folder
    pictures: Mapping[int, str]  # row -> name of its picture
    missing: tuple[str, ...]
    column: LabelColumn
    files: int  # the column that names the pictures
    splits: int | None  # the column that names the splits


def candidates(tree: SourceTree) -> list[str]:
    """Return the files that may be tables of labels; a text of a picture's name is of its boxes."""
    stems = {os.path.splitext(name.rpartition("/")[2])[0] for name in tree.pictures}
    by_folder: dict[str, list[str]] = defaultdict(list)
    for name in tree.names:
        folder, _, file = name.rpartition("/")
        if file.lower().endswith(SUFFIXES) and folder.count("/") < 2:
            by_folder[folder].append(name)
    return [
        name
        for names in by_folder.values()
        if len(names) <= _MAX_TABLES
        for name in names
        if "submission" not in name.lower() and not is_paper(name)
        if os.path.splitext(name.rpartition("/")[2])[0] not in stems
    ]


def files_beside(tree: SourceTree) -> SourceTree | None:
    """Return the tree of the files that a table given alone names; None if it names none.

    The folder of the table is listed only if its cells are no paths from there.
    """
    [name] = tree.names
    table = read_table(tree, name, is_picture)
    if table is None:
        return None
    cells = {cell for row in table.rows for cell in row if is_picture(cell)}
    there = [cell for cell in cells if os.path.isfile(tree.root / cell)]  # False for a long one
    if there:
        return replace(tree, names=tuple(sorted([*there, name])))
    return list_folder(tree.root)


def label_tables(tree: SourceTree, names: Sequence[str]) -> list[LabelTable]:
    """Return those of the tables that name pictures of the tree.

    Raises:
        UsageError: a table names pictures that are not there, or is damaged.
    """
    index = PictureIndex(tree.pictures)
    return [table for name in names if (table := _labels(tree, index, name))]


def _labels(tree: SourceTree, index: PictureIndex, name: str) -> LabelTable | None:
    """Return what a table says; None if no column names pictures.

    Raises:
        UsageError: a column should name pictures, and none of them is there.
    """
    table = read_table(tree, name, index.has)
    if table is None:
        return None
    folder, _, file = name.rpartition("/")
    files = file_column(table, index.has)
    if files is None:
        if named := named_pictures(table):
            title, cells = named
            raise UsageError(
                f"column {title} of {tree.path(name)} names pictures such as {cells[0]}, but none "
                f"of them lies in {tree.root}; put them there"
            )
        return None
    words = [_FILLERS.sub("", os.path.splitext(file)[0]), *reversed(folder.split("/"))]
    split = next((split for word in words if (split := named_split(word))), None)
    pictures: dict[int, str] = {}
    missing: list[str] = []
    for row, cells in enumerate(table.rows):
        if picture := index.find_one(cells[files], split, folder):
            pictures[row] = picture
        elif len(several := index.find(cells[files])) > 1:
            first, second = several[:2]
            raise UsageError(
                f"{tree.path(name)} names {cells[files]}, which may be {first} or {second}; write "
                "the path with its folder"
            )
        elif cells[files]:
            missing.append(cells[files])
    splits = split_column(table, files)
    column = label_column(table, files, splits)
    return LabelTable(table, split, pictures, tuple(missing), column, files, splits)
