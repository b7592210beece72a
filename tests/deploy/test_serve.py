"""What the page shows of a picture, by a real run; and pictures that are none."""

import base64
import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

import resight
from refusal import refused
from resight.datasets import Dataset
from resight.deploy.serve import page_server, render_page
from resight.deploy.viewer import NeighborIndex, Viewer, inspect_picture, open_viewer
from resight.errors import UsageError
from resight.events import ignore_events

ONE_PIXEL_SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.fixture(scope="module")
def viewer(trained_run: resight.Run, tiny: Dataset) -> Viewer:
    return open_viewer(trained_run, data=tiny, model=None, device="cpu", on_event=ignore_events)


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def decode(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_test_image_gets_the_prediction_of_the_run(
    viewer: Viewer, trained_run: resight.Run, tiny: Dataset
) -> None:
    predictions = trained_run.predictions
    assert predictions is not None
    for row in range(3):
        pixels = tiny.test.images[row].permute(1, 2, 0).numpy()
        result = inspect_picture(viewer, png(pixels))
        shown = {entry["name"]: entry["probability"] for entry in result["classes"]}
        expected = dict(zip(predictions.classes, predictions.probs[row].tolist(), strict=True))
        assert shown == pytest.approx(expected, abs=1e-5)
        assert list(shown.values()) == sorted(shown.values(), reverse=True)
        assert [entry["name"] for entry in result["rows"]] == list(shown)[:2]
        assert np.array_equal(np.asarray(decode(result["seen"])), pixels)
        json.dumps(result)


def test_the_same_as_the_command_predict(viewer: Viewer, trained_run: resight.Run) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (70, 40, 3), dtype=np.uint8)
    path = trained_run.folder.parent / "photo.png"
    Image.fromarray(pixels).save(path)
    [prediction] = resight.predict(trained_run, [path])
    result = inspect_picture(viewer, path.read_bytes())
    shown = [(entry["name"], entry["probability"]) for entry in result["classes"]]
    assert shown == [(name, pytest.approx(p, abs=1e-6)) for name, p in prediction.ranking]
    assert decode(result["picture"]).width > decode(result["seen"]).width == 16


def test_both_classes_have_a_map_at_each_layer(viewer: Viewer, tiny: Dataset) -> None:
    result = inspect_picture(viewer, png(tiny.test.images[0].permute(1, 2, 0).numpy()))
    assert [layer["name"].split()[0] for layer in result["layers"]] == list(viewer.layers)
    assert result["layers"]
    for layer in result["layers"]:
        one, other = map(decode, layer["maps"])
        assert one.size == other.size
        assert min(one.size) >= 112


def test_a_training_image_is_its_own_neighbor(viewer: Viewer, tiny: Dataset) -> None:
    index = viewer.neighbors
    assert isinstance(index, NeighborIndex)
    pixels = index.images.images[5].permute(1, 2, 0).numpy()
    result = inspect_picture(viewer, png(pixels))
    nearest = result["neighbors"][0]
    assert nearest["id"] == index.images.ids[5]
    assert nearest["cosine"] == pytest.approx(1, abs=1e-5)
    assert np.array_equal(np.asarray(decode(nearest["picture"])), pixels)
    assert set(index.images.ids) <= set(tiny.train.ids)
    assert len(result["neighbors"]) == 8
    assert "82 training images" in result["among"]  # a tenth of each class is held out


def test_without_the_data_there_are_no_neighbors(trained_run: resight.Run) -> None:
    alone = open_viewer(trained_run, data=None, model=None, device="cpu", on_event=ignore_events)
    result = inspect_picture(alone, png(np.zeros((20, 20), dtype=np.uint8)))
    assert result["neighbors"] == []
    assert result["among"].startswith("No similar training images: data 'tiny' is neither")
    with refused("is not what the run was trained on"):
        page_server(trained_run, port=0, data="digits")


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def a_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("picture.png", b"x")
    return buffer.getvalue()


class Canary:
    """An object whose pickle runs code when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch canary",)


NO_PICTURES = {
    "nothing": b"",
    "text": b"not a picture",
    "cut off": png(np.zeros((64, 64, 3), dtype=np.uint8))[:60],
    "too small": png(np.zeros((4, 4, 3), dtype=np.uint8)),
    "svg with a script": ONE_PIXEL_SVG,
    "postscript that runs a program": b"%!PS-Adobe-3.0 EPSF-3.0\n%pipe%touch canary\n",
    "a pickle that runs a program": pickle.dumps(Canary()),
    "a zip": a_zip(),
    "a bomb": bomb(),
}


@pytest.mark.parametrize("name", NO_PICTURES)
def test_what_is_no_picture_is_one_line(
    name: str, viewer: Viewer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"\Athis file[^\n]*\Z"):
        inspect_picture(viewer, NO_PICTURES[name])
    assert list(tmp_path.iterdir()) == []


def test_names_of_classes_are_text_in_the_page(trained_run: resight.Run, viewer: Viewer) -> None:
    from dataclasses import replace

    hostile = "</style><script>alert(1)</script>"
    changed = replace(viewer, info=replace(viewer.info, classes=(hostile, "b", "c")))
    page = render_page(trained_run, changed)
    assert hostile.encode() not in page.content
    assert b"&lt;script&gt;" in page.content
    assert page.content.count(b"<script>") == 1
    assert "'unsafe-inline'" not in page.policy


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none(trained_run: resight.Run, port: int) -> None:
    with refused(f"port = {port} must be 0 to 65535"):
        page_server(trained_run, port=port)


@pytest.mark.slow
def test_the_command_serves_until_ctrl_c(trained_run: resight.Run, tiny: Dataset) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "resight", "serve", str(trained_run.folder), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("page       http://127.0.0.1:")
    url = line.split()[1]
    with urlopen(url) as response:
        assert b"Drop a picture here" in response.read()
    content = png(tiny.test.images[0].permute(1, 2, 0).numpy())
    with urlopen(Request(f"{url}inspect", data=content)) as response:
        assert json.load(response)["classes"][0]["name"] in tiny.classes
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == ""
    assert "Traceback" not in err
