"""Pictures whose class is told by a name or a table, of each split, to a layout and to images."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from unicodedata import normalize

import numpy as np

from ...errors import UsageError
from ..tree import FOREIGN_SUFFIXES, SourceTree
from .contents import DataLayout, LoadedData, ReadOptions, SplitName
from .images import Pictures, load_pictures
from .picture import MAX_BYTES

CONVERT = "convert them to JPEG or PNG, as by `magick mogrify -format jpg FILES`"

Labels = Mapping[SplitName, Mapping[str, str]]  # of each split: the name of a picture -> its class


@dataclass(frozen=True)
class LabeledPictures:
    """What a reader of names or tables knows before it decodes a picture.

    missing: names of pictures that should be there and are not, or are in a format that is not
    read; missing_reason says which, and remedy what to do.
    may_lack: whether a split may lack a class that train has.
    tables: the files besides the pictures that decide the content.
    """

    labels: Labels
    omissions: Sequence[str] = ()
    missing: Sequence[str] = ()
    missing_reason: str = ""
    remedy: str = ""
    may_lack: bool = False
    tables: Sequence[str] = ()
    objection: str = ""
    notes: Sequence[str] = ()


def natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return names sorted as people count: "2" before "10", and "n2" before "n10"."""

    def key(name: str) -> tuple[list[tuple[int, int, str]], str]:
        parts = re.findall(r"[0-9]+|[^0-9]+", name)  # ASCII alone, which int() always reads
        return [(0, int(p[:18]), "") if "0" <= p[0] <= "9" else (1, 0, p) for p in parts], name

    return tuple(sorted(names, key=key))


def labeled_layout(
    tree: SourceTree, name: str, summary: str, pictures: LabeledPictures
) -> DataLayout:
    """Return the layout of pictures with a class."""
    labels = {  # macOS writes an accent in two letters, where other systems write one
        split: {file: normalize("NFC", word) for file, word in part.items()}
        for split, part in pictures.labels.items()
    }
    pictures = replace(pictures, labels=labels)
    classes = {file: word for part in pictures.labels.values() for file, word in part.items()}
    return DataLayout(
        name,
        summary,
        (*pictures.tables, *pictures.missing, *classes),
        partial(_read, tree, pictures),
        num_pictures=len(classes),
        omissions=tuple(pictures.omissions),
        labels=classes,
        objection=pictures.objection,
        max_bytes=MAX_BYTES,
        pictures=lambda ids: tree.sources(ids, MAX_BYTES),
    )


def foreign_pictures(names: Iterable[str]) -> tuple[list[str], str]:
    """Return the pictures of formats that are not read, and a line on them."""
    foreign = [name for name in names if os.path.splitext(name)[1].lower() in FOREIGN_SUFFIXES]
    kinds = Counter(os.path.splitext(name)[1].lower() for name in foreign)
    listed = " and ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(3))
    return foreign, f"{listed} pictures are in a format that is not read"


def unlabeled_note(tree: SourceTree, folder: str, count: int) -> str:
    """Return the line that says how to use pictures without labels."""
    use = (
        "unpack the archive to classify them"
        if tree.is_archive
        else f"classify them by `resight predict RUN {tree.path(folder)}/*`"
    )
    return f"{folder or tree.root}/ holds {count:,} pictures without labels, left out; {use}"


def box_files(tree: SourceTree) -> str:
    """Return a line on the text or XML files of the same names as the pictures; "" without."""
    stems = {os.path.splitext(name.rpartition("/")[2])[0] for name in tree.pictures}
    for suffix in (".txt", ".xml"):
        beside = [name for name in tree.names if name.endswith(suffix)]
        matching = [
            name for name in beside if name.rpartition("/")[2].removesuffix(suffix) in stems
        ]
        if matching and 2 * len(matching) >= len(stems):
            return (
                f"files such as {tree.path(matching[0])} describe boxes in the pictures, which are "
                "not one label an image"
            )
    return ""


def _read(tree: SourceTree, pictures: LabeledPictures, options: ReadOptions) -> LoadedData:
    notes = list(pictures.notes)
    if pictures.missing:
        shown = ", ".join(str(tree.path(name)) for name in pictures.missing[:3])
        message = f"{pictures.missing_reason} ({shown}{', ...' * (len(pictures.missing) > 3)})"
        if not options.skip_unreadable:
            raise UsageError(
                f"{message}; {pictures.remedy}, or skip them with --skip-unreadable "
                "(skip_unreadable=True)"
            )
        notes.append(f"{message}: skipped")
    classes, class_notes = _classes(pictures, options)
    index = {word: number for number, word in enumerate(classes)}
    numbered = {}
    for split, labels in pictures.labels.items():
        ids = [name for name, word in labels.items() if word in index]
        ids.sort(key=lambda name: (index[labels[name]], name))  # used at once
        numbered[split] = ids, np.array([index[labels[id]] for id in ids], dtype=np.int64)
    names = [name for ids, _ in numbered.values() for name in ids]
    files = Pictures(
        [str(tree.path(name)) for name in names], lambda: tree.sources(names, MAX_BYTES)
    )
    return load_pictures(classes, numbered, files, options=options, notes=(*notes, *class_notes))


def _classes(
    pictures: LabeledPictures, options: ReadOptions
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes, and notes on pictures of others, which are left out.

    Raises:
        UsageError: the splits differ in their classes, and `options` do not say what to do.
    """
    words = {split: frozenset(labels.values()) for split, labels in pictures.labels.items()}
    every = frozenset().union(*words.values())
    _check_twins(every)
    train = words.get("train", every)
    lacking = [
        f"{', '.join(natural_order(a - b)[:5])} {'is' if len(a - b) == 1 else 'are'} in {first}, "
        f"not in {second}"
        for split in words.keys() - {"train"}
        for first, a, second, b in (
            ("train", train, split, words[split]),
            (split, words[split], "train", train),
        )
        if a - b and not (first == "train" and pictures.may_lack)
    ]
    if lacking and options.classes == "same":
        hint = (
            'add pictures, or take the classes of train alone by --classes train (classes="train")'
        )
        if len(train) == 1:
            hint = f"train has one class, {min(train)}: add pictures of each class to it"
        raise UsageError(f"the splits differ in their classes: {'; '.join(lacking)}; {hint}")
    notes = []
    for split, labels in pictures.labels.items():
        others = Counter(word for word in labels.values() if word not in train)
        if others:
            listed = ", ".join(natural_order(others)[:5])
            notes.append(
                f"{split}: {others.total():,} pictures of classes that train lacks were left out: "
                f"{listed}"
            )
        if absent := natural_order(train - words[split]):
            notes.append(f"{split} has no pictures of {', '.join(absent[:5])}")
    return natural_order(train), tuple(notes)


def _check_twins(classes: Iterable[str]) -> None:
    """Refuse classes that differ in case alone; single letters are classes of a script."""
    seen: dict[str, str] = {}
    for word in sorted(classes):
        twin = seen.setdefault(word.strip().casefold(), word)
        if twin != word and len(word.strip()) > 1:
            raise UsageError(
                f"the classes {twin!r} and {word!r} differ in case or spaces alone; give both one "
                "name, and merge them"
            )
