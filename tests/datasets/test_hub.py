"""Data sets of the hub, through huggingface_hub, against a server on this machine."""

import hashlib
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save

import resight
from refusal import refused
from resight.errors import ResightError
from resight.networks import build_model
from resight.recipe import ResNet9
from resight.recipe.sources import HUB_NAMES, HubName, find_source, source_name
from resight.recipe.toml import from_toml
from resight.training.setup import TrainSetup, prepare, resolve
from tiny_runs import tiny_recipe

constants = pytest.importorskip("huggingface_hub.constants")

CLASSES = ("cat", "dog")


def parquet(seed: int, count: int = 6) -> bytes:
    """A file as the hub has it: PNG and numbers, and the names of the classes in its metadata."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    pictures = []
    for image in pixels:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "png")
        pictures.append({"bytes": stream.getvalue(), "path": None})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": CLASSES}}
    table = pa.table({"image": pictures, "label": [row % 2 for row in range(count)]})
    info = json.dumps({"info": {"features": features}})
    stream = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"huggingface": info}), stream)
    return stream.getvalue()


TRAIN, TEST, VAL = parquet(0), parquet(1, 4), parquet(2, 2)
PLAIN = {
    "README.md": b"# Pets",
    "data/train-00000-of-00001.parquet": TRAIN,
    "data/validation-00000-of-00001.parquet": VAL,
    "data/test-00000-of-00001.parquet": TEST,
}


@dataclass
class Hub:
    """The repositories, each a commit for each revision, and the files of each commit."""

    revisions: dict[str, dict[str, str]] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def commit(
        self, repo: str, files: dict[str, bytes], revision: str = "main", **card: Any
    ) -> str:
        """Add a commit to a branch; return its hash."""
        digest = hashlib.sha1(repr((repo, sorted(files.items()))).encode()).hexdigest()
        self.revisions.setdefault(repo, {})[revision] = digest
        self.commits[digest] = files
        self.cards[digest] = card
        return digest

    def find(self, repo: str, revision: str) -> str | None:
        """Return the commit of a revision."""
        return self.revisions[repo].get(revision, revision if revision in self.commits else None)


def handler(hub: Hub) -> type[http.server.BaseHTTPRequestHandler]:
    """Return what answers the requests that huggingface_hub makes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, code: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def problem(self, code: int, name: str) -> None:
            self.reply(code, b"{}", {"X-Error-Code": name, "X-Error-Message": name})

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            info = re.fullmatch(r"/api/(?:datasets|models)/([^/]+/[^/]+)/revision/(.+)", path)
            file = re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            match = info or file
            if match is None or match[1] not in hub.revisions:
                return self.problem(401 if match else 404, "RepoNotFound")
            commit = hub.find(match[1], match[2])
            if commit is None:
                return self.problem(404, "RevisionNotFound")
            if info:
                return self.reply(200, self.info(match[1], commit), {})
            if match[1] in hub.gated:
                return self.problem(403, "GatedRepo")
            body = hub.commits[commit][match[3]]
            etag = f'"{hashlib.sha256(body).hexdigest()}"'
            return self.reply(200, body, {"ETag": etag, "X-Repo-Commit": commit})

        do_HEAD = do_GET

        def info(self, repo: str, commit: str) -> bytes:
            siblings = [
                {"rfilename": name, "size": len(content), "blobId": "0" * 40}
                for name, content in hub.commits[commit].items()
            ]
            about = {"id": repo, "sha": commit, "siblings": siblings, "tags": []}
            return json.dumps(about | {"cardData": hub.cards[commit]}).encode()

        def log_message(self, *args: object) -> None:
            """Print nothing."""

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with one data set, which huggingface_hub of this process uses."""
    hub = Hub()
    hub.commit("pets/plain", PLAIN)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    for name in ("RESIGHT_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    # The library reads HF_HOME once, when it is imported.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf:ylecun/mnist", HubName("ylecun/mnist")),
        ("hf:a/b@refs/convert/parquet", HubName("a/b", "refs/convert/parquet")),
        ("hf:a/b:cropped_digits", HubName("a/b", None, "cropped_digits")),
        ("hf:a.b/c-d@v1.0:x", HubName("a.b/c-d", "v1.0", "x")),
        ("hf:a/b@" + "0" * 40, HubName("a/b", "0" * 40)),
    ],
)
def test_names_are_read_and_written(source: str, name: HubName) -> None:
    assert find_source(source) == name
    assert str(name) == source
    assert name.is_pinned == ("0" * 40 in source)


@pytest.mark.parametrize(
    "source", ["hf:", "hf:mnist", "hf:a/b/c", "hf:a/b@", "hf:a b/c", "hf:a/b:"]
)
def test_a_bad_name_shows_how_to_write_it(source: str) -> None:
    with refused(f"{source!r} names nothing on the hub; write hf:OWNER/NAME"):
        find_source(source)


def test_an_address_of_the_hub_shows_the_name() -> None:
    with refused("for this data set of the hub write hf:ylecun/mnist"):
        find_source("https://huggingface.co/datasets/ylecun/mnist/tree/main")


def test_short_names() -> None:
    assert source_name("hf:ylecun/mnist@" + "0" * 40) == "mnist"
    assert source_name("/data/photos") == "photos"
    assert source_name("hf:<script>") == "hf:<script>"


def test_the_names_of_classics_are_names_of_the_hub() -> None:
    assert {"mnist", "fashion_mnist", "svhn", "eurosat"} <= set(HUB_NAMES)
    for name, (hub_name, _) in HUB_NAMES.items():
        assert find_source(name) == hub_name == find_source(str(hub_name))
        assert hub_name.revision is None or hub_name.is_pinned


# --- reading --------------------------------------------------------------------------------


def test_a_data_set_with_its_splits(hub: Hub) -> None:
    calls: list[tuple[str, int, int | None]] = []
    dataset = resight.data("hf:pets/plain", on_progress=lambda *call: calls.append(call))
    assert (dataset.name, dataset.classes) == ("plain", CLASSES)
    assert dataset.val is not None
    assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [6, 2, 4]
    assert dataset.train.ids[1] == "data/train-00000-of-00001.parquet#1"
    commit = hub.revisions["pets/plain"]["main"]
    assert dataset.notes[0] == f"read from hf:pets/plain@{commit}"
    downloads = [call for call in calls if call[0] == "download plain"]
    total = len(TRAIN) + len(VAL) + len(TEST)
    assert downloads[-1] == ("download plain", total, total)
    assert downloads == sorted(downloads)


def test_the_same_files_from_a_folder_are_the_same_data(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, content in PLAIN.items():
        (tmp_path / name).write_bytes(content)
    expected = resight.data(str(tmp_path / "data"))
    assert resight.data("hf:pets/plain").fingerprint == expected.fingerprint


def test_the_second_time_one_question_is_enough(hub: Hub) -> None:
    first = resight.data("hf:pets/plain")
    count = len(hub.requests)
    again = resight.data("hf:pets/plain")
    assert hub.requests[count:] == ["GET /api/datasets/pets/plain/revision/main"]
    assert (again.fingerprint, again.notes) == (first.fingerprint, first.notes)


def test_a_commit_is_read_after_the_branch_has_moved(hub: Hub) -> None:
    old = hub.revisions["pets/plain"]["main"]
    first = resight.data("hf:pets/plain")
    hub.commit("pets/plain", PLAIN | {"data/train-00000-of-00001.parquet": parquet(7, 8)})
    assert len(resight.data("hf:pets/plain").train) == 8
    count = len(hub.requests)
    assert resight.data(f"hf:pets/plain@{old}").fingerprint == first.fingerprint
    assert len(hub.requests) == count  # a commit never changes, so no one is asked


def test_another_machine_reads_the_commit(hub: Hub, cache: Path, tmp_path: Path) -> None:
    old = hub.revisions["pets/plain"]["main"]
    first = resight.data("hf:pets/plain")
    hub.commit("pets/plain", PLAIN | {"data/train-00000-of-00001.parquet": parquet(7, 8)})
    shutil.rmtree(cache)
    shutil.rmtree(tmp_path / "hub")
    assert resight.data(f"hf:pets/plain@{old}").fingerprint == first.fingerprint


@pytest.mark.parametrize("switch", ["parameter", "RESIGHT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline(
    hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    first = resight.data("hf:pets/plain")
    count = len(hub.requests)
    if switch != "parameter":
        monkeypatch.setenv(switch, "1")
    offline = switch == "parameter"
    assert resight.data("hf:pets/plain", offline=offline).fingerprint == first.fingerprint
    shutil.rmtree(cache / "decoded")
    assert resight.data("hf:pets/plain", offline=offline).fingerprint == first.fingerprint
    shutil.rmtree(cache / "decoded")
    shutil.rmtree(tmp_path / "hub")
    with refused("are not all here and downloads are off"):
        resight.data("hf:pets/plain", offline=offline)
    with refused("hf:pets/other was not read before with this cache and downloads are off"):
        resight.data("hf:pets/other", offline=offline)
    assert len(hub.requests) == count


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"files": 3}', b"\xff"])
def test_a_damaged_record_is_asked_for_again(hub: Hub, cache: Path, damage: bytes) -> None:
    first = resight.data("hf:pets/plain")
    for record in (cache / "hub").iterdir():
        record.write_bytes(damage)
    assert resight.data("hf:pets/plain").fingerprint == first.fingerprint
    with refused("downloads are off"):
        for record in (cache / "hub").iterdir():
            record.write_bytes(damage)
        resight.data("hf:pets/plain", offline=True)


# --- subsets, splits and conversions --------------------------------------------------------

SUBSETS = {
    "cropped/train-00000-of-00001.parquet": TRAIN,
    "cropped/test-00000-of-00001.parquet": TEST,
    "full/train-00000-of-00001.parquet": parquet(3, 8),
    "full/test-00000-of-00001.parquet": TEST,
}


def test_of_several_subsets_one_is_chosen(hub: Hub) -> None:
    hub.commit("pets/two", SUBSETS)
    with refused("several subsets; choose one, as in hf:pets/two:cropped: cropped, full"):
        resight.data("hf:pets/two")
    with refused("hf:pets/two:none has no subset 'none'; it has cropped, full"):
        resight.data("hf:pets/two:none")
    assert len(resight.data("hf:pets/two:full").train) == 8
    assert len(resight.data("hf:pets/two:cropped").train) == 6


def test_the_card_names_subsets_and_the_default(hub: Hub) -> None:
    files = {
        "all/train-a.parquet": TRAIN,
        "all/train-b.parquet": parquet(3, 8),
        "all/test-a.parquet": TEST,
        "all/test-b.parquet": TEST,
    }
    card = [
        {"config_name": "a", "data_files": [{"split": "train", "path": "all/*-a.parquet"}]},
        {"config_name": "b", "data_files": [{"split": "train", "path": ["all/*-b.parquet"]}]},
        {"config_name": "broken", "data_files": 3},
        "broken",
    ]
    hub.commit("pets/card", files, configs=card)
    with refused("choose one, as in hf:pets/card:a: a, b"):
        resight.data("hf:pets/card")
    assert len(resight.data("hf:pets/card:b").train) == 8
    card[1] |= {"default": True}  # type: ignore[operator]
    hub.commit("pets/card2", files, configs=card)
    dataset = resight.data("hf:pets/card2")
    assert len(dataset.train) == 8
    assert "the data set has several subsets; b is its owner's default" in dataset.notes


def test_other_splits_are_not_downloaded(hub: Hub) -> None:
    hub.commit("pets/extra", PLAIN | {"data/extra-00000-of-00001.parquet": bytes(9_000_000)})
    notes = resight.data("hf:pets/extra").notes
    assert any(note.startswith("left out: data/extra-00000-of-00001.parquet") for note in notes)
    assert not any("extra-0" in request for request in hub.requests)


def test_the_conversion_of_the_hub_where_there_is_no_parquet(hub: Hub) -> None:
    hub.commit("pets/zip", {"train.zip": b"PK"})
    converted = {"default/train/0000.parquet": TRAIN, "default/test/0000.parquet": TEST}
    commit = hub.commit("pets/zip", converted, "refs/convert/parquet")
    dataset = resight.data("hf:pets/zip")
    assert dataset.notes[:2] == (
        f"read from hf:pets/zip@{commit}",
        "the files are the hub's own conversion to Parquet",
    )
    assert resight.data(f"hf:pets/zip@{commit}").fingerprint == dataset.fingerprint
    with refused("has no Parquet files, the only ones that are read; leave out the revision"):
        resight.data("hf:pets/zip@main")


# --- refusals -------------------------------------------------------------------------------


def test_no_parquet(hub: Hub) -> None:
    hub.commit("pets/zip", {"train.zip": b"PK"})
    with refused("hf:pets/zip has no Parquet files, the only ones that are read; download it"):
        resight.data("hf:pets/zip")


def test_no_such_data_set_or_revision(hub: Hub) -> None:
    with refused("the hub has no data set 'pets/plane'; check its owner and name"):
        resight.data("hf:pets/plane")
    with refused("hf:pets/plain@v9 has no such revision; leave it out for the newest"):
        resight.data("hf:pets/plain@v9")
    with refused("the hub has no data set '../plain'"):
        resight.data("hf:../plain")


def test_gated(hub: Hub) -> None:
    hub.gated.add("pets/plain")
    with refused("is gated; accept its terms on https://huggingface.co/datasets/pets/plain"):
        resight.data("hf:pets/plain")


def test_the_hub_cannot_be_reached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with refused("hf:pets/plain cannot be downloaded: ", ResightError) as error:
        resight.data("hf:pets/plain")
    assert not isinstance(error.value, resight.UsageError)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as Python marks what is missing
    with refused('needs the package huggingface_hub; install it by pip install "resight[hub]"'):
        resight.data("hf:pets/plain")


# --- runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("passed", [True, False])
def test_the_recipe_of_a_run_names_the_commit(hub: Hub, passed: bool) -> None:
    commit = hub.revisions["pets/plain"]["main"]
    recipe = tiny_recipe() if passed else tiny_recipe("data.source=hf:pets/plain")
    source = "hf:pets/plain" if passed else None
    assert resolve(recipe, source, None).data.source == f"hf:pets/plain@{commit}"


@pytest.mark.slow
def test_a_run_can_be_evaluated_after_the_branch_has_moved(hub: Hub, tmp_path: Path) -> None:
    recipe = tiny_recipe("schedule.epochs=1", "training.batch_size=4")
    run = resight.train(recipe, data="hf:pets/plain", out=tmp_path, name="run")
    hub.commit("pets/plain", PLAIN | {"data/test-00000-of-00001.parquet": parquet(7, 8)})
    assert resight.evaluate(run.folder).test.accuracy.n == 4


@pytest.mark.slow
def test_the_command_line_with_the_variables_of_the_library(
    hub: Hub, cache: Path, tmp_path: Path
) -> None:
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "resight", "data", "hf:pets/plain", "--json"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["train"] == 6
    assert "Traceback" not in result.stderr
    assert list((tmp_path / "home" / "hub").glob("datasets--pets--plain/snapshots/*/data/*"))
    environment["HF_HUB_OFFLINE"] = "1"
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout) == json.loads(result.stdout)


# --- weights --------------------------------------------------------------------------------


def test_a_network_starts_from_weights_of_the_hub(hub: Hub, tiny: resight.Dataset) -> None:
    def setup(weights: str, *, offline: bool = False) -> TrainSetup:
        return prepare(
            from_toml(f'[model]\nname = "resnet9"\nweights = "{weights}"'),
            data=tiny,
            model=None,
            device="cpu",
            offline=offline,
            on_event=lambda event: None,
        )

    source = build_model(ResNet9(), in_channels=3, num_classes=3, image_size=32, seed=7)
    commit = hub.commit("me/net", {"model.safetensors": save(source.state_dict()), "x.txt": b""})
    hub.commit("me/none", {"weights.onnx": b""})
    pinned = f"hf:me/net@{commit}"
    for weights, offline in (("hf:me/net", False), ("hf:me/net", True), (pinned, True)):
        made = setup(weights, offline=offline)
        assert made.recipe.model.weights == pinned
        own = made.state.model.state_dict()
        assert all(torch.equal(own[name], value) for name, value in source.state_dict().items())
    with refused("the model has neither model.safetensors nor pytorch_model.bin"):
        setup("hf:me/none")
    with refused("the hub has no model 'me/nothing'"):
        setup("hf:me/nothing")
    with refused("names nothing on the hub"):
        setup("hf:me")
    with refused("are not all here and downloads are off"):
        setup("hf:me/none", offline=True)
