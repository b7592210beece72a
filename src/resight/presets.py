"""The named recipes. Each states only what differs from its base, and why, a line a knob."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError
from .recipe import Recipe
from .recipe_text import overlay, parse_toml, suggest


@dataclass(frozen=True)
class Preset:
    """A named recipe: the difference from `base`, as section -> knob -> value, with reasons."""

    summary: str
    source: str  # where the recipe comes from
    base: str | None
    changes: Mapping[str, Mapping[str, Any]]
    reasons: Mapping[str, str]  # path -> why


PRESETS: dict[str, Preset] = {
    "base": Preset(
        summary="ResNet-18 and the usual augmentation; every other recipe starts here",
        source="He et al. 2016, Smith 2018",
        base=None,
        changes={
            "augment": {"crop": {"pad": 4, "fill": "reflect"}, "flip": "random"},
            "data": {"source": "cifar10"},
            "schedule": {"epochs": 20, "peak_epoch": 5.0, "anneal": "linear"},
            "training": {"micro_batch": 64},
        },
        reasons={
            "augment.crop": "shifts of up to an eighth of the image; reflection adds no black edge",
            "augment.flip": "a mirrored photograph is a photograph of the same class",
            "schedule.peak_epoch": "a quarter of the run to warm up, the rest to settle",
            "training.micro_batch": "64 images stay in the cache of a CPU core; 1.1x faster",
        },
    ),
    "resnet18": Preset(
        summary="ResNet-18 for 32 px, one cycle, SGD",
        source="He et al. 2016",
        base="base",
        changes={"model": {"name": "resnet18"}},
        reasons={"model.name": "11,173,962 parameters"},
    ),
    "resnet34": Preset(
        summary="ResNet-34 for 32 px, one cycle, SGD",
        source="He et al. 2016",
        base="base",
        changes={"model": {"name": "resnet34"}},
        reasons={"model.name": "twice the depth of resnet18"},
    ),
    "resnet9": Preset(
        summary="ResNet-9, 24 epochs, one cycle to 0.4 at epoch 5 and down to 0",
        source="Page 2018, How to train your ResNet",
        base="base",
        changes={
            "model": {"name": "resnet9"},
            "optimizer": {"lr": 0.4, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
            "schedule": {"epochs": 24, "peak_epoch": 5.0, "final_div": 1e4},
            "augment": {"cutout": {"min_px": 8, "max_px": 8}},
            "training": {"batch_size": 512},
        },
        reasons={
            "model.name": "6,573,130 parameters",
            "optimizer.lr": "the published peak for batch 512",
            "optimizer.nesterov": "as published",
            "schedule.epochs": "as published",
            "augment.cutout": "8 x 8, as published",
            "training.batch_size": "as published",
        },
    ),
    "swift": Preset(
        summary="whitened first layer, three blocks; the most accuracy for a CPU minute",
        source="Jordan 2024, arXiv 2404.00498 (airbench)",
        base="base",
        changes={
            "model": {"name": "swift", "widths": [32, 128, 128]},
            "optimizer": {
                "lr": 1.5,
                "momentum": 0.85,
                "nesterov": True,
                "weight_decay": 0.0013,
                "norm_bias_lr_scale": 64.0,
            },
            "schedule": {"epochs": 8, "peak_epoch": 1.84, "div": 5.0, "final_div": 2.857},
            "augment": {"flip": "alternating", "crop": {"pad": 2}},
            "loss": {"label_smoothing": 0.2},
            "training": {"batch_size": 1024, "micro_batch": 128},
        },
        reasons={
            "model.widths": "61 MFLOP an image: 8 epochs of CIFAR-10 in ten minutes on two cores",
            "optimizer.lr": "11.5 for 1,024 summed examples, decoupled from momentum 0.85",
            "optimizer.norm_bias_lr_scale": "normalisation biases learn 64 times faster",
            "optimizer.weight_decay": "0.0153 for 1,024 examples, decoupled likewise",
            "schedule.peak_epoch": "23 % of the run",
            "schedule.div": "starts at a fifth of the peak",
            "schedule.final_div": "ends at 7 % of the peak",
            "augment.flip": "each image is seen mirrored every other epoch: no luck involved",
            "augment.crop": "2 px, reflected",
            "loss.label_smoothing": "worth 0.2 points",
            "training.batch_size": "as published",
        },
    ),
    "digits": Preset(
        summary="bundled handwritten digits; the whole path in seconds, no download",
        source="Alpaydin & Kaynak 1998 (UCI); scikit-learn",
        base="swift",
        changes={
            "data": {"source": "digits"},
            "model": {"widths": [16, 32, 64]},
            "augment": {"flip": "none"},
            "training": {"batch_size": 128, "micro_batch": "none"},
            "optimizer": {"lr": 0.2},
            "schedule": {"epochs": 10, "peak_epoch": 2.5},
        },
        reasons={
            "data.source": "1,797 scans that come with resight",
            "model.widths": "enough for ten digits",
            "augment.flip": "a mirrored digit is another digit, or none",
            "training.batch_size": "1,294 training images: 11 steps an epoch",
            "optimizer.lr": "scaled down with the batch",
        },
    ),
}


def preset(name: str) -> Recipe:
    """The named recipe, with everything it rests on.

    Raises:
        UsageError: there is no recipe of that name.
    """
    if name not in PRESETS:
        raise UsageError(
            f'there is no recipe "{name}"{suggest(name, PRESETS)} '
            f"(valid: {', '.join(PRESETS)}, or the path of a .toml file)"
        )
    this = PRESETS[name]
    below = preset(this.base) if this.base else Recipe()
    return overlay(below, {**this.changes, "name": name}, origin=f"recipe {name}")


def find_recipe(name_or_path: str) -> Recipe:
    """A named recipe, or the one in a TOML file; a file's `base = "swift"` names what it rests on.

    Raises:
        UsageError: neither a recipe's name nor a file, or a faulty file.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        return preset(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe file {path} cannot be read: {error}") from error
    tables = parse_toml(text, str(path))
    base = tables.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise UsageError(f"{path}: base = {base} must be the name of a recipe")
    below = preset(base) if base else Recipe()
    return overlay(below, {"name": path.stem, **tables}, origin=str(path))
