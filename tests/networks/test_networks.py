import inspect
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resight import recipe
from resight.errors import UsageError
from resight.networks import (
    MODELS,
    LayerRow,
    build_model,
    layer_table,
    make_norm,
    norm_kind,
    prepare_model,
)
from resight.networks.resnet import BasicBlock
from resight.networks.resnet9 import Residual, conv_block
from resight.networks.swift import whitening_filters

SPECS = {
    "resnet18": recipe.ResNet(),
    "resnet18-layer": recipe.ResNet(norm="layer", last_stage_stride=1),
    "resnet9": recipe.ResNet9(),
    "resnet9-group": recipe.ResNet9(norm="group"),
    "swift": recipe.Swift(widths=(16, 32, 32)),
    "swift-gelu": recipe.Swift(widths=(16, 32, 32), activation="gelu"),
    "swift-silu": recipe.Swift(widths=(16, 32, 32), activation="silu"),
}
each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def build(spec, **settings):
    defaults = {"in_channels": 3, "num_classes": 10, "image_size": 32, "seed": 0}
    return build_model(spec, **{**defaults, **settings})


def random_images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def batch_norm(x, weights, path):
    keys = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(weights[f"{path}.{key}"] for key in keys))


def scramble_norms(model):
    """Give every normalization other statistics and affine values than the neutral ones."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.normal_(module.weight, generator=generator)  # some negative
            nn.init.normal_(module.bias, 0, 0.3, generator=generator)


# --- the networks ---------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["batch", "layer", "group"])
@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda norm: recipe.ResNet(norm=norm), 11_173_962),
        (lambda norm: recipe.ResNet(name="resnet34", norm=norm), 21_282_122),
        (lambda norm: recipe.ResNet9(norm=norm), 6_573_130),
    ],
    ids=["resnet18", "resnet34", "resnet9"],
)
def test_published_parameter_counts_and_one_kind_of_norm(make, count, norm):
    model = build(make(norm))
    assert parameters(model) == count
    assert {norm_kind(module) for module in model.modules()} - {None} == {norm}


def test_norm_kind_of_layers_of_torch():
    layers = (nn.BatchNorm1d(2), nn.LayerNorm(2), nn.InstanceNorm2d(2), nn.RMSNorm(2), nn.ReLU())
    assert [norm_kind(layer) for layer in layers] == ["batch", "layer", "instance", "rms", None]


def test_layer_norm_is_over_channels_and_map():
    x = random_images(2, 6, 5, 4)
    torch.testing.assert_close(make_norm("layer", 6)(x), F.layer_norm(x, x.shape[1:]))


@pytest.mark.parametrize(("channels", "groups"), [(512, 32), (48, 16), (20, 4), (7, 1)])
def test_group_norm_takes_a_divisor(channels, groups):
    assert make_norm("group", channels).num_groups == groups


@each_spec
def test_a_training_step_reaches_every_trainable_parameter(spec):
    model = build(spec, in_channels=1, num_classes=4, image_size=12)
    model = model.to(memory_format=torch.channels_last)
    images = random_images(2, 1, 12, 12).contiguous(memory_format=torch.channels_last)
    logits = model(images)
    assert logits.shape == (2, 4)
    F.cross_entropy(logits, torch.tensor([1, 3])).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
        else:
            assert parameter.grad is None


@each_spec
def test_memory_layout_does_not_change_the_logits(spec):
    model = build(spec).eval()
    images = random_images(2, 3, 16, 16)
    plain = model(images)
    model = model.to(memory_format=torch.channels_last)
    last = model(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "module",
    [
        BasicBlock(2, 3, stride=2, norm="layer"),
        BasicBlock(2, 2, stride=1, norm="batch"),
        Residual(conv_block(2, 2, norm="layer"), conv_block(2, 2, norm="batch")),
    ],
    ids=["downsampling", "plain", "resnet9"],
)
def test_work_in_place_keeps_gradients_right(module):
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, generator=generator)
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(module.double(), x)


def test_resnet18_is_the_network_written_out():
    model = build(recipe.ResNet(), image_size=8).eval()
    scramble_norms(model)
    weights = model.state_dict()

    def conv_norm(x, conv, norm, stride=1):
        kernel = weights[f"{conv}.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        return batch_norm(x, weights, norm)

    images = random_images(2, 3, 8, 8)
    x = conv_norm(images, "stem.0", "stem.1").relu()
    for stage, stride in ((1, 1), (2, 2), (3, 2), (4, 2)):
        for index in range(2):
            block, step = f"layer{stage}.{index}", stride if index == 0 else 1
            out = conv_norm(x, f"{block}.conv1", f"{block}.norm1", step).relu()
            out = conv_norm(out, f"{block}.conv2", f"{block}.norm2")
            if stage > 1 and index == 0:
                x = conv_norm(x, f"{block}.shortcut.0", f"{block}.shortcut.1", step)
            x = (out + x).relu()
    expected = x.mean(dim=(2, 3)) @ weights["head.fc.weight"].T + weights["head.fc.bias"]
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize("logit_scale", [1.0, 0.125])
def test_resnet9_is_the_network_written_out(logit_scale):
    model = build(recipe.ResNet9(logit_scale=logit_scale)).eval()
    scramble_norms(model)
    weights = model.state_dict()

    def conv_norm_relu(x, path, pool=False):
        x = F.conv2d(x, weights[f"{path}.conv.weight"], padding=1)
        x = F.max_pool2d(x, 2) if pool else x
        return batch_norm(x, weights, f"{path}.norm").relu()

    images = random_images(2, 3, 32, 32)
    x = conv_norm_relu(images, "prep")
    x = conv_norm_relu(x, "layer1.down", pool=True)
    x = x + conv_norm_relu(conv_norm_relu(x, "layer1.residual.0"), "layer1.residual.1")
    x = conv_norm_relu(x, "layer2", pool=True)
    x = conv_norm_relu(x, "layer3.down", pool=True)
    x = x + conv_norm_relu(conv_norm_relu(x, "layer3.residual.0"), "layer3.residual.1")
    x = F.max_pool2d(x, 4).flatten(1)
    expected = x @ weights["head.fc.weight"].T + weights["head.fc.bias"]
    torch.testing.assert_close(model(images), expected * logit_scale)


def test_swift_is_the_network_written_out():
    model = build(recipe.Swift(widths=(8, 24, 32), activation="gelu")).eval()
    scramble_norms(model)
    nn.init.uniform_(model.whiten.conv.bias, generator=torch.Generator().manual_seed(1))
    weights = model.state_dict()

    images = random_images(2, 3, 32, 32)
    x = F.gelu(F.conv2d(images, weights["whiten.conv.weight"], weights["whiten.conv.bias"]))
    for block in ("block1", "block2", "block3"):
        x = F.max_pool2d(F.conv2d(x, weights[f"{block}.conv1.weight"], padding=1), 2)
        x = F.gelu(batch_norm(x, weights, f"{block}.norm1"))
        x = F.conv2d(x, weights[f"{block}.conv2.weight"], padding=1)
        x = F.gelu(batch_norm(x, weights, f"{block}.norm2"))
    expected = F.max_pool2d(x, 3).flatten(1) @ weights["head.fc.weight"].T / 9
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize(
    "spec",
    [recipe.ResNet(dropout=0.25), recipe.ResNet9(dropout=0.25), recipe.Swift(dropout=0.25)],
    ids=lambda spec: spec.name,
)
def test_dropout_acts_on_the_pooled_features_in_training_alone(spec):
    model = build(spec, num_classes=2, image_size=9)
    kept = {}
    model.head.pool.register_forward_hook(lambda m, args, out: kept.update(pooled=out.flatten(1)))
    model.head.fc.register_forward_hook(lambda m, args, out: kept.update(features=args[0]))
    images = random_images(8, 3, 9, 9)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model(images)
    active, nonzero = kept["features"] != 0, kept["pooled"] != 0
    torch.testing.assert_close(kept["features"][active], kept["pooled"][active] / 0.75)
    assert 0.2 < (~active & nonzero).sum() / nonzero.sum() < 0.3
    model.eval()(images)
    torch.testing.assert_close(kept["features"], kept["pooled"], rtol=0, atol=0)


@pytest.mark.parametrize(("stride", "size"), [(1, 8), (2, 4)])
def test_last_stage_stride_decides_the_last_map(stride, size):
    model = build(recipe.ResNet(last_stage_stride=stride))
    rows = {row.path: row for row in layer_table(model, (3, 32, 32))}
    assert rows["layer4"].map_size == (size, size)


def test_resnet_convolutions_keep_the_variance_of_gradients():
    model = build(recipe.ResNet())
    weight = model.layer4[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


# --- how swift is initialized ----------------------------------------------------------------


def test_swift_trains_only_what_it_should():
    model = build(recipe.Swift())
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    norms = {f"block{b}.norm{n}.weight" for b in (1, 2, 3) for n in (1, 2)}
    assert frozen == norms | {"whiten.conv.weight"}
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.eps, module.momentum) == (1e-5, 0.4)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module is not model.whiten.conv:
            assert module.bias is None


def test_without_whitening_biases_the_gradient_ends_at_the_first_block():
    model = build(recipe.Swift(whiten_bias=False))
    assert model.whiten.conv.bias is None
    inputs = []
    model.block1.conv1.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    images = random_images(2, 3, 32, 32)
    model(images).sum().backward()
    assert not inputs[0].requires_grad
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    biased = build(recipe.Swift())
    biased.load_state_dict({**model.state_dict(), "whiten.conv.bias": torch.zeros(24)})
    torch.testing.assert_close(model.eval()(images), biased.eval()(images))


def test_swift_convolutions_begin_as_the_identity():
    model = build(recipe.Swift(widths=(8, 32, 48)))
    x = random_images(2, 24, 6, 6)
    torch.testing.assert_close(model.block1.conv1(x), x[:, :8])  # narrower than the whitened 24
    y = random_images(2, 32, 6, 6)
    out = model.block3.conv1(y)
    torch.testing.assert_close(out[:, :32], y)
    assert out[:, 32:].std() > 0.1  # random filters


@pytest.mark.parametrize("channels", [1, 3])
def test_whitening_agrees_with_numpy(channels):
    images = F.avg_pool2d(random_images(20, channels, 14, 14), 3, stride=1)  # neighbors correlate
    patches = np.lib.stride_tricks.sliding_window_view(images.double().numpy(), (2, 2), (2, 3))
    patches = patches.transpose(0, 2, 3, 1, 4, 5).reshape(20 * 11 * 11, -1)
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    model = build(recipe.Swift(), in_channels=channels)
    prepare_model(model, images)
    filters = model.whiten.conv.weight.double().numpy().reshape(8 * channels, -1)
    half = 4 * channels
    np.testing.assert_allclose(filters[half:], -filters[:half])
    for row, value, vector in zip(filters, values[::-1], vectors.T[::-1], strict=False):
        expected = vector / np.sqrt(value + 5e-4)
        np.testing.assert_allclose(row * np.sign(row @ expected), expected, rtol=1e-4, atol=1e-4)
        assert row[np.abs(row).argmax()] > 0

    out = F.conv2d(images, model.whiten.conv.weight[:half]).transpose(0, 1).flatten(1)
    moment = out @ out.T / out.shape[1]
    expected = torch.from_numpy((values / (values + 5e-4))[::-1].copy()).float().diag()
    torch.testing.assert_close(moment, expected, rtol=1e-3, atol=1e-3)


def test_the_sign_of_a_tied_eigenvector_is_that_of_its_first_component():
    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    filters = whitening_filters(x.reshape(1, 1, 2, 2))
    expected = torch.tensor([[0.5, 0.5], [-0.5, -0.5]], dtype=torch.float64) / (4 + 5e-4) ** 0.5
    torch.testing.assert_close(filters[0, 0], expected)


def test_whitening_looks_at_images_from_the_whole_data_set():
    images = random_images(10_001, 1, 3, 3) * torch.linspace(0.1, 3, 10_001)[:, None, None, None]
    model = build(recipe.Swift(), in_channels=1)
    prepare_model(model, images)
    expected = whitening_filters(images[::3]).float()
    torch.testing.assert_close(model.whiten.conv.weight[:4].detach(), expected, rtol=0, atol=0)


def test_prepare_leaves_other_networks_alone():
    model = build(recipe.ResNet9())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepare_model(model, random_images(4, 3, 32, 32))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_swift_in_bfloat16_is_near_float32():
    model = build(recipe.Swift()).eval()
    images = random_images(2, 3, 32, 32)
    prepare_model(model, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model(images)
    torch.testing.assert_close(low.float(), model(images), rtol=0.05, atol=0.05)


# --- building -------------------------------------------------------------------------------


@each_spec
def test_weights_depend_on_the_seed_alone(spec):
    first = build(spec, seed=5).state_dict()
    with torch.random.fork_rng():
        torch.manual_seed(123)
        before = torch.get_rng_state()
        again = build(spec, seed=5).state_dict()
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = build(spec, seed=6).state_dict()
    assert not torch.equal(first["head.fc.weight"], other["head.fc.weight"])


def test_a_default_device_of_the_caller_does_not_matter():
    with torch.device("meta"):
        model = build(recipe.Swift())
    assert {p.device.type for p in model.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    ("spec", "px"), [(recipe.ResNet(), 8), (recipe.ResNet9(), 8), (recipe.Swift(), 9)]
)
def test_too_small_images_are_refused_with_the_smallest_size(spec, px):
    with pytest.raises(UsageError, match=f"{px - 1} px are too small.*at least {px} px"):
        build(spec, image_size=px - 1)
    assert build(spec, image_size=px)(random_images(2, 3, px, px)).isfinite().all()


def test_a_custom_module_is_not_built():
    with pytest.raises(UsageError, match=r"MyNet.*resight\.train\(recipe, model=\.\.\.\)"):
        build(recipe.Custom(target="MyNet"))


def test_every_model_section_has_a_constructor_with_its_settings():
    others = (recipe.Custom, recipe.Import)
    sections = [s for s in get_args(get_args(recipe.Model)[0]) if s not in others]
    names = {name for s in sections for name in get_args(s.model_fields["name"].annotation)}
    assert set(MODELS) == names
    for section in sections:
        for name in get_args(section.model_fields["name"].annotation):
            arguments = inspect.signature(MODELS[name]).parameters
            settings = {key: p.default for key, p in arguments.items()}
            del settings["in_channels"], settings["num_classes"]
            assert settings == section(name=name).model_dump(exclude={"name", "weights"})


# --- the layer table ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "flop"),
    [
        (recipe.ResNet(), 1_110_845_440),
        (recipe.ResNet9(), 758_523_904),
        (recipe.Swift(widths=(64, 256, 256)), 236_294_720),
        (recipe.Swift(), 66_132_544),
    ],
    ids=["resnet18", "resnet9", "swift 64/256/256", "swift 32/128/128"],
)
def test_table_totals(spec, flop):
    model = build(spec)
    rows = layer_table(model, (3, 32, 32))
    assert (rows[0].path, rows[0].output_shape, rows[0].map_size) == ("", (10,), None)
    assert rows[0].flop == flop
    assert rows[0].parameters == parameters(model)
    stages = [row for row in rows if row.depth == 1]
    assert [row.path for row in stages] == [name for name, _ in model.named_children()]
    leaves = [row for row in rows if not any(model.get_submodule(row.path).children())]
    for part in (stages, leaves):
        assert sum(row.flop for row in part) == flop
        assert sum(row.parameters for row in part) == parameters(model)


def test_table_of_a_network_worked_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),  # 3 px, then 2 px apart
        nn.ReLU(),
        nn.AvgPool2d(2),  # + 1 * 2, then 4 px apart
        nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2),  # + 2 * 2 * 4
        nn.MaxPool2d(3, stride=1, padding=1),  # + 2 * 4
        nn.Flatten(),  # from here on the whole map of 4x4: + 3 * 4
        nn.Linear(6 * 16, 5),
    )
    assert layer_table(model, (3, 16, 16)) == [
        LayerRow("", "Sequential", (5,), None, 41, 112 + 114 + 485, 2 * (6912 + 1728 + 480)),
        LayerRow("0", "Conv2d", (4, 8, 8), (8, 8), 3, 112, 2 * 27 * 4 * 64),
        LayerRow("2", "AvgPool2d", (4, 4, 4), (4, 4), 5, 0, 0),
        LayerRow("3", "Conv2d", (6, 4, 4), (4, 4), 21, 114, 2 * 9 * 2 * 6 * 16),
        LayerRow("5", "Flatten", (96,), None, 41, 0, 0),
        LayerRow("6", "Linear", (5,), None, 41, 485, 2 * 96 * 5),
    ]


class Branches(nn.Module):
    """A network written with functions: slices and pads its shortcut, uses one layer twice."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Conv2d(2, 2, 3, padding=1)
        self.down = nn.Conv2d(2, 2, 5, stride=2, padding=2)
        self.last = nn.Conv2d(4, 2, 3)

    def forward(self, x):
        long = self.down(self.shared(self.shared(x)))  # 1 + 2 + 2 + 4 = 9
        short = F.pad(x[:, :, 1::2, 1::2], (0, 0, 0, 0, 0, 0))
        return self.last(F.pad(torch.cat([short, long + short], dim=1), (1, 1, 1, 1)))


