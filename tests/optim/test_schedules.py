"""Schedules against torch.optim.lr_scheduler at every step, and properties of the curves."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from resight.errors import UsageError
from resight.optim.schedules import Rates, Schedule, describe
from resight.recipe import Constant, Cosine, MultiStep, OneCycle, Plateau, Triangular

TOLERANCE = 1e-12


def make(spec, *, lr=0.4, momentum=0.9, steps_per_epoch=98) -> Schedule:
    return Schedule(spec, lr, momentum, steps_per_epoch)


def sgd(lr: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)


def reference(scheduler, steps: int) -> Iterator[tuple[float, float]]:
    """The (lr, momentum) that torch takes each step with."""
    optimizer = scheduler.optimizer
    for _ in range(steps):
        group = optimizer.param_groups[0]
        yield group["lr"], group["betas"][0] if "betas" in group else group["momentum"]
        optimizer.step()
        scheduler.step()


def assert_agrees(schedule: Schedule, scheduler) -> None:
    for step, (lr, momentum) in enumerate(reference(scheduler, schedule.total_steps)):
        rates = schedule.at(step)
        assert rates.lr == pytest.approx(lr, abs=TOLERANCE), step
        assert rates.momentum == pytest.approx(momentum, abs=TOLERANCE), step


@pytest.mark.parametrize("anneal", ["linear", "cosine"])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize(
    ("epochs", "peak_epoch", "steps_per_epoch", "div", "final_div"),
    [(24, 5, 98, 10, 1e4), (20, None, 13, 25, 1), (7, 2.3, 5, 1, 100), (3, 1, 2, 4, 4)],
)
def test_one_cycle_agrees_with_torch(
    anneal, three_phase, epochs, peak_epoch, steps_per_epoch, div, final_div
):
    spec = OneCycle(
        epochs=epochs,
        peak_epoch=peak_epoch,
        anneal=anneal,
        three_phase=three_phase,
        div=div,
        final_div=final_div,
        momentum_low=0.85,
        momentum_high=0.95,
    )
    scheduler = lr_scheduler.OneCycleLR(
        sgd(0.1),
        max_lr=0.4,
        total_steps=epochs * steps_per_epoch,
        pct_start=0.3 if peak_epoch is None else peak_epoch / epochs,
        anneal_strategy={"linear": "linear", "cosine": "cos"}[anneal],
        div_factor=div,
        final_div_factor=final_div,
        three_phase=three_phase,
        base_momentum=0.85,
        max_momentum=0.95,
    )
    assert_agrees(make(spec, steps_per_epoch=steps_per_epoch), scheduler)


def test_one_cycle_moves_beta1_of_adam_like_torch():
    adam = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = lr_scheduler.OneCycleLR(adam, max_lr=0.01, total_steps=60)
    spec = OneCycle(epochs=6, momentum_low=0.85, momentum_high=0.95)
    assert_agrees(make(spec, lr=0.01, steps_per_epoch=10), scheduler)


def test_one_cycle_corners_by_hand():
    """24 epochs of 98 steps, peak at epoch 5: the last step of epoch 5 has index 489."""
    spec = OneCycle(epochs=24, peak_epoch=5, anneal="linear", div=10, final_div=1)
    schedule = make(spec)
    assert schedule.total_steps == 2352
    assert schedule.at(0).lr == pytest.approx(0.04)
    assert schedule.at(489).lr == pytest.approx(0.4)
    assert schedule.at(488).lr < schedule.at(489).lr > schedule.at(490).lr
    assert schedule.at(2351).lr == pytest.approx(0.04)  # no annihilation: ends at its start


@pytest.mark.parametrize("three_phase", [False, True])
def test_one_cycle_with_a_rise_of_one_step_starts_at_the_peak(three_phase):
    """Where torch divides by zero."""
    spec = OneCycle(epochs=4, peak_epoch=1, anneal="linear", div=4, three_phase=three_phase)
    schedule = make(spec, steps_per_epoch=1)
    lrs = [schedule.at(step).lr for step in range(4)]
    assert lrs[0] == pytest.approx(0.4)
    assert lrs == sorted(lrs, reverse=True)
    assert lrs[-1] == pytest.approx(0.4 / 4 / 1e4)


@pytest.mark.parametrize("name", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize(
    ("half_cycle_epochs", "half_steps"), [(2, 20), (1.57, 16), (0.01, 1), (40, 400)]
)
def test_triangular_agrees_with_torch(name, half_cycle_epochs, half_steps):
    spec = Triangular(
        name=name,
        epochs=12,
        half_cycle_epochs=half_cycle_epochs,
        div=8,
        gamma=0.99,
        momentum_low=0.8,
        momentum_high=0.95,
    )
    scheduler = lr_scheduler.CyclicLR(
        sgd(0.1),
        base_lr=0.05,
        max_lr=0.4,
        step_size_up=half_steps,
        mode=name,
        gamma=0.99,
        base_momentum=0.8,
        max_momentum=0.95,
    )
    assert_agrees(make(spec, steps_per_epoch=10), scheduler)


@settings(max_examples=50, deadline=None)
@given(
    name=st.sampled_from(["triangular", "triangular2", "exp_range"]),
    lr=st.floats(1e-6, 10),
    div=st.floats(1.0001, 1e4),
    half_cycle_epochs=st.floats(0.01, 20),
    steps_per_epoch=st.integers(1, 40),
)
@example(name="triangular", lr=0.01, div=10.0, half_cycle_epochs=2, steps_per_epoch=1)
def test_the_zigzag_never_leaves_its_bounds(name, lr, div, half_cycle_epochs, steps_per_epoch):
    spec = Triangular(
        name=name,
        epochs=10,
        half_cycle_epochs=half_cycle_epochs,
        div=div,
        momentum_low=0.8,
        momentum_high=0.9,
    )
    schedule = make(spec, lr=lr, steps_per_epoch=steps_per_epoch)
    for step in range(schedule.total_steps):
        rates = schedule.at(step)
        assert lr / div <= rates.lr <= lr
        assert 0.8 - TOLERANCE <= rates.momentum <= 0.9


LOSSES = [2, 1.5, 1.4999, 1.4, 1.41, 1.4, 1.45, 1.39999, 1.5, 1.4, 1.4, 1.4, 1.4, 1.3, 1.3, 1.3]


@pytest.mark.parametrize("metric", ["val_loss", "val_accuracy"])
@pytest.mark.parametrize("cooldown", [0, 2])
@pytest.mark.parametrize(
    ("patience", "threshold", "min_lr"), [(3, 1e-4, 1e-5), (0, 0.05, 0.02), (1, 0.0, 1.0)]
)
def test_plateau_agrees_with_torch(metric, cooldown, patience, threshold, min_lr):
    values = LOSSES if metric == "val_loss" else [2.5 - loss for loss in LOSSES]
    spec = Plateau(
        epochs=len(values),
        metric=metric,
        factor=0.3,
        patience=patience,
        threshold=threshold,
        cooldown=cooldown,
        min_lr=min_lr,
    )
    optimizer = sgd(0.4)
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode="min" if metric == "val_loss" else "max",
        factor=0.3,
        patience=patience,
        threshold=threshold,
        cooldown=cooldown,
        min_lr=min_lr,
    )
    schedule = make(spec, steps_per_epoch=3)
    for epoch, value in enumerate(values):
        for step in range(3 * epoch, 3 * epoch + 3):
            expected = optimizer.param_groups[0]["lr"]
            assert schedule.at(step, values[:epoch]).lr == pytest.approx(expected, abs=TOLERANCE)
            assert schedule.at(step, values) == schedule.at(step, values[:epoch])  # no foresight
            optimizer.step()
        scheduler.step(value)


@pytest.mark.parametrize("metric", ["val_loss", "val_accuracy"])
@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_plateau_agrees_with_torch_on_absolute_thresholds(metric, shift):
    sign = 1 if metric == "val_loss" else -1
    values = [sign * loss + shift for loss in LOSSES]
    spec = Plateau(
        epochs=len(values), metric=metric, patience=1, threshold=0.05, threshold_mode="abs"
    )
    optimizer = sgd(0.4)
    mode = "min" if metric == "val_loss" else "max"
    scheduler = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode=mode, patience=1, threshold=0.05, threshold_mode="abs", min_lr=1e-5
    )
    schedule = make(spec, steps_per_epoch=1)
    for epoch, value in enumerate(values):
        expected = optimizer.param_groups[0]["lr"]
        assert schedule.at(epoch, values).lr == pytest.approx(expected, abs=TOLERANCE)
        scheduler.step(value)


def test_plateau_sees_a_negative_loss_get_worse():
    """With torch's relative threshold, best * (1 - 1e-4), each of these is better than the last."""
    worse = [-1 + 5e-5 * epoch for epoch in range(8)]
    schedule = make(Plateau(epochs=8, patience=1), lr=0.1, steps_per_epoch=1)
    lrs = [schedule.at(step, worse).lr for step in range(8)]
    assert lrs == pytest.approx([0.1] * 3 + [0.01] * 2 + [0.001] * 2 + [0.0001])
    better = [-(1.1**epoch) for epoch in range(8)]
    assert {schedule.at(step, better).lr for step in range(8)} == {0.1}


