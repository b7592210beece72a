"""The other processes of a run on several devices, from before its first step to after its last.

The process that a person started is rank 0: it alone saves, draws and says anything. The others are
replicas. They are handed the run as it stands, take the same steps on other shares of the batches,
and have nothing to lose. Through standard input they are told of each step, so that all begin the
same ones; it closes when rank 0 is done, stops or dies, and then they end.
"""

import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed

from ..datasets import Split
from ..errors import Diverged, ResightError
from ..events import EpochDone, StepDone
from ..recipe import Recipe
from .distributed import ExchangeFailed, Rank
from .loop import deterministic_mode, fit
from .setup import TrainSetup
from .state import TrainData, init_state

EXCHANGE_SECS = 300  # by how much one device may be behind another in a step
LEAVE_SECS = 10.0  # for a replica to leave when rank 0 has
LOST_SECS = 5.0  # from a broken connection to the end of the process that broke it
CONSEQUENCE = 3  # exit code of a replica that only noticed that another is gone

WorkerProcess = subprocess.Popen[bytes]


def fit_on_devices(setup: TrainSetup, devices: int) -> Generator[StepDone | EpochDone, None, None]:
    """`fit`, each batch shared by that many devices; close it to be left alone.

    On CUDA rank r has device r. On a CPU they share the cores: torch's threads are divided among
    them. At the end, also after an exception, they are gone and the threads are as before.

    Raises:
        ResightError: a process ended before its time; what it said last is in the line.
        Diverged: as `fit`.
    """
    if devices == 1:
        yield from fit(setup.state, setup.recipe, setup.splits)
        return
    device, rank = setup.splits.train.images.device, Rank(0, devices)
    with ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="resight-", ignore_cleanup_errors=True)
        place = Path(stack.enter_context(folder))
        _hand_out(setup, place / "run.pt")
        if device.type == "cpu":
            threads = torch.get_num_threads()
            stack.callback(torch.set_num_threads, threads)
            torch.set_num_threads(max(1, threads // devices))
        others: list[WorkerProcess] = []
        stack.callback(_end, others)
        others.extend(_started(place, Rank(index, devices), device) for index in range(1, devices))
        if not all(other.stdout and other.stdout.read(1) for other in others):
            raise _loss(others, place)
        with suppress(OSError):  # Windows keeps what is still open
            (place / "run.pt").unlink()
        stack.enter_context(_group(place, rank, device))
        stack.callback(_let_go, others)  # before the group is left, which all do together
        steps = fit(setup.state, setup.recipe, setup.splits, rank=rank)
        events = stack.enter_context(closing(steps))
        while True:
            try:
                for other in others:
                    assert other.stdin is not None
                    other.stdin.write(b".")  # another step
                event = next(events, None)
            except (ExchangeFailed, BrokenPipeError) as error:
                raise _loss(others, place) from error
            if event is None:
                return
            yield event


def _hand_out(setup: TrainSetup, file: Path) -> None:
    """Write down all that a replica needs: recipe, splits without ids, module and state."""
    data = setup.splits
    cpu = torch.device("cpu")

    def bare(split: Split) -> Split:
        return Split(split.images.to(cpu), split.labels.to(cpu), ("",) * len(split))

    kept = TrainData(bare(data.train), data.val and bare(data.val), data.stats, data.classes)
    try:
        torch.save((setup.recipe, kept, setup.state.model, setup.state.state_dict()), file)
    except (OSError, RuntimeError) as error:  # torch's writer has a RuntimeError for a full disk
        raise ResightError(
            f"cannot write {file}, which hands the run to other processes ({error}); make room "
            "there, or set TMPDIR to another folder"
        ) from error


def _started(place: Path, rank: Rank, device: torch.device) -> WorkerProcess:
    paths = [part or os.getcwd() for part in sys.path if isinstance(part, str)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(torch.get_num_threads() if device.type == "cpu" else 1),
    }
    arguments = [str(place), str(rank.index), str(rank.count), device.type]
    with _log(place, rank.index).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "resight.training.launcher", *arguments],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C is for rank 0; on Windows, the next line
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )


