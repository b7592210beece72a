"""Sources without an end or of a forged size: each is refused with one line before it is read."""

import gzip
import io
import os
import pickle
import socket
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import resight
from cifar_files import archive, cifar10_python, write_folder
from refusal import refused
from resight.datasets.readers.limits import GIB, check_memory, check_unpacked
from resight.datasets.readers.picture import MAX_BYTES
from resight.datasets.readers.unpickle import load_arrays

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
needs_unix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")


def photos(root: Path) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(PIXELS + np.uint8(i)).save(root / name / f"{i}.png")
    return root


# --- files that are no files ------------------------------------------------------------------


def make_endless(path: Path, kind: str) -> None:
    match kind:
        case "device":
            path.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))


@needs_unix
@pytest.mark.parametrize("kind", ["device", "pipe", "socket"])
def test_a_picture_without_an_end_is_refused_or_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    make_endless(photos(Path("photos")) / "cat" / "x.png", kind)
    with refused("cat/x.png cannot be read as a picture (it is a device, pipe or socket"):
        resight.data("photos")
    dataset = resight.data("photos", skip_unreadable=True)
    assert len(dataset.train) + len(dataset.test) == 6
    assert "1 unreadable pictures skipped: photos/cat/x.png" in dataset.notes


@needs_unix
@pytest.mark.parametrize("kind", ["device", "pipe", "socket"])
def test_a_source_without_an_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_endless(Path("x"), kind)
    with refused("x is a device, pipe or socket; give a regular file in its place"):
        resight.data("x")


def test_a_picture_of_a_huge_file_is_refused(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    os.truncate(root / "cat" / "0.png", MAX_BYTES + 1)  # without content, so it takes no room
    with refused(f"(it has {MAX_BYTES + 1:,} bytes, but such a file has at most {MAX_BYTES:,}"):
        resight.data(str(root))


def test_a_cifar_batch_of_a_huge_file_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "cifar", cifar10_python())
    os.truncate(folder / "data_batch_2", GIB + 1)
    with refused("data_batch_2 has 1,073,741,825 bytes"):
        resight.data(str(folder))


# --- forged pictures ----------------------------------------------------------------------------


def png_chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def test_a_picture_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    (root / "cat" / "1.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + data + png_chunk(b"IEND", b"")
    )
    with refused("cat/1.png cannot be read as a picture (Image size (2500000000 pixels) exceeds"):
        resight.data(str(root))


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"


@needs_unix
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif"])
def test_a_picture_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/MARK\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (photos(tmp_path / "photos") / "cat" / name).write_bytes(POSTSCRIPT)
    with refused(f"{name} cannot be read as a picture (not a known picture format)"):
        resight.data(str(tmp_path / "photos"))
    assert not (tmp_path / "MARK").exists()
    with Image.open(io.BytesIO(POSTSCRIPT)) as image, pytest.raises(OSError):  # noqa: PT011
        image.load()
    assert (tmp_path / "MARK").exists()  # as Pillow alone does


# --- forged archives ------------------------------------------------------------------------------


