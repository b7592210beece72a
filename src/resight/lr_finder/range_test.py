"""The learning-rate range test (Smith 2015, https://arxiv.org/abs/1506.01186).

A few dozen training steps at ever higher rates, on your own model, optimizer and batches; then
everything is restored, so that training after the test is the training that would have been.

After each step the same few batches are scored, which are not trained on: so the curve shows the
effect of the rate and not of the images. The test stops once the loss is NaN or infinite, or twice
running above `stop_at` times the best smoothed loss and above the first loss.

The generator of a DataLoader is restored too. The place in an iterator that has already started
cannot be restored, nor can the workers of a DataLoader with `persistent_workers`.
"""

import inspect
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Adamax, NAdam, Optimizer, RAdam, RMSprop

from ..errors import UsageError, suggest
from ..networks.eval_mode import eval_mode
from ..networks.outputs import LossFunction, apply_loss
from ..networks.unwrap import check_differentiable, device_of
from ..optim.optimizers import lr_ratios, set_lrs
from ..records import FloatArray
from ..training.restore import preserve_positions, preserve_state, seed_everything, seeded_rng
from .batches import input_label_pair, num_images, to_device, training_pairs
from .references import reference_losses
from .suggest import HEADROOM_SGD, MAX_LR_ADAM, LRCurve, LRScale, analyze, smooth

# Whose steps have the size of the rate, whatever the gradient; see `MAX_LR_ADAM`.
_ADAM_KINDS = (Adam, Adamax, NAdam, RAdam, RMSprop)  # AdamW is an Adam


def lr_range_test(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: LossFunction,
    batches: Iterable[Any],
    *,
    start: float | None = None,
    end: float | None = None,
    steps: int = 60,
    scale: LRScale = "exponential",
    probe: int = 1,
    val_batches: Iterable[Any] | None = None,
    accumulate: int = 1,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    stop_at: float = 4.0,
    seed: int = 0,
) -> LRCurve:
    """Train at ever higher rates, record the loss after each step, and restore everything.

    After each step the same `probe` batches are scored, which are not trained on. The place in an
    iterator that has already started cannot be restored.

    Args:
        model: trained in place, then restored; see `preserve_state`.
        optimizer: its fastest group visits the rates, others keep their ratio; see `lr_ratios`.
        loss_fn: (outputs, labels) -> any mean loss of a batch, as a tensor of one number.
        batches: an iterable of (images, labels) that can be started again when it ends;
            `accumulate` of them are drawn for each of steps + 1, and `probe` before. Both parts may
            be nested in tuples and dictionaries.
        start, end: the range; None: see `default_range`.
        steps: how many rates, evenly spaced by factors ("exponential" `scale`) or "linear".
        probe: how many batches are set aside to score; 0: the next batch is scored.
        val_batches: scored instead, in evaluation mode. Never the test set.
        accumulate: batches a step.
        device: where batches are moved to; None: the model's device.
        dtype: bfloat16 or float16 for mixed precision; None: the model's own.
        stop_at: the test stops above this many times the best loss.
        seed: of dropout and of the order of a DataLoader without a generator.

    Raises:
        UsageError: a value is out of range, or an argument is not as above.
    """
    low, high = default_range(optimizer)
    lrs = lr_values(low if start is None else start, high if end is None else end, steps, scale)
    _check_trainable(model, optimizer)
    device = torch.device(device or device_of(model, torch.device("cpu")))
    trial = _Trial(model, optimizer, loss_fn, device, dtype, probe, accumulate, stop_at)
    with torch.inference_mode(False), torch.enable_grad():  # as called in a validation hook
        return trial.curve(lrs, scale, batches, val_batches, seed=seed)


def default_range(optimizer: Optimizer) -> tuple[float, float]:
    """Return the first and last rate to test for an optimizer.

    SGD moves a weight by lr / (1 - momentum) of its gradient in the long run; that is searched
    from 1e-3 to 100, which is 1e-4 to 10 at momentum 0.9. Other optimizers (Adam, RMSprop, ...)
    divide by the size of the gradient, so a step moves a weight by about lr itself, and weights are
    smaller than 1: 1e-6 to 1. A wider range costs steps on the flat part.
    """
    if isinstance(optimizer, SGD):
        fastest = max(optimizer.param_groups, key=lambda group: float(group["lr"]))
        reach = 1 - float(fastest["momentum"])
        return float(f"{1e-3 * reach:.2g}"), float(f"{100 * reach:.2g}")
    return 1e-6, 1.0


def lr_values(start: float, end: float, steps: int, scale: LRScale) -> FloatArray:
    """Return (steps,) rates from `start` to `end`, both included."""
    if scale not in get_args(LRScale):
        hint = suggest(str(scale), get_args(LRScale))
        raise UsageError(f'scale = "{scale}" is unknown{hint} (valid: exponential, linear)')
    if not (0 < start < end < math.inf):
        raise UsageError(f"start = {start:g} and end = {end:g} are no range; give 0 < start < end")
    if steps < 2:
        raise UsageError(f"steps = {steps} must be at least 2; 40 to 60 show the shape")
    space = np.geomspace if scale == "exponential" else np.linspace
    return space(start, end, steps)


def _check_trainable(model: nn.Module, optimizer: Optimizer) -> None:
    """Raise UsageError for an optimizer or weights that a plain training step cannot use."""
    check_differentiable(model)
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UsageError(
            f"{type(optimizer).__name__}.step() needs a closure, because it evaluates the loss "
            "several times a step; a range test is for optimizers that take one gradient a step, "
            "such as SGD or AdamW"
        )


