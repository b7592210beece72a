"""Download of an archive: from one mirror or the next, resumed after a break, and verified."""

import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock

from .. import __version__
from ..errors import ResightError, UsageError
from ..files import move
from ..recipe.sources import Archive
from .dataset import OnProgress
from .readers.contents import no_progress

_TRIES = 3  # in a row without a byte of progress, for each mirror
_TIMEOUT_SECS = 30.0  # without an answer
_CHUNK = 1 << 18  # bytes

_NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)


class _MirrorFailed(Exception):
    """The mirror cannot give the file; another try would fail too."""


def fetch(
    archive: Archive,
    folder: Path,
    *,
    offline: bool = False,
    on_progress: OnProgress = no_progress,
    wait_secs: float = 1.0,
) -> Path:
    """Return the path of `archive` in `folder`, and download it if it is not there whole.

    Bytes go to a `.part` file, which a later call completes. The file gets its name only when size
    and SHA-256 are right. `RESIGHT_MIRROR` is a base URL to try first. A failure that may pass is
    tried again after `wait_secs`, then after twice as long each time.

    Raises:
        ResightError: no mirror has the right file, or the folder cannot be written.
        UsageError: the file is not there and `offline`, `RESIGHT_OFFLINE` or `HF_HUB_OFFLINE`
            forbids the network, or `RESIGHT_MIRROR` is not a web address.
    """
    target = folder / archive.file
    if _is_whole(target, archive):
        return target
    switches = (os.environ.get(name, "") for name in ("RESIGHT_OFFLINE", "HF_HUB_OFFLINE"))
    if offline or any(s.strip().lower() in ("1", "true", "yes", "on") for s in switches):
        raise UsageError(
            f"{archive.file} is not in {folder} (or not the official file) and downloads are "
            f"off; put {archive.mirrors[0]}/{archive.file} there, or pass --data PATH"
        )
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if _is_whole(target, archive):  # by another process, meanwhile
                return target
            for url in _urls(archive):
                try:
                    _fetch_from(url, target, archive, on_progress, wait_secs)
                    return target
                except _MirrorFailed as error:
                    failures.append(f"{url}: {error}")
    except OSError as error:
        raise ResightError(
            f"cannot write {target}: {error.strerror or error}; point RESIGHT_CACHE to a folder "
            "with room, or pass --data PATH"
        ) from error
    raise ResightError(
        f"cannot download {archive.file} ({'; '.join(failures)}); try again later (it goes on "
        f"where it stopped), put the file into {folder}, or pass --data PATH"
    )


def _urls(archive: Archive) -> list[str]:
    first = os.environ.get("RESIGHT_MIRROR", "").strip()
    if first and not first.startswith(("http://", "https://")):
        raise UsageError(
            f"RESIGHT_MIRROR = {first!r} is not an http(s) address; for a file here pass "
            "--data PATH"
        )
    bases = [first, *archive.mirrors] if first else archive.mirrors
    return [f"{base.rstrip('/')}/{archive.file}" for base in bases]


def _fetch_from(
    url: str, target: Path, archive: Archive, on_progress: OnProgress, wait_secs: float
) -> None:
    """Download from one mirror, with new requests as long as they bring more bytes.

    Raises:
        _MirrorFailed: it has no such file, has another one, or keeps breaking off.
    """
    part = target.with_name(target.name + ".part")
    may_restart = _size(part) > 0  # an older part may be damaged
    furthest = _size(part)
    tries = 0
    while True:
        if _size(part) >= archive.size:
            if _is_whole(part, archive):
                with part.open("rb+") as file:
                    os.fsync(file.fileno())
                move(part, target)
                return
            part.unlink()
            if not may_restart:
                raise _MirrorFailed("wrong checksum, the file was removed")
            may_restart, furthest = False, 0
        try:
            _transfer(url, part, archive, on_progress)
            problem = f"broke off after {_size(part):,} of {archive.size:,} bytes"
        except _NETWORK_ERRORS as error:
            problem = _describe(error)
            if isinstance(error, urllib.error.HTTPError) and error.code == 416:
                part.unlink(missing_ok=True)  # the part is longer than the file
        if _size(part) >= archive.size:
            continue
        tries = 0 if _size(part) > furthest else tries + 1
        if tries == _TRIES:
            raise _MirrorFailed(problem)
        furthest = max(furthest, _size(part))
        time.sleep(wait_secs * 2**tries)


def _transfer(url: str, part: Path, archive: Archive, on_progress: OnProgress) -> None:
    """Append the missing bytes to `part`, or write it anew if the server cannot resume."""
    done = _size(part)
    headers = {"User-Agent": f"resight/{__version__}"}
    if done:
        headers["Range"] = f"bytes={done}-"
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECS) as response:
        resumes = response.status == 206
        done = done if resumes else 0
        length = response.length  # bytes to come; None if the server does not say
        if length is not None and done + length != archive.size:
            raise _MirrorFailed(f"has {done + length:,} bytes where {archive.size:,} are expected")
        with part.open("ab" if resumes else "wb") as file:
            while done < archive.size and (chunk := response.read(_CHUNK)):
                file.write(chunk)
                done += len(chunk)
                on_progress(f"download {archive.file}", done, archive.size)


def _describe(error: Exception) -> str:
    """Return the reason in a few words; raise _MirrorFailed if another try would not change it."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        reason = f"HTTP {error.code} {error.reason}"
        if error.code < 500 and error.code not in (408, 416, 429):
            raise _MirrorFailed(reason) from error
        return reason
    if isinstance(error, urllib.error.URLError):
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise _MirrorFailed(
                f"{error.reason.verify_message}; on a Mac, Python's own Install "
                "Certificates.command brings the certificates"
            ) from error
        return str(error.reason)
    return str(error) or type(error).__name__


def _is_whole(path: Path, archive: Archive) -> bool:
    if _size(path) != archive.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == archive.sha256


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
