"""Pickles, archives and arrays made to do harm: each is refused with one line and does nothing."""

import builtins
import gzip
import os
import pickle
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resight
from cifar_files import archive, cifar10_python, write_folder
from refusal import refused
from resight.datasets.readers.unpickle import load_arrays
from resight.errors import UsageError


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


# --- pickles --------------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def command_pickles() -> list[Any]:
    """Pickles that make the file `MARK` when they are run, in each way that a pickle can call."""
    touch = "touch MARK"
    python = "open('MARK', 'w').close()"
    return [
        pytest.param(pickle.dumps(Call(os.system, touch), 0), id="system, protocol 0"),
        pytest.param(pickle.dumps({"data": Call(os.system, touch)}, 2), id="system, inside"),
        pytest.param(pickle.dumps(Call(os.system, touch), 4), id="system, STACK_GLOBAL"),
        pytest.param(pickle.dumps(Call(builtins.eval, python), 2), id="eval"),
        pytest.param(pickle.dumps(Call(builtins.exec, python), 4), id="exec"),
        pytest.param(b"(S'touch MARK'\nios\nsystem\n.", id="INST"),
        pytest.param(b"(cos\nsystem\nS'touch MARK'\no.", id="OBJ"),
        pytest.param(b"\x80\x02cos\nsystem\nU\x0atouch MARK\x85\x81.", id="NEWOBJ"),
        pytest.param(b"\x80\x04\x8c\x05numpy\x8c\x0ef2py.os.system\x93.", id="dotted name"),
        pytest.param(b"cnumpy.f2py.crackfortran\nmyeval\n(S'1'\ntR.", id="NumPy's own eval"),
        pytest.param(b"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR.", id="getattr"),
    ]


@pytest.mark.parametrize("content", command_pickles())
def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "cifar", cifar10_python() | {"data_batch_2": content})
    before = files(tmp_path)
    with refused("data_batch_2 is refused: its pickle asks for"):
        resight.data("cifar")
    assert files(tmp_path) == before
    assert not list(cache.rglob("*.safetensors"))


def test_the_standard_unpickler_runs_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Call(builtins.exec, "open('MARK', 'w').close()")))
    assert (tmp_path / "MARK").exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tS'b'\ntR"
DTYPE = b"cnumpy\ndtype\n(S'%s'\nI00\nI01\ntR"


def array_pickle(code: bytes, shape: bytes, content: bytes) -> bytes:
    """A dictionary with one array, of a chosen dtype, shape tuple and bytes."""
    data = b"T" + struct.pack("<i", len(content)) + content
    return b"(dS'data'\n" + ARRAY + b"(K\x01" + shape + DTYPE % code + b"I00\n" + data + b"tbs."


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(array_pickle(b"O8", b"(K\x01t", b"A" * 8), id="pointers"),
        pytest.param(array_pickle(b"V99999", b"(K\x01t", b"A"), id="wide items"),
        pytest.param(array_pickle(b"u1", b"(K\x64t", b"A"), id="shape beyond the bytes"),
        pytest.param(array_pickle(b"u1", b"(I-7\nt", b"A"), id="negative shape"),
        pytest.param(array_pickle(b"u1", b"(L99999999999999999999L\nt", b"A"), id="huge shape"),
        pytest.param(array_pickle(b"u1", b"S'x'\n", b"A"), id="shape of letters"),
        pytest.param(b"(dS'data'\n" + ARRAY + b"I1\nbs.", id="state of no array"),
        pytest.param(b"\x80\x02cnumpy\nndarray\n(I9\ntR.", id="ndarray called"),
        pytest.param(b"\x80\x02cnumpy\ndtype\n}S'a'\nI1\nsb.", id="attribute of a stand-in"),
        pytest.param(b"\x80\x02cnumpy\ndtype\n(N}S'__class__'\nI1\nstb.", id="slot of a stand-in"),
        pytest.param(b"\x80\x02cnumpy\ndtype\n)\x81.", id="stand-in as a class"),
        pytest.param(b"c_codecs\nencode\n(I1\nS'latin1'\ntR.", id="encode of a number"),
        pytest.param(b"\x80\x02\x82\x01.", id="extension registry"),
        pytest.param(b"Psome id\n.", id="persistent id"),
        pytest.param(b"\x80\x63.", id="unknown protocol"),
        pytest.param(b"\x80\x04\x8e" + struct.pack("<Q", 2**62), id="length beyond the file"),
        pytest.param(b"h\x00.", id="empty memo"),
        pytest.param(b".", id="empty stack"),
        pytest.param(b"\x00" * 50, id="zeros"),
        pytest.param(b"", id="empty"),
        pytest.param(b"(dS'a'\n" + b"(" * 10, id="cut off"),
        pytest.param(pickle.dumps([1, 2]), id="a list"),
    ],
)
def test_forged_pickles_are_refused(content: bytes) -> None:
    with refused("data_batch_1 "):
        load_arrays(content, "data_batch_1")


