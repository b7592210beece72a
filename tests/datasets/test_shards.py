"""Tar files of samples, as WebDataset writes them."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resight
from refusal import refused

NAMES = ("cat", "dog", "owl")
LabelFile = Callable[[int], tuple[str, bytes]]  # class -> (suffix, content)


def as_cls(label: int) -> tuple[str, bytes]:
    return "cls", f"{label}\n".encode()


def picture(label: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (12, 12), (60 * label + 20, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_tar(
    path: Path, labels: Sequence[int], label_file: LabelFile = as_cls, *, suffix: str = "png"
) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as file:
        for row, label in enumerate(labels):
            kind, text = label_file(label)
            for name, content in (
                (f"sample/{row:06}.{suffix}", picture(label)),
                (f"sample/{row:06}.{kind}", text),
                (f"sample/{row:06}.meta", b"{}"),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))


def check_labels(dataset: resight.Dataset, names: Sequence[str]) -> None:
    for split in dataset.splits.values():
        told = [names[(int(image[0, 0, 0]) - 20) // 60] for image in split.images]
        assert [dataset.classes[label] for label in split.labels.tolist()] == told


LABELS = [0, 1, 2] * 4


def test_shards_of_three_splits(tmp_path: Path) -> None:
    for name in ("train-000000", "train-000001", "val-000000", "imagenet-test-000000"):
        write_tar(tmp_path / f"{name}.tar", LABELS)
    dataset = resight.data(str(tmp_path))
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert sizes == {"train": 24, "val": 12, "test": 12}
    assert dataset.train.ids[13] == "train-000001.tar/sample/000001.png"
    check_labels(dataset, ("0", "1", "2"))


@pytest.mark.parametrize(
    "label_file",
    [
        lambda label: ("txt", NAMES[label].encode()),
        lambda label: ("json", json.dumps({"id": 7, "label": NAMES[label]}).encode()),
        lambda label: ("json", json.dumps(NAMES[label]).encode()),
        lambda label: ("cls.txt", NAMES[label].encode()),
    ],
)
def test_kinds_of_labels(tmp_path: Path, label_file: LabelFile) -> None:
    write_tar(tmp_path / "shard-0.tar", LABELS, label_file)
    write_tar(tmp_path / "shard-1.tar", LABELS, label_file)
    dataset = resight.data(str(tmp_path))
    assert dataset.classes == NAMES
    assert len(dataset.train) + len(dataset.test) == 24
    check_labels(dataset, NAMES)
    assert len(resight.data(str(tmp_path / "shard-0.tar")).train) == 9


def test_named_classes_and_other_names_of_pictures(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", LABELS, suffix="image.png")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    dataset = resight.data(str(tmp_path))
    assert dataset.classes == NAMES
    check_labels(dataset, NAMES)


def test_samples_that_were_unpacked(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", LABELS)
    with tarfile.open(tmp_path / "a.tar") as file:
        file.extractall(tmp_path / "set", filter="data")
    check_labels(resight.data(str(tmp_path / "set")), ("0", "1", "2"))


def test_samples_without_a_label_are_left_out(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [*LABELS, -1])
    dataset = resight.data(str(tmp_path / "a.tar"))
    assert len(dataset.train) + len(dataset.test) == 12
    assert any("1 of 13 labels are missing" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("label_file", "expected"),
    [
        (lambda label: ("json", b'{"label": [1, 2]}'), "holds '[1, 2]', which is no whole number"),
        (lambda label: ("json", b'{"label": 0.5}'), "holds '0.5', which is no whole number"),
        (lambda label: ("json", b"["), "is no label (Expecting value"),
        (lambda label: ("json", b"[" * 60_000), "is no label ("),
        (lambda label: ("cls", b"\xff\xfe\xff"), "is no label ("),
        (lambda label: ("cls", b"x" * 70_000), "has 70,000 bytes"),
        (lambda label: ("txt", b"a photo of\na cat"), "which look like captions or boxes; give"),
        (lambda label: ("txt", f"{label} 0.5 0.5 0.1 0.2".encode()), "captions or boxes"),
    ],
)
def test_what_is_no_label_is_refused(tmp_path: Path, label_file: LabelFile, expected: str) -> None:
    write_tar(tmp_path / "a.tar", LABELS, label_file)
    with refused(expected):
        resight.data(str(tmp_path / "a.tar"))


def test_captions_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_tar(tmp_path / "a.tar", LABELS, lambda label: ("txt", rng.bytes(4).hex().encode()))
    with refused("which look like captions or boxes; give each sample a .cls file"):
        resight.data(str(tmp_path / "a.tar"))


def test_a_damaged_shard_is_refused(tmp_path: Path) -> None:
    for name in ("train-0.tar", "train-1.tar"):
        write_tar(tmp_path / name, LABELS)
    whole = (tmp_path / "train-1.tar").read_bytes()
    (tmp_path / "train-1.tar").write_bytes(whole[:700])
    with refused("train-1.tar is not a whole archive"):
        resight.data(str(tmp_path))
