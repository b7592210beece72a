"""The learning-rate range test (Smith 2015, https://arxiv.org/abs/1506.01186).

A few dozen training steps at ever higher rates, on anyone's model, optimizer and batches; then
everything is given back, so that training after it is the training that would have been.
"""

import difflib
import math
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from ..errors import UsageError
from ..networks.eval_mode import eval_mode
from ..records import FloatArray
from ..training.restore import preserve_positions, preserve_state
from .suggest import HEADROOM_SGD, LRCurve, LRScale, analyze, smooth

LossFunction = Callable[[Any, Tensor], Tensor]


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
    """Train at ever higher rates, record the loss after each step, and give everything back.

    The loss after a step is that of the same few batches every time, which are not trained on: so
    the curve shows what the rate does and not which images came. The test stops once the loss is
    NaN or infinite, or twice running above `stop_at` times the best smoothed loss and above the
    loss before the first step.

    Args:
        model: trained in place, then given back; see `preserve_state`.
        optimizer: its first group visits the rates; other groups keep their ratio to it.
        loss_fn: (outputs, labels) -> the mean loss of a batch, as a tensor of one number.
        batches: anything that gives (images, labels) and can be started again when it ends.
            `accumulate` are drawn for each of steps + 1, and `probe` before. Of a DataLoader with
            a generator the generator is given back; what cannot be is the place in an iterator
            that is already under way, and the workers of one with `persistent_workers`.
        start, end: the range; None: see `default_range`.
        steps: how many rates, evenly spaced.
        scale: "exponential" (by factors) or "linear" (by differences).
        probe: how many batches are set aside to score, in training mode and without a gradient;
            0: the loss after a step is that of the next batch, as in other tools.
        val_batches: score on these instead, in evaluation mode. Never the test set.
        accumulate: batches a step.
        device: where batches are moved to; None: where the model is.
        dtype: bfloat16 or float16 for mixed precision; None: as the model is.
        seed: of dropout and of the order of a DataLoader without a generator.

    Raises:
        UsageError: a value out of range, or batches or a loss that are not as above.
    """
    low, high = default_range(optimizer)
    lrs = lr_values(low if start is None else start, high if end is None else end, steps, scale)
    if accumulate < 1:
        raise UsageError(f"accumulate = {accumulate} must be at least 1")
    if probe < 0:
        raise UsageError(f"probe = {probe} must be at least 0")
    if not stop_at > 1:
        raise UsageError(f"stop_at = {stop_at} must be greater than 1")
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    modules = [m for m in (model, loss_fn) if isinstance(m, nn.Module)]
    trial = _Trial(model, optimizer, loss_fn, torch.device(device), dtype)
    with (
        preserve_state(optimizer, *modules),
        preserve_positions(batches, val_batches),
        torch.enable_grad(),
    ):
        seed_everything(seed, trial.device)
        losses, stopped = trial.climb(
            lrs,
            _restarted(batches),
            val_batches,
            probe=probe,
            accumulate=accumulate,
            stop_at=stop_at,
        )
    return analyze(
        lrs[: len(losses)],
        np.array(losses),
        images=trial.images,
        scale=scale,
        stopped=stopped,
        chance=trial.chance,
        headroom=HEADROOM_SGD if isinstance(optimizer, SGD) else 1.0,
    )


def default_range(optimizer: Optimizer) -> tuple[float, float]:
    """Where to look: the first and last rate of a range test.

    SGD moves a weight by lr / (1 - momentum) of its gradient in the long run; that is searched
    from 1e-3 to 100, which is 1e-4 to 10 at momentum 0.9. The others (Adam, RMSprop, ...) divide
    by the size of the gradient, so a step moves a weight by about lr itself, and weights are
    smaller than 1: 1e-6 to 1. A wider range costs steps on the flat part.
    """
    if isinstance(optimizer, SGD):
        reach = 1 - float(optimizer.param_groups[0]["momentum"])
        return float(f"{1e-3 * reach:.2g}"), float(f"{100 * reach:.2g}")
    return 1e-6, 1.0


def lr_values(start: float, end: float, steps: int, scale: LRScale) -> FloatArray:
    """(steps,) rates from `start` to `end`, both included."""
    if scale not in get_args(LRScale):
        near = difflib.get_close_matches(str(scale), get_args(LRScale), 1)
        hint = f', did you mean "{near[0]}"?' if near else ""
        raise UsageError(f'scale = "{scale}" is not known{hint} (valid: exponential, linear)')
    if not (0 < start < end < math.inf):
        raise UsageError(f"start = {start:g} and end = {end:g}: need 0 < start < end")
    if steps < 2:
        raise UsageError(f"steps = {steps} must be at least 2; 40 to 60 show the shape")
    space = np.geomspace if scale == "exponential" else np.linspace
    return space(start, end, steps)


