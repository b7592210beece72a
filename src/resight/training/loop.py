"""The one training loop, written out.

`fit` is a generator: it does a step, says so, and waits to be asked for the next. Whoever drives
it decides what to show, when to save and when to stop; nothing hooks into the loop itself.

    for event in fit(state, recipe, data):
        ...

Everything that changes during training is in `TrainState`. The batch, its augmentation and the
dropout of step k of epoch e depend on (seed, e, k) alone, so a state that is saved and loaded
goes on exactly where it stopped. What a step borrows, such as torch's global random numbers, it
gives back before the event.
"""

import math
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import Diverged, UsageError
from ..events import EpochDone, StepDone
from ..metrics.classification import accuracy, mean_loss
from ..optim.optimizers import add_l1_gradient, set_rates
from ..recipe import Plateau, Recipe, Training
from ..records import EpochRow, Predictions
from .batches import mix_seed, train_batches
from .distributed import SINGLE_PROCESS, Rank
from .precision import autocast, to_memory_format
from .predict import predict_split
from .state import TrainData, TrainState

# A mean cross entropy this many times that of guessing is an explosion, not a bad batch.
MAX_LOSS_RATIO = 50.0

# The purpose of a seed; 1 and 2 are the order and the augmentation of batches.py. From 3 on there
# is one for each rank.
DROPOUT_SEED = 3


def fit(
    state: TrainState, recipe: Recipe, data: TrainData, *, rank: Rank = SINGLE_PROCESS
) -> Generator[StepDone | EpochDone, None, None]:
    """Train from where `state` is to the end of the schedule.

    After every event `state` is whole: it can be saved, and the generator closed. Of several ranks
    each is given the same state, recipe and data, and comes to the same state.

    Raises:
        Diverged: the loss became NaN, infinite or exploded, or the weights did; `state` is then
            not worth saving.
        UsageError: the recipe has an "auto" that has not been settled.
    """
    if "auto" in (recipe.training.precision, recipe.training.micro_batch):
        raise UsageError(
            'the recipe has an "auto"; resolve it first with resight.training.autotune.resolve_auto'
        )
    model: nn.Module = state.model
    if recipe.training.compile:  # a last batch and smaller images are shapes of their own
        model = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    while len(state.rows) < recipe.schedule.epochs:
        yield from _train_epoch(state, model, recipe, data, rank)
        state.rows.append(_validate(state, recipe, data, rank))
        state.epoch_secs = 0.0
        best = best_epoch(state.rows, recipe.training.select)
        yield EpochDone(state.rows[-1], best=best == len(state.rows))


def _train_epoch(
    state: TrainState, model: nn.Module, recipe: Recipe, data: TrainData, rank: Rank
) -> Iterator[StepDone]:
    """The steps that are left of the epoch under way; `model` is `state.model`, maybe compiled."""
    training, device = recipe.training, data.train.images.device
    epoch, spe = len(state.rows), state.schedule.steps_per_epoch
    first = state.step - epoch * spe
    watched: list[float] = []
    if isinstance(recipe.schedule, Plateau):
        watched = [getattr(row, recipe.schedule.metric) for row in state.rows]
    batches = train_batches(
        data.train,
        recipe.augment,
        data.stats,
        batch_size=training.batch_size,
        seed=recipe.seed,
        epoch=epoch,
        first_step=first,
        rank=rank,
    )
    began = time.perf_counter() - state.epoch_secs
    for k, (images, labels) in enumerate(batches, first):  # (N, C, H, W) normalized, (N,)
        batch = min(training.batch_size, len(data.train) - k * training.batch_size)
        copies = rank.copies(batch)
        rates = state.schedule.at(state.step, watched)
        set_rates(state.optimizer, rates.lr, rates.momentum)
        state.optimizer.zero_grad(set_to_none=True)  # also what an interrupted step left behind
        state.model.train()
        images = to_memory_format(_resize(images, state, training), training)
        n = training.parts(len(labels), device.type)
        # Even parts: a leftover of one image would be a poor sample for batch norm.
        parts = list(zip(images.tensor_split(n), labels.tensor_split(n), strict=True))
        loss = torch.zeros((), device=device)
        correct = torch.zeros((), dtype=torch.int64, device=device)
        seed = mix_seed(recipe.seed, epoch, k, DROPOUT_SEED + rank.index)
        with _seeded(seed, device), _scaled_momentum(state.model, len(parts)):
            for x, y in parts:
                with autocast(training, device):
                    logits = model(x)  # (n, K)
                nll, objective = _cross_entropy(logits, y, recipe.loss.label_smoothing)
                state.scaler.scale(objective.sum() / (batch * copies)).backward()  # type: ignore[no-untyped-call]
                loss += nll.detach().sum() / (batch * copies)
                correct += (logits.argmax(1) == y).sum()
        if rank.count > 1:
            _sum_over_ranks(state.model, loss, correct, rank)
            correct //= copies
        if recipe.loss.l1 is not None:
            state.scaler.unscale_(state.optimizer)
            add_l1_gradient(state.model, recipe.loss.l1)
        with autocast(training, device):  # Muon multiplies matrices
            state.scaler.step(state.optimizer)
        state.scaler.update()
        if training.ema_decay is not None:
            state.average(training.ema_decay)

        state.step_losses[state.step] = loss
        state.step_correct[state.step] = correct
        state.lrs.append(rates.lr)
        state.momenta.append(math.nan if rates.momentum is None else rates.momentum)
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
            images=batch,
        )
    check_losses(state, data, since=epoch * spe)  # waits until the device has done the steps
    state.epoch_secs = time.perf_counter() - began


