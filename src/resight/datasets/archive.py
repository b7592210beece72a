"""Archives as sources: the members are listed once and read by name; nothing is left on disk.

A zip and a plain tar are read where they lie. A packed tar cannot be, so it is unpacked once, into
one temporary file without a name.
"""

import gzip
import stat
import tarfile
import tempfile
import threading
import weakref
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ResightError, UsageError
from ..files import check_file
from .readers.limits import check_unpacked
from .tree import SourceTree, check_member_name, ignored_reason, is_run_folder

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the latter begins a zip without members
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
_TAR_NAMES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar")
_MAX_NAME = 2**16  # bytes of a member's long name, which the archive holds as a member of its own
_NAME_TYPES = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_CHUNK = 2**20  # bytes copied at a time

ReadMember = Callable[[str, int], bytes]  # (name, max_bytes) -> content


class _TarInfo(tarfile.TarInfo):
    """The header of a member; a header that would make tarfile read without an end is refused."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        """Read what follows a header: the method that tarfile has for subclasses to override.

        Not `frombuf`: Debian's Python 3.13.5 does not call it for the members of an archive.
        """
        if self.size < 0 or (self.type in _NAME_TYPES and self.size > _MAX_NAME):
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip or a tar, by its content, or by its name if it is damaged."""
    check_file(path, 2**63 - 1)
    try:
        with path.open("rb") as file:
            start = file.read(tarfile.BLOCKSIZE)
    except OSError:  # what opens it next names the reason
        return False
    if start.startswith(_ZIP) or _is_tar(start):
        return True
    if not start.startswith(_PACKED):
        return False
    if path.name.lower().endswith(_TAR_NAMES):
        return True
    try:
        with gzip.open(path) as unpacked:  # a packed file of MNIST is no archive
            return start.startswith(b"\x1f\x8b") and _is_tar(unpacked.read(tarfile.BLOCKSIZE))
    except (OSError, EOFError, ValueError):
        return False


def _is_tar(start: bytes) -> bool:
    return start[257:262] == b"ustar"


def list_archive(path: Path) -> SourceTree:
    """List the members of a zip or a tar.

    Raises:
        UsageError: it is damaged, encrypted or a bomb, or has members that are links or devices or
            lead out of its folder.
    """
    packed = check_file(path, 2**63 - 1)
    with path.open("rb") as file:
        is_zip = file.read(4) in _ZIP
    try:
        names, folders, read = (_list_zip if is_zip else _list_tar)(path, packed)
    except ResightError:
        raise
    except Exception as error:  # tarfile and zipfile raise many kinds for forged headers
        raise UsageError(
            f"{path} is not a whole archive ({_reason(error)}); get it again"
        ) from error
    return _archive_tree(path, names, folders, read)


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_count(path: Path, count: int, packed: int) -> None:
    most = max(1000, packed // 64)  # a member with a picture takes more bytes than 64
    if count > most:
        raise UsageError(
            f"{path} is refused: it has more than {most:,} members in {packed:,} bytes, which "
            "archives of pictures never have; get the original file"
        )


def _list_zip(path: Path, packed: int) -> tuple[list[str], list[str], ReadMember]:
    archive = zipfile.ZipFile(path)  # it closes itself
    members: dict[str, zipfile.ZipInfo] = {}
    folders: list[str] = []
    infos = archive.infolist()
    _check_count(path, len(infos), packed)
    check_unpacked(str(path), packed=packed, unpacked=sum(info.file_size for info in infos))
    for info in infos:
        name = check_member_name(info.filename, path)
        if info.is_dir():
            folders.append(name)
            continue
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise UsageError(f"{path} is refused: its member {name!r} is a link or a device")
        if info.flag_bits & 1:
            raise UsageError(f"{path} is encrypted; unpack it with its password, give the folder")
        members[name] = info

    def read(name: str, max_bytes: int) -> bytes:
        _check_size(path / name, members[name].file_size, max_bytes)
        try:
            return archive.read(members[name])
        except Exception as error:  # zipfile and its unpackers raise many kinds for forged content
            raise UsageError(
                f"{path / name} cannot be unpacked ({_reason(error)}); get the archive again"
            ) from error

    return [*members], folders, read


def _list_tar(path: Path, packed: int) -> tuple[list[str], list[str], ReadMember]:
    with path.open("rb") as file:
        is_plain = not file.read(6).startswith(_PACKED)
    places: dict[str, tuple[int, int]] = {}  # name -> offset and size in `store`
    folders: list[str] = []
    store: BinaryIO = path.open("rb") if is_plain else tempfile.TemporaryFile()  # noqa: SIM115
    unpacked = count = 0
    try:
        # A packed tar is read in one pass, without seeking.
        with tarfile.open(path, "r:" if is_plain else "r|*", tarinfo=_TarInfo) as archive:
            while member := archive.next():
                archive.members.clear()  # type: ignore[attr-defined]  # or each header is kept
                count += 1
                _check_count(path, count, packed)
                name = _check_member(member, path)
                if member.isdir():
                    folders.append(name)
                    continue
                unpacked += member.size
                check_unpacked(str(path), packed=packed, unpacked=unpacked)
                if is_plain:
                    places[name] = member.offset_data, member.size
                    if member.offset_data + member.size > packed:
                        raise tarfile.ReadError("unexpected end of data")
                else:
                    places[name] = store.tell(), member.size
                    _copy(archive, member, store)
    except BaseException:
        store.close()
        raise
    lock = threading.Lock()

    def read(name: str, max_bytes: int) -> bytes:
        offset, size = places[name]
        _check_size(path / name, size, max_bytes)
        with lock:
            store.seek(offset)
            return store.read(size)

    weakref.finalize(read, store.close)
    return [*places], folders, read


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, store: BinaryIO) -> None:
    source = archive.extractfile(member)
    if source is None:
        raise tarfile.ReadError(f"{member.name!r} has no content")
    while chunk := source.read(_CHUNK):
        try:
            store.write(chunk)
        except OSError as error:
            raise ResightError(
                f"there is no room to unpack the archive in {tempfile.gettempdir()} "
                f"({error.strerror}); unpack it yourself and give the folder"
            ) from error


