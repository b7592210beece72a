"""Downloads, against a server on this machine."""

import hashlib
import http.server
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import resight
from cifar_files import CLASSES, archive, batch, cifar10_python
from refusal import refused
from resight.datasets.download import fetch
from resight.errors import ResightError, UsageError
from resight.recipe import sources
from resight.recipe.sources import ARCHIVES, Archive

BODY = np.random.default_rng(0).bytes(1_000_000)
FILE = "data.tar.gz"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RESIGHT_OFFLINE", "HF_HUB_OFFLINE", "RESIGHT_MIRROR", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


@dataclass
class Site:
    """How the server behaves, and the Range header of every request."""

    body: bytes = BODY
    ranges: bool = True  # whether it can resume
    break_after: list[int] = field(default_factory=list)  # bytes sent, one entry a request
    status: list[int] = field(default_factory=list)  # error codes of the first requests
    sends_length: bool = True
    requests: list[str | None] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            span = self.headers.get("Range")
            site.requests.append(span)
            if site.status:
                self.send_error(site.status.pop(0))
                return
            start = int(re.findall(r"\d+", span)[0]) if span and site.ranges else 0
            if start >= len(site.body):
                self.send_error(416)
                return
            body = site.body[start:]
            self.send_response(206 if start else 200)
            if start:
                last = len(site.body) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(site.body)}")
            if site.sends_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: site.break_after.pop(0)] if site.break_after else body)

        def log_message(self, *args: object) -> None:
            """Print nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def archive_at(*mirrors: str, body: bytes = BODY) -> Archive:
    sha256 = hashlib.sha256(body).hexdigest()
    return Archive(file=FILE, size=len(body), sha256=sha256, mirrors=mirrors)


def files(folder: Path) -> list[str]:
    """Return the names of all files but the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_whole_body(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int | None]] = []
    with serve(Site()) as site:
        path = fetch(
            archive_at(site.url), tmp_path / "new", on_progress=lambda *call: calls.append(call)
        )
        assert path.read_bytes() == BODY
        assert fetch(archive_at(site.url), tmp_path / "new") == path
    assert site.requests == [None]  # no second request
    assert files(tmp_path / "new") == [FILE]
    assert calls[-1] == (f"download {FILE}", len(BODY), len(BODY))
    assert calls == sorted(calls)


def test_a_body_that_breaks_off_is_resumed(tmp_path: Path) -> None:
    with serve(Site(break_after=[300_000, 200_000])) as site:
        path = fetch(archive_at(site.url), tmp_path, wait_secs=0)
    assert path.read_bytes() == BODY
    assert site.requests == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_call_goes_on_where_one_stopped(tmp_path: Path) -> None:
    with serve(Site(break_after=[300_000, 0, 0, 0])) as site:
        with refused("broke off after 300,000 of 1,000,000 bytes", ResightError):
            fetch(archive_at(site.url), tmp_path, wait_secs=0)
        assert files(tmp_path) == [f"{FILE}.part"]
        assert fetch(archive_at(site.url), tmp_path).read_bytes() == BODY
    assert site.requests[-1] == "bytes=300000-"
    assert files(tmp_path) == [FILE]


def test_a_server_that_cannot_resume_starts_over(tmp_path: Path) -> None:
    with serve(Site(ranges=False, break_after=[300_000])) as site:
        path = fetch(archive_at(site.url), tmp_path, wait_secs=0)
    assert path.read_bytes() == BODY


def test_a_server_that_always_breaks_off_is_given_up(tmp_path: Path) -> None:
    site = Site(ranges=False, break_after=[300_000] * 10)
    with serve(site), refused("broke off", ResightError):
        fetch(archive_at(site.url), tmp_path, wait_secs=0)
    assert len(site.requests) == 4  # the first brought bytes, the next three no more


def test_a_wrong_checksum_is_refused_and_removed(tmp_path: Path) -> None:
    site = Site(body=BODY[:-1] + bytes([BODY[-1] ^ 1]))  # one bit is wrong
    with serve(site), refused("wrong checksum, the file was removed", ResightError):
        fetch(archive_at(site.url), tmp_path, wait_secs=0)
    assert files(tmp_path) == []
    assert site.requests == [None]


@pytest.mark.parametrize("part", [b"garbage", b"x" * len(BODY), b"x" * (len(BODY) + 5)])
def test_a_damaged_part_is_replaced(tmp_path: Path, part: bytes) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(part)
    with serve(Site()) as site:
        assert fetch(archive_at(site.url), tmp_path, wait_secs=0).read_bytes() == BODY
    assert files(tmp_path) == [FILE]


