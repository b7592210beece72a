"""SIGUSR1, by which SLURM warns, kills no run; real processes receive it, twice as under SLURM."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import resight
from processes import forkserver
from resight.events import Progress

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no SIGUSR1"),
]

SHORT = ["--epochs", "1", "--set", "model.widths=[8,8,16]", "--set", "explain.images=1"]


def start_and_warn(out: Path, *options: str, at: str) -> tuple[int, str, list[str]]:
    """Train until a line appears, and warn; return the exit code and what was printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "resight", "train", "digits", *SHORT, *options, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while not process.stderr.readline().startswith(at):
        assert process.poll() is None
    for _ in range(2):
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.05)
    output, errors = process.communicate(timeout=200)
    return process.returncode, output, errors.splitlines()


@pytest.mark.parametrize(("options", "code"), [([], 130), (["--requeue"], 0)])
def test_a_warning_while_a_run_is_prepared_ends_it_as_ctrl_c_does(
    tmp_path: Path, options: list[str], code: int
) -> None:
    result = start_and_warn(tmp_path, "--find-lr", *options, at="learning-rate range test")
    line = "resight: interrupted before the first step; no run folder was made"
    assert result == (code, "", [line])
    assert not list(tmp_path.iterdir())


def test_a_warning_after_the_last_step_is_ignored(tmp_path: Path) -> None:
    code, output, _ = start_and_warn(tmp_path, "--name", "run", at="comparing with training images")
    assert code == 0
    assert output.startswith("test accuracy")
    assert (tmp_path / "run" / "report.html").exists()


def be_warned(out: Path) -> None:
    """Train from Python, and be warned while the run is prepared."""

    def warn(event: object) -> None:
        if isinstance(event, Progress):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(30)  # cut short by the signal

    try:
        resight.train("digits", find_lr=True, out=out / "runs", on_event=warn)
    except KeyboardInterrupt as error:
        restored = signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        (out / "end.txt").write_text(f"{restored} {error}")


def test_a_script_that_is_warned_gets_a_keyboard_interrupt(tmp_path: Path) -> None:
    process = forkserver().Process(target=be_warned, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    end = (tmp_path / "end.txt").read_text()
    assert end == "True before the first step; no run folder was made"
