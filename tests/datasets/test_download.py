"""Downloads, against a server on this machine."""

import hashlib
import http.server
import io
import json
import math
import re
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import resight
from cifar_files import (
    CLASSES,
    archive,
    batch,
    cifar10_python,
    cifar100_python,
    python2_pickle,
)
from refusal import refused
from resight.datasets import cifar_download, download
from resight.errors import ResightError, UsageError
from resight.recipe import sources
from resight.recipe.sources import ARCHIVES, PARQUET_FILES, Archive

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
    bodies: dict[str, bytes] = field(default_factory=dict)  # of other paths, as "/parts/0"
    ranges: bool = True  # whether it can resume
    break_after: list[int] = field(default_factory=list)  # bytes sent, one entry a request
    status: list[int] = field(default_factory=list)  # error codes of the first requests
    sends_length: bool = True
    rate: float = math.inf  # bytes a second
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
            whole = site.bodies.get(self.path, site.body)
            start = int(re.findall(r"\d+", span)[0]) if span and site.ranges else 0
            if start >= len(whole):
                self.send_error(416)
                return
            body = whole[start:]
            self.send_response(206 if start else 200)
            if start:
                last = len(whole) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(whole)}")
            if site.sends_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            body = body[: site.break_after.pop(0)] if site.break_after else body
            pieces = 1 if site.rate == math.inf else 50
            size = math.ceil(len(body) / pieces)
            with suppress(ConnectionError):  # a slow site is left while it sends
                for place in range(0, len(body), size):
                    self.wfile.write(body[place : place + size])
                    time.sleep(size / site.rate)

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


def fetch(archive: Archive, folder: Path, **options: Any) -> Path:
    """Fetch a data set that is one file, in one form."""
    (file,) = download.fetch([(archive,)], folder, **options)
    return folder / file.file


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


# A megabyte in about 2 s, where 3 MB a second are asked for over each tenth of a second.
SLOW = {"min_rate": 3e6, "window_secs": 0.1, "wait_secs": 0}


def test_a_slow_mirror_is_left_for_the_next_which_resumes(tmp_path: Path) -> None:
    with serve(Site(rate=5e5)) as slow, serve(Site()) as site:
        assert fetch(archive_at(slow.url, site.url), tmp_path, **SLOW).read_bytes() == BODY
    assert slow.requests == [None]
    (span,) = site.requests
    assert 0 < int(str(span).removeprefix("bytes=").removesuffix("-")) < 500_000
    assert files(tmp_path) == [FILE]


def test_the_only_mirror_may_be_slow(tmp_path: Path) -> None:
    with serve(Site(rate=2e6)) as slow:
        assert fetch(archive_at(slow.url), tmp_path, **SLOW).read_bytes() == BODY
    assert slow.requests == [None]


def test_a_slow_mirror_is_taken_again_where_the_others_fail(tmp_path: Path) -> None:
    with serve(Site(rate=1e6)) as slow, serve(Site(status=[404])) as missing:
        path = fetch(archive_at(slow.url, missing.url), tmp_path, **SLOW)
    assert path.read_bytes() == BODY
    assert len(missing.requests) == 1
    first, again = slow.requests
    assert first is None
    assert again is not None  # it goes on


def test_of_slow_mirrors_the_fastest_is_taken_again(tmp_path: Path) -> None:
    with serve(Site(rate=2e5)) as slowest, serve(Site(rate=2e6)) as slow:
        path = fetch(archive_at(slowest.url, slow.url), tmp_path, **SLOW)
    assert path.read_bytes() == BODY
    assert (len(slowest.requests), len(slow.requests)) == (1, 2)


def test_a_fast_mirror_is_not_left(tmp_path: Path) -> None:
    with serve(Site(rate=2e6)) as site, serve(Site()) as other:
        fetch(archive_at(site.url, other.url), tmp_path, min_rate=1e5, window_secs=0.1)
    assert other.requests == []


# --- one data set in two forms ---------------------------------------------------------------


def two_forms(parquet: str, tar: str) -> list[download.Form]:
    """Return a form of two files on one site, and one of a single file on another."""
    parts = [BODY[:400_000], BODY[:300_000]]
    first = tuple(
        replace(archive_at(parquet, body=part), file=f"parts/{i}") for i, part in enumerate(parts)
    )
    return [first, (archive_at(tar),)]


def test_the_first_form_is_downloaded_with_all_its_files(tmp_path: Path) -> None:
    parts = {"/parts/0": BODY[:400_000], "/parts/1": BODY[:300_000]}
    with serve(Site(bodies=parts)) as site, serve(Site()) as other:
        forms = two_forms(site.url, other.url)
        assert download.fetch(forms, tmp_path) is forms[0]
        assert download.fetch(forms, tmp_path, offline=True) is forms[0]
    assert other.requests == []
    assert (tmp_path / "parts/1").read_bytes() == BODY[:300_000]


def test_the_next_form_where_the_first_fails_or_is_slow(tmp_path: Path) -> None:
    with serve(Site(body=BODY[:400_000], rate=2e5)) as slow, serve(Site()) as site:
        forms = two_forms(slow.url, site.url)
        assert download.fetch(forms, tmp_path, **SLOW) is forms[1]
    assert (tmp_path / FILE).read_bytes() == BODY
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == []  # no part is left behind


def test_a_form_that_is_there_is_taken_before_one_that_is_not(tmp_path: Path) -> None:
    forms = two_forms("http://127.0.0.1:9", "http://127.0.0.1:9")
    (tmp_path / FILE).write_bytes(BODY)
    assert download.fetch(forms, tmp_path) is forms[1]


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


