"""Several processes learn what one does, stop and go on as one does, and leave nothing behind.

They are real processes, which meet over gloo; a GPU is not needed.
"""

import json
import os
import signal
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_resume import outcome, send
from torch import nn

import resight
from resight.errors import ResightError, UsageError
from resight.events import StepDone
from resight.recipe.toml import with_overrides
from resight.training.batches import train_batches
from resight.training.device import check_devices, check_model, num_cores
from resight.training.distributed import Rank
from resight.training.launcher import fit_on_devices
from resight.training.setup import prepare

DEFAULTS = {"on_event": lambda event: None, "offline": True, "device": "cpu", "model": None}

pytestmark = pytest.mark.slow

needs_two_cores = pytest.mark.skipif(num_cores() < 2, reason="needs two cores")
needs_proc = pytest.mark.skipif(
    not list(Path("/proc/self/task").glob("*/children")), reason="needs /proc"
)


def recipe(*settings: str) -> resight.Recipe:
    """Of 73 training images, in batches of 35: the last, of three, is too small to share."""
    return with_overrides(
        resight.load_recipe("digits"),
        ["model.widths=[8,8,16]", "training.batch_size=35", "data.val_fraction=0.2",
         "augment.crop.pad=2", "augment.flip=random", "schedule.name=constant", "schedule.epochs=2",
         "explain.report=false", *settings],
    )  # fmt: skip


def children() -> list[int]:
    """The worker processes that this process has started and that still run."""
    tasks = Path("/proc/self/task").glob("*/children")
    pids = [int(pid) for task in tasks for pid in task.read_text().split()]
    return [
        p for p in pids if b"resight.training.launcher" in Path(f"/proc/{p}/cmdline").read_bytes()
    ]


