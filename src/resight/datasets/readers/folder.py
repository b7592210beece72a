"""Pictures in a folder for each class, with or without splits."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from typing import NoReturn

from ...errors import UsageError
from ..splits import split_of
from ..tree import SourceTree
from .arrangement import (
    Arrangement,
    Role,
    are_parts,
    arrange,
    by_class,
    is_annotation,
    says_no_class,
)
from .contents import SPLIT_NAMES, DataLayout, SplitName, in_split_order
from .labeled import (
    CONVERT,
    LabeledPictures,
    box_files,
    foreign_pictures,
    labeled_layout,
    natural_order,
    unlabeled_note,
)

Classes = dict[str, list[str]]  # class -> names of its pictures


def find(tree: SourceTree) -> DataLayout | None:
    """Recognize `train/cat/1.png` and `test/cat/2.png`, or `cat/1.png` alone.

    Raises:
        UsageError: there are pictures, but not in class folders, or a class folder is empty.
    """
    foreign, foreign_reason = foreign_pictures(tree.names)
    if not tree.pictures and not foreign and not tree.empty_folders:
        return None
    arrangement = arrange(tree)
    splits = splits_inside_classes(tree, arrangement)
    omissions: list[str] = []
    if splits is None:
        splits, omissions = _class_folders(tree, arrangement)
    if "train" not in splits and ("train" in arrangement.folders or not splits):
        _refuse(tree, arrangement)
    if "train" in splits:
        _check_empty(tree, arrangement, splits, foreign)
    labels = {
        split: {name: word for word, names in classes.items() for name in names}
        for split, classes in splits.items()
    }
    summary = "a folder a class"
    if arrangement.is_divided:
        summary += "; " + ", ".join(
            f"{split} is {_shown(arrangement.folders[split])}" for split in splits
        )
    elif len(splits) > 1:
        summary += f", each divided into {', '.join(splits)}"
    elif root := arrangement.folders["train"]:
        summary += f" in {root}/"
    pictures = LabeledPictures(
        labels,
        omissions=[*omissions, *arrangement.omissions, *_others(tree)],
        missing=foreign,
        missing_reason=foreign_reason,
        remedy=CONVERT,
        objection=_objection(tree, arrangement, splits),
    )
    return labeled_layout(tree, "folders", summary, pictures)


def class_folders(
    tree: SourceTree, arrangement: Arrangement, split: Role
) -> tuple[Classes, list[str]]:
    """Return the pictures of each class of a split, and those of none.

    If most lie in no class folder, there are no classes.
    """
    folders, direct = by_class(tree, arrangement, split)
    unnamed = len(folders) == 1 and says_no_class(next(iter(folders)))
    count = sum(map(len, folders.values()))
    if (unnamed and (split != "train" or arrangement.is_divided)) or len(direct) >= count:
        return {}, [*direct, *chain.from_iterable(folders.values())]
    return folders, direct


def splits_inside_classes(
    tree: SourceTree, arrangement: Arrangement
) -> dict[SplitName, Classes] | None:
    """Return the pictures of `cat/train/1.png` and `cat/test/2.png`; None if it is not so."""
    if arrangement.is_divided:
        return None
    folders, direct = by_class(tree, arrangement, "train")
    root = arrangement.folders["train"]
    depth = _depth(root)
    splits: dict[SplitName, Classes] = {}
    for word, names in folders.items():
        for name in names:
            parts = name.split("/")[depth:]
            split = split_of(parts[0]) if len(parts) == 2 else None
            if split not in SPLIT_NAMES:
                return None
            splits.setdefault(split, {}).setdefault(word, []).append(name)
    if direct or "train" not in splits or len(folders) < 2:
        return None
    return in_split_order(splits)


def _class_folders(
    tree: SourceTree, arrangement: Arrangement
) -> tuple[dict[SplitName, Classes], list[str]]:
    """Return the pictures of each class of each split, and lines on those in no class."""
    splits: dict[SplitName, Classes] = {}
    omissions = []
    for split, folder in arrangement.folders.items():
        classes, rest = class_folders(tree, arrangement, split)
        if split != "unlabeled" and classes:
            splits[split] = classes
            if rest:
                shown = f"{folder}/" if folder else "the source"
                omissions.append(
                    f"pictures directly in {shown}, which are of no class: {len(rest):,}"
                )
            if mixed := _mixed(classes, folder):
                omissions.append(mixed)
        elif split != "train":
            count = len(rest) + sum(map(len, classes.values()))
            omissions.append(unlabeled_note(tree, folder, count))
    omissions += [f"{name}/ is empty" for name in tree.empty_folders if split_of(name)]
    return splits, omissions


def _depth(folder: str) -> int:
    """Return how many folders lie around a picture in a class folder of `folder`."""
    return folder.count("/") + 2 if folder else 1


def _mixed(classes: Classes, folder: str) -> str:
    """Return a line on classes with pictures both in their folder and in folders inside it."""
    depth = _depth(folder)
    for word, names in classes.items():
        inside = [name for name in names if name.count("/") > depth]
        if inside and len(inside) < len(names):
            part = inside[0].rpartition("/")[0]
            return f"folders inside a class folder count to its class, as {part}/ to {word}"
    return ""


def _check_empty(
    tree: SourceTree,
    arrangement: Arrangement,
    splits: Mapping[SplitName, Classes],
    foreign: list[str],
) -> None:
    """Refuse a class folder of `train` that has no pictures, or pictures of unread formats only."""
    root = arrangement.folders.get("train", "")
    prefix = f"{root}/" if root else ""
    classes = splits["train"]
    for name in tree.empty_folders:
        word = name.removeprefix(prefix)
        if name.startswith(prefix) and "/" not in word and not says_no_class(word):
            raise UsageError(
                f"class folder {word!r} of {tree.path(root)} holds no pictures; fill or remove it"
            )
    for name in foreign:
        word, slash, _ = name.removeprefix(prefix).partition("/")
        if name.startswith(prefix) and slash and word not in classes and not split_of(word):
            _, reason = foreign_pictures(tree.names)
            raise UsageError(
                f"class folder {word!r} of {tree.root} holds no pictures: {reason}; {CONVERT}"
            )


def _refuse(tree: SourceTree, arrangement: Arrangement) -> NoReturn:
    """Raise UsageError: there is no class folder with pictures."""
    root = tree.root
    if not tree.pictures:
        foreign, reason = foreign_pictures(tree.names)
        raise UsageError(
            f"{root} holds no pictures: {reason}; {CONVERT}"
            if foreign
            else f"{root} holds no pictures, only {tree.overview()}; put pictures into a folder a "
            "class, as cat/1.png"
        )
    why = f" ({boxes})" if (boxes := box_files(tree)) else ""
    if masks := [folder for folder in arrangement.beside if is_annotation(folder.split("/")[-1])]:
        why = why or f" ({masks[0]}/ beside them may hold masks, which are not one label an image)"
    elif arrangement.is_divided and arrangement.beside:
        taken = ", ".join(f"{_shown(f)} as {split}" for split, f in arrangement.folders.items())
        why = why or f" ({taken} was taken by its name; if it is a class, rename it)"
    raise UsageError(
        f"the pictures of {root} have no class folders: it holds {tree.overview()}{why}; put them "
        "into a folder a class, as cat/1.png, or add labels.csv with the columns file and label"
    )


def _objection(
    tree: SourceTree, arrangement: Arrangement, splits: Mapping[SplitName, Classes]
) -> str:
    """Return why the folders may not be the classes; "" if they seem to be."""
    if arrangement.is_divided or len(splits) > 1:
        return ""
    classes = splits["train"]
    listed = ", ".join(f"{word}/" for word in natural_order(classes)[:4])
    if are_parts([*classes]):
        return (
            f"the folders {listed} look like parts of one, not like classes; put the pictures into "
            "a folder a class, add labels.csv with the columns file and label, or take them as "
            "classes by --layout folders"
        )
    root = arrangement.folders["train"]
    depth = _depth(root)
    inside: dict[str, set[str]] = {}  # class -> folders directly in it, "" for pictures
    for word, names in classes.items():
        parts = [name.split("/")[depth:] for name in names]
        inside[word] = {part[0] if len(part) > 1 else "" for part in parts}
        copies = inside[word].intersection(classes) - {word}
        if len(copies) > 1:
            return (
                f"{word}/ holds {', '.join(natural_order(copies)[:4])}, as the folder around it "
                "does, so it may be a copy of the data; remove it, or give "
                f"{tree.path(root) / word}"
            )
    alike = _versions(classes, inside, depth)
    if not alike:
        return ""
    shared = set.intersection(*(inside[word] for word in alike)) - {""}
    return (
        f"the folders {', '.join(f'{word}/' for word in alike[:4])} each hold "
        f"{', '.join(natural_order(shared)[:4])}, so they may be versions of one data set; give "
        f"one of them, as {tree.path(root) / alike[0]}, or take them as classes by --layout folders"
    )


def _versions(classes: Classes, inside: Mapping[str, set[str]], depth: int) -> Sequence[str]:
    """Return the class folders that hold the same folders, or the same pictures in folders."""
    words = natural_order(classes)
    shared, union = set.intersection(*inside.values()), set.union(*inside.values())
    if len(words) > 1 and "" not in union and len(shared) > 1 and 2 * len(shared) >= len(union):
        return words
    for pair in combinations(words, 2):
        folders = set.intersection(*(inside[word] for word in pair)) - {""}
        if len(folders) < 2:
            continue
        below = [{"/".join(name.split("/")[depth:]) for name in classes[word]} for word in pair]
        both = sum("/" in name for name in set.intersection(*below))
        if 2 * both > min(map(len, below)):
            return pair
    return ()


def _others(tree: SourceTree) -> list[str]:
    """Return lines on the files that are not pictures, and on pictures without a suffix."""
    lines = []
    kinds = Counter(
        os.path.splitext(name)[1].lower() or "without a suffix"
        for name in sorted({*tree.names}.difference(tree.pictures))
    )
    if kinds:
        listed = ", ".join(kind for kind, _ in kinds.most_common(4))
        lines.append(f"files that are not pictures: {kinds.total():,} ({listed})")
    if tree.without_suffix:
        lines.append(
            f"files without a suffix that were taken as pictures: {len(tree.without_suffix):,}"
        )
    return lines


def _shown(folder: str) -> str:
    return f"{folder}/" if folder else "the class folders beside it"
