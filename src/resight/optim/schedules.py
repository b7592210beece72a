"""A schedule as a value: learning rate and momentum as a pure function of the step.

A `Schedule` can be drawn, described and checked before training, and holds no state to save:
resuming at step k asks for step k. Only `plateau` needs more, the validation metrics so far.

Code counts steps from 0, text counts them from 1, so that "epoch 5" is the moment its last step
is done. A number of epochs is rounded to the nearest step, except at the peak of `one_cycle`, which
may lie between two steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .. import recipe
from ..errors import UsageError

_SMALLEST_DROP = 1e-8  # plateau: a smaller drop is not made (`eps` of ReduceLROnPlateau)


@dataclass(frozen=True)
class Rates:
    """The learning rate of one step, and its momentum: in Adam and AdamW beta1."""

    lr: float
    momentum: float


@dataclass(frozen=True)
class Schedule:
    """The learning rate and momentum of every step of a run, from its highest rate `lr`."""

    spec: recipe.Schedule
    lr: float
    momentum: float  # the optimizer's own, used where the schedule has no cycle of it
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        return self.spec.epochs * self.steps_per_epoch

    @property
    def cycles_momentum(self) -> bool:
        """Whether the momentum changes with the rate; otherwise the optimizer's own stays."""
        spec = self.spec
        return (
            isinstance(spec, recipe.OneCycle | recipe.Triangular) and spec.momentum_low is not None
        )

    def at(self, step: int, metrics: Sequence[float] = ()) -> Rates:
        """Return the learning rate and momentum of a step in 0..total_steps - 1.

        `metrics` holds the validation metric of each finished epoch; only plateau reads it, and
        only the epochs that end before this step.

        Raises:
            UsageError: the step is outside the run, or metrics are missing.
        """
        if not 0 <= step < self.total_steps:
            raise UsageError(
                f"step = {step} is outside the schedule; valid steps are 0 to "
                f"{self.total_steps - 1} ({self.spec.epochs} epochs of {self.steps_per_epoch})"
            )
        match self.spec:
            case recipe.OneCycle():
                return _one_cycle(self, self.spec, step)
            case recipe.Triangular():
                return _triangular(self, self.spec, step)
            case recipe.Plateau():
                lr = _plateau(self, self.spec, metrics, epoch=step // self.steps_per_epoch)
            case recipe.Cosine():
                lr = _cosine(self, self.spec, step)
            case recipe.MultiStep():
                drops = sum(step >= self.steps(mark) for mark in self.spec.marks)
                lr = self.lr * self.spec.factor**drops
            case recipe.Constant():
                lr = self.lr
        return Rates(lr, self.momentum)

    def steps(self, epochs: float) -> int:
        """Return the number of steps nearest to a number of epochs, whole or not."""
        return round(epochs * self.steps_per_epoch)


def schedule_of(spec: recipe.Recipe, *, steps_per_epoch: int) -> Schedule:
    """Build the schedule of a recipe, with its optimizer's rate and momentum.

    Raises:
        UsageError: an epoch without a step.
    """
    if steps_per_epoch < 1:
        raise UsageError(f"steps_per_epoch = {steps_per_epoch} must be at least 1")
    optimizer = spec.optimizer
    has_betas = recipe.Adam | recipe.AdamW
    momentum = optimizer.beta1 if isinstance(optimizer, has_betas) else optimizer.momentum
    return Schedule(spec.schedule, optimizer.lr, momentum, steps_per_epoch)


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Count the training batches of n images; the last may be smaller.

    A single image left over makes no batch: batch norm can learn nothing from it, and on a 1x1
    map cannot even compute. Another order leaves another image out in the next epoch.
    """
    check_batch_size(batch_size)
    full, rest = divmod(n, batch_size)
    return max(1, full + (rest > 1))


def check_batch_size(batch_size: int) -> None:
    """Raise UsageError unless a batch has at least one image."""
    if batch_size < 1:
        raise UsageError(f"batch_size = {batch_size} must be at least 1")


def _momentum(schedule: Schedule, spec: recipe.OneCycle | recipe.Triangular, lift: float) -> float:
    """High where the rate is low and back; lift 0 is the foot of the cycle, 1 its peak."""
    if spec.momentum_low is None or spec.momentum_high is None:
        return schedule.momentum
    return spec.momentum_high - (spec.momentum_high - spec.momentum_low) * lift


def _one_cycle_ends(schedule: Schedule, spec: recipe.OneCycle) -> tuple[float, float | None]:
    """The steps of the peak and, with three phases, of the return to the start; may be fractions.

    The convention of torch.optim.lr_scheduler.OneCycleLR: a phase of n steps that begins at
    step 0 ends at n - 1, so the peak falls on the last step of `peak_epoch`.
    """
    fraction = 0.3 if spec.peak_epoch is None else spec.peak_epoch / spec.epochs
    rise = fraction * schedule.total_steps
    return rise - 1, 2 * rise - 2 if spec.three_phase else None


def _one_cycle(schedule: Schedule, spec: recipe.OneCycle, step: int) -> Rates:
    """Smith 2018, https://arxiv.org/abs/1803.09820; the last step has the end rate."""
    start, peak = schedule.lr / spec.div, schedule.lr
    end = start / spec.final_div
    top, back = _one_cycle_ends(schedule, spec)
    last = schedule.total_steps - 1

    if step <= top:
        begin, stop, lr_begin, lr_stop = 0.0, top, start, peak
    elif back is None:
        begin, stop, lr_begin, lr_stop = top, last, peak, end
    elif step <= back:
        begin, stop, lr_begin, lr_stop = top, back, peak, start
    else:
        begin, stop, lr_begin, lr_stop = back, last, start, end
    share = (step - begin) / (stop - begin) if stop > begin else 1.0  # of this phase
    if spec.anneal == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    lift = share if step <= top else 1 - share if back is None or step <= back else 0.0
    return Rates(lr_begin + (lr_stop - lr_begin) * share, _momentum(schedule, spec, lift))


def _half_cycle(schedule: Schedule, spec: recipe.Triangular) -> int:
    return max(1, schedule.steps(spec.half_cycle_epochs))


def _triangular(schedule: Schedule, spec: recipe.Triangular, step: int) -> Rates:
    """The zigzag, https://arxiv.org/abs/1506.01186: with s steps a half cycle,

    cycle = floor(1 + i / 2s),  x = |i / s - 2 cycle + 1|,  lr = lo + (hi - lo) max(0, 1 - x).

    The height (hi - lo) halves every cycle in triangular2 and shrinks every step in exp_range.
    """
    low, high = schedule.lr / spec.div, schedule.lr
    half = _half_cycle(schedule, spec)
    cycle = 1 + step // (2 * half)
    x = abs(step / half - 2 * cycle + 1)
    lift = max(0.0, 1 - x)
    if spec.name == "triangular2":
        lift *= 0.5 ** (cycle - 1)
    elif spec.name == "exp_range":
        lift *= spec.gamma**step
    lr = min(high, low + (high - low) * lift)  # the sum can round up past `high`
    return Rates(lr, _momentum(schedule, spec, lift))


def _plateau(
    schedule: Schedule, spec: recipe.Plateau, metrics: Sequence[float], *, epoch: int
) -> float:
    """Replay the finished epochs as torch.optim.lr_scheduler.ReduceLROnPlateau would see them."""
    if len(metrics) < epoch:
        raise UsageError(
            f"the plateau schedule needs {spec.metric} of the {epoch} epochs before this step, "
            f"but was given {len(metrics)}; give one value for each epoch"
        )
    best: float | None = None
    bad = wait = 0  # epochs without improvement; epochs of cooldown left
    lr = schedule.lr
    for value in metrics[:epoch]:
        best, bad = (value, 0) if best is None or _improves(spec, value, best) else (best, bad + 1)
        if wait > 0:
            wait, bad = wait - 1, 0
        if bad > spec.patience:
            lower = max(lr * spec.factor, spec.min_lr)
            lr = lower if lr - lower > _SMALLEST_DROP else lr
            bad, wait = 0, spec.cooldown
    return lr


def _improves(spec: recipe.Plateau, value: float, best: float) -> bool:
    """Whether a metric is better than the best so far, by more than the threshold.

    A relative threshold is a part of |best|. PyTorch takes a part of `best`, so that a negative
    loss, such as a log likelihood, improves there while it gets worse.
    """
    sign = -1 if spec.metric == "val_loss" else 1
    if spec.threshold_mode == "abs":
        limit = best + sign * spec.threshold
    else:
        limit = best * (1 + (sign if best >= 0 else -sign) * spec.threshold)
    return sign * value > sign * limit


def _cosine(schedule: Schedule, spec: recipe.Cosine, step: int) -> float:
    """https://arxiv.org/abs/1608.03983, after CosineAnnealingLR with T_max = the steps left.

    No step is wasted on a rate of 0: the first warm-up step has lr / warm-up steps, and the
    cosine would reach its floor one step after the last.
    """
    warmup = schedule.steps(spec.warmup_epochs)
    if step < warmup:
        return schedule.lr * (step + 1) / warmup
    floor = schedule.lr * spec.final_fraction
    share = (step - warmup) / (schedule.total_steps - warmup)
    return floor + (schedule.lr - floor) * (1 + math.cos(math.pi * share)) / 2


def describe(schedule: Schedule) -> str:
    """Return one line that names the rates at the corners of a schedule."""
    spec = schedule.spec
    match spec:
        case recipe.OneCycle():
            ends = [end for end in _one_cycle_ends(schedule, spec) if end is not None]
            text = _corners(schedule, [max(0, round(end)) for end in ends])
        case recipe.Triangular():
            half = _half_cycle(schedule, spec)
            low, high = f"{schedule.lr / spec.div:.4g}", f"{schedule.lr:.4g}"
            shrink = {
                "triangular2": "; the height halves every cycle",
                "exp_range": f"; the height shrinks by {spec.gamma:g} every step",
            }
            text = (
                f"{low} -> {high} -> {low} every {_epoch(schedule, 2 * half - 1)} epochs "
                f"({2 * half} steps of {schedule.total_steps}){shrink.get(spec.name, '')}"
            )
        case recipe.Plateau():
            cooldown = f", then waits {_count(spec.cooldown, 'epoch')}" if spec.cooldown else ""
            text = (
                f"{schedule.lr:.4g} at the start; drops after {_count(spec.patience + 1, 'epoch')} "
                f"without improvement of {spec.metric} (times {spec.factor:g}, "
                f"not below {spec.min_lr:g}){cooldown}"
            )
        case recipe.Cosine():
            warm = schedule.steps(spec.warmup_epochs)
            text = _corners(schedule, [warm - 1] if warm > 1 else [])
        case recipe.MultiStep():
            drops = [
                f", {schedule.at(step).lr:.4g} from step {step + 1} (after epoch {mark:g})"
                for mark in spec.marks
                if (step := schedule.steps(mark)) < schedule.total_steps
            ]
            text = f"{schedule.at(0).lr:.4g} at the start" + "".join(drops)
        case recipe.Constant():
            text = f"{schedule.lr:.4g} at every one of {_count(schedule.total_steps, 'step')}"
    momentum = f"{schedule.momentum:g}"
    if isinstance(spec, recipe.OneCycle | recipe.Triangular) and schedule.cycles_momentum:
        momentum = f"{spec.momentum_high:g} -> {spec.momentum_low:g} -> {spec.momentum_high:g}"
    return f"{spec.name}: {text}; momentum {momentum}"


def _corners(schedule: Schedule, steps: Sequence[int]) -> str:
    """The rates at the start, at these steps and at the end."""
    total = schedule.total_steps
    middle = [
        f"{schedule.at(step).lr:.4g} at epoch {_epoch(schedule, step)} (step {step + 1} of {total})"
        for step in steps
    ]
    start, end = schedule.at(0).lr, schedule.at(total - 1).lr
    return ", ".join([f"{start:.4g} at the start", *middle, f"{end:.4g} at the end"])


def _epoch(schedule: Schedule, step: int) -> str:
    """The epochs done after a step, with two decimals where they are needed."""
    return f"{round((step + 1) / schedule.steps_per_epoch, 2):g}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"
