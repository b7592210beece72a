"""Image data sets in Parquet, as on the Hugging Face hub."""

import base64
import io
import json
import os
import shutil
from collections.abc import Sequence
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
    assert dataset.notes == ("layout parquet: Parquet or Arrow: train, test",)


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
    assert dataset.val is not None
    assert dataset.val.ids == tuple(f"validation/0000.parquet#{row}" for row in range(3))
    assert dataset.train.ids[0].endswith("train/0000.parquet#0")


def test_validation_beside_test(tmp_path: Path) -> None:
    for end, split in enumerate(("train", "test", "validation"), start=4):
        write(tmp_path / "set" / f"{split}.parquet", CONTENTS[:end], LABELS[:end])
    dataset = resight.data(str(tmp_path / "set"))
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert sizes == {"train": 4, "val": 6, "test": 5}


def test_one_file_is_divided(tmp_path: Path) -> None:
    write(tmp_path / "all.parquet", CONTENTS * 2, LABELS * 2)
    dataset = resight.data(str(tmp_path / "all.parquet"))
    assert dataset.name == "all"
    assert (len(dataset.train), len(dataset.test)) == (15, 3)
    assert "no test split: 3 images" in dataset.notes[-1]
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
    assert dataset.notes[1:] == ("1 unreadable pictures skipped: train.parquet#4",)


def test_gray_pictures_stay_gray(tmp_path: Path) -> None:
    gray: list[bytes | None] = [png(seed, mode="L") for seed in range(9)]
    for split in ("train", "test"):
        write(tmp_path / "set" / f"{split}.parquet", gray, LABELS)
    assert resight.data(str(tmp_path / "set")).train.images.shape == (9, 1, 12, 12)


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([0, 1, -2], NAMES, "label -2 in row 2 of train"),
        ([0, 1, 4], NAMES, "label 4 in row 2"),
        ([0, 1, 0.5], NAMES, "column label is double with 0.5, not whole numbers or words"),
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
    with refused("no column that is plainly the picture (it has x, y); call it image"):
        resight.data(str(tmp_path / "numbers.parquet"))
    pq.write_table(pa.table({"img": ["a.png"], "label": [2]}), tmp_path / "paths.parquet")
    with refused("column img names files, as 'a.png', and no pictures lie beside it; give the"):
        resight.data(str(tmp_path / "paths.parquet"))
    pq.write_table(
        pa.table({"img": pa.array([], pa.binary()), "label": []}), tmp_path / "0.parquet"
    )
    with refused("0.parquet has no rows; get it again"):
        resight.data(str(tmp_path / "0.parquet"))
    write(tmp_path / "train.parquet", CONTENTS, LABELS)
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[: len(whole) // 2])
    with refused("train.parquet: not whole Parquet"):
        resight.data(str(tmp_path / "train.parquet"))


def test_a_split_without_train_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "set" / "test.parquet", CONTENTS, LABELS)
    with refused("has no training images (it has test); add some"):
        resight.data(str(tmp_path / "set"))


