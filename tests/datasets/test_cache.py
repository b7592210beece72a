"""The list of the cache, its limit, and how it is cleared. What it keeps is in test_load.py."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import resight
from refusal import refused
from resight.cli.app import main
from resight.datasets import Split
from resight.datasets.cache import cached
from resight.datasets.cache_entries import cache_limit, clear_cache, keep_to_limit, list_entries
from resight.datasets.readers.contents import LoadedData
from resight.recipe.sources import ARCHIVES, PARQUET_FILES

KB = 1000


def make(count: int = 100, seed: int = 0) -> LoadedData:
    """Images of a hundred kB, for a hundred of them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 32, 32), dtype=torch.uint8, generator=generator)
    ids = tuple(f"{row}.png" for row in range(count))
    return LoadedData(("cat", "dog"), Split(images, torch.arange(count) % 2, ids))


def store(cache: Path, name: str, number: int, *, hours_ago: float = 0) -> Path:
    """Put an entry into the cache that was last used some hours ago."""
    cached(name, f"{number:032x}", make)
    path = cache / "decoded" / f"{number:032x}.safetensors"
    touch(path, hours_ago)
    return path


def touch(path: Path, hours_ago: float) -> None:
    secs = time.time() - 3600 * hours_ago
    os.utime(path, (secs, secs))


def download(cache: Path, file: str, *, hours_ago: float = 0, size: int = 100 * KB) -> Path:
    path = cache / "downloads" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    touch(path, hours_ago)
    return path


def limit(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setenv("RESIGHT_CACHE_GIB", str(size / 2**30))


def fail() -> LoadedData:
    raise AssertionError("read again")


# --- what is trusted ------------------------------------------------------------------------


def test_every_byte_of_an_entry_is_checked(cache: Path) -> None:
    """A flip of any bit is noticed; an entry of another content is never returned."""
    path = store(cache, "pets", 1)
    whole = path.read_bytes()
    expected = cached("pets", f"{1:032x}", fail)
    generator = torch.Generator().manual_seed(0)
    places = [*range(0, 700, 7), *torch.randint(len(whole), (60,), generator=generator).tolist()]
    noticed = 0
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        loaded = cached("pets", f"{1:032x}", make)
        assert loaded.train is not None
        assert expected.train is not None
        assert torch.equal(loaded.train.images, expected.train.images)
        assert torch.equal(loaded.train.labels, expected.train.labels)
        assert (loaded.train.ids, loaded.classes) == (expected.train.ids, expected.classes)
        noticed += bool(loaded.notes)
    assert noticed > 0.9 * len(places)  # a flip in the padding of the header changes nothing


def test_an_entry_that_is_cut_while_it_is_read_is_made_again(cache: Path) -> None:
    """If the file were mapped into memory, one of these reads would end the process."""
    path = store(cache, "pets", 1)
    code = (
        "import sys\nfrom pathlib import Path\nfrom resight.datasets.cache_file import open_entry\n"
        "from resight.errors import ResightError\n"
        "path = Path(sys.argv[1])\nentry = open_entry(path)\n"
        "with path.open('r+b') as file:\n    file.truncate(5000)\n"
        "try:\n    entry.tensor('train.images')\n"
        "except ResightError as error:\n    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{path} was cut off while it was in use")
    (note,) = cached("pets", f"{1:032x}", make).notes
    assert note == "the copy in the cache was damaged, so it was made again"


# --- the list -------------------------------------------------------------------------------


def test_entries_have_name_size_and_last_use(cache: Path) -> None:
    store(cache, "old", 1, hours_ago=5)
    store(cache, "pets", 2, hours_ago=2)
    download(cache, ARCHIVES["cifar10"].file, hours_ago=3)
    download(cache, f"{PARQUET_FILES['cifar100'][0].file}.part", hours_ago=4, size=10)
    entries = list_entries()
    assert [(entry.name, entry.kind) for entry in entries] == [
        ("pets", "images"),
        ("cifar10", "download"),
        ("cifar100", "part"),
        ("old", "images"),
    ]
    assert [entry.size for entry in entries] == [entry.path.stat().st_size for entry in entries]
    assert 100 * KB < entries[0].size < 110 * KB
    cached("old", f"{1:032x}", fail)  # reading is a use
    assert list_entries()[0].name == "old"


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 50, b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{}"]
)
def test_an_entry_that_cannot_be_read_is_listed(cache: Path, content: bytes) -> None:
    store(cache, "pets", 1).write_bytes(content)
    (entry,) = list_entries()
    assert (entry.name, entry.size) == ("unknown", len(content))


