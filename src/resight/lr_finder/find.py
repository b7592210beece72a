"""The learning-rate range test of a recipe, its repeats, and the rate that the recipe then has."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..datasets import Dataset
from ..datasets.augment import Labels
from ..errors import ResightError, UsageError
from ..events import OnEvent, Progress, show_events
from ..networks.freeze import frozen
from ..recipe import Custom, Recipe, Training
from ..recipe.presets import load_recipe
from ..recipe.toml import with_changes
from ..training.batches import eval_batches, train_batches
from ..training.network import init_model
from ..training.objective import class_weights, image_losses
from ..training.precision import AUTOCAST_DTYPES, to_memory_format
from ..training.setup import TrainSetup, prepare
from ..training.state import TrainData, TrainState, init_state
from .range_test import lr_range_test
from .suggest import LRCurve, LRScale, analyze
from .verdict import MIN_POINTS, Verdict

NUM_STEPS = 56  # with the batch set aside 58 batches: 7,424 images, 0.15 epochs of CIFAR-10
MAX_BATCH_SIZE = 128  # a step; see docs/lr-find.md for what other sizes change
NUM_VAL_IMAGES = 512  # validation images scored after every step, with `on_validation`


@dataclass(frozen=True)
class LRRangeOptions:
    """The options of a recipe's range test."""

    start: float | None = None  # the lowest rate; None: chosen from the optimizer
    end: float | None = None  # the highest rate; None: chosen from the optimizer
    steps: int = NUM_STEPS
    scale: LRScale = "exponential"
    repeats: int = 1
    on_validation: bool = False  # score validation images in place of training batches
    set_aside: bool = True  # score the same batch every time; False: the next one, as fastai does
    stop_at: float = 4.0  # times the best loss


def lr_find(
    recipe: Recipe | str,
    *,
    data: Dataset | str | Path | None = None,
    model: nn.Module | None = None,
    device: str = "auto",
    offline: bool = False,
    options: LRRangeOptions = LRRangeOptions(),
    on_event: OnEvent = show_events,
) -> LRCurve:
    """Find the learning rate of a recipe (a value, a preset's name or a TOML file) by a range test.

    Batches, augmentation, precision and loss are the recipe's, without the L1 penalty; the
    test set is not touched. See `lr_range_test` for your own model and data.

    Raises:
        UsageError: the recipe, the data or the options cannot be used.
    """
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    setup = prepare(
        recipe, data=data, model=model, device=device, offline=offline, on_event=on_event
    )
    return run_range_test(setup, options, on_event)


def run_range_test(setup: TrainSetup, options: LRRangeOptions, on_event: OnEvent) -> LRCurve:
    """Test the learning rates of a run before its first step, and leave the run as it was.

    Each repeat has its own order of images and augmentation, and its own weights unless the module
    was passed in. If the first test breaks down too early to show a rate, it is repeated with all
    its steps below the rate at which it broke down.

    Raises:
        UsageError: no repeats, or validation is to be scored and there is none.
    """
    if options.repeats < 1:
        raise UsageError(f"repeats = {options.repeats} must be at least 1; 3 give an interval")
    if options.on_validation and setup.splits.val is None:
        raise UsageError(
            'the range test cannot score validation images: data.val_fraction = "none"; '
            "set it to 0.1, or score the training loss"
        )
    curves = []
    for repeat in range(options.repeats):
        recipe = with_changes(
            setup.recipe, {"seed": setup.recipe.seed + repeat}, origin="range test"
        )
        state = setup.state
        if repeat and not isinstance(recipe.model, Custom):
            state = init_state(recipe, setup.splits, init_model(recipe, setup.splits))
        title = "learning-rate range test"
        if options.repeats > 1:
            title += f" {repeat + 1} of {options.repeats}"
        test = partial(_run_once, recipe, setup.splits, state, title=title, on_event=on_event)
        curve = test(options)
        broke_down = curve.stopped and len(curve.lrs) >= MIN_POINTS and not curve.verdict.ok
        if broke_down and options.end is None and repeat == 0:
            # Most steps are left: take them all below the rate at which it broke down.
            options = replace(options, start=float(curve.lrs[0]), end=float(curve.lrs[-1]))
            again = test(options)
            curve = replace(again, images=again.images + curve.images)
        curves.append(curve)
    return merge_curves(curves) if len(curves) > 1 else curves[0]


def with_found_lr(setup: TrainSetup, curve: LRCurve) -> TrainSetup:
    """Return the same setup, weights included, at the highest rate that the curve recommends.

    Schedules that hold a rate for epochs (plateau, multistep, constant) get the lower one.

    Raises:
        ResightError: the curve cannot be trusted.
    """
    if not curve.verdict.ok or curve.peak is None or curve.constant is None:
        raise ResightError(
            "no learning rate was found that can be trusted, so nothing was trained: "
            f"{'; '.join(curve.verdict.reasons)}. Look at it with `resight lr-find`, its --steps, "
            "--repeats and --out lr_find.png, or choose a rate with --lr"
        )
    rate = curve.constant if setup.recipe.schedule.holds_rate else curve.peak
    lr = float(f"{rate:.2g}")
    recipe = with_changes(setup.recipe, {"optimizer": {"lr": lr}}, origin="range test")
    return replace(setup, recipe=recipe, state=init_state(recipe, setup.splits, setup.state.model))


