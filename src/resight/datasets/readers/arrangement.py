"""Which folders of a source are splits, which lie around the data, and which hold no classes."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ...errors import UsageError
from ..splits import split_of
from ..tree import SourceTree, names_below
from .contents import SplitName

Role = SplitName | Literal["unlabeled"]

# What folders are called that lie around pictures and say nothing of their class.
_CONTAINERS = {
    *("images", "image", "imgs", "img", "pictures", "pics", "photos", "jpegimages", "jpeg", "jpg"),
    *("png", "data", "dataset", "raw", "all", "files"),
}
_NO_CLASS = {*_CONTAINERS, "unknown", "unlabeled", "unclassified", "none"}
_ANNOTATIONS = {
    *("annotation", "annotations", "mask", "masks", "label", "labels", "boxes", "bbox", "bboxes"),
    *("segmentation", "segmentations", "segmentationclass", "segmentationobject", "groundtruth"),
    *("gt", "xml", "xmls", "json", "meta", "metadata", "trimap", "trimaps", "keypoints", "depth"),
    *("landmarks", "imagesets"),
}
_PARTS = {
    *_CONTAINERS,
    *("part", "parts", "batch", "chunk", "shard", "fold", "folder", "group", "set"),
}
# A folder of such a name may also be a class: a vehicle, or an abbreviation of anything.
_BARE = {"train", "Train", "TRAIN", "trn", "TRN", "tr", "TR"}


@dataclass(frozen=True)
class Arrangement:
    """The folder of each split, "" for the source itself.

    is_divided: whether names of folders say the splits; else all is `train`.
    beside: the folders that belong to no split, with their numbers of pictures.
    """

    folders: Mapping[Role, str]
    is_divided: bool
    beside: Mapping[str, int]

    @property
    def omissions(self) -> list[str]:
        """A line on each folder beside the splits."""
        return [
            f"{folder}/ ({count:,} pictures) belongs to no split or class"
            for folder, count in self.beside.items()
        ]


def arrange(tree: SourceTree) -> Arrangement:
    """Find the folders of the splits, below folders such as `images` that lie around all of them.

    Raises:
        UsageError: two folders mean the same split.
    """
    root = ""
    beside: dict[str, int] = {}
    while True:
        counts = _counts(tree, root)
        splits = _splits(tree, root, counts)
        inner = None if splits else _inner_root(tree, root, counts)
        if inner is None:
            break
        beside |= {_join(root, name): n for name, n in counts.items() if name != inner}
        root = _join(root, inner)
    if not splits:
        return Arrangement({"train": root}, False, beside)
    folders: dict[Role, str] = {}
    for name, split in splits.items():
        if split in folders:
            raise UsageError(
                f"{tree.path(folders[split])} and {tree.path(_join(root, name))} both mean the "
                f"{split} split; merge them, or rename one"
            )
        folders[split] = _join(root, name)
    rest = counts.keys() - splits
    classes = {name for name in rest if _may_be_class(name)}
    if "train" not in folders and classes:  # `cat/ dog/ test/`
        folders["train"] = root
        rest -= classes
    beside |= {_join(root, name): n for name, n in counts.items() if name in rest}
    ordered = {
        split: folders[split] for split in ("train", "val", "test", "unlabeled") if split in folders
    }
    return Arrangement(
        {split: _inside(tree, folder, split) for split, folder in ordered.items()}, True, beside
    )


def by_class(
    tree: SourceTree, arrangement: Arrangement, split: Role
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the pictures in each folder of a split, and those in none."""
    root = arrangement.folders[split]
    prefix = f"{root}/" if root else ""
    others = [
        f"{folder}/"
        for folder in (*arrangement.folders.values(), *arrangement.beside)
        if folder != root and folder.startswith(prefix)
    ]
    folders: dict[str, list[str]] = {}
    direct: list[str] = []
    for name in tree.pictures:
        if not name.startswith(prefix) or name.startswith(tuple(others)):
            continue
        head, slash, _ = name.removeprefix(prefix).partition("/")
        if slash:
            folders.setdefault(head, []).append(name)
        else:
            direct.append(name)
    return folders, direct


