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
from .errors import Diverged, ResightError, UsageError
from .events import EpochDone, Message, OnEvent, ignore_events
from .files import remove_temporary_files
from .interpret.explain_run import explain_finished
from .lr_finder.find import LRRangeOptions, run_range_test, with_found_lr
from .optim.schedules import describe
from .recipe import Recipe
from .recipe.presets import load_recipe
from .recipe.toml import differences, from_toml, with_changes
from .records import Predictions
from .runs.checkpoint import ModelInfo, load_best, load_checkpoint, save_best, save_checkpoint
from .runs.create import create_run, new_run_path
from .runs.environment import num_devices, with_resume_entry
from .runs.inference import predict_images
from .runs.reproduction import (
    Reproduction,
    check_same,
    conclude,
    project_recipe,
    write_reproduction,
)
from .runs.results import write_lr_find, write_results
from .runs.run import Run
from .training.device import check_devices, check_model, name_full_memory
from .training.launcher import fit_on_devices
from .training.loop import check_losses, deterministic_mode
from .training.setup import TrainSetup, load_dataset, prepare
from .training.signals import stop_requested


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

    `data` stands in for `recipe.data.source`; `model` for the recipe's network, and it is left
    with the kept weights. `find_lr` sets the recipe's rate by a range test first; `LRRangeOptions`
    say how that test runs. So many `devices` share each batch: GPUs, or processes on a CPU.
    `on_event` is shown every event. After Ctrl-C the run is `interrupted` and can be resumed.

    Raises UsageError where the recipe, the data or the folder cannot be used, Diverged where the
    loss breaks down (the last good checkpoint is kept), ResightError where the range test cannot be
    trusted or another process ended.
    """
    recipe = load_recipe(recipe)
    device = check_devices(device, devices, batch_size=recipe.training.batch_size)
    check_model(model, devices)
    path = new_run_path(Path(out), name, recipe, force=force)
    setup = prepare(
        recipe, data=data, model=model, device=device, offline=offline, on_event=on_event
    )
    curve = None
    if find_lr:
        options = LRRangeOptions() if find_lr is True else find_lr
        curve = run_range_test(setup, options, on_event)
        setup = with_found_lr(setup, curve)
        on_event(Message(f"found: {describe(setup.state.schedule)}"))
    run = create_run(
        path,
        setup.recipe,
        setup.state.state_dict(),
        fingerprint=setup.dataset.fingerprint,
        force=force,
        device=str(setup.device),
        devices=devices,
    )
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
    """Go on with a run that was stopped or killed, exactly as if it had not been.

    Without `run`, the newest one in `out`; without `devices`, on as many as it was started on. A
    run whose network or data set was passed in from Python needs them passed in again.

    Raises:
        UsageError: no such run, or its recipe or data have changed since.
        ResightError: no checkpoint can be read.
    """
    opened = Run.open(run) if run else Run.newest(Path(out))
    devices = num_devices(opened.folder / "env.json") if devices is None else devices
    device = check_devices(device, devices, batch_size=opened.recipe.training.batch_size)
    check_model(model, devices)
    checkpoint, problems = load_checkpoint(opened.folder)
    for problem in problems:
        on_event(Message(problem))
    changed = differences(opened.recipe, from_toml(checkpoint["recipe"], origin="checkpoint"))
    if changed:
        raise UsageError(
            f"{opened.folder / 'recipe.toml'} was changed since the run began "
            f"({', '.join(changed)}); put it back, or start a new run from it"
        )
    setup = prepare(
        opened.recipe, data=data, model=model, device=device, offline=offline, on_event=on_event
    )
    if setup.dataset.fingerprint != checkpoint["fingerprint"]:
        raise UsageError(
            f"the data in {opened.recipe.data.source} changed since the run began; "
            "put it back, or start a new run"
        )
    setup.state.load_state_dict(checkpoint["state"])
    return _complete(opened, setup, on_event, devices=devices, resumed=True)


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
    """Run the recipe of a published project and put what it reaches beside what was reported.

    Called again it goes on: finished seeds are kept, one that was stopped is resumed. `all_train`
    holds nothing out and keeps the last epoch; `epochs` shrinks the run, for a first look;
    `overrides` such as `training.precision=bf16` are for what the description leaves open.

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
    passed_in = data if isinstance(data, Dataset) else None
    how: dict[str, Any] = {"data": passed_in, "device": device, "devices": devices}
    how |= {"offline": offline, "on_event": on_event}
    runs: list[Run] = []
    for seed in range(seeds):
        on_event(Message(f"{name}, seed {seed}"))
        path = folder / f"seed{seed}"
        if not path.exists():
            seeded = with_changes(recipe, {"seed": seed}, origin=name)
            runs.append(train(seeded, out=folder, name=path.name, **how))
        elif (run := Run.open(path)).predictions is None:
            runs.append(resume(path, **how))
        else:
            runs.append(run)
        if runs[-1].interrupted:
            break
    result = conclude(name, folder, recipe, runs)
    write_reproduction(result, dataset, device=device, on_event=on_event)
    return result


