"""A stopped run, ready for its next step."""

from torch import nn

from ..datasets import Dataset
from ..errors import UsageError
from ..events import Message, OnEvent
from ..recipe.toml import differences, from_toml
from ..training.setup import TrainSetup, prepare
from .checkpoint import load_checkpoint, restore_state
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
    changed = differences(run.recipe, from_toml(checkpoint["recipe"], origin="checkpoint"))
    if changed:
        raise UsageError(
            f"{run.folder / 'recipe.toml'} was changed since the run began "
            f"({', '.join(changed)}); put it back, or start a new run from it"
        )
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
