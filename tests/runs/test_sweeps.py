"""A sweep: its ranges, its workers, and what comes of a worker that is killed."""

import os
import subprocess
import sys
import time
import tomllib
from multiprocessing.synchronize import Event as Flag
from pathlib import Path
from typing import Any

import pytest

import resight
from processes import forkserver
from resight.cli.app import main
from resight.datasets import Dataset
from resight.errors import UsageError
from resight.events import Event, Progress
from resight.runs.sweeps import study as study_module
from resight.runs.sweeps.space import Range, Sweep, load_sweep
from resight.runs.sweeps.study import MAX_RETRIES, Workplace, next_trial, open_study, suggest_values
from tiny_runs import tiny_recipe

optuna = pytest.importorskip("optuna")

LR = {"low": 0.01, "high": 1.0, "log": True}
RANGES: dict[str, Any] = {
    "optimizer.lr": LR,
    "training.batch_size": {"choices": [16, 32]},
    "augment.cutout": {"choices": ["none", {"count": 2}]},
}


def sweep_of(**changes: Any) -> Sweep:
    settings = {"recipe": tiny_recipe("schedule.epochs=1"), "ranges": RANGES, "trials": 4}
    return load_sweep({**settings, **changes})[1]


def workplace(folder: Path, **changes: Any) -> Workplace:
    return open_study("s", sweep_of(**changes), None, folder)


# --- ranges ---------------------------------------------------------------------------------


def test_values_change_the_base_and_the_schedule_stretches() -> None:
    sweep = sweep_of(recipe=tiny_recipe("schedule.name=one_cycle", "schedule.peak_epoch=0.5"))
    recipe = sweep.changed({"schedule.epochs": 8, "augment.cutout": {"count": 2}})
    assert recipe.schedule.peak_epoch == 2.0  # a quarter, as of 2 epochs
    assert recipe.augment.cutout.count == 2
    assert sweep.changed({}) == sweep.base


def test_the_base_is_known_by_the_values_of_its_ranges_or_lies_outside() -> None:
    sweep = sweep_of()
    assert sweep.base_values == {
        "optimizer.lr": 0.05,
        "training.batch_size": 32,
        "augment.cutout": "none",
    }
    assert sweep_of(ranges={"optimizer.lr": {"low": 0.1, "high": 1.0}}).base_values is None
    assert sweep_of(ranges={"loss.l1": LR}).base_values is None  # off in the base


