"""One trial of a sweep: train by its recipe, judge each epoch by validation, stop if it is behind.

The test set is not touched, and no run folder is made.
"""

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...datasets import Dataset
from ...errors import Diverged, ResightError, UsageError, is_memory_full
from ...events import EpochDone, Message, OnEvent, Progress, StepDone
from ...recipe import Recipe
from ...training.loop import best_epoch, check_losses, deterministic_mode, fit
from ...training.setup import TrainSetup, prepare
from ...training.signals import stop_requested
from .study import Workplace, check_data, next_trial, pulse, requeue, suggest_values

if TYPE_CHECKING:
    from optuna.trial import Trial


@dataclass(frozen=True)
class TrialInputs:
    """What all trials of a worker share."""

    data: Dataset | str | Path | None
    device: str
    offline: bool
    on_event: OnEvent

    def prepare(self, recipe: Recipe) -> TrainSetup:
        """Return the setup of a trial; its messages are not passed on."""
        return prepare(
            recipe,
            data=self.data,
            model=None,
            device=self.device,
            offline=self.offline,
            on_event=lambda event: None if isinstance(event, Message) else self.on_event(event),
        )


def run_trials(workplace: Workplace, inputs: TrialInputs) -> bool:
    """Run trials until all of the study are done; return whether Ctrl-C or SIGTERM came before.

    Raises:
        UsageError: the base recipe, its data or the device cannot be used, or nothing validates.
    """
    setup = inputs.prepare(workplace.sweep.base)
    if setup.splits.val is None:
        raise UsageError(
            "a sweep is judged by validation, but data.val_fraction = none; set it to 0.1"
        )
    if not any(path.startswith("data.") for path in workplace.sweep.ranges):
        check_data(workplace, setup.dataset.fingerprint)
    del setup
    while (trial := next_trial(workplace)) is not None:
        with pulse(workplace, trial), stop_requested() as stop:
            _run_trial(workplace, trial, inputs, stop)
            if stop():
                return True
    return False


def _run_trial(workplace: Workplace, trial: "Trial", inputs: TrialInputs, stop: Any) -> None:
    """Run a trial, and tell the study its end; a trial that cannot be run is a failed one."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    values = suggest_values(trial, workplace.sweep)
    title = f"trial {trial.number}"
    began = time.perf_counter()
    try:
        try:
            state, result = _judge(workplace, trial, inputs, values, stop)
        except (Diverged, UsageError, RuntimeError, MemoryError) as error:
            if not isinstance(error, ResightError) and not is_memory_full(error):
                workplace.study.tell(trial, state=TrialState.FAIL)
                raise
            # What diverges is known to be bad, and the sampler may learn that from it.
            state = TrialState.PRUNED if isinstance(error, Diverged) else TrialState.FAIL
            trial.set_user_attr("why", str(error).splitlines()[0][:500])
            result = None
        if state is None:  # stopped by the user: its values come first when the sweep goes on
            frozen = workplace.study.get_trials(deepcopy=False)[trial.number]
            requeue(workplace, frozen, killed=False)
            return
        trial.set_user_attr("secs", round(time.perf_counter() - began, 3))
        workplace.study.tell(trial, result, state=state)
    except (UpdateFinishedTrialError, ValueError) as error:
        if not workplace.study.get_trials(deepcopy=False)[trial.number].state.is_finished():
            raise
        inputs.on_event(Message(f"{title} was given to another worker meanwhile: {error}"))
        return
    shown = "the base" if trial.user_attrs.get("base") else _text(values)
    score = f"{workplace.sweep.metric} {result:.4g}" if result is not None else ""
    inputs.on_event(Message(f"{title}: {shown}: {score or state.name.lower()}"))


def _judge(
    workplace: Workplace, trial: "Trial", inputs: TrialInputs, values: dict[str, Any], stop: Any
) -> tuple[Any, float | None]:
    """Train a trial; return its state, None if it was stopped, and the metric of the kept epoch."""
    from optuna.trial import TrialState

    metric = workplace.sweep.metric
    setup = inputs.prepare(workplace.sweep.changed(values))
    recipe, state, splits = setup.recipe, setup.state, setup.splits
    title = f"trial {trial.number}"
    pruned = False
    with (
        deterministic_mode(recipe.training.deterministic),
        closing(fit(state, recipe, splits)) as events,
    ):
        for event in events:
            if isinstance(event, StepDone):
                inputs.on_event(Progress(title, event.step, event.total_steps))
            if isinstance(event, EpochDone):
                trial.report(float(getattr(event.row, metric)), event.row.epoch)
                pruned = trial.should_prune() and not trial.user_attrs.get("base")
            if pruned or stop():
                break
        check_losses(state, splits)  # on a GPU, those of an epoch cut short were not
    if stop() and len(state.rows) < recipe.schedule.epochs:
        return None, None
    row = state.rows[best_epoch(state.rows, recipe.training.select) - 1]
    for name in ("val_accuracy", "val_loss", "epoch"):
        trial.set_user_attr(name, getattr(row, name))
    trial.set_user_attr("val_images", len(splits.val) if splits.val else 0)
    if pruned and len(state.rows) < recipe.schedule.epochs:
        return TrialState.PRUNED, None
    return TrialState.COMPLETE, float(getattr(row, metric))


def _text(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{path} = {value:.4g}" if isinstance(value, float) else f"{path} = {value}"
        for path, value in values.items()
    )
