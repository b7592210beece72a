"""The recipe: everything that decides a training run, as one frozen, validated value.

A `Recipe` is checked when it is made, before any data is read. `None` means off. Sections with
a `name` (`model`, `optimizer`, `schedule`) are one of several kinds, each with its own knobs, so
a knob that would do nothing (Nesterov in Adam) cannot be written down at all.

`resight.recipe_text` reads and writes recipes as TOML and applies overrides such as
`schedule.epochs=40`; `resight.presets` holds the named ones.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Pixels = Annotated[int, Field(ge=1, le=512)]


class Section(BaseModel):
    """A frozen group of knobs. Unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _read_none(cls, values: Any) -> Any:
        """TOML has no null: the word "none" switches an optional knob off."""
        if not isinstance(values, Mapping):
            return values
        optional = {
            key for key, f in cls.model_fields.items() if type(None) in get_args(f.annotation)
        }
        return {k: None if k in optional and v == "none" else v for k, v in values.items()}


# --- data and augmentation ------------------------------------------------------------------


class Data(Section):
    """Which images, at which size, and how many of the training images are held out."""

    source: str = "digits"  # a name (`resight data`) or a path
    image_size: Annotated[int, Field(ge=8, le=512)] | None = None  # px; None keeps their own
    val_fraction: Annotated[float, Field(gt=0, le=0.5)] | None = 0.1  # of train, stratified
    skip_unreadable: bool = False  # leave out pictures that cannot be read, and say so


class Crop(Section):
    """Pad every side, then cut out a window of the original size at a random place."""

    pad: Pixels = 4
    fill: Literal["reflect", "zero", "mean"] = "reflect"


class Rotate(Section):
    """Rotate by a uniform angle in +-limit_deg; bilinear, reflected border."""

    limit_deg: Annotated[float, Field(gt=0, le=180)] = 15.0
    prob: Probability = 0.5


class HSV(Section):
    """Shift hue, saturation and value by uniform amounts in +-limit, on the 8-bit scale."""

    hue: Annotated[int, Field(ge=0, le=90)] = 20  # 8-bit hue: 180 steps a turn
    saturation: Annotated[int, Field(ge=0, le=255)] = 30
    value: Annotated[int, Field(ge=0, le=255)] = 20
    prob: Probability = 0.25

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.hue == self.saturation == self.value == 0:
            raise ValueError('all limits are 0, which changes nothing; write "none" for off')
        return self


class Cutout(Section):
    """Blank `count` squares, each with a side drawn uniformly from min_px..max_px."""

    count: Annotated[int, Field(ge=1, le=16)] = 1
    min_px: Pixels = 8
    max_px: Pixels = 8
    prob: Probability = 1.0
    fill: Literal["mean", "zero"] = "mean"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_px > self.max_px:
            raise ValueError(f"min_px = {self.min_px} is greater than max_px = {self.max_px}")
        return self


class Augment(Section):
    """What is done to training images, always in this order, then normalised.

    hsv -> rotate -> crop -> flip -> cutout. The order is not a knob: a fill after normalising,
    or a crop after a cutout, cannot be written down.
    """

    hsv: HSV | None = None
    rotate: Rotate | None = None
    crop: Crop | None = None
    flip: Literal["random", "alternating"] | None = None
    cutout: Cutout | None = None


# --- model ----------------------------------------------------------------------------------

Norm = Literal["batch", "layer", "group"]


class ResNet(Section):
    """Residual network for small images: 3x3 stem, four stages (He et al. 2016)."""

    name: Literal["resnet18", "resnet34"] = "resnet18"
    norm: Norm = "batch"
    dropout: Fraction | None = None
    last_stage_stride: Literal[1, 2] = 2  # 1 keeps an 8x8 map at 32 px, for sharper heat maps


class ResNet9(Section):
    """The 6,573,130-parameter network of DAWNBench fame (Page 2018)."""

    name: Literal["resnet9"] = "resnet9"
    norm: Norm = "batch"
    dropout: Fraction | None = None


class Swift(Section):
    """Small, quick network: whitened first layer, three blocks (after Jordan 2024, airbench)."""

    name: Literal["swift"] = "swift"
    widths: Annotated[tuple[int, int, int], Field(strict=False)] = (32, 128, 128)
    activation: Literal["relu", "gelu", "silu"] = "relu"
    dropout: Fraction | None = None

    @model_validator(mode="after")
    def _wide_enough(self) -> Self:
        # Identity initialisation passes every input channel on, so a block may not narrow.
        if min(self.widths) < 8 or list(self.widths) != sorted(self.widths):
            raise ValueError(f"widths = {list(self.widths)} must be at least 8 and never decrease")
        return self


class Custom(Section):
    """A module that the caller passed in; `target` names its class, for the record."""

    name: Literal["custom"] = "custom"
    target: str = ""


Model = Annotated[ResNet | ResNet9 | Swift | Custom, Field(discriminator="name")]


# --- optimizer ------------------------------------------------------------------------------


