"""Heat maps leave a model as it was, whatever its mode and the mode of the caller."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import resight
from cam_networks import LAYERS, labels, network, pictures
from resight.cam import METHODS

CLASSES = ("predicted", labels())


def state(model: nn.Module) -> list[Any]:
    """Return everything of a model that could be left changed, comparable with ==."""
    content: list[Any] = [torch.is_grad_enabled(), torch.is_inference_mode_enabled()]
    for name, module in model.named_modules():
        hooks = (len(v) for k, v in vars(module).items() if "hook" in k and isinstance(v, dict))
        content.append((name, module.training, sum(hooks), sorted(vars(module))))
    for name, value in model.state_dict().items():
        content.append((name, value.tolist(), value.stride()))
    for name, parameter in model.named_parameters():
        grad = None if parameter.grad is None else (id(parameter.grad), parameter.grad.tolist())
        content.append((name, parameter.requires_grad, grad))
    return content


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    before, random = state(model), torch.get_rng_state()
    yield
    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), random)


def half_trained() -> nn.Module:
    """Some modules in training mode, some parameters frozen, some with a gradient."""
    model = network("swift").train()
    model.get_submodule("block2").eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 2 == 0)
        parameter.grad = torch.ones_like(parameter) if i % 3 == 0 else None
    return model


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_left_changed(method: str) -> None:
    model, images = half_trained(), pictures(2)
    with unchanged(model):
        result = resight.heatmaps(model, images, ["block2", "block3"], method=method)
        resight.faithfulness(model, images, result, steps=2)
    expected = resight.heatmaps(network("swift"), images, ["block2", "block3"], method=method)
    for layer, maps in result.maps.items():
        torch.testing.assert_close(maps, expected.maps[layer], rtol=1e-4, atol=1e-6)


class Faulty(nn.Module):
    """Raises in the middle of the forward pass, at a chosen call."""

    def __init__(self, inner: nn.Module, error: type[Exception], call: int) -> None:
        super().__init__()
        self.inner, self.error, self.left = inner, error, [call]

    def forward(self, images: Tensor) -> Tensor:
        self.left[0] -= 1
        if self.left[0] <= 0:
            raise self.error("out of order")
        out: Tensor = self.inner(images)
        return out


@pytest.mark.parametrize("method", ["grad-cam", "score-cam", "ablation-cam"])
@pytest.mark.parametrize(("error", "call"), [(RuntimeError, 1), (RuntimeError, 3), (ValueError, 3)])
def test_nothing_is_left_changed_after_an_exception(
    method: str, error: type[Exception], call: int
) -> None:
    model = half_trained()
    model.block3 = Faulty(model.get_submodule("block3"), error, call)
    with unchanged(model), pytest.raises(error, match="out of order"):
        resight.heatmaps(model, pictures(3), "block2", method=method, batch_size=1)


def test_nothing_is_left_changed_after_bad_input() -> None:
    model = half_trained()
    for bad in ({"layers": "nonsense"}, {"layers": "head"}, {"classes": 99}):
        with unchanged(model), pytest.raises(resight.UsageError):
            resight.heatmaps(model, pictures(), **bad)  # type: ignore[arg-type]


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def compiled_within(model: nn.Module) -> nn.Module:
    model.block2 = torch.compile(model.get_submodule("block2"), backend="eager")
    return model


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [(compiled, ""), (compiled, "_orig_mod."), (compiled_in_place, ""), (compiled_within, "")],
)
@pytest.mark.parametrize("warm", [True, False])
def test_compiled_models(wrap: Callable[[nn.Module], nn.Module], prefix: str, warm: bool) -> None:
    layers = ["block1", "block2", "block3"]
    expected = resight.heatmaps(network("swift"), pictures(), layers, CLASSES)
    torch.compiler.reset()
    model = wrap(network("swift"))
    if warm:
        with torch.no_grad():
            model(pictures())
    result = resight.heatmaps(model, pictures(), [prefix + layer for layer in layers], CLASSES)
    for layer in layers:
        torch.testing.assert_close(result.maps[prefix + layer], expected.maps[layer])
    with torch.no_grad():
        torch.testing.assert_close(model(pictures()), expected.logits)
    torch.compiler.reset()


def test_ddp(tmp_path: Path) -> None:
    expected = resight.heatmaps(network("swift"), pictures(), ["block2", "block3"], CLASSES)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1
    )
    try:
        model = DistributedDataParallel(network("swift"))
        with unchanged(model):
            result = resight.heatmaps(model, pictures(), ["module.block2", "block3"], CLASSES)
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(result.maps["module.block2"], expected.maps["block2"])
    torch.testing.assert_close(result.maps["block3"], expected.maps["block3"])


@pytest.mark.parametrize(
    "caller", [torch.no_grad, torch.inference_mode, torch.enable_grad], ids=lambda c: c.__name__
)
@pytest.mark.parametrize("method", ["grad-cam", "layercam", "score-cam"])
def test_callers_of_every_mode(
    caller: Callable[[], AbstractContextManager[None]], method: str
) -> None:
    layers = ["whiten", "block3"]
    expected = resight.heatmaps(network("swift"), pictures(), layers, 3, method)
    model = network("swift").requires_grad_(False)
    with caller(), unchanged(model):
        result = resight.heatmaps(model, pictures() + 0, layers, 3, method)
        resight.faithfulness(model, pictures() + 0, result, steps=2)
    for layer in layers:
        torch.testing.assert_close(result.maps[layer], expected.maps[layer])


@pytest.mark.parametrize("name", list(LAYERS))
def test_an_in_place_relu_behind_the_layer(name: str) -> None:
    """The map of a norm or convolution is that before the ReLU that writes over it."""
    model, images = network(name), pictures()
    layer = {"swift": "block2.norm2", "resnet9": "layer2.norm", "resnet18": "stem.1"}[name]
    apart = copy.deepcopy(model)
    for module in apart.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    for method in ("grad-cam", "hirescam", "eigen-cam"):
        maps = resight.heatmaps(model, images, layer, 2, method).maps[layer]
        expected = resight.heatmaps(apart, images, layer, 2, method).maps[layer]
        torch.testing.assert_close(maps, expected)
    kept: list[Tensor] = []
    apart.get_submodule(layer).register_forward_hook(lambda m, a, out: kept.append(out))
    same = images.contiguous(memory_format=torch.channels_last)  # rounds as ours, so one sign each
    (gradient,) = torch.autograd.grad(apart(same)[:, 2].sum(), kept[0])
    expected = (kept[0] * gradient).sum(1).detach()
    maps = resight.heatmaps(model, images, layer, 2, "hirescam").maps[layer][:, 0]
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6)


class Viewing(nn.Module):
    """Views its map with strides that channels_last does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 18 * 18, 3)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.fc(self.conv(images).view(len(images), -1))
        return out


