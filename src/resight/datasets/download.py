"""Downloads: from one mirror or the next, resumed after a break, and verified."""

import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
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
MIN_BYTES_PER_SEC = 300_000.0  # of a mirror, as long as there is another
WINDOW_SECS = 20.0  # over which that is measured

_NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ssl.SSLError,
)

Form = tuple[Archive, ...]  # files that hold a whole data set; all have the same mirrors


class _MirrorFailed(Exception):
    """The mirror cannot give the file; another try would fail too."""


class _MirrorSlow(Exception):
    """The mirror sends `rate` bytes a second, which is below the minimum."""

    def __init__(self, rate: float) -> None:
        super().__init__(f"only {rate / 1000:,.0f} kB/s")
        self.rate = rate


@dataclass
class _Pace:
    """The speed of a mirror, measured over one window after the other.

    min_rate: bytes a second; 0 accepts any.
    """

    min_rate: float
    window_secs: float
    start: float = 0.0  # seconds; 0 before the first byte
    received: int = 0  # bytes since then

    def count(self, num_bytes: int) -> None:
        """Add what has come.

        Raises:
            _MirrorSlow: a window is over, in which too little came.
        """
        now = time.monotonic()
        self.start = self.start or now
        self.received += num_bytes
        if now - self.start < self.window_secs:
            return
        rate = self.received / (now - self.start)
        if rate < self.min_rate:
            raise _MirrorSlow(rate)
        self.start, self.received = now, 0


def is_offline(offline: bool) -> bool:
    """Return whether `offline`, `RESIGHT_OFFLINE` or `HF_HUB_OFFLINE` forbids the network."""
    switches = (os.environ.get(name, "") for name in ("RESIGHT_OFFLINE", "HF_HUB_OFFLINE"))
    return offline or any(s.strip().lower() in ("1", "true", "yes", "on") for s in switches)


def fetch(
    forms: Sequence[Form],
    folder: Path,
    *,
    offline: bool = False,
    on_progress: OnProgress = no_progress,
    wait_secs: float = 1.0,
    min_rate: float = MIN_BYTES_PER_SEC,
    window_secs: float = WINDOW_SECS,
) -> Form:
    """Return the first of `forms` whose files are whole in `folder`, or download one.

    Bytes go to a `.part` file, which a later call completes. A file gets its name only when size
    and SHA-256 are right. `RESIGHT_MIRROR` is a base URL to try first. A failure that may pass is
    tried again after `wait_secs`, then after twice as long each time. A mirror that sends less
    than `min_rate` bytes a second over `window_secs` is left while there is another. If all fail or
    are as slow, the fastest is taken again and goes on where it stopped.

    Raises:
        ResightError: no mirror has the right file, or the folder cannot be written.
        UsageError: no form is there and `is_offline`, or `RESIGHT_MIRROR` is not a web address.
    """
    if form := _whole_form(forms, folder):
        return form
    if is_offline(offline):
        file = forms[-1][0]
        raise UsageError(
            f"{file.file} is not in {folder} (or not the official file) and downloads are "
            f"off; put {file.mirrors[0]}/{file.file} there, or pass --data PATH"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if form := _whole_form(forms, folder):  # by another process, meanwhile
                return form
            form = _fetch_from_any(forms, folder, on_progress, wait_secs, min_rate, window_secs)
    except OSError as error:
        raise ResightError(
            f"cannot write {folder}: {error.strerror or error}; point RESIGHT_CACHE to a folder "
            "with room, or pass --data PATH"
        ) from error
    for file in (file for other in forms if other is not form for file in other):
        with suppress(OSError):  # what a slower mirror had begun
            part_of(folder / file.file).unlink()
    return form


def part_of(path: Path) -> Path:
    """Return the file that holds the first part of a download until it is whole."""
    return path.with_name(path.name + ".part")


def _whole_form(forms: Sequence[Form], folder: Path) -> Form | None:
    for form in forms:
        if all(_is_whole(folder / file.file, file) for file in form):
            for file in form:
                with suppress(OSError):  # the folder may be read-only
                    os.utime(folder / file.file)  # used now: the limit of the cache goes by it
            return form
    return None


def _fetch_from_any(
    forms: Sequence[Form],
    folder: Path,
    on_progress: OnProgress,
    wait_secs: float,
    min_rate: float,
    window_secs: float,
) -> Form:
    """Download one of the forms from the first mirror that can, else from the fastest."""
    mirrors = [(base, form) for form in forms for base in _bases(form)]
    failures: list[str] = []
    slow: list[tuple[float, str, Form]] = []  # (bytes a second, base URL, form)

    def try_mirror(base: str, form: Form, limit: float) -> bool:
        pace = _Pace(limit, window_secs)
        try:
            for file in form:
                if not _is_whole(folder / file.file, file):
                    _fetch_file(f"{base}/{file.file}", folder, file, on_progress, wait_secs, pace)
        except _MirrorFailed as error:
            failures.append(f"{base}/{file.file}: {error}")
        except _MirrorSlow as error:
            slow.append((error.rate, base, form))
        else:
            return True
        return False

    for i, (base, form) in enumerate(mirrors, start=1):
        has_other = i < len(mirrors) or bool(slow)
        if try_mirror(base, form, min_rate if has_other else 0):
            return form
    for _, base, form in sorted(slow, key=lambda mirror: mirror[0], reverse=True):
        if try_mirror(base, form, 0):
            return form
    names = " and ".join(file.file for file in forms[-1])
    raise ResightError(
        f"cannot download {names} ({'; '.join(failures)}); try again later (it goes on "
        f"where it stopped), put the file into {folder}, or pass --data PATH"
    )


def _bases(form: Form) -> list[str]:
    first = os.environ.get("RESIGHT_MIRROR", "").strip()
    if first and not first.startswith(("http://", "https://")):
        raise UsageError(
            f"RESIGHT_MIRROR = {first!r} is not an http(s) address; for a file here pass "
            "--data PATH"
        )
    mirrors = form[0].mirrors
    return [base.rstrip("/") for base in ([first, *mirrors] if first else mirrors)]


def _fetch_file(
    url: str,
    folder: Path,
    archive: Archive,
    on_progress: OnProgress,
    wait_secs: float,
    pace: _Pace,
) -> None:
    """Download a file from one mirror, with new requests as long as they bring more bytes.

    Raises:
        _MirrorFailed: it has no such file, has another one, or keeps breaking off.
        _MirrorSlow: it sends less than the minimum of `pace`.
    """
    target = folder / archive.file
    part = part_of(target)
    part.parent.mkdir(parents=True, exist_ok=True)
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
            _transfer(url, part, archive, on_progress, pace)
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


def _transfer(url: str, part: Path, archive: Archive, on_progress: OnProgress, pace: _Pace) -> None:
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
            while done < archive.size and (chunk := response.read1(_CHUNK)):
                file.write(chunk)
                done += len(chunk)
                on_progress(f"download {archive.file}", done, archive.size)
                pace.count(len(chunk))


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
