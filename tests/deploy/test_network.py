"""The network that takes pixels: what resight computes of the same images is the reference."""

import pytest
import torch
from torch import Tensor, nn

import resight
from deploy_networks import NETWORKS, STATS, make_network, pixels
from resight import recipe
from resight.datasets import Statistics
from resight.datasets.augment import normalize
from resight.deploy.network import PixelNetwork, class_maps


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_resight(name: str) -> None:
    model, images = make_network(NETWORKS[name]), pixels(6)
    normalized = normalize(images, STATS)
    maps = class_maps(model, normalized[:4])
    assert maps is not None
    with torch.no_grad():
        outputs = PixelNetwork(model, STATS, maps=maps).eval()(images)
    heat = resight.heatmaps(model, normalized, classes="all")
    [expected] = heat.maps.values()
    assert list(heat.maps) == [maps.layer]
    assert list(outputs) == ["probabilities", "logits", "heatmap"]
    assert float(expected.abs().max()) > 1e-3
    torch.testing.assert_close(outputs["heatmap"], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(outputs["logits"], heat.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs["probabilities"], heat.probabilities(), rtol=0, atol=1e-5)


def test_gray_images() -> None:
    model, images = make_network(recipe.Swift(), channels=1), pixels(3, channels=1)
    stats = Statistics((0.3,), (0.35,))
    with torch.no_grad():
        outputs = PixelNetwork(model, stats).eval()(images)
        expected = model(normalize(images, stats))
    assert list(outputs) == ["probabilities", "logits"]
    torch.testing.assert_close(outputs["logits"], expected, rtol=1e-4, atol=1e-5)


class Pooled(nn.Module):
    """A convolution, and a head that gets its map."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


POOL = (nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Squared(nn.Module):
    """Logits that are no linear function of what the linear layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(*POOL, nn.Linear(8, 5))

    def forward(self, maps: Tensor) -> Tensor:
        outputs: Tensor = self.inner(maps)
        return outputs * outputs


OTHERS = {
    "no pooling": nn.Sequential(nn.Flatten(), nn.Linear(8 * 32 * 32, 5)),
    "two linear layers": nn.Sequential(*POOL, nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 5)),
    "squared logits": Squared(),
}


@pytest.mark.parametrize("name", OTHERS)
def test_no_closed_form_where_the_network_ends_otherwise(name: str) -> None:
    torch.manual_seed(0)
    images = normalize(pixels(4), STATS)
    assert class_maps(Pooled(OTHERS[name]), images) is None
    assert class_maps(Pooled(nn.Sequential(*POOL, nn.Linear(8, 5))), images) is not None


def test_a_network_without_a_map_has_no_heat_map() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    assert class_maps(model, normalize(pixels(4), STATS)) is None


def test_the_network_comes_back_as_it_was() -> None:
    model = make_network(recipe.Swift()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    maps = class_maps(model, normalize(pixels(4), STATS))
    wrapped = PixelNetwork(model, STATS, maps=maps)
    model.eval()
    wrapped(pixels(2))
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
