"""A checkpoint in the middle of an epoch: a run that dies after it ends as if it had not died."""

import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

import resight
from resight.errors import Diverged
from resight.events import Event, Message, OnEvent, StepDone
from tiny_runs import tiny_recipe

# All that a state holds, or that depends on the step: three epochs of three steps.
SETTINGS = (
    *("schedule.epochs=3", "training.micro_batch=9", "training.ema_decay=0.9", "augment.mixup={}"),
    *("model.dropout=0.2", "training.freeze_epochs=1", "data.balance=balanced"),
)
ALWAYS = "training.checkpoint_minutes=1e-9"  # after each step


class Killed(Exception):
    pass


def die_at(step: int) -> OnEvent:
    """Return an `on_event` that ends a run after a step, before its checkpoint."""

    def on_event(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            raise Killed

    return on_event


def outcome(run: resight.Run) -> tuple[object, ...]:
    """All that a run leaves behind, without the times."""
    rows = [
        {k: v for k, v in asdict(row).items() if k not in ("train_secs", "images_per_sec")}
        for row in run.history.epochs
    ]
    assert run.predictions is not None
    history = [getattr(run.history, name).tolist() for name in ("lrs", "momenta", "losses")]
    weights = {name: value.tolist() for name, value in run.model().state_dict().items()}
    return rows, history, weights, run.predictions.logits.tolist()


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, tiny: resight.Dataset
) -> tuple[object, ...]:
    recipe = tiny_recipe(*SETTINGS, "training.checkpoint_minutes=0")
    return outcome(resight.train(recipe, data=tiny, out=tmp_path_factory.mktemp("out")))


@pytest.mark.parametrize("step", [2, 5, 6, 9])
def test_a_run_that_dies_in_an_epoch_ends_as_if_it_had_not(
    tmp_path: Path, tiny: resight.Dataset, undisturbed: tuple[object, ...], step: int
) -> None:
    recipe = tiny_recipe(*SETTINGS, ALWAYS)
    with pytest.raises(Killed):
        resight.train(recipe, data=tiny, out=tmp_path, name="run", on_event=die_at(step))
    saved = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["state"]
    assert saved["step"] == step - 1
    assert len(saved["rows"]) == (step - 1) // 3
    assert outcome(resight.resume(tmp_path / "run", data=tiny)) == undisturbed


def test_a_checkpoint_waits_for_its_minutes(tmp_path: Path, tiny: resight.Dataset) -> None:
    for minutes in (0, 10):
        recipe = tiny_recipe(f"training.checkpoint_minutes={minutes}")
        with pytest.raises(Killed):
            resight.train(recipe, data=tiny, out=tmp_path, name=f"{minutes}", on_event=die_at(6))
        saved = torch.load(tmp_path / f"{minutes}" / "last.pt", weights_only=True)["state"]
        assert saved["step"] == 3  # the end of the first epoch


def test_a_checkpoint_that_cannot_be_written_is_told_and_the_run_goes_on(
    tmp_path: Path, tiny: resight.Dataset
) -> None:
    warnings: list[str] = []

    def on_event(event: Event) -> None:
        in_the_way = tmp_path / "run" / "previous.pt" / "a folder"
        if isinstance(event, StepDone) and event.step == 1:
            in_the_way.mkdir(parents=True)
        if isinstance(event, StepDone) and event.step == 3:
            shutil.rmtree(in_the_way.parent)
        if isinstance(event, Message) and event.severity == "warning":
            warnings.append(event.text)

    run = resight.train(tiny_recipe(ALWAYS), data=tiny, out=tmp_path, name="run", on_event=on_event)
    assert run.test.images == len(tiny.test)
    told = r"cannot write .*last\.pt: .* an older file there is unharmed; training goes on"
    assert any(re.fullmatch(told, text) for text in warnings)


class Breaks(nn.Module):
    """The loss of step 2 is sound, but its gradient is 0 times infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 16 * 16, 3)
        self.scale = nn.Parameter(torch.zeros(()))
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        logits: torch.Tensor = self.fc(images.flatten(1))
        return logits + (self.scale.sqrt() * 0 if self.calls == 2 else 0)


def test_broken_weights_are_not_saved(tmp_path: Path, tiny: resight.Dataset) -> None:
    recipe = tiny_recipe(ALWAYS, "optimizer.lr=0.001")
    with pytest.raises(Diverged, match=r"weights became NaN .* at step 2 .* before it is kept"):
        resight.train(recipe, data=tiny, model=Breaks(), out=tmp_path, name="run")
    saved = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["state"]
    assert saved["step"] == 1
    assert all(value.isfinite().all() for value in saved["model"].values())