def test_other_files_are_neither_listed_nor_removed(cache: Path, tmp_path: Path) -> None:
    """The cache may be a folder that holds other things, such as a home with its `downloads`."""
    store(cache, "pets", 1)
    mine = [
        cache / "decoded" / "thesis.safetensors",
        cache / "downloads" / "thesis.pdf",
        cache / "digests" / "thesis.txt",
        cache / "hub" / "thesis.txt",
        cache / "thesis.txt",
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(10))
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (cache / "decoded" / ("f" * 32 + ".safetensors")).symlink_to(outside)
    (cache / "digests" / ("f" * 32)).symlink_to(outside)
    clear_cache()
    assert list_entries() == []
    assert all(path.exists() for path in mine)
    assert outside.read_text() == "mine"


# --- the limit ------------------------------------------------------------------------------


def test_the_limit_has_a_default_and_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESIGHT_CACHE_GIB", raising=False)
    assert cache_limit() == 20 * 2**30
    monkeypatch.setenv("RESIGHT_CACHE_GIB", "1.5")
    assert cache_limit() == 1.5 * 2**30
    monkeypatch.setenv("RESIGHT_CACHE_GIB", "inf")
    assert cache_limit() == float("inf")


@pytest.mark.parametrize("text", ["x", "-1", "nan", "20 GiB"])
def test_a_limit_that_is_no_size_is_refused_before_decoding(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("RESIGHT_CACHE_GIB", text)
    with refused(f"RESIGHT_CACHE_GIB = {text!r} is no size"):
        cached("pets", f"{1:032x}", fail)


def test_what_was_used_longest_ago_goes_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store(cache, "first", 1, hours_ago=9)
    second = store(cache, "second", 2, hours_ago=8)
    archive = download(cache, ARCHIVES["cifar10"].file, hours_ago=7)
    third = store(cache, "third", 3, hours_ago=6)
    limit(monkeypatch, 330 * KB)  # three of them
    cached("first", f"{1:032x}", fail)  # used now, so it stays
    newest = store(cache, "newest", 4)
    paths = (first, second, archive, third, newest)
    assert [path.exists() for path in paths] == [True, False, False, True, True]


def test_the_newest_stays_even_above_the_limit(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = store(cache, "old", 1, hours_ago=1)
    limit(monkeypatch, 10)
    newest = store(cache, "new", 2)
    assert (old.exists(), newest.exists()) == (False, True)
    touch(newest, 9)
    keep_to_limit(newest)
    assert newest.exists()


def test_downloads_in_progress_or_of_this_hour_stay(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ARCHIVES["cifar10"].file
    part = download(cache, f"{file}.part", hours_ago=50)
    recent = download(cache, file, hours_ago=0.5)
    old = download(cache, ARCHIVES["cifar100"].file, hours_ago=2)
    limit(monkeypatch, 10)
    store(cache, "pets", 1)
    assert [path.exists() for path in (part, recent, old)] == [True, True, False]


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from test_cache import make
from resight.datasets.cache import cached
for number in range(int(sys.argv[1]), int(sys.argv[1]) + 12):
    loaded = cached("pets", f"{number:032x}", lambda: make(seed=number))
    assert loaded.notes == (), loaded.notes
    again = cached("pets", f"{number % 30:032x}", lambda: make(seed=number % 30))
    assert (again.train.images == make(seed=number % 30).train.images).all()
"""


@pytest.mark.slow
def test_processes_that_write_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets its own data, no error or note, and what is left keeps to the limit."""
    limit(monkeypatch, 530 * KB)
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": paths}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(start), str(Path(__file__).parent)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for start in (0, 10, 20)
    ]
    for writer in writers:
        _, errors = writer.communicate()
        assert writer.returncode == 0, errors
    entries = list_entries()
    assert sum(entry.size for entry in entries) <= 530 * KB + entries[0].size * 2
    store(cache, "last", 99)
    assert sum(entry.size for entry in list_entries()) <= 530 * KB


# --- clearing -------------------------------------------------------------------------------


def test_one_data_set_is_cleared(cache: Path) -> None:
    pets = store(cache, "pets", 1)
    other = store(cache, "other", 2)
    archive = download(cache, ARCHIVES["cifar10"].file)
    removed, _ = clear_cache("pets")
    assert [entry.name for entry in removed] == ["pets"]
    assert [path.exists() for path in (pets, other, archive)] == [False, True, True]
    clear_cache("cifar10")
    assert not archive.exists()
    clear_cache("/photos/of/other")  # the name of a path is that of its data set
    assert not other.exists()


def test_everything_is_cleared(cache: Path) -> None:
    store(cache, "pets", 1)
    download(cache, f"{ARCHIVES['cifar10'].file}.part")
    for folder in ("digests", "hub"):
        (cache / folder).mkdir()
        (cache / folder / ("0" * 32)).write_text("{}")
    removed, is_busy = clear_cache()
    assert sorted(entry.kind for entry in removed) == ["images", "part"]
    assert not is_busy
    assert [path.name for path in cache.rglob("*") if path.is_file()] == [".lock"]


def test_a_name_that_is_not_there_is_refused(cache: Path) -> None:
    store(cache, "pets", 1)
    with refused("the cache holds no data set 'pet'; did you mean \"pets\"? (it holds pets)"):
        clear_cache("pet")


def test_a_download_in_progress_is_left(cache: Path) -> None:
    pets = store(cache, "pets", 1)
    part = download(cache, f"{ARCHIVES['cifar10'].file}.part")
    with FileLock(cache / "downloads" / ".lock"):
        removed, is_busy = clear_cache()
    assert [entry.name for entry in removed] == ["pets"]
    assert is_busy
    assert [path.exists() for path in (pets, part)] == [False, True]


# --- the command ----------------------------------------------------------------------------


def test_the_command_lists_and_clears(
    cache: Path, capsys: pytest.CaptureFixture[str], write_pictures: Callable[[Path], Path]
) -> None:
    folder = write_pictures(cache.parent / "my photos")
    resight.data(str(folder))
    assert main(["data", "--cache"]) == 0
    header, row, total = capsys.readouterr().out.splitlines()
    assert header.split() == ["data", "what", "size", "last", "used"]
    assert row.startswith("my photos  decoded images  0.0 MB  20")
    assert total.endswith(f"MB of at most 20 GiB in {cache}")
    assert main(["data", "--cache", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["limit_bytes"] == 20 * 2**30
    assert content["bytes"] == content["entries"][0]["bytes"] > 0
    assert main(["data", str(folder), "--clear-cache"]) == 0
    assert capsys.readouterr().out == "removed 0.0 MB  my photos, decoded images\n"
    assert main(["data", "--clear-cache"]) == 0
    assert capsys.readouterr().out == f"there was nothing to remove in {cache}\n"


@pytest.fixture
def write_pictures() -> Callable[[Path], Path]:
    from PIL import Image

    def write(folder: Path) -> Path:
        for name in ("cat", "dog"):
            (folder / name).mkdir(parents=True)
            for i in range(5):
                Image.new("RGB", (10, 10), (i, i, i)).save(folder / name / f"{i}.png")
        return folder

    return write
