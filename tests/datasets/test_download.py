"""Downloads, against a server on this machine."""

import hashlib
import http.server
import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import resight
from cifar_files import CLASSES, archive, batch, cifar10_python
from resight.datasets.download import fetch
from resight.errors import ResightError, UsageError
from resight.recipe import sources
from resight.recipe.sources import ARCHIVES, Archive

BODY = np.random.default_rng(0).bytes(1_000_000)
FILE = "data.tar.gz"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RESIGHT_OFFLINE", "HF_HUB_OFFLINE", "RESIGHT_MIRROR", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "cache"))


@dataclass
class Site:
    """What the server does, and the Range headers that it was sent."""

    body: bytes = BODY
    ranges: bool = True  # whether it can resume
    break_after: list[int] = field(default_factory=list)  # bytes sent, one entry a request
    status: list[int] = field(default_factory=list)  # refusals before it answers
    says_length: bool = True
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.asked.append(wanted)
            if site.status:
                self.send_error(site.status.pop(0))
                return
            start = int(re.findall(r"\d+", wanted)[0]) if wanted and site.ranges else 0
            if start >= len(site.body):
                self.send_error(416)
                return
            body = site.body[start:]
            self.send_response(206 if start else 200)
            if start:
                last = len(site.body) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(site.body)}")
            if site.says_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: site.break_after.pop(0)] if site.break_after else body)

        def log_message(self, *args: object) -> None:
            """Quiet."""

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


def wanted(*mirrors: str, body: bytes = BODY) -> Archive:
    return Archive(
        file=FILE,
        size=len(body),
        md5=hashlib.md5(body).hexdigest(),
        sha256=hashlib.sha256(body).hexdigest(),
        mirrors=mirrors,
    )