@contextmanager
def _group(place: Path, rank: Rank, device: torch.device) -> Iterator[None]:
    """A group of all ranks, which find each other by a file; at the end they leave it together."""
    hook, whole = sys.excepthook, False
    cuda = device.type == "cuda"
    with torch.cuda.device(rank.index) if cuda else nullcontext():
        with _by_loopback():
            torch.distributed.init_process_group(
                "nccl" if cuda else "gloo",
                store=torch.distributed.FileStore(str(place / "meet"), rank.count),  # type: ignore[attr-defined]
                rank=rank.index,
                world_size=rank.count,
                timeout=timedelta(seconds=EXCHANGE_SECS),
            )
        try:
            yield
            whole = True
        except GeneratorExit:  # between two steps
            whole = True
            raise
        finally:
            if cuda and not whole:  # to leave in order would wait for who is not there
                torch.distributed.distributed_c10d._abort_process_group()
            else:
                torch.distributed.destroy_process_group()
            sys.excepthook = hook  # torch puts [rank0] before every traceback


@contextmanager
def _by_loopback() -> Iterator[None]:
    """Have gloo listen on this machine alone; by its name, as is usual, may lead nowhere."""
    name, loopback = "GLOO_SOCKET_IFNAME", {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    if loopback is None or name in os.environ:
        yield
        return
    os.environ[name] = loopback
    try:
        yield
    finally:
        del os.environ[name]


def _let_go(others: Sequence[WorkerProcess]) -> None:
    for other in others:
        assert other.stdin is not None
        other.stdin.close()


def _end(others: Sequence[WorkerProcess]) -> None:
    _let_go(others)
    for other in others:
        try:
            other.wait(2 * LEAVE_SECS)
        except subprocess.TimeoutExpired:
            other.kill()
            other.wait()
        assert other.stdout is not None
        other.stdout.close()


def _loss(others: Sequence[WorkerProcess], place: Path) -> ResightError:
    """The error that names the process which ended before its time, and what it said last."""
    until = time.monotonic() + LOST_SECS
    codes: dict[int, int] = {}
    while time.monotonic() < until and not set(codes.values()) - {CONSEQUENCE}:
        ended = {index: other.poll() for index, other in enumerate(others, 1)}
        codes = {index: code for index, code in ended.items() if code}
        time.sleep(0.05)
    if not codes:
        return ResightError("the processes that share each batch have lost touch; resume the run")
    index = min(codes, key=lambda index: codes[index] == CONSEQUENCE)
    return ResightError(
        f"the process of rank {index} of {len(others) + 1} ended before its time "
        f"(exit code {codes[index]}): {_last_words(_log(place, index))}"
    )


def _log(place: Path, index: int) -> Path:
    return place / f"rank{index}.log"


def _last_words(log: Path) -> str:
    """The line of a log that names its last exception, or else its last."""
    said = log.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = [line.strip() for line in reversed(said) if line.strip()]
    named = (line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit)\b", line))
    return next(named, lines[0] if lines else "it said nothing")


def _serve(place: Path, rank: Rank, kind: str) -> int:
    """Be one of the others: take the steps one is told of, and keep nothing."""
    ready = os.dup(1)
    os.dup2(2, 1)  # what a module prints goes to the log; nobody reads the pipe but for one byte
    for number in (signal.SIGINT, signal.SIGTERM):  # a person's wish to stop is for rank 0
        signal.signal(number, signal.SIG_IGN)
    told: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(told,), daemon=True).start()
    device = torch.device("cpu")
    if kind == "cuda":
        device = torch.device("cuda", rank.index)
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    recipe: Recipe
    data: TrainData
    recipe, data, model, saved = torch.load(  # of our own making
        place / "run.pt", weights_only=False, mmap=True, map_location="cpu"
    )
    val = data.val and data.val.to(device)
    data = TrainData(data.train.to(device), val, data.stats, data.classes)
    state = init_state(recipe, data, model)
    state.load_state_dict(saved)
    os.write(ready, b".")
    try:
        with (
            suppress(Diverged),  # rank 0 says so
            deterministic_mode(recipe.training.deterministic),
            _group(place, rank, device),
            closing(fit(state, recipe, data, rank=rank)) as events,
        ):
            while told.get():
                next(events, None)
    except ExchangeFailed:
        return CONSEQUENCE
    return 0


def _listen(told: "queue.SimpleQueue[bytes]") -> None:
    """Pass on what rank 0 says; it says nothing more when it has left, or is no more."""
    while step := os.read(0, 1):
        told.put(step)
    told.put(step)
    time.sleep(LEAVE_SECS)
    os._exit(CONSEQUENCE)  # in the middle of a step that rank 0 does not take


if __name__ == "__main__":
    sys.exit(_serve(Path(sys.argv[1]), Rank(int(sys.argv[2]), int(sys.argv[3])), sys.argv[4]))