def test_a_table_is_stored_as_text_and_read_back() -> None:
    span = Range(choices=("none", {"count": 2}))
    assert [span.value(label) for label in span.labels] == ["none", {"count": 2}]
    assert Range(low=0.01, high=1.0).value(0.123456) == 0.1235
    assert Range(low=0.12344, high=1.0).value(0.12344) == 0.12344  # not below its limit
    assert Range(low=0.01, high=0.12346).value(0.12346) == 0.12346  # nor above


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({}, "ranges"),
        ({"optimizer.lr": {"low": 1.0, "high": 0.1}}, "needs low and a greater high, or choices"),
        ({"optimizer.lr": {"low": 0.0, "high": 0.1, "log": True}}, "low must be > 0"),
        (
            {"optimizer.lr": {"lo": 0.1}},
            'unknown key ranges.optimizer.lr.lo; did you mean "lo[gw]"',
        ),
        ({"optimizer.lr": {"low": -1.0, "high": 0.1}}, "optimizer.lr = -1.0: must be a number > 0"),
        ({"optimizr.lr": LR}, r'unknown setting optimizr\.lr .*did you mean "optimizer"'),
        ({"optimizer.rate": LR}, r"unknown key optimizer\.rate"),
        ({"seed": {"low": 0, "high": 9}}, "seed in .* cannot be swept"),
        ({"data.val_fraction": {"low": 0.1, "high": 0.5}}, "cannot be swept"),
        ({"training.select": {"choices": ["last", "val_loss"]}}, "cannot be swept"),
        ({"optimizer.lr": {**LR, "choices": [1, 2]}}, "has choices and limits"),
        ({"schedule.epochs": {"low": 1, "high": 9, "step": 0.5}}, r"step = 0\.5 is none"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_any_trial(
    ranges: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        sweep_of(ranges=ranges)


def test_a_file_is_read_and_its_faults_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lr.toml"
    file.write_text(
        'trials = 6\n[recipe]\nbase = "digits"\nloss = { label_smoothing = 0.1 }\n'
        '[ranges]\n"optimizer.lr" = { low = 0.01, high = 1.0, log = true }\n'
    )
    name, sweep = load_sweep(file)
    assert (name, sweep.trials, sweep.base.loss.label_smoothing) == ("lr", 6, 0.1)
    assert sweep.base.data == resight.load_recipe("digits").data
    file.write_text('pruner = "worst"\n[ranges]\n"optimizer.lr" = { low = 0.01, high = 1.0 }\n')
    assert main(["sweep", str(file)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "pruner" in line
    assert "'median' or 'hyperband'" in line


# --- workers --------------------------------------------------------------------------------


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_first_trial_is_the_base_and_workers_share_the_number(tmp_path: Path) -> None:
    here = workplace(tmp_path, trials=3)
    there = workplace(tmp_path, trials=3)
    assert (here.is_new, there.is_new) == (True, False)
    taken = [next_trial(place) for place in (here, there, here)]
    assert [trial.number for trial in taken if trial] == [0, 1, 2]
    values = [suggest_values(trial, here.sweep) for trial in taken if trial]
    assert values[0] == {}
    assert here.sweep.changed(values[0]) == here.sweep.base
    assert set(values[1]) == set(RANGES)
    for trial in taken:
        here.study.tell(trial, 0.5)
    assert next_trial(here) is next_trial(there) is None


def test_the_trial_of_a_killed_worker_is_failed_and_its_values_come_next(tmp_path: Path) -> None:
    place = workplace(tmp_path)
    place.study.tell(next_trial(place), 0.5)
    victim = next_trial(place)
    assert victim is not None
    values = suggest_values(victim, place.sweep)
    victim.set_user_attr("worker", f"{os.uname().nodename}:{dead_process()}")
    heir = next_trial(place)
    assert heir is not None
    assert suggest_values(heir, place.sweep) == values
    assert heir.user_attrs["retry_of"] == victim.number
    assert place.study.trials[victim.number].state == optuna.trial.TrialState.FAIL
    assert len(place.trials()) == 2  # the base and the heir: the victim is not counted


def test_a_trial_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    place = workplace(tmp_path, trials=2)
    place.study.tell(next_trial(place), 0.5)
    for _ in range(MAX_RETRIES + 1):
        trial = next_trial(place)
        assert trial is not None
        trial.set_user_attr("worker", f"{os.uname().nodename}:{dead_process()}")
    assert next_trial(place) is None
    assert "killed 3 times" in place.study.trials[-1].user_attrs["why"]


def test_a_worker_of_another_machine_counts_as_killed_when_its_pulse_has_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = workplace(tmp_path, trials=2)
    trial = next_trial(place)
    assert trial is not None
    trial.set_user_attr("worker", "elsewhere:1")
    trial.set_user_attr("alive", time.time())
    study_module.requeue_dead(place)
    assert place.study.trials[0].state == optuna.trial.TrialState.RUNNING
    monkeypatch.setattr(study_module, "PULSE_SECS", 0.01)
    trial.set_user_attr("alive", 1.0)
    with study_module.pulse(place, trial):
        time.sleep(0.3)
    assert time.time() - place.study.trials[0].user_attrs["alive"] < 60  # it has beaten
    trial.set_user_attr("alive", time.time() - study_module.DEAD_SECS - 1)
    study_module.requeue_dead(place)
    assert place.study.trials[0].state == optuna.trial.TrialState.FAIL
    assert place.study.trials[1].user_attrs["base"]  # the heir of the base is the base


def test_a_study_of_another_sweep_or_a_storage_that_is_none_is_refused(tmp_path: Path) -> None:
    workplace(tmp_path)
    with pytest.raises(UsageError, match="another recipe, other ranges"):
        workplace(tmp_path, metric="val_loss")
    workplace(tmp_path, trials=9)  # more trials are the same sweep
    with pytest.raises(UsageError, match=r"storage nonsense://host cannot be opened") as error:
        open_study("s", sweep_of(), "nonsense://me:secret@host", tmp_path)
    assert "secret" not in str(error.value)


# --- whole sweeps ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_from_python_in_a_database(tiny: Dataset, tmp_path: Path) -> None:
    settings = tiny_recipe("schedule.epochs=1", "optimizer.lr=0.0001")
    sweep = Sweep(recipe=settings, ranges={"optimizer.lr": Range(**LR)}, trials=6)
    storage = f"sqlite:///{tmp_path}/study.db"
    options: dict[str, Any] = {"data": tiny, "storage": storage, "out": tmp_path, "name": "lr"}
    result = resight.sweep(sweep, trials=3, **options)
    result = resight.sweep(sweep, **options)  # goes on with three more
    assert sum(result.counts.values()) == 6
    base, best, run = result.base, result.best, result.run
    assert base is not None
    assert best is not None
    assert run is not None
    assert base.is_base
    complete = [row for row in result.trials if row.state == "complete"]
    assert best.val_accuracy == max(row.val_accuracy or 0 for row in complete)
    # The run of the best recipe repeats its trial to the bit, and it alone read the test set.
    assert run.history.epochs[-1].val_loss == best.val_loss
    assert run.test.images == len(tiny.test)
    assert len(list(tmp_path.rglob("predictions.npz"))) == len(list(tmp_path.rglob("best-trial*")))
    assert resight.load_recipe(str(tmp_path / "lr" / "best.toml")) == result.recipe
    page = (tmp_path / "lr" / "README.md").read_text()
    assert page.count("\n| ") >= 7
    assert "optimizer.lr" in page


def work_until_killed(file: Path, begun: Flag) -> None:
    """Work on a sweep, and tell when the trial begins in which the process is killed."""

    def on_event(event: Event) -> None:
        if isinstance(event, Progress) and event.task == "trial 2":
            begun.set()

    resight.sweep(file, out=file.parent, on_event=on_event)


@pytest.mark.slow
def test_of_two_workers_one_is_killed_and_every_trial_is_accounted_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lr.toml"
    file.write_text(
        "trials = 8\n[recipe]\n"
        'base = "digits"\nschedule = { epochs = 2, peak_epoch = 0.5 }\n'
        "model = { widths = [8, 8, 16] }\n"
        "explain = { report = false, pictures = false }\noptimizer = { lr = 0.001 }\n"
        '[ranges]\n"optimizer.lr" = { low = 0.001, high = 0.5, log = true }\n'
    )
    processes = forkserver()
    begun = processes.Event()
    first = processes.Process(target=work_until_killed, args=(file, begun))
    first.start()
    assert begun.wait(timeout=300)
    first.kill()
    first.join()
    assert main(["sweep", str(file), "--out", str(tmp_path), "--quiet"]) == 0
    assert "test accuracy" in capsys.readouterr().out
    result = resight.sweep(file, out=tmp_path)  # only reads: all is done
    assert result.counts.pop("retried") >= 1
    rows = [row for row in result.trials if row.state != "retried"]
    assert len(rows) == 8
    assert {row.state for row in rows} <= {"complete", "pruned"}
    assert result.best is not None
    assert result.base is not None
    assert (result.best.val_accuracy or 0) > (result.base.val_accuracy or 1)


def test_the_sweep_of_the_docs_is_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()
    settings = tomllib.loads(page.split("```toml\n")[1].split("```")[0])
    sweep = load_sweep(settings)[1]
    assert sweep.base_values is not None  # the base lies inside of the ranges
