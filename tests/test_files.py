"""Files that are not what they seem, cells that are formulas, and what killed processes leave."""

import csv
import json
import math
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from resight.errors import UsageError
from resight.files import (
    atomic_write,
    check_file,
    json_text,
    read_bytes,
    read_csv,
    read_text,
    remove_leftovers,
    safe_name,
    temporary_path,
    write_csv,
    write_text,
)
from resight.text import one_line, printable, table

ODD = ("=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "'=1", "''-1", "'", "a\rb", "a\nb", 'say "x"')


def test_only_regular_files_of_a_sensible_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_bytes(tmp_path / "link", 5) == b"12345"
    assert check_file(tmp_path / "file", 5) == 5
    with pytest.raises(UsageError, match="has 5 bytes, but such a file has at most 4"):
        read_bytes(tmp_path / "file", 4)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "gone")


@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_what_never_ends_is_not_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)  # opening it would wait for a writer
    else:
        path.mkdir()
    with pytest.raises(UsageError, match=f"{kind}.*; give a regular file in its place"):
        read_bytes(path)


def test_no_cell_is_a_formula_and_every_cell_comes_back(tmp_path: Path) -> None:
    rows = [["id", "n"], *([text, "1"] for text in ODD), ["\u00e9", ""]]
    write_csv(tmp_path / "a.csv", rows)
    assert read_csv(tmp_path / "a.csv") == rows
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_numbers_stay_numbers_in_csv(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [["x", "y"], [-1.5, None]])
    assert (tmp_path / "a.csv").read_bytes() == b"x,y\n-1.5,\n"


def test_json_has_no_nan() -> None:
    content = {"a": [1.5, math.nan, (math.inf, -math.inf)], "b": {"c": math.nan}, "d": True}
    expected = {"a": [1.5, None, [None, None]], "b": {"c": None}, "d": True}
    assert json.loads(json_text(content), parse_constant=pytest.fail) == expected


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from resight.files import temporary_path\n"
        "for name in ('a.json', 'run'): print(temporary_path(Path(sys.argv[1]) / name))"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    names = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split()
    file, folder = map(Path, names)
    file.write_text("half")
    folder.mkdir()
    (folder / "recipe.toml").write_text("half")
    mine = temporary_path(tmp_path / "b.json")
    elsewhere = tmp_path / ".c.other-host-1.part.json"
    download = tmp_path / "d.tar.part"  # is completed by the next download
    for path in (mine, elsewhere, download):
        path.write_text("")
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, elsewhere, download])


def test_a_long_name_has_a_temporary_path_that_a_file_system_takes(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 240}.json"
    write_text(path, "{}")
    assert path.read_text() == "{}"
    with suppress(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == [path]


def test_no_escape_reaches_a_terminal() -> None:
    text = "a\x1b[31m\x07\x9b\u202e\u2028\udc80\n\u00e9 \U0001f468\u200d\U0001f469"
    shown = printable(text)
    assert shown == r"a\x1b[31m\x07\x9b\u202e\u2028\udc80" + "\n\u00e9 \U0001f468\u200d\U0001f469"
    assert printable("plain\ntext") == "plain\ntext"
    assert one_line("a\n b\x1b") == r"a b\x1b"
    assert len(one_line("x" * 10_000)) < 2_100
    assert table([["a\nb", "\x1b[2J"]], "one", "two").count("\n") == 1


def test_a_safe_name_is_one_part_of_a_path() -> None:
    assert safe_name("../a b/\x1bc.txt") == "-a-b--c.txt"
