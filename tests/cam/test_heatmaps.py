"""Heat maps worked by hand, their properties, their notes and the input they refuse."""

import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import resight
from cam_networks import LAYERS, K, labels, network, pictures
from resight.cam import METHODS
from resight.cam.closed_form import channel_weights
from resight.cam.hooks import borrow, forward
from resight.cam.layouts import Grid
from resight.networks.unwrap import unwrap


def pooled(pool: nn.Module, weights: list[list[float]]) -> nn.Sequential:
    """The image is the map; then a pool over it and a linear layer without bias."""
    linear = nn.Linear(len(weights[0]), len(weights), bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weights))
    return nn.Sequential(OrderedDict(maps=nn.Identity(), pool=pool, flat=nn.Flatten(), fc=linear))


AVERAGE = pooled(nn.AdaptiveAvgPool2d(1), [[4.0, 0.0], [0.0, 8.0], [-4.0, -4.0]])
IMAGE = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [0.0, 1.0]]]])  # (1, 2, 2, 2)


def test_by_hand() -> None:
    """Means 2.5 and 0.5, so logits 10, 4 and -12; a cell's gradient is the weight over 4."""
    first, second = IMAGE[0]
    result = resight.heatmaps(AVERAGE, IMAGE, "maps", "all")
    assert result.logits.tolist() == [[10.0, 4.0, -12.0]]
    expected = torch.stack([first, 2 * second, -first - second])
    torch.testing.assert_close(result.maps["maps"][0], expected)
    finer = resight.heatmaps(AVERAGE, IMAGE, "maps", method="finer-cam", against=torch.tensor([1]))
    torch.testing.assert_close(finer.maps["maps"][0, 0], first - 2 * second)
    nearest = resight.heatmaps(AVERAGE, IMAGE, "maps", 2, "finer-cam")  # 4 is nearer to -12 than 10
    torch.testing.assert_close(nearest.maps["maps"][0, 0], -first - second - 2 * second)
    plus = resight.heatmaps(AVERAGE, IMAGE, "maps", 0, "grad-cam++")
    torch.testing.assert_close(plus.maps["maps"][0, 0], first * 4 / (2 + 10))  # 1 / (2 + 1 * 10)
    ablated = resight.heatmaps(AVERAGE, IMAGE, "maps", [0, 2], "ablation-cam")
    torch.testing.assert_close(ablated.maps["maps"][0, 0], first)  # without it the logit is 0
    torch.testing.assert_close(ablated.maps["maps"][0, 1], (-10 * first - 2 * second) / 12)


def test_eigen_cam_by_hand() -> None:
    """Activations of rank one: cells u times channels v, so the map is |v| u, sum not negative."""
    u, v = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([-3.0, 4.0])
    image = (v[:, None, None] * u)[None]
    (image_map,) = resight.heatmaps(AVERAGE, image, "maps", method="eigen-cam").maps["maps"][0]
    torch.testing.assert_close(image_map, 5 * u, rtol=1e-4, atol=1e-4)
    zero = resight.heatmaps(AVERAGE, 0 * image, "maps", method="eigen-cam").maps["maps"]
    assert zero.eq(0).all()


@pytest.mark.parametrize("name", list(LAYERS))
def test_eigen_cam_is_the_first_singular_vector(name: str) -> None:
    model, images, layer = network(name).double(), pictures().double(), LAYERS[name][0]
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, a, out: kept.append(out))
    model(images)
    handle.remove()
    u, s, _ = torch.linalg.svd(kept[0].detach().flatten(2).mT, full_matrices=False)
    maps = resight.heatmaps(model, images, layer, method="eigen-cam").maps[layer][:, 0]
    expected = (u[..., 0] * s[:, :1]).abs()
    torch.testing.assert_close(
        maps.flatten(1).abs().double(), expected, rtol=1e-3, atol=1e-4 * float(expected.max())
    )


