"""Heads, outputs and layers of any network: maps are right, or one line says why not."""

from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import resight
from cam_networks import labels, network, pictures
from refusal import refused
from resight.networks.outputs import take_logits

IMAGES = pictures(4, 12)


class CosineHead(nn.Linear):
    def forward(self, features: Tensor) -> Tensor:
        return 10 * F.linear(F.normalize(features), F.normalize(self.weight))


class AdapterHead(nn.Linear):
    """A linear layer with a low-rank addition that is not in its weight."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Linear(inputs, 2), nn.Linear(2, outputs)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features) + self.up(self.down(features))


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        return features.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -2 * gradient


class ReversedFlatten(nn.Flatten):
    """Features that are the mean of the map, but have another gradient."""

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = Reversed.apply(super().forward(maps))
        return out


def with_head(head: nn.Module, flatten: nn.Module | None = None) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        body = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
        return nn.Sequential(*body, flatten or nn.Flatten(), head).eval()


def scaled(head: nn.Module) -> nn.Module:
    head.register_forward_hook(lambda module, args, output: output * output.abs())
    return head


def with_backward_hook(head: nn.Module) -> nn.Module:
    head.register_full_backward_hook(lambda module, inputs, outputs: (3 * inputs[0],))
    return head


HEADS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Linear(8, 3),
    "cosine": lambda: CosineHead(8, 3),
    "adapter": lambda: AdapterHead(8, 3),
    "forward hook": lambda: scaled(nn.Linear(8, 3)),
    "backward hook": lambda: with_backward_hook(nn.Linear(8, 3)),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3)),
    "two layers": lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh(), CosineHead(8, 3)),
}


@pytest.mark.parametrize("flatten", [nn.Flatten, ReversedFlatten])
@pytest.mark.parametrize("head", list(HEADS))
def test_every_head_has_the_maps_of_plain_autograd(
    head: str, flatten: Callable[[], nn.Module]
) -> None:
    model = with_head(HEADS[head](), flatten())
    kept = model[:2](IMAGES).detach().requires_grad_()
    logits = model[2:](kept)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), kept)
    expected = (kept * gradient.mean((2, 3), keepdim=True)).sum(1).detach()
    maps = resight.heatmaps(model, IMAGES, "1", 1).maps["1"][:, 0]
    torch.testing.assert_close(maps, expected)


def one_and_two_logits() -> tuple[nn.Sequential, nn.Sequential]:
    """A network with one logit z, and one with the two logits (0, z)."""
    one, two = with_head(nn.Linear(8, 1)), with_head(nn.Linear(8, 2))
    two[0].load_state_dict(one[0].state_dict())
    with torch.no_grad():
        one[4].weight.mul_(9)
        for mine, its in ((one[4].weight, two[4].weight), (one[4].bias, two[4].bias)):
            its.zero_()
            its[1] = mine[0]
    return one, two


@pytest.mark.parametrize("method", ["grad-cam", "hirescam", "layercam"])
def test_one_logit_has_the_maps_and_curves_of_two(method: str) -> None:
    one, two = one_and_two_logits()
    single = resight.heatmaps(one, IMAGES, "1", 0, method)
    double = resight.heatmaps(two, IMAGES, "1", 1, method)
    torch.testing.assert_close(single.maps, double.maps)
    torch.testing.assert_close(single.probabilities(), double.probabilities())
    mine, its = (
        resight.faithfulness(m, IMAGES, maps) for m, maps in ((one, single), (two, double))
    )
    torch.testing.assert_close(mine.deletion_curves, its.deletion_curves)
    torch.testing.assert_close(mine.insertion, its.insertion)
    assert float(mine.deletion_curves.std()) > 1e-3


def test_both_sides_of_one_logit() -> None:
    one, _ = one_and_two_logits()
    z = one(IMAGES)[:, 0].detach()
    sides = resight.heatmaps(one, IMAGES, "1", "all", "hirescam")
    against, speaks_for = sides.maps["1"].unbind(1)
    torch.testing.assert_close(against, -speaks_for)
    torch.testing.assert_close(sides.logits, torch.stack([-z, z], dim=1))
    assert sides.notes[0] == (
        "one logit z: class 1 is what it speaks for, class 0 the rest; logits (-z, z)"
    )
    targets = torch.tensor([0, 1, 1, 0])
    mixed = resight.heatmaps(one, IMAGES, "1", ["predicted", targets, 0], "hirescam")
    assert mixed.classes.tolist() == [
        [int(value > 0), target, 1] for value, target in zip(z, targets.tolist(), strict=True)
    ]
    torch.testing.assert_close(mixed.maps["1"][:, 1], sides.maps["1"][range(4), targets])
    with refused("classes = 1, but the model has one logit: 0 asks for what it speaks for"):
        resight.heatmaps(one, IMAGES, "1", 1)
    with refused("class 2 does not exist: the model has 2 classes, 0 to 1"):
        resight.heatmaps(one, IMAGES, "1", targets + 1)
    with refused("finer-cam tells two classes apart, but the model has one logit"):
        resight.heatmaps(one, IMAGES, "1", method="finer-cam")


def test_labels_of_an_image_with_several() -> None:
    """The curves of a network of K labels are those of K networks with one logit."""
    model = with_head(nn.Linear(8, 3))
    with torch.no_grad():
        model[4].bias.copy_(torch.tensor([6.0, 1.0, -6.0]))
    maps = resight.heatmaps(model, IMAGES, "1", "all", multi_label=True)
    torch.testing.assert_close(maps.probabilities(), model(IMAGES).detach().sigmoid())
    curves = resight.faithfulness(model, IMAGES, maps)
    torch.testing.assert_close(curves.insertion_curves[:, :, -1], maps.probabilities())
    for k in range(3):
        single = with_head(nn.Linear(8, 1))
        single[4].weight, single[4].bias = (
            nn.Parameter(part[k : k + 1]) for part in (model[4].weight, model[4].bias)
        )
        its = resight.heatmaps(single, IMAGES, "1", 0)
        torch.testing.assert_close(its.maps["1"][:, 0], maps.maps["1"][:, k])
        torch.testing.assert_close(
            resight.faithfulness(single, IMAGES, its).deletion[:, 0], curves.deletion[:, k]
        )
    shares = resight.faithfulness(model, IMAGES, maps, multi_label=False)
    torch.testing.assert_close(shares.insertion_curves[:, :, -1], model(IMAGES).detach().softmax(1))


def test_a_list_as_long_as_the_batch_gets_a_note() -> None:
    note = "classes: 4 indices give 4 maps of each image; to get one map an image, of its label, "
    result = resight.heatmaps(network("swift"), pictures(4), "block3", labels(4).tolist())
    assert result.notes[0].startswith(note)
    assert result.maps["block3"].shape[1] == 4
    for classes in ([1, 2, 3], ["predicted", 1, 2, 3], labels(4)):
        notes = resight.heatmaps(network("swift"), pictures(4), "block3", classes).notes
        assert not any(line.startswith("classes:") for line in notes)


class Returns(nn.Module):
    """Wraps the logits of a network."""

    def __init__(self, model: nn.Module, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model, self.wrap = model, wrap

    def forward(self, images: Tensor) -> Any:
        return self.wrap(self.model(images))


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (lambda z: SimpleNamespace(logits=z), "SimpleNamespace: its `logits` are taken"),
        (lambda z: {"loss": None, "logits": z}, "dict: its `logits` are taken"),
        (lambda z: OrderedDict(logits=z), "OrderedDict: its `logits` are taken"),
        (lambda z: (z, z[:1]), "tuple: the first of its 2 parts is taken as the logits"),
        (lambda z: [z], "list: the first of its 1 parts is taken as the logits"),
    ],
)
@pytest.mark.parametrize("method", ["grad-cam", "score-cam", "ablation-cam"])
def test_logits_in_another_result(wrap: Callable[[Tensor], Any], note: str, method: str) -> None:
    model, images = network("swift"), pictures(2)
    plain = resight.heatmaps(model, images, "block3", method=method)
    wrapped = Returns(model, wrap)
    result = resight.heatmaps(wrapped, images, "model.block3", method=method)
    torch.testing.assert_close(result.maps["model.block3"], plain.maps["block3"])
    assert result.notes[0] == f"the network returns outputs of type {note}"
    areas = resight.faithfulness(wrapped, images, result, steps=3).deletion
    torch.testing.assert_close(areas, resight.faithfulness(model, images, plain, steps=3).deletion)


@pytest.mark.parametrize(
    "wrap", [lambda z: None, lambda z: {"out": z}, lambda z: (None, z), lambda z: ()]
)
def test_results_without_logits_get_one_line(wrap: Callable[[Tensor], Any]) -> None:
    with refused("without logits; it must return a tensor (N, classes), or that tensor as"):
        resight.heatmaps(Returns(network("swift"), wrap), pictures(2), "model.block3")
    with refused("without logits"):
        take_logits(wrap(torch.zeros(2, 3)))


def test_layers_as_modules_and_indices() -> None:
    model = network("swift")
    block2, block3 = model.get_submodule("block2"), model.get_submodule("block3")
    expected = resight.heatmaps(model, pictures(2), ["block3", "block2"]).maps
    torch.testing.assert_close(
        resight.heatmaps(model, pictures(2), [block3, block2]).maps, expected
    )
    alone = resight.heatmaps(nn.DataParallel(model), pictures(2), block3).maps
    torch.testing.assert_close(alone["block3"], expected["block3"])
    sequential = with_head(nn.Linear(8, 3))
    by_index = resight.heatmaps(sequential, IMAGES, [0, 1]).maps
    torch.testing.assert_close(by_index, resight.heatmaps(sequential, IMAGES, ["0", "1"]).maps)
    with refused("there is no layer '-7' (layers with a map: 0, 1, 2)"):
        resight.heatmaps(sequential, IMAGES, -7)
    with refused("the Conv2d in layers is no layer of the model; name one"):
        resight.heatmaps(sequential, IMAGES, nn.Conv2d(3, 8, 3))
    with refused("layers holds None; give names, modules, or indices of an nn.Sequential"):
        resight.heatmaps(sequential, IMAGES, [None])  # type: ignore[list-item]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripted_and_exported_modules_get_one_line() -> None:
    model = with_head(nn.Linear(8, 3))
    for module, line in (
        (torch.jit.script(model), "was scripted or traced, and its layers cannot be looked into"),
        (torch.jit.trace(model, IMAGES), "was scripted or traced"),
        (torch.export.export(model, (IMAGES,)).module(), "has no evaluation mode"),
    ):
        with refused(line):
            resight.heatmaps(module, IMAGES, "1")
    traced = torch.fx.symbolic_trace(model)  # runs its layers as modules
    torch.testing.assert_close(
        resight.heatmaps(traced, IMAGES, "1").maps, resight.heatmaps(model, IMAGES, "1").maps
    )
    part = nn.Sequential(OrderedDict(body=torch.jit.script(model[:3]), head=model[3:]))
    with refused("no layer has a map (N, C, h, w) of more than one cell (layers with a map: none)"):
        resight.heatmaps(part, IMAGES)
