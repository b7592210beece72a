"""Several processes learn what one does, stop and go on as one does, and leave nothing behind.

They are real processes, which meet over gloo; a GPU is not needed.
"""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from test_resume import outcome, read_history
from torch import nn
from torch.multiprocessing.spawn import start_processes

import resight
from rank_scenarios import (
    DEFAULTS,
    NETWORKS,
    Branching,
    be_rank,
    first_loss,
    first_norm,
    recipe,
    setup,
    train,
)
from resight.errors import ResightError, UsageError
from resight.events import Progress, StepDone
from resight.recipe.toml import with_overrides
from resight.training.batches import train_batches
from resight.training.device import check_devices, num_cores, packed
from resight.training.distributed import SINGLE_PROCESS, Rank
from resight.training.setup import prepare

pytestmark = pytest.mark.slow

needs_two_cores = pytest.mark.skipif(num_cores() < 2, reason="needs two cores")


@settings(deadline=None)
@given(n=st.integers(1, 600), count=st.integers(1, 9))
def test_shares_are_the_whole_batch_and_as_even_as_can_be(n: int, count: int) -> None:
    shares = [list(range(n))[Rank(index, count).share(n)] for index in range(count)]
    if n < 2 * count and count > 1:
        assert shares == [list(range(n))] * count
        assert Rank(0, count).copies(n) == count
        assert Rank(0, count).smallest_share(n) == n
    else:
        whole = torch.arange(n)
        assert shares == [part.tolist() for part in whole.tensor_split(count)]
        assert Rank(0, count).copies(n) == 1
        assert Rank(0, count).smallest_share(n) == min(map(len, shares))


@pytest.mark.parametrize("mixing", [(), ("augment.mixup={}", "augment.cutmix={}")])
def test_the_shares_of_a_batch_are_augmented_as_the_batch_is(tiny, mixing) -> None:
    everything = with_overrides(
        resight.load_recipe("resnet18-plateau"),
        ["augment.cutout.max_px=8", "augment.crop.pad=2", *mixing],
    )
    spec = everything.augment  # colors, angles, crops, flips and holes
    stats = prepare(recipe(), data=tiny, model=None, **DEFAULTS).splits.stats
    order = {"batch_size": 29, "seed": 3, "epoch": 1}
    whole = list(train_batches(tiny.train, spec, stats, **order))
    parts = [
        list(train_batches(tiny.train, spec, stats, **order, rank=Rank(index, 3)))
        for index in range(3)
    ]
    for (images, labels), *shares in zip(whole[:-1], *(p[:-1] for p in parts), strict=True):
        assert torch.equal(torch.cat([x for x, _ in shares]), images)
        own = [torch.stack([*y]) if mixing else y for _, y in shares]  # labels and shares
        assert torch.equal(torch.cat(own, dim=-1), torch.stack([*labels]) if mixing else labels)
    assert len(whole[-1][0]) == 4
    for part in parts:  # too few to share
        assert torch.equal(part[-1][0], whole[-1][0])


# --- the same as one process ------------------------------------------------------------------


@pytest.fixture(scope="module", params=[2, 4])
def results(request, tiny, tmp_path_factory) -> list[dict]:
    """What each of several ranks found, which one start of the processes serves."""
    folder, count = tmp_path_factory.mktemp("ranks"), request.param
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    multiprocessing.get_context("forkserver").set_forkserver_preload(["rank_scenarios"])
    start_processes(be_rank, (count, store.port, tiny, folder), count, start_method="forkserver")
    return [torch.load(folder / f"{index}.pt") for index in range(count)]


