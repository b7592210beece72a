"""The table of docs/data.md as a test: each row is built, read, and compared with what it says."""

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resight
from refusal import refused

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
PICTURES = (".jpg", ".png")


def table_rows() -> list[tuple[str, str]]:
    """The rows of the page that build an example: what lies there, and how it is read."""
    text = PAGE.read_text(encoding="utf-8").partition("Pictures in other containers")[0]
    rows = [line.strip("| ").rpartition(" | ") for line in text.splitlines() if "| `" in line]
    return [(tree, result) for tree, _, result in rows]


def expanded(text: str) -> list[str]:
    """`{cat,dog}/{1..2}.jpg` as a shell expands it."""
    match = re.search(r"\{([^{}]*)\}", text)
    if match is None:
        return [text]
    first, dots, last = match[1].partition("..")
    words = [str(i) for i in range(int(first), int(last) + 1)] if dots else match[1].split(",")
    return [
        whole
        for word in words
        for whole in expanded(text[: match.start()] + word + text[match.end() :])
    ]


def contents(tree: str) -> dict[str, bytes | None]:
    """The files of a tree as the page writes it; None for an empty folder."""
    files: dict[str, bytes | None] = {}
    for part in re.findall(r"`([^`]+)`", tree):
        name, colon, lines = part.partition(": ")
        if colon:
            files[name] = lines.replace(" / ", "\n").encode()
            continue
        for file in expanded(part):
            if file.endswith("/"):
                files[file] = None
            else:
                files[file] = picture(file) if file.endswith(PICTURES) else b"1 0.5 0.5 1 1"
    return files


def picture(name: str) -> bytes:
    """A picture whose pixels tell its name."""
    generator = np.random.default_rng(list(name.encode()))
    pixels = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")  # whatever the suffix says
    return stream.getvalue()


def write_folder(root: Path, files: Mapping[str, bytes | None]) -> Path:
    root.mkdir()
    for name, content in files.items():
        path = root / name
        if content is None:
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def write_zip(path: Path, files: Mapping[str, bytes | None]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content or b"")
    return path


def write_tar(path: Path, files: Mapping[str, bytes | None], mode: str) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}".rstrip("/"))
            member.size = len(content or b"")
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            archive.addfile(member, io.BytesIO(content or b""))
    return path


def check(path: Path, result: str) -> resight.datasets.Dataset | None:
    """Compare what is read with a row such as `folders: cat, dog; train 8, test 2`."""
    layout, _, rest = result.partition(": ")
    if layout == "refused":
        with refused(rest):
            resight.data(str(path))
        return None
    dataset = resight.data(str(path))
    classes, _, splits = rest.partition("; ")
    assert dataset.notes[0].startswith(f"layout {layout}: ")
    assert ", ".join(dataset.classes) == classes
    assert ", ".join(f"{name} {len(split)}" for name, split in dataset.splits.items()) == splits
    return dataset


def test_the_page_has_rows() -> None:
    assert len(table_rows()) > 30
    assert sum(result.startswith("refused") for _, result in table_rows()) > 8


@pytest.mark.parametrize(("tree", "result"), table_rows())
def test_a_layout_is_read_as_the_page_says(tmp_path: Path, tree: str, result: str) -> None:
    files = contents(tree)
    dataset = check(write_folder(tmp_path / "data", files), result)
    if dataset is None:
        return
    for split in dataset.splits.values():
        for image, label, name in zip(split.images, split.labels, split.ids, strict=True):
            (whole,) = [file for file in files if f"/{file}".endswith(f"/{name}")]
            with Image.open(io.BytesIO(files[whole] or b"")) as expected:
                assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(expected))
            word = dataset.classes[label]
            if not result.startswith("table"):
                assert re.search(rf"(^|/){re.escape(word)}[/._]", whole)


@pytest.mark.parametrize(("tree", "result"), table_rows()[::3])
def test_archives_are_read_like_folders(tmp_path: Path, tree: str, result: str) -> None:
    files = contents(tree)
    folder = resight_or_none(write_folder(tmp_path / "data", files))
    paths = [write_zip(tmp_path / "data.zip", files)]
    for kind in ("", ":gz", ":bz2", ":xz"):
        suffix = kind.replace(":", ".")
        paths.append(write_tar(tmp_path / f"data.tar{suffix}", files, f"w{kind}"))
    for path in paths:
        check(path, result)
        read = resight_or_none(path)
        assert (read and read.fingerprint) == (folder and folder.fingerprint)


