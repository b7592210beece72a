"""The files of a source, listed once: of a folder, of an archive, or one file alone.

A reader asks the tree for names and contents, so it reads a folder and an archive in the same way.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from ..errors import UsageError
from ..files import check_file, read_bytes

Source = Path | bytes  # a file, or its content

PICTURE_SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif"),
    *(".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif", ".tga"),
}
# Pictures that Pillow does not read, at least not as it is installed here.
FOREIGN_SUFFIXES = {
    *(".heic", ".heif", ".svg", ".svgz", ".eps", ".ps", ".psd", ".ai", ".xcf", ".jxl", ".exr"),
    *(".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".raf", ".rw2", ".dcm", ".nii", ".ico"),
}
_JUNK_FOLDERS = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
_THUMBNAILS = {"thumbnails", "thumbs", "_thumbs", "thumbnail"}
_JUNK_FILES = {"thumbs.db", "desktop.ini", "icon\r", "ehthumbs.db"}
_PAPERS = ("readme", "licen", "attribution", "citation", "copying", "changelog")
_SHOWN = 6  # folders and files in an overview
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
# Either pair lies in a run folder: from its first step on, and of its pictures alone.
_RUN_FILES = (("recipe.toml", "env.json"), ("curves.png", "confusion_matrix.png"))


@dataclass(frozen=True, eq=False)
class SourceTree:
    """The names of all files of a source, sorted, with "/" between folders.

    source: the path that was given.
    root: the folder that the names are relative to; in an archive, the archive with the folder
    inside it, for messages.
    empty_folders: the folders without any file in them or below.
    ignored: what is not listed, as "hidden files", with the number of files or folders.
    """

    source: Path
    root: Path
    names: tuple[str, ...]
    empty_folders: tuple[str, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)
    read_member: Callable[[str, int], bytes] | None = None  # (name, max_bytes); None for a folder

    @cached_property
    def pictures(self) -> tuple[str, ...]:
        """The names of all pictures: by their suffix or, where it is missing, by their content.

        In a folder without any picture by suffix, the files without one are pictures if the first
        ones are.
        """
        by_suffix = [name for name in self.names if is_picture(name)]
        return tuple(sorted([*by_suffix, *self.without_suffix]))

    @cached_property
    def without_suffix(self) -> tuple[str, ...]:
        """The names of the pictures without a suffix."""
        known = {name.rpartition("/")[0] for name in self.names if is_picture(name)}
        bare: dict[str, list[str]] = {}
        for name in self.names:
            folder, _, base = name.rpartition("/")
            if folder not in known and not os.path.splitext(base)[1] and not is_paper(base):
                bare.setdefault(folder, []).append(name)
        looks = (names for names in bare.values() if all(map(self._begins_picture, names[:3])))
        return tuple(name for names in looks for name in names)

    def _begins_picture(self, name: str) -> bool:
        try:
            if self.read_member:
                start = self.read_member(name, 2**28)[:12]
            else:
                check_file(self.path(name), 2**28)
                with self.path(name).open("rb") as file:
                    start = file.read(12)
        except (OSError, UsageError):
            return False
        return start.startswith(_MAGIC) or (start[:4] == b"RIFF" and start[8:] == b"WEBP")

    def overview(self) -> str:
        """Return what lies in the source, for messages: its first folders and files."""
        pictures = frozenset(self.pictures)
        parts = []
        for folder, names in self.children().items():
            count = sum(name in pictures for name in names)
            what = f"{count:,} pictures" if count else f"{len(names):,} files, no pictures"
            parts.append(f"{folder}/ ({what})")
        parts += [f"{name}/ (empty)" for name in self.empty_folders if "/" not in name]
        files = self.files()
        if count := sum(name in pictures for name in files):
            parts.append(f"{count:,} pictures")
        parts += [name for name in files if name not in pictures]
        more = f", ... {len(parts)} in all" if len(parts) > _SHOWN else ""
        return (", ".join(parts[:_SHOWN]) or "nothing") + more

    @property
    def is_archive(self) -> bool:
        """Whether the files lie in an archive."""
        return self.read_member is not None

    def path(self, name: str) -> Path:
        """Return the path of a file: where it lies, or, in an archive, how messages name it."""
        return self.root / name

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return the content of a file.

        Raises:
            UsageError: it is larger than `max_bytes`, is no regular file, or cannot be read.
        """
        if self.read_member:
            return self.read_member(name, max_bytes)
        return read_bytes(self.path(name), max_bytes)

    def sources(self, names: Iterable[str], max_bytes: int) -> Iterator[Source]:
        """Yield each file as its path or, in an archive, its content."""
        for name in names:
            yield self.read(name, max_bytes) if self.is_archive else self.path(name)

    def children(self) -> dict[str, list[str]]:
        """Return the folders directly in the root, each with the names of all files below it."""
        children: dict[str, list[str]] = {}
        for name in self.names:
            head, slash, _ = name.partition("/")
            if slash:
                children.setdefault(head, []).append(name)
        return children

    def files(self) -> list[str]:
        """Return the names of the files directly in the root."""
        return [name for name in self.names if "/" not in name]

    def below(self, folder: str) -> "SourceTree":
        """Return the tree of a folder; the names are relative to it."""
        inner = self.read_member
        return replace(
            self,
            root=self.root / folder,
            names=tuple(names_below(folder, self.names)),
            empty_folders=tuple(names_below(folder, self.empty_folders)),
            read_member=inner and (lambda name, max_bytes: inner(f"{folder}/{name}", max_bytes)),
        )


