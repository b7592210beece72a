"""The five published projects: each recipe is what its description says, and it trains."""

from typing import Any

import pytest
import torch

import resight
from resight.datasets import Dataset, Split
from resight.events import EpochDone, StepDone
from resight.networks import build_model
from resight.recipe.presets import PRESETS, get_preset
from resight.recipe.toml import unflatten
from resight.training.loop import fit
from resight.training.setup import prepare

PLATEAU = {
    "schedule.name": "plateau",
    "schedule.metric": "val_loss",
    "schedule.factor": 0.1,
    "schedule.patience": 3,
    "schedule.min_lr": 1e-5,
}
CROP = {"augment.crop": {"pad": 4, "fill": "zero"}, "augment.flip": "random"}

# What each description (or, where it is silent, the run) says; nothing that was left open.
DESCRIBED: dict[str, dict[str, Any]] = {
    "resnet18-onecycle": {
        "model.name": "resnet18",
        "optimizer.name": "adam",
        "schedule.name": "one_cycle",
        "schedule.epochs": 20,
        "schedule.peak_epoch": 5.0,
        "schedule.anneal": "cosine",
        "schedule.momentum_low": 0.85,
        "schedule.momentum_high": 0.95,
        "augment.crop": {"pad": 4, "fill": "reflect"},
        "augment.cutout": {"count": 1, "min_px": 16, "max_px": 16, "prob": 1.0, "fill": "mean"},
        "training.batch_size": 512,
    },
    "resnet18-plateau": {
        **PLATEAU,
        "model.name": "resnet18",
        "model.dropout": 0.15,
        "optimizer.name": "sgd",
        "optimizer.weight_decay": 1e-3,
        "loss.l1": 3e-6,
        "schedule.epochs": 50,
        "augment.crop": None,
        "augment.flip": "random",
        "augment.hsv": {"hue": 20, "saturation": 30, "value": 20, "prob": 0.25},
        "augment.rotate": {"limit_deg": 15.0, "prob": 0.5},
        "augment.cutout": {"count": 1, "min_px": 4, "max_px": 16, "prob": 0.75, "fill": "mean"},
        "training.batch_size": 128,
    },
    "resnet9-onecycle": {
        "model.name": "resnet9",
        "optimizer.name": "adam",
        "optimizer.weight_decay": 1e-4,
        "schedule.name": "one_cycle",
        "schedule.epochs": 24,
        "schedule.peak_epoch": 5.0,
        "schedule.anneal": "linear",
        "augment.flip": "random",
        "augment.cutout": {"count": 1, "min_px": 8, "max_px": 8, "prob": 1.0, "fill": "mean"},
        "training.batch_size": 512,
    },
    "superconvergence": {
        **CROP,
        "model.name": "resnet9",
        "optimizer.name": "sgd",
        "optimizer.lr": 0.07,
        "schedule.name": "one_cycle",
        "schedule.epochs": 24,
        "schedule.peak_epoch": 5.0,
        "schedule.final_div": 1.0,
        "augment.cutout": {"count": 1, "min_px": 8, "max_px": 8, "prob": 1.0, "fill": "mean"},
        "training.batch_size": 512,
    },
    "resnet18-sgd-plateau": {
        **PLATEAU,
        **CROP,
        "model.name": "resnet18",
        "optimizer.name": "sgd",
        "optimizer.lr": 0.001,
        "schedule.epochs": 50,
    },
    "resnet18-layernorm": {
        **PLATEAU,
        "model.name": "resnet18",
        "model.norm": "layer",
        "optimizer.name": "sgd",
        "optimizer.lr": 0.01,
        "schedule.epochs": 40,
        "augment.crop": {"pad": 4, "fill": "zero"},
        "augment.rotate": {"limit_deg": 5.0, "prob": 1.0},
        "augment.cutout": {"count": 1, "min_px": 16, "max_px": 16, "prob": 1.0, "fill": "mean"},
        "training.batch_size": 128,
    },
}
PARAMETERS = {"resnet18": 11_173_962, "resnet9": 6_573_130}


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_recipe_is_what_its_description_says(name: str) -> None:
    recipe = resight.from_toml(resight.to_toml(get_preset(name))).model_dump()
    for section, settings in unflatten(DESCRIBED[name].items()).items():
        assert {setting: recipe[section][setting] for setting in settings} == settings


@pytest.mark.parametrize("name", DESCRIBED)
def test_parameters_are_counted_exactly(name: str) -> None:
    spec = get_preset(name).model
    model = build_model(spec, in_channels=3, num_classes=10, image_size=32, seed=0)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[spec.name]


def colors(n: int, px: int) -> Split:
    images = torch.randint(0, 256, (n, 3, px, px), generator=torch.Generator().manual_seed(n))
    labels = torch.arange(n) % 10
    return Split(images.to(torch.uint8), labels, tuple(str(i) for i in range(n)))


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_recipe_takes_a_step(name: str) -> None:
    recipe = resight.with_overrides(
        get_preset(name), ["training.batch_size=8", "data.val_fraction=0.3"]
    )
    classes = tuple(f"class {k}" for k in range(10))
    px = min(64, recipe.data.image_size or 32)
    data = Dataset("colors", classes, colors(40, px), colors(10, px))
    setup = prepare(
        recipe, data=data, model=None, device="cpu", offline=True, on_event=lambda event: None
    )
    before = [p.detach().clone() for p in setup.state.model.parameters() if p.requires_grad]
    event = next(fit(setup.state, setup.recipe, setup.splits))
    if name == "probe":  # its head has been fitted before
        assert isinstance(event, EpochDone)
        return
    assert isinstance(event, StepDone)
    assert torch.isfinite(event.loss)
    after = [p for p in setup.state.model.parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
