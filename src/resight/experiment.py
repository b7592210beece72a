"""The whole story, from a recipe to explained mistakes. Start reading here.

`Recipe -> Dataset -> (images, labels) -> model -> logits -> History -> Predictions -> mistakes and
their causes -> Run (a folder) -> report.html`
"""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from torch import nn

from .datasets import Dataset
from .errors import Diverged, UsageError
from .events import EpochDone, Message, OnEvent, ignore_events
from .interpret.explain_run import explain_finished
from .lr_finder.find import LRRangeOptions, run_range_test, with_found_lr
from .optim.schedules import describe
from .recipe import Recipe
from .recipe.presets import load_recipe
from .recipe.toml import differences, from_toml, with_changes
from .runs.checkpoint import load_checkpoint, load_model, restore_state, save_checkpoint
from .runs.create import (
    finish_replacement,
    new_run_path,
    started_run,
    training_lock,
    write_resume_entry,
)
from .runs.inference import predict_images
from .runs.replace import is_replacing, remove_replaced
from .runs.reproduction import (
    Reproduction,
    check_same,
    is_complete,
    project_recipe,
    write_reproduction,
)
from .runs.results import save_epoch, write_lr_find, write_results
from .runs.run import Run
from .training.device import check_devices, check_model, name_full_memory
from .training.launcher import fit_on_devices
from .training.loop import check_losses, deterministic_mode
from .training.setup import TrainSetup, load_dataset, prepare
from .training.signals import interrupt_text, stop_requested


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
    on_event: OnEvent = ignore_events,
) -> Run:
    """Train by a recipe (a value, a preset's name or a TOML file) and test the best weights.

    `data` replaces `recipe.data.source`, and `model` the recipe's network; `model` has the kept
    weights afterwards. `find_lr` sets the recipe's rate by a range test first, which takes
    `LRRangeOptions`. `devices` is the number of GPUs, or of processes on a CPU, that share each
    batch. `on_event` receives every event. After Ctrl-C the run is `interrupted`; `resume` it.
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
    with interrupt_text("before the first step; no run folder was made"):
        setup = prepare(
            recipe, data=data, model=model, device=device, offline=offline, on_event=on_event
        )
        curve = None
        if find_lr:
            options = LRRangeOptions() if find_lr is True else find_lr
            curve = run_range_test(setup, options, on_event)
            setup = with_found_lr(setup, curve)
            on_event(Message(f"found: {describe(setup.state.schedule)}"))
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
    on_event: OnEvent = ignore_events,
) -> Run:
    """Go on with a run that was stopped or killed; it ends as it would have without the stop.

    `run` is by default the newest run in `out`, and `devices` the number that it was started on. A
    run whose network or data set was passed in from Python needs them passed in again.

    Raises:
        UsageError: no such run, or its recipe or data have changed since.
        ResightError: no checkpoint can be read.
    """
    if run:
        finish_replacement(Path(run))
    opened = Run.open(run) if run else Run.newest(Path(out))
    if devices is None:
        devices = int((opened.environment or {}).get("devices", 1))
    device = check_devices(device, devices, batch_size=opened.recipe.training.batch_size)
    check_model(model, devices)
    with training_lock(opened):
        with interrupt_text("before the next step; the run is as it was"):
            setup = _prepare_to_resume(
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
    return prepare(
        recipe, data=data, model=model, device=device, offline=offline, on_event=on_event
    ).recipe


def reproduce(
    name: str,
    *,
    data: Dataset | str | Path | None = None,
    seeds: int = 1,
    all_train: bool = False,
    epochs: int | None = None,
    overrides: Sequence[str] = (),
    out: str | Path = "reproductions",
    device: str = "auto",
    devices: int = 1,
    offline: bool = False,
    on_event: OnEvent = ignore_events,
) -> Reproduction:
    """Train the recipe of a published project, and put its accuracy beside the published one.

    A second call keeps the finished seeds and resumes a stopped one. `all_train` holds nothing out
    and keeps the last epoch; `epochs` shortens the run; `overrides` such as
    `training.precision=bf16` change settings that the project's description leaves open.

    Raises:
        UsageError: not one of the projects, no seeds, or another recipe ran in that folder.
    """
    recipe = project_recipe(name, all_train=all_train, epochs=epochs, overrides=overrides)
    if seeds < 1:
        raise UsageError(f"seeds = {seeds} must be at least 1; 3 give an interval")
    dataset = load_dataset(recipe, data, offline=offline, on_event=on_event)
    if data is not None and not isinstance(data, Dataset):
        recipe = with_changes(recipe, {"data": {"source": str(data)}}, origin=name)
    folder = Path(out) / name
    check_same(folder, recipe, dataset)
    options: dict[str, Any] = {"device": device, "devices": devices, "offline": offline}
    options |= {"data": data if isinstance(data, Dataset) else None, "on_event": on_event}
    runs: list[Run] = []
    for seed in range(seeds):
        on_event(Message(f"{name}, seed {seed}"))
        path = folder / f"seed{seed}"
        if not path.exists():
            seeded = with_changes(recipe, {"seed": seed}, origin=name)
            run = train(seeded, out=folder, name=path.name, **options)
        elif not is_complete(run := Run.open(path)):
            run = resume(path, **options)
        if run.interrupted:
            break
        runs.append(run)
    result = Reproduction(name, folder, recipe, tuple(runs), interrupted=len(runs) < seeds)
    write_reproduction(result, dataset, device=device, on_event=on_event)
    return result


def _prepare_to_resume(
    run: Run,
    *,
    data: Dataset | None,
    model: nn.Module | None,
    device: str,
    offline: bool,
    on_event: OnEvent,
) -> TrainSetup:
    """Return the setup of a stopped run, with the state of its newest checkpoint that fits."""
    checkpoint, problems = load_checkpoint(run.folder)
    for problem in problems:
        on_event(Message(problem))
    changed = differences(run.recipe, from_toml(checkpoint["recipe"], origin="checkpoint"))
    if changed:
        raise UsageError(
            f"{run.folder / 'recipe.toml'} was changed since the run began "
            f"({', '.join(changed)}); put it back, or start a new run from it"
        )
    setup = prepare(
        run.recipe, data=data, model=model, device=device, offline=offline, on_event=on_event
    )
    if setup.dataset.fingerprint != checkpoint["fingerprint"]:
        raise UsageError(
            f"the data in {run.recipe.data.source} changed since the run began; "
            "put it back, or start a new run"
        )
    for problem in restore_state(run.folder, setup.state):
        if problem not in problems:
            on_event(Message(problem))
    return setup


def _complete(run: Run, setup: TrainSetup, on_event: OnEvent, *, devices: int) -> Run:
    """Train to the end, read the test set once, write the results and explain the mistakes."""
    interrupted = _train_to_the_end(run, setup, on_event, devices=devices)
    predictions = None
    if not interrupted:
        model, info = load_model(run.folder, setup.state.model, setup.device)
        predictions = predict_images(model, setup.dataset.test, info)
    write_results(run, setup, predictions)
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
