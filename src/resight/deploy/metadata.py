"""What a program has to know about a run besides the network: plain Python, fit for JSON."""

from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..recipe import Recipe
from ..recipe.sources import source_name
from ..recipe.toml import to_toml, with_changes
from ..runs.checkpoint import ModelInfo

# How a picture of any size becomes square; docs/export.md has each in Pillow's words.
RESIZE_RULES = {
    "crop": "cut out the central square, then resize it by bicubic interpolation",
    "stretch": "resize both sides by bicubic interpolation",
    "pad": "resize by bicubic interpolation to fit, then center it on black",
}


def describe_model(info: ModelInfo) -> dict[str, Any]:
    """Return how to turn a picture into the input of a network, and its outputs into words."""
    recipe = public_recipe(info.recipe)
    return {
        "resight": __version__,
        "torch": torch.__version__,
        "network": recipe.model.name,
        "classes": list(info.classes),
        "image_size": info.image_size,
        "channels": info.channels,
        "colors": "gray" if info.channels == 1 else "RGB",
        "resize": recipe.data.resize,
        "resize_rule": RESIZE_RULES[recipe.data.resize],
        "mean": list(info.stats.mean),
        "std": list(info.stats.std),
        "temperature": info.temperature,
        "recipe": to_toml(recipe),
    }


def public_recipe(recipe: Recipe) -> Recipe:
    """Return a recipe without the folders of this machine: of an absolute path the name is left."""
    names = {
        section: {
            key: Path(value).name
            for key, value in getattr(recipe, section).model_dump().items()
            if isinstance(value, str) and Path(value).is_absolute()
        }
        for section in ("data", "model", "training")
    }
    return with_changes(recipe, names, origin="export")


def public_source(recipe: Recipe) -> str:
    """Return the name of a recipe's data set, as others know it."""
    return source_name(recipe.data.source)
