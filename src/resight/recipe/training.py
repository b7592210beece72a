"""How a run trains, evaluates and explains."""

import math
from typing import Annotated, Literal

from pydantic import Field

from .section import Balance, Fraction, NonNegative, Positive, Section

Method = Literal[
    "grad-cam",
    "grad-cam++",
    "hirescam",
    "layercam",
    "xgrad-cam",
    "eigen-cam",
    "score-cam",
    "ablation-cam",
    "finer-cam",
]
BACKBONE = "backbone"  # in `Training.freeze`: everything but the head

Precision = Literal["float32", "bf16", "fp16", "auto"]


class Loss(Section):
    """The loss: cross entropy, smoothed, focal or with class weights, and an L1 penalty."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # The weight of a class of n_k of N training images is in proportion to (N / (K n_k)) ** power.
    class_weights: Balance | None = None
    focal_gamma: Positive | None = None  # times (1 - p) ** gamma, for less of what is learned
    l1: Positive | None = None  # times the sum of |w| over weights, without norms and biases


class Progressive(Section):
    """Smaller images at first, for cheaper steps while the weights are coarse (Howard 2018)."""

    px: Annotated[int, Field(ge=8, le=512)] = 24
    share: Fraction = 0.5  # of the steps


class Training(Section):
    """How a step is computed, and which weights are kept."""

    batch_size: Annotated[int, Field(ge=1)] = 128
    # Images at a time on a CPU, at most; their gradients add up to a batch. "auto": measured before
    # the first step. A GPU takes whole batches, unless its memory is too small for them.
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    gpu_micro_batch: Annotated[int, Field(ge=1)] | None = None
    progressive: Progressive | None = None
    # "auto": bf16 where the processor or GPU has instructions for it; fp16, with a scaled loss, on
    # a GPU that has no bf16; else float32.
    precision: Precision = "float32"
    channels_last: bool = True
    compile: bool = False
    sync_batch_norm: bool = False  # statistics over all devices that share a batch
    # Layers whose weights are held, by name or pattern; "backbone" means all but the head.
    freeze: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = None
    freeze_epochs: Annotated[int, Field(ge=1)] | None = None  # None: in the whole run
    deterministic: bool = False  # refuse operations whose result varies between runs on a GPU
    ema_decay: Fraction | None = None  # a step; evaluation then uses the averaged weights
    select: Literal["val_accuracy", "val_loss", "last"] = "val_accuracy"
    # Of wall-clock time between two checkpoints in the middle of an epoch; 0: only at its end.
    checkpoint_minutes: NonNegative = 10.0

    def frozen_in(self, epoch: int) -> tuple[str, ...]:
        """Return the patterns of the layers that are held in an epoch, which counts from 0."""
        if self.freeze_epochs is None:
            return self.freeze or ()
        return (self.freeze or (BACKBONE,)) if epoch < self.freeze_epochs else ()

    def parts(self, images: int, device: str) -> int:
        """Return the number of micro-batches of a batch of `images`, on this type of device."""
        size = self.micro_batch if device == "cpu" else self.gpu_micro_batch
        assert size != "auto", "resolved before the first step"
        return 1 if size is None else math.ceil(images / size)


class LinearProbe(Section):
    """Fit the head to the features of the network as it is: logistic regression, no steps.

    A network needs weights that have learned something: see `model.weights`.
    """

    l2: Literal["auto"] | Positive = "auto"  # the penalty; "auto" tries 11 and keeps the best
    only: bool = True  # end there; false: train everything afterwards


class Evaluation(Section):
    """How the chosen weights are evaluated; test-time augmentation averages logits over views."""

    tta: Literal["flip", "flip_shift"] | None = None
    tta_below: Fraction | None = None  # only for images whose highest probability is below this

    @property
    def views(self) -> str:
        """The views whose logits are averaged, in words; empty for one view an image."""
        if self.tta is None:
            return ""
        images = "all images" if self.tta_below is None else f"images below {self.tta_below:.0%}"
        return f"{'2' if self.tta == 'flip' else '6'} views ({self.tta}) of {images}"


class Explain(Section):
    """What the report, the heat maps and the sheets of a run show."""

    report: bool = True  # false: a run ends with its numbers, curves and pictures
    pictures: bool = True  # false: without curves and pictures, for many short runs
    method: Method = "grad-cam"
    layers: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = (
        None  # None: the last layer of each map size, down to 3 px
    )
    images: Annotated[int, Field(ge=1, le=100)] = 20  # on each sheet
    maps: Annotated[int, Field(ge=1)] = 2000  # test images whose heat maps the report keeps