# --- names of files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("data.parquet",),
        ("0000.parquet", "0001.parquet"),
        ("photos-00000-of-00002.parquet", "photos-00001-of-00002.parquet"),
        ("default/part.0.parquet", "default/part.1.parquet"),
    ],
)
def test_files_without_a_split_are_one_source(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write(tmp_path / "set" / name, CONTENTS, LABELS)
    dataset = resight.data(str(tmp_path / "set"))
    assert len(dataset.train) + len(dataset.test) == 9 * len(names)
    assert dataset.notes[-1].startswith("no test split")


def test_files_that_may_be_different_sets_are_refused(tmp_path: Path) -> None:
    for name in ("birds.parquet", "cars.parquet"):
        write(tmp_path / "set" / name, CONTENTS, LABELS)
    with refused("holds birds.parquet, cars.parquet, which may be different sets; give the path"):
        resight.data(str(tmp_path / "set"))
    write(tmp_path / "set" / "train.parquet", CONTENTS, LABELS)
    assert "files of no split: birds.parquet, cars.parquet" in resight.data(str(tmp_path)).notes


def test_two_words_for_one_split_are_refused(tmp_path: Path) -> None:
    for name in ("train.parquet", "dev.parquet", "eval.parquet"):
        write(tmp_path / "set" / name, CONTENTS, LABELS)
    with refused("holds dev.parquet and eval.parquet, which both mean the val split"):
        resight.data(str(tmp_path / "set"))


def test_in_an_archive(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / "set" / f"{split}.parquet", CONTENTS, LABELS)
    plain = resight.data(str(tmp_path / "set"))
    for kind in ("zip", "gztar"):
        packed = shutil.make_archive(str(tmp_path / kind), kind, tmp_path / "set")
        assert resight.data(packed).fingerprint == plain.fingerprint


# --- columns ----------------------------------------------------------------------------------

RED = [Image.new("RGB", (12, 12), (60 * label + 20, 0, 0)) for label in range(3)]  # tells the label


def picture(label: int) -> bytes:
    stream = io.BytesIO()
    RED[label].save(stream, "PNG")
    return stream.getvalue()


def check_labels(dataset: resight.Dataset, values: Sequence[str] = ("0", "1", "2")) -> None:
    """Check that every picture has the label that its color tells; values: the class of each."""
    for split in dataset.splits.values():
        told = [values[(int(image[0, 0, 0]) - 20) // 60] for image in split.images]
        assert [dataset.classes[label] for label in split.labels.tolist()] == told


def save(path: Path, **columns: Any) -> str:
    pq.write_table(pa.table({"image": [picture(label) for label in LABELS], **columns}), path)
    return str(path)


@pytest.mark.parametrize("name", ["target", "category", "class", "cls", "y", "Label", "breed"])
def test_label_columns(tmp_path: Path, name: str) -> None:
    others = {"id": list(range(9)), "age": [0.5 * n for n in range(9)], "note": list("abcdefghi")}
    dataset = resight.data(save(tmp_path / "a.parquet", **others, **{name: LABELS}))
    check_labels(dataset)
    assert ("column breed was taken as the label" in dataset.notes) == (name == "breed")


def test_a_column_says_the_split_of_each_row(tmp_path: Path) -> None:
    splits = ["train", "test", "train", "validation", "train", "test", "train", "train", None]
    dataset = resight.data(save(tmp_path / "a.parquet", label=LABELS, Split=splits))
    check_labels(dataset)
    rows = {"train": (0, 2, 4, 6, 7), "val": (3,), "test": (1, 5)}
    ids = {name: tuple(f"a.parquet#{row}" for row in part) for name, part in rows.items()}
    assert {name: tuple(split.ids) for name, split in dataset.splits.items()} == ids
    note = "the split is column Split; 1 rows are of none of these splits: left out"
    assert note in dataset.notes


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([float(label) for label in LABELS], ("0", "1", "2")),
        ([label + 1 for label in LABELS], ("1", "2", "3")),
        ([f"{label + 9}" for label in LABELS], ("9", "10", "11")),
        ([b"cat owl dog".split()[label] for label in LABELS], ("cat", "owl", "dog")),
        (pa.array([["x", "y", "z"][k] for k in LABELS]).dictionary_encode(), ("x", "y", "z")),
    ],
)
def test_kinds_of_labels(tmp_path: Path, labels: Any, classes: tuple[str, ...]) -> None:
    dataset = resight.data(save(tmp_path / "a.parquet", label=labels))
    assert set(dataset.classes) == set(classes)
    check_labels(dataset, classes)


def test_truth_values_are_two_classes(tmp_path: Path) -> None:
    dataset = resight.data(save(tmp_path / "a.parquet", label=[label > 0 for label in LABELS]))
    check_labels(dataset, ("False", "True", "True"))


def test_a_column_that_is_not_plain_is_chosen(tmp_path: Path) -> None:
    path = save(tmp_path / "a.parquet", breed=LABELS, sex=[0, 1, 1] * 3)
    with refused("could be the label: breed, sex; choose one by --set data.label_column=breed"):
        resight.data(path)
    check_labels(resight.data(path, label_column="breed"))
    with refused("has no column 'bred'; it has breed, sex"):
        resight.data(path, label_column="bred")


def test_the_declared_column_goes_before_a_known_name(tmp_path: Path) -> None:
    path = save(tmp_path / "a.parquet", label=[7 - label for label in LABELS], species=LABELS)
    features = {"species": {"_type": "ClassLabel", "names": NAMES}}
    table = pq.read_table(path)
    text = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), path)
    dataset = resight.data(path)
    check_labels(dataset, NAMES)
    assert "column species was taken as the label, not label" in dataset.notes


def test_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    labels = [None if row in (1, 5) else label for row, label in enumerate(LABELS)]
    write(tmp_path / "train.parquet", [picture(label) for label in LABELS], labels)
    write(tmp_path / "test.parquet", CONTENTS, [-1] * 9)
    dataset = resight.data(str(tmp_path))
    check_labels(dataset, NAMES)
    ids = {name for split in dataset.splits.values() for name in split.ids}
    assert ids == {f"train.parquet#{row}" for row in (0, 2, 3, 4, 6, 7, 8)}
    assert any(note.startswith("test: 9 of 9 labels are missing") for note in dataset.notes)


