"""Runs in trackers: TensorBoard's files are read back; what fails never ends a run."""

import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import resight
from refusal import refused
from resight.events import EpochDone, Event, Message, OnEvent, RunEnd, RunStart, StepDone
from resight.runs.run import Run
from tiny_runs import tiny_recipe


def replay(run: Run, on_event: OnEvent) -> None:
    """Send the events of a finished run once more, with a step in each epoch."""
    on_event(RunStart(run.folder))
    rows = run.history.epochs
    for row in rows:
        step = StepDone(
            epoch=row.epoch,
            step=row.step,
            steps_per_epoch=1,
            total_steps=rows[-1].step,
            loss=torch.tensor(row.train_loss),
            correct=torch.tensor(1),
            lr=row.lr,
            images=2,
        )
        on_event(step)
        on_event(EpochDone(row, best=False))
    on_event(RunEnd(run.folder))


def test_tensorboard_has_the_curves_and_the_result(trained_copy: Path) -> None:
    seen: list[Event] = []
    replay(Run(trained_copy), resight.log_to("tensorboard", on_event=seen.append))
    rows = Run(trained_copy).history.epochs
    assert len(seen) == 2 + 2 * len(rows)  # each event is passed on
    events = EventAccumulator(str(trained_copy / "tensorboard"))
    events.Reload()
    for tag, values in {
        "loss/train": [row.train_loss for row in rows],
        "acc/val": [row.val_accuracy for row in rows],
        "lr": [row.lr for row in rows],
        "test/acc": [Run(trained_copy).test.accuracy.value],
    }.items():
        assert [event.value for event in events.Scalars(tag)] == pytest.approx(values), tag
    assert [event.step for event in events.Scalars("loss/val")] == [row.step for row in rows]


@pytest.mark.slow
def test_tensorboard_has_the_pictures(explained_copy: Path) -> None:
    replay(Run(explained_copy), resight.log_to("tensorboard"))
    events = EventAccumulator(str(explained_copy / "tensorboard"))
    events.Reload()
    assert {"curves", "confusion_matrix", "misclassified"} <= {*events.Tags()["images"]}


def test_a_tracker_that_fails_ends_with_a_warning(trained_copy: Path) -> None:
    (trained_copy / "tensorboard").write_text("in the way")
    seen: list[Event] = []
    replay(Run(trained_copy), resight.log_to("tensorboard", on_event=seen.append))
    warnings = [event for event in seen if isinstance(event, Message)]
    assert len(warnings) == 1
    assert warnings[0].text.startswith("tensorboard ends, the run goes on: ")
    assert isinstance(seen[-1], RunEnd)


def test_a_stopped_run_has_no_result(trained_copy: Path) -> None:
    (trained_copy / "summary.json").unlink()
    replay(Run(trained_copy), resight.log_to("tensorboard"))
    events = EventAccumulator(str(trained_copy / "tensorboard"))
    events.Reload()
    assert "loss/train" in events.Tags()["scalars"]
    assert "test/acc" not in events.Tags()["scalars"]


def test_a_run_that_fails_is_ended_too(tmp_path: Path, tiny: resight.Dataset) -> None:
    seen: list[Event] = []
    with pytest.raises(resight.Diverged):
        resight.train(
            tiny_recipe("optimizer.lr=1e9"), data=tiny, out=tmp_path, on_event=seen.append
        )
    assert isinstance(seen[-1], RunEnd)


def test_unknown_and_absent_trackers_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused('there is no tracker "tensorbord"; did you mean "tensorboard"?'):
        resight.log_to("tensorbord")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    with refused("run `pip install 'wandb'`"):
        resight.log_to("wandb")
