"""The trials of a sweep in a storage that workers share: who takes which, and who has died.

Every worker runs the same command. A worker that is killed leaves its trial running; another
notices, because the trial's pulse has stopped or its process is gone, and gives it to the next.
"""

import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ResightError, UsageError
from ...files import is_process_alive
from .space import Sweep

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

PULSE_SECS = 15.0  # between signs of life of a trial
DEAD_SECS = 120.0  # without one, a trial's worker counts as killed
MAX_RETRIES = 2  # of a trial whose worker was killed: it may be the trial that kills
STORAGE_FILE = "study.log"


@dataclass(frozen=True)
class Workplace:
    """A study in its storage, as one worker sees it."""

    study: "optuna.Study"
    storage: "BaseStorage"
    sweep: Sweep
    is_new: bool  # this worker made the study

    def trials(self) -> "list[FrozenTrial]":
        """Return the trials so far, without those that were given to another worker."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if not trial.user_attrs.get("retried")]

    def storage_id(self, number: int) -> int:
        """Return the id that the storage has for a trial of this study."""
        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)


def open_study(name: str, sweep: Sweep, storage: str | None, folder: Path) -> Workplace:
    """Make the study of a sweep, or join it; `storage` is a URL, a file, or a file in `folder`.

    Raises:
        UsageError: Optuna is not installed, the storage cannot be opened, or a study of this name
            has another base or other ranges.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "a sweep needs the package optuna; pip install 'resight[sweep]'"
        ) from error
    opened = _open_storage(storage or str(folder / STORAGE_FILE))
    maximize = sweep.metric == "val_accuracy"
    try:
        with without_log():
            study = optuna.create_study(
                study_name=name, storage=opened, direction="maximize" if maximize else "minimize"
            )
        is_new = True
    except optuna.exceptions.DuplicatedStudyError:
        study, is_new = optuna.load_study(study_name=name, storage=opened), False
    if is_new:
        study.set_user_attr("sweep", sweep.fingerprint)
        study.enqueue_trial(sweep.base_values or {}, user_attrs={"base": True})
    elif study.user_attrs.get("sweep", sweep.fingerprint) != sweep.fingerprint:
        raise UsageError(
            f"the study {name!r} there has another recipe, other ranges or another metric; choose "
            "another --name"
        )
    # Workers that join must not try the same values, so only the first one's are repeatable.
    study.sampler = _sampler(sweep, seed=sweep.seed if is_new else None)
    study.pruner = _pruner(sweep)
    return Workplace(study, opened, sweep, is_new)