def test_classes_and_batches() -> None:
    model, images = network("swift"), pictures()
    every = resight.heatmaps(model, images, classes="all")
    layer = "block3"
    assert list(every.maps) == [layer]  # the last with a map, not the pooling behind it
    assert every.maps[layer].shape == (4, K, 2, 2)
    preds = every.logits.argmax(1)
    torch.testing.assert_close(every.logits, model(images).detach())
    mixed = resight.heatmaps(model, images, layer, ["predicted", labels(), 5, "all"], batch_size=3)
    assert mixed.classes.tolist() == [
        [int(p), int(t), 5, *range(K)] for p, t in zip(preds, labels(), strict=True)
    ]
    picked = every.maps[layer].gather(
        1, mixed.classes[..., None, None].expand_as(mixed.maps[layer])
    )
    torch.testing.assert_close(mixed.maps[layer], picked)
    array = resight.heatmaps(model, images, layer, labels().numpy())
    assert torch.equal(array.classes[:, 0], labels())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_at_several_layers(method: str) -> None:
    layers = ["block3", "block2"]
    result = resight.heatmaps(network("swift"), pictures(2), layers, ("predicted", 3), method)
    assert list(result.maps) == layers
    assert result.method == method
    for layer, maps in result.maps.items():
        assert maps.shape[:2] == (2, 2)
        assert maps.dtype == torch.float32
        assert not maps.requires_grad
        assert maps.isfinite().all()
        shown = result.upsampled(layer)
        assert shown.shape == (2, 2, 20, 20)
        assert 0 <= float(shown.min()) <= float(shown.max()) <= 1
    assert resight.heatmaps.__doc__ is not None
    assert f'"{method}"' in resight.heatmaps.__doc__


