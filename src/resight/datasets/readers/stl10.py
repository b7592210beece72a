"""STL-10's binary files: 96 px, a color plane after the other, each plane column by column.

https://cs.stanford.edu/~acoates/stl10 describes them. Labels count from 1, and `class_names.txt`
names the classes. `unlabeled_X.bin` has no labels, so it is left out.
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from ...errors import UsageError
from ..tree import SourceTree
from .classes import names_beside
from .contents import SPLIT_NAMES, DataLayout, LoadedData, ReadOptions, SplitName
from .labels import Label
from .limits import check_memory
from .pixels import in_planes
from .split_arrays import ArraySplit, load_split_arrays
from .stored_array import MAX_BYTES

_PX = 96


def find(tree: SourceTree) -> DataLayout | None:
    """Recognize `train_X.bin` beside `train_y.bin`, and the same of test.

    Raises:
        UsageError: the labels of a file are missing.
    """
    by_name = {PurePosixPath(name).name: name for name in tree.names}
    splits: dict[SplitName, tuple[str, str]] = {}
    for split in SPLIT_NAMES:
        images, labels = f"{split}_X.bin", f"{split}_y.bin"
        if images in by_name and labels not in by_name:
            raise UsageError(f"{tree.path(by_name[images])} has no {labels} beside it; add it")
        if images in by_name:
            splits[split] = by_name[images], by_name[labels]
    if not splits:
        return None
    is_left_out = "unlabeled_X.bin" in by_name
    return DataLayout(
        "stl10",
        f"STL-10's binary files: {', '.join(splits)}",
        (*(name for pair in splits.values() for name in pair), *names_beside(tree).files),
        partial(_read, tree, splits),
        len(splits),
        ("unlabeled_X.bin: there are no labels for it",) if is_left_out else (),
        max_bytes=MAX_BYTES,
    )


def _read(
    tree: SourceTree, files: Mapping[SplitName, tuple[str, str]], options: ReadOptions
) -> LoadedData:
    splits: dict[SplitName, ArraySplit] = {}
    for split, (name, labels_name) in files.items():
        content, labels = tree.read(name, MAX_BYTES), tree.read(labels_name, 2**28)
        count = len(labels)
        side = math.isqrt(len(content) // (3 * count)) if count else 0
        if not count or 3 * side**2 * count != len(content):
            raise UsageError(
                f"{tree.path(name)} has {len(content):,} bytes for {count:,} labels, which are no "
                "square images in color; get both files again"
            )
        check_memory(f"the images of {tree.path(name)}", 2 * len(content))
        rows = np.frombuffer(content, dtype=np.uint8).reshape(count, -1)
        if side != _PX and not in_planes(rows):
            raise UsageError(
                f"{tree.path(name)} has {side} px images whose colors do not lie as STL-10's, a "
                f"{_PX} px plane after the other; save them by np.savez('data.npz', "
                "images=images, labels=labels)"
            )
        images = rows.reshape(count, 3, side, side).swapaxes(2, 3)  # (N, C, W, H) -> (N, C, H, W)
        numbers: list[Label] = [label or None for label in labels]  # 0 stands for no label
        splits[split] = ArraySplit(name, images, labels_name, numbers)
    return load_split_arrays(splits, options, class_names=names_beside(tree).names)
