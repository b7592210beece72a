"""Image data sets in Parquet, as on the Hugging Face hub."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import resight
from refusal import refused
from resight.datasets import statistics

NAMES = ["cat", "dog", "owl"]


def png(seed: int, px: int = 12, mode: str = "RGB") -> bytes:
    shape = (px, px, 3) if mode == "RGB" else (px, px)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pixels_of(content: bytes) -> Any:
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def write(
    path: Path,
    contents: list[bytes | None],
    labels: list[Any],
    *,
    image: str = "img",
    label: str = "label",
    names: list[str] | None = NAMES,
    plain: bool = False,
) -> None:
    images = contents if plain else [{"bytes": c, "path": None} for c in contents]
    kind = pa.binary() if plain else pa.struct({"bytes": pa.binary(), "path": pa.string()})
    features: dict[str, Any] = {image: {"_type": "Image"}}
    if names:
        features[label] = {"_type": "ClassLabel", "names": names}
    table = pa.table({image: pa.array(images, kind), label: pa.array(labels)})
    if names:
        text = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": text})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


CONTENTS: list[bytes | None] = [png(seed) for seed in range(9)]
LABELS = [0, 1, 2] * 3


@pytest.mark.parametrize("folder", ["", "data", "plain_text"])
def test_shards_in_the_folder_or_below(tmp_path: Path, folder: str) -> None:
    root = tmp_path / "set" / folder
    write(root / "train-00000-of-00002.parquet", CONTENTS[:4], LABELS[:4])
    write(root / "train-00001-of-00002.parquet", CONTENTS[4:6], LABELS[4:6])
    write(root / "test-00000-of-00001.parquet", CONTENTS[6:], LABELS[6:])
    dataset = resight.data(str(tmp_path / "set"))
    assert dataset.classes == ("cat", "dog", "owl")
    assert dataset.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.train.ids[4].endswith("train-00001-of-00002.parquet#0")
    for split, contents in ((dataset.train, CONTENTS[:6]), (dataset.test, CONTENTS[6:])):
        expected = np.stack([pixels_of(c) for c in contents if c])
        assert np.array_equal(split.images.numpy(), expected)
    assert dataset.notes == ()


@pytest.mark.parametrize(
    ("image", "label", "plain"),
    [("image", "fine_label", False), ("picture", "kind", False), ("image", "labels", True)],
)
def test_columns_by_name_or_metadata(tmp_path: Path, image: str, label: str, plain: bool) -> None:
    for split in ("train", "test"):
        path = tmp_path / "set" / f"{split}.parquet"
        write(path, CONTENTS, LABELS, image=image, label=label, plain=plain)
    dataset = resight.data(str(tmp_path / "set"))
    assert dataset.test.labels.tolist() == LABELS
    assert dataset.classes == tuple(NAMES)


def test_fine_labels_go_before_coarse(tmp_path: Path) -> None:
    images = [{"bytes": content} for content in CONTENTS]
    table = pa.table({"img": images, "coarse_label": [0] * 9, "fine_label": LABELS})
    for split in ("train", "test"):
        pq.write_table(table, tmp_path / f"{split}.parquet")
    dataset = resight.data(str(tmp_path))
    assert dataset.train.labels.tolist() == LABELS
    assert dataset.classes == ("0", "1", "2")


def test_words_as_labels(tmp_path: Path) -> None:
    words = ["owl", "cat", "dog"] * 3
    for split in ("train", "test"):
        write(tmp_path / "set" / f"{split}.parquet", CONTENTS, words, names=None)
    dataset = resight.data(str(tmp_path / "set"))
    assert dataset.classes == ("cat", "dog", "owl")
    assert dataset.train.labels.tolist() == [2, 0, 1] * 3


def test_the_converted_branch_of_the_hub(tmp_path: Path) -> None:
    write(tmp_path / "set" / "default" / "train" / "0000.parquet", CONTENTS, LABELS)
    write(tmp_path / "set" / "default" / "validation" / "0000.parquet", CONTENTS[:3], LABELS[:3])
    write(tmp_path / "set" / ".cache" / "train" / "0000.parquet", CONTENTS, LABELS)
    dataset = resight.data(str(tmp_path / "set"))
    assert (len(dataset.train), len(dataset.test)) == (9, 3)
    assert dataset.test.ids[0] == "default/validation/0000.parquet#0"


def test_validation_beside_test_is_skipped_and_noted(tmp_path: Path) -> None:
    for split in ("train", "test", "validation"):
        write(tmp_path / "set" / f"{split}.parquet", CONTENTS, LABELS)
    dataset = resight.data(str(tmp_path / "set"))
    assert dataset.test.ids[0].startswith("test.parquet")
    assert dataset.notes == (
        "the validation split was skipped: validation images are held out of train",
    )


def test_one_file_is_divided(tmp_path: Path) -> None:
    write(tmp_path / "all.parquet", CONTENTS * 2, LABELS * 2)
    dataset = resight.data(str(tmp_path / "all.parquet"))
    assert dataset.name == "all"
    assert (len(dataset.train), len(dataset.test)) == (15, 3)
    assert "no test split: 3 images" in dataset.notes[0]
    assert not set(dataset.train.ids) & set(dataset.test.ids)


def test_a_missing_picture_is_named_or_skipped(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.parquet", [*CONTENTS[:4], None, *CONTENTS[5:]], LABELS)
    write(tmp_path / "set" / "test.parquet", CONTENTS[:3], LABELS[:3])
    with refused("train.parquet#4 cannot be read as a picture (it is empty); fix or remove it, or"):
        resight.data(str(tmp_path / "set"))
    dataset = resight.data(str(tmp_path / "set"), skip_unreadable=True)
    assert dataset.train.labels.tolist() == LABELS[:4] + LABELS[5:]
    assert "train.parquet#4" not in dataset.train.ids
    assert dataset.test.labels.tolist() == LABELS[:3]
    assert dataset.notes == ("1 unreadable pictures skipped: train.parquet#4",)


def test_gray_pictures_stay_gray(tmp_path: Path) -> None:
    gray: list[bytes | None] = [png(seed, mode="L") for seed in range(9)]
    for split in ("train", "test"):
        write(tmp_path / "set" / f"{split}.parquet", gray, LABELS)
    assert resight.data(str(tmp_path / "set")).train.images.shape == (9, 1, 12, 12)


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([0, 1, -1], NAMES, "label -1 in row 2 of train"),
        ([0, 1, 3], NAMES, "label 3 in row 2"),
        ([0, None, 1], NAMES, "label None in row 1"),
        ([0, 1, 10**9], None, "label 1000000000 is no class number"),
        ([0, 0, 0], None, "has 1 class"),
        ([0, 1, 1], NAMES, "no training image of class 'owl'"),
    ],
)
def test_bad_labels_are_named(
    tmp_path: Path, labels: list[Any], names: list[str] | None, expected: str
) -> None:
    write(tmp_path / "set" / "train.parquet", CONTENTS[:3], labels, names=names)
    write(tmp_path / "set" / "test.parquet", CONTENTS[:3], [0, 0, 0], names=names)
    with refused(expected):
        resight.data(str(tmp_path / "set"))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train-00000-of-00003.parquet", CONTENTS, LABELS)
    write(tmp_path / "set" / "train-00002-of-00003.parquet", CONTENTS, LABELS)
    with refused("shard 1 of 3"):
        resight.data(str(tmp_path / "set"))


def test_several_subsets_are_refused(tmp_path: Path) -> None:
    for subset in ("coarse", "fine"):
        write(tmp_path / "set" / subset / "train.parquet", CONTENTS, LABELS)
    with refused("several subsets; choose one of: coarse, fine"):
        resight.data(str(tmp_path / "set"))


def test_other_tables_and_broken_files_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1], "y": [2]}), tmp_path / "numbers.parquet")
    with refused("label or fine_label); it has x, y"):
        resight.data(str(tmp_path / "numbers.parquet"))
    pq.write_table(pa.table({"img": ["a.png"], "label": [2]}), tmp_path / "paths.parquet")
    with refused("column img is string, not pictures as bytes"):
        resight.data(str(tmp_path / "paths.parquet"))
    write(tmp_path / "train.parquet", CONTENTS, LABELS)
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[: len(whole) // 2])
    with refused("train.parquet: not whole Parquet"):
        resight.data(str(tmp_path / "train.parquet"))


def test_a_split_without_train_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "set" / "test.parquet", CONTENTS, LABELS)
    with refused("for test but none for train"):
        resight.data(str(tmp_path / "set"))


@pytest.mark.skipif("RESIGHT_TEST_CIFAR10" not in os.environ, reason="needs CIFAR-10 in Parquet")
def test_the_real_cifar10() -> None:
    dataset = resight.data(os.environ["RESIGHT_TEST_CIFAR10"])
    assert dataset.train.images.shape == (50_000, 3, 32, 32)
    assert dataset.train.labels.bincount().tolist() == [5000] * 10
    assert dataset.test.labels.bincount().tolist() == [1000] * 10
    # Krizhevsky's pixels give (0.4914, 0.4822, 0.4465); a JPEG copy differs in the fourth place.
    assert statistics(dataset.train).mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=3e-4)