def is_annotation(name: str) -> bool:
    """Return whether a folder of this name holds masks, boxes or other annotations."""
    words = [word for word in re.findall(r"[a-z]+", name.lower()) if split_of(word) is None]
    return "".join(words) in _ANNOTATIONS


def _may_be_class(name: str) -> bool:
    return not is_annotation(name) and name.lower() not in _CONTAINERS


def says_no_class(name: str) -> bool:
    """Return whether a folder of this name says nothing of the class of its pictures."""
    return name.lower() in _NO_CLASS or split_of(name) is not None


def are_parts(names: list[str]) -> bool:
    """Return whether folders are parts of one, such as `images_1`, `images_2`, by their names."""
    stems = {re.sub(r"\d+", "#", name.lower()) for name in names}
    if len(names) < 2 or len(stems) > 1:
        return False
    [stem] = stems
    return not _PARTS.isdisjoint(re.findall(r"[a-z]+", stem))


def named_split(name: str) -> SplitName | None:
    """Return the split of labeled images that a name means; None if it means none."""
    split = split_of(name)
    return None if split == "unlabeled" else split


def _join(root: str, name: str) -> str:
    return f"{root}/{name}" if root else name


def _counts(tree: SourceTree, root: str) -> Counter[str]:
    """Return the number of pictures below each folder in `root` that has any."""
    parts = (name.partition("/") for name in names_below(root, tree.pictures))
    return Counter(head for head, slash, _ in parts if slash)


def _splits(tree: SourceTree, root: str, counts: Mapping[str, int]) -> dict[str, Role]:
    """Return the folders that mean a split and hold pictures."""
    splits = {name: split for name in counts if (split := split_of(name))}
    splits = splits or _splits_by_rest([*counts])
    if len(splits) == 1 and not _BARE.isdisjoint(splits) and _is_class(tree, root, counts):
        return {}
    return splits if {*splits.values()} - {"unlabeled"} else {}


def _splits_by_rest(names: list[str]) -> dict[str, Role]:
    """Return the splits of `asl_train` and `asl_test`: what is left without the words of both."""
    words = {name: re.findall(r"[a-z]+", name.lower()) for name in names}
    shared = set.intersection(*map(set, words.values())) if words else set()
    rest = {name: "_".join(w for w in words[name] if w not in shared) for name in names}
    splits = {name: split for name in names if (split := split_of(rest[name]))}
    return splits if shared and "train" in splits.values() and len(splits) > 1 else {}


def _is_class(tree: SourceTree, root: str, counts: Mapping[str, int]) -> bool:
    """Whether `train` is a class beside `bus` and `car`: all of them hold pictures directly."""
    below = names_below(root, tree.pictures)
    direct = {name.partition("/")[0] for name in below if name.count("/") == 1}
    classes = {name for name in counts if _may_be_class(name)}
    return len(classes) > 1 and classes <= direct


def _inner_root(tree: SourceTree, root: str, counts: Mapping[str, int]) -> str | None:
    """Return the one folder in `root` that holds the data, if it is around all of them."""
    if _holds_pictures(tree, root):
        return None
    containers = [name for name in counts if name.lower() in _CONTAINERS]
    if len(containers) == 1 and all(is_annotation(n) for n in counts if n not in containers):
        return containers[0]
    if len(counts) != 1 or any("/" not in name for name in names_below(root, tree.empty_folders)):
        return None
    [only] = counts
    return only if _counts(tree, _join(root, only)) else None


def _holds_pictures(tree: SourceTree, folder: str) -> bool:
    """Whether pictures lie directly in a folder."""
    return any("/" not in name for name in names_below(folder, tree.pictures))


def _inside(tree: SourceTree, folder: str, split: Role) -> str:
    """Return the folder of a split without those around its classes: `seg_train/seg_train`."""
    while folder:
        counts = _counts(tree, folder)
        if _holds_pictures(tree, folder) or len(counts) != 1:
            break
        [inner] = counts
        is_same = split_of(inner) == split or inner == folder.rpartition("/")[2]
        if not is_same and inner.lower() not in _CONTAINERS:
            break
        folder = f"{folder}/{inner}"
    return folder