def test_a_pickle_cannot_change_a_stand_in() -> None:
    attempt = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(N}S'__call__'\nI1\nstb."
    with pytest.raises(UsageError):
        load_arrays(attempt, "x")
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    arrays = load_arrays(pickle.dumps({"data": pixels}, protocol=2), "x")
    assert np.array_equal(arrays["data"], pixels)


# --- archives -------------------------------------------------------------------------------


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> bytes:
    """The header of one member, without its content."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (member("../evil.txt"), "'../evil.txt' leads out of its folder"),
        (member("a/../../evil.txt"), "leads out"),
        (member("/etc/evil.txt"), "leads out"),
        (member("a\\..\\..\\evil.txt"), "leads out"),
        (member("../../data_batch_1"), "leads out"),
        (member("x", tarfile.SYMTYPE, "/etc/passwd"), "'x' is a link or a device"),
        (member("data_batch_1", tarfile.SYMTYPE, "../secret"), "is a link or a device"),
        (member("data_batch_1", tarfile.LNKTYPE, "/etc/passwd"), "is a link or a device"),
        (member("x", tarfile.CHRTYPE), "is a link or a device"),
        (member("x", tarfile.BLKTYPE), "is a link or a device"),
        (member("x", tarfile.FIFOTYPE), "is a link or a device"),
        (member("data_batch_1", size=2**31), "bytes would unpack to 2.0 GiB"),
    ],
)
def test_hostile_archives_are_refused(
    tmp_path: Path, cache: Path, header: bytes, expected: str
) -> None:
    good = gzip.decompress(archive(cifar10_python())).rstrip(b"\x00")
    good += b"\x00" * (-len(good) % tarfile.BLOCKSIZE)  # without the blocks that end an archive
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "cifar.tar").write_bytes(good + header + b"\x00" * 2 * tarfile.BLOCKSIZE)
    before = files(tmp_path)
    with refused(expected):
        resight.data(str(tmp_path / "inner" / "cifar.tar"))
    assert files(tmp_path) == before
    assert not list(cache.rglob("*.safetensors"))


def zip_member(path: Path, name: str, *, mode: int = 0, flag: int = 0) -> Path:
    """A zip with a picture's name and one member of this name, Unix mode and flag."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("cat/1.png", b"x")
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        file.writestr(info, b"/etc/passwd")
        info.flag_bits |= flag
    return path


@pytest.mark.parametrize(
    ("name", "mode", "flag", "expected"),
    [
        ("../evil.png", 0, 0, "'../evil.png' leads out of its folder"),
        ("a/../../evil.png", 0, 0, "leads out"),
        ("/etc/evil.png", 0, 0, "leads out"),
        ("C:/evil.png", 0, 0, "leads out"),
        ("dog/1.png", stat.S_IFLNK | 0o777, 0, "'dog/1.png' is a link or a device"),
        ("dog/1.png", stat.S_IFBLK | 0o777, 0, "is a link or a device"),
        ("dog/1.png", 0, 1, "is encrypted; unpack it with its password"),
    ],
)
def test_hostile_zips_are_refused(
    tmp_path: Path, name: str, mode: int, flag: int, expected: str
) -> None:
    path = zip_member(tmp_path / "x.zip", name, mode=mode, flag=flag)
    before = files(tmp_path)
    with refused(expected):
        resight.data(str(path))
    assert files(tmp_path) == before


def test_a_damaged_member_of_a_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("cat/1.png", "dog/1.png"):
            file.writestr(name, b"the content of a picture")
    path.write_bytes(path.read_bytes().replace(b"the content", b"xxx content", 1))
    with refused("cat/1.png cannot be unpacked (Bad CRC-32"):
        resight.data(str(path))


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_truncated_archive_is_refused(tmp_path: Path, keep: float) -> None:
    whole = archive(cifar10_python())
    (tmp_path / "cifar.tar.gz").write_bytes(whole[: int(len(whole) * keep)])
    with refused("is not a whole archive"):
        resight.data(str(tmp_path / "cifar.tar.gz"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x1f\x8bnonsense", "is not a whole archive"),
        (b"\x1f\x8b", "is not a whole archive"),
        (archive({"cat.png": b"x"}), "cat.png cannot be read as a picture"),
        (archive({"cat.doc": b"x"}), "is no data set that resight knows (it holds cat.doc)"),
    ],
)
def test_other_archives_are_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "x.tar.gz").write_bytes(content)
    with refused(expected):
        resight.data(str(tmp_path / "x.tar.gz"))


def test_an_archive_without_one_batch_is_refused(tmp_path: Path) -> None:
    batches = cifar10_python()
    del batches["data_batch_4"]
    (tmp_path / "x.tar.gz").write_bytes(archive(batches))
    with refused("data_batch_4 is missing"):
        resight.data(str(tmp_path / "x.tar.gz"))


# --- arrays ---------------------------------------------------------------------------------


def test_pickles_inside_npz_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = np.array([Call(os.system, "touch MARK")] * 2, dtype=object)
    np.savez("a.npz", images=hostile, labels=np.array([0, 1]))
    with refused("a.npz cannot be read as arrays"):
        resight.data("a.npz")
    assert not (tmp_path / "MARK").exists()
