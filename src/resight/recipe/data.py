"""The data of a recipe: which images, and how they are augmented in training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .section import Balance, Fraction, Pixels, Positive, Probability, Section

Resize = Literal["crop", "stretch", "pad"]
Share = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(ge=0.1, le=10)]
Alpha = Annotated[float, Field(ge=0.01, le=100)]  # of a beta distribution


def check_limits(section: Section, *names: str) -> None:
    """Raise ValueError if `min_<name>` of a section is greater than its `max_<name>`."""
    for name in names:
        low, high = (getattr(section, f"{bound}_{name}") for bound in ("min", "max"))
        if low > high:
            raise ValueError(f"min_{name} = {low} is greater than max_{name} = {high}")


class Normalization(Section):
    """The mean and standard deviation of each channel, for pixels in [0, 1]."""

    mean: Annotated[tuple[float, ...], Field(strict=False, min_length=1)]
    std: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)]


class Fold(Section):
    """One part of a cross-validation: its images validate, and all other training images train."""

    index: Annotated[int, Field(ge=0)] = 0
    count: Annotated[int, Field(ge=2, le=100)] = 5

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.index >= self.count:
            raise ValueError(
                f"index = {self.index} is none of {self.count} folds, which count from 0"
            )
        return self


class Data(Section):
    """The images, their size, and how many of the training images are held out."""

    source: str = "digits"  # a name (`resight data`) or a path
    layout: str | None = None  # how the source is arranged (docs/data.md); None recognizes it
    label_column: str | None = None  # of a table, where more than one could be the label
    # Where the splits differ in their classes: "same" refuses them, "train" leaves out the others.
    classes: Literal["same", "train"] = "same"
    # px; None keeps that of equal squares, and else gives 64 or 32 px, by the size of the pictures
    image_size: Annotated[int, Field(ge=8, le=512)] | None = None
    # What becomes of pictures that are not square: "crop" keeps the center, "stretch" changes their
    # proportions, "pad" keeps all of them between black bars.
    resize: Resize = "crop"
    val_fraction: Annotated[float, Field(gt=0, le=0.5)] | None = 0.1  # of train, stratified
    # Validate by a fold of the training images instead, as `train --folds` has it for each run.
    fold: Fold | None = None
    channels: Literal[1, 3] | None = None  # gray or color; None keeps what the pictures have
    # "measured": over the training images; "imagenet": what most published weights expect.
    normalize: Literal["measured", "imagenet"] | Normalization = "measured"
    skip_unreadable: bool = False  # skip pictures that cannot be read, and note it
    relabel: str | None = None  # a table with the columns id and label: labels to replace
    exclude: str | None = None  # a table with the column id: images to leave out
    # An epoch draws a class of n_k images n_k ** (1 - power) times, in proportion.
    balance: Balance | None = None

    @property
    def has_validation(self) -> bool:
        """Whether some images are validated by: an epoch can be chosen, a plateau be seen."""
        return self.val_fraction is not None or self.fold is not None


class Crop(Section):
    """Pad every side, then cut out a window of the original size at a random place."""

    pad: Pixels = 4
    fill: Literal["reflect", "zero", "mean"] = "reflect"


class ResizedCrop(Section):
    """Enlarge a random window to the size of the image (Szegedy 2014), as torchvision does.

    The window's share of the area is uniform, and its width over its height log-uniform. The
    shares begin at 0.35, as fastai has it for short trainings; torchvision's default is 0.08.
    """

    min_scale: Probability = 0.35
    max_scale: Probability = 1.0
    min_ratio: Ratio = 0.75
    max_ratio: Ratio = 1.3333

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_limits(self, "scale", "ratio")
        return self


class Rotate(Section):
    """Rotate by a uniform angle in +-limit_deg; bilinear, reflected border."""

    limit_deg: Annotated[float, Field(gt=0, le=180)] = 15.0
    prob: Probability = 0.5


class Affine(Section):
    """Shift by a share of the image, scale and shear; bilinear, reflected border.

    Each number is uniform in its limits. With `rotate`, both make one warp.
    """

    translate: Annotated[float, Field(ge=0, le=0.5)] = 0.1  # of the width and of the height
    min_scale: Ratio = 0.9
    max_scale: Ratio = 1.1
    shear_deg: Annotated[float, Field(ge=0, le=80)] = 5.0  # along the rows
    prob: Probability = 1.0

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        check_limits(self, "scale")
        if not self.translate and not self.shear_deg and self.min_scale == self.max_scale == 1:
            raise ValueError('no limit leaves anything to change; write "none" for off')
        return self


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


class ColorJitter(Section):
    """Change brightness, contrast, saturation and hue, in a random order, as torchvision does.

    The first three are factors, uniform in 1 +- limit; the hue turns by +- limit.
    """

    brightness: Share = 0.2
    contrast: Share = 0.2
    saturation: Share = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.03  # of the circle of colors
    prob: Probability = 1.0

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.brightness == self.contrast == self.saturation == self.hue == 0:
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
        check_limits(self, "px")
        return self


class Erasing(Section):
    """Fill one rectangle (Zhong 2017): a uniform share of the area, its proportions log-uniform.

    "random" is noise, which the paper found best.
    """

    min_area: Fraction = 0.02
    max_area: Fraction = 0.33
    min_ratio: Ratio = 0.3
    max_ratio: Ratio = 3.3
    prob: Probability = 0.5
    fill: Literal["random", "mean", "zero"] = "random"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_limits(self, "area", "ratio")
        return self


class MixUp(Section):
    """Blend each image with another of its batch, and their labels alike (Zhang 2017).

    The share of the first image is drawn from Beta(alpha, alpha).
    """

    alpha: Alpha = 0.2
    prob: Probability = 1.0


class CutMix(Section):
    """Paste a rectangle of another image of the batch, and mix the labels by area (Yun 2019).

    The share of the area that stays is drawn from Beta(alpha, alpha).
    """

    alpha: Alpha = 1.0
    prob: Probability = 1.0


class Augment(Section):
    """The augmentation of training images, always in this order, before they are normalized.

    hsv -> color_jitter -> rotate, affine -> trivial_augment -> crop or resized_crop -> flip ->
    vertical_flip -> cutout -> erasing. mixup or cutmix, one of them for each batch, follow after
    normalizing. The order is not a setting: a fill after normalizing, or a crop after a cutout,
    cannot be written down.
    """

    hsv: HSV | None = None
    color_jitter: ColorJitter | None = None
    rotate: Rotate | None = None
    affine: Affine | None = None
    # "wide": one operation of TrivialAugment's wide table for each image (Mueller 2021).
    trivial_augment: Literal["wide"] | None = None
    crop: Crop | None = None
    resized_crop: ResizedCrop | None = None
    flip: Literal["random", "alternating"] | None = None
    vertical_flip: Literal["random"] | None = None
    cutout: Cutout | None = None
    erasing: Erasing | None = None
    mixup: MixUp | None = None
    cutmix: CutMix | None = None

    @model_validator(mode="after")
    def _one_crop(self) -> Self:
        if self.crop is not None and self.resized_crop is not None:
            raise ValueError(
                "crop and resized_crop exclude each other; set augment.crop=none or "
                "augment.resized_crop=none"
            )
        return self