@pytest.mark.parametrize("name", NETWORKS)
def test_ranks_learn_what_one_process_learns(name: str, tiny, results) -> None:
    # A branch is taken by what is in a share, so one process has to divide its batches likewise.
    size = math.ceil(35 / len(results)) if name == "branches" else "none"
    alone = train(setup(name, tiny, f"training.micro_batch={size}"), SINGLE_PROCESS)
    # Muon and batch norm of few images enlarge what rounding leaves, a hundredfold in six steps.
    close = {"atol": 1e-3 if name == "batch norm" else 1e-5, "rtol": 0}
    for other in (result[name] for result in results):
        torch.testing.assert_close(other["gradients"], alone["gradients"], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(other["weights"], alone["weights"], **close)
        torch.testing.assert_close(other["losses"], alone["losses"], **close)
        for (loss, accuracy), (expected, right) in zip(other["val"], alone["val"], strict=True):
            assert loss == pytest.approx(expected, abs=close["atol"])
            assert accuracy == right
        if name != "batch norm":
            assert other["correct"] == alone["correct"]


def test_ranks_agree_on_a_flag_and_draw_their_own_dropout(tiny, results) -> None:
    assert all(result["flags"] == [True, False] for result in results)
    assert results[0]["first loss"] != pytest.approx(first_loss(tiny, SINGLE_PROCESS))


def test_running_statistics_are_the_mean_of_what_each_saw(tiny, results) -> None:
    chosen, count = prepare(recipe(), data=tiny, model=None, **DEFAULTS), len(results)
    network = chosen.state.model.train()
    norm, observed = first_norm(network), []
    norm.register_forward_pre_hook(lambda module, inputs: observed.append(inputs[0]))
    before = norm.running_mean.clone()
    for index in range(count):
        batches = train_batches(
            chosen.splits.train, chosen.recipe.augment, chosen.splits.stats, batch_size=35,
            seed=chosen.recipe.seed, epoch=0, rank=Rank(index, count),
        )  # fmt: skip
        with torch.no_grad():
            network(next(iter(batches))[0])
    mean = sum(images.mean((0, 2, 3)) for images in observed) / count
    for result in results:
        torch.testing.assert_close(result["statistics"], before.lerp(mean, norm.momentum))


def test_resumed_in_the_middle_of_an_epoch_ranks_end_exactly_as_without_a_stop(
    results,
) -> None:
    for whole, resumed in (pair for result in results for pair in result["resumed"]):
        torch.testing.assert_close(resumed, whole, atol=0, rtol=0)


def test_torch_warns_of_nothing(results) -> None:
    assert [result["standard error"] for result in results] == [""] * len(results)


def test_a_rank_whose_weights_differ_is_named(results) -> None:
    for result in results:
        assert "the weights of rank 1 differ from those of the other ranks" in result["problem"]


# --- stopped, killed, and gone on with --------------------------------------------------------

SETTINGS = [
    "model.widths=[8,8,16]",
    "model.dropout=0.2",
    "explain={report=false,pictures=false}",
    "training.micro_batch=none",
    "training.ema_decay=0.9",
    "schedule.name=plateau",
    "schedule.epochs=12",
    "augment.crop.pad=2",
]


def children() -> list[int]:
    """The processes that this process has started for another rank and that still run."""
    tasks = Path("/proc/self/task").glob("*/children")
    pids = [int(pid) for task in tasks for pid in task.read_text().split()]
    return [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def second_rank(out: Path) -> int:
    """The process that torchrun has started as rank 1 of a run under `out`."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = (folder / "environ").read_bytes().split(b"\0")
            if b"RANK=1" in variables and str(out).encode() in (folder / "cmdline").read_bytes():
                return int(folder.name)
    raise ProcessLookupError


def wait_for_epoch(number: int, run: Path) -> None:
    """Wait until a run has finished an epoch."""
    while not (run / "metrics.jsonl").exists() or len(read_history(run)) < number:
        time.sleep(0.01)


@needs_two_cores
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_killed_stopped_and_gone_on_with_it_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    changes = [token for setting in SETTINGS for token in ("--set", setting)]
    place = ["--out", str(tmp_path), "--name", "run", "--resume", "--requeue", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", *torchrun, "-m", "resight", "train", "digits", *changes, *place],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    folder = tmp_path / "run"
    wait_for_epoch(1, folder)
    os.kill(second_rank(tmp_path), signal.SIGKILL)
    wait_for_epoch(len(read_history(folder)) + 1, folder)  # torchrun has started all again
    os.kill(second_rank(tmp_path), signal.SIGUSR1)
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    assert out == ""  # no result yet
    assert errors.count("stopped; go on with: resight resume") == 1  # rank 0 alone says so

    def kill(event: object) -> None:
        if isinstance(event, StepDone):
            os.kill(children()[0], signal.SIGKILL)

    before = (torch.get_num_threads(), sys.excepthook)
    message = r"rank 1 ended early: process 0 terminated with signal SIGKILL; resume the run"
    with pytest.raises(ResightError, match=message):
        resight.resume(folder, device="cpu", on_event=kill)
    assert not children()
    resumed = resight.resume(folder, device="cpu")
    assert (torch.get_num_threads(), sys.excepthook) == before
    assert not {"RANK", "MASTER_ADDR", "GLOO_SOCKET_IFNAME"} & os.environ.keys()
    assert not children()
    assert not dist.is_initialized()
    assert resumed.environment["devices"] == 2
    changed = with_overrides(resight.load_recipe("digits"), SETTINGS)
    whole = resight.train(changed, device="cpu", devices=2, out=tmp_path, name="whole")
    assert outcome(resumed.folder) == outcome(whole.folder)
    again = resight.train(changed, device="cpu", out=tmp_path, name="whole", resume=True)
    assert again.test == whole.test  # it is finished
    other = with_overrides(changed, ["optimizer.lr=0.3"])
    with pytest.raises(UsageError, match=r"was started with another optimizer\.lr; choose"):
        resight.train(other, out=tmp_path, name="whole", resume=True)


@needs_two_cores
def test_a_warning_after_the_last_step_ends_no_rank(tiny, tmp_path: Path) -> None:
    alive: list[list[int]] = []

    def warn(event: object) -> None:
        if isinstance(event, Progress) and event.task.startswith("causes:"):
            alive.append(children())
            os.kill(alive[0][0], signal.SIGUSR1)

    chosen = recipe("explain.report=true", "explain.images=1")
    run = resight.train(chosen, data=tiny, devices=2, out=tmp_path, device="cpu", on_event=warn)
    assert len(alive) > 2
    assert alive == [alive[0]] * len(alive)
    assert not run.interrupted
    assert run.predictions is not None


class Fragile(Branching):
    """Fails in the second process, in its third step."""

    steps = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        if self.steps == 3 and dist.is_initialized() and dist.get_rank() == 1:
            raise ValueError("a bug of the model")
        return super().forward(images)


@needs_two_cores
def test_an_error_of_another_rank_is_told(tiny, tmp_path: Path) -> None:
    message = "rank 1 ended early: ValueError: a bug of the model; resume the run"
    with pytest.raises(ResightError, match=message):
        resight.train(recipe(), data=tiny, model=Fragile(), devices=2, out=tmp_path)
    assert not children()
    assert not dist.is_initialized()


# --- what cannot be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "line"),
    [
        (0, "devices = 0 must be at least 1"),
        (9999, r"devices = 9999, but this machine has \d+ cores?; give 1 to \d+"),
    ],
)
def test_a_number_of_devices_that_cannot_be(devices: int, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        check_devices("cpu", devices, batch_size=8)


@needs_two_cores
def test_devices_that_cannot_work_together(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UsageError, match="batch_size = 3 does not give each two images"):
        check_devices("cpu", 2, batch_size=3)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'x'}", rank=0, world_size=1)
    try:
        with pytest.raises(UsageError, match="already belongs to a group"):
            check_devices("cpu", 2)
    finally:
        dist.destroy_process_group()
    for name, value in {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "host"}.items():
        monkeypatch.setenv(name, value)
    assert check_devices("cpu", 1, batch_size=6) == ("cpu", 3)
    with pytest.raises(UsageError, match="devices = 2, but torchrun has started 3 processes"):
        check_devices("cpu", 2)


def test_a_model_that_others_could_not_build_is_refused() -> None:
    class Inside(nn.Module):
        pass

    with pytest.raises(UsageError, match="cannot be sent to the other processes"):
        check_devices("cpu", 2, model=Inside())
    assert packed(nn.Linear(1, 1), 2)
