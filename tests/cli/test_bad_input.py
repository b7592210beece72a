"""Every line of `docs/bad-input.md` is what its command prints.

`python tests/cli/test_bad_input.py` rewrites the table; read it before you commit.
"""

import re
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from resight.cli.app import main

PAGE = Path(__file__).parents[2] / "docs" / "bad-input.md"
TRAIN = shlex.split(
    "train digits --epochs 1 --quiet --name done --set explain={report=false,pictures=false}"
)
ROW = re.compile(r"^\| `(?P<command>resight .*?)` \| (?P<line>.*) \|$", re.MULTILINE)


def rows() -> list[tuple[str, str]]:
    """Return the commands of the page, each with the line that it prints by the page."""
    pairs = ROW.findall(PAGE.read_text(encoding="utf-8"))
    return [(command, line.replace("&#124;", "|")) for command, line in pairs]


def make_workplace(folder: Path) -> None:
    """Write what the page's commands find in the current folder."""
    (folder / "notes.txt").write_text("not a picture")
    (folder / "broken.toml").write_text("[schedule]\nepochs = = 3\n")
    (folder / "typo.toml").write_text('base = "swift"\n[optimizer]\nlearning_rate = 0.1\n')
    (folder / "deep.toml").write_text("a." * 10_000 + "b = 1\n")
    (folder / "endless.toml").symlink_to("/dev/zero")
    (folder / "thesis").mkdir()
    (folder / "thesis" / "recipe.toml").write_text('name = "thesis"\n')
    (folder / "empty").mkdir()
    picture = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))
    for name in ("one-class/cat", "photos/cat", "photos/dog", "damaged/cat", "damaged/dog"):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            picture.save(folder / name / f"{i}.png")
    (folder / "damaged/dog/2.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    pickled = np.array([{"a": 1}, None], dtype=object)
    np.savez(folder / "objects.npz", images=pickled, labels=np.arange(2))
    images = np.zeros((9, 16, 16, 3), dtype=np.uint8)
    np.savez(folder / "uneven.npz", images=images, labels=np.arange(8) % 2)
    make_forged_data(folder)


def make_forged_data(folder: Path) -> None:
    """Write data sets whose files are not what they seem to be."""
    for name in ("postscript/cat", "postscript/dog", "endless/cat", "endless/dog"):
        (folder / name).mkdir(parents=True)
        (folder / name / "0.png").write_bytes((folder / "photos/cat/0.png").read_bytes())
    (folder / "postscript/cat/1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    (folder / "endless/dog/1.png").symlink_to("/dev/zero")
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 32, 32), }\n"
    forged = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    for file, content in (("forged.npz", forged), ("text.npz", b"text")):
        with zipfile.ZipFile(folder / file, "w") as archive:
            archive.writestr("images.npy", content)
            archive.writestr("labels.npy", content)
    pictures = [(folder / "photos/cat/0.png").read_bytes()] * 2
    pq.write_table(pa.table({"img": pictures, "label": [[0], [1]]}), folder / "lists.parquet")
    nothing = pa.table({"img": pa.nulls(100_000, pa.binary()), "label": [0, 1] * 50_000})
    pq.write_table(nothing, folder / "nothing.parquet")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workplace")
    make_workplace(folder)
    assert main([*TRAIN, "--out", str(folder / "runs")]) == 0
    return folder


def run(command: str, folder: Path, read: Callable[[], tuple[str, str]]) -> tuple[int, str, str]:
    """Return exit code, output and errors of a command, without the folder it ran in."""
    code = main(shlex.split(command)[1:])
    out, err = read()
    return code, out, err.replace(f"{folder.resolve()}/", "")


@pytest.mark.slow
@pytest.mark.parametrize(("command", "line"), rows(), ids=[row[0] for row in rows()])
def test_the_page_says_what_a_person_sees(
    command: str,
    line: str,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("RESIGHT_CACHE", str(workplace / "cache"))
    before = sorted(workplace.glob("runs/*"))
    capsys.readouterr()
    code, out, err = run(command, workplace, lambda: tuple(capsys.readouterr()))
    assert code == 2
    assert out == ""
    assert err.splitlines()[-1] == line
    assert "Traceback" not in err
    assert sorted(workplace.glob("runs/*")) == before  # no half-made run is left


def test_the_page_has_enough() -> None:
    assert len(rows()) >= 25
    assert len({command for command, _ in rows()}) == len(rows())


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "nonsense", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def rewrite() -> None:
    """Write what each command prints into the page."""
    import contextlib
    import io
    import os
    import tempfile

    page = PAGE.read_text(encoding="utf-8").split("\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_workplace(folder)
        os.environ["RESIGHT_CACHE"] = str(folder / "cache")
        os.chdir(folder)
        main(TRAIN)
        for i, row in enumerate(page):
            if match := ROW.match(row):
                out, err = io.StringIO(), io.StringIO()
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    _, _, text = run(
                        match["command"],
                        folder,
                        lambda: (out.getvalue(), err.getvalue()),  # noqa: B023
                    )
                last = (text.splitlines() or ["NOTHING"])[-1].replace("|", "&#124;")
                page[i] = f"| `{match['command']}` | {last} |"
    PAGE.write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    rewrite()
