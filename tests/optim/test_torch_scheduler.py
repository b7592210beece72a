"""ScheduleLR in plain PyTorch loops: the schedule at every step, and what it refuses."""

import copy
import gc
import io
import re
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    ConstantLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

import resight
from resight import ScheduleLR, UsageError
from resight.optim.optimizers import build_optimizer
from resight.optim.schedules import Schedule
from resight.recipe import Constant, Cosine, MultiStep, OneCycle, Plateau, Triangular

CYCLED = {"momentum_low": 0.8, "momentum_high": 0.95}
KINDS = [
    OneCycle(epochs=4, peak_epoch=1.5, **CYCLED),
    OneCycle(epochs=4, three_phase=True, anneal="linear"),
    Triangular(epochs=4, half_cycle_epochs=0.7, **CYCLED),
    Triangular(name="triangular2", epochs=4, half_cycle_epochs=1),
    Triangular(name="exp_range", epochs=4, half_cycle_epochs=1, gamma=0.99),
    Plateau(epochs=4, patience=0),
    Cosine(epochs=4, warmup_epochs=1),
    MultiStep(epochs=4, milestones=(1.0, 2.5)),
    Constant(epochs=4),
]
SPE = 6
LOSSES = [1.0, 0.8, 0.9, 0.7]


def make(spec, *, lr: float = 0.4) -> Schedule:
    return Schedule(spec, lr, momentum=0.9, steps_per_epoch=SPE)


def weight() -> nn.Parameter:
    return nn.Parameter(torch.ones(2))


def sgd(lr: float = 0.4) -> SGD:
    return SGD([weight()], lr=lr, momentum=0.9)


def adamw() -> AdamW:
    return AdamW([weight()], lr=0.4)


def rmsprop() -> RMSprop:
    return RMSprop([weight()], lr=0.4)


# Every kind of schedule, and every optimizer with a schedule that cycles its momentum.
CASES = [*((spec, sgd) for spec in KINDS), (KINDS[0], adamw), (KINDS[0], rmsprop)]


