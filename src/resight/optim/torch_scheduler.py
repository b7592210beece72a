"""Every schedule as a standard PyTorch scheduler, for your own loop.

    schedule = resight.schedule("resnet9", steps_per_epoch=len(loader))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4, momentum=0.9)
    scheduler = resight.ScheduleLR(optimizer, schedule)
    for epoch in range(schedule.spec.epochs):
        for images, labels in loader:
            ...
            optimizer.step()
            scheduler.step()
        scheduler.end_epoch(val_loss)

If another optimizer steps than the one a scheduler was built on, the rate never changes. PyTorch's
own schedulers do not notice it; this one raises an error.
"""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..errors import UsageError
from ..recipe import Plateau
from .optimizers import set_rates
from .schedules import Schedule


class ScheduleLR(LRScheduler):
    """A PyTorch scheduler that sets learning rate and momentum (Adam: beta1) before each step.

    The group with the highest rate gets the schedule's rate, and other groups keep their ratio to
    it, unless the groups carry a factor "lr_scale". Groups without a momentum stay without one.

    `allow_skipped`: so many optimizer steps in a row may be skipped, as a GradScaler does while it
    looks for its scale (20 is enough for float16). By default none.

    Raises:
        UsageError: `optimizer` is no optimizer, or has no momentum for a schedule that cycles it.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, *, allow_skipped: int = 0) -> None:
        if not isinstance(optimizer, Optimizer):
            raise UsageError(
                f"{type(optimizer).__name__} is not a torch.optim.Optimizer; give the optimizer "
                "that steps"
            )
        groups = optimizer.param_groups
        self._has_momentum = all("betas" in group or "momentum" in group for group in groups)
        if getattr(schedule.spec, "momentum_low", None) is not None and not self._has_momentum:
            raise UsageError(
                f"the schedule cycles the momentum, but {type(optimizer).__name__} has none; "
                'set momentum_low and momentum_high to "none"'
            )
        highest = max(float(group["lr"]) for group in groups)
        for group in groups:
            group.setdefault("lr_scale", float(group["lr"]) / highest if highest > 0 else 1.0)
        self.schedule = schedule
        self.metrics: list[float] = []  # of each finished epoch; plateau only
        self.allow_skipped = allow_skipped
        self._taken = self._skipped = 0  # optimizer steps since step(); steps without one in a row
        self._stepping = False
        optimizer.register_step_pre_hook(self._before_optimizer_step)
        optimizer.register_step_post_hook(self._after_optimizer_step)
        super().__init__(optimizer)  # calls step(), which sets the rates of step 0

    def step(self, epoch: int | None = None) -> None:
        """Set the rates of the next step. Call it once after every `optimizer.step()`.

        `epoch` is only there because PyTorch has it. After the last step the rates stay.

        Raises:
            UsageError: the optimizer has not stepped since (another one does), or more than once;
                the schedule is over; plateau was not given the metric of an epoch.
        """
        if epoch is not None:
            raise UsageError(
                f"step({epoch}): a schedule goes step by step; call step() after every "
                "optimizer.step(), and end_epoch(metric) after validation"
            )
        if self.last_epoch >= 0:  # PyTorch's name for the steps done; -1 while being built
            self._check()
        self._taken = 0
        self.last_epoch += 1
        self._set()

    def end_epoch(self, metric: float | Tensor | None = None) -> None:
        """Record the validation metric of the epoch that has just ended; only plateau needs it.

        Call it after the epoch's last `step()`. Other schedules accept the call too, so that one
        loop does for all; they only check that an epoch does end here.

        Raises:
            UsageError: no epoch has just ended, or plateau is given no metric.
        """
        done, rest = divmod(self.last_epoch, self.schedule.steps_per_epoch)
        if rest or not done:
            raise UsageError(
                f"end_epoch() after step {self.last_epoch}, but the schedule has epochs of "
                f"{self.schedule.steps_per_epoch} steps; build it with steps_per_epoch=len(loader)"
            )
        if not isinstance(self.schedule.spec, Plateau):
            return
        if metric is None:
            raise UsageError(f"plateau needs end_epoch({self.schedule.spec.metric}) of each epoch")
        if len(self.metrics) == done:
            raise UsageError(f"end_epoch() was called twice after epoch {done}")
        self.metrics.append(float(metric))
        self._set()

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each group for the next step."""
        lr = self.schedule.at(self._next, self.metrics).lr
        return [lr * group["lr_scale"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return plain Python, which `torch.load(weights_only=True)` reads back."""
        return {
            "step": self.last_epoch,
            "metrics": list(self.metrics),
            "schedule": _as_plain(self.schedule),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved `state_dict`, and set the rates of the next step.

        Raises:
            UsageError: the state was saved with another schedule.
        """
        current, saved = _as_plain(self.schedule), state_dict["schedule"]
        for name in current | saved:
            if current.get(name) != saved.get(name):
                raise UsageError(
                    f"the scheduler was saved with {name} = {saved.get(name)}, but this one has "
                    f"{current.get(name)}; build it with the same schedule"
                )
        self.last_epoch, self.metrics = state_dict["step"], list(state_dict["metrics"])
        self._taken = self._skipped = 0
        self._set()

    @property
    def _next(self) -> int:
        """The step to come; at the end of the run, or of an epoch before its metric, the last."""
        last = self.schedule.total_steps - 1
        if isinstance(self.schedule.spec, Plateau):
            known = len(self.metrics) + 1  # epochs whose rate is known
            last = min(last, known * self.schedule.steps_per_epoch - 1)
        return min(self.last_epoch, last)

    def _set(self) -> None:
        rates = self.schedule.at(self._next, self.metrics)
        groups = self.optimizer.param_groups
        before = [group["lr"] for group in groups]
        set_rates(self.optimizer, rates.lr, rates.momentum if self._has_momentum else None)
        for group, lr in zip(groups, before, strict=True):
            if isinstance(lr, Tensor):  # captured in a graph: the same tensor must change
                group["lr"] = lr.fill_(group["lr"])
        self._last_lr = [
            lr.clone() if isinstance(lr, Tensor) else lr for lr in (g["lr"] for g in groups)
        ]

    def _check(self) -> None:
        """Raise UsageError for calls that would go wrong without a sign."""
        total, per_epoch = self.schedule.total_steps, self.schedule.steps_per_epoch
        if self.last_epoch >= total:
            raise UsageError(
                f"the schedule is over: it has {total} steps ({self.schedule.spec.epochs} epochs "
                f"of {per_epoch}), and this is step {total + 1}; stop here, or build it longer"
            )
        if isinstance(self.schedule.spec, Plateau) and self.last_epoch // per_epoch > len(
            self.metrics
        ):
            raise UsageError(
                f"epoch {len(self.metrics) + 1} is over, but plateau was not given its metric; "
                f"call end_epoch({self.schedule.spec.metric}) after validation"
            )
        self._skipped = 0 if self._taken else self._skipped + 1
        if self._skipped > self.allow_skipped:
            raise UsageError(
                f"the {type(self.optimizer).__name__} of this scheduler did not step since the "
                "last scheduler.step(): build the scheduler on the optimizer that steps, and call "
                "it after optimizer.step() (with a GradScaler: allow_skipped=20)"
            )
        if self._taken > 1:
            raise UsageError(
                f"optimizer.step() was called {self._taken} times since the last "
                "scheduler.step(); call scheduler.step() after each optimizer.step()"
            )

    def _before_optimizer_step(self, *_: object) -> None:
        self._stepping = True

    def _after_optimizer_step(self, *_: object) -> None:
        # A class that extends another's step() calls the hooks for both: it is one step.
        self._taken += self._stepping
        self._stepping = False


def _as_plain(schedule: Schedule) -> dict[str, Any]:
    return {
        **schedule.spec.model_dump(),
        "lr": schedule.lr,
        "momentum": schedule.momentum,
        "steps_per_epoch": schedule.steps_per_epoch,
    }
