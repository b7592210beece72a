"""The whole story, from a recipe to explained mistakes. Start reading here.

`Recipe -> Dataset -> (images, labels) -> model -> logits -> History -> Predictions -> mistakes and
their causes -> Run (a folder) -> report.html`
"""

import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from torch import nn

from ..datasets import Dataset
from ..diagnosis.doctor import tell_issues
from ..errors import Diverged
from ..events import EpochDone, Message, OnEvent, RunEnd, RunStart, show_events
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
from ..runs.log import with_log
from ..runs.reopen import check_finished, prepare_to_resume, reopen
from ..runs.replace import is_replacing, remove_replaced
from ..runs.results import save_epoch, write_lr_find, write_results
from ..runs.run import Run
from ..runs.series import is_complete
from ..runs.timed_checkpoints import TimedCheckpoints
from ..training.cost import check_minutes, with_epochs_in
from ..training.device import check_devices, name_full_memory
from ..training.distributed import Rank
from ..training.launcher import follow, lead, tell_finished
from ..training.loop import check_state, deterministic_mode, fit
from ..training.setup import TrainSetup, prepare
from ..training.signals import (
    interrupt_text,
    stop_requested,
    warning_ignored,
    warning_interrupts,
)


@warning_interrupts()
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
    resume: bool = False,
    find_lr: bool | LRRangeOptions = False,
    minutes: float | None = None,
    offline: bool = False,
    on_event: OnEvent = show_events,
) -> Run:
    """Train by a recipe (a value, a preset's name or a TOML file) and test the best weights.

    `data` replaces `recipe.data.source`, and `model` the recipe's network; `model` has the kept
    weights afterwards. `find_lr` sets the rate by a range test first, `minutes` the epochs by a
    measurement, so that the run ends in that time. `devices` is the number of GPUs, or of processes
    on a CPU, that share each batch; under torchrun its processes do, and the first one writes.
    `on_event` receives every event. After Ctrl-C the run is `interrupted`; `resume` goes on with
    the run of that name, if there is one. `force` replaces it, and it comes back if the new one
    fails in its first epoch.

    Raises:
        UsageError: the recipe, the data, the devices or the folder cannot be used.
        Diverged: the loss breaks down; the last good checkpoint is kept.
        ResightError: the range test cannot be trusted, or another process ended.
    """
    recipe = load_recipe(recipe)
    device, devices = check_devices(device, devices, recipe.training.batch_size, model)
    options: dict[str, Any] = {"data": data, "model": model, "device": device, "offline": offline}
    if (rank := Rank.of_environment()).index:
        return _follow(rank, **options)
    if resume and name:
        given = ["optimizer.lr"] * bool(find_lr) + ["schedule."] * (minutes is not None)
        if run := reopen(Path(out) / name, recipe, data, model, given, offline=offline):
            return _go_on(run, devices=devices, on_event=on_event, **options)
    options["on_event"] = on_event = with_log(on_event)
    path = new_run_path(Path(out), name, recipe, force=force)
    check_minutes(minutes, find_lr=bool(find_lr), devices=devices)
    with interrupt_text("before the first step; no run folder was made"):
        setup, curve = _set_up(recipe, find_lr, minutes, **options)
    with started_run(path, setup, devices=devices, force=force, named=name is not None) as run:
        if curve:
            write_lr_find(run, setup, curve)
        return _complete(run, setup, on_event, devices=devices, data=data, model=model)


@warning_interrupts()
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
    on_event: OnEvent = show_events,
) -> Run:
    """Go on with a run that was stopped or killed; it ends as it would have without the stop.

    `run` is by default the newest run in `out`, and `devices` the number that it was started on. A
    run whose network or data set was passed in from Python needs them passed in again.
    `allow_import` lets the run's recipe import its network, which runs code.

    Raises:
        UsageError: no such run, or its recipe or data have changed since.
        ResightError: no checkpoint can be read.
    """
    options: dict[str, Any] = {"data": data, "model": model, "offline": offline}
    if (rank := Rank.of_environment()).index:
        device, _ = check_devices(device, devices or 1)
        return _follow(rank, device=device, **options)
    if run:
        finish_replacement(Path(run))
    opened = Run.open(run or Run.newest(Path(out)).folder, allow_import=allow_import)
    if devices is None:
        devices = (
            rank.count if rank.count > 1 else int((opened.environment or {}).get("devices", 1))
        )
    return _go_on(opened, device=device, devices=devices, on_event=on_event, **options)


def _follow(rank: Rank, **options: Any) -> Run:
    """Help the first process of torchrun to train its run."""
    folder, interrupted = follow(rank, **options)
    return Run(folder, interrupted=interrupted)