class TwoHeads(nn.Module):
    """The last linear layer has the average map as input, but another layer adds to its output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.other, self.last = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images))

    def head(self, maps: Tensor) -> Tensor:
        largest: Tensor = self.other(maps.amax((2, 3)) ** 2)
        average: Tensor = self.last(maps.mean((2, 3)))
        return average + largest


def test_the_closed_form_is_used_where_it_holds_and_only_there() -> None:
    def weights(model: nn.Module, layer: str) -> Tensor | None:
        with borrow(model, torch.device("cpu")):
            record = forward(model, pictures(), {layer: model.get_submodule(layer)}, graph=True)
        cotangents = torch.eye(record.logits.shape[1])[:, None].expand(-1, 4, -1)
        height, width = record.activations[layer].shape[2:]
        return channel_weights(record, cotangents, Grid("channels_first", height, width))

    for name, layers in LAYERS.items():
        assert weights(network(name), layers[-1]) is not None
        assert weights(network(name), layers[0]) is None
    two = TwoHeads()
    assert weights(two, "conv") is None
    images = pictures()
    maps = two.conv(images)
    logits = two.head(maps)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), maps)
    expected = (gradient.mean((2, 3), keepdim=True) * maps).sum(1).detach()
    torch.testing.assert_close(
        resight.heatmaps(two, images, "conv", 1).maps["conv"][:, 0], expected
    )


def test_scales_and_negative_evidence() -> None:
    """The maps of an image share one scale; without positive evidence a map is 0, never NaN."""
    result = resight.heatmaps(AVERAGE, torch.cat([IMAGE, 0 * IMAGE]), "maps", "all")
    shown = result.normalized("maps")
    torch.testing.assert_close(shown[0, 0], IMAGE[0, 0] / 4)
    torch.testing.assert_close(shown[0, 1], IMAGE[0, 1] / 2)
    assert shown[0, 2].eq(0).all()
    assert shown[1].eq(0).all()
    assert result.notes == (
        "maps: 2x2 map, a cell covers 1 px: too coarse to say where",
        "all evidence negative or zero for 4 of 6 maps (2 images, 3 classes) at maps",
    )
    assert result.upsampled("maps", (5, 7)).shape == (2, 3, 5, 7)
    nan = resight.heatmaps(AVERAGE, IMAGE * torch.nan, "maps", 0)
    assert nan.normalized("maps").eq(0).all()
    assert nan.notes[-1] == "infinite or not a number for 1 of 1 images at maps"
    small = resight.heatmaps(network("swift"), pictures(1, 32), "block3")
    assert small.notes[0] == "block3: 3x3 map, a cell covers 10.7 px: too coarse to say where"
    with pytest.raises(resight.UsageError, match=r"no maps of layer 'map'; did you mean \"maps\""):
        result.normalized("map")


def test_against_the_class_itself_takes_the_nearest_class() -> None:
    result = resight.heatmaps(AVERAGE, IMAGE, method="finer-cam", against=torch.tensor([0]))
    alone = resight.heatmaps(AVERAGE, IMAGE, method="finer-cam")
    torch.testing.assert_close(result.maps["maps"], alone.maps["maps"])
    assert "`against` was the class itself 1 times" in result.notes[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layers": "blok3"},
            "no layer 'blok3'; did you mean \"block3\"? (layers with a map: whiten",
        ),
        ({"layers": ["block3", "head"]}, "layer 'head' puts out no map (N, C, h, w); did you mean"),
        ({"layers": []}, "layers is empty"),
        ({"method": "gradcam"}, 'no method "gradcam"; did you mean "grad-cam"? (valid: grad-cam, '),
        ({"classes": "true"}, 'classes = "true"; choose "predicted", "all", a class index'),
        ({"classes": 10}, "class 10 does not exist: the model has 10 classes, 0 to 9"),
        ({"classes": ("predicted", -1)}, "class -1 does not exist"),
        ({"classes": labels(3)}, "classes: torch.int64 (3,) for 4 images"),
        ({"classes": torch.zeros(4)}, "labels are whole numbers (4,)"),
        ({"classes": []}, "classes is empty"),
        ({"classes": ("predicted", [1, 2, 3, 4])}, "give labels for each image as a tensor"),
        ({"against": labels()}, 'against is for method "finer-cam", not "grad-cam"'),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"images": torch.zeros(3, 16, 16)}, "images are torch.float32 (3, 16, 16); heat maps"),
        ({"images": pictures().byte()}, "images are torch.uint8"),
        ({"images": pictures()[:0]}, "images are empty, (0, 3, 20, 20)"),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, dict) else "",
)
def test_bad_input_gets_one_line(arguments: dict[str, object], message: str) -> None:
    arguments = {"images": pictures(), **arguments}
    with pytest.raises(resight.UsageError) as error:
        resight.heatmaps(network("swift"), **arguments)  # type: ignore[arg-type]
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_networks_without_maps_or_logits() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(resight.UsageError, match=r"no layer has a map .*layers with a map: none"):
        resight.heatmaps(flat, IMAGE)
    with pytest.raises(resight.UsageError, match=r"returns \(1, 2, 2, 2\) for 1 images"):
        resight.heatmaps(nn.Sequential(nn.Identity()), IMAGE, "0")
    blind = nn.Sequential(nn.Identity(), nn.Flatten())
    blind.forward = lambda images: blind[1](blind[0](images).detach())  # type: ignore[method-assign]
    with pytest.raises(resight.UsageError, match=r"no gradient leads .* eigen-cam, score-cam"):
        resight.heatmaps(blind, IMAGE, "0")
    assert resight.heatmaps(blind, IMAGE, "0", method="eigen-cam").logits.shape == (1, 8)


def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = network("swift")
    with pytest.raises(resight.UsageError, match="made in inference mode"):
        resight.heatmaps(model, pictures())


def test_faithfulness_by_hand() -> None:
    """One pixel in four decides the class, and the map ranks it first."""
    model = pooled(nn.AdaptiveMaxPool2d(1), [[1.0], [0.0]])
    image = torch.tensor([[[[9.0, 0.0], [0.0, 0.0]]]])
    sure, guess = torch.tensor([9.0, 0.0]).softmax(0)[0], torch.tensor(0.5)
    result = resight.faithfulness(model, image, resight.heatmaps(model, image, "maps", 0), steps=4)
    assert result.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    torch.testing.assert_close(
        result.deletion_curves[0, 0], torch.stack([sure, guess, guess, guess, guess])
    )
    torch.testing.assert_close(result.insertion[0, 0], (guess + 7 * sure) / 8)
    with pytest.raises(resight.UsageError, match="not those of the maps, which are of 1 images"):
        resight.faithfulness(model, image[..., :1], resight.heatmaps(model, image))
    with pytest.raises(resight.UsageError, match="steps = 0"):
        resight.faithfulness(model, image, resight.heatmaps(model, image), steps=0)


def test_wrappers_are_removed() -> None:
    model = network("swift")
    assert unwrap(nn.DataParallel(model)) is model


def test_the_page_names_every_method_and_its_example_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "heatmaps.md").read_text()
    for method in METHODS:
        assert f"| `{method}` |" in page
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names = {"resight": resight, "model": network("swift"), "images": pictures()}
    exec(compile(code, "heatmaps.md", "exec"), names | {"labels": labels()})
