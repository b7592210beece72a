"""The whole story, from a recipe to a run folder. Start reading here.

`Recipe -> Dataset -> (images, labels) -> model -> logits -> History -> Predictions -> run folder`
"""

import math
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from .datasets import Dataset
from .errors import Diverged, ResightError, UsageError
from .events import EpochDone, Message, OnEvent
from .files import remove_temporary_files
from .interpret.explain_run import explain_finished
from .lr_finder.find import LRRangeOptions, run_range_test, with_found_lr
from .optim.schedules import describe
from .recipe import Recipe
from .recipe.presets import load_recipe
from .recipe.toml import differences, from_toml
from .records import History, Predictions
from .runs.environment import num_devices, with_resume_entry
from .runs.results import summarize_run, write_lr_find, write_results
from .runs.run import ModelInfo, RunFolder, new_run_path
from .training.device import check_devices, check_model
from .training.launcher import fit_on_devices
from .training.loop import check_losses, deterministic_mode
from .training.predict import predict_split
from .training.setup import TrainSetup, prepare
from .training.signals import stop_requested


@dataclass(frozen=True)
class Run:
    """What came of training. `predictions` and `summary["test"]` are of the test set."""

    folder: Path
    recipe: Recipe
    history: History
    predictions: Predictions | None  # None when interrupted: the test set was not read
    summary: dict[str, Any]
    interrupted: bool


def train(
    recipe: Recipe | str,
    *,
    data: Dataset | str | Path | None = None,
    model: nn.Module | None = None,
    device: str = "auto",
    devices: int = 1,
    out: str | Path = "runs",
    name: str | None = None,
    force: bool = False,
    find_lr: bool | LRRangeOptions = False,
    offline: bool = False,
    on_event: OnEvent | None = None,
) -> Run:
    """Train by a recipe (a value, a preset's name or a TOML file) and evaluate the best weights.

    `data` stands in for `recipe.data.source`; `model` for the recipe's network. `on_event` is shown
    every event and cannot change anything. `find_lr` sets the recipe's rate by a range test first;
    a `LRRangeOptions` says how it climbs, `LRRangeOptions(repeats=3)` takes the median of three.
    `devices` share each batch: that many GPUs, or on a CPU processes that divide its cores.
    Interrupted by Ctrl-C, the run returns with `interrupted=True` and can be resumed. A finished
    run leaves `model` with the chosen weights.

    Raises:
        UsageError: the recipe, the data or the run folder is not usable as asked.
        Diverged: the loss became NaN, infinite or exploded; the last good checkpoint is kept.
        ResightError: with `find_lr`, the range test cannot be trusted; with `devices`, the process
            of another device ended before its time.
    """
    on_event = on_event or (lambda event: None)
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    device = check_devices(device, devices, batch_size=recipe.training.batch_size)
    check_model(model, devices)
    path = new_run_path(Path(out), name, recipe, force=force)
    setup = prepare(
        recipe,
        data=data,
        model=model,
        device=device,
        offline=offline,
        on_event=on_event,
    )
    curve = None
    if find_lr:
        curve = run_range_test(
            setup, find_lr if isinstance(find_lr, LRRangeOptions) else LRRangeOptions(), on_event
        )
    if curve:
        setup = with_found_lr(setup, curve)
        on_event(Message(f"found: {describe(setup.state.schedule)}"))
    folder = RunFolder.create(
        path,
        setup.recipe,
        setup.state.state_dict(),
        fingerprint=setup.dataset.fingerprint,
        force=force,
        device=str(setup.splits.train.images.device),
        devices=devices,
    )
    if curve:
        write_lr_find(folder, setup, curve)
    return _run(folder, setup, on_event, devices=devices)


