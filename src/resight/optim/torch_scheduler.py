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
from .optimizers import lr_ratios, set_lrs, set_momentum
from .schedules import Schedule

_STEPS, _IN_STEP = "_resight_steps", "_resight_in_step"  # attributes of an optimizer


class ScheduleLR(LRScheduler):
    """A PyTorch scheduler that sets learning rate and momentum (Adam: beta1) before each step.

    The group with the highest rate gets the schedule's rate, and other groups keep the ratio that
    they have to it now (`lr_ratios`); a group that is added later keeps the ratio that its rate has
    to the schedule's rate then. Only a schedule that cycles the momentum sets it.

    `last_epoch`: the last step that is done, in PyTorch's words; -1 starts at the first step.

    `allow_skipped`: so many optimizer steps in a row may be skipped, as a GradScaler does while it
    looks for its scale (20 is enough for float16). By default none.

    Raises:
        UsageError: `optimizer` is no optimizer, or has no momentum for a schedule that cycles it;
            `last_epoch` is outside the schedule, or in a later epoch of plateau.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule,
        last_epoch: int = -1,
        *,
        allow_skipped: int = 0,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise UsageError(
                f"{type(optimizer).__name__} is not a torch.optim.Optimizer; give the optimizer "
                "that steps"
            )
        groups = optimizer.param_groups
        has_momentum = all("betas" in group or "momentum" in group for group in groups)
        if schedule.cycles_momentum and not has_momentum:
            raise UsageError(
                f"the schedule cycles the momentum, but {type(optimizer).__name__} has none; "
                'set momentum_low and momentum_high to "none"'
            )
        _check_last_epoch(schedule, last_epoch)
        for group in groups:  # PyTorch asks for it where last_epoch is given
            group.setdefault("initial_lr", float(group["lr"]))
        self.schedule = schedule
        self.metrics: list[float] = []  # of each finished epoch; plateau only
        self.allow_skipped = allow_skipped
        self._ratios = lr_ratios(optimizer)
        self._lr = 0.0  # the schedule's rate, as it was last set
        self._counted: int | None = None  # optimizer steps at the last call; None: not known
        self._skipped = 0  # calls in a row without an optimizer step
        super().__init__(optimizer, last_epoch)  # calls step(), which sets the first rates

    def step(self, epoch: int | None = None) -> None:
        """Set the rates of the next step. Call it once after every `optimizer.step()`.

        After the last step the rates stay. `epoch` is there for SequentialLR, which starts a
        scheduler by step(0) when its turn comes.

        Raises:
            UsageError: the optimizer has not stepped since (another one does), or more than once;
                the schedule is over; plateau was not given the metric of an epoch.
        """
        count = _count_steps(self.optimizer)
        taken = None if count is None or self._counted is None else count - self._counted
        if epoch == 0 and (self.last_epoch < 0 or (self.last_epoch == 0 and not taken)):
            self.last_epoch = -1
        elif epoch is not None:
            raise UsageError(
                f"step({epoch}): a schedule goes step by step; call step() after every "
                "optimizer.step(), and end_epoch(metric) after validation"
            )
        if self.last_epoch >= 0 and taken is not None:
            self._check(taken)
        self._counted = count or 0
        self.last_epoch += 1  # PyTorch's name for the steps done; -1 before the first
        self._set()

    def _update_lr(self, epoch: int | None = None) -> None:
        self.step(epoch)  # SequentialLR calls this in place of step(0)

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
        return [lr * ratio for ratio in self._group_ratios()]

    def state_dict(self) -> dict[str, Any]:
        """Return plain Python, which `torch.load(weights_only=True)` reads back."""
        return {
            "step": self.last_epoch,
            "metrics": list(self.metrics),
            "lr_ratios": self._group_ratios(),
            "schedule": _as_plain(self.schedule),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved `state_dict`, and set the rates of the next step.

        Raises:
            UsageError: the state was saved with another schedule, or with more parameter groups.
        """
        current, saved = _as_plain(self.schedule), state_dict["schedule"]
        for name in current | saved:
            if current.get(name) != saved.get(name):
                raise UsageError(
                    f"the scheduler was saved with {name} = {saved.get(name)}, but this one has "
                    f"{current.get(name)}; build it with the same schedule"
                )
        _check_groups(self.optimizer, len(state_dict["lr_ratios"]))
        self._ratios = list(state_dict["lr_ratios"])
        self.last_epoch, self.metrics = state_dict["step"], list(state_dict["metrics"])
        self._counted, self._skipped = _count_steps(self.optimizer), 0
        self._set()

    @property
    def _next(self) -> int:
        """The step to come; at the end of the run, or of an epoch before its metric, the last."""
        last = self.schedule.total_steps - 1
        if isinstance(self.schedule.spec, Plateau):
            known = len(self.metrics) + 1  # epochs whose rate is known
            last = min(last, known * self.schedule.steps_per_epoch - 1)
        return min(self.last_epoch, last)

    def _group_ratios(self) -> list[float]:
        """The ratio of each group's rate to the schedule's, of groups added since too."""
        groups = self.optimizer.param_groups
        _check_groups(self.optimizer, len(self._ratios))
        for group in groups[len(self._ratios) :]:
            own = float(group["lr"]) / (self._lr or self.schedule.lr)
            self._ratios.append(float(group.get("lr_scale", own)))
        return list(self._ratios)

    def _set(self) -> None:
        rates = self.schedule.at(self._next, self.metrics)
        set_lrs(self.optimizer, rates.lr, self._group_ratios())
        if self.schedule.cycles_momentum:
            set_momentum(self.optimizer, rates.momentum)
        self._lr = rates.lr
        self._last_lr = [
            lr.clone() if isinstance(lr, Tensor) else lr
            for lr in (group["lr"] for group in self.optimizer.param_groups)
        ]

    def _check(self, taken: int) -> None:
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
        self._skipped = 0 if taken else self._skipped + 1
        if self._skipped > self.allow_skipped:
            raise UsageError(
                f"the {type(self.optimizer).__name__} of this scheduler did not step since the "
                "last scheduler.step(): build the scheduler on the optimizer that steps, and call "
                "it after optimizer.step() (with a GradScaler: allow_skipped=20)"
            )
        if taken > 1:
            raise UsageError(
                f"optimizer.step() was called {taken} times since the last "
                "scheduler.step(); call scheduler.step() after each optimizer.step()"
            )


