"""The worker processes of a run on several devices, from its first step to its last.

The process that a person started is rank 0: it alone saves, draws and prints. The worker processes
receive the run as it stands, take the same steps on other shares of the batches, and keep nothing.
Rank 0 writes a byte to their standard input for each step, so that all ranks take the same steps;
standard input closes when rank 0 finishes, stops or dies, and then the worker processes end.
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
from ..files import temporary_path
from ..recipe import Recipe
from .distributed import ExchangeFailed, Rank
from .loop import deterministic_mode, fit
from .setup import TrainSetup
from .state import TrainData, init_state

EXCHANGE_SECS = 300  # by how much one device may be behind another in a step
LEAVE_SECS = 10.0  # for a worker process to leave when rank 0 has left
LOST_SECS = 5.0  # from a broken connection to the end of the process that broke it
PEER_LOST = 3  # exit code of a worker process that only noticed that another rank is gone

WorkerProcess = subprocess.Popen[bytes]


def fit_on_devices(setup: TrainSetup, devices: int) -> Generator[StepDone | EpochDone, None, None]:
    """Train as `fit` does, each batch shared by `devices`; close the generator to end the workers.

    On CUDA rank r has device r. On a CPU the ranks divide torch's threads among them. At the end,
    also after an exception, the worker processes are gone and the threads are as before.

    Raises:
        ResightError: a worker process ended early; the message has the last line of its log.
        Diverged: as `fit`.
    """
    if devices == 1:
        yield from fit(setup.state, setup.recipe, setup.splits)
        return
    device, rank = setup.splits.train.images.device, Rank(0, devices)
    with ExitStack() as stack:
        prefix = f"{temporary_path(Path('resight')).name}-"  # by which a later start clears it
        temporary = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        _write_run(setup, folder / "run.pt")
        if device.type == "cpu":
            threads = torch.get_num_threads()
            stack.callback(torch.set_num_threads, threads)
            torch.set_num_threads(max(1, threads // devices))
        workers: list[WorkerProcess] = []
        stack.callback(_end, workers)
        workers.extend(_start(folder, Rank(index, devices), device) for index in range(1, devices))
        if not all(worker.stdout and worker.stdout.read(1) for worker in workers):
            raise _early_end(workers, folder)
        with suppress(OSError):  # Windows keeps what is still open
            (folder / "run.pt").unlink()
        stack.enter_context(_group(folder, rank, device))
        stack.callback(_close_inputs, workers)  # before the group is left, which all do together
        steps = fit(setup.state, setup.recipe, setup.splits, rank=rank)
        events = stack.enter_context(closing(steps))
        while True:
            try:
                for worker in workers:
                    assert worker.stdin is not None
                    worker.stdin.write(b".")  # another step
                event = next(events, None)
            except (ExchangeFailed, BrokenPipeError) as error:
                raise _early_end(workers, folder) from error
            if event is None:
                return
            yield event


def _write_run(setup: TrainSetup, file: Path) -> None:
    """Write all that a worker process needs: recipe, splits without ids, module and state."""
    data = setup.splits
    cpu = torch.device("cpu")

    def without_ids(split: Split) -> Split:
        return Split(split.images.to(cpu), split.labels.to(cpu), ("",) * len(split))

    val = data.val and without_ids(data.val)
    splits = TrainData(without_ids(data.train), val, data.stats, data.classes)
    try:
        torch.save((setup.recipe, splits, setup.state.model, setup.state.state_dict()), file)
    except (OSError, RuntimeError) as error:  # torch's writer has a RuntimeError for a full disk
        raise ResightError(
            f"cannot write {file}, which gives the run to the worker processes ({error}); make "
            "room there, or set TMPDIR to another folder"
        ) from error


def _start(folder: Path, rank: Rank, device: torch.device) -> WorkerProcess:
    paths = [part or os.getcwd() for part in sys.path if isinstance(part, str)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(torch.get_num_threads() if device.type == "cpu" else 1),
    }
    arguments = [str(folder), str(rank.index), str(rank.count), device.type]
    with _log(folder, rank.index).open("wb") as log:
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
def _group(folder: Path, rank: Rank, device: torch.device) -> Iterator[None]:
    """Join the group of all ranks, which meet by a file; at the end they leave it together."""
    hook, complete = sys.excepthook, False
    cuda = device.type == "cuda"
    with torch.cuda.device(rank.index) if cuda else nullcontext():
        with _loopback():
            torch.distributed.init_process_group(
                "nccl" if cuda else "gloo",
                store=torch.distributed.FileStore(str(folder / "meet"), rank.count),  # type: ignore[attr-defined]
                rank=rank.index,
                world_size=rank.count,
                timeout=timedelta(seconds=EXCHANGE_SECS),
            )
        try:
            yield
            complete = True
        except GeneratorExit:  # between two steps
            complete = True
            raise
        finally:
            if cuda and not complete:  # to leave in order would wait for a rank that is gone
                torch.distributed.distributed_c10d._abort_process_group()
            else:
                torch.distributed.destroy_process_group()
            sys.excepthook = hook  # torch puts [rank0] before every traceback


@contextmanager
def _loopback() -> Iterator[None]:
    """Have gloo listen on the loopback device; this machine's name may not resolve to it."""
    name, loopback = "GLOO_SOCKET_IFNAME", {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    if loopback is None or name in os.environ:
        yield
        return
    os.environ[name] = loopback
    try:
        yield
    finally:
        del os.environ[name]


def _close_inputs(workers: Sequence[WorkerProcess]) -> None:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()


def _end(workers: Sequence[WorkerProcess]) -> None:
    _close_inputs(workers)
    for worker in workers:
        try:
            worker.wait(2 * LEAVE_SECS)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        assert worker.stdout is not None
        worker.stdout.close()


def _early_end(workers: Sequence[WorkerProcess], folder: Path) -> ResightError:
    """The error that names the worker process which ended early, and the last line of its log."""
    until = time.monotonic() + LOST_SECS
    codes: dict[int, int] = {}
    while time.monotonic() < until and not set(codes.values()) - {PEER_LOST}:
        polls = {index: worker.poll() for index, worker in enumerate(workers, 1)}
        codes = {index: code for index, code in polls.items() if code}
        time.sleep(0.05)
    if not codes:
        return ResightError(
            "the processes that share each batch have lost their connection; resume the run"
        )
    index = min(codes, key=lambda index: codes[index] == PEER_LOST)
    return ResightError(
        f"the worker process of rank {index} of {len(workers) + 1} ended early "
        f"(exit code {codes[index]}): {_last_error(_log(folder, index))}"
    )


def _log(folder: Path, index: int) -> Path:
    return folder / f"rank{index}.log"


def _last_error(log: Path) -> str:
    """The line of a log that names its last exception, or else its last line."""
    text = log.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = [line.strip() for line in reversed(text) if line.strip()]
    errors = (line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit)\b", line))
    return next(errors, lines[0] if lines else "its log is empty")


def _work(folder: Path, rank: Rank, kind: str) -> int:
    """Be a worker process: take each step that rank 0 takes, and return the exit code."""
    ready = os.dup(1)
    os.dup2(2, 1)  # what a module prints goes to the log; only one byte of the pipe is read
    for number in (signal.SIGINT, signal.SIGTERM):  # a person's request to stop is for rank 0
        signal.signal(number, signal.SIG_IGN)
    steps: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(steps,), daemon=True).start()
    device = torch.device("cpu")
    if kind == "cuda":
        device = torch.device("cuda", rank.index)
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    recipe: Recipe
    data: TrainData
    recipe, data, model, saved = torch.load(  # written by `_write_run`
        folder / "run.pt", weights_only=False, mmap=True, map_location="cpu"
    )
    val = data.val and data.val.to(device)
    data = TrainData(data.train.to(device), val, data.stats, data.classes)
    state = init_state(recipe, data, model)
    state.load_state_dict(saved)
    os.write(ready, b".")
    try:
        with (
            suppress(Diverged),  # rank 0 reports it
            deterministic_mode(recipe.training.deterministic),
            _group(folder, rank, device),
            closing(fit(state, recipe, data, rank=rank)) as events,
        ):
            while steps.get():
                next(events, None)
    except ExchangeFailed:
        return PEER_LOST
    return 0


def _listen(steps: "queue.SimpleQueue[bytes]") -> None:
    """Queue the bytes of rank 0; the input ends when rank 0 has left or died."""
    while step := os.read(0, 1):
        steps.put(step)
    steps.put(step)
    time.sleep(LEAVE_SECS)
    os._exit(PEER_LOST)  # in the middle of a step that rank 0 does not take


if __name__ == "__main__":
    sys.exit(_work(Path(sys.argv[1]), Rank(int(sys.argv[2]), int(sys.argv[3])), sys.argv[4]))
