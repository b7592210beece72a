"""The columns of a table of images: which holds the pictures, and which the labels.

What the schema's metadata says goes first (key `huggingface`, as the hub writes it), then known
names, then types. Where several columns are as likely, the data is refused.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import UsageError
from ...text import one_line
from .labels import Label, decoded
from .limits import check_memory
from .pixels import Array
from .record_files import RecordFile

_MAX_WORD = 1000  # letters of a class name
_IMAGES = (
    *("img", "image", "images", "pixel_values", "picture", "photo", "jpg", "jpeg", "png", "webp"),
    *("pixels", "image_path", "image_file", "file_name", "filename", "file", "path", "filepath"),
)
_LABELS = (
    *("label", "labels", "fine_label", "target", "targets", "class", "category", "cls", "y"),
    *("class_label", "class_name", "label_name", "fine_labels"),
)
_ABOUT = re.compile(
    r"(?i)__index.*|(.*[_ ])?(id|ids|index|idx|key|url|width|height|size|path|name|filename)"
)


@dataclass(frozen=True)
class Columns:
    """The columns of pictures and of labels.

    class_names: None where the labels are the names. note: empty where the choice was plain.
    """

    image: str
    label: str
    class_names: tuple[str, ...] | None
    note: str = ""


def find_columns(
    schema: Any, where: str, *, told: str | None, read: Callable[[str], Sequence[Label]]
) -> Columns:
    """Return the columns of a table, given its Arrow schema.

    told: the label column, where its name is given. read: gives the labels of a column; it is
    called only where neither metadata nor names tell which it is.

    Raises:
        UsageError: there is no such column, or several could be it.
    """
    features = _features(where, schema.metadata or {})
    names = [name for name in schema.names if schema.names.count(name) == 1]
    image = _image(schema, names, features, where)
    names.remove(image)
    note = ""
    if told is not None:
        if told not in names:
            raise UsageError(f"{where} has no column {told!r}; it has {_listed(names)}")
        label = told
    elif declared := [n for n in names if features.get(n, {}).get("_type") == "ClassLabel"]:
        label = _known(declared, _LABELS) or _only(declared, where)
        if other := [name for name in names if name.lower() in _LABELS and name != label]:
            note = f"column {label} was taken as the label, not {', '.join(other)}"
    elif known := _known(names, _LABELS):
        label = known
    else:
        label = _only([name for name in names if _may_be_label(schema, name, read)], where, names)
        note = f"column {label} was taken as the label"
    words = features.get(label, {}).get("names")
    classes = tuple(map(str, words)) if isinstance(words, list) and words else None
    return Columns(image, label, classes, note)


def image_column(schema: Any, where: str) -> str:
    """Return the column of the pictures of a table, given its Arrow schema.

    Raises:
        UsageError: there is no such column, or several could be it.
    """
    names = [name for name in schema.names if schema.names.count(name) == 1]
    return _image(schema, names, _features(where, schema.metadata or {}), where)


def _known(names: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the column whose name comes first among those that are known."""
    return min(
        (name for name in names if name.lower() in known),
        key=lambda name: known.index(name.lower()),
        default=None,
    )


def _only(choices: Sequence[str], where: str, names: Sequence[str] = ()) -> str:
    if len(choices) == 1:
        return choices[0]
    if choices:
        raise UsageError(
            f"{where} has several columns that could be the label: {_listed(choices)}; choose "
            f"one by --set data.label_column={choices[0]} (label_column={choices[0]!r})"
        )
    raise UsageError(
        f"{where} has no column that is plainly the label; it has {_listed(names)}; choose one "
        "by --set data.label_column=NAME (label_column=...)"
    )


def _listed(names: Sequence[str]) -> str:
    return one_line(", ".join(names), 300)


def _image(
    schema: Any, names: Sequence[str], features: Mapping[str, dict[str, Any]], where: str
) -> str:
    """Return the column of pictures: as declared, by a known name, or the only one of its type."""
    declared = [name for name in names if features.get(name, {}).get("_type") == "Image"]
    typed = [name for name in names if _holds_pictures(schema.field(name).type)]
    texts = [name for name in names if is_text(schema.field(name).type)]
    for choices in (declared, typed):
        if known := _known(choices, _IMAGES):
            return known
        if len(choices) == 1:
            return choices[0]
    if not declared and not typed and (known := _known(texts, _IMAGES)):
        return known
    which = _listed(declared or typed or schema.names)
    raise UsageError(
        f"{where} has no column that is plainly the picture (it has {which}); call it image"
    )


