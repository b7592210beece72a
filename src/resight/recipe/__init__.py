"""The recipe: everything that decides a training run, as one frozen, validated value.

A `Recipe` is checked when it is made, before any data is read. `None` means off. Sections with
a `name` (`model`, `optimizer`, `schedule`) are one of several kinds, each with its own settings, so
a setting that would do nothing (Nesterov in Adam) cannot be written down at all.

`resight.recipe.toml` reads and writes recipes as TOML and applies overrides such as
`schedule.epochs=40`; `resight.recipe.presets` holds the named recipes.
"""

from .data import (
    HSV,
    Affine,
    Augment,
    ColorJitter,
    Crop,
    CutMix,
    Cutout,
    Data,
    Erasing,
    Fold,
    MixUp,
    Normalization,
    Resize,
    ResizedCrop,
    Rotate,
)
from .model import Custom, Import, Model, Norm, ResNet, ResNet9, Swift
from .optimizer import SGD, Adam, AdamW, Muon, Optimizer, RMSprop
from .recipe import KINDS, Recipe
from .schedule import Constant, Cosine, MultiStep, OneCycle, Plateau, Schedule, Triangular
from .section import Balance, Section, power_of
from .training import Evaluation, Explain, LinearProbe, Loss, Method, Progressive, Training

__all__ = [
    "HSV",
    "KINDS",
    "SGD",
    "Adam",
    "AdamW",
    "Affine",
    "Augment",
    "Balance",
    "ColorJitter",
    "Constant",
    "Cosine",
    "Crop",
    "Custom",
    "CutMix",
    "Cutout",
    "Data",
    "Erasing",
    "Evaluation",
    "Explain",
    "Fold",
    "Import",
    "LinearProbe",
    "Loss",
    "Method",
    "MixUp",
    "Model",
    "MultiStep",
    "Muon",
    "Norm",
    "Normalization",
    "OneCycle",
    "Optimizer",
    "Plateau",
    "Progressive",
    "RMSprop",
    "Recipe",
    "ResNet",
    "ResNet9",
    "Resize",
    "ResizedCrop",
    "Rotate",
    "Schedule",
    "Section",
    "Swift",
    "Training",
    "Triangular",
    "power_of",
]