# --- CIFAR by name ---------------------------------------------------------------------------


def real_labels(name: str) -> dict[str, list[int]]:
    """Labels for each file of the archive that begin as the real ones do."""
    classes = range(10 if name == "cifar10" else 100)
    return {file: [*first, *classes] for file, first in cifar_download._FIRST_LABELS[name].items()}


def cifar_archive(name: str) -> bytes:
    """The authors' archive with few images."""
    files = {}
    for seed, (file, labels) in enumerate(real_labels(name).items()):
        pixels, _ = batch(seed, len(labels))
        key = b"labels" if name == "cifar10" else b"fine_labels"
        files[file] = python2_pickle({b"data": pixels, key: labels})
    if name == "cifar10":
        return archive(files | {"batches.meta": cifar10_python()["batches.meta"]})
    return archive(files | {"meta": cifar100_python()["meta"]}, "cifar-100-python")


def cifar_parquet(name: str) -> dict[str, bytes]:
    """The same images as the hub has them: PNG, the batches in the order of the archive."""
    files = list(real_labels(name).items())
    seeds = [3, 2, 1, 4, 0, 5] if name == "cifar10" else [0, 1]  # of CIFAR-10, batch 4 is first
    names = CLASSES if name == "cifar10" else [f"fine-{i}" for i in range(100)]
    tables = {}
    for split, rows in (("train", seeds[:-1]), ("test", seeds[-1:])):
        pictures, labels = [], []
        for seed in rows:
            for pixels in batch(seed, len(files[seed][1]))[0]:
                stream = io.BytesIO()
                Image.fromarray(pixels.reshape(3, 32, 32).transpose(1, 2, 0)).save(stream, "png")
                pictures.append({"bytes": stream.getvalue(), "path": None})
            labels += files[seed][1]
        column = "label" if name == "cifar10" else "fine_label"
        features = {"img": {"_type": "Image"}, column: {"_type": "ClassLabel", "names": names}}
        table = pa.table({"img": pictures, column: labels})
        info = json.dumps({"info": {"features": features}})
        stream = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({"huggingface": info}), stream)
        tables[f"cifar/{split}-00000-of-00001.parquet"] = stream.getvalue()
    return tables


def publish(monkeypatch: pytest.MonkeyPatch, name: str, hub: str, tar: str) -> Site:
    """Put both forms of a data set into the tables of downloads; return their site."""
    body, parquet = cifar_archive(name), cifar_parquet(name)
    monkeypatch.setitem(ARCHIVES, name, archive_at(tar, body=body))
    files = [replace(archive_at(hub, body=content), file=file) for file, content in parquet.items()]
    monkeypatch.setitem(PARQUET_FILES, name, (files[0], files[1]))
    return Site(body=body, bodies={f"/{file}": content for file, content in parquet.items()})


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_the_same_from_the_hub_and_from_the_archive(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with serve(Site()) as site:
        content = publish(monkeypatch, name, site.url, site.url)
        site.body, site.bodies = content.body, content.bodies
        from_hub = resight.data(name)
        assert len(site.requests) == 2
        assert sorted(p.name for p in (cache / "downloads" / "cifar").iterdir()) == [
            "test-00000-of-00001.parquet",
            "train-00000-of-00001.parquet",
        ]
        shutil.rmtree(cache)
        site.bodies = {}  # the hub has other files
        from_archive = resight.data(name)
    assert (cache / "downloads" / FILE).exists()
    assert from_hub.fingerprint == from_archive.fingerprint
    assert (from_hub.classes, from_hub.train.ids) == (from_archive.classes, from_archive.train.ids)
    assert from_hub.test.ids == from_archive.test.ids
    file, labels = next(iter(real_labels(name).items()))
    assert from_hub.train.ids[1] == f"{file}#1"
    assert from_hub.train.labels[: len(labels)].tolist() == labels
    pixels, _ = batch(0, len(labels))
    assert np.array_equal(from_hub.train.images[: len(labels)].flatten(1).numpy(), pixels)


def test_parquet_in_an_unknown_order_is_not_taken_for_the_archive(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cifar_download._FIRST_LABELS["cifar10"]
    with serve(Site()) as site:
        content = publish(monkeypatch, "cifar10", site.url, site.url)
        site.body, site.bodies = content.body, content.bodies
        monkeypatch.setitem(first, "data_batch_3", (9,) * 20)
        dataset = resight.data("cifar10")
    assert (cache / "downloads" / FILE).exists()
    assert dataset.train.ids[0] == "data_batch_1#0"


def test_cifar_by_name_offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Site()) as site:
        content = publish(monkeypatch, "cifar10", site.url, site.url)
        site.body, site.bodies = content.body, content.bodies
        dataset = resight.data("cifar10")
    shutil.rmtree(cache / "downloads")  # the decoded images are enough
    assert resight.data("cifar10", offline=True).fingerprint == dataset.fingerprint
    with refused(f"{FILE} is not in"):
        resight.data("cifar10", image_size=16, offline=True)


def test_the_table_of_archives_is_well_formed() -> None:
    assert set(ARCHIVES) == set(PARQUET_FILES) <= set(sources.BUILT_IN)
    for entry in ARCHIVES.values():
        assert entry.mirrors[0] == "https://www.cs.toronto.edu/~kriz"
    files = [file for pair in PARQUET_FILES.values() for file in pair]
    assert len({file.file for file in files}) == len(files)
    for entry in (*ARCHIVES.values(), *files):
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        assert all(re.fullmatch(r"https://\S+[^/]", url) for url in entry.mirrors)
