"""A run that is killed or stopped, and resumed, ends exactly as one that was not."""

import itertools
import json
import os
import pickle
import random
import signal
import time
from multiprocessing.synchronize import Semaphore
from pathlib import Path

import pytest
from safetensors.torch import load_file

import resight
from processes import forkserver
from resight.errors import ResightError, UsageError
from resight.events import EpochDone, StepDone
from resight.recipe.toml import with_overrides
from resight.records import EpochRow

pytestmark = pytest.mark.slow

# Dropout, averaging, momentum, a schedule that looks back, and 33 steps: all there is to restore.
SETTINGS = [
    "model.widths=[8,8,16]",
    "explain={report=false,pictures=false}",
    "training.checkpoint_minutes=1e-6",
    "model.dropout=0.2",
    "training.ema_decay=0.9",
    "schedule.name=plateau",
    "schedule.patience=0",
    "schedule.epochs=3",
    "augment.crop.pad=2",
]
STEP_SECS = 0.02  # that a step takes at least where a process is killed


def recipe() -> resight.Recipe:
    return with_overrides(resight.load_recipe("digits"), SETTINGS)


def outcome(folder: Path) -> tuple[object, ...]:
    """All that a run leaves behind, without the times."""
    rows = [
        {k: v for k, v in vars(row).items() if k not in ("train_secs", "images_per_sec")}
        for row in read_history(folder)
    ]
    weights = {k: v.tolist() for k, v in load_file(folder / "best.safetensors").items()}
    return rows, weights, (folder / "predictions.csv").read_text()


def read_history(folder: Path) -> list[EpochRow]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [EpochRow(**json.loads(line)) for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """The outcome of the run that nobody disturbed."""
    return outcome(resight.train(recipe(), out=tmp_path_factory.mktemp("whole")).folder)


def go_on(folder: Path, steps: Semaphore, *, is_killed: bool) -> None:
    """Begin or resume a run in `folder`, and count its steps; this is all that a process does.

    If it is to be killed, it takes six steps slowly, and then it waits for that.
    """
    taken = itertools.count(1)

    def on_event(event: object) -> None:
        if isinstance(event, StepDone):
            steps.release()
            if is_killed:
                time.sleep(STEP_SECS if next(taken) < 6 else 300)

    if folder.exists():
        resight.resume(folder, on_event=on_event)
    else:
        resight.train(recipe(), out=folder.parent, name=folder.name, on_event=on_event)


def send(number: signal.Signals) -> None:
    """Send this process a signal and wait until it has been handled.

    In a process of many threads another one may take it, and the main thread hears of it later.
    """
    handler = signal.getsignal(number)
    os.kill(os.getpid(), number)
    while signal.getsignal(number) is handler:  # the first signal makes way for the second
        time.sleep(0.001)


def test_killed_five_times_at_random_points_it_ends_the_same(
    tmp_path: Path, whole: tuple[object, ...]
) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    processes = forkserver()
    for is_killed in (True, True, True, True, True, False):
        steps = processes.Semaphore(0)
        process = processes.Process(
            target=go_on, args=(tmp_path / "run", steps), kwargs={"is_killed": is_killed}
        )
        process.start()
        if is_killed:
            for _ in range(rng.randint(1, 3)):
                assert steps.acquire(timeout=300), f"seed {seed}"
            time.sleep(rng.uniform(0, 3 * STEP_SECS))  # in a step, or while a file is written
            process.kill()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if is_killed else 0), f"seed {seed}"
    assert outcome(tmp_path / "run") == whole, f"seed {seed}"
    assert not list((tmp_path / "run").glob(".*.part*"))  # what a kill left half written is gone