@contextmanager
def without_log() -> Iterator[None]:
    """Keep Optuna from printing that it has made a study."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _open_storage(place: str) -> "BaseStorage":
    from optuna.exceptions import StorageInternalError
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if "://" in place:
            return RDBStorage(place)
        return JournalStorage(JournalFileBackend(place))
    except (SQLAlchemyError, StorageInternalError, ImportError, ValueError, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise UsageError(
            f"the storage {_without_password(place)} cannot be opened: {why}; give a file, or a "
            "URL such as postgresql://user@host/database"
        ) from error


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _sampler(sweep: Sweep, *, seed: int | None) -> "optuna.samplers.BaseSampler":
    from optuna.samplers import RandomSampler, TPESampler

    return TPESampler(seed=seed) if sweep.sampler == "tpe" else RandomSampler(seed=seed)


def _pruner(sweep: Sweep) -> "optuna.pruners.BasePruner":
    """The pruner, which looks at every epoch; the median not in the first third of the epochs.

    A high rate is behind there, and catches up when it falls.
    """
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    if sweep.pruner is None:
        return NopPruner()
    epochs = sweep.base.schedule.epochs
    if sweep.pruner == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=epochs)
    return MedianPruner(n_startup_trials=5, n_warmup_steps=epochs // 3 + 1)


def next_trial(workplace: Workplace) -> "Trial | None":
    """Return a trial for this worker, once there is one; None when all are done.

    It waits for the trials of other workers, since one of those may be killed.
    """
    from optuna.trial import TrialState

    while True:
        requeue_dead(workplace)
        trials = workplace.trials()
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if waiting or len(trials) < workplace.sweep.trials:
            trial = workplace.study.ask()
            trial.set_user_attr("worker", _this_worker())
            return trial
        if all(trial.state.is_finished() for trial in trials):
            return None
        time.sleep(1)


def requeue_dead(workplace: Workplace) -> None:
    """Fail the running trials of killed workers, and queue them for the next worker."""
    from optuna.trial import TrialState

    for trial in workplace.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_dead(trial):
            requeue(workplace, trial, killed=True)


def requeue(workplace: Workplace, trial: "FrozenTrial", *, killed: bool) -> None:
    """Fail a running trial and queue its values again, unless it has killed too many workers."""
    from optuna.exceptions import OptunaError
    from optuna.trial import TrialState

    retries = int(trial.user_attrs.get("retries", 0)) + killed
    again = retries <= MAX_RETRIES
    change = ("retried", True) if again else ("why", f"its worker was killed {retries} times")
    with suppress(OptunaError, RuntimeError, ValueError):  # another worker was quicker
        workplace.storage.set_trial_user_attr(workplace.storage_id(trial.number), *change)
        workplace.study.tell(trial.number, state=TrialState.FAIL)
        if again:
            attrs = {"retries": retries, "retry_of": trial.number}
            attrs |= {"base": True} if trial.user_attrs.get("base") else {}
            workplace.study.enqueue_trial(trial.params, user_attrs=attrs)


def suggest_values(trial: "Trial", sweep: Sweep) -> dict[str, Any]:
    """Return the values of the swept settings that a trial shall try; the base changes none."""
    is_base = trial.user_attrs.get("base")
    if is_base and sweep.base_values is None:
        return {}
    values = {}
    for path, span in sweep.ranges.items():
        if span.choices is not None:
            stored: Any = trial.suggest_categorical(path, span.labels)
        elif span.is_whole:
            step = int(span.step or 1)
            stored = trial.suggest_int(
                path, int(span.low or 0), int(span.high or 0), step=step, log=span.log
            )
        else:
            low, high = float(span.low or 0), float(span.high or 0)
            stored = trial.suggest_float(path, low, high, step=span.step, log=span.log)
        values[path] = span.value(stored)
    return {} if is_base else values


@contextmanager
def pulse(workplace: Workplace, trial: "Trial") -> Iterator[None]:
    """Show the workers of other machines that a trial's worker lives, as long as the block runs."""
    number, done = workplace.storage_id(trial.number), threading.Event()

    def beat() -> None:
        while not done.wait(PULSE_SECS):
            with suppress(Exception):  # a storage may be out of reach for a while
                workplace.storage.set_trial_user_attr(number, "alive", time.time())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _this_worker() -> str:
    return f"{platform.node()}:{os.getpid()}"


def _is_dead(trial: "FrozenTrial") -> bool:
    """Whether the worker of a running trial was killed, as far as can be seen from here."""
    host, _, process = str(trial.user_attrs.get("worker", "")).rpartition(":")
    if host == platform.node() and not is_process_alive(int(process)):
        return True
    began = trial.datetime_start or datetime.now()
    seen = float(trial.user_attrs.get("alive", began.timestamp()))
    return time.time() - seen > DEAD_SECS


def check_data(workplace: Workplace, fingerprint: str) -> None:
    """Refuse to judge trials of one study on different data.

    Raises:
        ResightError: another worker of the study has other data.
    """
    before = workplace.study.user_attrs.get("data")
    if before is None:
        workplace.study.set_user_attr("data", fingerprint)
    elif before != fingerprint:
        raise ResightError(
            "the data here is not that of the trials that are done; give all workers the same data"
        )
