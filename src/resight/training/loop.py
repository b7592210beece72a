"""The one training loop, written out.

`fit` is a generator: it takes a step, yields an event and waits for the caller to go on. The
caller decides when to show, to save and to stop; nothing hooks into the loop itself.

    for event in fit(state, recipe, data):
        ...

Everything that changes during training is in `TrainState`. The batch, its augmentation and the
dropout of step k of epoch e depend on (seed, e, k) alone, so a state that is saved and loaded
goes on exactly where it stopped. Before it yields, a step restores torch's global random numbers
and everything else that it borrowed.
"""

import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..datasets.augment import Labels, larger_label, split_labels
from ..errors import Diverged, UsageError
from ..events import EpochDone, StepDone
from ..metrics.classification import accuracy, mean_loss
from ..networks.freeze import frozen
from ..networks.outputs import take_logits
from ..optim.optimizers import add_l1_gradient, set_rates
from ..optim.schedules import Rates
from ..recipe import Custom, Import, Recipe, Training
from ..records import EpochRow, Predictions
from .batches import mix_seed, train_batches
from .device import keep_freed_memory
from .distributed import SINGLE_PROCESS, Rank, accumulate, sum_over_ranks
from .objective import class_weights, image_losses
from .precision import autocast, to_memory_format
from .predict import predict_split
from .probe import row_of_probe
from .restore import scaled_momentum, seeded_rng
from .state import TrainData, TrainState
from .sync_norm import synced_norms

# A loss this many times the loss of guessing is an explosion, not a bad batch.
MAX_LOSS_RATIO = 50.0

# The purpose of a seed, plus the rank; 1 and 2 are the order and augmentation of batches.py.
DROPOUT_SEED = 3


def fit(
    state: TrainState, recipe: Recipe, data: TrainData, *, rank: Rank = SINGLE_PROCESS
) -> Generator[StepDone | EpochDone, None, None]:
    """Train from the step that `state` has reached to the end of the schedule.

    After every event `state` is whole: it can be saved, and the generator closed. Each of several
    ranks is given the same state, recipe and data, and reaches the same state.

    Raises:
        Diverged: the loss became NaN, infinite or exploded, or the weights did; `state` is then
            not worth saving.
        ResightError: the ranks have different weights.
        UsageError: the recipe has an "auto" that has not been resolved.
    """
    if "auto" in (recipe.training.precision, recipe.training.micro_batch):
        raise UsageError(
            'the recipe has an "auto"; resolve it first with resight.training.autotune.resolve_auto'
        )
    if data.train.device.type == "cpu":
        keep_freed_memory()
    num_val = len(data.val) if data.val else 0
    model: nn.Module = state.model
    if recipe.training.compile:  # a last batch and smaller images are shapes of their own
        model = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    if recipe.probe is not None and recipe.probe.only:  # the head has been fitted
        if not state.rows:
            state.rows.append(row_of_probe(state.evaluated, recipe, data))
            yield EpochDone(state.rows[-1], best=True, val_images=num_val)
        return
    while len(state.rows) < recipe.schedule.epochs:
        yield from _train_epoch(state, model, recipe, data, rank)
        state.rows.append(_validate(state, recipe, data, rank))
        state.epoch_secs = 0.0
        best = best_epoch(state.rows, recipe.training.select)
        yield EpochDone(state.rows[-1], best=best == len(state.rows), val_images=num_val)


