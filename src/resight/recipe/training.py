"""How a step is computed, how the result is asked, and how it is explained."""

import math
from typing import Annotated, Literal

from pydantic import Field

from .section import Fraction, Positive, Section

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


class Loss(Section):
    """Cross entropy, and what is added to it."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    l1: Positive | None = None  # times the sum of |w| over weights, without norms and biases


class Progressive(Section):
    """Smaller images at first: cheaper steps while the weights are coarse (Howard 2018)."""

    px: Annotated[int, Field(ge=8, le=512)] = 24
    share: Fraction = 0.5  # of the steps


class Training(Section):
    """How a step is computed, and which weights are kept."""

    batch_size: Annotated[int, Field(ge=1)] = 128
    # Images at a time on a CPU, at most; gradients add up to a batch. "auto": measured as a run
    # begins. A GPU takes whole batches, unless its memory is too small for them.
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    gpu_micro_batch: Annotated[int, Field(ge=1)] | None = None
    progressive: Progressive | None = None
    # "auto": bf16 where the processor or GPU has instructions for it, else float32.
    precision: Literal["float32", "bf16", "fp16", "auto"] = "float32"
    channels_last: bool = True
    compile: bool = False
    deterministic: bool = False  # refuse operations whose result varies between runs on a GPU
    ema_decay: Fraction | None = None  # a step; the averaged weights are then the ones evaluated
    select: Literal["val_accuracy", "val_loss", "last"] = "val_accuracy"

    def parts(self, images: int, device: str) -> int:
        """How many micro-batches a batch of so many images is, on this type of device."""
        size = self.micro_batch if device == "cpu" else self.gpu_micro_batch
        assert size != "auto", "settled before the first step"
        return 1 if size is None else math.ceil(images / size)


class Evaluation(Section):
    """How the chosen weights are asked. Test-time augmentation averages logits over views."""

    tta: Literal["flip", "flip_shift"] | None = None
    tta_below: Fraction | None = None  # only of images whose highest probability is below this

    @property
    def views(self) -> str:
        """What the answer for an image is the mean of, in words; empty: of one view."""
        if self.tta is None:
            return ""
        of = "all images" if self.tta_below is None else f"images below {self.tta_below:.0%}"
        return f"{'2' if self.tta == 'flip' else '6'} views ({self.tta}) of {of}"


class Explain(Section):
    """What the heat maps and sheets made at the end of a run show."""

    report: bool = True  # false: a run ends with its numbers, curves and pictures
    method: Method = "grad-cam"
    layers: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = (
        None  # None: the last layer of each map size, down to 3 px
    )
    images: Annotated[int, Field(ge=1, le=100)] = 20  # on each sheet
    maps: Annotated[int, Field(ge=1)] = 2000  # test images whose heat maps the report keeps
