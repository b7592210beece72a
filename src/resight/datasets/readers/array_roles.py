"""Which of several named arrays holds the images of a split, and which their labels.

Names decide: `x_train`, `trainImages`, `val_labels`, `X`, `target`. Where they say nothing, shapes
may.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ...errors import UsageError
from ...text import one_line
from ..splits import split_of
from .contents import SplitName, in_split_order

Kind = Literal["images", "labels"]

_IMAGES = (
    *("x", "images", "image", "imgs", "img", "pixels", "pictures", "photos", "faces", "data"),
    *("inputs", "input", "features"),
)
_LABELS = (
    *("y", "labels", "label", "lbls", "targets", "target", "category", "categories"),
    *("class", "cls"),
)
_NAMES = ("classes", "classnames", "labelnames", "targetnames", "categorynames", "names")
# Beside the word of a kind, these say that an array is about images or labels, and is not them.
_ABOUT = {
    *("id", "ids", "idx", "index", "indices", "name", "names", "file", "filename", "filenames"),
    *("path", "paths", "mean", "std", "size", "sizes", "shape", "mask", "masks", "weight"),
    *("weights", "num", "count", "counts", "feature"),
}
_NO_SPLITS = ("extra", "unlabeled")
_SPLIT_WORDS = {"extra": "extra", "te": "test"}  # in arrays, besides the words of folders
_EXPECTED = (
    "x_train, y_train, x_test, y_test (or train_images, train_labels, ...), or images, labels"
)


class Head(NamedTuple):
    """The shape and the type of an array that is not read yet."""

    shape: tuple[int, ...]
    dtype: DTypeLike


@dataclass(frozen=True)
class ArrayRoles:
    """The names of the arrays of each split, (images, labels), and of the class names."""

    splits: dict[SplitName, tuple[str, str]]
    class_names: str | None
    unused: tuple[str, ...]  # what was not taken and why
    notes: tuple[str, ...]  # what the shapes decided


def find_roles(heads: Mapping[str, Head], where: str) -> ArrayRoles:
    """Return which arrays hold what.

    Raises:
        UsageError: the names and shapes leave no choice or several; the message begins with
            `where`.
    """
    names = [key for key in heads if re.sub("[^a-z]", "", key.lower()) in _NAMES]
    table: dict[str | None, dict[Kind, list[str]]] = defaultdict(dict)
    for key in heads:
        if key not in names and (role := _role(key, heads[key])):
            split, kind = role
            table[split].setdefault(kind, []).append(key)
    unused: list[str] = []
    pairs: dict[str | None, tuple[str, str]] = {}
    for split, kinds in table.items():
        images, labels = kinds.get("images", []), kinds.get("labels", [])
        if split in _NO_SPLITS:
            unused.append(f"{_short(images + labels)}: {split} images are of no split")
        elif images and labels:
            pairs[split] = _best_images(images, heads), _only_labels(labels, where)
        elif images and split:
            unused.append(f"{_short(images)}: there are no labels for them")
    if None in pairs and "train" in pairs:
        raise UsageError(
            f"{where} holds {pairs[None][0]} as well as {pairs['train'][0]}; keep the one to train "
            "on"
        )
    notes = []
    if not pairs:
        pairs, note = _by_shapes({k: h for k, h in heads.items() if k not in names}, where)
        notes = [note]
    by_name = {("train" if split is None else split): pair for split, pair in pairs.items()}
    used = {*names[:1]}.union(*by_name.values())
    if rest := [key for key in heads if key not in used and key not in " ".join(unused)]:
        unused.append(f"arrays that were not read: {_short(rest)}")
    return ArrayRoles(in_split_order(by_name), next(iter(names), None), tuple(unused), tuple(notes))


def _role(key: str, head: Head) -> tuple[str | None, Kind] | None:
    """Return the split that the name of an array means, and what it holds; None for neither."""
    words = re.findall("[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key).lower())
    words = [part for word in words for part in _unglued(word)]
    is_labels, is_images = ({*words} & {*known} for known in (_LABELS, _IMAGES))
    if not (is_labels or is_images) or {*words} & _ABOUT:
        return None
    splits = {split for word in words if (split := _SPLIT_WORDS.get(word) or split_of(word))}
    kind: Kind = "labels" if is_labels else "images"
    if len(splits) > 1 or len(head.shape) < (1 if is_labels else 2):
        return None
    return next(iter(splits), None), kind


def _unglued(word: str) -> list[str]:
    """Return ["x", "train"] for "xtrain" and ["train", "labels"] for "trainlabels"."""
    for part in (*_IMAGES, *_LABELS):
        for rest in (word.removeprefix(part), word.removesuffix(part)):
            if rest not in ("", word) and split_of(rest):
                return [part, rest]
    return [word]


def _best_images(keys: list[str], heads: Mapping[str, Head]) -> str:
    """Return the array that has the axes of images, where the same are there as rows too."""
    return max(keys, key=lambda key: len(heads[key].shape))


def _only_labels(keys: list[str], where: str) -> str:
    """Return the label array; `labels` goes before `fine_labels`, and that before others."""
    if len(keys) == 1:
        return keys[0]
    for is_best in (lambda key: re.fullmatch("[a-z]+", _bare(key)), lambda key: "fine" in key):
        best = [key for key in keys if is_best(key.lower())]
        if len(best) == 1:
            return best[0]
    raise UsageError(
        f"{where} holds several arrays of labels: {_short(keys)}; keep the one to learn"
    )


def _bare(key: str) -> str:
    """Return a name without the words of splits and the marks between words."""
    words = re.findall("[a-z]+", key)
    return "_".join(word for word in words if split_of(word) is None)


def _by_shapes(
    heads: Mapping[str, Head], where: str
) -> tuple[dict[str | None, tuple[str, str]], str]:
    """Pair arrays without telling names, as `np.savez(path, images, labels)` writes them."""
    images = [key for key, head in heads.items() if _looks_like_images(head)]
    labels = [key for key, head in heads.items() if _looks_like_labels(head)]
    fit = len(images) == len(labels) in (1, 2) and all(
        heads[one].shape[0] == heads[other].shape[0]
        for one, other in zip(images, labels, strict=True)
    )
    sizes = [heads[key].shape[0] for key in images]
    if not fit or sizes != sorted(sizes, reverse=True) or len({*sizes}) < len(sizes):
        raise UsageError(f"{where} holds {_short([*heads]) or 'no arrays'}; expected {_EXPECTED}")
    splits: tuple[str | None, ...] = (None,) if len(images) == 1 else ("train", "test")
    pairs = dict(zip(splits, zip(images, labels, strict=True), strict=True))
    text = " and ".join(
        f"{one} as images{f' of {split}' if split else ''} with the labels {other}"
        for split, (one, other) in pairs.items()
    )
    return pairs, f"the shapes decided: {text}"


def _looks_like_images(head: Head) -> bool:
    shape = head.shape
    if len(shape) == 2:
        sides = (math.isqrt(shape[1]), math.isqrt(shape[1] // 3))
        return sides[0] >= 8 and shape[1] in (sides[0] ** 2, 3 * sides[1] ** 2)
    return len(shape) in (3, 4) and np.dtype(head.dtype).kind in "biuf"


def _looks_like_labels(head: Head) -> bool:
    shape = head.shape
    return len(shape) == 1 or (len(shape) == 2 and 1 in shape)


def _short(keys: list[str]) -> str:
    return one_line(", ".join(keys[:10]) + (", ..." if len(keys) > 10 else ""), 300)