def test_memory_layouts() -> None:
    model, images = network("resnet9"), pictures()
    expected = resight.heatmaps(model, images, LAYERS["resnet9"], CLASSES)
    last = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    strided = images.contiguous(memory_format=torch.channels_last)
    result = resight.heatmaps(last, strided, LAYERS["resnet9"], CLASSES)
    for layer, maps in result.maps.items():
        torch.testing.assert_close(maps, expected.maps[layer], rtol=1e-4, atol=1e-6)
    viewing = Viewing()
    maps = resight.heatmaps(viewing, images, "conv", 1, "hirescam").maps["conv"][:, 0]
    kept = viewing.conv(images)
    by_cell = viewing.fc.weight[1].reshape(4, 18, 18)
    torch.testing.assert_close(maps, (kept * by_cell).sum(1).detach())


def test_lower_precision_gives_float32_maps() -> None:
    model, images = network("swift"), pictures()
    layers = ["block2", "block3"]
    expected = resight.heatmaps(model, images, layers, CLASSES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = resight.heatmaps(model, images, layers, CLASSES)
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        model(images).sum().backward()  # the weights that it sees are cast with their gradients
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    low = resight.heatmaps(copy.deepcopy(model).bfloat16(), images, layers, CLASSES)
    for result in (mixed, low):
        assert result.logits.dtype == torch.float32
        for layer, maps in result.maps.items():
            assert maps.dtype == torch.float32
            apart = (maps - expected.maps[layer]).abs().max() / expected.maps[layer].abs().max()
            assert float(apart) < 0.2


def test_no_weight_gets_a_gradient_and_the_backward_pass_stops_at_the_layer() -> None:
    """Before the first named layer autograd records nothing."""
    model, images = network("resnet18"), pictures()
    recorded: list[bool] = []
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output: recorded.append(output.requires_grad)
        )
        for name in ("stem", "layer1", "layer2", "layer3", "layer4")
    ]
    resight.heatmaps(model, images, ["layer3", "layer4"], CLASSES)
    for handle in handles:
        handle.remove()
    # These hooks run before the hook of `heatmaps` at layer3.
    assert recorded == [False, False, False, False, True]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_network_runs_once_for_all_layers_and_classes() -> None:
    model, images = network("swift"), pictures()
    runs: list[int] = []
    model.register_forward_pre_hook(lambda module, args: runs.append(len(args[0])))
    resight.heatmaps(model, images, ["block1", "block2", "block3"], "all")
    assert runs == [len(images)]