def take_step(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def momentum_of(optimizer: Optimizer) -> float:
    group = optimizer.param_groups[0]
    return group["betas"][0] if "betas" in group else group["momentum"]


def run(optimizer: Optimizer, scheduler: ScheduleLR, epochs: int) -> list[tuple[float, float]]:
    """The (lr, momentum) of each step of so many more epochs, in an ordinary loop."""
    taken = []
    for _ in range(epochs):
        for _ in range(SPE):
            taken.append((optimizer.param_groups[0]["lr"], momentum_of(optimizer)))
            take_step(optimizer)
            scheduler.step()
        scheduler.end_epoch(LOSSES[scheduler.last_epoch // SPE - 1])
    return taken


@pytest.mark.parametrize(("spec", "optimizer"), CASES)
def test_every_step_is_taken_at_the_schedules_rates(
    spec, optimizer: Callable[[], Optimizer]
) -> None:
    schedule, mine = make(spec), optimizer()
    scheduler = ScheduleLR(mine, schedule)
    assert isinstance(scheduler, LRScheduler)
    rates = [schedule.at(step, LOSSES) for step in range(schedule.total_steps)]
    assert run(mine, scheduler, epochs=4) == [(r.lr, r.momentum) for r in rates]
    assert scheduler.get_last_lr() == scheduler.get_lr() == [rates[-1].lr]


def test_a_loop_for_one_cycle_lr_works_unchanged() -> None:
    mine, theirs = sgd(), sgd()
    spec = OneCycle(epochs=4, momentum_low=0.85, momentum_high=0.95)
    schedulers = [
        ScheduleLR(mine, make(spec)),
        OneCycleLR(theirs, max_lr=0.4, total_steps=4 * SPE, pct_start=0.3),
    ]
    for _ in range(4 * SPE - 1):
        for optimizer, scheduler in zip((mine, theirs), schedulers, strict=True):
            take_step(optimizer)
            scheduler.step()
        assert schedulers[0].get_last_lr() == pytest.approx(schedulers[1].get_last_lr())
    assert torch.allclose(mine.param_groups[0]["params"][0], theirs.param_groups[0]["params"][0])


# --- parameter groups -----------------------------------------------------------------------


def test_groups_keep_their_ratio_to_the_highest() -> None:
    groups = [{"params": [weight()], "lr": lr} for lr in (0.01, 0.1, 0.0)]
    optimizer = SGD(groups, lr=1.0, momentum=0.9)
    schedule = make(KINDS[0], lr=0.5)
    scheduler = ScheduleLR(optimizer, schedule)
    for step in range(schedule.total_steps):
        lr = schedule.at(step).lr
        assert scheduler.get_last_lr() == pytest.approx([lr / 10, lr, 0])
        take_step(optimizer)
        scheduler.step()


def test_groups_hold_nothing_that_torch_does_not_put_there() -> None:
    optimizer, torchs = sgd(), sgd()
    ScheduleLR(optimizer, make(KINDS[4]))
    OneCycleLR(torchs, max_lr=0.4, total_steps=24, cycle_momentum=False)
    assert set(optimizer.param_groups[0]) <= set(torchs.param_groups[0])


@pytest.mark.parametrize("spec", [Constant(epochs=4), Cosine(epochs=4)], ids=["constant", "cosine"])
def test_a_group_that_is_added_later_keeps_its_own_ratio(spec) -> None:
    optimizer, schedule = sgd(), make(spec)
    scheduler = ScheduleLR(optimizer, schedule)
    run(optimizer, scheduler, epochs=2)
    optimizer.add_param_group({"params": [weight()], "lr": 0.001})  # unfrozen, gently
    ratio = 0.001 / schedule.at(2 * SPE).lr
    for step in range(2 * SPE, 4 * SPE - 1):
        lr = schedule.at(step).lr
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([lr, lr * ratio])
        take_step(optimizer)
        scheduler.step()


def test_a_second_schedule_starts_from_the_rates_that_the_groups_have_then() -> None:
    """A body that is frozen by a rate of 0 in the first phase learns in the second."""
    groups = [{"params": [weight()], "lr": 0.0}, {"params": [weight()], "lr": 0.1}]
    optimizer = SGD(groups, lr=0.1, momentum=0.9)
    first = ScheduleLR(optimizer, make(Cosine(epochs=4)))
    for _ in range(4 * SPE):
        assert optimizer.param_groups[0]["lr"] == 0
        take_step(optimizer)
        first.step()
    for group, rate in zip(optimizer.param_groups, (0.01, 0.1), strict=True):
        group["lr"] = rate
    second = ScheduleLR(optimizer, make(Cosine(epochs=4)))
    assert second.get_last_lr() == pytest.approx([0.04, 0.4])


def test_groups_that_are_all_at_zero_have_the_ratios_of_their_first_rates() -> None:
    groups = [{"params": [weight()], "lr": lr} for lr in (0.1, 0.2)]
    optimizer = SGD(groups, lr=0.1, momentum=0.9)
    LambdaLR(optimizer, lambda epoch: epoch / 10)
    assert ScheduleLR(optimizer, make(Constant(epochs=4))).get_last_lr() == [0.2, 0.4]
    zero = SGD([{"params": [weight()]}, {"params": [weight()]}], lr=0.0, momentum=0.9)
    assert ScheduleLR(zero, make(Constant(epochs=4))).get_last_lr() == [0.4, 0.4]


def test_ratios_are_saved_and_fewer_groups_are_refused() -> None:
    def optimizer(*rates: float) -> SGD:
        groups = [{"params": [weight()], "lr": lr} for lr in rates]
        return SGD(groups, lr=1.0, momentum=0.9)

    saved = ScheduleLR(optimizer(0.1, 0.02), make(Constant(epochs=4))).state_dict()
    other = ScheduleLR(optimizer(0.1, 0.1), make(Constant(epochs=4)))
    other.load_state_dict(saved)
    assert other.get_last_lr() == pytest.approx([0.4, 0.08])
    with pytest.raises(UsageError, match=r"rates of 2 parameter groups, .* has only 1; add"):
        ScheduleLR(sgd(), make(Constant(epochs=4))).load_state_dict(saved)


def test_a_factor_that_groups_carry_is_kept() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    swift = resight.load_recipe("swift")
    optimizer = build_optimizer(swift.optimizer, model)
    schedule = resight.schedule(swift, steps_per_epoch=3)
    scheduler = ScheduleLR(optimizer, schedule)
    scales = [group["lr_scale"] for group in optimizer.param_groups]
    assert 64.0 in scales
    assert scheduler.get_last_lr() == pytest.approx([schedule.at(0).lr * s for s in scales])


def test_a_rate_that_is_a_tensor_stays_that_tensor() -> None:
    lr = torch.tensor(0.4)
    optimizer = SGD([weight()], lr=lr, momentum=0.9)
    schedule = make(KINDS[0])
    scheduler = ScheduleLR(optimizer, schedule)
    take_step(optimizer)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == pytest.approx(schedule.at(1).lr)
    assert scheduler.get_last_lr()[0] is not lr


def test_an_optimizer_without_momentum_is_left_without() -> None:
    optimizer = Adagrad([weight()], lr=0.4)
    ScheduleLR(optimizer, make(Constant(epochs=4)))
    assert "momentum" not in optimizer.param_groups[0]
    with pytest.raises(UsageError, match="cycles the momentum, but Adagrad has none"):
        ScheduleLR(optimizer, make(KINDS[0]))


@pytest.mark.parametrize("spec", [KINDS[1], *KINDS[3:]], ids=lambda spec: spec.name)
def test_a_momentum_that_is_not_cycled_is_left_alone(spec) -> None:
    groups = [{"params": [weight()], "momentum": momentum} for momentum in (0.0, 0.5)]
    optimizer = SGD(groups, lr=0.1)
    adam = AdamW([weight()], lr=1e-3, betas=(0.95, 0.99))
    ScheduleLR(optimizer, make(spec))
    ScheduleLR(adam, make(spec))
    assert [group["momentum"] for group in optimizer.param_groups] == [0.0, 0.5]
    assert adam.param_groups[0]["betas"] == (0.95, 0.99)


def test_only_the_first_of_three_betas_is_cycled() -> None:
    class ThreeBetas(Optimizer):
        """As AdEMAMix or Adan."""

        def __init__(self, parameters) -> None:
            super().__init__(parameters, {"lr": 0.1, "betas": (0.9, 0.99, 0.999)})

    optimizer = ThreeBetas([weight()])
    ScheduleLR(optimizer, make(KINDS[0]))
    assert optimizer.param_groups[0]["betas"] == (0.95, 0.99, 0.999)


# --- among PyTorch's schedulers -------------------------------------------------------------


def sequential(optimizer: Optimizer, order: str) -> tuple[ScheduleLR, SequentialLR]:
    """ScheduleLR after three steps of warm-up, or 24 steps before a constant rate."""
    main = ScheduleLR(optimizer, make(KINDS[0]))
    if order == "second":
        return main, SequentialLR(optimizer, [LinearLR(optimizer, 0.1, total_iters=3), main], [3])
    return main, SequentialLR(optimizer, [main, ConstantLR(optimizer, 1.0)], [4 * SPE])


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_part_of_a_sequence(order: str) -> None:
    optimizer = sgd()
    main, both = sequential(optimizer, order)
    rates = []
    for _ in range(3 + 4 * SPE):
        rates.append((optimizer.param_groups[0]["lr"], momentum_of(optimizer)))
        take_step(optimizer)
        both.step()
    schedule = [main.schedule.at(step) for step in range(4 * SPE)]
    expected = [(r.lr, r.momentum) for r in schedule]
    begin = 3 if order == "second" else 0
    assert rates[begin : begin + 4 * SPE] == expected


def test_a_sequence_starts_a_scheduler_by_step_0_in_earlier_versions_of_torch() -> None:
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, make(KINDS[0]))
    scheduler.last_epoch -= 1
    for _ in range(3):
        take_step(optimizer)
    scheduler.step(0)
    assert scheduler.last_epoch == 0
    take_step(optimizer)
    scheduler.step()
    take_step(optimizer)
    with pytest.raises(UsageError, match="goes step by step"):
        scheduler.step(0)


def test_two_schedulers_count_the_steps_of_one_optimizer() -> None:
    optimizer = sgd()
    schedulers = [ScheduleLR(optimizer, make(Constant(epochs=4))) for _ in range(2)]
    for _ in range(3):
        take_step(optimizer)
        for scheduler in schedulers:
            scheduler.step()
    assert len(optimizer._optimizer_step_post_hooks) == 1
    with pytest.raises(UsageError, match="did not step"):
        schedulers[1].step()


def test_last_epoch_is_the_last_step_that_is_done() -> None:
    for done in (-1, 0, 7, 4 * SPE - 1):
        optimizer = sgd()
        scheduler = ScheduleLR(optimizer, make(KINDS[0]), done)  # as torch's, by position or name
        assert scheduler.last_epoch == done + 1
        assert scheduler.get_last_lr() == [make(KINDS[0]).at(min(done + 1, 4 * SPE - 1)).lr]
    take_step(optimizer)
    with pytest.raises(UsageError, match="the schedule is over"):
        scheduler.step()
    for last_epoch in (-2, 4 * SPE):
        with pytest.raises(UsageError, match=f"last_epoch = {last_epoch} is outside .* to 23"):
            ScheduleLR(sgd(), make(KINDS[0]), last_epoch=last_epoch)
    with pytest.raises(UsageError, match=r"plateau needs the metrics .* load_state_dict\(\)"):
        ScheduleLR(sgd(), make(Plateau(epochs=4)), last_epoch=SPE)


def test_a_copy_of_an_optimizer_with_its_scheduler_goes_on() -> None:
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, make(KINDS[0]))
    run(optimizer, scheduler, epochs=1)
    twin, other = copy.deepcopy((optimizer, scheduler))
    assert run(twin, other, epochs=3) == run(optimizer, scheduler, epochs=3)


# --- what it refuses ------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [0, 2])
def test_an_optimizer_replaced_after_so_many_epochs_is_noticed_at_once(epochs: int) -> None:
    first, second = sgd(), sgd()
    scheduler = ScheduleLR(first, make(KINDS[0]))
    run(first, scheduler, epochs)
    take_step(second)
    with pytest.raises(UsageError, match=r"the SGD of this scheduler did not step .* that steps"):
        scheduler.step()
    assert scheduler.last_epoch == epochs * SPE


def test_a_step_once_an_epoch_is_refused() -> None:
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, make(KINDS[0]))
    for _ in range(SPE):
        take_step(optimizer)
    with pytest.raises(UsageError, match=r"optimizer\.step\(\) was called 6 times"):
        scheduler.step()


