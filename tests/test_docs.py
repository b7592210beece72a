"""The documents as tests: every command parses, every example runs, every link leads somewhere."""

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

import resight
from resight.cli.app import app, main
from resight.diagnosis.diagnose import OBJECT_CHECKS
from resight.recipe.presets import PRESETS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code of a page in a language ("" for none)."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The `resight` commands of a page, without comments."""
    lines = [line for block in blocks(page, "") for line in block.splitlines()]
    return [line.partition("#")[0].strip() for line in lines if line.startswith("resight ")]


ALL = [(page.name, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(("page", "command"), ALL, ids=[command for _, command in ALL])
def test_every_command_in_the_docs_is_understood(page: str, command: str) -> None:
    function, bound, _ = app.parse_args(
        shlex.split(command)[1:], exit_on_error=False, print_error=False
    )
    assert callable(function)
    assert bound is not None


def test_every_command_is_documented_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for command in app:
        if not command.startswith("-"):
            assert f"resight {command}" in text or f"make {command}" in text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples name."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path


class MyNetwork(nn.Sequential):
    """A module of the reader's own."""

    def __init__(self) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "python.md"])
def test_the_python_examples_run(
    page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An epoch is enough to see that they run; the demo's test trains to the end and reports.
    short = {"schedule.epochs": (1, ""), "schedule.peak_epoch": (0.5, "")}
    short["explain.report"] = (False, "")
    usual = PRESETS["digits"]
    monkeypatch.setitem(PRESETS, "digits", replace(usual, changes={**usual.changes, **short}))
    names: dict[str, Any] = {"MyNetwork": MyNetwork, "model": MyNetwork()}
    code = blocks(page, "python")
    assert code
    for block in code:
        exec(compile(block, page.name, "exec"), names)
    assert isinstance(names["run"], resight.Run)
    assert capsys.readouterr().out


def test_the_doctor_says_what_the_docs_say(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(ROOT / "docs" / "doctor.md", "python")
    (said,) = blocks(ROOT / "docs" / "doctor.md", "text")
    exec(compile(code, "doctor.md", "exec"), {})
    assert capsys.readouterr().out == said


def test_every_check_of_the_doctor_is_documented() -> None:
    text = (ROOT / "docs" / "doctor.md").read_text()
    assert re.findall(r"^\| (\w[\w ]*) \|", text, re.MULTILINE)[1:] == [*OBJECT_CHECKS, "augment"]


@pytest.mark.usefixtures("folder")
def test_the_recipe_file_of_the_docs_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = blocks(ROOT / "docs" / "recipes.md", "toml")
    Path("my.toml").write_text(text)
    assert main(["train", "my.toml", "--dry-run"]) == 0
    recipe = resight.from_toml(capsys.readouterr().out)
    assert recipe.schedule.name == "plateau"
    assert recipe.data.image_size == 48


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    for target in targets:
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_make_targets_of_the_docs_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for block in blocks(page, ""):
            assert set(re.findall(r"^make (\w+)", block, re.MULTILINE)) <= targets
