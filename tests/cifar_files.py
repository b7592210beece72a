"""Small data sets in the forms that the authors of CIFAR publish, written for tests."""

import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

TEN = tuple(f"data_batch_{i}" for i in range(1, 6))
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def batch(seed: int, count: int = 10, classes: int = 10) -> tuple[Pixels, list[int]]:
    """Random pixels (N, 3072) and every class in turn."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)
    return pixels, [row % classes for row in range(count)]


def python2_pickle(value: Any) -> bytes:
    """`value` as Python 2 and NumPy 1 pickled the real batches: protocol 2, 8-bit strings."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_opcodes, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_opcodes(k) + _opcodes(v) for k, v in value.items()) + b"u"
    shape = b"".join(map(_opcodes, value.shape))
    minus_one = b"J\xff\xff\xff\xff"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    dtype += b"(K\x03U\x01|NNN" + minus_one * 2 + b"K\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    return empty + b"(K\x01(" + shape + b"t" + dtype + b"\x89" + _opcodes(value.tobytes()) + b"tb"


def cifar10_python() -> dict[str, bytes]:
    """The files of `cifar-10-batches-py`."""
    files = {}
    for seed, name in enumerate((*TEN, "test_batch")):
        pixels, labels = batch(seed)
        files[name] = python2_pickle({b"data": pixels, b"labels": labels, b"batch_label": b"x"})
    files["batches.meta"] = python2_pickle({b"label_names": [c.encode() for c in CLASSES]})
    return files


def cifar100_python() -> dict[str, bytes]:
    """The files of `cifar-100-python`."""
    files = {}
    for seed, name in enumerate(("train", "test")):
        pixels, labels = batch(seed, 200, 100)
        coarse = [label // 5 for label in labels]
        content = {b"data": pixels, b"fine_labels": labels, b"coarse_labels": coarse}
        files[name] = python2_pickle(content)
    names = [f"fine-{i}".encode() for i in range(100)]
    files["meta"] = pickle.dumps({"fine_label_names": [n.decode() for n in names]}, protocol=2)
    return files


def cifar10_binary() -> dict[str, bytes]:
    """The files of `cifar-10-batches-bin`."""
    files = {}
    for seed, name in enumerate((*TEN, "test_batch")):
        pixels, labels = batch(seed)
        first = np.array(labels, dtype=np.uint8)[:, None]
        files[f"{name}.bin"] = np.hstack([first, pixels]).tobytes()
    files["batches.meta.txt"] = "\n".join((*CLASSES, "")).encode()
    return files


def cifar100_binary() -> dict[str, bytes]:
    """The files of `cifar-100-binary`."""
    files = {}
    for seed, name in enumerate(("train", "test")):
        pixels, labels = batch(seed, 200, 100)
        fine = np.array(labels, dtype=np.uint8)[:, None]
        files[f"{name}.bin"] = np.hstack([fine // 5, fine, pixels]).tobytes()
    files["fine_label_names.txt"] = "\n".join(f"fine-{i}" for i in range(100)).encode()
    return files


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def archive(files: dict[str, bytes], folder: str = "cifar-10-batches-py") -> bytes:
    """The bytes of a `.tar.gz` of `files` in one folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()