@pytest.mark.parametrize("at_step", [1, 11, 12])
def test_stopped_by_a_signal_and_resumed_it_ends_the_same(
    tmp_path: Path, whole: tuple[object, ...], at_step: int
) -> None:
    def stop(event: object) -> None:
        if isinstance(event, StepDone) and event.step == at_step:
            send(signal.SIGTERM if at_step % 2 else signal.SIGINT)

    run = resight.train(recipe(), out=tmp_path, name="run", on_event=stop)
    assert run.interrupted
    assert run.predictions is None
    assert run.summary.steps == at_step
    assert not (tmp_path / "run" / "predictions.csv").exists()  # the test set was not read
    steps: list[int] = []
    run = resight.resume(
        tmp_path / "run",
        on_event=lambda event: steps.append(event.step) if isinstance(event, StepDone) else None,
    )
    assert steps == list(range(at_step + 1, 34))
    assert not run.interrupted
    assert outcome(tmp_path / "run") == whole


def test_a_second_signal_acts_at_once(tmp_path: Path) -> None:
    def stop(event: object) -> None:
        if isinstance(event, StepDone):
            send(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)  # cut short by the signal

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        resight.train(recipe(), out=tmp_path, name="run", on_event=stop)
    assert signal.getsignal(signal.SIGINT) is before
    assert not resight.resume(tmp_path / "run").interrupted


def stopped_after(epochs: int, out: Path) -> Path:
    def stop(event: object) -> None:
        if isinstance(event, EpochDone) and event.row.epoch == epochs:
            send(signal.SIGINT)

    assert resight.train(recipe(), out=out, name="run", on_event=stop).interrupted
    return out / "run"


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, whole: tuple[object, ...]
) -> None:
    folder = stopped_after(2, tmp_path)
    content = (folder / "last.pt").read_bytes()
    (folder / "last.pt").write_bytes(content[: len(content) // 2])
    notes: list[object] = []
    resight.resume(folder, on_event=notes.append)
    assert "last.pt is damaged and was passed over" in str(notes[0])
    assert outcome(folder) == whole


def test_without_any_readable_checkpoint_it_says_so(tmp_path: Path) -> None:
    folder = stopped_after(1, tmp_path)
    (folder / "last.pt").write_bytes(b"")
    (folder / "previous.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ResightError, match=r"no checkpoint to resume from: .*last\.pt is damaged"):
        resight.resume(folder)


def test_a_hostile_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path / 'owned'}",)

    folder = stopped_after(1, tmp_path)
    for name in ("last.pt", "previous.pt"):
        (folder / name).write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ResightError, match="no checkpoint to resume from"):
        resight.resume(folder)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [None, "{", '{"torch": "2.8", "threads": 64}'])
def test_where_a_run_went_on_is_written_beside_where_it_began(
    tmp_path: Path, content: str | None
) -> None:
    def stop(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 1:
            send(signal.SIGINT)

    folder = resight.train(recipe(), out=tmp_path, name="run", on_event=stop).folder
    file = folder / "env.json"
    if content:
        file.write_text(content, encoding="utf-8")
    first = json.loads(file.read_text(encoding="utf-8")) if content != "{" else {}
    resight.resume(folder, on_event=stop)
    now = json.loads(file.read_text(encoding="utf-8"))
    (resumed,) = now.pop("resumed")
    assert now == first
    assert "started" in resumed
    assert ("torch" in resumed) == (content is not None)  # what is as it was is not repeated


def test_a_recipe_edited_since_is_refused(tmp_path: Path) -> None:
    folder = stopped_after(1, tmp_path)
    file = folder / "recipe.toml"
    file.write_text(file.read_text().replace("patience = 0", "patience = 7"))
    with pytest.raises(UsageError, match=r"changed since the run began \(schedule\.patience\)"):
        resight.resume(folder)


def test_other_data_is_refused(tmp_path: Path, tiny: resight.Dataset) -> None:
    folder = stopped_after(1, tmp_path)
    with pytest.raises(UsageError, match="the data in digits changed since the run began"):
        resight.resume(folder, data=tiny)


def test_without_a_name_the_newest_run_is_resumed(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    earlier = stopped_after(1, out).rename(out / "earlier")
    run = stopped_after(1, out)
    (earlier / "report.html").write_text("looked at again, but not trained")
    os.utime(earlier / "last.pt", (1, 1))
    assert resight.resume(out=out).folder == run
    with pytest.raises(UsageError, match="there is no run in"):
        resight.resume(out=tmp_path / "nowhere")