def npy(shape: str, dtype: str = "|u1", content: bytes = b"") -> bytes:
    """An array file with a forged header."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def npz(path: Path, *, file_size: int | None = None, **members: bytes) -> str:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
            if file_size:
                file.infolist()[-1].file_size = file_size
    return str(path)


LABELS = npy("(4,)", "<i8", np.array([0, 1, 0, 1]).tobytes())


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (npy("(1000000000, 32, 32)"), "images.npy has 0 bytes for uint8 of shape (1000000000, 32"),
        (npy("(-4, 32, 32)", content=bytes(4096)), "images.npy has 4,096 bytes"),
        (npy("(4, 32, 32)", content=bytes(4097)), "images.npy has 4,097 bytes for uint8"),
        (npy("(999999999999,)", "<U0"), "images.npy has 0 bytes for <U0 of shape"),
        (npy("(1000000000,)", "|V0"), "images.npy has 0 bytes"),
        (npy("((" * 2000), ""),
        (b"x" * 100, "images.npy is no array"),
        (b"", "images.npy is no array"),
        (b"\x93NUMPY\x09\x00", "images.npy has a header of an unknown version"),
        (npy("(4,)", "|O", b"x" * 32), "images.npy holds Python objects, which could run code"),
    ],
)
def test_forged_arrays_are_refused(tmp_path: Path, images: bytes, reason: str) -> None:
    with refused(f"a.npz cannot be read as arrays ({reason}"):
        resight.data(npz(tmp_path / "a.npz", images=images, labels=LABELS))


def test_forged_files_of_one_array_are_refused(tmp_path: Path) -> None:
    (tmp_path / "y.npy").write_bytes(LABELS)
    for images, reason in (
        (npy("(1000000000, 32, 32)"), "X.npy has 0 bytes for uint8 of shape (1000000000, 32"),
        (npy("(4,)", "|O", pickle.dumps([0] * 4)), "X.npy holds Python objects, which could run"),
    ):
        (tmp_path / "X.npy").write_bytes(images)
        with refused(f"X.npy cannot be read as arrays ({reason}"):
            resight.data(str(tmp_path))


def mat(shape: tuple[int, ...], num_bytes: int, *, packed: bool) -> bytes:
    """A file of MATLAB with one uint8 array X of a forged size, which is not in it."""
    parts = struct.pack("<IIII", 6, 8, 9, 0)  # flags: an array of uint8
    parts += struct.pack(f"<II{len(shape)}i", 5, 4 * len(shape), *shape)
    parts += struct.pack("<HHcxxx", 1, 1, b"X") + struct.pack("<II", 2, num_bytes)
    element = struct.pack("<II", 14, len(parts)) + parts
    if packed:
        content = zlib.compress(element)
        element = struct.pack("<II", 15, len(content)) + content
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + element


@pytest.mark.parametrize(
    ("shape", "num_bytes", "reason"),
    [
        ((32, 32, 2**20, 2), 2**31, "is refused: "),
        ((32, 32, 3, 4), 2**31, "is no whole MATLAB file (X has 2,147,483,648 bytes for shape"),
        ((-32, -32, 3, 4), 12_288, "is no whole MATLAB file (X has 12,288 bytes for shape"),
        ((32, 32, 3, 4), 12_288, "is no whole MATLAB file (X is cut off)"),
    ],
)
def test_forged_files_of_matlab_are_refused(
    tmp_path: Path, shape: tuple[int, ...], num_bytes: int, reason: str
) -> None:
    np.save(tmp_path / "y.npy", np.arange(shape[-1]))
    (tmp_path / "a.mat").write_bytes(mat(shape, num_bytes, packed=True))
    with refused(reason):
        resight.data(str(tmp_path))
    (tmp_path / "a.mat").write_bytes(mat(shape, num_bytes, packed=False))
    with refused("is no whole MATLAB file"):
        resight.data(str(tmp_path))


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    forged = npz(tmp_path / "a.npz", images=LABELS, labels=LABELS, file_size=2**40)
    with refused("bytes would unpack to 2,048.0 GiB"):
        resight.data(forged)


def test_only_what_unpacks_to_very_much_more_is_refused() -> None:
    check_unpacked("x", packed=10, unpacked=GIB)
    check_unpacked("x", packed=2 * GIB, unpacked=200 * GIB)
    with refused("x is refused"):
        check_unpacked("x", packed=10 * 2**20, unpacked=GIB * 10)


def test_what_does_not_fit_into_memory_is_refused() -> None:
    check_memory("10 pictures of 32 px", 30_720)
    with refused("9 pictures of 32 px need 1,073,741,824.0 GiB of memory"):
        check_memory("9 pictures of 32 px", 2**60)


def long_name(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK]
)
@pytest.mark.parametrize("size", [2**33, 2**17])
def test_a_long_name_of_an_archive_is_not_read(tmp_path: Path, kind: bytes, size: int) -> None:
    content = long_name(kind, size) + bytes(2**18)
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(content, 1))
    with refused(f"x.tar.gz is not a whole archive (a header of {size:,} bytes)"):
        resight.data(str(tmp_path / "x.tar.gz"))


def test_extended_headers_of_extended_headers_are_refused(tmp_path: Path) -> None:
    record = b"12 path=abc\n".ljust(tarfile.BLOCKSIZE, b"\0")
    content = (long_name(tarfile.XHDTYPE, 12) + record) * 1500
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(content, 1))
    with refused("is not a whole archive"):
        resight.data(str(tmp_path / "x.tar.gz"))


def test_a_member_of_a_negative_size_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo("data_batch_1")
        info.pax_headers = {"size": "-512"}
        file.addfile(info)
    with refused("x.tar.gz"):  # a later Python takes the size as 0, and finds nothing in it
        resight.data(str(tmp_path / "x.tar.gz"))


def test_an_archive_of_very_many_members_is_refused(tmp_path: Path) -> None:
    files = {f"{i}.txt": b"" for i in range(4000)} | cifar10_python()
    (tmp_path / "x.tar.gz").write_bytes(archive(files))
    with refused("members in"):
        resight.data(str(tmp_path / "x.tar.gz"))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\x80\x02Nr\xff\xff\xff\x7f.", id="memo of 2**31 places"),
        pytest.param(b"Np4000000000\n.", id="memo in letters"),
        pytest.param(b"}N\x85" + b"2\x86" * 60 + b"Ns.", id="tuple of 2**60 parts as a key"),
        pytest.param(
            b"\x80\x05\x96" + struct.pack("<Q", 2**34) + b"x.", id="bytes beyond the file"
        ),
    ],
)
def test_a_pickle_that_fills_the_memory_is_refused(content: bytes) -> None:
    with refused("x is not a whole pickle of arrays"):
        load_arrays(content, "x")


# --- forged Parquet -------------------------------------------------------------------------------


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    return stream.getvalue()


def parquet(path: Path, labels: Any, metadata: str | None = None, **options: Any) -> str:
    table = pa.table({"img": [png()] * len(labels), "label": labels})
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, path, **options)
    return str(path)


def test_rows_without_pictures_are_refused(tmp_path: Path) -> None:
    rows = 2_000_000
    table = pa.table({"img": pa.nulls(rows, pa.binary()), "label": pa.array([0, 1] * (rows // 2))})
    pq.write_table(table, tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 100_000
    with refused("x.parquet lists 2,000,000 rows in"):
        resight.data(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize(
    "metadata",
    [
        '{"info": {"features": []}}',
        '{"info": {"features": 3}}',
        '{"info": []}',
        "[]",
        "{",
        "[" * 100_000,
    ],
)
def test_metadata_of_another_kind_is_refused(tmp_path: Path, metadata: str) -> None:
    with refused("x.parquet: its metadata under the key huggingface is damaged"):
        resight.data(parquet(tmp_path / "x.parquet", [0, 1] * 5, metadata))


@pytest.mark.parametrize(
    ("labels", "kind"),
    [([[1], [2]] * 5, "list<"), ([{"a": 1}] * 10, "struct<"), ([0.5, 1.0] * 5, "double")],
)
def test_labels_of_another_type_are_refused(tmp_path: Path, labels: Any, kind: str) -> None:
    with refused(f"x.parquet: column label is {kind}"):
        resight.data(parquet(tmp_path / "x.parquet", labels))


def test_a_label_of_very_many_letters_is_refused(tmp_path: Path) -> None:
    with refused("x.parquet: a label has 5,000 letters"):
        resight.data(parquet(tmp_path / "x.parquet", ["x" * 5000, "y"] * 5))


def test_forged_offsets_in_arrow_are_refused(tmp_path: Path) -> None:
    table = pa.table({"img": [png()] * 10, "label": ["cat", "dog"] * 5})
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as file:
        file.write_table(table)
    offsets = struct.pack("<4i", 0, 3, 6, 9)  # where the words lie
    assert stream.getvalue().count(offsets) == 1
    for forged in ((0, 2**30, 6, 9), (-(2**30), 3, 6, 9), (0, 6, 3, 9)):
        content = stream.getvalue().replace(offsets, struct.pack("<4i", *forged))
        (tmp_path / "x.arrow").write_bytes(content)
        with refused("x.arrow: not whole Parquet"):
            resight.data(str(tmp_path / "x.arrow"))


def test_labels_in_a_dictionary_are_words(tmp_path: Path) -> None:
    labels = pa.array(["dog", "cat"] * 5).dictionary_encode()
    dataset = resight.data(parquet(tmp_path / "x.parquet", labels))
    assert dataset.classes == ("cat", "dog")
    rows = [int(name.rpartition("#")[2]) for name in dataset.train.ids]
    assert dataset.train.labels.tolist() == [(row + 1) % 2 for row in rows]
