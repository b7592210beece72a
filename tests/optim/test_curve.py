"""What `resight schedule` shows: numbers against the schedule itself, the sketch by hand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resight
from resight import figures
from resight import text as sketch
from resight.cli.app import main
from resight.cli.schedule import read_metrics, schedule_text
from resight.errors import UsageError
from resight.optim.curve import trace
from resight.optim.schedules import Schedule
from resight.recipe import Plateau
from resight.recipe.toml import with_overrides

PLATEAU = ["--set", "schedule.name=plateau", "--set", "schedule.epochs=12"]


def curve_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    """The first curve of `resight schedule ... --json`."""
    assert main(["schedule", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["curves"][0]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["schedule", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_a_recipes_schedule_is_the_one_that_training_runs() -> None:
    """resnet9 by hand: 45,000 images in batches of 512 are 88 steps; the peak is at epoch 5."""
    made = resight.schedule("resnet9")
    assert (made.steps_per_epoch, made.total_steps) == (88, 24 * 88)
    assert made.at(5 * 88 - 1).lr == pytest.approx(0.4)
    assert resight.schedule("resnet9", images=514).steps_per_epoch == 2
    assert resight.schedule("resnet9", steps_per_epoch=98).total_steps == 2352
    adam = with_overrides(resight.load_recipe("base"), ["optimizer.name=adam"])
    assert resight.schedule(adam).at(0).momentum == adam.optimizer.beta1


def test_the_corners(capsys: pytest.CaptureFixture[str]) -> None:
    momentum = ["--set", "schedule.momentum_low=0.85", "--set", "schedule.momentum_high=0.95"]
    result = curve_of(capsys, "resnet9", "--steps-per-epoch", "98", *momentum)
    assert result["total_steps"] == 2352
    assert result["start"] == {
        "step": 1,
        "epoch": 1 / 98,
        "lr": pytest.approx(0.4 / 1000),
        "momentum": pytest.approx(0.95),
    }
    assert result["peak"] == {
        "step": 490,
        "epoch": 5,
        "lr": pytest.approx(0.4),
        "momentum": pytest.approx(0.85),
    }
    assert (result["end"]["step"], result["end"]["epoch"]) == (2352, 24)
    assert result["end"]["lr"] == pytest.approx(0.4 / 1000 / 1e4)
    assert (result["watched"], result["drops"]) == (None, [])


def test_the_text_says_what_was_supposed_and_what_is_wired(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["schedule", "base", "--epochs", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "base: 10 epochs of 352 steps (supposing 45,000 training images in batches of 128), sgd"
    )
    assert "0.1 at epoch 2.5 (step 880 of 3520)" in lines[1]
    assert "per step: changes before every step" in lines[2]
    assert lines[-1].split() == ["epoch", "0", "10", "(step", "3,520)"]
    assert max(map(len, lines[4:])) == 70
    assert main(["schedule", "base", "--steps-per-epoch", "98"]) == 0
    assert capsys.readouterr().out.startswith("base: 20 epochs of 98 steps, sgd\n")


@pytest.mark.parametrize(
    ("name", "wired"),
    [
        ("cosine", "per step: changes before every step"),
        ("multistep", "per step: drops at the steps named"),
        ("constant", "once: never changes"),
        ("plateau", "per epoch: looks at val_loss once an epoch, after validation"),
    ],
)
def test_every_kind_says_when_it_changes(
    name: str, wired: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schedule", "base", "--set", f"schedule.name={name}"]) == 0
    assert wired in capsys.readouterr().out


# --- plateau --------------------------------------------------------------------------------


def test_plateau_drops_where_a_given_curve_makes_it_by_hand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Best at epoch 2, patience 3: the fourth epoch without improvement is epoch 6, then 10."""
    result = curve_of(capsys, "base", *PLATEAU, "--metrics", "1, 0.5,0.6,0.5")
    assert result["watched"] == "given val_loss of 4 epochs, then flat"
    assert [d["after_epoch"] for d in result["drops"]] == [6, 10]
    assert [d["lr"] for d in result["drops"]] == pytest.approx([0.01, 0.001])
    assert main(["schedule", "base", *PLATEAU, "--metrics", "1,0.5,0.6,0.5"]) == 0
    assert "after epoch 6 to 0.01, after epoch 10 to 0.001" in capsys.readouterr().out


