"""Sources damaged at random: each is read or refused with one line, and nothing else happens."""

import gzip
import io
import random
import struct
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from PIL import Image

import resight
from cifar_files import archive, cifar10_binary, cifar10_python
from resight.errors import UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), dtype=np.uint8)
PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM", "TGA", "JPEG2000", "TIFF")
NUM_ATTACKS = 12  # on each format


def picture(kind: str, row: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS[row]).save(stream, kind)
    return stream.getvalue()


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, images=PIXELS, labels=np.arange(20) % 2)
    return stream.getvalue()


def parquet() -> bytes:
    stream = io.BytesIO()
    images = [{"bytes": picture("PNG", row), "path": None} for row in range(20)]
    pq.write_table(pa.table({"img": images, "label": [row % 2 for row in range(20)]}), stream)
    return stream.getvalue()


def mat(*, packed: bool) -> bytes:
    stream = io.BytesIO()
    arrays = {"X": PIXELS.transpose(1, 2, 3, 0), "y": np.arange(20) % 2}
    scipy.io.savemat(stream, arrays, do_compression=packed)
    return stream.getvalue()


def arrow(*, compression: str | None) -> bytes:
    stream = io.BytesIO()
    images = [{"bytes": picture("PNG", row), "path": "x.png"} for row in range(20)]
    table = pa.table({"img": images, "label": [row % 2 for row in range(20)]})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(stream, table.schema, options=options) as file:
        file.write_table(table)
    return stream.getvalue()


def csv() -> bytes:
    rows = np.column_stack([np.arange(20) % 2, PIXELS[..., 0].reshape(20, -1)])
    lines = [",".join(["label", *(f"pixel{place}" for place in range(144))])]
    return "\n".join([*lines, *(",".join(map(str, row)) for row in rows)]).encode()


def idx(*, packed: bool) -> dict[str, bytes]:
    labels = (np.arange(20) % 2).astype(np.uint8)
    contents = {
        "train-images-idx3-ubyte": struct.pack(">HBB3I", 0, 8, 3, 20, 12, 12)
        + PIXELS[..., 0].tobytes(),
        "train-labels-idx1-ubyte": struct.pack(">HBBI", 0, 8, 1, 20) + labels.tobytes(),
    }
    if not packed:
        return contents
    return {f"{name}.gz": gzip.compress(content) for name, content in contents.items()}


def shard() -> bytes:
    files = {f"{row}.png": picture("PNG", row) for row in range(20)}
    files |= {f"{row}.json": b'{"label": %d}' % (row % 2) for row in range(20)}
    return _tar(files, {})


def tar() -> bytes:
    return _tar(cifar10_python(), {"comment": "x"})


def _tar(files: dict[str, bytes], headers: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(content), headers
            file.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return the content with flipped bits, other numbers, a cut, or another format's start."""
    changed = bytearray(content)
    # Half of the changes are near the start and the end, where the structure of a format is.
    edge = min(300, len(changed))
    places = [
        rng.randrange(len(changed)),
        rng.randrange(edge),
        len(changed) - 1 - rng.randrange(edge),
    ]
    match rng.randrange(6):
        case 0 | 1:
            for place in places:
                changed[place] ^= 1 << rng.randrange(8)
        case 2:
            place = rng.choice(places)
            changed[place : place + 4] = rng.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4)])
        case 3:
            del changed[places[0] :]
        case 4:
            start = picture(rng.choice(PICTURES))[: rng.choice([4, 12, 40])]
            changed[: len(start)] = start
        case 5:
            changed[places[0] :] = rng.randbytes(2000)
    return bytes(changed)


def write_photos(root: Path, kind: str, content: bytes) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for row in range(2):
            (root / name / f"{row}.png").write_bytes(picture("PNG", row))
    (root / "cat" / f"x.{'jpg' if kind == 'JPEG' else 'png'}").write_bytes(content)
    return root


def write_files(root: Path, files: dict[str, bytes], rng: random.Random) -> Path:
    root.mkdir()
    victim = rng.choice(list(files))
    for name, content in files.items():
        (root / name).write_bytes(damaged(content, rng) if name == victim else content)
    return root


SOURCES: dict[str, Callable[[], bytes]] = {
    "a.npz": npz,
    "a.parquet": parquet,
    "a.mat": partial(mat, packed=False),
    "packed.mat": partial(mat, packed=True),
    "a.arrow": partial(arrow, compression=None),
    "packed.arrow": partial(arrow, compression="zstd"),
    "a.csv": csv,
    "shard.tar": shard,
    "a.tar": tar,
    "a.tar.gz": lambda: archive(cifar10_python()),
}


def read_or_refuse(path: Path, *, skip: bool) -> None:
    try:
        dataset = resight.data(str(path), skip_unreadable=skip)
    except UsageError as error:
        line = str(error)
    else:
        line = ""
        assert len(dataset.classes) >= 2
        assert len(dataset.train.ids) == len(dataset.train.images) == len(dataset.train.labels)
    assert "\n" not in line
    assert len(line) < 1000


@pytest.mark.parametrize("kind", PICTURES)
def test_damaged_pictures(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(kind)
    for attack in range(NUM_ATTACKS):
        root = write_photos(tmp_path / str(attack), kind, damaged(picture(kind), rng))
        read_or_refuse(root, skip=rng.random() < 0.5)
    if kind != "TIFF":  # libtiff prints what is wrong
        assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", SOURCES)
def test_damaged_files(tmp_path: Path, name: str) -> None:
    rng = random.Random(name)
    content = SOURCES[name]()
    for attack in range(NUM_ATTACKS):
        path = tmp_path / f"{attack}{name}"
        path.write_bytes(damaged(content, rng))
        read_or_refuse(path, skip=rng.random() < 0.5)


@pytest.mark.parametrize(
    "make", [cifar10_python, cifar10_binary, partial(idx, packed=False), partial(idx, packed=True)]
)
def test_damaged_folders(tmp_path: Path, make: Callable[[], dict[str, bytes]]) -> None:
    rng = random.Random(str(make().keys()))
    for attack in range(NUM_ATTACKS):
        read_or_refuse(write_files(tmp_path / str(attack), make(), rng), skip=False)


def test_undamaged_sources_are_read(tmp_path: Path) -> None:
    for name, make in SOURCES.items():
        (tmp_path / name).write_bytes(make())
        resight.data(str(tmp_path / name))
    for kind in PICTURES:
        resight.data(str(write_photos(tmp_path / kind, kind, picture(kind))))
