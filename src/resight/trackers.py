"""Runs in the trackers that people use: TensorBoard, Weights & Biases, MLflow, Trackio.

A tracker listens to the events of a run, as the progress bar does. The training loop knows nothing
of it. What fails in a tracker ends the tracking with a warning, never the run.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from .errors import UsageError, suggest
from .events import EpochDone, Event, Message, OnEvent, RunEnd, RunStart, StepDone, show_events
from .records import EpochRow
from .runs.run import Run
from .text import one_line

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
PROJECT = "resight"  # the project, or the experiment, that runs are kept under
POINTS_PER_EPOCH = 10  # steps of which loss and rate are logged; each waits for the device
PICTURES = ("curves", "confusion_matrix", "misclassified", "misclassified_grad-cam")
_PACKAGES = {name: name for name in get_args(TrackerName)} | {"tensorboard": "resight[log]"}


class Tracker(Protocol):
    """What a tracker takes; steps are those of the optimizer."""

    def start(self, run: Run, key: str, settings: Mapping[str, Any], step: int) -> None:
        """Begin a run, or go on at a step with the one that was begun under this key."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep figures of a step."""

    def end(self, result: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """Keep the result and its pictures, PNG files; the run is over."""


def log_to(*trackers: TrackerName, on_event: OnEvent = show_events) -> OnEvent:
    """Return a listener for `on_event` that keeps a run in trackers as well.

    `resight.train("digits", on_event=resight.log_to("tensorboard"))` writes into the run folder;
    the others keep to their own environment variables, such as WANDB_MODE and MLFLOW_TRACKING_URI.
    Every event is passed on to your `on_event` first.

    Raises:
        UsageError: there is no such tracker, or its package is not installed,
            or its store cannot be reached.
    """
    listeners = []
    for name in trackers:
        if name not in TRACKERS:
            hint = f"{suggest(name, TRACKERS)} (valid: {', '.join(TRACKERS)})"
            raise UsageError(f'there is no tracker "{name}"{hint}')
        try:
            listeners.append(_Listener(name, TRACKERS[name](), on_event))
        except Exception as error:  # its package is not there, or its store cannot be reached
            remedy = f"; run `pip install '{_PACKAGES[name]}'`"
            reason = one_line(str(error), 300) + remedy * isinstance(error, ImportError)
            raise UsageError(f"the tracker {name} cannot be used: {reason}") from error

    def listen(event: Event) -> None:
        on_event(event)
        for listener in listeners:
            listener(event)

    return listen


class _Listener:
    """One tracker of one run, until it fails."""

    def __init__(self, name: str, tracker: Tracker, on_event: OnEvent) -> None:
        self.name, self.tracker, self.on_event = name, tracker, on_event
        self.is_on = False

    def __call__(self, event: Event) -> None:
        try:
            if isinstance(event, RunStart):
                self.is_on = True
                run = Run(event.folder)
                key = f"{run.folder.name}-{(run.environment or {}).get('started', '')}"
                settings = dict(_flat(run.recipe.model_dump(mode="json")))
                self.tracker.start(run, key, settings, event.step)
            elif self.is_on:
                self._log(event)
        except Exception as error:  # a network, a disk, a server: nothing that the run needs
            self.is_on = False
            reason = one_line(str(error), 300) or type(error).__name__
            self.on_event(Message(f"{self.name} ends, the run goes on: {reason}", "warning"))

    def _log(self, event: Event) -> None:
        match event:
            case StepDone(step=step, steps_per_epoch=steps, loss=loss, lr=lr):
                if step % max(1, steps // POINTS_PER_EPOCH) == 0:
                    self.tracker.log({"loss/step": float(loss), "lr": lr}, step)
            case EpochDone(row):
                self.tracker.log(_epoch_values(row), row.step)
            case RunEnd(folder):
                self.is_on = False
                run = Run(folder)
                paths = {name: folder / f"{name}.png" for name in PICTURES}
                pictures = {name: path for name, path in paths.items() if path.is_file()}
                self.tracker.end(_result(run), pictures)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a recipe by their dotted names; lists as text."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            plain = isinstance(value, bool | int | float | str)
            yield f"{prefix}{name}", value if plain else str(value)


def _epoch_values(row: EpochRow) -> dict[str, float]:
    values = {
        "loss/train": row.train_loss,
        "acc/train": row.train_accuracy,
        "loss/val": row.val_loss,
        "acc/val": row.val_accuracy,
        "images_per_sec": row.images_per_sec,
        "epoch": row.epoch,
    }
    return {name: value for name, value in values.items() if value is not None}


def _result(run: Run) -> dict[str, float]:
    """Return the figures of a finished run; none of one that was stopped."""
    if run.summary is None or run.summary.test is None:
        return {}
    test = run.summary.test
    return {"test/acc": test.accuracy.value, "test/loss": test.loss}


class _TensorBoard:
    """Event files in the folder `tensorboard` of the run."""

    def __init__(self) -> None:
        self.writer_class = importlib.import_module("torch.utils.tensorboard").SummaryWriter

    def start(self, run: Run, key: str, settings: Mapping[str, Any], step: int) -> None:
        self.settings = settings
        self.writer = self.writer_class(
            str(run.folder / "tensorboard"), purge_step=step + 1 if step else None
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def end(self, result: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        import numpy as np
        from PIL import Image

        for name, path in pictures.items():
            with Image.open(path) as picture:
                self.writer.add_image(name, np.asarray(picture.convert("RGB")), dataformats="HWC")
        if result:
            self.writer.add_hparams(dict(self.settings), dict(result), run_name=".")
        self.writer.close()


class _Wandb:
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in the run folder."""

    def __init__(self) -> None:
        self.wandb = importlib.import_module("wandb")

    def start(self, run: Run, key: str, settings: Mapping[str, Any], step: int) -> None:
        self.run = self.wandb.init(
            project=PROJECT,
            name=run.folder.name,
            id=_identifier(key),
            resume="allow",
            config=dict(settings),
            dir=str(run.folder),
            settings=self.wandb.Settings(silent=True),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def end(self, result: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        self.run.log({name: self.wandb.Image(str(path)) for name, path in pictures.items()})
        self.run.summary.update(dict(result))
        self.run.finish()


class _MLflow:
    """A run of MLflow, in the store of MLFLOW_TRACKING_URI; by default ./mlflow.db."""

    def __init__(self) -> None:
        self.client = importlib.import_module("mlflow").MlflowClient()

    def start(self, run: Run, key: str, settings: Mapping[str, Any], step: int) -> None:
        experiment = self.client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment else self.client.create_experiment(PROJECT)
        earlier = self.client.search_runs([number], f"tags.resight = '{_identifier(key)}'")
        if earlier:
            self.id = earlier[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
            return
        tags = {"resight": _identifier(key), "folder": str(run.folder)}
        self.id = self.client.create_run(number, run_name=run.folder.name, tags=tags).info.run_id
        for name, value in settings.items():
            self.client.log_param(self.id, name, value)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.client.log_metric(self.id, name, value, step=step)

    def end(self, result: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        for name, value in result.items():
            self.client.log_metric(self.id, name, value)
        for path in pictures.values():
            self.client.log_artifact(self.id, str(path))
        self.client.set_terminated(self.id, "FINISHED" if result else "KILLED")


class _Trackio:
    """A run of Trackio, in its own store on this machine."""

    def __init__(self) -> None:
        self.trackio = importlib.import_module("trackio")

    def start(self, run: Run, key: str, settings: Mapping[str, Any], step: int) -> None:
        self.run = self.trackio.init(
            PROJECT, name=_identifier(key), config=dict(settings), resume="allow", embed=False
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def end(self, result: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        images = {name: self.trackio.Image(str(path)) for name, path in pictures.items()}
        self.run.log({**result, **images})
        self.run.finish()


def _identifier(key: str) -> str:
    """Return a key in the letters that every tracker takes."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in key)[-120:]


TRACKERS: dict[str, Callable[[], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _MLflow,
    "trackio": _Trackio,
}