def test_the_longest_path_counts_and_a_shared_layer_once():
    model = Branches()
    rows = layer_table(model, (2, 12, 12))
    fields = [(row.path, row.receptive_field, row.parameters) for row in rows[1:]]
    assert fields == [("shared", 3, 38), ("shared", 5, 0), ("down", 9, 102), ("last", 13, 74)]
    assert rows[0].parameters == 38 + 102 + 74
    assert rows[0].map_size == (6, 6)


def test_the_longer_side_of_a_receptive_field_counts():
    model = nn.Sequential(
        nn.Conv2d(1, 1, (1, 5), stride=(2, 1)),  # 1 x 5 px, then 2 x 1 apart
        nn.MaxPool2d((3, 1), stride=(1, 2), dilation=(2, 1)),  # 9 x 5, 2 x 2 apart
        nn.Conv2d(1, 1, (1, 2)),  # 9 x 7
        nn.ConvTranspose2d(1, 1, 2),  # not followed: the map of 4 x 5 as a whole
    )
    rows = layer_table(model, (1, 16, 16))
    assert [row.receptive_field for row in rows[1:]] == [5, 9, 9, 15]
    assert rows[3].map_size == (4, 5)


@pytest.mark.parametrize("depth", [1, 2])
def test_receptive_field_is_where_the_gradient_reaches(depth):
    model = build(recipe.ResNet()).eval()
    rows = {row.path: row for row in layer_table(model, (3, 64, 64))}
    images = random_images(1, 3, 64, 64).requires_grad_()
    out = model.layer1(model.stem(images))
    out = model.layer2(out) if depth == 2 else out
    middle = out.shape[-1] // 2
    (gradient,) = torch.autograd.grad(out[0, :, middle, middle].sum(), images)
    pixels = gradient[0].abs().sum(dim=0).nonzero()
    extent = (pixels.amax(dim=0) - pixels.amin(dim=0) + 1).tolist()
    assert extent == [rows[f"layer{depth}"].receptive_field] * 2


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("channels", [3, 4], ids=["runs", "raises"])
def test_the_table_gives_the_model_back_as_it_was(channels):
    model = build(recipe.Swift(dropout=0.5)).train()
    model.block2.norm1.eval()  # a mixture, as a fine-tuner would have it
    flags = [m.training for m in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    if channels == 3:
        layer_table(model, (3, 32, 32))
    else:
        with pytest.raises(RuntimeError, match="channels"):
            layer_table(model, (4, 32, 32))
    assert hooks(model) == 0
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.is_grad_enabled()


def test_the_table_runs_in_evaluation_mode_without_gradients():
    class RecordsMode(nn.Module):
        def forward(self, x):
            self.modes = (self.training, torch.is_grad_enabled())
            return x

    model = RecordsMode()
    layer_table(model, (3, 8, 8))
    assert model.modes == (False, False)


def test_the_table_needs_one_tensor():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(UsageError, match="Pair returns tuple"):
        layer_table(Pair(), (3, 8, 8))
