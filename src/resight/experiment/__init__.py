"""The whole story, from a recipe to explained mistakes. Start reading here.

`Recipe -> Dataset -> (images, labels) -> model -> logits -> History -> Predictions -> mistakes and
their causes -> Run (a folder) -> report.html`
"""

import time
from contextlib import closing
from pathlib import Path

from torch import nn

from ..datasets import Dataset
from ..diagnosis.doctor import tell_issues
from ..errors import Diverged
from ..events import EpochDone, Message, OnEvent, ignore_events
from ..interpret.explain_run import explain_finished
from ..lr_finder.find import LRRangeOptions, run_range_test, with_found_lr
from ..lr_finder.suggest import LRCurve
from ..optim.schedules import describe
from ..recipe import Recipe
from ..recipe.presets import load_recipe
from ..runs.checkpoint import load_model, save_checkpoint
from ..runs.confidence import calibrate
from ..runs.create import (
    finish_replacement,
    new_run_path,
    started_run,
    training_lock,
    write_resume_entry,
)
from ..runs.inference import predict_images
from ..runs.reopen import prepare_to_resume
from ..runs.replace import is_replacing, remove_replaced
from ..runs.results import save_epoch, write_lr_find, write_results
from ..runs.run import Run
from ..training.cost import check_minutes, with_epochs_in
from ..training.device import check_devices, check_model, name_full_memory
from ..training.launcher import fit_on_devices
from ..training.loop import check_losses, deterministic_mode
from ..training.setup import TrainSetup, prepare
from ..training.signals import interrupt_text, stop_requested


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
    minutes: float | None = None,
    offline: bool = False,
    on_event: OnEvent = ignore_events,
) -> Run:
    """Train by a recipe (a value, a preset's name or a TOML file) and test the best weights.

    `data` replaces `recipe.data.source`, and `model` the recipe's network; `model` has the kept
    weights afterwards. `find_lr` sets the recipe's rate by a range test first, which takes
    `LRRangeOptions`. `minutes` sets the recipe's epochs, by a measurement, so that the run ends in
    that time. `devices` is the number of GPUs, or of processes on a CPU, that share each batch.
    `on_event` receives every event. After Ctrl-C the run is `interrupted`; `resume` it.
    `force` replaces a run of that name, which comes back if the new one fails in its first epoch.

    Raises:
        UsageError: the recipe, the data, the devices or the folder cannot be used.
        Diverged: the loss breaks down; the last good checkpoint is kept.
        ResightError: the range test cannot be trusted, or another process ended.
    """
    recipe = load_recipe(recipe)
    device = check_devices(device, devices, batch_size=recipe.training.batch_size)
    check_model(model, devices)
    path = new_run_path(Path(out), name, recipe, force=force)
    check_minutes(minutes, find_lr=bool(find_lr), devices=devices)
    began = time.perf_counter()
    with interrupt_text("before the first step; no run folder was made"):
        setup = prepare(
            recipe, data=data, model=model, device=device, offline=offline, on_event=on_event
        )
        if minutes is not None:
            setup = with_epochs_in(setup, began + 60 * minutes - time.perf_counter(), on_event)
        tell_issues(setup, on_event)
        curve = None
        if find_lr:
            options = LRRangeOptions() if find_lr is True else find_lr
            setup, curve = _find_lr(setup, options, on_event)
    with started_run(path, setup, devices=devices, force=force) as run:
        if curve:
            write_lr_find(run, setup, curve)
        return _complete(run, setup, on_event, devices=devices)