def _go_on(
    run: Run,
    *,
    data: Dataset | str | Path | None,
    model: nn.Module | None,
    device: str,
    devices: int,
    offline: bool,
    on_event: OnEvent,
) -> Run:
    """Go on with a run from its last checkpoint; a finished one is returned as it is."""
    if is_complete(run):
        check_finished(run)
        tell_finished(run.folder)
        return run
    on_event = with_log(on_event)
    device, devices = check_devices(device, devices, run.recipe.training.batch_size, model)
    with training_lock(run):
        with interrupt_text("before the next step; the run is as it was"):
            setup = prepare_to_resume(
                run,
                data=data if isinstance(data, Dataset) else None,  # a path is in the recipe
                model=model,
                device=device,
                offline=offline,
                on_event=on_event,
            )
        write_resume_entry(run, setup.device, devices)
        return _complete(run, setup, on_event, devices=devices, data=data, model=model)


def demo(*, out: str | Path = "runs", on_event: OnEvent = show_events) -> Run:
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
    on_event: OnEvent = show_events,
) -> Recipe:
    """Check everything that `train` checks before its first step; return the resolved recipe."""
    recipe = load_recipe(recipe)
    device, devices = check_devices(device, devices, recipe.training.batch_size, model)
    setup = prepare(
        recipe, data=data, model=model, device=device, offline=offline, on_event=on_event
    )
    tell_issues(setup, on_event)
    return setup.recipe


def _set_up(
    recipe: Recipe,
    find_lr: bool | LRRangeOptions,
    minutes: float | None,
    *,
    on_event: OnEvent,
    **options: Any,
) -> tuple[TrainSetup, LRCurve | None]:
    """Return all that a new run needs, and the range test that found its rate, if it had one."""
    began = time.perf_counter()
    setup = prepare(recipe, on_event=on_event, **options)
    if minutes is not None:
        setup = with_epochs_in(setup, began + 60 * minutes - time.perf_counter(), on_event)
    tell_issues(setup, on_event, in_minutes=minutes is not None)
    if not find_lr:
        return setup, None
    curve = run_range_test(setup, LRRangeOptions() if find_lr is True else find_lr, on_event)
    setup = with_found_lr(setup, curve)
    on_event(Message(f"found: {describe(setup.state.schedule)}"))
    return setup, curve


def _complete(
    run: Run,
    setup: TrainSetup,
    on_event: OnEvent,
    *,
    devices: int,
    data: Dataset | str | Path | None,
    model: nn.Module | None,
) -> Run:
    """Train to the end, read the test set once, write the results and explain the mistakes."""
    on_event(RunStart(run.folder, setup.state.step))
    try:
        with (
            lead(setup, run.folder, devices, data=data, model=model) as rank,
            warning_ignored(),  # outside of the steps
        ):
            interrupted = _train_to_the_end(run, setup, on_event, rank)
            predictions = confidence = None
            if not interrupted:
                network, info = load_model(run.folder, setup.state.model, setup.device)
                confidence = calibrate(run.folder, network, info, setup.splits)
                predictions = predict_images(network, setup.dataset.test, info)
            write_results(run, setup, predictions, confidence)
            if predictions:
                explain_finished(run, setup, predictions, on_event)
    finally:  # a tracker closes its run also where the training failed, and may itself fail
        with warning_ignored(), suppress(Exception):
            on_event(RunEnd(run.folder))
    return Run(run.folder, interrupted=interrupted)


def _train_to_the_end(run: Run, setup: TrainSetup, on_event: OnEvent, rank: Rank) -> bool:
    """Train, keeping the best weights and the last state; return whether it was interrupted."""
    training, state = setup.recipe.training, setup.state
    if rank.count > 1:
        kind, batch = setup.device.type, training.batch_size
        on_event(Message(f"{rank.count} processes on {kind} share each batch of {batch}"))
    with (
        deterministic_mode(training.deterministic),
        stop_requested(patient=Rank.of_environment().count > 1) as stop,
        closing(TimedCheckpoints(run.folder, setup, on_event)) as checkpoints,
        closing(fit(state, setup.recipe, setup.splits, rank=rank)) as events,
        name_full_memory(setup.device, training, rank.count),
    ):
        try:
            for event in events:
                on_event(event)
                if isinstance(event, EpochDone):
                    checkpoints.finish()
                    save_epoch(run, setup, event, on_event)
                    remove_replaced(run.folder)
                if rank.any(stop()):
                    break
                checkpoints.save_if_due()
            check_state(state, setup.splits)
        except Diverged as error:
            kept = f"the checkpoint before it is kept in {run.folder}"
            if is_replacing(run.folder):
                kept = f"the run that was in {run.folder} before is there again"
            raise Diverged(f"{error}; {kept}") from error
        interrupted = len(state.rows) < setup.recipe.schedule.epochs
        checkpoints.finish()
        if interrupted:
            save_checkpoint(run.folder, setup)
    return interrupted
