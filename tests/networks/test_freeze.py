"""Layers that are held: their weights, their running statistics, and that they are given back."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

import resight
from refusal import refused
from resight.events import EpochDone
from resight.networks import build_model
from resight.networks.freeze import check_frozen, frozen, head_of
from resight.optim.optimizers import build_optimizer, set_rates
from resight.recipe import SGD, AdamW, Muon, Recipe, ResNet, Swift
from resight.recipe.toml import from_toml
from resight.training.loop import fit
from resight.training.setup import prepare


@pytest.fixture
def network() -> nn.Module:
    return build_model(ResNet(), in_channels=3, num_classes=4, image_size=16, seed=0)


def held(model: nn.Module) -> set[str]:
    return {name for name, weight in model.named_parameters() if not weight.requires_grad}


def test_patterns_name_layers_and_weights(network: nn.Module) -> None:
    names = {name for name, _ in network.named_parameters()}
    for patterns, expected in (
        (["layer1"], {name for name in names if name.startswith("layer1.")}),
        (["layer[12]", "stem"], {n for n in names if n.startswith(("layer1", "layer2", "stem"))}),
        (["head.fc.bias"], {"head.fc.bias"}),
        (["backbone"], names - {"head.fc.weight", "head.fc.bias"}),
        ([], set()),
    ):
        with frozen(network, patterns):
            assert held(network) == expected
        assert held(network) == set()


def test_held_norms_keep_their_statistics_and_everything_is_given_back(network: nn.Module) -> None:
    network.layer1[0].norm1.weight.requires_grad_(False)  # held by its owner, and stays so
    images = torch.randn(4, 3, 16, 16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with frozen(network, ["layer1", "layer2"]):
        assert not network.layer1[0].norm2.training
        assert network.layer3[0].norm1.training
        network(images)
    changed = {
        name for name, value in network.state_dict().items() if (value != before[name]).any()
    }
    assert not any(name.startswith(("layer1", "layer2")) for name in changed)
    assert "layer3.0.norm1.running_mean" in changed
    assert all(module.training for module in network.modules())
    assert held(network) == {"layer1.0.norm1.weight"}


def test_patterns_that_make_no_sense_are_refused(network: nn.Module) -> None:
    with refused('no weight of the network matches "layr1"; did you mean "layer1"?'):
        check_frozen(network, ["layr1"])
    with refused("leaves no weight to train"):
        check_frozen(network, ["*"])
    with refused("has no linear layer"):
        head_of(nn.ReLU())


@pytest.mark.parametrize(
    "spec", [SGD(lr=0.2), AdamW(lr=0.2), Muon(lr=0.2), SGD(lr=0.2, norm_bias_lr_scale=8)]
)
def test_the_backbone_has_its_own_rate(spec: resight.recipe.Optimizer) -> None:
    model = build_model(Swift(), in_channels=3, num_classes=4, image_size=16, seed=0)
    scaled = spec.model_copy(update={"backbone_lr_scale": 0.1})
    head = set(head_of(model)[1].parameters())
    rates = []
    for each in (spec, scaled):
        optimizer = build_optimizer(each, model)
        set_rates(optimizer, 0.1, None)
        rates.append({p: g["lr"] for g in optimizer.param_groups for p in g["params"]})
    assert rates[0].keys() == rates[1].keys()
    for weight, rate in rates[0].items():
        assert rates[1][weight] == pytest.approx(rate if weight in head else rate * 0.1)


def test_only_the_head_trains_at_first(tiny: resight.Dataset) -> None:
    recipe = from_toml(
        """
        [model]
        name = "resnet9"
        [optimizer]
        lr = 0.001
        [schedule]
        name = "constant"
        epochs = 2
        [training]
        batch_size = 32
        freeze_epochs = 1
        """
    )
    setup = prepare(
        recipe, data=tiny, model=None, device="cpu", offline=True, on_event=lambda event: None
    )
    model = setup.state.model
    states = [{name: value.clone() for name, value in model.state_dict().items()}]
    states += [
        {name: value.clone() for name, value in model.state_dict().items()}
        for event in fit(setup.state, setup.recipe, setup.splits)
        if isinstance(event, EpochDone)
    ]
    head = head_of(model)[0]
    first, second = (
        {name for name in old if (old[name] != new[name]).any()} for old, new in pairwise(states)
    )
    assert {name for name in first if not name.startswith(head)} == set()
    assert any(name.startswith(head) for name in first)
    assert len(second) > 10
    assert held(model) == set()


@pytest.mark.slow
def test_a_run_that_is_cut_while_layers_are_held_ends_the_same(
    tiny: resight.Dataset, tmp_path: Path
) -> None:
    recipe = from_toml(
        '[model]\nname = "resnet9"\n[schedule]\nepochs = 3\n'
        '[training]\nbatch_size = 32\nfreeze = ["prep", "layer1"]\nfreeze_epochs = 2\n'
        "[explain]\nreport = false\npictures = false"
    )
    whole = resight.train(recipe, data=tiny, out=tmp_path, name="whole")

    def cut(event: object) -> None:
        if isinstance(event, EpochDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resight.train(recipe, data=tiny, out=tmp_path, name="cut", on_event=cut)
    resumed = resight.resume(tmp_path / "cut", data=tiny)
    assert resumed.test == whole.test


def test_nothing_is_held_by_default() -> None:
    assert Recipe().training.frozen_in(0) == ()
