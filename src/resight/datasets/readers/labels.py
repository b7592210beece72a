"""Labels of any kind to class names and numbers."""

from collections.abc import Iterable, Sequence

import numpy as np

from ...errors import UsageError
from ...records import IntArray

Label = int | str | None

_MAX_CLASSES = 100_000


def name_classes(labels: Iterable[Label]) -> tuple[str, ...]:
    """Return class names for labels without names: the words themselves, or numbers from 0."""
    values = set(labels)
    numbers = [value for value in values if type(value) is int]
    if not numbers or len(numbers) < len(values):
        return tuple(sorted(value for value in values if isinstance(value, str)))
    if max(numbers) >= _MAX_CLASSES:
        raise UsageError(f"label {max(numbers)} is no class number; they count from 0")
    return tuple(str(number) for number in range(max(numbers) + 1))


def number_labels(labels: Sequence[Label], classes: Sequence[str], where: str) -> IntArray:
    """Return the place of each label in `classes`, (N,).

    Raises:
        UsageError: a label is none of the classes; `where` is the file or column for the message.
    """
    index = {name: number for number, name in enumerate(classes)}
    numbers = np.empty(len(labels), dtype=np.int64)
    for row, label in enumerate(labels):
        number = index.get(label) if isinstance(label, str) else label
        if type(number) is not int or not 0 <= number < len(classes):
            raise UsageError(
                f"label {label!r} in row {row} of {where} is none of the {len(classes)} classes "
                "(-1 and None mean unlabeled); leave such rows out"
            )
        numbers[row] = number
    return numbers
