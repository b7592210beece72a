"""The learning-rate range test of a recipe, and the rate it puts into the recipe."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets import Dataset
from ..errors import ResightError, UsageError
from ..events import OnEvent, Progress
from ..recipe import Constant, Custom, MultiStep, Plateau, Recipe
from ..recipe.presets import load_recipe
from ..recipe.toml import with_changes
from ..training.batches import eval_batches, train_batches
from ..training.precision import AUTOCAST_DTYPES, to_memory_format
from ..training.setup import TrainSetup, init_model, prepare
from ..training.state import TrainData, TrainState, init_state
from .range_test import lr_range_test
from .suggest import LRCurve, LRScale, merge_curves
from .verdict import MIN_POINTS

NUM_STEPS = 56  # with the batch set aside 58 batches: 7,424 images, 0.15 epochs of CIFAR-10
MAX_BATCH_SIZE = 128  # a step; see docs/lr-find.md for what other sizes change
NUM_VAL_IMAGES = 512  # of the validation images, scored after every step where that is asked for


@dataclass(frozen=True)
class LRRangeOptions:
    """How a recipe's range test climbs; None: chosen from the optimizer."""

    start: float | None = None
    end: float | None = None
    steps: int = NUM_STEPS
    scale: LRScale = "exponential"
    repeats: int = 1
    on_validation: bool = False  # score on held-out images in place of the training loss
    set_aside: bool = True  # score one batch every time; False: each step's own, as other tools do
    stop_at: float = 4.0  # times the best loss


def lr_find(
    recipe: Recipe | str,
    *,
    data: Dataset | str | Path | None = None,
    model: nn.Module | None = None,
    device: str = "auto",
    offline: bool = False,
    ladder: LRRangeOptions = LRRangeOptions(),
    on_event: OnEvent | None = None,
) -> LRCurve:
    """The range test of a recipe (a value, a preset's name or a TOML file) on its training images.

    Batches, augmentation, precision and cross entropy are those of training, without the L1
    penalty; the test set is not touched.
    See `lr_range_test` for a model and data of your own.

    Raises:
        UsageError: the recipe, the data or the ladder is not usable as asked.
    """
    on_event = on_event or (lambda event: None)
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    setup = prepare(
        recipe, data=data, model=model, device=device, offline=offline, on_event=on_event
    )
    return run_range_test(setup, ladder, on_event)


def run_range_test(setup: TrainSetup, ladder: LRRangeOptions, on_event: OnEvent) -> LRCurve:
    """The range test of a run before its first step, which it leaves as it was.

    Each repeat has its own order of images, augmentation and, but for modules that were passed
    in, weights. A test that breaks down early and tells nothing is done once more, with all its
    steps below where it broke down.

    Raises:
        UsageError: no repeats, or validation is to be scored and there is none.
    """
    if ladder.repeats < 1:
        raise UsageError(f"repeats = {ladder.repeats} must be at least 1; 3 give an interval")
    if ladder.on_validation and setup.splits.val is None:
        raise UsageError(
            'the range test cannot score validation images: data.val_fraction = "none"; '
            "set it to 0.1, or score the training loss"
        )
    curves = []
    for repeat in range(ladder.repeats):
        recipe = with_changes(
            setup.recipe, {"seed": setup.recipe.seed + repeat}, origin="range test"
        )
        state = setup.state
        if repeat and not isinstance(recipe.model, Custom):
            state = init_state(recipe, setup.splits, init_model(recipe, setup.splits))
        what = "learning-rate range test"
        if ladder.repeats > 1:
            what += f" {repeat + 1} of {ladder.repeats}"
        told = _Told(on_event, what)
        curve = _run_once(recipe, setup.splits, state, ladder, told)
        broke_down = curve.stopped and len(curve.lrs) >= MIN_POINTS and not curve.verdict.ok
        if broke_down and ladder.end is None and repeat == 0:
            # It broke down early, and most steps are left: take them all below where it did.
            ladder = replace(ladder, start=float(curve.lrs[0]), end=float(curve.lrs[-1]))
            again = _run_once(recipe, setup.splits, state, ladder, told)
            curve = replace(again, images=again.images + curve.images)
        curves.append(curve)
    return merge_curves(curves) if len(curves) > 1 else curves[0]


def with_found_lr(setup: TrainSetup, curve: LRCurve) -> TrainSetup:
    """The same beginning, weights included, with the highest rate that the curve recommends.

    Schedules that hold a rate for epochs (plateau, multistep, constant) get the lower one.

    Raises:
        ResightError: the verdict is that the curve cannot be trusted.
    """
    if not curve.verdict.ok or curve.peak is None or curve.constant is None:
        raise ResightError(
            "no learning rate was found that can be trusted, so nothing was trained: "
            f"{'; '.join(curve.verdict.reasons)}. Look at it with `resight lr-find`, its --steps, "
            "--repeats and --out lr_find.png, or choose a rate with --lr"
        )
    holds = isinstance(setup.recipe.schedule, Plateau | MultiStep | Constant)
    found = float(f"{curve.constant if holds else curve.peak:.2g}")
    recipe = with_changes(setup.recipe, {"optimizer": {"lr": found}}, origin="range test")
    return replace(setup, recipe=recipe, state=init_state(recipe, setup.splits, setup.state.model))


@dataclass(frozen=True)
class _Told:
    """Progress of a range test, batch by batch."""

    on_event: OnEvent
    what: str

    def __call__(self, done: int, total: int) -> None:
        self.on_event(Progress(self.what, done, total))


@dataclass(frozen=True)
class _TrainBatches:
    """Batches as training draws them, again from the first whenever they are asked for anew."""

    recipe: Recipe
    data: TrainData
    size: int
    total: int
    told: _Told

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = train_batches(
            self.data.train,
            self.recipe.augment,
            self.data.stats,
            batch_size=self.size,
            seed=self.recipe.seed,
            epoch=0,
        )
        for done, (images, labels) in enumerate(batches):
            self.told(done, self.total)
            yield to_memory_format(images, self.recipe.training), labels


def _run_once(
    recipe: Recipe, data: TrainData, state: TrainState, ladder: LRRangeOptions, told: _Told
) -> LRCurve:
    training = recipe.training
    size = min(training.batch_size, MAX_BATCH_SIZE)
    parts = training.parts(size, data.train.images.device.type)
    batches = _TrainBatches(
        recipe, data, size // parts, (ladder.steps + 1 + ladder.set_aside) * parts, told
    )

    def loss_fn(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=recipe.loss.label_smoothing)

    scored: list[Any] | None = None
    if ladder.on_validation:
        assert data.val is not None
        evenly = torch.arange(0, len(data.val), max(1, len(data.val) // NUM_VAL_IMAGES))[
            :NUM_VAL_IMAGES
        ]
        sample = data.val.select(evenly.to(data.val.images.device))
        scored = [
            (to_memory_format(images, training), labels)
            for images, labels in eval_batches(sample, data.stats, batch_size=size)
        ]
    return lr_range_test(
        state.model,
        state.optimizer,
        loss_fn,
        batches,
        start=ladder.start,
        end=ladder.end,
        steps=ladder.steps,
        scale=ladder.scale,
        probe=parts if ladder.set_aside else 0,
        val_batches=scored,
        accumulate=parts,
        dtype=AUTOCAST_DTYPES[training.precision],
        stop_at=ladder.stop_at,
        seed=recipe.seed,
    )
