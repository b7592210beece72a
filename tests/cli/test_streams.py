"""What the terminal, a pipe and a program that reads JSON get."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from resight.cli.app import main
from resight.cli.options import CommandResult, OutputOptions, emit
from resight.cli.progress import ProgressLines
from resight.events import Message


def shell(text: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in which `resight` is the one under test."""
    return subprocess.run(
        ["bash", "-c", f'resight() {{ "{sys.executable}" -m resight "$@"; }}; {text}'],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        ("resight recipes >&-", 1, "the result cannot be written to standard output: it is closed"),
        (
            "resight recipes >/dev/full",
            1,
            "the result cannot be written to standard output: No spa",
        ),
        ("resight --help >/dev/full", 1, "No space left"),
        ("resight recipes --json 2>&-", 0, ""),
        ("resight nonsense >&- 2>&-", 2, ""),
        ("resight nonsense 2>/dev/full", 2, ""),
    ],
)
def test_closed_and_full_streams_are_one_line(command: str, code: int, line: str) -> None:
    result = shell(command)
    assert result.returncode == code
    assert line in result.stderr
    assert len(result.stderr.splitlines()) == bool(line)


def test_names_are_escaped_wherever_they_go(capsys: pytest.CaptureFixture[str]) -> None:
    name = "\x1b]0;owned\x07\x1b[31m\x9b"
    emit(CommandResult({"name": name}, f"one {name}\ntwo"), OutputOptions())
    emit(CommandResult({"name": name}, ""), OutputOptions(json=True))
    assert main(["train", name]) == 2
    assert main(["data", name]) == 2
    assert main(["train", name, "--debug"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("one \\x1b]0;owned\\x07\\x1b[31m\\x9b\ntwo\n")
    assert json.loads(out.splitlines()[2]) == {"name": name}
    assert not {"\x1b", "\x07", "\x9b"} & {*out, *err}
    assert r"\x1b]0;owned" in err
    lines = io.StringIO()
    ProgressLines(Console(file=lines, width=80), None)(Message(f"[red]reading[/red] {name}"))
    assert lines.getvalue() == "[red]reading[/red] \\x1b]0;owned\\x07\\x1b[31m\\x9b\n"


def test_json_is_json_whatever_the_numbers_are(capsys: pytest.CaptureFixture[str]) -> None:
    content = {"a": float("nan"), "b": [float("inf"), 1.0]}
    emit(CommandResult(content, ""), OutputOptions(json=True))
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, 1.0],
    }


@pytest.mark.parametrize(
    "command",
    [
        "recipes", "recipes show swift", "recipes diff base swift", "models", "models swift",
        "data", "data digits", "schedule base", "schedule base --compare plateau cosine",
        "train digits --dry-run",
    ],
)  # fmt: skip
def test_standard_output_has_nothing_but_json(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), "--json"]) == 0
    json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


@pytest.mark.parametrize("command", ["train nonsense", "data nonsense", "report nonsense"])
def test_an_error_leaves_standard_output_empty(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), "--json"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_ctrl_c_before_the_first_step_says_so(tmp_path: Path) -> None:
    """At any time while modules are imported and pictures are read."""
    picture = Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8))
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(300):
            picture.save(tmp_path / "photos" / name / f"{i}.png")
    arguments = ["train", "swift", "--data", "photos", "--quiet", "--name", "a"]
    arguments += ["--set", "data.image_size=64"]
    environment = os.environ | {"RESIGHT_CACHE": str(tmp_path / "cache")}
    for secs in (0.3, 1.0, 1.8, 2.6):
        process = subprocess.Popen(
            [sys.executable, "-m", "resight", *arguments], cwd=tmp_path, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        try:
            process.wait(secs)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert out == ""
        assert err.startswith(("resight: interrupted", "stopped; go on with"))
        assert err.count("\n") == 1
        if (tmp_path / "runs").exists():
            break  # it came to its first step


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000])
def test_paths_that_no_file_system_takes_are_one_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["report"], ["evaluate"], ["doctor"], ["data"], ["train", "swift", "--data"]):
        assert main([*command, name]) in (1, 2)
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("resight: ")
        assert err.count("\n") == 1
