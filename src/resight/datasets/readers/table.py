"""A table of file and label beside the pictures, or lists of the files of each split."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from ...errors import UsageError
from ..splits import split_of
from ..tree import SourceTree
from .arrangement import Role, arrange, says_no_class
from .contents import SPLIT_NAMES, DataLayout, LoadedData, ReadOptions, SplitName
from .folder import class_folders
from .label_tables import LabelTable, candidates, files_beside, label_tables
from .labeled import LabeledPictures, labeled_layout, unlabeled_note
from .picture import MAX_BYTES
from .table_columns import label_column
from .table_file import MAX_BYTES as TABLE_BYTES
from .table_file import SUFFIXES

_SHEETS = (".xlsx", ".xls", ".ods")


def find(tree: SourceTree) -> DataLayout | None:
    """Recognize tables whose cells name pictures, in a folder or given themselves.

    Raises:
        UsageError: a table names pictures that are not there, has no column of labels, or gives a
            picture two labels; or there is a spreadsheet in place of a table.
    """
    is_alone = not tree.source.is_dir() and not tree.is_archive
    if is_alone and not tree.names[0].lower().endswith(SUFFIXES):
        return None
    beside = files_beside(tree) if is_alone else tree
    if beside is None:
        return None
    tables = label_tables(beside, tree.names if is_alone else candidates(tree))
    sheets = [name for name in tree.names if name.lower().endswith(_SHEETS)]
    if sheets and not tables:
        raise UsageError(
            f"{tree.path(sheets[0])} is a spreadsheet, which is not read; save it as CSV with the "
            "columns file and label"
        )
    return _layout(beside, tables) if tables else None


def _layout(tree: SourceTree, tables: list[LabelTable]) -> DataLayout | None:
    chosen = _chosen([t for t in tables if not t.column.problem])
    if not chosen:
        most = max(tables, key=lambda t: len(t.pictures))
        return DataLayout(
            "table",
            f"{_listed(tables)}; the class is the column that data.label_column names",
            (*(t.table.name for t in tables), *most.pictures.values()),
            partial(_read, tree, tables, None),
            num_pictures=len(most.pictures),
            objection=most.column.problem,
            max_bytes=MAX_BYTES,
            pictures=lambda ids: tree.sources(ids, MAX_BYTES),
        )
    labels = _with_words(tree, _with_folders(tree, _by_split(tree, chosen)))
    if not labels:  # lists of files that are in no class folder
        return None
    missing = [name for t in chosen for name in t.missing]
    pictures = LabeledPictures(
        labels,
        omissions=_lines_on_rest(tree, labels, tables, chosen),
        missing=missing,
        missing_reason=f"{len(missing):,} rows of {_listed(chosen)} name pictures that are missing",
        remedy="add them",
        may_lack=True,
        tables=[t.table.name for t in chosen],
        notes=[note for t in chosen for note in t.table.notes],
    )
    layout = labeled_layout(tree, "table", _summary(chosen), pictures)
    return replace(layout, read=partial(_read, tree, tables, layout.read))


def _read(
    tree: SourceTree,
    tables: list[LabelTable],
    read: Callable[[ReadOptions], LoadedData] | None,
    options: ReadOptions,
) -> LoadedData:
    """Read by the columns that were recognized, or by the one that the options name."""
    if options.label_column is not None:
        named = [
            replace(t, column=label_column(t.table, t.files, t.splits, wanted=options.label_column))
            for t in tables
        ]
        if all(t.column.problem for t in named):
            raise UsageError(f"{tree.root}: {named[0].column.problem}")
        if layout := _layout(tree, named):
            return layout.read(replace(options, label_column=None))
    if read is None:
        raise UsageError(f"{tree.root}: {tables[0].column.problem}")
    return read(options)


# --- the labels of pictures -----------------------------------------------------------------


def _chosen(tables: list[LabelTable]) -> list[LabelTable]:
    """Return the tables to take: the largest of each split or, without train, the largest of all.

    A table of the test images alone has pictures of train from class folders, see `_with_folders`.
    """
    best: dict[SplitName | None, LabelTable] = {}
    for table in tables:
        if not table.pictures:
            continue
        other = best.get(table.split)
        if other is None or len(table.pictures) > len(other.pictures):
            best[table.split] = table
    if None in best and "train" not in best:
        return [best[None]]
    return [best[split] for split in SPLIT_NAMES if split in best]


def _by_split(tree: SourceTree, chosen: list[LabelTable]) -> dict[SplitName, dict[str, str]]:
    """Return the class of each picture, by split: of the row, the table, or the picture's folder.

    Raises:
        UsageError: a picture has two labels or is in two splits.
    """
    labels: dict[SplitName, dict[str, str]] = {}
    seen: dict[str, tuple[str, str]] = {}
    for table in chosen:
        for row, name in table.pictures.items():
            word = _word(table, row, name)
            if not word:
                continue
            split = table.split or _split_of_row(table, row, name)
            if split not in SPLIT_NAMES:
                continue
            if seen.setdefault(name, (split, word)) != (split, word):
                first = " in ".join(reversed(seen[name]))
                raise UsageError(
                    f"{tree.path(table.table.name)} gives {name} twice, as {first} and as {word} "
                    f"in {split}; leave one row"
                )
            labels.setdefault(split, {})[name] = word
    return labels


def _word(table: LabelTable, row: int, name: str) -> str:
    """Return the class of a row; "" if it has none."""
    cells = table.table.rows[row]
    if table.column.one_hot:
        return next(table.table.columns[p] for p in table.column.one_hot if cells[p][:1] == "1")
    if table.column.column is None:  # a list of files: the folder of a picture is its class
        folder = name.rpartition("/")[0].rpartition("/")[2]
        return "" if says_no_class(folder) else folder
    return re.sub(r"^(-?\d+)\.0+$", r"\1", cells[table.column.column])


def _split_of_row(table: LabelTable, row: int, name: str) -> Role | None:
    if table.splits is not None:
        return split_of(table.table.rows[row][table.splits])
    parts = name.split("/")[:-1]
    return next((split for part in parts if (split := split_of(part))), "train")


def _with_folders(
    tree: SourceTree, labels: dict[SplitName, dict[str, str]]
) -> dict[SplitName, dict[str, str]]:
    """Return the labels; where no table has train, with those of its class folders."""
    arrangement = arrange(tree)
    if "train" not in labels and arrangement.is_divided and "train" in arrangement.folders:
        classes, _ = class_folders(tree, arrangement, "train")
        labels["train"] = {name: word for word, names in classes.items() for name in names}
    return {split: labels[split] for split in SPLIT_NAMES if labels.get(split)}


def _with_words(
    tree: SourceTree, labels: dict[SplitName, dict[str, str]]
) -> dict[SplitName, dict[str, str]]:
    """Return the labels with the first word of each from `words.txt`, as Tiny ImageNet has it."""
    if "words.txt" not in tree.names or "wnids.txt" not in tree.names:
        return labels
    text = tree.read("words.txt", TABLE_BYTES).decode("utf-8", "replace")
    lines = (line.partition("\t") for line in text.splitlines())
    words = {key: meaning.partition(",")[0].strip() for key, _, meaning in lines}
    used = {word for part in labels.values() for word in part.values()}
    names = {word: words.get(word, "") for word in used}
    if "" in names.values() or len({*names.values()}) < len(names):
        return labels
    return {split: {k: names[word] for k, word in part.items()} for split, part in labels.items()}


# --- what is said ---------------------------------------------------------------------------


def _listed(tables: list[LabelTable]) -> str:
    return ", ".join(t.table.name for t in tables)


def _summary(chosen: list[LabelTable]) -> str:
    first = chosen[0]
    column = first.column
    if column.one_hot:
        label = f"the class is the column with a 1 ({len(column.one_hot)} columns)"
    elif column.column is None:
        label = "the class is the folder of a picture"
    else:
        label = f"the class is column {first.table.columns[column.column].removeprefix('column ')}"
    picture = first.table.columns[first.files].removeprefix("column ")
    if first.splits is not None:
        label += f", the split is column {first.table.columns[first.splits]}"
    return f"{_listed(chosen)}; the picture is column {picture}, {label}"


def _lines_on_rest(
    tree: SourceTree,
    labels: Mapping[SplitName, Mapping[str, str]],
    tables: list[LabelTable],
    chosen: list[LabelTable],
) -> list[str]:
    lines = [
        f"{t.table.name} was not used" + (f": {t.column.problem}" if t.column.problem else "")
        for t in tables
        if t not in chosen
    ]
    taken = {name for part in labels.values() for name in part}
    rest = Counter(name.rpartition("/")[0] for name in tree.pictures if name not in taken)
    for folder, count in [*rest.items()][:5]:
        if split_of(folder.partition("/")[0]) and not any(
            n.startswith(f"{folder}/") for n in taken
        ):
            lines.append(unlabeled_note(tree, folder, count))
        else:
            lines.append(
                f"pictures of {folder or tree.root}/ without a label in a table: {count:,}"
            )
    return lines