@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: spec.name)
def test_it_does_not_run_past_its_end(spec) -> None:
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, make(spec))
    run(optimizer, scheduler, epochs=4)
    take_step(optimizer)
    with pytest.raises(
        UsageError, match=r"it has 24 steps \(4 epochs of 6\), and this is step 25; stop here"
    ):
        scheduler.step()


def test_plateau_asks_for_the_metric_of_every_epoch() -> None:
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, make(Plateau(epochs=4)))
    with pytest.raises(UsageError, match="epochs of 6 steps"):
        scheduler.end_epoch(1.0)
    run(optimizer, scheduler, epochs=1)
    with pytest.raises(UsageError, match="twice after epoch 1"):
        scheduler.end_epoch(1.0)
    for _ in range(SPE):
        take_step(optimizer)
        scheduler.step()
    with pytest.raises(UsageError, match=r"plateau needs end_epoch\(val_loss\)"):
        scheduler.end_epoch()
    take_step(optimizer)
    with pytest.raises(UsageError, match=r"epoch 2 is over.*call end_epoch\(val_loss\)"):
        scheduler.step()


@pytest.mark.parametrize("spec", [KINDS[0], KINDS[5]], ids=["one_cycle", "plateau"])
def test_an_epoch_of_another_length_is_refused(spec) -> None:
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, make(spec))
    for _ in range(SPE - 1):
        take_step(optimizer)
        scheduler.step()
    with pytest.raises(UsageError, match=r"after step 5, but the schedule has epochs of 6 steps"):
        scheduler.end_epoch(1.0)


