"""Images and labels as arrays: in a `.npz` file, in `.npy` files, in a file of MATLAB."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from ...errors import UsageError
from ...files import check_file
from ..splits import split_of
from ..tree import SourceTree
from . import mat
from .array_roles import ArrayRoles, find_roles
from .classes import names_beside
from .contents import DataLayout, LoadedData, ReadOptions, SplitName
from .labels import Label, labels_of, names_of
from .limits import check_memory, check_unpacked
from .split_arrays import ArraySplit, load_split_arrays
from .stored_array import MAX_BYTES, StoredArray, in_file, in_zip

_SUFFIXES = (".npy", ".npz", ".mat")
_MAX_FILES = 64  # more are a file for each picture
_MAX_MAT_BYTES = 2**32
_SVHN = "_32x32"  # train_32x32.mat and so on, whose label 10 is the digit 0
_OBJECTS = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".h5", ".hdf5")


def find(tree: SourceTree) -> DataLayout | None:
    """Recognize arrays of images and of labels by their names and shapes.

    Raises:
        UsageError: there are arrays, but not one of images beside one of labels; or there are only
            objects that are never loaded, as pickles.
    """
    files = [name for name in tree.names if name.lower().endswith(_SUFFIXES)]
    if not files:
        _refuse_objects(tree)
        return None
    if len(files) > _MAX_FILES:
        raise UsageError(
            f"{tree.root} holds {len(files):,} files of arrays; put all images into one array, "
            "as np.savez('data.npz', images=images, labels=labels)"
        )
    if not tree.is_archive and tree.names == (files[0],) and files[0].lower().endswith(".npy"):
        raise UsageError(
            f"{tree.source} is one array; give the folder in which the array of its labels lies "
            "as well"
        )
    stored = _stored(tree, files)
    where = str(tree.path(files[0]) if len(files) == 1 else tree.source)
    try:
        roles = find_roles({key: array.head for key, array in stored.items()}, where)
    except UsageError:
        for array in stored.values():
            if 0 in array.head.shape:
                array.load()  # what is wrong with it is the better reason
        raise
    parts = [f"{one} with {other}" for one, other in roles.splits.values()]
    counts = [stored[images].head.shape[0] for images, _ in roles.splits.values()]
    return DataLayout(
        "arrays",
        f"arrays of images and labels: {', '.join(parts)}",
        (*files, *names_beside(tree).files),
        partial(_read, tree, stored, roles),
        sum(counts),
        roles.unused,
        max_bytes=MAX_BYTES,
    )


def _refuse_objects(tree: SourceTree) -> None:
    """Refuse a source whose largest part is a pickle or the like."""
    objects = [name for name in tree.names if name.lower().endswith(_OBJECTS)]
    if objects and len(tree.names) <= 3:
        raise UsageError(
            f"{tree.path(objects[0])} is not read, since loading such a file could run code or "
            "needs another library; load it yourself, then save arrays by "
            "np.savez('data.npz', images=images, labels=labels) or pass them to "
            "resight.data(images, labels)"
        )


def _stored(tree: SourceTree, files: list[str]) -> dict[str, StoredArray]:
    """Return all arrays of a source, by names that hold the split of their file or folder."""
    source = tree.source
    if tree.is_archive and source.suffix.lower() in (".npz", ".zip"):
        # Read in place: an archive's own reader unpacks a whole array to read its head.
        prefix = tree.root.relative_to(source).as_posix()
        arrays = in_zip(source, str(source))
        inner = "" if prefix == "." else f"{prefix}/"
        return {
            _key(name.removeprefix(inner), None): array
            for name, array in arrays.items()
            if name.startswith(inner) and f"{name.removeprefix(inner)}.npy" in tree.names
        }
    stored: dict[str, StoredArray] = {}
    for file in files:
        where = str(tree.path(file))
        [content] = tree.sources([file], MAX_BYTES)
        if isinstance(content, Path):
            check_file(content, MAX_BYTES)  # opening a pipe may wait for ever
        if file.lower().endswith(".npy"):
            inside: Mapping[str, StoredArray] = {"": in_file(content, where)}
        elif file.lower().endswith(".npz"):
            inside = in_zip(content, where)
        else:
            inside = mat.stored_arrays(tree.read(file, _MAX_MAT_BYTES), where)
        for name, array in inside.items():
            key = _key(file.rpartition(".")[0], name)
            if key in stored:
                raise UsageError(
                    f"{tree.source} holds more than one array {key}; give the file or folder of "
                    "one data set, or put all images into one array, as np.savez('data.npz', "
                    "images=images, labels=labels)"
                )
            stored[key] = array
    return stored


def _key(file: str, inner: str | None) -> str:
    """Return the name of an array: `train/x.npy` and `x` in `train.npz` both are train_x."""
    path = PurePosixPath(file)
    parts = [part for part in path.parts[:-1] if split_of(part)]
    is_told = any(split_of(word) or word == "extra" for word in path.stem.split("_"))
    if is_told or not inner:
        parts.append(path.name)
    return "_".join([*parts, inner or ""]).strip("_")


def _read(
    tree: SourceTree, stored: Mapping[str, StoredArray], roles: ArrayRoles, options: ReadOptions
) -> LoadedData:
    used = [key for pair in roles.splits.values() for key in pair]
    used += [roles.class_names] if roles.class_names else []
    num_bytes = sum(stored[key].num_bytes for key in used)
    if tree.source.is_file():
        packed = tree.source.stat().st_size
        check_unpacked(str(tree.source), packed=packed, unpacked=num_bytes)
    check_memory(f"the arrays of {tree.source}", num_bytes)
    try:
        return load_roles(stored, roles, options, class_names=names_beside(tree).names)
    except UsageError as error:  # of an array, which a person looks for in its file
        if str(error).startswith(str(tree.source)):
            raise
        raise UsageError(f"{tree.source}: {error}") from error


def load_roles(
    stored: Mapping[str, StoredArray],
    roles: ArrayRoles,
    options: ReadOptions,
    *,
    class_names: Sequence[str] | None = None,
) -> LoadedData:
    """Read the arrays that have a role; names among them go before `class_names`.

    Raises:
        UsageError: an array is damaged, or holds no images or no labels.
    """
    notes = list(roles.notes)
    splits: dict[SplitName, ArraySplit] = {}
    for split, (images, labels_key) in roles.splits.items():
        labels, label_notes = labels_of(stored[labels_key].load(), labels_key)
        if _SVHN in labels_key and 10 in labels and 0 not in labels:
            labels, digits = _digits(labels)
            label_notes += digits
        notes += label_notes
        splits[split] = ArraySplit(images, stored[images].load(), labels_key, labels)
    if roles.class_names:
        class_names = names_of(stored[roles.class_names].load(), roles.class_names)
    return load_split_arrays(splits, options, class_names=class_names, notes=notes)


def _digits(labels: list[Label]) -> tuple[list[Label], list[str]]:
    digits: list[Label] = [0 if label == 10 else label for label in labels]
    return digits, ["label 10 was taken as the digit 0, as SVHN has it"]
