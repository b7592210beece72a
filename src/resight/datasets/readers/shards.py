"""Tar files of samples, as WebDataset writes them: `0001.jpg` beside `0001.cls`.

The files of a sample share their name up to the first dot. `.cls` holds a class number, `.json` an
object with a label, `.txt` a word.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any

from ...errors import UsageError
from ..archive import list_archive
from ..splits import split_in
from ..tree import Source, SourceTree, is_picture
from .classes import names_beside
from .contents import SPLIT_NAMES, DataLayout, LoadedData, ReadOptions, SplitName, in_split_order
from .labels import Label, encode_labels, known_items
from .picture import MAX_BYTES
from .split_arrays import load_split_pictures

_LABELS = ("cls", "label", "class", "cls.txt", "label.txt", "json", "txt")
_KEYS = ("label", "class", "cls", "target", "category", "class_name", "label_name")
_AT_ONCE = 256  # pictures that are in memory together, to be shown
_MAX_LABEL_BYTES = 2**16  # of one file
_BOX = re.compile(r"\d+( [\d.]+){4}")
_MAX_WORD = 200  # letters; more are a caption


@dataclass(frozen=True)
class _Sample:
    """The names of the picture and of the label of one sample; no label is a hidden one."""

    picture: str
    label: str | None


def find(tree: SourceTree) -> DataLayout | None:
    """Recognize a tar file of samples, a folder of such files, or what was unpacked from one.

    Raises:
        UsageError: a tar file is damaged.
    """
    tars = [] if tree.is_archive else [name for name in tree.names if name.endswith(".tar")]
    first = _samples(_opened(tree, tars[0] if tars else ""))
    labeled = sum(sample.label is not None for sample in first)
    if not labeled or 2 * labeled < len(first):
        return None
    names = tars or [tree.source.name]
    splits: dict[SplitName, list[str]] = defaultdict(list)
    others = []
    for name in names:
        split = split_in(PurePosixPath(name).stem)
        if split is None and not tars:
            split = "train"
        others.append(name) if split not in SPLIT_NAMES else splits[split].append(name)
    if not splits:
        splits["train"], others = others, []
    ordered = in_split_order(splits)
    files = tuple(name for some in ordered.values() for name in some) if tars else tree.names
    return DataLayout(
        "shards",
        f"samples in tar files: {', '.join(ordered)}" if tars else "samples of a tar file",
        (*files, *(names_beside(tree).files if tars else ())),
        partial(_read, tree, ordered if tars else {next(iter(ordered)): [""]}),
        len(first) * len(names),
        (f"tar files of no split: {', '.join(others[:5])}",) if others else (),
        pictures=partial(_pictures, tree) if tars else lambda ids: tree.sources(ids, MAX_BYTES),
    )


def _opened(tree: SourceTree, shard: str) -> SourceTree:
    """Return the content of a tar file; without a name, the source itself is the content."""
    return list_archive(tree.path(shard)) if shard else tree


def _samples(tree: SourceTree) -> list[_Sample]:
    """Return the samples of a tar file: the files of each key, by what follows the first dot."""
    by_key: dict[str, dict[str, str]] = defaultdict(dict)
    for name in tree.names:
        folder, slash, base = name.rpartition("/")
        key, _, kind = base.partition(".")
        by_key[folder + slash + key][kind.lower()] = name
    samples = []
    for kinds in by_key.values():
        pictures = [kind for kind in kinds if is_picture(f"x.{kind}")]
        plain = [kind for kind in pictures if "." not in kind]
        known = [kind for kind in pictures if kind.startswith(("image.", "img.", "input."))]
        if chosen := next(iter(plain or known), None):
            # Outside a tar file, text or JSON beside a picture may be anything: boxes, captions.
            labels = _LABELS if _is_tar(tree) else _LABELS[:5]
            label = next((kinds[kind] for kind in labels if kind in kinds), None)
            samples.append(_Sample(kinds[chosen], label))
    return samples


def _is_tar(tree: SourceTree) -> bool:
    return tree.is_archive and not tree.source.name.lower().endswith((".zip", ".npz"))


def _read(
    tree: SourceTree, splits: Mapping[SplitName, Sequence[str]], options: ReadOptions
) -> LoadedData:
    labels: dict[str, list[Label]] = {}
    samples: dict[SplitName, list[tuple[str, str]]] = {}  # (tar file, picture)
    for split, shards in splits.items():
        labels[split], samples[split] = [], []
        for shard in shards:
            inside = _opened(tree, shard)  # one at a time, for each is an open file
            for sample in _samples(inside):
                labels[split].append(_label(inside, sample))
                samples[split].append((shard, sample.picture))
        _check_words(labels[split], f"the samples of {tree.path(shards[0])}")
    encoded = encode_labels(labels, names_beside(tree).names)
    ids = {
        split: [f"{shard}/{picture}".lstrip("/") for shard, picture in some]
        for split, some in samples.items()
    }
    return load_split_pictures(
        ids, encoded, lambda: _sources(tree, known_items(samples, encoded)), options
    )


def _sources(tree: SourceTree, pictures: Iterable[tuple[str, str]]) -> Iterator[Source]:
    """Yield the pictures, each given by its tar file and its name."""
    for shard, some in groupby(pictures, key=itemgetter(0)):
        yield from _opened(tree, shard).sources((name for _, name in some), MAX_BYTES)


def _pictures(tree: SourceTree, ids: Sequence[str]) -> Iterator[Source]:
    """Yield the pictures of ids such as `train-0.tar/12.jpg`, in their order."""
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        contents: dict[str, Source] = {}
        for shard, members in groupby(sorted(some), key=lambda id: id.partition(".tar/")[0]):
            own = list(members)
            names = (id.removeprefix(f"{shard}.tar/") for id in own)
            sources = _opened(tree, f"{shard}.tar").sources(names, MAX_BYTES)
            contents |= zip(own, sources, strict=True)
        yield from (contents[id] for id in some)


def _label(tree: SourceTree, sample: _Sample) -> Label:
    """Return the label of a sample: a whole number or a word; None where it has none.

    Raises:
        UsageError: its file holds something else.
    """
    if sample.label is None:
        return None
    where = tree.path(sample.label)
    try:
        text = tree.read(sample.label, _MAX_LABEL_BYTES).decode("utf-8-sig").strip()
        value: Any = text
        if sample.label.lower().endswith(".json"):
            value = json.loads(text)
            if isinstance(value, dict):
                value = next((value[key] for key in _KEYS if key in value), None)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{where} is no label ({error}); mend it or leave the sample out"
        ) from error
    if isinstance(value, str):
        digits = value.removeprefix("-")
        return int(value) if digits.isdecimal() and len(digits) < 19 else value
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise UsageError(f"{where} holds {str(value)[:80]!r}, which is no whole number and no word")


def _check_words(labels: Sequence[Label], where: str) -> None:
    """Refuse captions and boxes: texts that are long, or hardly ever the same, or five numbers."""
    words = [label for label in labels if isinstance(label, str)]
    longest = max(words, key=len, default="")
    is_text = len(longest) > _MAX_WORD or len({*words}) > max(2, len(words) // 2)
    if is_text or any("\n" in word or _BOX.match(word) for word in words):
        raise UsageError(
            f"{where} have texts such as {words[0][:60]!r} as labels, which look like captions or "
            "boxes; give each sample a .cls file with its class number"
        )