def _check_last_epoch(schedule: Schedule, last_epoch: int) -> None:
    total, done = schedule.total_steps, last_epoch + 1
    if not 0 <= done <= total:
        raise UsageError(
            f"last_epoch = {last_epoch} is outside the schedule; it is the last step that is done, "
            f"from -1, where the first step is to come, to {total - 1}"
        )
    if isinstance(schedule.spec, Plateau) and done >= schedule.steps_per_epoch:
        raise UsageError(
            f"last_epoch = {last_epoch} is step {done}, and plateau needs the metrics of the "
            "epochs before it; build the scheduler without last_epoch and call load_state_dict()"
        )


def _check_groups(optimizer: Optimizer, known: int) -> None:
    present = len(optimizer.param_groups)
    if present < known:
        raise UsageError(
            f"the scheduler has the rates of {known} parameter groups, but the optimizer has only "
            f"{present}; add the groups first, or build another scheduler"
        )


def _count_steps(optimizer: Optimizer) -> int | None:
    """Count an optimizer's steps; return the count so far, or None if it begins now.

    The count is an attribute of the optimizer and its hooks hold no scheduler. So what restores
    the optimizer, such as `preserve_state`, restores the count, and all schedulers share it. A copy
    of an optimizer has neither hooks nor attributes, as PyTorch drops both.
    """
    attributes = vars(optimizer)
    if _STEPS not in attributes:
        attributes[_STEPS], attributes[_IN_STEP] = 0, False
        optimizer.register_step_pre_hook(_before_step)
        optimizer.register_step_post_hook(_after_step)
        return None
    return int(attributes[_STEPS])


def _before_step(optimizer: Optimizer, *_: object) -> None:
    vars(optimizer)[_IN_STEP] = True


def _after_step(optimizer: Optimizer, *_: object) -> None:
    # A class that extends another's step() calls the hooks for both: it is one step.
    attributes = vars(optimizer)
    attributes[_STEPS] += attributes[_IN_STEP]
    attributes[_IN_STEP] = False


def _as_plain(schedule: Schedule) -> dict[str, Any]:
    return {
        **schedule.spec.model_dump(),
        "lr": schedule.lr,
        "momentum": schedule.momentum,
        "steps_per_epoch": schedule.steps_per_epoch,
    }