def resume(
    run: str | Path | None = None,
    *,
    data: Dataset | None = None,
    model: nn.Module | None = None,
    device: str = "auto",
    devices: int | None = None,
    out: str | Path = "runs",
    offline: bool = False,
    on_event: OnEvent | None = None,
) -> Run:
    """Go on with a run that was stopped or killed, exactly as if it had not been.

    Without `run`, the newest one in `out`; without `devices`, on as many as it was begun on. A run
    of a module or data set passed in from Python needs them passed in again.

    Raises:
        UsageError: no such run, or its recipe or data have changed since.
        ResightError: no checkpoint can be read.
    """
    on_event = on_event or (lambda event: None)
    folder = RunFolder.open(Path(run)) if run else RunFolder.newest(Path(out))
    devices = num_devices(folder.path / "env.json") if devices is None else devices
    recipe = folder.recipe
    device = check_devices(device, devices, batch_size=recipe.training.batch_size)
    check_model(model, devices)
    saved, faults = folder.load_checkpoint()
    for fault in faults:
        on_event(Message(fault))
    changed = differences(recipe, from_toml(saved["recipe"], origin="checkpoint"))
    if changed:
        raise UsageError(
            f"{folder.path / 'recipe.toml'} was changed since the run began "
            f"({', '.join(changed)}); put it back, or start a new run from it"
        )
    setup = prepare(
        recipe,
        data=data,
        model=model,
        device=device,
        offline=offline,
        on_event=on_event,
    )
    if setup.dataset.fingerprint != saved["fingerprint"]:
        raise UsageError(
            f"the data in {recipe.data.source} changed since the run began; "
            "put it back, or start a new run"
        )
    setup.state.load_state_dict(saved["state"])
    return _run(folder, setup, on_event, devices=devices, resumed=True)


def demo(*, out: str | Path = "runs", on_event: OnEvent | None = None) -> Run:
    """The whole path on the bundled digits, in well under a minute."""
    return train("digits", out=out, on_event=on_event)


def _run(
    folder: RunFolder, setup: TrainSetup, on_event: OnEvent, *, devices: int, resumed: bool = False
) -> Run:
    """Train to the end, keeping the best weights and the last state; then read the test once."""
    recipe, state, fingerprint = setup.recipe, setup.state, setup.dataset.fingerprint
    images = setup.splits.train.images  # (N, C, H, W)
    batch = recipe.training.batch_size
    if devices > 1:
        on_event(
            Message(f"{devices} processes on {images.device.type} share each batch of {batch}")
        )
    info = ModelInfo(
        recipe=recipe,
        classes=setup.dataset.classes,
        stats=setup.splits.stats,
        channels=images.shape[1],
        image_size=images.shape[-1],
        epoch=0,
    )
    with (
        folder.alone(),
        deterministic_mode(recipe.training.deterministic),
        stop_requested() as asked,
        closing(fit_on_devices(setup, devices)) as events,
    ):
        remove_temporary_files(folder.path)
        if resumed:
            now = with_resume_entry(folder.path / "env.json", str(images.device), devices)
            folder.write_json("env.json", now)
        try:
            for event in events:
                on_event(event)
                if isinstance(event, EpochDone):
                    if event.best:
                        folder.save_best(state.evaluated, replace(info, epoch=event.row.epoch))
                    folder.save_checkpoint(recipe, state.state_dict(), fingerprint=fingerprint)
                    try:
                        folder.write_history(state.history)
                    except ResightError as error:  # a spreadsheet may hold it open
                        on_event(Message(str(error)))
                if asked():
                    break
            check_losses(state, setup.splits)  # on a GPU, those of an epoch cut short were not
        except Diverged as error:
            raise Diverged(
                f"{error}; the state after epoch {len(state.rows)} is kept in {folder.path}"
            ) from error
        except RuntimeError as error:  # MPS has no class for it
            if "out of memory" not in str(error):
                raise
            raise ResightError(
                f"the memory of {setup.splits.train.images.device} is full; set "
                "training.gpu_micro_batch to less than "
                f"{recipe.training.gpu_micro_batch or math.ceil(batch / devices)}"
            ) from error
        interrupted = len(state.rows) < recipe.schedule.epochs
        if interrupted:
            folder.save_checkpoint(recipe, state.state_dict(), fingerprint=fingerprint)
    predictions = None if interrupted else _test(folder, setup)
    summary = summarize_run(setup, predictions)
    write_results(folder, recipe, summary, state.history, predictions, setup.dataset.test.images)
    if predictions:
        explain_finished(folder, setup, predictions, on_event)
    return Run(folder.path, recipe, state.history, predictions, summary, interrupted)


def _test(folder: RunFolder, setup: TrainSetup) -> Predictions:
    """What the chosen weights say about the test set; the model is left with them."""
    weights, info = folder.load_best()
    setup.state.model.load_state_dict(weights)
    return predict_split(
        setup.state.model,
        setup.dataset.test.to(setup.splits.train.images.device),
        info.stats,
        classes=info.classes,
        training=info.recipe.training,
        evaluation=info.recipe.evaluation,
    )