@pytest.mark.parametrize("metric", ["val_loss", "val_accuracy"])
def test_without_a_curve_plateau_names_the_one_it_made_up(
    metric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = curve_of(capsys, "base", *PLATEAU, "--set", f"schedule.metric={metric}")
    formula = {"val_loss": "0.9 ^ epoch", "val_accuracy": "1 - 0.9 ^ epoch"}[metric]
    assert result["watched"] == f"made-up {metric} {formula} to epoch 6, then flat"
    assert [d["after_epoch"] for d in result["drops"]] == [10]


def test_plateau_reads_a_past_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = [1.0, 0.5, 0.6, 0.5, 0.5, 0.7, 0.2]
    rows = [{"epoch": e, "val_loss": v, "val_accuracy": 0.1 * e} for e, v in enumerate(losses)]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_metrics(str(file), "val_loss") == losses
    assert read_metrics(str(tmp_path), "val_accuracy") == pytest.approx(np.arange(7) / 10)
    result = curve_of(capsys, "base", *PLATEAU, "--metrics", str(tmp_path))
    assert [d["after_epoch"] for d in result["drops"]] == [6, 11]
    assert curve_of(capsys, "base", *PLATEAU, "--epochs", "5", "--metrics", str(tmp_path))


def test_a_curve_of_plateau_is_its_schedule_at_every_step() -> None:
    values = [1.0, 0.9, 0.9, 0.8, 0.9, 0.9, 0.9]
    spec = Plateau(epochs=7, patience=1)
    made = Schedule(spec, lr=0.1, momentum=0.9, steps_per_epoch=3)
    curve = trace(made, values)
    assert curve.lrs.tolist() == [made.at(step, values).lr for step in range(21)]
    assert set(curve.momenta) == {0.9}
    assert curve.drops == [(6, pytest.approx(0.01))]


# --- comparing ------------------------------------------------------------------------------


def test_compared_kinds_share_length_and_peak(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ["one_cycle", "triangular", "plateau", "multistep"]
    arguments = ["schedule", "resnet9", "--compare", *kinds]
    assert main([*arguments, "--json"]) == 0
    curves = json.loads(capsys.readouterr().out)["curves"]
    assert [curve["schedule"] for curve in curves] == kinds
    assert {curve["total_steps"] for curve in curves} == {24 * 88}
    assert [curve["peak"]["lr"] for curve in curves] == pytest.approx([0.4] * 4)
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "o one_cycle   t triangular   p plateau   m multistep" in text
    assert "made-up val_loss" in text


def test_a_compared_kind_is_what_set_makes_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    zigzag = [
        "resnet9",
        "--set",
        "schedule.name=triangular",
        "--set",
        "schedule.half_cycle_epochs=3",
    ]
    assert curve_of(capsys, *zigzag, "--compare", "triangular", "constant") == curve_of(
        capsys, *zigzag
    )
    switched = curve_of(capsys, *zigzag, "--compare", "triangular2")
    assert switched == curve_of(capsys, *zigzag, "--set", "schedule.name=triangular2")


# --- figures --------------------------------------------------------------------------------


@pytest.mark.parametrize("extra", [[], ["--compare", "one_cycle", "triangular", "plateau"]])
def test_figures_are_written(
    extra: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "a.svg"):
        file = tmp_path / name
        quick = ["--steps-per-epoch", "5", "--out", str(file)]
        assert main(["schedule", "base", *extra, *quick]) == 0
        assert capsys.readouterr().out.endswith(f"figure   {file}\n")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 1000
    comments = re.findall(r"<!-- (.*?) -->", (tmp_path / "a.svg").read_text())
    assert "learning rate" in comments
    assert any(re.match("base:( one_cycle,)? 20 epochs of 5 steps; ", text) for text in comments)


def test_the_figure_of_the_zigzag_is_exact() -> None:
    """5 cycles of 4 epochs between 0.004 and 0.1; the drawn line is the formula of Smith 2015."""
    zigzag = ["schedule.name=triangular", "schedule.half_cycle_epochs=2"]
    curve = trace(resight.schedule(with_overrides(resight.load_recipe("base"), zigzag)))
    figure = figures.schedule_curve(curve.lrs, curve.momenta, steps_per_epoch=352, title="")
    epochs, lrs = figure.axes[0].lines[0].get_data()
    i = np.arange(7040)
    cycle = np.floor(1 + i / 1408)
    x = np.abs(i / 704 - 2 * cycle + 1)
    assert np.asarray(lrs) == pytest.approx(0.004 + 0.096 * np.maximum(0, 1 - x), abs=1e-15)
    assert lrs.min() == 0.004
    assert lrs.max() == 0.1
    assert epochs[-1] == 20


def test_the_legend_has_start_peak_and_end_each_once() -> None:
    curves = {"a": np.array([0.1, 0.4, 0.2]), "b": np.array([0.4, 0.4, 0.01]), "c": np.ones(3)}
    figure = figures.compare_schedules(curves, steps_per_epoch=1, title="t")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["a: 0.1 → 0.4 → 0.2", "b: 0.4 → 0.01", "c: 1"]


def test_compared_lines_differ_in_color_and_in_dashes() -> None:
    curves = {f"${i}": np.full(4, float(i + 1)) for i in range(8)}
    axes = figures.compare_schedules(curves, steps_per_epoch=2, title="$").axes[0]
    assert [line.get_ydata()[0] for line in axes.lines] == list(range(1, 9))
    assert axes.lines[0].get_xdata().tolist() == [0.5, 1, 1.5, 2]
    assert len({line.get_color() for line in axes.lines}) == 8
    assert len({str(line._unscaled_dash_pattern) for line in axes.lines}) == 8


@pytest.mark.parametrize(
    "curves", [{}, {"a": np.array([])}, {str(i): np.ones(1) for i in range(9)}]
)
def test_what_cannot_be_compared_is_refused(curves: dict[str, np.ndarray]) -> None:
    with pytest.raises(UsageError, match=f"^{len(curves)} schedules cannot be compared"):
        figures.compare_schedules(curves, steps_per_epoch=1, title="")


# --- the sketch -----------------------------------------------------------------------------


def test_bars_by_hand() -> None:
    """Four values over 60 columns; 2 rows of 8 levels: 0.5 is one full row, 1/16 one level."""
    values = np.array([0.0, 1 / 16, 0.5, 1.0])
    top, bottom, frame = sketch.plot_bars(values, low=0.0, high=1.0, rows=2)
    assert top == "       1 │" + " " * 45 + "█" * 15
    assert bottom == "       0 │" + " " * 15 + "▁" * 15 + "█" * 30
    assert frame == "         └" + "─" * 60


def test_bars_never_hide_a_peak() -> None:
    values = np.zeros(10_000)
    values[7_777] = 1.0
    top = sketch.plot_bars(values, low=0.0, high=1.0)[0]
    assert top.count("█") == 1
    assert top.index("█") == 10 + 7_777 * 60 // 10_000


def test_overlay_by_hand() -> None:
    rising, flat = np.linspace(0, 1, 60), np.full(60, 0.55)
    lines = sketch.plot_marks({"r": rising, "f": flat}, high=1.0)
    assert lines[4] == "         │" + "f" * 60  # from 0.5 to 0.6, on top of the other
    assert lines[0].count("r") == 6
    assert lines[9] == "       0 │rrrrrr"


# --- bad input ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bse"], 'did you mean "base"'),
        (["base", "--images", "0"], "images = 0 must be at least 1"),
        (["base", "--steps-per-epoch", "0"], "steps_per_epoch = 0 must be at least 1"),
        (["base", "--images", "9", "--steps-per-epoch", "3"], "give one of them"),
        (["base", "--steps-per-epoch", "1000000"], "20,000,000 steps; at most 2,000,000"),
        (["base", "--compare", "plateu"], 'did you mean "plateau"'),
        (["base", "--metrics", "1,2"], "one_cycle does not look at validation"),
        (["base", *PLATEAU, "--metrics", "1,x"], "--metrics 1,x: No such file"),
        (["base", *PLATEAU, "--metrics", "1,nan"], "val_loss = nan is not a finite number"),
        (["base", *PLATEAU, "--metrics", ",".join(["x"] * 300)], "File name too long"),
        (["base", "--out", "a.gif"], "must end in .png or .svg"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *arguments)


@pytest.mark.parametrize("text", ['{"val_loss": 1}\n{"val_loss": null}\n', '{"val_loss": 1}\n3\n'])
def test_a_faulty_run_names_the_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(text)
    err = refused(capsys, "base", *PLATEAU, "--metrics", str(file))
    assert "no number val_loss in line 2" in err
    file.write_text("")
    assert "no val_loss was given" in refused(capsys, "base", *PLATEAU, "--metrics", str(file))


def test_a_pipe_that_knows_ascii_only_gets_the_numbers() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "resight", "schedule", "base"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert b"0.1 at epoch 5 (step 1760 of 7040)" in result.stdout


def test_adams_momentum_is_called_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schedule", "base", "--set", "optimizer.name=adamw"]) == 0
    assert "adamw (its momentum is beta1)" in capsys.readouterr().out


def test_the_text_of_a_schedule_needs_no_command() -> None:
    recipe = resight.load_recipe("digits")
    text = schedule_text(recipe, [trace(resight.schedule(recipe))])
    assert text.startswith("digits: 10 epochs")


def test_metrics_of_the_command_may_begin_with_a_minus(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["schedule", "base", "--set", "schedule.name=plateau", "--epochs", "6"]
    assert main([*command, "--metrics", "-1,-1,-1,-1,-1,-1", "--json"]) == 0
    (curve,) = json.loads(capsys.readouterr().out)["curves"]
    assert curve["drops"] == [{"after_epoch": 5, "lr": pytest.approx(0.01)}]