def best_epoch(rows: Sequence[EpochRow], select: str) -> int:
    """The epoch (from 1) whose weights are kept, by `training.select`.

    Of equal accuracies the one with the lower loss, and of equals in that too the first.
    """
    if select == "last":
        return len(rows)

    def rank(row: EpochRow) -> tuple[float, ...]:
        assert row.val_accuracy is not None  # without validation a recipe can only select "last"
        assert row.val_loss is not None
        return (row.val_loss,) if select == "val_loss" else (-row.val_accuracy, row.val_loss)

    return min(rows, key=rank).epoch  # the first of equals


def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """(cross entropy to report, objective to minimize), each (N,); they differ by the smoothing."""
    log_probs = F.log_softmax(logits.float(), dim=1)  # (N, K)
    nll = F.nll_loss(log_probs, labels, reduction="none")
    return nll, (1 - smoothing) * nll - smoothing * log_probs.mean(dim=1)


def _resize(images: Tensor, state: TrainState, training: Training) -> Tensor:
    """(N, C, H, W), at H = W = px as long as `training.progressive` says so."""
    early = training.progressive
    if early is None or state.step >= early.share * state.schedule.total_steps:
        return images
    return F.interpolate(images, size=(early.px, early.px), mode="bilinear", antialias=True)


def _validate(state: TrainState, recipe: Recipe, data: TrainData, rank: Rank) -> EpochRow:
    """The row of the epoch whose steps are done."""
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


def _sum_over_ranks(model: nn.Module, loss: Tensor, correct: Tensor, rank: Rank) -> None:
    """What belongs to the whole batch, in place of that of this rank's share: gradients, counts.

    Running statistics of norms become the mean over ranks: all of them are the same model.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    used = torch.ones(len(weights), device=loss.device)  # by how many ranks
    unused = [i for i, weight in enumerate(weights) if weight.grad is None]
    for i in unused:
        used[i] = 0
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    statistics = [s for norm in norms for s in norm.buffers() if s.is_floating_point()]
    for each in statistics:
        each /= rank.count
    counted = correct.float()  # of one dtype with the rest, so that there is one exchange
    rank.sum_([*gradients, *statistics, used, loss, counted])
    correct.copy_(counted)
    for i in unused:  # by others maybe: a branch they took; what none used stays without
        if used[i] > 0:
            weights[i].grad = gradients[i]


def check_losses(state: TrainState, data: TrainData, *, since: int = 0) -> None:
    """Raise `Diverged` if the loss of a step from `since` on is NaN, infinite or exploded."""
    limit = MAX_LOSS_RATIO * math.log(len(data.classes))
    bad = ~(state.step_losses[since : state.step] < limit)  # NaN is not less than anything
    if bad.any():
        step = since + int(bad.nonzero()[0])
        raise _diverged(state, step, f"the loss became {float(state.step_losses[step]):.4g}")


def _check_weights(state: TrainState, predictions: Predictions | None) -> None:
    """What the last step of an epoch broke shows in no training loss."""
    finite = torch.stack([weight.isfinite().all() for weight in state.evaluated.parameters()])
    if not finite.all():
        raise _diverged(state, state.step - 1, "the weights became NaN or infinite")
    if predictions and not np.isfinite(predictions.logits).all():
        raise _diverged(state, state.step - 1, "the validation loss became NaN or infinite")


def _diverged(state: TrainState, step: int, what: str) -> Diverged:
    return Diverged(
        f"{what} at step {step + 1} (epoch {step // state.schedule.steps_per_epoch + 1}) with lr "
        f"{state.lrs[step]:.4g}; lower optimizer.lr, or warm up longer"
    )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which dropout draws from; then give them back."""
    # torch.manual_seed would reseed every GPU, and on the CPU alone takes a hundred times longer.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":  # the one that fork_rng cannot give back
            torch.mps.manual_seed(seed)
        yield


@contextmanager
def _scaled_momentum(model: nn.Module, parts: int) -> Iterator[None]:
    """Batch norm's running statistics forget per step, not per micro-batch.

    Each of the m micro-batches of a step updates them, so a momentum p would reach back m times
    less far, and validation would follow the noise of single micro-batches: 1 - (1 - p)^(1/m)
    keeps the reach.
    """
    borrowed = [
        (module, module.momentum)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.momentum is not None  # None: the plain mean over all batches so far
        and parts > 1
    ]
    try:
        for norm, momentum in borrowed:
            norm.momentum = 1 - (1 - momentum) ** (1 / parts)
        yield
    finally:
        for norm, momentum in borrowed:
            norm.momentum = momentum


@contextmanager
def deterministic_mode(wanted: bool) -> Iterator[None]:
    """Make torch refuse operations whose result varies between runs; then as it was before."""
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(wanted or before)
        yield
    finally:
        torch.use_deterministic_algorithms(before)
