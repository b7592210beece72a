"""Search for better settings of a recipe, and train the best recipe once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..datasets import Dataset
from ..errors import UsageError
from ..events import Message, OnEvent, show_events
from ..files import json_text, remove_leftovers, write_text
from ..runs.run import Run
from ..runs.series import is_complete
from ..runs.sweeps.result import SweepResult, read_result, write_sweep
from ..runs.sweeps.space import Sweep, load_sweep
from ..runs.sweeps.study import Workplace, open_study
from ..runs.sweeps.trial import TrialInputs, run_trials
from ..training.signals import warning_interrupts
from . import resume, train

MARK = "sweep.json"


@warning_interrupts()
def sweep(
    sweep: str | Path | Sweep | Mapping[str, Any],
    *,
    trials: int | None = None,
    storage: str | None = None,
    data: Dataset | str | Path | None = None,
    device: str = "auto",
    out: str | Path = "sweeps",
    name: str | None = None,
    offline: bool = False,
    on_event: OnEvent = show_events,
) -> SweepResult:
    """Try settings of a recipe by Optuna, judged by validation; then train the best and test it.

    `sweep` is a TOML file, a `Sweep` or a table of the same keys; `trials` replaces the number in
    it. A second call goes on. Further calls at the same time are workers: they take trials from the
    same `storage`, by default a file in the folder, or any URL that Optuna knows. When all
    trials are done, a worker that has the folder trains the best recipe into it.

    Raises:
        UsageError: the sweep, its data or the storage cannot be used, or another sweep ran there.
    """
    default, checked = load_sweep(sweep)
    if trials is not None:
        settings = {name: getattr(checked, name) for name in Sweep.model_fields}
        checked = load_sweep({**settings, "trials": trials})[1]
    name = name or default
    folder = Path(out) / name
    workplace = _open(folder, name, checked, storage)
    inputs = TrialInputs(data=data, device=device, offline=offline, on_event=on_event)
    interrupted, run = run_trials(workplace, inputs), None
    if not interrupted and (folder / MARK).exists():
        with FileLock(folder / ".best.lock"):  # the second worker finds it done, or goes on
            best = read_result(workplace, folder, run=None, interrupted=False)
            if best.best is not None:
                options: dict[str, Any] = {"device": device, "offline": offline}
                run = _train_best(best, data, on_event=on_event, **options)
                interrupted = run.interrupted
                write_sweep(read_result(workplace, folder, run=run, interrupted=interrupted))
    return read_result(workplace, folder, run=run, interrupted=interrupted)


def _open(folder: Path, name: str, sweep: Sweep, storage: str | None) -> Workplace:
    """Make or join the study, and mark the folder of the worker that made it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot make the folder {folder}: {error.strerror}; choose another --out"
        ) from error
    remove_leftovers(folder)
    workplace = open_study(name, sweep, storage, folder)
    if workplace.is_new or storage is None:
        write_text(folder / MARK, json_text(sweep.model_dump(), indent=2) + "\n")
    return workplace


def _train_best(
    result: SweepResult, data: Dataset | str | Path | None, *, on_event: OnEvent, **options: Any
) -> Run:
    """Train the best recipe into the folder of its trial, or go on there, unless it is done."""
    assert result.best is not None
    path = result.folder / f"best-trial{result.best.number}"
    options["on_event"] = on_event
    if not path.exists():
        on_event(Message(f"{path}: the best recipe"))
        return train(result.recipe, data=data, out=path.parent, name=path.name, **options)
    run = Run.open(path)
    if is_complete(run):
        return run
    return resume(path, data=data if isinstance(data, Dataset) else None, **options)
