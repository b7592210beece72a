"""Which classes count where the splits of a source do not have the same."""

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import torch

from ...errors import UsageError
from ..dataset import Split
from ..tree import SourceTree
from .contents import LoadedData, ReadOptions, SplitName

_NAME_FILES = ("classes.txt", "class_names.txt", "label_names.txt", "names.txt", "classnames.txt")
_MAX_NAME_BYTES = 2**20


def keep_trained_classes(loaded: LoadedData, options: ReadOptions) -> LoadedData:
    """Return the data as `options.classes` says, if classes without training images exist.

    "same" refuses images of a class that has none in train; "train" leaves them out, and the class.
    A class without a single image is left to the caller, who may name it.

    Raises:
        UsageError: a split has a class that train lacks.
    """
    if loaded.train is None:
        return loaded
    in_train = torch.zeros(len(loaded.classes), dtype=torch.bool)
    in_train[loaded.train.labels] = True
    if in_train.all():
        return loaded
    if options.classes == "same":
        for name, split in loaded.splits.items():
            absent = split.labels[~in_train[split.labels]]
            if len(absent):
                label = loaded.classes[int(absent[0])]
                raise UsageError(
                    f"{name} has images of class {label!r}, and train has none; add some, or leave "
                    "such classes out with --classes train (classes='train')"
                )
        return loaded
    numbers = in_train.cumsum(0) - 1  # of each class among those in train
    kept: dict[SplitName, Split] = {}
    for name, split in loaded.splits.items():
        part = split.select(in_train[split.labels].nonzero().flatten())
        kept[name] = replace(part, labels=numbers[part.labels])
    absent_names = [
        word for word, there in zip(loaded.classes, in_train.tolist(), strict=True) if not there
    ]
    lost = sum(map(len, loaded.splits.values())) - sum(map(len, kept.values()))
    note = f"classes without training images were left out: {', '.join(absent_names[:8])}"
    return replace(
        loaded.with_splits(kept),
        classes=tuple(word for word in loaded.classes if word not in absent_names),
        notes=(*loaded.notes, f"{note} ({lost:,} images)"),
    )


@dataclass(frozen=True)
class NamesFile:
    """The file that names the classes, if there is one, and the names; None without one."""

    files: tuple[str, ...] = ()
    names: tuple[str, ...] | None = None


def names_beside(tree: SourceTree) -> NamesFile:
    """Return the text file that names the classes, a line each.

    A number before each name, counting up, is left out.

    Raises:
        UsageError: it is no text.
    """
    files = [name for name in tree.names if PurePosixPath(name).name.lower() in _NAME_FILES]
    if len(files) != 1:
        return NamesFile()
    try:
        text = tree.read(files[0], _MAX_NAME_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{tree.path(files[0])} is no text in UTF-8; save it as such") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    numbered = [re.fullmatch(r"(\d+)[\s,:;]+(.+)", line) for line in lines]
    numbers = [int(match[1]) for match in numbered if match]
    if numbers in ([*range(len(lines))], [*range(1, len(lines) + 1)]):
        lines = [match[2] for match in numbered if match]
    return NamesFile((files[0],), tuple(lines))