class _Trial:
    """The steps of one range test; whoever runs it gives back what it changes."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: LossFunction,
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        self.model, self.optimizer, self.loss_fn = model, optimizer, loss_fn
        self.device, self.dtype = device, dtype
        self.ratios = _ratios(optimizer)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
        self.images = 0
        self.chance: float | None = None

    def climb(
        self,
        lrs: FloatArray,
        batches: Iterator[Any],
        val_batches: Iterable[Any] | None,
        *,
        probe: int,
        accumulate: int,
        stop_at: float,
    ) -> tuple[list[float], str | None]:
        """The loss after the step at each rate, and why it ended early."""
        if not self.model.training:  # otherwise, a part that is frozen in evaluation mode stays so
            self.model.train()
        aside = [] if val_batches is not None else [self.pair(next(batches)) for _ in range(probe)]

        def prepare() -> float:
            """The gradients of the next step, and the loss after the last."""
            loss = self.gradients([next(batches) for _ in range(accumulate)])
            if val_batches is not None:
                with eval_mode(self.model):
                    return self.score(map(self.pair, val_batches))
            return self.probed(aside) if aside and math.isfinite(loss) else loss

        losses = [prepare()]
        if not math.isfinite(losses[0]):
            return [], f"the loss is {losses[0]} before the first step"
        for step, lr in enumerate(lrs.tolist(), 1):
            for group, ratio in zip(self.optimizer.param_groups, self.ratios, strict=True):
                group["lr"] = lr * ratio
            self.scaler.step(self.optimizer)
            self.scaler.update()
            losses.append(loss := prepare())
            where = f"after step {step} of {len(lrs)}, at lr {lr:.3g}"
            if not math.isfinite(loss):
                return losses[1:], f"the loss became {loss} {where}"
            best = float(np.nanmin(smooth(np.array(losses))))
            if min(losses[-2:]) > max(stop_at * best, losses[0]):
                text = f"the loss rose to {loss:.3g}, over {stop_at:g} times its best, {where}"
                return losses[1:], text
        return losses[1:], None

    def gradients(self, parts: list[Any]) -> float:
        """The mean loss over the images of all parts, and its gradient in the parameters."""
        pairs = [self.pair(part) for part in parts]
        n = sum(len(labels) for _, labels in pairs)
        self.images += n
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for images, labels in pairs:
            loss = self.loss(images, labels) * (len(labels) / n)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def probed(self, aside: list[tuple[Any, Tensor]]) -> float:
        """The mean loss of the batches set aside, with the same dropout every time."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            _seed_torch(0, self.device)
            with torch.no_grad():
                return self.score(aside)

    def score(self, batches: Iterable[tuple[Any, Tensor]]) -> float:
        """The mean loss over the images of all batches."""
        n, total = 0, 0.0
        for images, labels in batches:
            total += float(self.loss(images, labels)) * len(labels)
            n += len(labels)
        if n == 0:
            raise UsageError(
                "val_batches gave no batch; give a list or a DataLoader, read once a step"
            )
        return total / n

    def loss(self, images: Any, labels: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            outputs = self.model(images)
            loss = self.loss_fn(outputs, labels)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = (
                f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            )
            raise UsageError(f"loss_fn gave {found}; it must give one number, the mean of a batch")
        classes = isinstance(outputs, Tensor) and outputs.ndim == 2 and labels.ndim == 1
        if classes and not labels.is_floating_point():
            self.chance = math.log(outputs.shape[1])
        return loss.reshape(())

    def pair(self, batch: Any) -> tuple[Any, Tensor]:
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise UsageError(
                f"a batch is a {type(batch).__name__}, not (images, labels); wrap the batches in "
                "a generator that gives pairs"
            )
        return batch[0].to(self.device), batch[1].to(self.device)


def _ratios(optimizer: Optimizer) -> list[float]:
    """The rate of each group over that of the first."""
    for name in ("lr", "initial_lr"):  # a warm-up may begin at 0
        rates = [float(group.get(name, 0.0)) for group in optimizer.param_groups]
        if rates[0] > 0:
            return [rate / rates[0] for rate in rates]
    if len(rates) == 1:
        return [1.0]
    raise UsageError(
        "the optimizer's first group has lr = 0, so its ratio to the others is not known; "
        "build the optimizer with a rate above 0"
    )


def _restarted(batches: Iterable[Any]) -> Iterator[Any]:
    """Batch after batch, from the first again where they end."""
    drawn = 0
    while True:
        before = drawn
        for batch in batches:
            drawn += 1
            yield batch
        if drawn == 0:
            raise UsageError("batches is empty; the range test needs at least one batch")
        if drawn == before:
            raise UsageError(
                f"batches ended after {drawn} and cannot be started again; give a list, a "
                "DataLoader, or an iterator that lasts for steps + 1 + probe batches"
            )


def seed_everything(seed: int, device: torch.device) -> None:
    """The generators that training may draw from: Python's, NumPy's and torch's."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the user's augmentation may draw from it
    _seed_torch(seed, device)


def _seed_torch(seed: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