def each_image_by_itself() -> nn.Module:
    """A network whose batches may be divided in any way."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 3)
    )


@given(n=st.integers(1, 600), count=st.integers(1, 9))
def test_shares_are_the_whole_batch_and_as_even_as_can_be(n: int, count: int) -> None:
    shares = [list(range(n))[Rank(index, count).share(n)] for index in range(count)]
    if n < 2 * count and count > 1:
        assert shares == [list(range(n))] * count
        assert Rank(0, count).copies(n) == count
    else:
        whole = torch.arange(n)
        assert shares == [part.tolist() for part in whole.tensor_split(count)]
        assert Rank(0, count).copies(n) == 1


@pytest.mark.parametrize("mixing", [(), ("augment.mixup={}", "augment.cutmix={}")])
def test_the_shares_of_a_batch_are_augmented_as_the_batch_is(tiny, mixing) -> None:
    everything = with_overrides(
        resight.load_recipe("resnet18-plateau"),
        ["augment.cutout.max_px=8", "augment.crop.pad=2", *mixing],
    )
    spec = everything.augment  # colors, angles, crops, flips and holes
    stats = prepare(recipe(), data=tiny, **DEFAULTS).splits.stats
    settings = {"batch_size": 29, "seed": 3, "epoch": 1}
    whole = list(train_batches(tiny.train, spec, stats, **settings))
    parts = [
        list(train_batches(tiny.train, spec, stats, **settings, rank=Rank(index, 3)))
        for index in range(3)
    ]
    for (images, labels), *shares in zip(whole[:-1], *(p[:-1] for p in parts), strict=True):
        assert torch.equal(torch.cat([x for x, _ in shares]), images)
        own = [torch.stack([*y]) if mixing else y for _, y in shares]  # labels and shares
        assert torch.equal(torch.cat(own, dim=-1), torch.stack([*labels]) if mixing else labels)
    assert len(whole[-1][0]) == 4
    for part in parts:  # too few to share
        assert torch.equal(part[-1][0], whole[-1][0])


class Moody(nn.Module):
    """Chatters in the second process; passes over its middle for some batches: no gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle, self.last = nn.Linear(768, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
            print("#" * 40_000)  # two of them are more than a pipe holds
        x = self.first(images.flatten(1))
        if self.training and images[0, 0, 0, 0] > 0:
            x = x + self.middle(x)
        return self.last(x)


@needs_two_cores
@pytest.mark.parametrize("network", [each_image_by_itself, Moody])
def test_two_learn_what_one_learns_in_two_micro_batches(
    tiny, tmp_path, monkeypatch, network
) -> None:
    (tmp_path / "a b").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a b"))  # where they meet
    runs = []
    for count, micro_batch in ((1, "18"), (2, "none")):
        changed = recipe(
            "loss.l1=1e-4",
            "loss.class_weights=balanced",
            "training.ema_decay=0.5",
            "optimizer.lr=0.02",
            f"training.micro_batch={micro_batch}",
        )
        setup = prepare(changed, data=tiny, **DEFAULTS | {"model": network()})
        before = (torch.get_num_threads(), dict(os.environ), sys.excepthook)
        with closing(fit_on_devices(setup, count)) as events:
            steps = [event for event in events if isinstance(event, StepDone)]
        assert (torch.get_num_threads(), dict(os.environ), sys.excepthook) == before
        assert not torch.distributed.is_initialized()
        runs.append((setup.state, steps))
    assert not children()
    assert not list((tmp_path / "a b").glob("*.part*"))
    (one, one_steps), (two, two_steps) = runs
    assert [step.images for step in two_steps] == [35, 35, 3] * 2
    for name, weight in one.evaluated.state_dict().items():
        torch.testing.assert_close(two.evaluated.state_dict()[name], weight, msg=name)
    torch.testing.assert_close(two.step_losses, one.step_losses)
    assert [int(s.correct) for s in two_steps] == [int(s.correct) for s in one_steps]
    for row, other in zip(one.rows, two.rows, strict=True):
        assert other.val_loss == pytest.approx(row.val_loss, rel=1e-5)
        assert other.val_accuracy == row.val_accuracy


@needs_two_cores
def test_running_statistics_are_the_mean_of_what_each_saw(tiny) -> None:
    setup = prepare(recipe(), data=tiny, **DEFAULTS)
    network = setup.state.model.train()
    norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    observed = []
    norm.register_forward_pre_hook(lambda module, inputs: observed.append(inputs[0]))
    before = norm.running_mean.clone()
    settings = {"batch_size": 35, "seed": setup.recipe.seed, "epoch": 0}
    for index in range(2):
        batches = train_batches(
            setup.splits.train, setup.recipe.augment, setup.splits.stats, **settings,
            rank=Rank(index, 2),
        )  # fmt: skip
        with torch.no_grad():
            network(next(iter(batches))[0])
    expected = before.lerp(
        (observed[0].mean((0, 2, 3)) + observed[1].mean((0, 2, 3))) / 2, norm.momentum
    )
    norm._forward_pre_hooks.clear()
    setup = prepare(recipe(), data=tiny, **DEFAULTS)
    with closing(fit_on_devices(setup, 2)) as events:
        next(events)
    norm = next(m for m in setup.state.model.modules() if isinstance(m, nn.BatchNorm2d))
    torch.testing.assert_close(norm.running_mean, expected)


@needs_two_cores
def test_each_drops_out_units_of_its_own(tiny) -> None:
    def first_loss(devices: int) -> float:
        changed = recipe("training.batch_size=3", "model.dropout=0.5")  # each sees all three images
        with closing(fit_on_devices(prepare(changed, data=tiny, **DEFAULTS), devices)) as events:
            return float(next(events).loss)

    assert first_loss(2) != pytest.approx(first_loss(1))


@needs_two_cores
@needs_proc
def test_two_that_were_stopped_and_killed_end_as_if_uninterrupted(tiny, tmp_path) -> None:
    changed = recipe(
        "model.dropout=0.2",
        "training.ema_decay=0.9",
        "schedule.name=plateau",
        "optimizer.name=adam",
    )
    settings = {"data": tiny, "device": "cpu"}

    def stop(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            assert [os.getsid(pid) for pid in children()] == children()  # out of Ctrl-C's way
            send(signal.SIGINT)

    def kill(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 5:
            for pid in children():
                os.kill(pid, signal.SIGKILL)

    whole = resight.train(changed, **settings, devices=2, out=tmp_path, name="whole")
    stopped = resight.train(changed, **settings, devices=2, out=tmp_path, name="run", on_event=stop)
    assert stopped.interrupted
    assert stopped.summary.steps == 2
    assert not children()
    message = r"rank 1 of 2 ended early \(exit code -9\): its log is empty"
    with pytest.raises(ResightError, match=message):  # on two again
        resight.resume(stopped.folder, **settings, on_event=kill)
    assert not children()
    assert not torch.distributed.is_initialized()
    resumed = resight.resume(stopped.folder, **settings)
    env = json.loads((resumed.folder / "env.json").read_text())
    assert env["devices"] == 2
    assert [list(other) for other in env["resumed"]] == [["started"]] * 2  # all else is the same
    assert outcome(resumed.folder) == outcome(whole.folder)


class Fragile(Moody):
    """Fails in the second process, in its third step."""

    steps = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        if self.steps == 3 and torch.distributed.get_rank() == 1:
            raise ValueError("a bug of the model")
        return self.last(self.first(images.flatten(1)))


@needs_two_cores
def test_errors_of_a_worker_and_of_rank_0_are_distinguished(tiny) -> None:
    changed = recipe("training.micro_batch=none")
    with (
        pytest.raises(
            ResightError, match=r"rank 1 of 2 .*code 1\): ValueError: a bug of the model"
        ),
        closing(
            fit_on_devices(prepare(changed, data=tiny, **DEFAULTS | {"model": Fragile()}), 2)
        ) as events,
    ):
        list(events)
    setup = prepare(changed, data=tiny, **DEFAULTS)

    def break_off() -> None:
        with closing(fit_on_devices(setup, 2)) as events:
            next(events)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match=r"^mine$"):
        break_off()
    assert not children()
    assert not torch.distributed.is_initialized()


class Local(nn.Module):
    """Moved to where the test of it says."""


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
def test_a_group_and_torchrun_are_refused(tmp_path, monkeypatch) -> None:
    with pytest.raises(UsageError, match="batch_size = 3 does not give each of devices = 2 two"):
        check_devices("cpu", 2, batch_size=3)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1
    )
    try:
        with pytest.raises(UsageError, match="already belongs to a group"):
            check_devices("cpu", 2, batch_size=8)
    finally:
        torch.distributed.destroy_process_group()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for devices in (1, 2):
        with pytest.raises(UsageError, match="without torchrun"):
            check_devices("cpu", devices, batch_size=8)


def test_a_model_that_others_could_not_build_is_refused(monkeypatch) -> None:
    class Inside(nn.Module):
        pass

    with pytest.raises(UsageError, match="cannot be sent to the worker processes"):
        check_model(Inside(), 2)
    monkeypatch.setattr(Local, "__module__", "__main__")
    with pytest.raises(UsageError, match="class Local is defined in the script itself"):
        check_model(nn.Sequential(Local()), 2)
    check_model(Inside(), 1)  # alone it is no matter
    check_model(nn.Linear(1, 1), 2)
