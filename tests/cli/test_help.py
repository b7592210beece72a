"""What `--help` shows a newcomer."""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import get_args

import pytest
from cyclopts import App
from rich.console import Console

import resight
from resight.cli.app import COMMANDS, app, main
from resight.recipe import Method


def commands() -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, such as ("recipes", "show")."""
    for name in COMMANDS:
        yield (name,)
        for part in app[name]:
            if not part.startswith("-"):
                yield (name, part)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that wraps no line; the app keeps the width that its first help had."""
    monkeypatch.setattr(app, "console", Console(width=400))


def rows(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the help of each argument, option and command."""
    for line in text.splitlines():
        if line.startswith("│"):
            cells = re.split(r"\s{2,}", line.strip("│ *"), maxsplit=1)
            yield cells[0], cells[1] if len(cells) > 1 else ""


@pytest.mark.parametrize("words", [*commands()], ids=" ".join)
def test_every_option_is_explained_by_sentences(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: resight {' '.join(words)}" in text
    assert not re.search(r"default:\s*(False|None|\(|\[|\])", text)
    explained = dict(rows(text))
    assert "--help" not in explained or len(explained) > 1
    for name, help_text in explained.items():
        sentences = re.sub(r" \[(required|(choices|default): .*)\]$", "", help_text)
        assert re.match(r"[A-Z].*\.( \[.*\])?$", sentences), (name, help_text)
        first = sentences.split()[0]
        assert first not in {"A", "An", "The", "Number", "Where", "What", "Whether", "How"}, name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_function_of_its_name(name: str) -> None:
    assert callable(getattr(resight, name.replace("-", "_")))
    module, summary = COMMANDS[name]
    function = getattr(import_module(f"resight.cli.{module}"), name.replace("-", "_"))
    if not isinstance(function, App):  # a group has commands with docstrings of their own
        assert (function.__doc__ or "").splitlines()[0] == summary


def test_the_list_of_commands_is_in_the_order_of_the_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert [name for name, _ in rows(text) if name in COMMANDS] == [*COMMANDS]
    assert [*COMMANDS].index("train") < [*COMMANDS].index("explain") < [*COMMANDS].index("export")
    titles = re.findall(r"^╭─ (\w+) ", text, re.MULTILINE)
    assert titles == ["Start", "Train", "Understand", "Use", "Other"]


def test_help_shows_choices_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--help"]) == 0
    text = capsys.readouterr().out
    for method in get_args(Method):
        assert method in text
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.count("\n  resight train ") == 2


def test_completion_is_written_for_a_shell() -> None:
    assert "--batch-size" in app.generate_completion(shell="bash")