def test_plateau_drops_after_patience_plus_one_epochs_by_hand():
    schedule = make(Plateau(epochs=8, patience=3), lr=0.1, steps_per_epoch=1)
    flat = [1.0] * 8  # the first is the best; the 4th without improvement is epoch 5
    lrs = [schedule.at(step, flat).lr for step in range(8)]
    assert lrs == pytest.approx([0.1] * 5 + [0.01] * 3)
    assert "drops after 4 epochs without improvement" in describe(schedule)


def test_cosine_agrees_with_torch():
    scheduler = lr_scheduler.CosineAnnealingLR(sgd(0.4), T_max=60, eta_min=0.04)
    spec = Cosine(epochs=6, final_fraction=0.1)
    assert_agrees(make(spec, steps_per_epoch=10), scheduler)


def test_cosine_warm_up_agrees_with_torch():
    """torch has the two parts apart: LinearLR from lr / 15, then the cosine over what is left."""
    schedule = make(Cosine(epochs=6, warmup_epochs=1.5), steps_per_epoch=10)
    warmup = lr_scheduler.LinearLR(sgd(0.4), start_factor=1 / 15, total_iters=14)
    cosine = lr_scheduler.CosineAnnealingLR(sgd(0.4), T_max=45)
    expected = [*reference(warmup, 15), *reference(cosine, 45)]
    lrs = [schedule.at(step).lr for step in range(60)]
    assert lrs == pytest.approx([lr for lr, _ in expected], abs=TOLERANCE)


