"""The networks and their settings."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .section import Fraction, Positive, Section

Norm = Literal["batch", "layer", "group"]


class ResNet(Section):
    """Residual network for small images: 3x3 stem, four stages (He et al. 2016)."""

    name: Literal["resnet18", "resnet34"] = "resnet18"
    norm: Norm = "batch"
    dropout: Fraction | None = None
    last_stage_stride: Literal[1, 2] = 2  # 1 keeps an 8x8 map at 32 px, for sharper heat maps


class ResNet9(Section):
    """The 6,573,130-parameter network of the DAWNBench recipes (Page 2018)."""

    name: Literal["resnet9"] = "resnet9"
    norm: Norm = "batch"
    dropout: Fraction | None = None
    logit_scale: Positive = 1.0  # what logits are multiplied by; Page: 0.125, for rates of 0.4


class Swift(Section):
    """Small, fast network: whitened first layer, three blocks (after Jordan 2024, airbench)."""

    name: Literal["swift"] = "swift"
    widths: Annotated[tuple[int, int, int], Field(strict=False)] = (32, 128, 128)
    activation: Literal["relu", "gelu", "silu"] = "relu"
    whiten_bias: bool = True  # learned; without it no gradient has to reach the first layer
    dropout: Fraction | None = None

    @model_validator(mode="after")
    def _wide_enough(self) -> Self:
        # Identity initialization passes every input channel on, so a block may not narrow.
        if min(self.widths) < 8 or list(self.widths) != sorted(self.widths):
            raise ValueError(f"widths = {list(self.widths)} must be at least 8 and never decrease")
        return self


class Custom(Section):
    """A module that the caller passes in; `target` names its class."""

    name: Literal["custom"] = "custom"
    target: str = ""


Model = Annotated[ResNet | ResNet9 | Swift | Custom, Field(discriminator="name")]
