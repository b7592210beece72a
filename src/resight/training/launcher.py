"""A run of several processes: those that torchrun started, or those that this process starts.

Rank 0 prepares, saves, shows and prints. It puts the resolved recipe into the store where all ranks
meet. The others prepare the same data, receive the state, and take the same steps on other shares
of the batches until rank 0 ends the run. They touch no run folder, which may be on another machine.
"""

import io
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing.spawn import ProcessContext, ProcessException, start_processes

from ..datasets import Dataset
from ..errors import Diverged, ResightError, UsageError
from ..events import ignore_events
from ..recipe.toml import from_toml, to_toml
from ..text import one_line
from .device import packed
from .distributed import SINGLE_PROCESS, Rank
from .loop import deterministic_mode, fit
from .setup import TrainSetup, prepare
from .signals import stop_requested, warning_ignored

EXCHANGE = timedelta(seconds=50)  # by how much one rank may be behind another in a step
LOST_SECS = 5.0  # to find the process that died, before those that lost it end as well
POLL_SECS = 0.05
END_SECS = 2.0  # for a process that failed to end by itself
LEAVE_SECS = 20.0  # for another rank to leave when the run or it has ended

Poll = Callable[[], object]


@contextmanager
def lead(
    setup: TrainSetup, folder: Path, devices: int, *, data: object, model: nn.Module | None
) -> Iterator[Rank]:
    """Be rank 0 of a run: hand it to the other ranks, which leave when the block ends.

    They are those of torchrun, or else processes that are started here, which end with the block.

    Raises:
        ResightError: another rank ended early; the message names it.
    """
    if devices == 1:
        yield SINGLE_PROCESS
        return
    with ExitStack() as stack:
        rank = Rank(0, devices)
        poll: Poll = bool
        if Rank.of_environment().count > 1:
            stack.enter_context(_named_failures(partial(time.sleep, LOST_SECS)))
            store = _meeting()
        else:
            store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            workers = stack.enter_context(_workers(store.port, devices, setup, data, model))
            find = partial(workers.join, LEAVE_SECS, grace_period=0.1)
            stack.enter_context(_named_failures(find))
            poll = partial(workers.join, 0)
        store = _attempt(store, rank, poll)
        run = {"folder": str(folder), "recipe": to_toml(setup.recipe), "data": _about(setup)}
        store.set("run", json.dumps(run))
        stack.enter_context(_group(store, rank, setup, poll))
        yield rank
        store.set("end", "")


def follow(
    rank: Rank, *, data: object, model: nn.Module | None, device: str, offline: bool
) -> tuple[Path, bool]:
    """Be another rank of a run until rank 0 ends it; return its folder, and if it was interrupted.

    Raises:
        UsageError: this rank reads other data than rank 0.
        ResightError: another rank ended early.
    """
    with _named_failures(partial(time.sleep, LOST_SECS)):
        store = _attempt(_meeting(), rank)
        _wait(store, ["run"])
        run = json.loads(store.get("run"))
        if run["recipe"] is None:
            return Path(run["folder"]), False
        setup = prepare(
            from_toml(run["recipe"], origin="rank 0"),
            data=data if isinstance(data, Dataset) else None,  # a path or name is in the recipe
            model=model,
            device=device,
            offline=offline,
            on_event=ignore_events,
            fresh=False,
        )
        if _about(setup) != run["data"]:
            raise UsageError(
                f"rank {rank.index} reads other data from {setup.recipe.data.source} than rank 0; "
                "give every machine the same files, at the same place"
            )
        training = setup.recipe.training
        with (
            _group(store, rank, setup),
            deterministic_mode(training.deterministic),
            warning_ignored(),  # outside of the steps
        ):
            with (
                suppress(Diverged),  # which rank 0 reports
                stop_requested(patient=True) as stop,
                closing(fit(setup.state, setup.recipe, setup.splits, rank=rank)) as events,
            ):
                for _ in events:
                    if rank.any(stop()):
                        break
            _wait(store, ["end"])
        return Path(run["folder"]), len(setup.state.rows) < setup.recipe.schedule.epochs


def tell_finished(folder: Path) -> None:
    """Tell the other ranks of torchrun, if any, that the run in the folder needs no step."""
    if (rank := Rank.of_environment()).count > 1:
        run = {"folder": str(folder), "recipe": None}
        _attempt(_meeting(), rank).set("run", json.dumps(run))