def test_a_metric_given_to_step_and_what_is_no_optimizer_are_refused() -> None:
    scheduler = ScheduleLR(sgd(), make(Plateau(epochs=4)))
    with pytest.raises(UsageError, match=r"end_epoch\(metric\) after validation"):
        scheduler.step(3)
    with pytest.raises(UsageError, match=r"Linear is not a torch\.optim\.Optimizer"):
        ScheduleLR(nn.Linear(1, 1), make(KINDS[0]))  # type: ignore[arg-type]


# --- steps that are left out, nested or fail ------------------------------------------------


def test_steps_that_a_grad_scaler_leaves_out_can_be_allowed() -> None:
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, make(KINDS[0]), allow_skipped=2)
    for _ in range(3):
        scheduler.step()
        scheduler.step()
        take_step(optimizer)
        scheduler.step()
    scheduler.step()
    scheduler.step()
    with pytest.raises(UsageError, match="allow_skipped"):
        scheduler.step()


def test_a_grad_scaler_that_looks_for_its_scale_is_no_fault() -> None:
    """Gradients of 1e36 overflow at scales above 340: of 2^16 and below, eight are tried first."""
    parameter = weight()
    optimizer = SGD([parameter], lr=0.4, momentum=0.9)
    scheduler = ScheduleLR(optimizer, make(Constant(epochs=4)), allow_skipped=20)
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(12):
        optimizer.zero_grad()
        scaler.scale(parameter.sum() * 1e36).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
    assert scaler.get_scale() == 2**8
    assert scheduler.last_epoch == 12


