"""The optimizers and their settings."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from .section import NonNegative, Positive, Section


class _Optimizer(Section):
    RESET_WHEN_SWITCHED: ClassVar = True  # a rate that suits SGD does not suit Adam

    weight_decay: NonNegative = 0.0
    decay_norm_bias: bool = False  # whether normalization parameters and biases decay too
    backbone_lr_scale: Positive = 1.0  # multiplies lr for everything but the head


class SGD(_Optimizer):
    """Stochastic gradient descent. `lr` is the peak: the highest rate the schedule reaches."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 5e-4
    norm_bias_lr_scale: Positive = 1.0  # multiplies lr for the biases of normalization layers

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


class Muon(_Optimizer):
    """Muon for convolutions (Jordan et al. 2024), Nesterov SGD for the last layer, norms, biases.

    For networks that normalize after every convolution, as all built-in networks do: the norm of
    a filter bank is held fixed, and `weight_decay` acts on the other weights alone.
    """

    name: Literal["muon"] = "muon"
    lr: Positive = 0.03  # the angle, in radians, by which a step turns each filter bank
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.85
    sgd_lr: Positive = 0.1  # of the other weights, when lr is at its peak
    norm_bias_lr_scale: Positive = 1.0  # multiplies sgd_lr for the biases of normalization layers


Optimizer = Annotated[SGD | Adam | AdamW | RMSprop | Muon, Field(discriminator="name")]