def _train_epoch(
    state: TrainState, model: nn.Module, recipe: Recipe, data: TrainData, rank: Rank
) -> Iterator[StepDone]:
    """Take and record the rest of an epoch's steps; `model` is `state.model`, maybe compiled."""
    size, device = recipe.training.batch_size, data.train.device
    epoch, spe = len(state.rows), state.schedule.steps_per_epoch
    first = state.step - epoch * spe
    batches = train_batches(
        data.train,
        recipe.augment,
        data.stats,
        batch_size=size,
        seed=recipe.seed,
        epoch=epoch,
        first_step=first,
        rank=rank,
        balance=recipe.data.balance,
    )
    weights = class_weights(recipe.loss, data.train.labels, len(data.classes))
    with frozen(state.model, recipe.training.frozen_in(epoch)):  # ranks exchange what learns
        model = rank.wrap(model, any_branch=isinstance(recipe.model, Custom | Import))
    began = time.perf_counter() - state.epoch_secs
    for k, (images, labels) in enumerate(batches, first):
        if not state.model.training:  # otherwise, a part frozen in evaluation mode stays so
            state.model.train()
        n = min(size, len(data.train) - k * size)  # images of the batch
        with frozen(state.model, recipe.training.frozen_in(epoch)):
            rates, loss, correct = train_step(
                state, model, recipe, images, labels, weights=weights, batch_size=n, rank=rank
            )
        state.step_losses[state.step] = loss
        state.step_correct[state.step] = correct
        state.lrs.append(rates.lr)
        state.momenta.append(rates.momentum)
        state.step += 1
        if device.type == "cpu":  # elsewhere reading the loss would make every step wait
            check_losses(state, data, since=state.step - 1)
        state.epoch_secs = time.perf_counter() - began
        yield StepDone(
            epoch=epoch + 1,
            step=state.step,
            steps_per_epoch=spe,
            total_steps=state.schedule.total_steps,
            loss=loss,
            correct=correct,
            lr=rates.lr,
            images=n,
        )
    check_losses(state, data, since=epoch * spe)  # waits until the device has done the steps
    state.epoch_secs = time.perf_counter() - began


