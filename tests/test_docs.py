"""The documents as tests: every command parses, every example runs, every link leads somewhere."""

import ast
import inspect
import operator
import re
import shlex
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import resight
from resight.cli.app import app, main
from resight.recipe.presets import PRESETS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/doctor/*.md")])


def fences(text: str) -> Iterator[tuple[str, str]]:
    """Yield the language ("" for none) and the content of each fenced block, in order."""
    language, lines = None, []
    for line in text.splitlines():
        if not line.lstrip().startswith("```"):
            lines.append(line)
        elif language is None:
            language, lines = line.strip().removeprefix("```"), []
        else:
            yield language, "".join(f"{line}\n" for line in lines)
            language = None
    assert language is None, f"a fence of {language or 'plain'} code is never closed"


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced code of a page in a language ("" for none)."""
    return [content for name, content in fences(page.read_text()) if name == language]


def commands(page: Path) -> list[str]:
    """Return the `resight` commands of a page, without comments."""
    lines = [line.strip() for block in blocks(page, "") for line in block.splitlines()]
    return [line.partition("#")[0].strip() for line in lines if line.startswith("resight ")]


ALL = [(page.name, command) for page in PAGES for command in commands(page)]


def test_a_closing_fence_opens_nothing() -> None:
    text = "a\n```\nresight x\n```\nb\n```toml\nseed = 1\n```\nc\n\n```\n\nresight y\n```\n"
    expected = [("", "resight x\n"), ("toml", "seed = 1\n"), ("", "\nresight y\n")]
    assert list(fences(text)) == expected
    with pytest.raises(AssertionError, match="never closed"):
        list(fences("```text\nopen"))


@pytest.mark.parametrize(("page", "command"), ALL, ids=[": ".join(pair) for pair in ALL])
def test_every_command_in_the_docs_is_understood(page: str, command: str) -> None:
    function, bound, _ = app.parse_args(
        shlex.split(command)[1:], exit_on_error=False, print_error=False
    )
    assert callable(function)
    assert bound is not None


def own_lines(pattern: str) -> list[str]:
    """What you write here in place of another tool, in the tables for those who come from one."""
    rows = (ROOT / "docs/coming-from.md").read_text().splitlines()
    cells = [row.split(" | ")[1] for row in rows if row.startswith("| ")]
    codes = [code for cell in cells for code in re.findall("`([^`]+)`", cell)]
    return [code for code in codes if re.search(pattern, code)]


@pytest.mark.parametrize("command", own_lines("^resight |^--.* |^--find-lr"))
def test_commands_in_place_of_another_tool_are_understood(command: str) -> None:
    words = shlex.split(command)
    words = words[1:] if words[0] == "resight" else ["train", "swift-s", *words]
    app.parse_args(words, exit_on_error=False, print_error=False)
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    resight.with_overrides(resight.load_recipe("swift-s"), settings)


@pytest.mark.parametrize("code", own_lines(r"resight\.|^\w+="))
def test_calls_in_place_of_another_tool_are_valid(code: str) -> None:
    code = code if "resight." in code else f"resight.heatmaps(m, images, {code})"
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute):
            operator.attrgetter(ast.unparse(node).removeprefix("resight."))(resight)
        if isinstance(node, ast.Call):
            function = operator.attrgetter(ast.unparse(node.func).removeprefix("resight."))(resight)
            keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg is not None}
            inspect.signature(function).bind(*node.args, **keywords)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_bench_in_the_docs_is_there(page: Path) -> None:
    for script in re.findall(r"bench/[a-z_0-9]+\.py", page.read_text()):
        assert (ROOT / script).is_file(), script


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


WHOLE_RUNS = ("README.md", "docs/python.md")
OWN_LOOPS = ("docs/heatmaps.md", "docs/lr-find.md", "docs/schedules.md")


def test_every_python_example_is_run_by_a_test() -> None:
    pages = {str(page.relative_to(ROOT)) for page in PAGES if blocks(page, "python")}
    doctor = {name for name in pages if name.startswith("docs/doctor")}  # diagnosis/ has its tests
    elsewhere = {"docs/export.md"}  # deploy/ has its tests
    assert pages - doctor == {*WHOLE_RUNS, *OWN_LOOPS, *elsewhere}


@pytest.mark.parametrize("page", OWN_LOOPS)
def test_the_examples_for_your_own_loop_run(page: str) -> None:
    layers = {
        "block1": nn.Conv2d(3, 4, 3),
        "block2": nn.Conv2d(4, 4, 3),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "classify": nn.Linear(4, 2),
    }
    model = nn.Sequential(OrderedDict(layers))
    images, labels = torch.rand(24, 3, 16, 16), torch.arange(24) % 2
    names = {
        "resight": resight,
        "model": model,
        "images": images,
        "labels": labels,
        "loader": DataLoader(TensorDataset(images, labels), batch_size=8),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "validate": lambda model: 1.0,
    }
    for block in blocks(ROOT / page, "python"):
        exec(compile(block, page, "exec"), names)


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", WHOLE_RUNS)
def test_the_python_examples_run(
    page: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An epoch is enough to see that they run; the demo's test trains to the end and reports.
    short = {"schedule.epochs": (1, ""), "schedule.peak_epoch": (0.5, "")}
    short |= {"explain.report": (False, ""), "explain.pictures": (False, "")}
    usual = PRESETS["digits"]
    monkeypatch.setitem(PRESETS, "digits", replace(usual, changes={**usual.changes, **short}))
    names: dict[str, Any] = {"MyNetwork": MyNetwork, "model": MyNetwork()}
    for block in blocks(ROOT / page, "python"):
        exec(compile(block, page, "exec"), names)
    assert isinstance(names["run"], resight.Run)
    assert capsys.readouterr().out


def test_the_doctor_says_what_the_docs_say(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(ROOT / "docs" / "doctor.md", "python")
    (output,) = blocks(ROOT / "docs" / "doctor.md", "text")
    exec(compile(code, "doctor.md", "exec"), {})
    assert capsys.readouterr().out == output


@pytest.mark.usefixtures("folder")
def test_the_recipe_file_of_the_docs_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = blocks(ROOT / "docs" / "recipes.md", "toml")
    Path("my.toml").write_text(text)
    assert main(["train", "my.toml", "--dry-run"]) == 0
    recipe = resight.from_toml(capsys.readouterr().out)
    assert recipe.schedule.name == "plateau"
    assert recipe.data.image_size == 48


@pytest.mark.parametrize("text", blocks(ROOT / "docs" / "networks.md", "toml"))
def test_the_sections_for_your_own_network_are_valid(text: str) -> None:
    assert resight.from_toml(text).model.name == "import"


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