def test_a_whole_part_is_not_downloaded_again(tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(BODY)
    with serve(Site()) as site:
        assert fetch(archive_at(site.url), tmp_path).read_bytes() == BODY
    assert site.requests == []


@pytest.mark.parametrize("sends_length", [True, False])
def test_a_login_page_is_refused(tmp_path: Path, sends_length: bool) -> None:
    page = b"<html>log in to this network</html>"
    site = Site(body=page, sends_length=sends_length)
    with serve(site), pytest.raises(ResightError, match=r"has 35 bytes|HTTP 416"):
        fetch(archive_at(site.url), tmp_path, wait_secs=0)
    assert files(tmp_path) == []


def test_a_longer_body_is_refused(tmp_path: Path) -> None:
    site = Site(body=b"x" * 3_000_000, sends_length=False)
    with serve(site), refused("wrong checksum", ResightError):
        fetch(archive_at(site.url), tmp_path, wait_secs=0)
    assert files(tmp_path) == []


def test_the_next_mirror_after_404(tmp_path: Path) -> None:
    with serve(Site(status=[404])) as missing, serve(Site()) as site:
        path = fetch(archive_at(missing.url, site.url), tmp_path, wait_secs=0)
    assert path.read_bytes() == BODY
    assert missing.requests == [None]  # once: 404 does not pass
    assert site.requests == [None]


def test_a_second_mirror_resumes_the_part_of_the_first(tmp_path: Path) -> None:
    with serve(Site(break_after=[400_000, 0, 0, 0])) as slow, serve(Site()) as site:
        path = fetch(archive_at(slow.url, site.url), tmp_path, wait_secs=0)
    assert path.read_bytes() == BODY
    assert site.requests == ["bytes=400000-"]


def test_a_busy_server_gets_more_requests(tmp_path: Path) -> None:
    with serve(Site(status=[503, 429])) as site:
        assert fetch(archive_at(site.url), tmp_path, wait_secs=0).read_bytes() == BODY
    assert len(site.requests) == 3


def test_a_mirror_with_a_bad_certificate_gets_one_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = []

    def refuse(request: urllib.request.Request, timeout: float) -> None:
        urls.append(request.full_url)
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "unable to get local issuer certificate"
        raise urllib.error.URLError(error)

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with refused("unable to get local issuer certificate; on a Mac, Python's own", ResightError):
        fetch(archive_at("https://one", "https://two"), tmp_path, wait_secs=0)
    assert urls == [f"https://one/{FILE}", f"https://two/{FILE}"]


def test_one_line_has_the_failure_of_every_mirror(tmp_path: Path) -> None:
    with serve(Site()) as closed:
        pass
    forbidden = Site(status=[403])
    with serve(forbidden), refused("HTTP 403 Forbidden", ResightError) as error:
        fetch(archive_at(forbidden.url, closed.url), tmp_path, wait_secs=0)
    message = str(error.value)
    assert f"{forbidden.url}/{FILE}: HTTP 403 Forbidden; {closed.url}/{FILE}: " in message
    assert f"put the file into {tmp_path}, or pass --data PATH" in message
    assert not isinstance(error.value, UsageError)


def test_the_mirror_of_the_environment_is_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(Site()) as mirror, serve(Site()) as site:
        monkeypatch.setenv("RESIGHT_MIRROR", mirror.url + "/")
        fetch(archive_at(site.url), tmp_path)
    assert (len(mirror.requests), len(site.requests)) == (1, 0)
    monkeypatch.setenv("RESIGHT_MIRROR", "/srv/mirror")
    with refused("RESIGHT_MIRROR = '/srv/mirror' is not an http(s) address"):
        fetch(archive_at(site.url), tmp_path / "other")


@pytest.mark.parametrize("switch", ["parameter", "RESIGHT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_there_are_no_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    if switch != "parameter":
        monkeypatch.setenv(switch, "1")
    with serve(Site()) as site:
        with refused(f"{FILE} is not in {tmp_path}") as error:
            fetch(archive_at(site.url), tmp_path, offline=switch == "parameter")
        assert str(error.value).endswith("or pass --data PATH")
        (tmp_path / FILE).write_bytes(BODY)
        assert fetch(archive_at(site.url), tmp_path, offline=switch == "parameter").exists()
    assert site.requests == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with serve(Site()) as site, refused("point RESIGHT_CACHE to a folder", ResightError):
        fetch(archive_at(site.url), tmp_path / "file" / "downloads")
    assert site.requests == []


def test_downloads_at_once_do_not_mix(tmp_path: Path) -> None:
    with serve(Site()) as site, ThreadPoolExecutor(4) as pool:
        downloads = [pool.submit(fetch, archive_at(site.url), tmp_path) for _ in range(4)]
        assert all(download.result().read_bytes() == BODY for download in downloads)
    assert len(site.requests) == 1


def test_cifar10_by_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = archive(cifar10_python())
    with serve(Site(body=body)) as site:
        monkeypatch.setitem(ARCHIVES, "cifar10", archive_at(site.url, body=body))
        dataset = resight.data("cifar10")
        assert resight.data("cifar10").fingerprint == dataset.fingerprint
    assert len(site.requests) == 1
    assert dataset.name == "cifar10"
    assert dataset.classes == CLASSES
    assert np.array_equal(dataset.train.images[:10].flatten(1).numpy(), batch(0)[0])
    (cache / "downloads" / FILE).unlink()  # the decoded images are enough
    assert resight.data("cifar10", offline=True).fingerprint == dataset.fingerprint
    with refused("downloads are off"):
        resight.data("cifar10", image_size=16, offline=True)


def test_the_table_of_archives_is_well_formed() -> None:
    assert set(ARCHIVES) <= set(sources.BUILT_IN)
    for entry in ARCHIVES.values():
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert all(re.fullmatch(r"https://\S+[^/]", url) for url in entry.mirrors)
        assert entry.mirrors[0] == "https://www.cs.toronto.edu/~kriz"
