"""A stopped run, ready for its next step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..datasets import Dataset
from ..errors import ResightError, UsageError
from ..events import Message, OnEvent
from ..recipe import Recipe
from ..recipe.toml import differences, from_toml
from ..training.setup import TrainSetup, prepare, resolve
from .checkpoint import load_checkpoint, restore_state
from .create import finish_replacement
from .run import Run


def prepare_to_resume(
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
    _check_unchanged(run, checkpoint)
    setup = prepare(
        run.recipe,
        data=data,
        model=model,
        device=device,
        offline=offline,
        on_event=on_event,
        allow_import=run.allow_import,
        fresh=False,
        run_folder=run.folder,
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


def check_finished(run: Run) -> None:
    """Refuse a finished run whose recipe was edited, as if that had trained it further.

    Raises:
        UsageError: its recipe is not that of its checkpoint, if it still has one.
    """
    try:
        checkpoint, _ = load_checkpoint(run.folder)
    except ResightError:  # a finished run needs none
        return
    _check_unchanged(run, checkpoint)


def _check_unchanged(run: Run, checkpoint: Mapping[str, Any]) -> None:
    changed = differences(run.recipe, from_toml(checkpoint["recipe"], origin="checkpoint"))
    if changed:
        raise UsageError(
            f"{run.folder / 'recipe.toml'} was changed since the run began "
            f"({', '.join(changed)}); put it back, or start a new run from it"
        )


def reopen(
    folder: Path,
    recipe: Recipe,
    data: Dataset | str | Path | None,
    model: nn.Module | None,
    measured: Sequence[str],
    *,
    offline: bool,
) -> Run | None:
    """Return the run that a recipe was started as, or None if there is none in the folder.

    measured: beginnings of settings that the run has measured, like what is "auto" in the recipe.

    Raises:
        UsageError: it was started by another recipe.
    """
    finish_replacement(folder)
    if not (folder / "recipe.toml").is_file():
        return None
    run = Run.open(folder, allow_import=True)  # its recipe is compared with one that may
    resolved = resolve(recipe, data, model, fresh=False, offline=offline)
    odd = [
        setting
        for setting, (own, _) in differences(run.recipe, resolved).items()
        if own != "auto"
        and not str(own).startswith("hf:")
        and not setting.startswith(tuple(measured))
    ]
    if odd:
        raise UsageError(
            f"{folder} was started with another {', '.join(odd[:3])}; choose another --name, or "
            "give what it was started with"
        )
    return run
