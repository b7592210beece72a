"""The data of a recipe: which images, and how they are augmented in training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .section import Pixels, Probability, Section


class Data(Section):
    """The images, their size, and how many of the training images are held out."""

    source: str = "digits"  # a name (`resight data`) or a path
    image_size: Annotated[int, Field(ge=8, le=512)] | None = None  # px; None keeps their own
    val_fraction: Annotated[float, Field(gt=0, le=0.5)] | None = 0.1  # of train, stratified
    skip_unreadable: bool = False  # skip pictures that cannot be read, and note it


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
    """The augmentation of training images, always in this order, before they are normalized.

    hsv -> rotate -> crop -> flip -> cutout. The order is not a setting: a fill after normalizing,
    or a crop after a cutout, cannot be written down.
    """

    hsv: HSV | None = None
    rotate: Rotate | None = None
    crop: Crop | None = None
    flip: Literal["random", "alternating"] | None = None
    cutout: Cutout | None = None
