"""The named recipes. Each states only what differs from its base, and why, a line a knob."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError
from .recipe import Recipe
from .recipe_text import nested, overlay, parse_toml, suggest


@dataclass(frozen=True)
class Preset:
    """A named recipe: how it differs from `base`."""

    summary: str
    source: str  # where the recipe comes from
    base: str | None
    changes: Mapping[str, tuple[Any, str]]  # path of a knob -> (value, why)
    accuracy: str = "-"  # on test images, as measured: docs/results.md


PRESETS: dict[str, Preset] = {
    "base": Preset(
        summary="where the others start: augmentation, one cycle",
        source="He 2016, Smith 2018",
        base=None,
        changes={
            "data.source": ("cifar10", "the data set these networks are known for"),
            "augment.crop": (
                {"pad": 4, "fill": "reflect"},
                "shifts of up to an eighth of the image; reflection adds no black edge",
            ),
            "augment.flip": ("random", "a mirrored photograph is a photograph of the same class"),
            "schedule.anneal": ("linear", "straight lines, easy to read"),
            "schedule.peak_epoch": (5.0, "a quarter of the run to warm up, the rest to settle"),
            "training.micro_batch": (64, "small enough for the cache of a CPU"),
        },
    ),
    "resnet18": Preset(
        summary="one cycle with SGD, for images of 32 px",
        source="He 2016",
        base="base",
        changes={"model.name": ("resnet18", "11,173,962 parameters")},
    ),
    "resnet34": Preset(
        summary="the same, deeper",
        source="He 2016",
        base="base",
        changes={"model.name": ("resnet34", "twice the depth of resnet18")},
    ),
    "resnet9": Preset(
        summary="one cycle to 0.4 at epoch 5 and down to 0",
        source="Page 2018",
        base="base",
        changes={
            "model.name": ("resnet9", "6,573,130 parameters"),
            "model.logit_scale": (
                0.125,
                "as published; without it the warm-up to 0.4 hardly learns",
            ),
            "optimizer.lr": (0.4, "the published peak for batch 512"),
            "optimizer.nesterov": (True, "as published"),
            "schedule.epochs": (24, "as published, with the peak at epoch 5"),
            "schedule.div": (1000.0, "up from next to nothing, as published"),
            "augment.cutout": ({"min_px": 8, "max_px": 8}, "8 x 8, as published"),
            "training.batch_size": (512, "as published"),
        },
    ),
    "swift": Preset(
        summary="whitened first layer, SGD as published",
        source="Jordan 2024 (airbench)",
        base="base",
        changes={
            "model.name": ("swift", "66 MFLOP an image, an 11th of resnet9; few epochs are enough"),
            "optimizer.lr": (0.75, "11.5 for 1,024 summed examples, decoupled from momentum"),
            "optimizer.momentum": (0.85, "as published"),
            "optimizer.nesterov": (True, "as published"),
            "optimizer.weight_decay": (0.0013, "0.0153 for 1,024 examples, decoupled likewise"),
            "optimizer.norm_bias_lr_scale": (64.0, "normalisation biases learn 64 times faster"),
            "schedule.epochs": (10, "less than ten minutes of CIFAR-10 on two cores"),
            "schedule.peak_epoch": (2.3, "23 % of the run"),
            "schedule.div": (5.0, "starts at a fifth of the peak"),
            "schedule.final_div": (20.0, "ends at 1 % of the peak"),
            "augment.flip": ("alternating", "mirrored every other epoch: no luck involved"),
            "augment.crop.pad": (2, "as published"),
            "loss.label_smoothing": (0.2, "as published"),
            "training.batch_size": (512, "half the published one: more steps in few epochs"),
            "training.micro_batch": (128, "small enough for the cache of a CPU"),
        },
        accuracy="86.75 % (JPEG 75)",
    ),
    "swift-s": Preset(
        summary="the most accuracy for six minutes of two cores",
        source="Jordan 2024, Howard 2018",
        base="swift",
        changes={
            "data.val_fraction": (0.02, "1,000 images to watch by; the rest is trained on"),
            "model.activation": ("silu", "a lower loss than ReLU, for a step that is 5 % longer"),
            "model.whiten_bias": (False, "no loss seen, and a cheaper step"),
            "optimizer": (
                {
                    "name": "muon",
                    "lr": 0.05,
                    "momentum": 0.85,
                    "sgd_lr": 0.42,
                    "norm_bias_lr_scale": 64.0,
                    "weight_decay": 0.0024,
                },
                "at 0.06 0.8 points above SGD after six epochs, at 0.03 and 0.12 less",
            ),
            "schedule.epochs": (9, "what fits"),
            "schedule.peak_epoch": (0.75, "Muon needs hardly a warm-up"),
            "schedule.final_div": (1000.0, "down to nothing"),
            "training.progressive": ({"px": 24, "share": 0.625}, "no loss seen; 0.55 of the cost"),
            "training.precision": ("auto", "bf16 where the processor has it, and is faster"),
            "training.select": ("last", "the rate has come down; 1,000 images choose badly"),
            "evaluation.tta": ("flip_shift", "as published"),
            "evaluation.tta_below": (0.6, "a third of the images, and all of the gain"),
        },
        accuracy="88.1 % (JPEG 75)",
    ),
    "swift-m": Preset(
        summary="a wider swift-s, for fifteen minutes of two cores",
        source="Jordan 2024, Howard 2018",
        base="swift-s",
        changes={
            "model.widths": ([64, 256, 256], "airbench94's; 3.6 times the operations of swift-s"),
            "schedule.epochs": (10, "what fits, in bf16"),
        },
        accuracy="90.4 % (JPEG 75)",
    ),
    "swift-l": Preset(
        summary="wider and longer, for half an hour of two cores",
        source="Jordan 2024, Howard 2018",
        base="swift-s",
        changes={
            "model.widths": ([96, 320, 320], "6 times the operations of swift-s"),
            "schedule.epochs": (12, "what fits, in bf16"),
        },
        accuracy="91.1 % (JPEG 75)",
    ),
    "swift-gpu": Preset(
        summary="airbench's widths and Muon, for seconds of a GPU",
        source="Jordan 2024 (airbench)",
        base="swift-s",
        changes={
            "model.widths": ([64, 256, 256], "as published"),
            "model.activation": ("gelu", "as published"),
            "model.whiten_bias": (True, "as published, but learnt to the end"),
            "optimizer.lr": (0.24, "as published, for this batch"),
            "optimizer.momentum": (0.6, "as published for Muon; here for all"),
            "optimizer.sgd_lr": (1.66, "0.67 of summed examples, for logits times 1/9, not 1/256"),
            "schedule.epochs": (8, "as published"),
            "schedule.peak_epoch": (0.05, "from the second step on, down to nothing"),
            "training.progressive": ("none", "not published; not tried on a GPU"),
            "training.batch_size": (2000, "as published"),
            "training.micro_batch": ("none", "a GPU is filled by whole batches"),
            "training.precision": ("bf16", "half the memory traffic, and no loss to scale"),
            "evaluation.tta_below": ("none", "views of all images, as published"),
        },
    ),
    "digits": Preset(
        summary="handwritten digits, bundled: all of it in seconds",
        source="UCI; scikit-learn",
        base="swift",
        changes={
            "data.source": ("digits", "1,797 scans that come with resight"),
            "model.widths": ([16, 32, 64], "enough for ten digits"),
            "augment.flip": ("none", "a mirrored digit is another digit, or none"),
            "optimizer.lr": (0.2, "scaled down with the batch"),
            "loss.label_smoothing": (0.0, "nearly all right: confidence should say so"),
            "training.batch_size": (128, "11 steps an epoch of 1,299 images"),
            "training.micro_batch": ("none", "the batch is small enough"),
        },
        accuracy="99.4 %",
    ),
    # --- five published projects, each as its author describes it --------------------------
    "resnet18-onecycle": Preset(
        summary="one cycle with Adam",
        source="a course project",
        base="resnet18",
        changes={
            "optimizer.name": ("adam", "as run, but at 1e-3, not the 1.17e-4 of its range test"),
            "optimizer.weight_decay": (5e-4, "open; it ran with 1e-2, too strong beside Adam"),
            "schedule.anneal": ("cosine", "as run"),
            "schedule.div": (100.0, "as run: starts at a hundredth of the peak"),
            "schedule.final_div": (100.0, "as run: ends at a hundredth of that"),
            "schedule.momentum_low": (0.85, "as run: beta1 is lowest where the rate is highest"),
            "schedule.momentum_high": (0.95, "as run"),
            "augment.cutout": ({"min_px": 16, "max_px": 16}, "16 x 16, as run"),
            "training.batch_size": (512, "as run: 88 steps an epoch of 45,000 images"),
        },
    ),
    "resnet18-plateau": Preset(
        summary="dropout, L1, L2, reduce on plateau",
        source="a course project",
        base="resnet18",
        changes={
            "model.dropout": (0.15, "as described, and active here"),
            "optimizer.lr": (0.00726, "as described: lowest loss of its range test; or --find-lr"),
            "optimizer.weight_decay": (1e-3, "L2 1e-3, read as torch's weight decay"),
            "loss.l1": (3e-6, "as described, over weights without norms and biases"),
            "schedule": (
                {"name": "plateau", "epochs": 50, "factor": 0.1, "patience": 3, "min_lr": 1e-5},
                "as described, watching validation loss",
            ),
            "augment.crop": ("none", "not among the four it describes"),
            "augment.hsv": (
                {"hue": 20, "saturation": 30, "value": 20, "prob": 0.25},
                "as described",
            ),
            "augment.rotate": ({"limit_deg": 15.0, "prob": 0.5}, "as described"),
            "augment.cutout": (
                {"count": 1, "min_px": 4, "max_px": 16, "prob": 0.75},
                "coarse dropout, as described",
            ),
        },
    ),
    "resnet9-onecycle": Preset(
        summary="one cycle with Adam, 6.57 million parameters",
        source="a course project",
        base="base",
        changes={
            "model.name": ("resnet9", "6,573,130 parameters"),
            "optimizer.name": ("adam", "as described"),
            "optimizer.lr": (0.01, "open; it ran at 0.043, the edge of its range test"),
            "optimizer.weight_decay": (1e-4, "as run"),
            "schedule.epochs": (24, "as described"),
            "schedule.div": (100.0, "as run"),
            "schedule.final_div": (100.0, "as run"),
            "augment.cutout": ({"min_px": 8, "max_px": 8}, "8 x 8, as run"),
            "training.batch_size": (512, "as described"),
        },
    ),
    "superconvergence": Preset(
        summary="one cycle with SGD that ends where it began",
        source="a course project",
        base="base",
        changes={
            "model.name": ("resnet9", "6,573,130 parameters"),
            "optimizer.lr": (0.07, "as described: LR_max; or --find-lr"),
            "schedule.epochs": (24, "as described, with the maximum at epoch 5"),
            "schedule.div": (100.0, "open: LR_min, where it also ends, low enough to settle"),
            "schedule.final_div": (1.0, "as described: no annihilation"),
            "augment.crop.fill": ("zero", "as described: RandomCrop after padding 4"),
            "augment.cutout": ({"min_px": 8, "max_px": 8}, "8 x 8, as described"),
            "training.batch_size": (512, "as described"),
        },
    ),
    "resnet18-sgd-plateau": Preset(
        summary="an earlier stage: SGD at 0.001, reduce on plateau",
        source="a course project",
        base="resnet18",
        changes={
            "optimizer.lr": (0.001, "as described: best LR of its finder"),
            "schedule": ({"name": "plateau", "epochs": 50}, "as described"),
            "augment.crop.fill": ("zero", "as described: RandomCrop after padding 4"),
            "augment.cutout": ({"min_px": 8, "max_px": 8}, "8 x 8, as described"),
        },
    ),
    "resnet18-layernorm": Preset(
        summary="layer norm only, reduce on plateau",
        source="a course project",
        base="resnet18",
        changes={
            "model.norm": ("layer", "as described"),
            "model.last_stage_stride": (1, "as run: an 8 x 8 last map for Grad-CAM"),
            "optimizer.lr": (0.01, "as described"),
            "schedule": ({"name": "plateau", "epochs": 40}, "as described"),
            "augment.crop.fill": ("zero", "as described: RandomCrop(32, padding 4)"),
            "augment.cutout": ({"min_px": 16, "max_px": 16}, "16 x 16, as described"),
            "augment.rotate": ({"limit_deg": 5.0, "prob": 1.0}, "up to 5 degrees, as described"),
        },
    ),
    "resnet18-layernorm-lr0.1": Preset(
        summary="the same at ten times the rate, as its code ran",
        source="a course project's code",
        base="resnet18-layernorm",
        changes={"optimizer.lr": (0.1, "as run, where its description says 0.01")},
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
    changes = nested((path, value) for path, (value, _) in this.changes.items())
    return overlay(below, {**changes, "name": name}, origin=f"recipe {name}")


def recipes() -> dict[str, Recipe]:
    """Every named recipe, resolved."""
    return {name: preset(name) for name in PRESETS}


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
    except OSError as error:
        raise UsageError(f"recipe file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"recipe file {path} is not text in UTF-8") from error
    tables = parse_toml(text, str(path))
    base = tables.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise UsageError(f"{path}: base = {base} must be the name of a recipe")
    below = preset(base) if base else Recipe()
    return overlay(below, {"name": path.stem, **tables}, origin=str(path))
