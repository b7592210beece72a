"""Trainings with one error in the optimizer, the schedule, or the step of the loop."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim import lr_scheduler as lr

import resight

from .base import EPOCHS, Cnn, fit, plain_cnn, sgd, training
from .errors_of_losses import Errors, SetUp

PER_EPOCH = 10  # batches of the 320 photos
STEPS = EPOCHS * PER_EPOCH


def optimizer_of(kind: Any, **settings: Any) -> Callable[[nn.Module], Any]:
    """Return what builds an optimizer of a kind."""
    return lambda model: kind(model.parameters(), **settings)


def before_the_head(model: Cnn) -> SGD:
    optimizer = sgd(model)
    model.head = nn.Linear(16, 10)
    return optimizer


def body_at_0(model: Cnn) -> SGD:
    body = [p for name, p in model.named_parameters() if not name.startswith("head")]
    return SGD([{"params": body, "lr": 0.0}, {"params": model.head.parameters()}], lr=0.1)


def stepped(model: nn.Module) -> SGD:
    optimizer = sgd(model)
    fit(model, optimizer, steps=3)
    return optimizer


OPTIMIZER_ERRORS: Errors = {
    "an optimizer of another model": (
        ("optimizer-parameters",),
        lambda: training(optimizer=lambda model: sgd(Cnn())),
    ),
    "a head replaced after the optimizer": (
        ("optimizer-parameters",),
        lambda: training(optimizer=before_the_head),
    ),
    "a rate of 0": (
        ("learning-rate",),
        lambda: training(optimizer=optimizer_of(SGD, lr=0.0), scheduler=None),
    ),
    "Adam at 1": (
        ("learning-rate",),
        lambda: training(optimizer=optimizer_of(Adam, lr=1.0), scheduler=None),
    ),
    "AdamW at 0.3, with a cosine": (
        ("learning-rate",),
        lambda: training(optimizer=optimizer_of(AdamW, lr=0.3, weight_decay=0)),
    ),
    "RMSprop at 0.5": (
        ("learning-rate",),
        lambda: training(optimizer=optimizer_of(RMSprop, lr=0.5)),
    ),
    "SGD at 1e-7": (("learning-rate",), lambda: training(optimizer=optimizer_of(SGD, lr=1e-7))),
    "SGD at 10, momentum 0.9": (
        ("learning-rate",),
        lambda: training(optimizer=optimizer_of(SGD, lr=10, momentum=0.9)),
    ),
    "momentum of 0.999": (
        ("learning-rate",),
        lambda: training(optimizer=optimizer_of(SGD, lr=0.1, momentum=0.999)),
    ),
    "betas swapped": (
        ("learning-rate",),
        lambda: training(optimizer=optimizer_of(Adam, lr=1e-3, betas=(0.999, 0.9))),
    ),
    "a body at rate 0": (("learning-rate",), lambda: training(optimizer=body_at_0)),
    "SGD with a decay of 1": (
        ("weight-decay",),
        lambda: training(optimizer=optimizer_of(SGD, lr=0.1, weight_decay=1.0)),
    ),
    "AdamW with a decay of 10": (
        ("weight-decay",),
        lambda: training(optimizer=optimizer_of(AdamW, lr=1e-3, weight_decay=10.0)),
    ),
    "Adam with a decay of 0.1": (
        ("weight-decay",),
        lambda: training(optimizer=optimizer_of(Adam, lr=1e-3, weight_decay=0.1)),
    ),
    "stepped before": (("untrained",), lambda: training(optimizer=stepped)),
}


def per_batch(build: Callable[[Any], Any], steps: int = STEPS) -> SetUp:
    """Return a training whose scheduler is stepped once a batch."""
    return lambda: training(scheduler=build, steps=steps)


def warm_up_then_long(optimizer: Any) -> lr.SequentialLR:
    parts: Any = [
        lr.LinearLR(optimizer, 0.01, total_iters=20),
        lr.CosineAnnealingLR(optimizer, 20 * STEPS),
    ]
    return lr.SequentialLR(optimizer, parts, milestones=[20])


def short_schedule(optimizer: Any) -> Any:
    return resight.ScheduleLR(
        optimizer, resight.schedule("resnet18-onecycle", steps_per_epoch=PER_EPOCH)
    )


SCHEDULE_ERRORS: Errors = {
    "a schedule of another optimizer": (
        ("scheduler-optimizer",),
        lambda: training(scheduler=lambda _: lr.CosineAnnealingLR(sgd(Cnn()), EPOCHS)),
    ),
    "cosine of epochs, each batch": (
        ("schedule-length",),
        per_batch(lambda o: lr.CosineAnnealingLR(o, EPOCHS)),
    ),
    "one cycle of epochs, each batch": (
        ("schedule-length",),
        per_batch(lambda o: lr.OneCycleLR(o, 0.1, total_steps=EPOCHS)),
    ),
    "cosine of batches, each epoch": (
        ("schedule-length",),
        per_batch(lambda o: lr.CosineAnnealingLR(o, STEPS), EPOCHS),
    ),
    "one cycle twice as long": (
        ("schedule-length",),
        per_batch(lambda o: lr.OneCycleLR(o, 0.1, total_steps=2 * STEPS)),
    ),
    "StepLR of epochs, each batch": (("schedule-length",), per_batch(lambda o: lr.StepLR(o, 6))),
    "StepLR that never falls": (
        ("schedule-length",),
        per_batch(lambda o: lr.StepLR(o, 30), EPOCHS),
    ),
    "milestones after the end": (
        ("schedule-length",),
        per_batch(lambda o: lr.MultiStepLR(o, [100, 150]), EPOCHS),
    ),
    "exponential of epochs, each batch": (
        ("schedule-length",),
        per_batch(lambda o: lr.ExponentialLR(o, 0.9)),
    ),
    "exponential that hardly falls": (
        ("schedule-length",),
        per_batch(lambda o: lr.ExponentialLR(o, 0.999), EPOCHS),
    ),
    "a warm-up longer than the training": (
        ("schedule-length",),
        per_batch(lambda o: lr.LambdaLR(o, lambda step: min(1, step / 1000))),
    ),
    "a linear fall that goes below 0": (
        ("schedule-length",),
        per_batch(lambda o: lr.LambdaLR(o, lambda step: 1 - step / EPOCHS)),
    ),
    "a warm-up, then too long a cosine": (("schedule-length",), per_batch(warm_up_then_long)),
    "restarts of epochs, each batch": (
        ("schedule-length",),
        per_batch(lambda o: lr.CosineAnnealingWarmRestarts(o, 4)),
    ),
    "patience as long as the training": (
        ("schedule-length",),
        per_batch(lambda o: lr.ReduceLROnPlateau(o, patience=20), EPOCHS),
    ),
    "polynomial of epochs, each batch": (
        ("schedule-length",),
        per_batch(lambda o: lr.PolynomialLR(o, EPOCHS, power=0.9)),
    ),
    "a factor that is meant as a rate": (
        ("schedule-length", "learning-rate"),
        per_batch(lambda o: lr.LambdaLR(o, lambda epoch: 1e-6 * 0.95**epoch), EPOCHS),
    ),
    "a schedule of resight, too long": (("schedule-length",), per_batch(short_schedule, 50)),
}


def loop(
    *,
    zero: str = "before",
    steps: int = 1,
    clip: float | None = None,
    clip_after: bool = False,
    labels: Any = lambda labels: labels,
    images: Any = lambda images: images,
    mode: bool = True,
    other: Callable[[], nn.Module] | None = None,
) -> Any:
    """Return what builds the step of a loop; arguments plant an error in it."""

    def build(model: nn.Module, optimizer: Any, loss_fn: Any) -> Any:
        trained = model if other is None else other()

        def step(x: Any, y: Any) -> Any:
            trained.train(mode)
            if zero == "before":
                optimizer.zero_grad()
            loss = loss_fn(trained(images(x)), labels(y))
            loss.backward()
            if zero == "after":
                optimizer.zero_grad()
            if clip and not clip_after:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            for _ in range(steps):
                optimizer.step()
            if clip and clip_after:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            return loss

        return step

    return build


def in_step(build: Any, **changes: Any) -> SetUp:
    return lambda: training(step=build, **changes)


STEP_ERRORS: Errors = {
    "no zero_grad": (("step-gradient",), in_step(loop(zero="never"))),
    "zero_grad before the step": (("step-gradient",), in_step(loop(zero="after"))),
    "no optimizer step": (("step-gradient",), in_step(loop(steps=0))),
    "two optimizer steps": (("step-gradient",), in_step(loop(steps=2))),
    "evaluation mode in the step": (("step-gradient",), in_step(loop(mode=False))),
    "gradients clipped to nothing": (("step-clipping",), in_step(loop(clip=1e-3))),
    "clipped after the step": (("step-clipping",), in_step(loop(clip=0.1, clip_after=True))),
    "labels shuffled in the step": (
        ("step-learning",),
        in_step(loop(labels=lambda y: y[torch.randperm(len(y))])),
    ),
    "one label for all in the step": (
        ("step-learning",),
        in_step(loop(labels=lambda y: torch.zeros_like(y))),
    ),
    "another model in the step": (("step-gradient", "step-learning"), in_step(loop(other=Cnn))),
    "noise in place of images": (("step-learning",), in_step(loop(images=torch.randn_like))),
    "a rate that diverges": (
        ("step-learning",),
        in_step(loop(), model=plain_cnn, optimizer=optimizer_of(SGD, lr=2.0, momentum=0.9)),
    ),
}