def resume(
    run: str | Path | None = None,
    *,
    data: Dataset | None = None,
    model: nn.Module | None = None,
    device: str = "auto",
    devices: int | None = None,
    out: str | Path = "runs",
    offline: bool = False,
    allow_import: bool = False,
    on_event: OnEvent = ignore_events,
) -> Run:
    """Go on with a run that was stopped or killed; it ends as it would have without the stop.

    `run` is by default the newest run in `out`, and `devices` the number that it was started on. A
    run whose network or data set was passed in from Python needs them passed in again.
    `allow_import` lets the run's recipe import its network, which runs code.

    Raises:
        UsageError: no such run, or its recipe or data have changed since.
        ResightError: no checkpoint can be read.
    """
    if run:
        finish_replacement(Path(run))
    opened = Run.open(run or Run.newest(Path(out)).folder, allow_import=allow_import)
    if devices is None:
        devices = int((opened.environment or {}).get("devices", 1))
    device = check_devices(device, devices, batch_size=opened.recipe.training.batch_size)
    check_model(model, devices)
    with training_lock(opened):
        with interrupt_text("before the next step; the run is as it was"):
            setup = prepare_to_resume(
                opened, data=data, model=model, device=device, offline=offline, on_event=on_event
            )
        write_resume_entry(opened, setup.device, devices)
        return _complete(opened, setup, on_event, devices=devices)


def demo(*, out: str | Path = "runs", on_event: OnEvent = ignore_events) -> Run:
    """Train and explain a small network on the bundled digits, in well under a minute."""
    return train("digits", out=out, on_event=on_event)


def dry_run(
    recipe: Recipe | str,
    *,
    data: Dataset | str | Path | None = None,
    model: nn.Module | None = None,
    device: str = "auto",
    devices: int = 1,
    offline: bool = False,
    on_event: OnEvent = ignore_events,
) -> Recipe:
    """Check everything that `train` checks before its first step; return the resolved recipe."""
    recipe = load_recipe(recipe)
    device = check_devices(device, devices, batch_size=recipe.training.batch_size)
    check_model(model, devices)
    setup = prepare(
        recipe, data=data, model=model, device=device, offline=offline, on_event=on_event
    )
    tell_issues(setup, on_event)
    return setup.recipe


def _find_lr(
    setup: TrainSetup, options: LRRangeOptions, on_event: OnEvent
) -> tuple[TrainSetup, LRCurve]:
    """Find the learning rate by a range test; return the setup with it, and the test."""
    curve = run_range_test(setup, options, on_event)
    setup = with_found_lr(setup, curve)
    on_event(Message(f"found: {describe(setup.state.schedule)}"))
    return setup, curve


def _complete(run: Run, setup: TrainSetup, on_event: OnEvent, *, devices: int) -> Run:
    """Train to the end, read the test set once, write the results and explain the mistakes."""
    interrupted = _train_to_the_end(run, setup, on_event, devices=devices)
    predictions = confidence = None
    if not interrupted:
        model, info = load_model(run.folder, setup.state.model, setup.device)
        confidence = calibrate(run.folder, model, info, setup.splits)
        predictions = predict_images(model, setup.dataset.test, info)
    write_results(run, setup, predictions, confidence)
    if predictions:
        explain_finished(run, setup, predictions, on_event)
    return Run(run.folder, interrupted=interrupted)


def _train_to_the_end(run: Run, setup: TrainSetup, on_event: OnEvent, *, devices: int) -> bool:
    """Train, keeping the best weights and the last state; return whether it was interrupted."""
    training, state = setup.recipe.training, setup.state
    if devices > 1:
        kind, batch = setup.device.type, training.batch_size
        on_event(Message(f"{devices} processes on {kind} share each batch of {batch}"))
    with (
        deterministic_mode(training.deterministic),
        stop_requested() as stop,
        closing(fit_on_devices(setup, devices)) as events,
        name_full_memory(setup.device, training, devices),
    ):
        try:
            for event in events:
                on_event(event)
                if isinstance(event, EpochDone):
                    save_epoch(run, setup, event, on_event)
                    remove_replaced(run.folder)
                if stop():
                    break
            check_losses(state, setup.splits)  # on a GPU, those of an epoch cut short were not
        except Diverged as error:
            kept = f"the state after epoch {len(state.rows)} is kept in {run.folder}"
            if is_replacing(run.folder):
                kept = f"the run that was in {run.folder} before is there again"
            raise Diverged(f"{error}; {kept}") from error
        interrupted = len(state.rows) < setup.recipe.schedule.epochs
        if interrupted:
            save_checkpoint(run.folder, setup)
    return interrupted