class _Optimizer(Section):
    FRESH_WHEN_SWITCHED: ClassVar = True  # a rate that suits SGD does not suit Adam

    weight_decay: NonNegative = 0.0
    decay_norm_bias: bool = False  # whether normalisation parameters and biases decay too


class SGD(_Optimizer):
    """Stochastic gradient descent. `lr` is the peak: the highest rate the schedule reaches."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 5e-4
    norm_bias_lr_scale: Positive = 1.0  # multiplies lr for the biases of normalisation layers

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov = true needs momentum > 0")
        return self


class _Moments(_Optimizer):
    lr: Positive = 1e-3
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    eps: Positive = 1e-8


class Adam(_Moments):
    """Adam (Kingma & Ba 2015); its weight decay is added to the gradient (coupled)."""

    name: Literal["adam"] = "adam"


class AdamW(_Moments):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    name: Literal["adamw"] = "adamw"
    weight_decay: NonNegative = 0.01


class RMSprop(_Optimizer):
    """RMSprop (Hinton 2012)."""

    name: Literal["rmsprop"] = "rmsprop"
    lr: Positive = 1e-3
    alpha: Annotated[float, Field(ge=0, lt=1)] = 0.99
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    eps: Positive = 1e-8


Optimizer = Annotated[SGD | Adam | AdamW | RMSprop, Field(discriminator="name")]


# --- schedule -------------------------------------------------------------------------------


class _Schedule(Section):
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 20


class _MomentumCycle(_Schedule):
    # Momentum (Adam: beta1) runs against the rate; None leaves it as the optimizer has it.
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
    """Up to the peak, down to the end (Smith 2018). start = lr / div, end = start / final_div.

    `final_div = 1` is "no annihilation": the cycle ends where it began. `three_phase` comes down
    to the start as long as it went up, then anneals.
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
    """The zigzag between lr / div and lr (Smith 2015)."""

    name: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    half_cycle_epochs: Positive = 2.0
    div: Annotated[float, Field(gt=1)] = 10.0
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.9999  # exp_range: amplitude x gamma a step


class Plateau(_Schedule):
    """Times `factor` once a validation metric has not improved for patience + 1 epochs."""

    name: Literal["plateau"] = "plateau"
    metric: Literal["val_loss", "val_accuracy"] = "val_loss"
    factor: Fraction = 0.1
    patience: Annotated[int, Field(ge=0)] = 3
    threshold: NonNegative = 1e-4  # relative; a smaller gain is no improvement
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
    """Constant, times `factor` at each milestone (in epochs)."""

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

    name: Literal["constant"] = "constant"


Schedule = Annotated[
    OneCycle | Triangular | Plateau | Cosine | MultiStep | Constant, Field(discriminator="name")
]


# --- loss, training, evaluation -------------------------------------------------------------


class Loss(Section):
    """Cross entropy, and what is added to it."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    l1: Positive | None = None  # times the sum of |w| over weights, without norms and biases


class Training(Section):
    """How a step is computed, and which weights are kept."""

    batch_size: Annotated[int, Field(ge=1)] = 128
    micro_batch: Annotated[int, Field(ge=1)] | None = None  # at most; gradients add up to a batch
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = False  # refuse operations whose result varies between runs on a GPU
    ema_decay: Fraction | None = None  # a step; the averaged weights are then the ones evaluated
    select: Literal["val_accuracy", "val_loss", "last"] = "val_accuracy"


class Evaluation(Section):
    """How the chosen weights are asked. Test-time augmentation averages logits over views."""

    tta: Literal["flip", "flip_shift"] | None = None


class Recipe(Section):
    """Everything that decides a run. Same recipe, data and machine: same weights."""

    name: str = "custom"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data: Data = Data()
    augment: Augment = Augment()
    model: Model = ResNet()
    optimizer: Optimizer = SGD()
    schedule: Schedule = OneCycle()
    loss: Loss = Loss()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _validation_where_needed(self) -> Self:
        if self.data.val_fraction is None:
            if isinstance(self.schedule, Plateau):
                raise ValueError(
                    'schedule.name = "plateau" watches validation, but data.val_fraction = "none"; '
                    "set data.val_fraction=0.1 or another schedule"
                )
            if self.training.select != "last":
                raise ValueError(
                    f'training.select = "{self.training.select}" needs validation, but '
                    'data.val_fraction = "none"; set training.select=last'
                )
        return self


def _by_name(*kinds: type[Section]) -> dict[str, type[Section]]:
    return {name: kind for kind in kinds for name in get_args(kind.model_fields["name"].annotation)}


# Section -> name -> the value that holds its knobs.
KINDS: dict[str, dict[str, type[Section]]] = {
    "model": _by_name(ResNet, ResNet9, Swift, Custom),
    "optimizer": _by_name(SGD, Adam, AdamW, RMSprop),
    "schedule": _by_name(OneCycle, Triangular, Plateau, Cosine, MultiStep, Constant),
}