class Doubled(SGD):
    """Extends a step, as optimizers in other packages do."""

    def step(self, closure=None):
        return super().step(closure)


def test_an_optimizer_that_extends_anothers_step_steps_once() -> None:
    sgd()  # SGD.step is hooked when the first one is made
    optimizer = Doubled([weight()], lr=0.4, momentum=0.9)
    scheduler = ScheduleLR(optimizer, make(KINDS[0]))
    run(optimizer, scheduler, epochs=4)
    assert scheduler.last_epoch == 4 * SPE


def test_a_step_that_fails_can_be_tried_again() -> None:
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, make(KINDS[0]))

    def fails() -> float:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(fails)
    take_step(optimizer)
    scheduler.step()
    assert scheduler.last_epoch == 1


def test_nothing_is_kept_alive() -> None:
    optimizer = sgd()
    scheduler = weakref.ref(ScheduleLR(optimizer, make(KINDS[0])))
    del optimizer
    gc.collect()
    assert scheduler() is None


# --- saving and resuming --------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "optimizer"), CASES)
def test_a_resumed_run_goes_on_exactly(spec, optimizer: Callable[[], Optimizer]) -> None:
    whole = optimizer()
    straight = run(whole, ScheduleLR(whole, make(spec)), epochs=4)

    first = optimizer()
    scheduler = ScheduleLR(first, make(spec))
    setup = run(first, scheduler, epochs=2)
    file = io.BytesIO()
    torch.save({"optimizer": first.state_dict(), "scheduler": scheduler.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    second = optimizer()
    second.param_groups[0]["params"] = first.param_groups[0]["params"]
    again = ScheduleLR(second, make(spec))
    again.load_state_dict(saved["scheduler"])
    assert again.get_last_lr() == scheduler.get_last_lr()
    second.load_state_dict(saved["optimizer"])
    assert setup + run(second, again, epochs=2) == straight
    assert torch.equal(second.param_groups[0]["params"][0], whole.param_groups[0]["params"][0])


def test_a_saved_state_is_a_copy() -> None:
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, make(Plateau(epochs=4)))
    run(optimizer, scheduler, epochs=1)
    saved = scheduler.state_dict()
    kept = copy.deepcopy(saved)
    run(optimizer, scheduler, epochs=1)
    assert saved == kept


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make(OneCycle(epochs=5, peak_epoch=1.5, **CYCLED)), "epochs = 4, but this one has 5"),
        (make(Constant(epochs=4)), "name = one_cycle, but this one has constant"),
        (make(KINDS[0], lr=0.1), r"lr = 0\.4, but this one has 0\.1"),
    ],
)
def test_the_state_of_another_schedule_is_refused(other: Schedule, message: str) -> None:
    saved = ScheduleLR(sgd(), make(KINDS[0])).state_dict()
    scheduler = ScheduleLR(sgd(), other)
    with pytest.raises(UsageError, match=message):
        scheduler.load_state_dict(saved)


# --- the documents --------------------------------------------------------------------------


def test_the_loop_of_the_docs_runs() -> None:
    page = Path(__file__).parents[2] / "docs" / "schedules.md"
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    model = nn.Linear(2, 3)
    names = {
        "model": model,
        "loader": [(torch.ones(4, 2), torch.zeros(4, dtype=torch.long))] * 3,
        "validate": lambda model: 1.0,
    }
    exec(compile(code, page.name, "exec"), names)
    assert names["scheduler"].last_epoch == names["schedule"].total_steps
