"""The networks and their settings."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .section import Fraction, Positive, Section

Norm = Literal["batch", "layer", "group"]
Argument = bool | int | float | str


class Network(Section):
    """What all networks have: the weights that they start from."""

    # A .safetensors or .pt file, a run folder, package:name/file or hf:owner/name.
    weights: str | None = None


class ResNet(Network):
    """Residual network of four stages (He et al. 2016); its 3x3 stem is for small images."""

    name: Literal["resnet18", "resnet34"] = "resnet18"
    norm: Norm = "batch"
    dropout: Fraction | None = None
    last_stage_stride: Literal[1, 2] = 2  # 1 keeps an 8x8 map at 32 px, for sharper heat maps
    # "large": 7x7 of stride 2 and pooling, as for ImageNet; published weights load into it.
    stem: Literal["small", "large"] = "small"


class ResNet9(Network):
    """The 6,573,130-parameter network of the DAWNBench recipes (Page 2018)."""

    name: Literal["resnet9"] = "resnet9"
    norm: Norm = "batch"
    dropout: Fraction | None = None
    logit_scale: Positive = 1.0  # what logits are multiplied by; Page: 0.125, for rates of 0.4


class Swift(Network):
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


class Import(Network):
    """Any network: what the class or function at an import path returns when it is called."""

    name: Literal["import"] = "import"
    target: str = ""  # "package.module:callable", as "net:MyNet" for MyNet in net.py
    args: dict[str, Argument | list[Argument]] = Field(default={})  # for the callable
    classes_arg: str | None = "num_classes"  # the argument that takes the number of classes
    channels_arg: str | None = None  # the argument that takes the number of input channels
    digest: str = ""  # SHA-256 of the file that defines the target; a run writes it

    @model_validator(mode="after")
    def _is_import_path(self) -> Self:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", self.target):
            raise ValueError(
                f'target = "{self.target}" is no import path; write package.module:callable, as '
                "net:MyNet for the class MyNet in net.py of the working folder"
            )
        return self


class Custom(Network):
    """A module that the caller passes in; `target` names its class."""

    name: Literal["custom"] = "custom"
    target: str = ""


Model = Annotated[ResNet | ResNet9 | Swift | Import | Custom, Field(discriminator="name")]