@dataclass
class _Trial:
    """The steps of one range test; its fields are arguments of `lr_range_test`."""

    model: nn.Module
    optimizer: Optimizer
    loss_fn: LossFunction
    device: torch.device
    dtype: torch.dtype | None
    probe: int
    accumulate: int
    stop_at: float
    images: int = 0  # trained on so far
    initial_loss: float | None = None  # before the first step
    chance: float | None = None  # the loss of guessing, once it is measured
    floor: float | None = None  # the loss of a perfect answer, once it is measured
    sample: tuple[Any, Any] = field(default=(None, None))  # the last outputs and targets

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise UsageError(f"accumulate = {self.accumulate} must be at least 1")
        if self.probe < 0:
            raise UsageError(f"probe = {self.probe} must be at least 0")
        if not self.stop_at > 1:
            raise UsageError(f"stop_at = {self.stop_at} must be greater than 1")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def curve(
        self,
        lrs: FloatArray,
        scale: LRScale,
        batches: Iterable[Any],
        val_batches: Iterable[Any] | None,
        *,
        seed: int,
    ) -> LRCurve:
        """Run the test, restore everything, and analyze the curve."""
        modules = [m for m in (self.model, self.loss_fn) if isinstance(m, nn.Module)]
        with preserve_state(self.optimizer, *modules), preserve_positions(batches, val_batches):
            seed_everything(seed, self.device)
            losses, stopped = self.run(lrs, training_pairs(batches, self.device), val_batches)
        return analyze(
            lrs[: len(losses)],
            np.array(losses),
            images=self.images,
            scale=scale,
            stopped=stopped,
            chance=self.chance,
            floor=self.floor,
            initial_loss=self.initial_loss,
            max_lr=MAX_LR_ADAM if isinstance(self.optimizer, _ADAM_KINDS) else math.inf,
            headroom=HEADROOM_SGD if isinstance(self.optimizer, SGD) else 1.0,
        )

    def run(
        self,
        lrs: FloatArray,
        pairs: Iterator[tuple[Any, Any]],
        val_batches: Iterable[Any] | None,
    ) -> tuple[list[float], str | None]:
        """Return the loss after the step at each rate, and why the test ended early."""
        ratios = lr_ratios(self.optimizer)
        if not self.model.training:  # otherwise, a part that is frozen in evaluation mode stays so
            self.model.train()
        aside = list(islice(pairs, self.probe if val_batches is None else 0))

        def prepare() -> float:
            """Compute the gradients of the next step, and return the loss after the last."""
            loss = self.gradients(list(islice(pairs, self.accumulate)))
            if val_batches is not None:
                with eval_mode(self.model):
                    return self.score(
                        to_device(input_label_pair(b), self.device) for b in val_batches
                    )
            if not aside or not math.isfinite(loss):
                return loss
            with seeded_rng(0, self.device), torch.no_grad():  # the same dropout every time
                return self.score(aside)

        losses = [prepare()]
        if not math.isfinite(losses[0]):
            return [], f"the loss is {losses[0]} before the first step"
        self.initial_loss = losses[0]
        with self.autocast():
            self.chance, self.floor = reference_losses(self.loss_fn, *self.sample)
        for step, lr in enumerate(lrs.tolist(), 1):
            set_lrs(self.optimizer, lr, ratios)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            losses.append(prepare())
            if stopped := _why_stop(losses, self.stop_at, self.floor or 0.0):
                return losses[1:], f"{stopped} after step {step} of {len(lrs)}, at lr {lr:.3g}"
        return losses[1:], None

    def gradients(self, parts: list[tuple[Any, Any]]) -> float:
        """Return the mean loss over the images of all parts; leave its gradient."""
        sizes = [num_images(*part) for part in parts]
        self.images += sum(sizes)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part, size in zip(parts, sizes, strict=True):
            loss = self.loss(*part) * (size / sum(sizes))
            if not loss.requires_grad:
                raise UsageError(
                    "the loss has no gradient: every weight is frozen, or the model or loss_fn "
                    "computes without gradients; set requires_grad, or remove no_grad() and "
                    "detach()"
                )
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def score(self, batches: Iterable[tuple[Any, Any]]) -> float:
        """Return the mean loss over the images of all batches."""
        n, total = 0, 0.0
        for inputs, targets in batches:
            size = num_images(inputs, targets)
            total += float(self.loss(inputs, targets)) * size
            n += size
        if n == 0:
            raise UsageError(
                "val_batches gave no batch; give a list or a DataLoader, read once a step"
            )
        return total / n

    def loss(self, inputs: Any, targets: Any) -> Tensor:
        with self.autocast():
            loss, outputs = apply_loss(self.loss_fn, self.model(inputs), targets)
        self.sample = (outputs.detach() if isinstance(outputs, Tensor) else None, targets)
        return loss

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)


def _why_stop(losses: list[float], stop_at: float, floor: float) -> str | None:
    """Why the test ends after the last of `losses`, the first of which is before any step."""
    loss = losses[-1]
    if not math.isfinite(loss):
        return f"the loss became {loss}"
    best = float(np.nanmin(smooth(np.array(losses) - floor)))
    if min(losses[-2:]) - floor > max(stop_at * best, losses[0] - floor):
        above = f"as far above {floor:.3g} as " if floor > 0.01 * loss else ""
        return f"the loss rose to {loss:.3g}, over {stop_at:g} times {above}its best,"
    return None