def _holds_pictures(kind: Any) -> bool:
    """Return whether a type is bytes, a struct with bytes, or a list of numbers."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return is_bytes(kind) or is_list(kind)


def is_bytes(kind: Any) -> bool:
    """Return whether a type of Arrow holds bytes."""
    import pyarrow as pa

    is_fixed = pa.types.is_fixed_size_binary(kind)
    return bool(is_fixed or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_text(kind: Any) -> bool:
    """Return whether a type of Arrow holds words."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_list(kind: Any) -> bool:
    """Return whether a type of Arrow holds lists, of any length or of one."""
    import pyarrow as pa

    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in kinds)


def _may_be_label(schema: Any, name: str, read: Callable[[str], Sequence[Label]]) -> bool:
    """Return whether a column has few values of a type that labels have."""
    if _ABOUT.fullmatch(name) or not is_label_type(schema.field(name).type):
        return False
    try:
        labels = read(name)
    except UsageError:  # fractions, or words that are texts
        return False
    values = {*labels} - {None}
    return 2 <= len(values) <= max(2, len(labels) // 2)


def is_label_type(kind: Any) -> bool:
    """Return whether labels can have a type of Arrow; of floats, those that are whole."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    kinds = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_floating, pa.types.is_null)
    return any(is_kind(kind) for is_kind in kinds) or is_text(kind) or is_bytes(kind)


def _features(where: str, metadata: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """Return what the hub's metadata says of each column; empty where there is none."""
    try:
        info = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {})
        features = info.get("features", {})
        return {key: f for key, f in features.items() if isinstance(f, dict)}
    except (AttributeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{where}: its metadata under the key huggingface is damaged; fetch it again"
        ) from error


def labels_of_column(column: Any, where: str, name: str) -> list[Label]:
    """Return the labels in a chunked column; a word that many rows share is in memory once.

    Raises:
        UsageError: a label is no whole number and no word.
    """
    import pyarrow as pa

    kind = column.type
    if not is_label_type(kind):
        raise UsageError(
            f"{where}: column {name} is {kind}, not whole numbers or words; give each image one "
            "label, or choose another column by --set data.label_column=NAME (label_column=...)"
        )
    if is_text(kind) or is_bytes(kind):
        column = column.dictionary_encode()
    labels: list[Label] = []
    for chunk in column.chunks:
        if isinstance(chunk, pa.DictionaryArray):
            words = [_plain(word, where, name) for word in chunk.dictionary.to_pylist()]
            labels += [None if i is None else words[i] for i in chunk.indices.to_pylist()]
        else:
            labels += [_plain(value, where, name) for value in chunk.to_pylist()]
    return labels


def _plain(value: Any, where: str, name: str) -> Label:
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        if value != value:
            return None
        if not value.is_integer():
            raise UsageError(
                f"{where}: column {name} is double with {value:g}, not whole numbers or words"
            )
        return int(value)
    if isinstance(value, bytes):
        value = decoded(value, where)
    if isinstance(value, str) and len(value) > _MAX_WORD:
        raise UsageError(
            f"{where}: a label has {len(value):,} letters; at most {_MAX_WORD} are valid"
        )
    label: Label = value
    return label


def numbers_of_column(files: Sequence[RecordFile], column: str) -> Array:
    """Return the images (N, ...) in a column of nested lists of numbers.

    Raises:
        UsageError: the lists of two rows differ in length.
    """
    parts, num_bytes = [], 0
    for file in files:
        for array in file.checked(column):
            num_bytes += array.nbytes
            check_memory(f"the images of {file.where}", num_bytes)
            parts.append(_unnested(array, file.where, column))
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) != 1:
        where = files[0].where if files else column
        raise UsageError(f"{where}: column {column} has images of {len(shapes)} shapes; give one")
    return np.concatenate(parts)


def _unnested(array: Any, where: str, column: str) -> Array:
    import pyarrow.compute as pc

    array = getattr(array, "storage", array)  # of the hub's Array3D
    shape = [len(array)]
    while is_list(array.type):
        lengths = set(pc.list_value_length(array).to_pylist())
        if len(lengths) != 1 or None in lengths:
            raise UsageError(
                f"{where}: column {column} has lists of several lengths or none; give every image "
                "the same shape"
            )
        shape += lengths
        array = array.flatten()
    if array.null_count:
        raise UsageError(f"{where}: column {column} has empty pixels; fill them")
    return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(shape)