@contextmanager
def _workers(
    port: int, devices: int, setup: TrainSetup, data: object, model: nn.Module | None
) -> Iterator[ProcessContext]:
    """Start the other ranks of a run, which share its threads; they are gone at the end."""
    threads, name = torch.get_num_threads(), "GLOO_SOCKET_IFNAME"
    interface = os.environ.get(name)
    torch.set_num_threads(share := max(1, threads // devices))
    if sys.platform == "linux" and interface is None:
        os.environ[name] = "lo"  # nobody else needs to reach them
    if isinstance(data, Dataset):  # its tensors go into memory that is shared
        train = replace(data.train, originals=None)
        val = data.val and replace(data.val, originals=None)
        data = replace(data, train=train, val=val, test=train)  # rank 0 alone tests
    else:
        data = None
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(devices)}
    arguments = (place, share, setup.device.type, data, model and packed(model, devices))
    workers = start_processes(_work, arguments, devices - 1, join=False)  # type: ignore[no-untyped-call]
    try:
        yield workers
        for process in workers.processes:
            process.join(LEAVE_SECS)
    finally:
        for process in workers.processes:
            process.kill()
            process.join()
        torch.set_num_threads(threads)
        if interface is None:
            os.environ.pop(name, None)


def _work(
    index: int, place: dict[str, str], threads: int, kind: str, data: object, model: bytes | None
) -> None:
    """Be the process that `_workers` has started for the rank index + 1."""
    os.environ.update(place, RANK=str(index + 1))
    torch.set_num_threads(threads)
    network = None
    if model is not None:
        network = torch.load(io.BytesIO(model), map_location="cpu", weights_only=False)
    device = f"cuda:{index + 1}" if kind == "cuda" else kind
    try:
        with warning_ignored():  # rank 0 decides what comes of it, but in the steps
            follow(Rank.of_environment(), data=data, model=network, device=device, offline=True)
    except BaseException:  # torch writes down what it was; then nothing may keep the process
        end = threading.Timer(END_SECS, os._exit, (1,))
        end.daemon = True
        end.start()
        raise


def _meeting() -> Store:
    """Return the store in which all ranks meet, where the variables of torchrun say."""
    store: Store = next(iter(rendezvous("env://")))[0]
    return store


def _attempt(store: Store, rank: Rank, poll: Poll = bool) -> Store:
    """Return the part of the store that the ranks of this attempt share, when all are there.

    torchrun keeps a store when it starts the ranks again, with what earlier ones have written. So
    rank 0 gives each attempt a name, and confirms the names that its ranks have given themselves.
    """
    own = uuid.uuid4().hex
    if rank.index == 0:
        keys = [f"{own}/{index}" for index in range(1, rank.count)]
        store.set("attempt", own)
        _wait(store, keys, poll)
        store.set(f"{own}/ranks", " ".join(store.get(key).decode() for key in keys))
        return PrefixStore(own, store)
    ranks = attempt = ""
    while own not in ranks:
        time.sleep(POLL_SECS)
        if store.check(["attempt"]):
            attempt = store.get("attempt").decode()
            store.set(f"{attempt}/{rank.index}", own)
        if store.check([f"{attempt}/ranks"]):
            ranks = store.get(f"{attempt}/ranks").decode()
    return PrefixStore(attempt, store)


def _wait(store: Store, keys: list[str], poll: Poll = bool) -> None:
    """Wait until the ranks have written all keys, however long one may prepare its data."""
    while not store.check(keys):
        poll()
        time.sleep(POLL_SECS)


@contextmanager
def _group(store: Store, rank: Rank, setup: TrainSetup, poll: Poll = bool) -> Iterator[None]:
    """Join the group of all ranks for the block, with the state of rank 0."""
    cuda, hook = setup.device.type == "cuda", sys.excepthook
    if cuda:
        torch.cuda.set_device(setup.device)
    store.set(f"ready{rank.index}", "")
    _wait(store, [f"ready{index}" for index in range(rank.count)], poll)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=PrefixStore("group", store),
        rank=rank.index,
        world_size=rank.count,
        timeout=EXCHANGE,
    )
    try:
        torch.save(setup.state.state_dict() if rank.index == 0 else None, content := io.BytesIO())
        dist.broadcast_object_list(box := [content.getvalue()], device=torch.device("cpu"))
        if rank.index:
            content = io.BytesIO(box[0])
            setup.state.load_state_dict(torch.load(content, map_location="cpu", weights_only=True))
        yield
    except BaseException:
        if rank.index == 0:  # another rank ends now: leaving may wait for those that wait for it
            dist.destroy_process_group()
        raise
    else:
        dist.destroy_process_group()
    finally:
        sys.excepthook = hook  # torch puts [rank0] before every traceback


def _about(setup: TrainSetup) -> str:
    """By what ranks compare their data: sizes, classes and statistics."""
    data = setup.splits
    return repr((len(data.train), data.val and len(data.val), data.classes, data.stats))


@contextmanager
def _named_failures(find: Poll) -> Iterator[None]:
    """Say which process died when this one loses it, and give torchrun the error of this one.

    find: waits for the process that died, and raises if it knows which one.
    """
    try:
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            find()
            problem = f"another process of this run is gone ({one_line(str(error), 200)})"
            raise ResightError(f"{problem}; what started the processes says which") from error
    except ProcessException as error:
        cause = str(error).strip().rpartition("\n")[2]
        line = f"rank {error.error_index + 1} ended early: {cause}; resume the run"
        raise ResightError(line) from error
    except Exception as error:
        if not isinstance(error, ResightError):
            get_error_handler().record_exception(error)
        raise
