"""CIFAR-10 and CIFAR-100 in the forms that their authors publish."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import resight
from cifar_files import (
    CLASSES,
    TEN,
    archive,
    batch,
    cifar10_binary,
    cifar10_python,
    cifar100_binary,
    cifar100_python,
    python2_pickle,
    write_folder,
)
from resight.datasets import Dataset
from resight.datasets.readers.unpickle import load_arrays
from resight.errors import UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "cache"))


def check_cifar10(dataset: Dataset) -> None:
    pixels = np.concatenate([batch(seed)[0] for seed in range(5)]).reshape(-1, 3, 32, 32)
    assert np.array_equal(dataset.train.images.numpy(), pixels)
    assert dataset.train.labels.tolist() == list(range(10)) * 5
    assert np.array_equal(dataset.test.images.numpy(), batch(5)[0].reshape(-1, 3, 32, 32))
    assert dataset.classes == CLASSES
    assert dataset.notes == ()


def check_cifar100(dataset: Dataset) -> None:
    assert np.array_equal(dataset.train.images.flatten(1).numpy(), batch(0, 200)[0])
    assert dataset.train.labels.tolist() == list(range(100)) * 2  # fine, not coarse
    assert dataset.classes == tuple(f"fine-{i}" for i in range(100))


def test_python_batches(tmp_path: Path) -> None:
    dataset = resight.data(str(write_folder(tmp_path / "any-name", cifar10_python())))
    check_cifar10(dataset)
    assert dataset.name == "any-name"
    assert dataset.train.ids[0] == "data_batch_1#0"
    assert dataset.train.ids[-1] == "data_batch_5#9"
    assert dataset.test.ids[3] == "test_batch#3"


def test_binary_files(tmp_path: Path) -> None:
    dataset = resight.data(str(write_folder(tmp_path / "bin", cifar10_binary())))
    check_cifar10(dataset)
    assert dataset.train.ids[0] == "data_batch_1.bin#0"


def test_cifar100_in_both_forms(tmp_path: Path) -> None:
    check_cifar100(resight.data(str(write_folder(tmp_path / "py", cifar100_python()))))
    check_cifar100(resight.data(str(write_folder(tmp_path / "bin", cifar100_binary()))))


def test_the_folder_above_will_do(tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "cifar-10-batches-py", cifar10_python())
    (tmp_path / "data" / "cifar-10-python.tar.gz").write_bytes(b"left from the download")
    check_cifar10(resight.data(str(tmp_path / "data")))


def test_two_data_sets_in_one_folder_are_a_question(tmp_path: Path) -> None:
    write_folder(tmp_path / "data" / "cifar-10-batches-py", cifar10_python())
    write_folder(tmp_path / "data" / "cifar-100-python", cifar100_python())
    with pytest.raises(UsageError, match=r"choose between .*batches-py and .*100-python"):
        resight.data(str(tmp_path / "data"))


@pytest.mark.parametrize("files", [cifar10_python, cifar10_binary])
def test_the_archive_itself(tmp_path: Path, files: object) -> None:
    (tmp_path / "download").write_bytes(archive(files()))  # type: ignore[operator]
    check_cifar10(resight.data(str(tmp_path / "download")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "download"]


def test_another_size_is_noted(tmp_path: Path) -> None:
    dataset = resight.data(str(write_folder(tmp_path / "py", cifar10_python())), image_size=16)
    assert dataset.train.images.shape == (50, 3, 16, 16)
    assert dataset.notes == ("50 images of 32x32 px were resized to 16 px",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_arrays_pickled_by_python_3_are_read_too(protocol: int) -> None:
    pixels, labels = batch(0)
    content = {"data": np.asfortranarray(pixels), "labels": labels}
    read = load_arrays(pickle.dumps(content, protocol), "batch")
    assert np.array_equal(read["data"], pixels)
    assert read["labels"] == labels


def test_arrays_pickled_by_python_2_are_read_as_pickle_reads_them() -> None:
    pixels, labels = batch(1)
    content = python2_pickle({b"data": pixels, b"labels": labels, b"name": b"one"})
    expected = pickle.loads(content, encoding="bytes")
    read = load_arrays(content, "batch")
    assert np.array_equal(read["data"], expected[b"data"])
    assert read["labels"] == expected[b"labels"]
    assert read["name"] == expected[b"name"]


def damaged(name: str, content: bytes | None) -> dict[str, bytes]:
    """CIFAR-10 with one file replaced or, for None, left out."""
    files = cifar10_binary() if name.endswith((".bin", ".txt")) else cifar10_python()
    files.pop(name)
    return files if content is None else files | {name: content}


PIXELS, LABELS = batch(0)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (damaged("data_batch_3", None), "data_batch_3 is missing"),
        (damaged(TEN[0], None), "data_batch_1 is missing"),
        (damaged("batches.meta", None), "batches.meta is missing"),
        (damaged("data_batch_2", b""), "data_batch_2 is not a whole pickle"),
        (damaged("data_batch_2", cifar10_python()["data_batch_2"][:-900]), "not a whole pickle"),
        (damaged("data_batch_2", python2_pickle([1])), "holds a list, not a dictionary"),
        (damaged("test_batch", python2_pickle({b"data": PIXELS})), "is not a CIFAR batch"),
        (
            damaged("test_batch", python2_pickle({b"data": PIXELS[:, :9], b"labels": LABELS})),
            "shape (N, 3072)",
        ),
        (
            damaged("test_batch", python2_pickle({b"data": PIXELS, b"labels": LABELS[1:]})),
            "is not a CIFAR batch",
        ),
        (
            damaged("test_batch", python2_pickle({b"data": PIXELS, b"labels": [10] * 10})),
            "a label of 10 is outside the 10 classes",
        ),
        (
            damaged("test_batch", python2_pickle({b"data": PIXELS[:0], b"labels": []})),
            "test_batch holds no images",
        ),
        (damaged("batches.meta", python2_pickle({})), "no list of class names"),
        (damaged("test_batch.bin", b"\x00" * 3072), "test_batch.bin is cut off"),
        (damaged("test_batch.bin", b"\xff" * 3073), "a label of 255 is outside"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, files: dict[str, bytes], expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        resight.data(str(write_folder(tmp_path / "cifar", files)))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_splits_do_not_share_memory(tmp_path: Path) -> None:
    dataset = resight.data(str(write_folder(tmp_path / "py", cifar10_python())))
    before = dataset.test.images.clone()
    dataset.train.images.zero_()
    assert torch.equal(dataset.test.images, before)
