"""Maps of layers whose channels come first or last, and of tokens, compared with captum."""

import copy

import pytest
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from torch import Tensor, nn

import resight
from cam_families import (
    CLASSES,
    FAMILIES,
    ConvNeXtLike,
    Permute,
    SwinLike,
    ViTLike,
    family,
)
from cam_networks import pictures
from refusal import refused
from resight.cam.layers import default_layers
from resight.cam.layouts import Grid, LayerOutputs


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    largest = float(theirs.abs().max())
    assert largest > 0, "a map of nothing proves nothing"
    assert float((ours - theirs).abs().max()) <= 1e-6 * max(1, largest)


class ToMap(nn.Module):
    """A layer's output as a map (N, C, h, w) and back, where captum can look at the map."""

    def __init__(self, layer: nn.Module, cells: tuple[int, int] | None) -> None:
        super().__init__()
        self.layer, self.cells, self.map = layer, cells, nn.Identity()

    def forward(self, *args: Tensor) -> Tensor:
        output = self.layer(*args)
        if output.ndim == 4:
            return self.map(output.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        assert self.cells is not None
        prefix = output.shape[1] - self.cells[0] * self.cells[1]
        maps = self.map(output[:, prefix:].mT.unflatten(2, self.cells))
        return torch.cat([output[:, :prefix], maps.flatten(2).mT], dim=1)


def wrap(model: nn.Module, layer: str) -> None:
    head, _, last = layer.rpartition(".")
    setattr(model.get_submodule(head), last, ToMap(model.get_submodule(layer), (8, 8)))


def captum_maps(
    model: nn.Module, layer: str, images: Tensor, classes: Tensor, oracle: type = LayerGradCam
) -> Tensor:
    """Return captum's maps (N, h, w) at a layer that `ToMap` wraps."""
    wrapped = model.get_submodule(layer)
    assert isinstance(wrapped, ToMap)
    maps: Tensor = oracle(model, wrapped.map).attribute(images, classes)
    return maps.sum(dim=1).detach()


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_default_layer_of_each_family(name: str) -> None:
    model, images, layer = family(name), pictures(2, 32), FAMILIES[name][1]
    classes = torch.tensor([1, 3])
    result = resight.heatmaps(model, images, classes=classes)
    assert list(result.maps) == [layer]
    if name == "swin" or "vit" in name:
        wrap(model, layer)
        theirs = captum_maps(model, layer, images, classes)
    else:
        explain = LayerGradCam(model, model.get_submodule(layer))
        theirs = explain.attribute(images, classes).sum(dim=1).detach()
    assert_equal(result.maps[layer][:, 0], theirs)


@pytest.mark.parametrize(
    ("name", "layer", "layout"),
    [
        ("swin", "blocks.0.norm2", "channels_last"),
        ("swin", "blocks.0.mlp", "channels_last"),
        ("swin", "blocks", "channels_last"),
        ("convnext", "stages.0.norm", "channels_last"),
        ("convnext", "stages.1.act", "channels_last"),
        ("vit", "blocks.1", "tokens"),
        ("vit with registers", "blocks.0.mlp", "tokens"),
        ("vit with the mean", "drop", "tokens"),
    ],
)
def test_inner_layers_equal_captum(name: str, layer: str, layout: str) -> None:
    model, images, classes = family(name), pictures(2, 32), torch.tensor([4, 0])
    for method, oracle in (("grad-cam", LayerGradCam), ("hirescam", LayerGradientXActivation)):
        both = resight.heatmaps(model, images, [layer], classes, method)
        given = resight.heatmaps(model, images, [layer], classes, method, layout=layout)  # type: ignore[arg-type]
        assert torch.equal(both.maps[layer], given.maps[layer])
        assert any(note.startswith(f"{layer}: ") and "read" in note for note in both.notes)
        wrapped = copy.deepcopy(model)
        wrap(wrapped, layer)
        assert_equal(both.maps[layer][:, 0], captum_maps(wrapped, layer, images, classes, oracle))


@pytest.mark.parametrize("method", ["score-cam", "ablation-cam", "eigen-cam", "layercam"])
def test_every_kind_of_method_reads_a_layout_as_its_permutation(method: str) -> None:
    """The map of (N, h, w, C) is that of the same network with a module that permutes behind."""
    plain, permuted = SwinLike(), SwinLike(permute=True)
    permuted.load_state_dict(plain.state_dict())
    images = pictures(2, 32)
    last = resight.heatmaps(plain, images, "norm", 2, method).maps["norm"]
    first = resight.heatmaps(permuted, images, "permute", 2, method).maps["permute"]
    torch.testing.assert_close(last, first)


def test_ablation_of_tokens_leaves_the_class_token_as_it_is() -> None:
    model, images, layer = family("vit"), pictures(1, 32), "blocks.2.norm1"
    result = resight.heatmaps(model, images, layer, 1, "ablation-cam")
    block, drops, kept = model.get_submodule(layer), [], torch.empty(0)
    for k in range(16):

        def without(module: nn.Module, args: object, output: Tensor, k: int = k) -> Tensor:
            nonlocal kept
            kept, output = output.detach(), output.clone()
            output[:, 1:, k] = 0
            return output

        handle = block.register_forward_hook(without)
        drops.append(result.logits[0, 1] - model(images)[0, 1].detach())
        handle.remove()
    weights = torch.stack(drops) / result.logits[0, 1].abs()
    torch.testing.assert_close(result.maps[layer][0, 0], (kept[0, 1:] @ weights).reshape(8, 8))


def test_attention_is_no_map() -> None:
    """Weights (heads, T, T), queries (heads, T, d) and windows are not taken for maps."""
    images = pictures(2, 32)
    for layer in ("blocks.0.attn.softmax", "blocks.0.attn.drop", "blocks.0.attn.q_norm"):
        with refused(f"layer '{layer}' puts out (2, 65, "):
            resight.heatmaps(family("vit"), images, layer)
    with refused("layer 'blocks.0.attn.proj' puts out no map (N, C, h, w)"):  # 16 windows an image
        resight.heatmaps(family("swin"), images, "blocks.0.attn.proj")


class Cube(nn.Module):
    """As many channels as rows and columns, and no layer behind that says which is which."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.last, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 5)
        self.same = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.last(self.patch(images).permute(0, 2, 3, 1))
        return self.fc(self.same(torch.tanh(maps)).mean((1, 2)))


def test_an_ambiguous_layout_is_asked_for() -> None:
    torch.manual_seed(0)
    model, images = Cube(), pictures(2, 32)
    for layers in (None, "same"):
        with refused(
            "layer 'same' puts out (8, 8, 8) for an image, a map in channels_first as well as in "
            "channels_last; say which by layout="
        ):
            resight.heatmaps(model, images, layers)
    last = resight.heatmaps(model, images, layout="channels_last", classes=1).maps["same"]
    model.same = ToMap(nn.Identity(), None)  # type: ignore[assignment]
    assert_equal(last[:, 0], captum_maps(model, "same", images, torch.tensor([1, 1])))
    cube = ConvNeXtLike(width=8)
    assert list(resight.heatmaps(cube, images, layout="channels_first").maps) == ["stages"]


def test_layouts_that_do_not_fit_get_one_line() -> None:
    images = pictures(2, 32)
    with refused("layout = 'channel_first'; did you mean \"channels_first\"? (valid: channels_"):
        resight.heatmaps(family("vgg"), images, layout="channel_first")  # type: ignore[arg-type]
    with refused("layer 'layer1' puts out (8, 16, 16) for an image, which is no map in tokens"):
        resight.heatmaps(family("resnet"), images, "layer1", layout="tokens")
    with refused("layer 'head' puts out no map (N, C, h, w)"):
        resight.heatmaps(family("convnext"), images, "head", layout="channels_first")


@pytest.mark.parametrize(
    ("tokens", "size", "grid"),
    [
        (65, (32, 32), Grid("tokens", 8, 8, 1)),
        (69, (32, 32), Grid("tokens", 8, 8, 5)),
        (36, (20, 28), Grid("tokens", 5, 7, 1)),  # patches of 4 px
        (197, (224, 224), Grid("tokens", 14, 14, 1)),
        (70, (32, 32), None),
    ],
)
def test_tokens_become_a_grid_of_the_images_aspect(
    tokens: int, size: tuple[int, int], grid: Grid | None
) -> None:
    outputs = LayerOutputs((2, 3, *size), None)
    outputs.record("norm", nn.LayerNorm(6), (), torch.zeros(2, tokens, 6))
    assert outputs.grid("norm") == grid


@pytest.mark.parametrize(
    ("module", "shape", "grid"),
    [
        (nn.Conv2d(3, 9, 1), (9, 4, 8), Grid("channels_first", 4, 8)),  # strides need no aspect
        (nn.GroupNorm(2, 8), (8, 8, 8), Grid("channels_first", 8, 8)),
        (nn.LayerNorm(8), (8, 8, 8), Grid("channels_last", 8, 8)),
        (nn.Linear(3, 8), (8, 8, 8), Grid("channels_last", 8, 8)),
        (Permute([0, 3, 1, 2]), (8, 8, 8), Grid("channels_first", 8, 8)),
        (Permute([0, 2, 3, 1]), (8, 8, 8), Grid("channels_last", 8, 8)),
        (nn.ReLU(), (12, 8, 8), Grid("channels_first", 8, 8)),
        (nn.ReLU(), (8, 8, 12), Grid("channels_last", 8, 8)),
        (nn.ReLU(), (8, 8, 8), None),
        (nn.ReLU(), (2, 9, 16), None),
        (nn.Flatten(2), (64, 49), None),  # channels and cells, not 64 tokens
    ],
)
def test_what_a_layer_says_of_its_layout(
    module: nn.Module, shape: tuple[int, ...], grid: Grid | None
) -> None:
    outputs = LayerOutputs((2, 3, 32, 32), None)
    outputs.record("layer", module, (), torch.randn(2, *shape))
    assert outputs.grid("layer") == grid


def test_a_layer_norm_that_permutes_inside_is_recognized_by_its_channels() -> None:
    class LayerNorm2d(nn.LayerNorm):
        def forward(self, maps: Tensor) -> Tensor:
            return super().forward(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    norm, outputs = LayerNorm2d(12), LayerOutputs((2, 3, 32, 32), None)
    outputs.record("norm", norm, (), norm(torch.randn(2, 12, 8, 8)))
    assert outputs.grid("norm") == Grid("channels_first", 8, 8)


def test_padding_is_no_layer_of_its_own() -> None:
    """As before each convolution of an EfficientNet, where its maps have 11 sizes more."""
    convs = (
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(4, 4, 3, 2),
    )
    model = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert default_layers(model, (3, 16, 16)) == ("0", "2")


def test_default_layers_of_tokens_are_the_last_that_the_class_sees() -> None:
    assert default_layers(family("vit"), (3, 32, 32)) == ("blocks.2.norm1",)
    assert default_layers(family("vit with the mean"), (3, 32, 32)) == ("norm",)
    assert default_layers(family("swin"), (3, 32, 32)) == ("norm",)
    assert default_layers(family("resnet"), (3, 32, 32)) == ("layer1", "layer2")


def test_a_head_of_zeros_still_has_a_default_layer() -> None:
    model = family("vit")
    nn.init.zeros_(model.get_submodule("head").weight)  # type: ignore[arg-type]
    assert list(resight.heatmaps(model, pictures(2, 32)).maps) == ["blocks.2.norm1"]


def test_images_that_are_not_square() -> None:
    torch.manual_seed(0)
    model, images = ViTLike(prefix=1, size=(20, 28)).eval(), torch.randn(2, 3, 20, 28)
    result = resight.heatmaps(model, images, classes="all")
    assert result.maps["blocks.2.norm1"].shape == (2, CLASSES, 5, 7)
    assert result.notes[0] == (
        "blocks.2.norm1: tokens read as a grid of 5x7, without the 1 before them"
    )


def test_tokens_times_tokens_are_no_map() -> None:
    """Mixed attention weights (T, T, heads) are none; a map of as many rows as a window has is."""
    outputs = LayerOutputs((2, 3, 256, 256), None)
    outputs.record("norm", nn.LayerNorm(6), (), torch.zeros(2, 4096, 6))  # cells of 64x64
    outputs.record("window", nn.LayerNorm(6), (), torch.zeros(2, 64, 6))
    outputs.record("talking", nn.Linear(3, 3), (), torch.zeros(2, 65, 65, 3))
    outputs.record("with class", nn.LayerNorm(6), (), torch.zeros(2, 65, 6))
    outputs.record("stage", nn.Identity(), (), torch.zeros(2, 64, 64, 6))
    assert outputs.grid("talking") is None
    assert outputs.grid("stage") == Grid("channels_last", 64, 64)


def test_a_mixer_over_tokens_puts_out_channels_and_tokens() -> None:
    """It works on (N, C, T), and 64 channels are not a grid of 8x8 tokens."""
    outputs = LayerOutputs((2, 3, 56, 56), None)
    outputs.record("patch", nn.Conv2d(3, 64, 8, 8), (), torch.zeros(2, 64, 7, 7))
    outputs.record("norm", nn.LayerNorm(64), (), torch.zeros(2, 49, 64))
    outputs.record("mix", nn.Linear(49, 49), (), torch.zeros(2, 64, 49))
    assert outputs.grid("norm") == Grid("tokens", 7, 7)
    assert outputs.grid("mix") is None


class SecondHead(nn.Module):
    """Its last linear layer sees a map that has no part in the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fc = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, CLASSES)
        self.second, self.other = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.first(images)
        logits = self.fc(maps.mean((2, 3)))
        return logits, self.other(self.second(maps).mean((2, 3)))


def test_a_map_of_another_head_is_passed_over() -> None:
    torch.manual_seed(0)
    assert list(resight.heatmaps(SecondHead(), pictures(2, 32)).maps) == ["first"]
