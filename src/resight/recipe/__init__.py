"""The recipe: everything that decides a training run, as one frozen, validated value.

A `Recipe` is checked when it is made, before any data is read. `None` means off. Sections with
a `name` (`model`, `optimizer`, `schedule`) are one of several kinds, each with its own settings, so
a setting that would do nothing (Nesterov in Adam) cannot be written down at all.

`resight.recipe.toml` reads and writes recipes as TOML and applies overrides such as
`schedule.epochs=40`; `resight.recipe.presets` holds the named recipes.
"""

from .data import HSV, Augment, Crop, Cutout, Data, Rotate
from .model import Custom, Model, Norm, ResNet, ResNet9, Swift
from .optimizer import SGD, Adam, AdamW, Muon, Optimizer, RMSprop
from .recipe import KINDS, Recipe
from .schedule import Constant, Cosine, MultiStep, OneCycle, Plateau, Schedule, Triangular
from .section import Section
from .training import Evaluation, Explain, Loss, Method, Progressive, Training

__all__ = [
    "HSV",
    "KINDS",
    "SGD",
    "Adam",
    "AdamW",
    "Augment",
    "Constant",
    "Cosine",
    "Crop",
    "Custom",
    "Cutout",
    "Data",
    "Evaluation",
    "Explain",
    "Loss",
    "Method",
    "Model",
    "MultiStep",
    "Muon",
    "Norm",
    "OneCycle",
    "Optimizer",
    "Plateau",
    "Progressive",
    "RMSprop",
    "Recipe",
    "ResNet",
    "ResNet9",
    "Rotate",
    "Schedule",
    "Section",
    "Swift",
    "Training",
    "Triangular",
]