def resight_or_none(path: Path) -> resight.datasets.Dataset | None:
    try:
        return resight.data(str(path))
    except resight.errors.UsageError:
        return None


def test_a_table_may_be_given_itself(tmp_path: Path) -> None:
    files = contents("`imgs/{1..4}.jpg` `my.csv: path,kind / imgs/1.jpg,x / imgs/2.jpg,y`")
    files["my.csv"] = b"path,kind\n" + b"".join(
        b"imgs/%d.jpg,%s\n" % (i, b"xy"[i % 2 : i % 2 + 1]) for i in range(1, 5)
    )
    root = write_folder(tmp_path / "data", files)
    check(root / "my.csv", "table: x, y; train 2, test 2")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"file,label\n1.jpg,a\n\x00", "is no text (it holds NUL characters)"),
        (b'file,label\n"' + b"x" * 200_000 + b'",a\n', "is a damaged table"),
        (b"file,label\n1.jpg,a\n1.jpg,b\n2.jpg,a\n3.jpg,b\n", "gives 1.jpg twice"),
        (b"file,label\n7.jpg,a\n8.jpg,b\n", "names pictures such as 7.jpg, but none of them"),
        (b"file,label\n1.jpg,a\n2.jpg,b\n3.jpg,a\n9.jpg,b\n", "1 rows of l.csv name pictures that"),
        (b"file,cat,dog\n1.jpg,1,1\n2.jpg,0,1\n3.jpg,1,0\n", "have none or several of the labels"),
        (b"file\n1.jpg\n2.jpg\n", "l.csv has no column of labels"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    root = write_folder(tmp_path / "data", contents("`{1..4}.jpg`") | {"l.csv": content})
    with refused(expected):
        resight.data(str(root))


@pytest.mark.parametrize("name", ["l.csv", "l.txt"])
@pytest.mark.parametrize("content", [b"# a comment alone\n", b",,\n,,\n", b"file,label\n"])
def test_a_table_without_rows_is_no_table(tmp_path: Path, name: str, content: bytes) -> None:
    files = contents("`{cat,dog}/{1..5}.jpg`") | {name: content}
    root = write_folder(tmp_path / "data", files)
    check(root, "folders: cat, dog; train 8, test 2")
    with refused(f"is no data set that resight knows (it holds {name})"):
        resight.data(str(root / name))


def test_a_name_too_long_for_a_file_is_a_missing_picture(tmp_path: Path) -> None:
    rows = b"file,label\n1.jpg,a\n2.jpg,b\n3.jpg,a\n" + b"x" * 300 + b".jpg,b\n"
    root = write_folder(tmp_path / "data", contents("`{1..3}.jpg`") | {"l.csv": rows})
    for path in (root, root / "l.csv"):
        with refused("1 rows of l.csv name pictures that are missing"):
            resight.data(str(path))


def test_a_column_may_tell_the_split(tmp_path: Path) -> None:
    for column in ("split", "Dataset_Type"):
        rows = [f"{i}.jpg,{'ab'[i % 2]},{'test' if i > 4 else 'train'}" for i in range(1, 7)]
        table = "\n".join([f"file,label,{column}", *rows])
        files = contents("`{1..6}.jpg`") | {"l.csv": table.encode()}
        root = write_folder(tmp_path / column, files)
        check(root, "table: a, b; train 4, test 2")


def test_a_table_of_another_encoding_is_noted(tmp_path: Path) -> None:
    words = "file,label\n1.jpg,Käse\n2.jpg,Öl\n3.jpg,Käse\n4.jpg,Öl\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "latin-1"):
        files = contents("`{1..4}.jpg`") | {"l.csv": words.encode(encoding)}
        dataset = resight.data(str(write_folder(tmp_path / encoding, files)))
        assert dataset.classes == ("Käse", "Öl")
        assert any("read as Latin-1" in note for note in dataset.notes) == (encoding == "latin-1")


def test_the_flags_decide(tmp_path: Path) -> None:
    tree = "`{p,q}/{1..4}.jpg` `l.csv: file,label / p/1.jpg,a / p/2.jpg,b / q/1.jpg,a / q/2.jpg,b`"
    root = str(write_folder(tmp_path / "both", contents(tree)))
    assert resight.data(root, layout="folders").classes == ("p", "q")
    assert resight.data(root, layout="table").classes == ("a", "b")
    with refused("there is no layout 'tables'; did you mean \"table\"?"):
        resight.data(root, layout="tables")
    tree = "`{1..4}.jpg` `l.csv: file,color,size / 1.jpg,r,S / 2.jpg,r,L / 3.jpg,b,S / 4.jpg,b,L`"
    root = str(write_folder(tmp_path / "columns", contents(tree)))
    assert resight.data(root, label_column="size").classes == ("L", "S")
    with refused("has no column 'weight'"):
        resight.data(root, label_column="weight")
    tree = "`train/{a,b}/{1..4}.jpg` `test/{a,c}/{5..6}.jpg`"
    dataset = resight.data(str(write_folder(tmp_path / "classes", contents(tree))), classes="train")
    assert (dataset.classes, len(dataset.test)) == (("a", "b"), 2)
    assert "test: 2 pictures of classes that train lacks were left out: c" in dataset.notes


def test_pictures_of_unread_formats_are_named_or_skipped(tmp_path: Path) -> None:
    files = contents("`{cat,dog}/{1..5}.jpg`") | {"cat/IMG_1.HEIC": b"ftypheic"}
    root = str(write_folder(tmp_path / "data", files))
    with refused("1 .heic pictures are in a format that is not read"):
        resight.data(root)
    assert len(resight.data(root, skip_unreadable=True).train) == 8
    files = contents("`{cat,dog}/{1..5}.jpg`") | {"cat/7.jpg": b"\0\0\0\x18ftypheic" + bytes(99)}
    with refused("it is a HEIC photo, whatever its name ends in; convert it to JPEG"):
        resight.data(str(write_folder(tmp_path / "renamed", files)))


def test_pictures_without_a_suffix_are_recognized(tmp_path: Path) -> None:
    files = {f"{c}/{i}": picture(f"{c}{i}") for c in "ab" for i in range(5)}
    dataset = resight.data(str(write_folder(tmp_path / "data", files | {"a/LICENSE": b"text"})))
    assert dataset.classes == ("a", "b")
    assert len(dataset.train) + len(dataset.test) == 10
    assert "files without a suffix that were taken as pictures: 10" in dataset.notes


@pytest.mark.parametrize("junk", ["@eaDir/a.jpg", "__MACOSX/b.png", ".git/c.png", "thumbs/d.png"])
def test_what_is_never_data_is_no_class(tmp_path: Path, junk: str) -> None:
    files = contents("`{cat,dog}/{1..5}.jpg`") | {junk: picture("x"), f"cat/{junk}": picture("y")}
    check(write_folder(tmp_path / "data", files), "folders: cat, dog; train 8, test 2")
    check(write_zip(tmp_path / "data.zip", files), "folders: cat, dog; train 8, test 2")


def test_a_copy_inside_the_data_is_named_with_its_path(tmp_path: Path) -> None:
    files = contents("`images/{cat,dog,copy/cat,copy/dog}/{1..3}.jpg` `notes.json: 1`")
    root = write_folder(tmp_path / "data", files)
    with refused(f"may be a copy of the data; remove it, or give {root / 'images' / 'copy'}"):
        resight.data(str(root))


def test_run_folders_of_resight_are_no_class(tmp_path: Path) -> None:
    run = {f"runs/first/{name}": b"x" for name in ("recipe.toml", "env.json")}
    run["runs/first/curves.png"] = picture("x")
    files = contents("`{cat,dog}/{1..5}.jpg`") | run
    for path in (write_folder(tmp_path / "d", files), write_zip(tmp_path / "d.zip", files)):
        dataset = check(path, "folders: cat, dog; train 8, test 2")
        assert dataset is not None
        assert "not looked at: run folders of resight (1)" in dataset.notes


def test_an_archive_is_listed_once(tmp_path: Path, cache: Path) -> None:
    path = write_tar(tmp_path / "d.tar.gz", contents("`{cat,dog}/{1..5}.jpg`"), "w:gz")
    first = resight.data(str(path))
    again = resight.data(str(path), on_progress=lambda *_: pytest.fail("it was decoded again"))
    assert (first.fingerprint, first.notes) == (again.fingerprint, again.notes)
    json.dumps(first.notes)
