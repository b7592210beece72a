"""Pictures whose class is the word before the number in their file name: `cat.0.jpg`, `dog_12.png`.

The cats-and-dogs competition and the Oxford pets are so.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence

from ..tree import SourceTree
from .arrangement import arrange, by_class, says_no_class
from .contents import DataLayout, SplitName
from .labeled import LabeledPictures, box_files, labeled_layout, unlabeled_note

# Words before a number that a camera or a program wrote, not a person.
_GENERIC = {
    *("img", "image", "images", "dsc", "dscn", "dscf", "photo", "pic", "picture", "screenshot"),
    *("scan", "frame", "file", "untitled", "pxl", "mvimg", "vid", "video", "cam", "sample"),
    *("train", "test", "val", "valid", "data", "unknown", "copy", "page", "tile", "patch", "crop"),
    *("color", "wp", "dji", "gopr", "mask", "label", "id", "no", "nr", "whatsapp", "image_test"),
}
_MIN_COUNT = 2  # pictures of each class


def find(tree: SourceTree) -> DataLayout | None:
    """Recognize pictures without class folders, whose names begin with a word.

    Raises:
        UsageError: two folders mean the same split.
    """
    if not tree.pictures:
        return None
    arrangement = arrange(tree)
    labels: dict[SplitName, dict[str, str]] = {}
    omissions = arrangement.omissions
    for split, folder in arrangement.folders.items():
        folders, direct = by_class(tree, arrangement, split)
        if folders and not (len(folders) == 1 and says_no_class(next(iter(folders)))):
            return None
        names = [*direct, *(name for part in folders.values() for name in part)]
        if split != "unlabeled" and (words := _words(names)):
            labels[split] = words
        elif split == "train":
            return None
        else:
            omissions.append(unlabeled_note(tree, folder, len(names)))
    if "train" not in labels:
        return None
    counts = Counter(labels["train"].values())
    listed = ", ".join(word for word, _ in counts.most_common(4)) + ", ..." * (len(counts) > 4)
    return labeled_layout(
        tree,
        "names",
        f"the word before the number in a file name is its class ({listed})",
        LabeledPictures(labels, omissions=omissions, objection=_objection(tree)),
    )


def _words(names: Sequence[str]) -> dict[str, str] | None:
    """Return the word that each name begins with; None if they are no classes."""
    words: dict[str, str] = {}
    for name in names:
        stem = os.path.splitext(name.rpartition("/")[2])[0]
        stem = re.sub(r"(?<=\d) ?\(\d+\)$", "", stem)  # a file that was downloaded twice
        match = re.fullmatch(r"([^0-9]*[^0-9\W_])[\s._\-(]*[0-9]+\)?", stem)
        if match is None:
            return None
        words[name] = match[1]
    counts = Counter(words.values())
    short = any(len(word) < 2 and word.isascii() for word in counts)
    generic = any(word.lower() in _GENERIC for word in counts)
    if len(counts) < 2 or min(counts.values()) < _MIN_COUNT or short or generic:
        return None
    return words


def _objection(tree: SourceTree) -> str:
    boxes = box_files(tree)
    return (
        f"{boxes}; if the names of the files begin with a class, take --layout names"
        if boxes
        else ""
    )