def files(folder: Path) -> list[str]:
    """The names of what was downloaded; the lock that others wait for stays beside it."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_whole_body(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int | None]] = []
    with serve(Site()) as site:
        path = fetch(
            wanted(site.url), tmp_path / "new", on_progress=lambda *step: steps.append(step)
        )
        assert path.read_bytes() == BODY
        assert fetch(wanted(site.url), tmp_path / "new") == path
    assert site.asked == [None]  # the second time nothing was asked for
    assert files(tmp_path / "new") == [FILE]
    assert steps[-1] == (f"download {FILE}", len(BODY), len(BODY))
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)


def test_a_body_that_breaks_off_is_resumed(tmp_path: Path) -> None:
    with serve(Site(break_after=[300_000, 200_000])) as site:
        path = fetch(wanted(site.url), tmp_path, wait_secs=0)
    assert path.read_bytes() == BODY
    assert site.asked == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_call_goes_on_where_one_stopped(tmp_path: Path) -> None:
    with serve(Site(break_after=[300_000, 0, 0, 0])) as site:
        with pytest.raises(ResightError, match=r"broke off after 300,000 of 1,000,000 bytes"):
            fetch(wanted(site.url), tmp_path, wait_secs=0)
        assert files(tmp_path) == [f"{FILE}.part"]  # nothing that could be taken as whole
        assert fetch(wanted(site.url), tmp_path).read_bytes() == BODY
    assert site.asked[-1] == "bytes=300000-"
    assert files(tmp_path) == [FILE]


def test_a_server_that_cannot_resume_starts_over(tmp_path: Path) -> None:
    with serve(Site(ranges=False, break_after=[300_000])) as site:
        path = fetch(wanted(site.url), tmp_path, wait_secs=0)
    assert path.read_bytes() == BODY


def test_a_server_that_always_breaks_off_is_given_up(tmp_path: Path) -> None:
    site = Site(ranges=False, break_after=[300_000] * 10)
    with serve(site), pytest.raises(ResightError, match="broke off"):
        fetch(wanted(site.url), tmp_path, wait_secs=0)
    assert len(site.asked) == 4  # one that got further than nothing, and three that did not


def test_a_wrong_checksum_is_refused_and_removed(tmp_path: Path) -> None:
    site = Site(body=BODY[:-1] + bytes([BODY[-1] ^ 1]))  # one bit is wrong
    with serve(site), pytest.raises(ResightError, match="wrong checksum, the file was") as caught:
        fetch(wanted(site.url), tmp_path, wait_secs=0)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == []
    assert site.asked == [None]


@pytest.mark.parametrize("left", [b"garbage", b"x" * len(BODY), b"x" * (len(BODY) + 5)])
def test_a_spoilt_rest_does_not_stand_in_the_way(tmp_path: Path, left: bytes) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(left)
    with serve(Site()) as site:
        assert fetch(wanted(site.url), tmp_path, wait_secs=0).read_bytes() == BODY
    assert files(tmp_path) == [FILE]


def test_a_whole_rest_only_needs_its_name(tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(BODY)
    with serve(Site()) as site:
        assert fetch(wanted(site.url), tmp_path).read_bytes() == BODY
    assert site.asked == []


@pytest.mark.parametrize("says_length", [True, False])
def test_another_file_is_refused(tmp_path: Path, says_length: bool) -> None:
    page = b"<html>log in to this network</html>"
    site = Site(body=page, says_length=says_length)
    with serve(site), pytest.raises(ResightError, match=r"has 35 bytes|HTTP 416"):
        fetch(wanted(site.url), tmp_path, wait_secs=0)
    assert files(tmp_path) == []


def test_a_longer_body_is_cut_and_refused(tmp_path: Path) -> None:
    site = Site(body=b"x" * 3_000_000, says_length=False)
    with serve(site), pytest.raises(ResightError, match="wrong checksum"):
        fetch(wanted(site.url), tmp_path, wait_secs=0)
    assert files(tmp_path) == []


def test_the_next_mirror_after_404(tmp_path: Path) -> None:
    with serve(Site(status=[404])) as gone, serve(Site()) as site:
        path = fetch(wanted(gone.url, site.url), tmp_path, wait_secs=0)
    assert path.read_bytes() == BODY
    assert gone.asked == [None]  # asked once: 404 does not pass
    assert site.asked == [None]


def test_a_second_mirror_resumes_what_the_first_began(tmp_path: Path) -> None:
    with serve(Site(break_after=[400_000, 0, 0, 0])) as slow, serve(Site()) as site:
        path = fetch(wanted(slow.url, site.url), tmp_path, wait_secs=0)
    assert path.read_bytes() == BODY
    assert site.asked == ["bytes=400000-"]


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    with serve(Site(status=[503, 429])) as site:
        assert fetch(wanted(site.url), tmp_path, wait_secs=0).read_bytes() == BODY
    assert len(site.asked) == 3


def test_a_certificate_that_cannot_be_verified_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(request: urllib.request.Request, timeout: float) -> None:
        asked.append(request.full_url)
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "unable to get local issuer certificate"
        raise urllib.error.URLError(error)

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(ResightError, match=r"local issuer certificate; on a Mac, .*Certificates"):
        fetch(wanted("https://one", "https://two"), tmp_path, wait_secs=0)
    assert asked == [f"https://one/{FILE}", f"https://two/{FILE}"]


def test_every_failure_is_told_in_one_line(tmp_path: Path) -> None:
    with serve(Site(status=[404])) as gone:
        pass  # closed again: nobody listens there
    with serve(Site(status=[403])) as site, pytest.raises(ResightError) as caught:
        fetch(wanted(site.url, gone.url), tmp_path, wait_secs=0)
    message = str(caught.value)
    assert f"{site.url}/{FILE}: HTTP 403 Forbidden" in message
    assert f"{gone.url}/{FILE}: " in message
    assert str(tmp_path) in message
    assert "--data PATH" in message
    assert "\n" not in message
    assert not isinstance(caught.value, UsageError)


def test_own_mirror_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Site()) as own, serve(Site()) as site:
        monkeypatch.setenv("RESIGHT_MIRROR", own.url + "/")
        fetch(wanted(site.url), tmp_path)
    assert (len(own.asked), len(site.asked)) == (1, 0)
    monkeypatch.setenv("RESIGHT_MIRROR", "/srv/mirror")
    with pytest.raises(UsageError, match=r"RESIGHT_MIRROR = '/srv/mirror' .* --data PATH"):
        fetch(wanted(site.url), tmp_path / "other")


@pytest.mark.parametrize("switch", ["parameter", "RESIGHT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    if switch != "parameter":
        monkeypatch.setenv(switch, "1")
    with serve(Site()) as site:
        with pytest.raises(ResightError) as caught:
            fetch(wanted(site.url), tmp_path, offline=switch == "parameter")
        assert site.asked == []
        (tmp_path / FILE).write_bytes(BODY)  # put there by hand
        assert fetch(wanted(site.url), tmp_path, offline=switch == "parameter").exists()
    message = str(caught.value)
    assert f"{FILE} is not in {tmp_path}" in message
    assert "--data PATH" in message
    assert "\n" not in message


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with serve(Site()) as site, pytest.raises(ResightError, match="RESIGHT_CACHE") as caught:
        fetch(wanted(site.url), tmp_path / "file" / "downloads")
    assert site.asked == []
    assert "\n" not in str(caught.value)


def test_two_downloads_at_once_do_not_mix(tmp_path: Path) -> None:
    results: list[Path] = []
    with serve(Site()) as site:
        archive = wanted(site.url)
        threads = [
            threading.Thread(target=lambda: results.append(fetch(archive, tmp_path)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [path.read_bytes() == BODY for path in results] == [True] * 4
    assert len(site.asked) == 1


def test_cifar10_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = archive(cifar10_python())
    with serve(Site(body=body)) as site:
        monkeypatch.setitem(ARCHIVES, "cifar10", wanted(site.url, body=body))
        dataset = resight.data("cifar10")
        assert resight.data("cifar10").fingerprint == dataset.fingerprint
    assert len(site.asked) == 1
    assert dataset.name == "cifar10"
    assert dataset.classes == CLASSES
    assert np.array_equal(dataset.train.images[:10].flatten(1).numpy(), batch(0)[0])
    # What was decoded serves without the archive, the network or a mirror.
    (tmp_path / "cache" / "downloads" / FILE).unlink()
    assert resight.data("cifar10", offline=True).fingerprint == dataset.fingerprint
    with pytest.raises(ResightError, match="downloads are off"):
        resight.data("cifar10", image_size=16, offline=True)


def test_the_table_of_archives_is_well_formed() -> None:
    assert set(ARCHIVES) <= set(sources.BUILT_IN)
    for entry in ARCHIVES.values():
        assert re.fullmatch(r"[0-9a-f]{32}", entry.md5)
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert all(re.fullmatch(r"https://\S+[^/]", url) for url in entry.mirrors)
        assert entry.mirrors[0] == "https://www.cs.toronto.edu/~kriz"