def _check_member(member: tarfile.TarInfo, path: Path) -> str:
    """Refuse an archive made to write outside its folder, even though nothing is written."""
    name = check_member_name(member.name, path)
    if member.size < 0:  # an extended header can say so
        raise UsageError(f"{path} is refused: its member {member.name!r} has a negative size")
    if member.issparse() or not (member.isfile() or member.isdir()):
        raise UsageError(f"{path} is refused: its member {member.name!r} is a link or a device")
    return name


def _check_size(path: Path, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise UsageError(
            f"{path} has {size:,} bytes, but such a file has at most {max_bytes:,}; "
            "give a smaller one in its place"
        )


def _archive_tree(
    path: Path,
    names: Sequence[str],
    folders: Sequence[str],
    read_member: ReadMember,
) -> SourceTree:
    """Return the tree of an archive of these files and folders, without what is never data."""
    folders_of: dict[str, set[str]] = defaultdict(set)
    for name in names:
        folder, _, file = name.rpartition("/")
        folders_of[folder].add(file)
    runs = tuple(
        f"{folder}/" for folder, files in folders_of.items() if folder and is_run_folder(files)
    )
    ignored = Counter({"run folders of resight": len(runs)})
    kept: list[str] = []
    for name in names:
        if reason := _ignored_reason(name, is_folder=False):
            ignored[reason] += 1
        elif not name.startswith(runs):
            kept.append(name)
    around = (name.split("/")[:-1] for name in kept)
    full = {"/".join(parts[:end]) for parts in around for end in range(1, len(parts) + 1)}
    empty = {
        name
        for name in folders
        if name not in full
        and name != "."
        and not _ignored_reason(name, is_folder=True)
        and not f"{name}/".startswith(runs)
    }
    counts = dict(sorted((+ignored).items()))
    return SourceTree(path, path, tuple(sorted(kept)), tuple(sorted(empty)), counts, read_member)


def _ignored_reason(name: str, *, is_folder: bool) -> str | None:
    """Return why a member is never data, by its name or that of a folder around it."""
    *around, last = name.split("/")
    reasons = [ignored_reason(folder, is_folder=True) for folder in around]
    return next(filter(None, [*reasons, ignored_reason(last, is_folder=is_folder)]), None)