def test_shards_with_their_columns_in_another_order(tmp_path: Path) -> None:
    columns = {"image": [picture(label) for label in LABELS], "label": LABELS}
    pq.write_table(pa.table(columns), tmp_path / "train-0.parquet")
    pq.write_table(pa.table(columns).select(["label", "image"]), tmp_path / "train-1.parquet")
    check_labels(resight.data(str(tmp_path)))
    pq.write_table(
        pa.table({"image": columns["image"], "kind": LABELS}), tmp_path / "train-2.parquet"
    )
    with refused("train-2.parquet lacks column image or label"):
        resight.data(str(tmp_path))


# --- pictures -------------------------------------------------------------------------------


def test_base64(tmp_path: Path) -> None:
    texts = [base64.b64encode(picture(label)).decode() for label in LABELS]
    check_labels(resight.data(save(tmp_path / "a.parquet", image=texts, label=LABELS)))
    texts = [f"data:image/png;base64,{text}" for text in texts]
    check_labels(resight.data(save(tmp_path / "b.parquet", image=texts, label=LABELS)))


@pytest.mark.parametrize("folder", ["pictures/", "/home/someone/pictures/", "C:\\mine\\"])
@pytest.mark.parametrize("as_struct", [True, False])
def test_paths_of_files_beside(tmp_path: Path, folder: str, as_struct: bool) -> None:
    (tmp_path / "pictures").mkdir()
    for row, label in enumerate(LABELS):
        (tmp_path / "pictures" / f"{row}.png").write_bytes(picture(label))
    paths: list[Any] = [f"{folder}{row}.png" for row in range(9)]
    if as_struct:
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        paths = pa.array([{"bytes": None, "path": path} for path in paths], kind)
    save(tmp_path / "data.parquet", image=paths, label=LABELS)
    check_labels(resight.data(str(tmp_path)))
    check_labels(resight.data(shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path)))
    (tmp_path / "pictures" / "3.png").unlink()
    with refused("data.parquet#3 cannot be read as a picture (No such file or directory)"):
        resight.data(str(tmp_path))


def test_a_path_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture(0))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "other.png").write_bytes(picture(0))
    for path in ("../secret.png", str(tmp_path / "secret.png")):
        save(tmp_path / "set" / "data.parquet", image=[path] * 9, label=LABELS)
        with refused("data.parquet#0 cannot be read as a picture"):
            resight.data(str(tmp_path / "set"))


@pytest.mark.parametrize("shape", [(12, 12, 3), (3, 12, 12), (12, 12), (144,)])
def test_lists_of_numbers(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, *shape), dtype=np.uint8)
    path = save(tmp_path / "a.parquet", image=images.tolist(), label=LABELS)
    dataset = resight.data(path)
    rows = [int(name.partition("#")[2]) for name in dataset.train.ids]
    expected = images.reshape(9, 12, 12, -1).transpose(0, 3, 1, 2)
    if shape == (3, 12, 12):
        expected = images
    assert np.array_equal(dataset.train.images.numpy(), expected[rows])
    assert dataset.train.labels.tolist() == [LABELS[row] for row in rows]


def test_lists_of_several_lengths_are_refused(tmp_path: Path) -> None:
    lists = [[0] * (64 + row) for row in range(9)]
    with refused("column image has lists of several lengths or none; give every image the same"):
        resight.data(save(tmp_path / "a.parquet", image=lists, label=LABELS))


# --- Arrow ------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", [pa.ipc.new_stream, pa.ipc.new_file])
def test_what_save_to_disk_writes(tmp_path: Path, writer: Any) -> None:
    table = pa.table({"image": [{"bytes": picture(label)} for label in LABELS], "label": LABELS})
    for split in ("train", "validation", "test"):
        (tmp_path / split).mkdir()
        name = tmp_path / split / "data-00000-of-00001.arrow"
        with writer(str(name), table.schema) as file:
            file.write_table(table, max_chunksize=4)
        (tmp_path / split / "state.json").write_text("{}")
        (tmp_path / split / "cache-1234.arrow").write_bytes(b"of a map")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    dataset = resight.data(str(tmp_path))
    check_labels(dataset)
    assert [len(split) for split in dataset.splits.values()] == [9, 9, 9]
    whole = name.read_bytes()
    name.write_bytes(whole[: len(whole) // 2])
    with refused("not whole Parquet"):
        resight.data(str(tmp_path))


@pytest.mark.skipif("RESIGHT_TEST_CIFAR10" not in os.environ, reason="needs CIFAR-10 in Parquet")
def test_the_real_cifar10() -> None:
    dataset = resight.data(os.environ["RESIGHT_TEST_CIFAR10"])
    assert dataset.train.images.shape == (50_000, 3, 32, 32)
    assert dataset.train.labels.bincount().tolist() == [5000] * 10
    assert dataset.test.labels.bincount().tolist() == [1000] * 10
    # Krizhevsky's pixels give (0.4914, 0.4822, 0.4465); a JPEG copy differs in the fourth place.
    assert statistics(dataset.train).mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=3e-4)