def _complete(
    run: Run, setup: TrainSetup, on_event: OnEvent, *, devices: int, resumed: bool = False
) -> Run:
    """Train to the end, read the test set once, write the results and explain the mistakes."""
    interrupted = _train_to_the_end(run, setup, on_event, devices=devices, resumed=resumed)
    predictions = None if interrupted else _predict_test_set(run, setup)
    write_results(run, setup, predictions)
    if predictions:
        explain_finished(run, setup, predictions, on_event)
    return Run(run.folder, interrupted=interrupted)


def _train_to_the_end(
    run: Run, setup: TrainSetup, on_event: OnEvent, *, devices: int, resumed: bool
) -> bool:
    """Train, keeping the best weights and the last state; return whether it was interrupted."""
    recipe, state = setup.recipe, setup.state
    if devices > 1:
        batch, kind = recipe.training.batch_size, setup.device.type
        on_event(Message(f"{devices} processes on {kind} share each batch of {batch}"))
    with (
        run.lock(),
        deterministic_mode(recipe.training.deterministic),
        stop_requested() as stop,
        closing(fit_on_devices(setup, devices)) as events,
        name_full_memory(setup.device, recipe.training, devices),
    ):
        remove_temporary_files(run.folder)
        if resumed:
            entry = with_resume_entry(run.folder / "env.json", str(setup.device), devices)
            run.write_json("env.json", entry)
        try:
            for event in events:
                on_event(event)
                if isinstance(event, EpochDone):
                    _save_epoch(run, setup, event, on_event)
                if stop():
                    break
            check_losses(state, setup.splits)  # on a GPU, those of an epoch cut short were not
        except Diverged as error:
            kept = f"the state after epoch {len(state.rows)} is kept in {run.folder}"
            raise Diverged(f"{error}; {kept}") from error
        interrupted = len(state.rows) < recipe.schedule.epochs
        if interrupted:
            _save_state(run, setup)
    return interrupted


def _save_epoch(run: Run, setup: TrainSetup, event: EpochDone, on_event: OnEvent) -> None:
    """Save the state after an epoch, its weights if they are the best, and its figures."""
    if event.best:
        images = setup.splits.train.images  # (N, C, H, W)
        info = ModelInfo(
            recipe=setup.recipe,
            classes=setup.dataset.classes,
            stats=setup.splits.stats,
            channels=images.shape[1],
            image_size=images.shape[-1],
            epoch=event.row.epoch,
        )
        save_best(run.folder, setup.state.evaluated, info)
    _save_state(run, setup)
    try:
        run.write_history(setup.state.history)
    except ResightError as error:  # a spreadsheet may hold it open
        on_event(Message(str(error)))


def _save_state(run: Run, setup: TrainSetup) -> None:
    fingerprint = setup.dataset.fingerprint
    save_checkpoint(run.folder, setup.recipe, setup.state.state_dict(), fingerprint=fingerprint)


def _predict_test_set(run: Run, setup: TrainSetup) -> Predictions:
    """Predict the test set by the kept weights, once; the model is left with them."""
    weights, info = load_best(run.folder)
    setup.state.model.load_state_dict(weights)
    return predict_images(setup.state.model, setup.dataset.test, info, setup.recipe, setup.device)
