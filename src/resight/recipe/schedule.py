"""The schedules and their settings: how rate and momentum change over a run."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from .section import Fraction, NonNegative, Positive, Section


class _Schedule(Section):
    holds_rate: ClassVar[bool] = False  # whether one rate lasts for epochs, as no cycle has it

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 20


class _MomentumCycle(_Schedule):
    # Momentum (Adam: beta1) falls while the rate rises; None: the optimizer's own, unchanged.
    momentum_low: Annotated[float, Field(ge=0, lt=1)] | None = None
    momentum_high: Annotated[float, Field(ge=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _momentum_pair(self) -> Self:
        low, high = self.momentum_low, self.momentum_high
        if (low is None) != (high is None):
            raise ValueError("give both momentum_low and momentum_high, or neither")
        if low is not None and high is not None and low > high:
            raise ValueError(f"momentum_low = {low} is greater than momentum_high = {high}")
        return self


class OneCycle(_MomentumCycle):
    """Up to the peak, then down (Smith 2018): start = lr / div, end = start / final_div.

    `final_div = 1` is "no annihilation": the cycle ends where it began. With
    `three_phase` the rate comes down to the start in as many epochs as it went up, then anneals.
    """

    name: Literal["one_cycle"] = "one_cycle"
    peak_epoch: Positive | None = None  # None: 30 % of the epochs
    anneal: Literal["linear", "cosine"] = "cosine"
    div: Annotated[float, Field(ge=1)] = 25.0
    final_div: Positive = 1e4
    three_phase: bool = False

    @model_validator(mode="after")
    def _peak_inside(self) -> Self:
        limit = self.epochs / 2 if self.three_phase else self.epochs
        if self.peak_epoch is not None and self.peak_epoch >= limit:
            half = "half of " if self.three_phase else ""
            raise ValueError(
                f"peak_epoch = {self.peak_epoch:g} must come before {half}epochs = {self.epochs}; "
                "--epochs shrinks the whole schedule"
            )
        return self


class Triangular(_MomentumCycle):
    """A zigzag between lr / div and lr (Smith 2015)."""

    name: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    half_cycle_epochs: Positive = 2.0
    div: Annotated[float, Field(gt=1)] = 10.0
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.9999  # exp_range: amplitude x gamma a step


class Plateau(_Schedule):
    """The rate times `factor` once a metric has not improved for patience + 1 epochs."""

    holds_rate = True

    name: Literal["plateau"] = "plateau"
    metric: Literal["val_loss", "val_accuracy"] = "val_loss"
    factor: Fraction = 0.1
    patience: Annotated[int, Field(ge=0)] = 3
    threshold: NonNegative = 1e-4  # a smaller gain is no improvement
    threshold_mode: Literal["rel", "abs"] = "rel"  # a share of the best value, or a difference
    cooldown: Annotated[int, Field(ge=0)] = 0
    min_lr: NonNegative = 1e-5


class Cosine(_Schedule):
    """Linear warm-up, then half a cosine down to lr * final_fraction (Loshchilov & Hutter 2017)."""

    name: Literal["cosine"] = "cosine"
    warmup_epochs: NonNegative = 0.0
    final_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _warmup_inside(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs:g} must be less than epochs = {self.epochs}"
            )
        return self


class MultiStep(_Schedule):
    """The same rate, times `factor` at each milestone (in epochs)."""

    holds_rate = True

    name: Literal["multistep"] = "multistep"
    milestones: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)] | None = (
        None  # None: at half and at three quarters of the epochs
    )
    factor: Fraction = 0.1

    @property
    def marks(self) -> tuple[float, ...]:
        """The milestones in epochs, with the default filled in."""
        return self.milestones or (0.5 * self.epochs, 0.75 * self.epochs)

    @model_validator(mode="after")
    def _milestones_inside(self) -> Self:
        marks = list(self.marks)
        if marks != sorted(set(marks)) or marks[-1] >= self.epochs:
            raise ValueError(
                f"milestones = {marks} must increase and stay below epochs = {self.epochs}"
            )
        return self


class Constant(_Schedule):
    """The same rate from the first step to the last."""

    holds_rate = True

    name: Literal["constant"] = "constant"


Schedule = Annotated[
    OneCycle | Triangular | Plateau | Cosine | MultiStep | Constant, Field(discriminator="name")
]