def _train_batches(
    recipe: Recipe, data: TrainData, size: int, on_batch: Callable[[int], None]
) -> Iterator[tuple[Tensor, Labels]]:
    """The batches of the first epoch, over and over; `on_batch` gets the number before each."""
    drawn = count()
    while True:
        for images, labels in train_batches(
            data.train,
            recipe.augment,
            data.stats,
            batch_size=size,
            seed=recipe.seed,
            epoch=0,
            balance=recipe.data.balance,
        ):
            on_batch(next(drawn))
            yield to_memory_format(images, recipe.training), labels


def _run_once(
    recipe: Recipe,
    data: TrainData,
    state: TrainState,
    options: LRRangeOptions,
    *,
    title: str,
    on_event: OnEvent,
) -> LRCurve:
    training = recipe.training
    size = min(training.batch_size, MAX_BATCH_SIZE)
    parts = training.parts(size, data.train.device.type)
    total = (options.steps + 1 + options.set_aside) * parts

    weights = class_weights(recipe.loss, data.train.labels, len(data.classes))

    def loss_fn(logits: Tensor, labels: Labels) -> Tensor:
        return image_losses(logits, labels, recipe.loss, weights)[1].mean()

    with frozen(state.model, training.frozen_in(0)):
        return lr_range_test(
            state.model,
            state.optimizer,
            loss_fn,
            _train_batches(
                recipe, data, size // parts, lambda done: on_event(Progress(title, done, total))
            ),
            start=options.start,
            end=options.end,
            steps=options.steps,
            scale=options.scale,
            probe=parts if options.set_aside else 0,
            val_batches=_val_batches(training, data, size) if options.on_validation else None,
            accumulate=parts,
            dtype=AUTOCAST_DTYPES[training.precision],
            stop_at=options.stop_at,
            seed=recipe.seed,
        )


def _val_batches(training: Training, data: TrainData, size: int) -> list[tuple[Tensor, Tensor]]:
    """Some of the validation images, evenly, in batches of `size`."""
    assert data.val is not None
    rows = torch.arange(0, len(data.val), max(1, len(data.val) // NUM_VAL_IMAGES))
    sample = data.val.select(rows[:NUM_VAL_IMAGES])
    return [
        (to_memory_format(images, training), labels)
        for images, labels in eval_batches(sample, data.stats, batch_size=size)
    ]


def merge_curves(curves: Sequence[LRCurve]) -> LRCurve:
    """Merge repeats of one test: median losses, the median peak and its interval.

    The loss of a repeat that has stopped counts as infinite from there on, so the merged curve
    ends where half of the repeats have stopped.

    Raises:
        UsageError: there are no curves, or they are of different rates.
    """
    if not curves:
        raise UsageError("there are no curves to merge; give at least one")
    longest = max(curves, key=lambda curve: len(curve.lrs))
    steps = len(longest.lrs)
    losses = np.full((len(curves), steps), np.inf)
    for row, curve in zip(losses, curves, strict=True):
        n = len(curve.lrs)
        if not np.allclose(curve.lrs, longest.lrs[:n], rtol=1e-6, atol=0):
            raise UsageError("curves of different learning rates cannot be merged; repeat one test")
        row[:n] = np.where(np.isfinite(curve.losses), curve.losses, np.inf)
    ends = [curve.stopped for curve in curves if curve.stopped]
    stopped = f"{len(ends)} of {len(curves)} repeats stopped early; {ends[0]}" if ends else None
    known = ("scale", "chance", "floor", "initial_loss")
    merged = analyze(
        longest.lrs,
        np.median(losses, axis=0),
        images=sum(curve.images for curve in curves),
        stopped=stopped,
        **{name: getattr(longest, name) for name in known},
    )
    peaks = [curve.peak for curve in curves if curve.peak is not None]
    reasons = list(merged.verdict.reasons)
    if len(peaks) < len(curves):
        blank = next(curve for curve in curves if curve.peak is None)
        reasons.append(
            f"{len(curves) - len(peaks)} of {len(curves)} repeats show no rate: "
            + "; ".join(blank.verdict.reasons)
        )
    elif max(peaks) > 4 * min(peaks):
        reasons.append(
            f"the repeats disagree, from {min(peaks):.2g} to {max(peaks):.2g}; "
            "take more steps or a larger batch"
        )
    held = [curve.constant for curve in curves if curve.constant is not None]
    return replace(
        merged,
        peak=_median(peaks),
        constant=_median(held),
        interval=(min(peaks), max(peaks)) if peaks else None,
        verdict=Verdict(not reasons, tuple(reasons)),
    )


def _median(rates: Sequence[float]) -> float | None:
    """The median; of an even number of rates the geometric mean of the middle two."""
    return float(np.exp(np.median(np.log(rates)))) if rates else None