def names_below(folder: str, names: Iterable[str]) -> Iterator[str]:
    """Yield the names that lie below a folder, relative to it; "" is the root, which holds all."""
    prefix = f"{folder}/" if folder else ""
    return (name.removeprefix(prefix) for name in names if name.startswith(prefix))


def is_picture(name: str) -> bool:
    """Return whether the name of a file ends like that of a picture."""
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def is_paper(name: str) -> bool:
    """Return whether a file is a README, a license or the like, which say nothing of the data."""
    path = PurePosixPath(name.lower())
    return path.stem.startswith(_PAPERS) or path.suffix in (".md", ".pdf", ".rst", ".html")


def ignored_reason(name: str, *, is_folder: bool) -> str | None:
    """Return why a file or folder of this name is never data; None if it may be."""
    lower = name.lower()
    if lower.startswith("."):
        return "hidden files and folders"
    if lower in (_JUNK_FOLDERS if is_folder else _JUNK_FILES):
        return "files of the operating system"
    if is_folder and lower in _THUMBNAILS:
        return "folders of thumbnails"
    return None


def is_run_folder(files: set[str]) -> bool:
    """Return whether a folder with these files is a run of resight."""
    return any({*pair} <= files for pair in _RUN_FILES)


def list_folder(path: Path) -> SourceTree:
    """List every file below a folder; links are followed, but never back up into themselves."""
    names: list[str] = []
    empty: list[str] = []
    ignored: Counter[str] = Counter()
    _walk(path, "", (_identity(path),), names, empty, ignored)
    return SourceTree(
        path, path, tuple(sorted(names)), tuple(sorted(empty)), dict(sorted(ignored.items()))
    )


def list_file(path: Path) -> SourceTree:
    """Return the tree of one file alone."""
    check_file(path, 2**63 - 1)
    return SourceTree(path, path.parent, (path.name,))


def _walk(
    root: Path,
    folder: str,
    above: tuple[tuple[int, int], ...],
    names: list[str],
    empty: list[str],
    ignored: Counter[str],
) -> bool:
    """Add the files below `folder`; return whether there is anything. `above`: its ancestors."""
    with os.scandir(root / folder) as scan:
        entries = list(scan)
    if folder and is_run_folder({entry.name for entry in entries}):
        ignored["run folders of resight"] += 1
        return True
    has_any = False
    for entry in entries:
        name = f"{folder}/{entry.name}" if folder else entry.name
        is_folder = _is_folder(entry)
        if reason := ignored_reason(entry.name, is_folder=is_folder):
            ignored[reason] += 1
        elif not is_folder:
            names.append(name)
            has_any = True
        elif (identity := _identity(root / name)) in above:
            ignored["links to a folder around them"] += 1
        else:
            has_any |= _walk(root, name, (*above, identity), names, empty, ignored)
    if folder and not has_any:
        empty.append(folder)
    return has_any


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself is named as a file that cannot be read
        return False


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def check_member_name(name: str, archive: Path) -> str:
    """Return the name of an archive's member, or refuse one that leads out of its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
        raise UsageError(f"{archive} is refused: its member {name!r} leads out of its folder")
    return path.as_posix()