def train_step(
    state: TrainState,
    model: nn.Module,
    recipe: Recipe,
    images: Tensor,
    labels: Labels,
    *,
    weights: Tensor | None,
    batch_size: int,
    rank: Rank,
) -> tuple[Rates, Tensor, Tensor]:
    """Take one step on a batch; return its rates, its mean loss and how many images were right.

    `images` (n, C, H, W), normalized, and `labels` (n,) are this rank's share of a batch of
    `batch_size`; loss and number are of the whole batch. Of mixed labels the larger share counts.
    """
    training, device = recipe.training, images.device
    whole = batch_size * (copies := rank.copies(batch_size))  # images that the ranks see in all
    images = to_memory_format(_resize(images, state, training), training)
    n = training.parts(rank.smallest_share(batch_size), device.type)  # as many on every rank
    # Even parts: a leftover of one image would be a poor sample for batch norm.
    parts = list(zip(images.tensor_split(n), split_labels(labels, n), strict=True))
    loss = torch.zeros((), device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    epoch, k = divmod(state.step, state.schedule.steps_per_epoch)
    seed = mix_seed(recipe.seed, epoch, k, DROPOUT_SEED + rank.index)
    rates = state.schedule.at(state.step, state.plateau_metrics)
    set_rates(state.optimizer, rates.lr, rates.momentum)
    state.optimizer.zero_grad(set_to_none=True)  # also what an interrupted step left behind
    synced = synced_norms(state.model, wanted=training.sync_batch_norm and copies < rank.count)
    with seeded_rng(seed, device), scaled_momentum(state.model, n), synced:
        for i, (x, y) in enumerate(parts, 1):
            with accumulate(model, last=i == n):
                with autocast(training, device):
                    logits = take_logits(model(x))[0]  # (n, K); some return more in training
                nll, objective = image_losses(logits, y, recipe.loss, weights)
                objective = objective.sum() * rank.count / whole  # of which ranks take the mean
                state.scaler.scale(objective).backward()  # type: ignore[no-untyped-call]
            loss += nll.detach().sum() / whole
            correct += (logits.argmax(1) == larger_label(y)).sum()
    sum_over_ranks(state.model, loss, correct, rank, copies=copies)
    if recipe.loss.l1 is not None:
        state.scaler.unscale_(state.optimizer)
        add_l1_gradient(state.model, recipe.loss.l1)
    with autocast(training, device):  # Muon multiplies matrices
        state.scaler.step(state.optimizer)
    state.scaler.update()
    if training.ema_decay is not None:
        state.average(training.ema_decay)
    return rates, loss, correct


def best_epoch(rows: Sequence[EpochRow], select: str) -> int:
    """Return the epoch (from 1) whose weights are kept, by `training.select`.

    Of equally accurate epochs it is the one with the lower loss, and of equal losses the first.
    """
    if select == "last":
        return len(rows)

    def rank(row: EpochRow) -> tuple[float, ...]:
        assert row.val_accuracy is not None  # without validation a recipe can only select "last"
        assert row.val_loss is not None
        return (row.val_loss,) if select == "val_loss" else (-row.val_accuracy, row.val_loss)

    return min(rows, key=rank).epoch  # the first of equals


def _resize(images: Tensor, state: TrainState, training: Training) -> Tensor:
    """(N, C, H, W), at H = W = px as long as `training.progressive` says so."""
    early = training.progressive
    if early is None or state.step >= early.share * state.schedule.total_steps:
        return images
    return F.interpolate(images, size=(early.px, early.px), mode="bilinear", antialias=True)


def _validate(state: TrainState, recipe: Recipe, data: TrainData, rank: Rank) -> EpochRow:
    """Validate, and return the row of the epoch whose steps are done."""
    spe, size = state.schedule.steps_per_epoch, recipe.training.batch_size
    done = slice(state.step - spe, state.step)
    sizes = torch.full((spe,), size, dtype=torch.float64)
    sizes[-1] = min(size, len(data.train) - size * (spe - 1))
    n = int(sizes.sum())  # images of the epoch
    predictions = None
    if data.val is not None:
        predictions = predict_split(
            state.evaluated,
            data.val,
            data.stats,
            classes=data.classes,
            training=recipe.training,
            rank=rank,
        )
    _check_weights(state, predictions)
    rank.check_equal(state.model)
    return EpochRow(
        epoch=len(state.rows) + 1,
        step=state.step,
        lr=state.lrs[-1],
        train_loss=float((state.step_losses[done].cpu().double() * sizes).sum() / n),
        train_accuracy=int(state.step_correct[done].sum()) / n,
        val_loss=mean_loss(predictions) if predictions else None,
        val_accuracy=accuracy(predictions).value if predictions else None,
        train_secs=state.epoch_secs,
        images_per_sec=n / state.epoch_secs,
    )


def check_state(state: TrainState, data: TrainData) -> None:
    """Raise `Diverged` if a state between two steps is not worth saving."""
    check_losses(state, data)  # on a GPU, those of the epoch so far were not checked
    _check_weights(state, None)  # which the last step may have broken


def check_losses(state: TrainState, data: TrainData, *, since: int = 0) -> None:
    """Raise `Diverged` if the loss of a step from `since` on is NaN, infinite or exploded."""
    limit = MAX_LOSS_RATIO * math.log(len(data.classes))
    bad = ~(state.step_losses[since : state.step] < limit)  # NaN is not less than anything
    if bad.any():
        step = since + int(bad.nonzero()[0])
        raise _diverged(state, step, f"the loss became {float(state.step_losses[step]):.4g}")


def _check_weights(state: TrainState, predictions: Predictions | None) -> None:
    """Raise `Diverged` if an epoch's last step broke the weights, which no training loss shows."""
    finite = torch.stack([weight.isfinite().all() for weight in state.evaluated.parameters()])
    if not finite.all():
        raise _diverged(state, state.step - 1, "the weights became NaN or infinite")
    if predictions and not np.isfinite(predictions.logits).all():
        raise _diverged(state, state.step - 1, "the validation loss became NaN or infinite")


def _diverged(state: TrainState, step: int, fault: str) -> Diverged:
    return Diverged(
        f"{fault} at step {step + 1} (epoch {step // state.schedule.steps_per_epoch + 1}) with lr "
        f"{state.lrs[step]:.4g}; lower optimizer.lr, or warm up longer"
    )


@contextmanager
def deterministic_mode(wanted: bool) -> Iterator[None]:
    """Make torch refuse operations whose result varies between runs, and give the mode back."""
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(wanted or before)
        yield
    finally:
        torch.use_deterministic_algorithms(before)
