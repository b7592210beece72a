"""The rates of a schedule against the schedule itself, and steps that are given back."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from own_loop import Net, diagnose_loop, one_cycle, pictures, sgd, usual_step
from torch.optim import lr_scheduler as lr

import resight
from resight.diagnosis.probe import run_probe
from resight.diagnosis.schedule_checks import simulated_rates

SCHEDULERS = {
    "step": lambda o: lr.StepLR(o, 7),
    "one cycle": lambda o: lr.OneCycleLR(o, 0.3, total_steps=40),
    "warm-up and cosine": lambda o: lr.SequentialLR(
        o, [lr.LinearLR(o, 0.1, total_iters=5), lr.CosineAnnealingLR(o, 35)], milestones=[5]
    ),
    "chained": lambda o: lr.ChainedScheduler([lr.ConstantLR(o), lr.ExponentialLR(o, 0.9)]),
    "cyclic": lambda o: lr.CyclicLR(o, 0.01, 0.1, step_size_up=6),
    "lambda": lambda o: lr.LambdaLR(o, lambda step: 1 / (1 + step)),
    "restarts": lambda o: lr.CosineAnnealingWarmRestarts(o, 10, 2),
}


def probe_of(optimizer: Any, model: Any, scheduler: Any, steps: int) -> Any:
    probe = run_probe(model, optimizer, F.cross_entropy, [pictures(64).tensors])
    return replace(probe, scheduler=scheduler, steps=steps)


@pytest.mark.filterwarnings("ignore:Detected call of", "ignore:The epoch parameter")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_simulated_rates_are_those_of_the_scheduler(name: str) -> None:
    model = Net()
    groups = [{"params": model.head.parameters(), "lr": 0.01}, {"params": model.conv.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    scheduler = SCHEDULERS[name](optimizer)
    before = [dict(group) for group in optimizer.param_groups]
    simulated = simulated_rates(probe_of(optimizer, model, scheduler, 40))
    assert [dict(group) for group in optimizer.param_groups] == before
    rates = []
    for _ in range(40):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert np.allclose(simulated, rates)


@pytest.mark.parametrize(("steps", "issues"), [(192, set()), (50, {"error schedule-length"})])
def test_the_length_of_a_schedule_of_resight(steps: int, issues: set[str]) -> None:
    def schedule(optimizer: Any) -> Any:
        return resight.ScheduleLR(optimizer, resight.schedule("resnet9", steps_per_epoch=8))

    diagnosis = diagnose_loop(scheduler=schedule, steps=steps)
    assert {f"{issue.severity} {issue.check}" for issue in diagnosis.issues} == issues


def test_a_step_is_given_back() -> None:
    model, count = Net(), []
    optimizer = sgd(model)
    scheduler = one_cycle(optimizer)
    step = usual_step(model, optimizer, F.cross_entropy)

    def stepped(images: Any, labels: Any) -> None:
        count.append(len(images))
        step(images, labels)
        scheduler.step()

    weights = {name: value.clone() for name, value in model.state_dict().items()}
    rates, state = [group["lr"] for group in optimizer.param_groups], scheduler.state_dict()
    diagnosis = resight.diagnose(
        model, optimizer, F.cross_entropy, [pictures().tensors], scheduler=scheduler, step=stepped
    )
    assert diagnosis.issues == ()
    assert len(count) == 37  # twice two equal steps, 30 on one batch, and 3 for their gradient
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not optimizer.state
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert scheduler.state_dict() == state


def test_labels_that_are_shuffled_in_the_step() -> None:
    def shuffling_step(model: Any, optimizer: Any, loss_fn: Any) -> Any:
        def step(images: Any, labels: Any) -> None:
            optimizer.zero_grad()
            shuffled = labels[torch.randperm(len(labels))]
            loss_fn(model(images), shuffled).backward()
            optimizer.step()

        return step

    issues = diagnose_loop(step=shuffling_step).issues
    assert {f"{issue.severity} {issue.check}" for issue in issues} == {"error step-learning"}
