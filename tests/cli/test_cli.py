"""The commands as a person or a script runs them."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import resight
from resight.cli.app import main
from resight.cli.options import DataOptions, TrainingOptions, recipe_from_flags
from resight.metrics.intervals import wilson
from resight.recipe.presets import PRESETS

FAST = ["--set", "model.widths=[8,8,16]", "--set", "explain={report=false,pictures=false}"]
QUICK = ["--epochs", "2", *FAST]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    assert main(["train", "digits", *QUICK, "--out", str(out), "--name", "a", "--quiet"]) == 0
    return out / "a"


@pytest.mark.slow
def test_train_prints_the_result_and_shows_progress_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = ["--set", "explain.pictures=true"]
    assert main(["train", "digits", *QUICK, *pictures, "--out", str(tmp_path), "--name", "a"]) == 0
    out, err = capsys.readouterr()
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert out.startswith(
        f"test accuracy {summary['test']['accuracy']['value']:.2%} (95 % interval"
    )
    assert f"run folder {tmp_path / 'a'}/" in out
    assert "misclassified.png" in out
    lines = err.splitlines()
    assert lines[0].startswith("one_cycle: ")
    # Issues come before the first step, each with the setting that helps.
    assert lines[1].startswith("warning step-count: 1,299 images in batches of 128 are 11 steps")
    assert lines[1].endswith("; set training.batch_size=64 schedule.epochs=50")
    assert lines[2] == "resight doctor shows more, with the same recipe and data"
    assert re.match(
        r"epoch 1/2  train loss \d\.\d{3} acc \d+\.\d\d%  val loss .* images/s", lines[3]
    )
    assert len(lines) == 5


@pytest.mark.slow
def test_flags_settings_and_the_recipe_that_ran(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--batch-size", "64", "--lr", "0.05", "--seed", "7", "--set", "loss.label_smoothing=0"]
    arguments = ["train", "digits", *QUICK, *flags, "--out", str(tmp_path), "--name", "a"]
    assert main([*arguments, "--quiet", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    content = json.loads(out)
    assert content["folder"] == str(tmp_path / "a")
    assert content["interrupted"] is False
    assert content["test"]["accuracy"]["n"] == content["data"]["test"]
    recipe = resight.from_toml((tmp_path / "a" / "recipe.toml").read_text())
    assert recipe.training.batch_size == 64
    assert recipe.optimizer.lr == 0.05
    assert recipe.seed == 7
    assert recipe.loss.label_smoothing == 0
    assert recipe.schedule.epochs == 2


def test_a_dry_run_prints_a_recipe_that_can_be_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "--epochs", "3", "--dry-run"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "mine.toml").write_text(text)
    assert main(["train", "mine.toml", "--dry-run"]) == 0
    assert capsys.readouterr().out == text
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.toml"]


def test_plateau_explains_its_patience(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "schedule.name=plateau", "--set", "schedule.patience=3"]
    assert main(["train", "digits", *QUICK, *settings, "--dry-run"]) == 0
    assert "4 epochs without improvement" in capsys.readouterr().err


def test_evaluate(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(done), "--quiet"]) == 0
    summary = json.loads((done / "summary.json").read_text())["test"]
    assert f"digits: {summary['accuracy']['value']:.2%} (95 % interval" in capsys.readouterr().out
    assert main(["evaluate", str(done), "--tta", "flip_shift", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["tta"] == "flip_shift"
    assert content["loss"] != summary["loss"]
    n, value = content["accuracy"]["n"], content["accuracy"]["value"]
    assert content["accuracy"]["low"] == wilson(round(n * value), n).low
    assert (done / "evaluation-digits" / "predictions.csv").exists()
    assert (done / "evaluation-digits-flip_shift" / "predictions.csv").exists()


def test_predict(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (50, 40), "white").save(tmp_path / "white.png")
    assert main(["predict", str(done), str(tmp_path / "white.png"), "--top", "2"]) == 0
    assert re.match(r".*white\.png: \d [\d.]+%, \d [\d.]+%( .*)?\n$", capsys.readouterr().out)
    assert main(["predict", str(done), str(tmp_path / "white.png"), "--json"]) == 0
    (guess,) = json.loads(capsys.readouterr().out)["pictures"]
    assert sum(guess["classes"].values()) == pytest.approx(1)


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("recipes", "models", "data"):
        assert main([command]) == 0
        text = capsys.readouterr().out
        assert main([command, "--json"]) == 0
        for name in json.loads(capsys.readouterr().out):
            assert name in text
    assert main(["recipes", "show", "swift"]) == 0
    text = capsys.readouterr().out
    for path in PRESETS["swift"].changes:
        assert f"#   {path} = " in text
    assert resight.from_toml(text) == resight.recipes()["swift"]


def test_recipes_are_shown_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "swift"]) == 2
    assert "recipes show swift" in capsys.readouterr().err
    assert main(["recipes", "diff", "resnet18-layernorm", "resnet18-layernorm-lr0.1"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split() for line in table[1:]] == [["optimizer.lr", "0.01", "0.1"]]
    mine = tmp_path / "mine.toml"
    mine.write_text('base = "swift"\nseed = 3\n')
    assert main(["recipes", "diff", "swift", str(mine), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"seed": {"swift": 0, str(mine): 3}}
    assert main(["recipes", "diff", "swift", "swift"]) == 0
    assert "the same" in capsys.readouterr().out
    assert main(["recipes", "diff", "swift"]) == 2


def test_models_prints_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "resnet18"]) == 0
    text = capsys.readouterr().out
    assert "11,173,962" in text
    assert "layer4" in text
    assert main(["models", "resnet9", "--set", "model.norm=layer", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["parameters"] == 6_573_130
    assert any(row["kind"] == "GroupNorm" for row in rows)


def test_data_describes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "preview.png"
    arguments = ["data", "digits", "--preview", "--recipe", "digits", "--out", str(picture)]
    assert main([*arguments, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["shape"] == [1, 32, 32]
    assert content["train"] + content["test"] == 1797
    with Image.open(picture) as image:
        assert image.width > 600
    assert main(["data", "digits"]) == 0
    assert "gray, 32 x 32 px" in capsys.readouterr().out


def test_every_flag_of_a_recipe_field_sets_that_field() -> None:
    options = TrainingOptions(64, 0.05, 7, "bf16", deterministic=True)
    data = DataOptions("digits", skip_unreadable=True)
    recipe = recipe_from_flags("base", data, options, set_=["seed=8"])
    assert (recipe.training.batch_size, recipe.optimizer.lr, recipe.seed) == (64, 0.05, 8)
    assert (recipe.training.precision, recipe.training.deterministic) == ("bf16", True)
    assert (recipe.data.source, recipe.data.skip_unreadable) == ("digits", True)
    assert recipe_from_flags("digits", set_=None) == resight.load_recipe("digits")


@pytest.mark.slow
def test_python_dash_m() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "resight", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == resight.__version__


def start_long_run(out: Path) -> subprocess.Popen[str]:
    arguments = ["train", "digits", "--epochs", "500", "--out", str(out), "--name", "long"]
    process = subprocess.Popen(
        [sys.executable, "-m", "resight", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while not process.stderr.readline().startswith("epoch"):
        pass
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_a_safe_place(tmp_path: Path, number: signal.Signals) -> None:
    process = start_long_run(tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == f"stopped; go on with: resight resume {tmp_path / 'long'}"
    summary = json.loads((tmp_path / "long" / "summary.json").read_text())
    assert summary["test"] is None
    assert (tmp_path / "long" / "curves.png").exists()


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import sys; from resight.cli.app import main; sys.exit(main(['recipes', 'show', 'swift']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert error == b""


@pytest.mark.slow
def test_on_a_terminal_a_bar_moves_and_color_can_be_refused(tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "NO_COLOR": "1"}
    arguments = ["train", "digits", *QUICK, "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "resight", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env=environment,
    )
    os.close(terminal)
    screen_text = b""
    while select.select([screen], [], [], 60)[0]:
        try:
            screen_text += os.read(screen, 65536)
        except OSError:  # the other end is closed
            break
    os.close(screen)
    assert process.wait() == 0
    text = screen_text.decode()
    assert re.search(r"epoch [12]/2 .*━.*loss [\d.]+  acc \d+%  lr [\d.]+  [\d,]+ images/s", text)
    assert not re.search(r"\x1b\[[\d;]*3[0-7][;m]", text)  # no color