def test_multistep_agrees_with_torch():
    scheduler = lr_scheduler.MultiStepLR(sgd(0.4), milestones=[20, 35, 36], gamma=0.2)
    spec = MultiStep(epochs=6, milestones=(2.0, 3.54, 3.57), factor=0.2)
    assert_agrees(make(spec, steps_per_epoch=10), scheduler)


def test_constant_never_changes():
    schedule = make(Constant(epochs=3), lr=0.1, momentum=0.7, steps_per_epoch=4)
    assert {schedule.at(step) for step in range(12)} == {Rates(0.1, 0.7)}


@pytest.mark.parametrize("spec", [OneCycle(), Triangular(), Cosine(), MultiStep()])
def test_without_a_momentum_cycle_the_optimizers_momentum_stays(spec):
    schedule = make(spec, momentum=0.77, steps_per_epoch=2)
    assert {schedule.at(step).momentum for step in range(schedule.total_steps)} == {0.77}


@pytest.mark.parametrize("step", [-1, 196])
def test_a_step_outside_the_run_is_refused(step):
    with pytest.raises(UsageError, match=rf"step = {step} .* 0 to 195 \(2 epochs of 98\)"):
        make(Constant(epochs=2)).at(step)


def test_plateau_refuses_too_few_metrics():
    schedule = make(Plateau(epochs=4), steps_per_epoch=5)
    schedule.at(14, [1.0, 0.9])
    with pytest.raises(UsageError, match=r"val_loss of the 3 epochs .* given 2"):
        schedule.at(15, [1.0, 0.9])


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            OneCycle(
                epochs=24,
                peak_epoch=5,
                anneal="linear",
                div=10,
                momentum_low=0.85,
                momentum_high=0.95,
            ),
            "one_cycle: 0.04 at the start, 0.4 at epoch 5 (step 490 of 2352), 4e-06 at the end; "
            "momentum 0.95 -> 0.85 -> 0.95",
        ),
        (
            OneCycle(epochs=20, peak_epoch=6, three_phase=True, div=8),
            "one_cycle: 0.05 at the start, 0.4 at epoch 6 (step 588 of 1960), "
            "0.05 at epoch 11.99 (step 1175 of 1960), 5e-06 at the end; momentum 0.9",
        ),
        (
            Triangular(name="triangular2", epochs=8),
            "triangular2: 0.04 -> 0.4 -> 0.04 every 4 epochs (392 steps of 784); "
            "the height halves every cycle; momentum 0.9",
        ),
        (
            Plateau(epochs=50, cooldown=1),
            "plateau: 0.4 at the start; drops after 4 epochs without improvement of val_loss "
            "(times 0.1, not below 1e-05), then waits 1 epoch; momentum 0.9",
        ),
        (
            Cosine(epochs=10, warmup_epochs=2, final_fraction=0.25),
            "cosine: 0.002041 at the start, 0.4 at epoch 2 (step 196 of 980), "
            "0.1 at the end; momentum 0.9",
        ),
        (
            MultiStep(epochs=20),
            "multistep: 0.4 at the start, 0.04 from step 981 (after epoch 10), "
            "0.004 from step 1471 (after epoch 15); momentum 0.9",
        ),
        (Constant(epochs=1), "constant: 0.4 at every one of 98 steps; momentum 0.9"),
    ],
)
def test_describe(spec, expected):
    assert describe(make(spec)) == expected


def test_every_kind_runs_at_the_smallest_size():
    """One epoch of one step: no division by zero, a rate that is not negative."""
    for spec in [OneCycle(epochs=1), Triangular(epochs=1), Plateau(epochs=1), Cosine(epochs=1)]:
        schedule = make(spec, steps_per_epoch=1)
        assert 0 <= schedule.at(0).lr <= 0.4
        assert describe(schedule)


def test_schedules_do_not_need_torch():
    code = "import sys, resight.optim.schedules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
