"""A convolution whose weight gradient is a matrix product where maps are small."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from resight.networks import conv
from resight.networks.conv import Conv3x3


def gradients(layer: nn.Conv2d, x: Tensor, *, bf16: bool = False) -> tuple[Tensor, ...]:
    """The output, and the gradients of input and weight, of a loss that is no mere sum."""
    x = x.clone().requires_grad_()
    layer.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        output = layer(x)
    (output.float() ** 2).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    return output, x.grad, layer.weight.grad


def plain(layer: Conv3x3) -> nn.Conv2d:
    """The same weights in PyTorch's own layer."""
    other = nn.Conv2d(
        layer.in_channels, layer.out_channels, 3, stride=layer.stride, padding=1, bias=False
    )
    other.load_state_dict(layer.state_dict())
    return other


@pytest.fixture(autouse=True)
def few_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts of a batch, the last one smaller."""
    monkeypatch.setattr(conv, "_PATCH_BYTES", 5_000)


@pytest.mark.parametrize("wide", [1, 512], ids=["all by products", "the weight gradient alone"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("px", [(1, 1), (2, 2), (3, 3), (2, 3)])
def test_gradients_are_those_of_torch(
    px: tuple[int, int], layout: torch.memory_format, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv, "_WIDE", wide)
    torch.manual_seed(0)
    layer = Conv3x3(5, 7)
    x = torch.randn(23, 5, *px).contiguous(memory_format=layout)
    for own, torchs in zip(gradients(layer, x), gradients(plain(layer), x), strict=True):
        torch.testing.assert_close(own, torchs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wide", [1, 512])
def test_the_gradient_is_that_of_finite_differences(
    wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv, "_WIDE", wide)
    layer = Conv3x3(2, 3).double()
    x = torch.randn(4, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(conv._SmallMaps.apply, (x, layer.weight))
    assert torch.autograd.gradgradcheck(conv._SmallMaps.apply, (x, layer.weight))


def test_in_bf16_the_weight_gradient_is_no_less_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "_largest_map", lambda dtype: 5)
    torch.manual_seed(0)
    layer, x = Conv3x3(16, 32), torch.randn(64, 16, 5, 5)
    exact = gradients(plain(layer), x)
    own, torchs = gradients(layer, x, bf16=True), gradients(plain(layer), x, bf16=True)
    assert own[0].dtype == torch.bfloat16
    assert torch.equal(own[0], torchs[0])
    errors = [float((value[2] - exact[2]).norm() / exact[2].norm()) for value in (own, torchs)]
    assert errors[0] < max(1.1 * errors[1], 1e-3)
    assert errors[0] < 0.02


@pytest.mark.parametrize(("px", "stride", "learns"), [(6, 1, True), (3, 2, True), (3, 1, False)])
def test_elsewhere_it_is_the_layer_of_torch(
    px: int, stride: int, learns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(conv, "_SmallMaps")  # a use of it would fail
    layer = Conv3x3(3, 4, stride=stride)
    layer.weight.requires_grad_(learns)
    x = torch.randn(2, 3, px, px, requires_grad=True)
    assert torch.equal(layer(x), plain(layer)(x))


@pytest.mark.parametrize("amx", [True, False])
def test_the_precision_decides_which_maps_are_small(
    amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    used: list[tuple[torch.dtype, int]] = []

    def product(x: Tensor, weight: Tensor) -> Tensor:
        used.append((x.dtype, x.shape[-1]))
        return nn.functional.conv2d(x, weight.to(x.dtype), padding=1)

    monkeypatch.setattr(conv._SmallMaps, "apply", product)
    layer = Conv3x3(3, 4)
    for px in (3, 4, 5, 6):
        x = torch.randn(2, 3, px, px)
        layer(x)
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype):
                layer(x)
    bf16 = [(torch.bfloat16, px) for px in (3, 4, 5) if amx]
    assert sorted(used, key=str) == sorted([(torch.float32, 3), *bf16], key=str)


def test_images_that_torch_takes_or_refuses_are_taken_or_refused() -> None:
    layer = Conv3x3(3, 4)
    one, none = torch.randn(3, 2, 2), torch.randn(0, 3, 2, 2)
    assert torch.equal(layer(one), plain(layer)(one))
    assert layer(none).shape == (0, 4, 2, 2)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        layer(torch.randn(1, 3, 2, 2, dtype=torch.float64))
