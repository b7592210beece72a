"""Labels of any kind to class names and numbers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...records import IntArray

Label = int | str | None  # None: not known
Split = TypeVar("Split", bound=str)  # the name of a split
Item = TypeVar("Item")

_MAX_CLASSES = 100_000
_MAX_WORD = 1000  # letters of a class name
UNLABELED = -1  # the number of an image whose label is not known


@dataclass(frozen=True)
class NumberedLabels:
    """The classes of a source, and the number of each label in them; -1 where it is not known."""

    classes: tuple[str, ...]
    numbers: dict[str, IntArray]  # of each split, (N,)
    notes: tuple[str, ...]


def encode_labels(
    labels: Mapping[str, Sequence[Label]], names: Sequence[str] | None = None
) -> NumberedLabels:
    """Number the labels of all splits, which are named for messages.

    Words are classes in the order of the alphabet. Whole numbers count from 0 in `names`, or from 1
    if the last of them says so; without `names` each number is a class of that name. -1, null and
    the empty word mean that a label is not known.

    Raises:
        UsageError: a label is none of `names`, or the labels are of several kinds.
    """
    values = {value for part in labels.values() for value in part}
    known = values - {None, ""}
    notes: list[str] = []
    if {type(value) for value in known} == {int}:
        if names is None and known == {-1, 1}:
            notes.append("labels -1 and 1 were taken as two classes")
        else:
            known -= {UNLABELED}
        numbers = {value for value in known if isinstance(value, int)}
        index, classes, number_notes = _index_numbers(numbers, names, labels)
        notes += number_notes
    elif all(isinstance(value, str) for value in known):
        words = {value for value in known if isinstance(value, str)}
        classes = tuple(names) if names is not None else _in_order(words)
        index = {name: number for number, name in enumerate(classes)}
    else:
        raise UsageError(f"{', '.join(labels)} has numbers and words as labels; give one kind")
    if lost := known - index.keys():
        raise UsageError(_is_no_class(lost, labels, len(classes)))
    numbered = {
        where: np.array([index.get(value, UNLABELED) for value in part], dtype=np.int64)
        for where, part in labels.items()
    }
    for where, part in numbered.items():
        if hidden := int((part == UNLABELED).sum()):
            hint = (
                "; if -1 is a class, give it another number" if UNLABELED in labels[where] else ""
            )
            notes.append(
                f"{where}: {hidden:,} of {len(part):,} labels are missing (-1, null or empty), so "
                f"their images were left out{hint}"
            )
    return NumberedLabels(classes, numbered, tuple(notes))


def keep_labeled(
    ids: Mapping[Split, Sequence[str]], encoded: NumberedLabels
) -> dict[Split, tuple[list[str], IntArray]]:
    """Return the ids and the numbers of the images whose label is known, of splits that have any.

    The splits are those that `encode_labels` was given, under the same names.
    """
    labeled = {}
    for split, names in ids.items():
        numbers = encoded.numbers[split]
        rows = np.flatnonzero(numbers != UNLABELED).tolist()
        if rows:
            labeled[split] = [names[row] for row in rows], numbers[rows]
    return labeled


def known_items(items: Mapping[Split, Sequence[Item]], encoded: NumberedLabels) -> Iterator[Item]:
    """Yield the items of all splits whose label is known, one split after the other."""
    for split, some in items.items():
        yield from compress(some, encoded.numbers[split] != UNLABELED)


def _index_numbers(
    numbers: set[int], names: Sequence[str] | None, labels: Mapping[str, Sequence[Label]]
) -> tuple[dict[Label, int], tuple[str, ...], list[str]]:
    """Return the place of each number among the classes, the classes, and notes."""
    low, high = min(numbers, default=0), max(numbers, default=0)
    if names is not None:
        first = 1 if low >= 1 and high == len(names) else 0
        notes = [f"labels count from 1: 1 is {names[0]}, {high} is {names[-1]}"] if first else []
        return {first + place: place for place in range(len(names))}, tuple(names), notes
    if low < 0 and numbers != {-1, 1}:
        raise UsageError(_is_no_class({low}, labels))
    if high >= _MAX_CLASSES:
        raise UsageError(f"label {high} is no class number; they count from 0")
    ordered = sorted(numbers)
    notes = []
    if low == 1 and high == len(ordered):
        notes = [f"labels count from 1: the classes are named 1 to {high}"]
    elif low >= 0 and high >= len(ordered):
        notes = [f"labels have gaps: the classes are named {_short(ordered)}"]
    return {number: place for place, number in enumerate(ordered)}, (*map(str, ordered),), notes


def _in_order(words: Iterable[str]) -> tuple[str, ...]:
    """Return words in the order of the alphabet, or of their values if all are numbers."""
    ordered = sorted(words)
    if all(word.isdecimal() for word in ordered):
        ordered.sort(key=int)
    return tuple(ordered)


def _is_no_class(
    lost: Iterable[Label], labels: Mapping[str, Sequence[Label]], count: int | None = None
) -> str:
    value = min(lost, key=str)
    where, row = next((where, part.index(value)) for where, part in labels.items() if value in part)
    classes = f"none of the {count} classes" if count is not None else "no class number"
    return (
        f"label {value!r} in row {row} of {where} is {classes} (-1 and null mean unlabeled); "
        "mend it or leave the row out"
    )


def _short(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")


def number_labels(labels: Sequence[Label], classes: Sequence[str], where: str) -> IntArray:
    """Return the number of each label in `classes`, (N,); every image must have one.

    Raises:
        UsageError: a label is none of the classes; `where` is the file or column for the message.
    """
    index: dict[Label, int] = {number: number for number in range(len(classes))}
    index |= {name: number for number, name in enumerate(classes)}
    if lost := set(labels) - index.keys():
        raise UsageError(_is_no_class(lost, {where: labels}, len(classes)))
    return np.array([index[label] for label in labels], dtype=np.int64)


# --- arrays -----------------------------------------------------------------------------------


def labels_of(array: NDArray[Any], where: str) -> tuple[list[Label], list[str]]:
    """Return the N labels in an array, and notes of what was converted.

    Whole numbers of any type, words, bytes and truth values are read, of shape (N,), (N, 1) or
    (1, N), and (N, K) with a single 1 a row. NaN becomes None.

    Raises:
        UsageError: it holds something else; the message begins with `where`.
    """
    notes: list[str] = []
    if array.dtype == object:
        array = _of_objects(array, where)
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim == 2 and array.dtype.kind in "biuf":
        if not (np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all()):
            raise UsageError(
                f"{where} has shape {array.shape}, but its rows are not a single 1 among zeros; "
                "give one label an image"
            )
        notes.append(f"{where}: the place of the 1 in a row was taken as its label")
        array = array.argmax(axis=1)
    if array.ndim != 1 or array.dtype.kind not in "biufUS":
        raise UsageError(
            f"{where} is {array.dtype} of shape {array.shape}; expected (N,) whole numbers or words"
        )
    labels: list[Label] = []
    match array.dtype.kind:
        case "f":
            labels = _whole(array, where)
            notes.append(f"{where}: {array.dtype} was taken as whole numbers")
        case "b":
            labels = [str(value) for value in array.tolist()]
        case "S":
            labels = [decoded(word, where) for word in array.tolist()]
        case _:
            labels = array.tolist()
    return labels, notes


def _whole(array: NDArray[Any], where: str) -> list[Label]:
    """Return floats as whole numbers, and NaN as None."""
    is_known = ~np.isnan(array)
    wrong = np.flatnonzero(is_known & (np.rint(array) != array) | np.isinf(array))
    if len(wrong):
        raise UsageError(
            f"label {array[wrong[0]]:g} in row {wrong[0]} of {where} is no whole number; classes "
            "are whole numbers or words"
        )
    values = np.where(is_known, array, 0).astype(np.int64).tolist()
    return [value if known else None for value, known in zip(values, is_known, strict=True)]


def _of_objects(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Return an array of Python objects in memory, as pandas makes them, as one of a plain type."""
    values = [value.item() if hasattr(value, "item") else value for value in array.tolist()]
    known = [value for value in values if value is not None and value == value]  # NaN is not
    if all(isinstance(value, str) for value in known):
        return np.array([value if isinstance(value, str) else "" for value in values])
    if not all(isinstance(value, bool | int | float) for value in known):
        kinds = ", ".join(sorted({type(value).__name__ for value in known}))
        raise UsageError(f"{where} holds objects of type {kinds}; give whole numbers or words")
    if len(known) == len(values):
        return np.array(values)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def decoded(word: bytes, where: str) -> str:
    """Return a word of bytes in UTF-8.

    Raises:
        UsageError: it is none.
    """
    try:
        return word.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} holds bytes that are no UTF-8: {word[:20]!r}") from error


def names_of(array: NDArray[Any], where: str) -> tuple[str, ...]:
    """Return the class names in an array (K,) of words or numbers.

    Raises:
        UsageError: it holds something else.
    """
    array = np.asarray(array)
    if array.ndim != 1 or array.dtype.kind not in "iuUSO":
        raise UsageError(f"{where} is {array.dtype} of shape {array.shape}; expected (K,) words")
    return tuple(str(name) for name in labels_of(array, where)[0])
