"""Decoded data sets on disk, so that pictures are decoded once.

An entry is one safetensors file, which is mapped into memory. Its name is a hash of the content of
the source, the options of reading and the version of the decoder. If an entry is damaged, it is
made again. If the cache cannot be written, the data set gets a note.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import PIL
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import ResightError
from ..files import atomic_write, write_text
from .dataset import Dataset, Split
from .readers.contents import ReadOptions

_VERSION = f"1, Pillow {PIL.__version__}"  # raise the number when decoding changes
_MIN_AGE_NS = 2 * 10**9  # a younger file may still change within one tick of its clock


def cache_folder() -> Path:
    """Return `$RESIGHT_CACHE`, else `$XDG_CACHE_HOME/resight`, else `~/.cache/resight`."""
    if folder := os.environ.get("RESIGHT_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "resight"


def entry_key(digest: str, options: ReadOptions) -> str:
    """Return the name of the entry for content with this digest, read with these options."""
    text = f"{_VERSION}|{digest}|{options.image_size}|{options.skip_unreadable}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest_of(digests: Mapping[str, str]) -> str:
    """Return one digest for the files of a source, each a name and the SHA-256 of its bytes."""
    lines = "\n".join(f"{name}\0{digest}" for name, digest in digests.items())
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def digest_files(files: Mapping[str, Path]) -> str:
    """Return `digest_of` the bytes of `files`, remembered until one of them changes.

    It takes seconds to read 60,000 pictures only to learn that they are the same. As in git's
    index, a file counts as unchanged while its size, times and inode are.
    """
    state = [(name, os.path.abspath(path), _stat(path)) for name, path in files.items()]
    memo = cache_folder() / "digests" / hashlib.sha256(repr(state).encode()).hexdigest()[:32]
    try:
        remembered = memo.read_text(encoding="ascii")
        if len(remembered) == 64:
            return remembered
    except (OSError, ValueError):
        pass
    digest = digest_of({name: _digest(path) for name, path in files.items()})
    newest_ns = max(time_ns for _, _, (_, _, *times) in state for time_ns in times)
    if newest_ns < time.time_ns() - _MIN_AGE_NS:
        try:
            memo.parent.mkdir(parents=True, exist_ok=True)
            write_text(memo, digest)
        except (OSError, ResightError):
            pass  # the entry itself will not be writable either, and that is noted
    return digest


def read_entry(key: str, name: str) -> Dataset | None:
    """Return the data set stored under `key`, or None if it is missing or damaged.

    A flipped bit in a pixel is not noticed.
    """
    try:
        with safe_open(_entry(key), framework="pt") as file:
            about = json.loads(file.metadata()["resight"])
            train, test = (_unpack(file.get_tensor, part) for part in ("train", "test"))
        classes, notes = tuple(about["classes"]), tuple(about["notes"])
        return Dataset(name, classes, train, test, notes, about["fingerprint"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def write_entry(key: str, dataset: Dataset) -> Dataset:
    """Store `dataset` under `key` and return it, with a note if it cannot be stored."""
    about = {name: getattr(dataset, name) for name in ("classes", "notes", "fingerprint")}
    tensors = _pack(dataset.train, "train") | _pack(dataset.test, "test")
    path = _entry(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            save_file(tensors, temporary, metadata={"resight": json.dumps(about)})
    except (OSError, ResightError, SafetensorError) as error:
        note = f"not cached ({error}); point RESIGHT_CACHE to a folder that can be written"
        return replace(dataset, notes=(*dataset.notes, note))
    return dataset


def _stat(path: Path) -> tuple[int, int, int, int]:
    """Return inode, size, and the times of the last change of content and of state, in ns."""
    try:
        stat = path.stat()
    except OSError:  # a dangling link, which its reader will name as unreadable
        return 0, 0, 0, 0
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"


def _entry(key: str) -> Path:
    return cache_folder() / "decoded" / f"{key}.safetensors"


def _pack(split: Split, part: str) -> dict[str, Tensor]:
    # NUL parts the ids, since no file name contains it.
    ids = bytearray("\0".join(split.ids).encode("utf-8", "surrogateescape"))
    return {
        f"{part}.images": split.images.contiguous(),
        f"{part}.labels": split.labels,
        f"{part}.ids": torch.frombuffer(ids, dtype=torch.uint8),
    }


def _unpack(tensor: Callable[[str], Tensor], part: str) -> Split:
    ids = tensor(f"{part}.ids").numpy().tobytes().decode("utf-8", "surrogateescape").split("\0")
    return Split(tensor(f"{part}.images"), tensor(f"{part}.labels"), tuple(ids))
