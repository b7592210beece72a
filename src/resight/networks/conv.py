"""A 3x3 convolution that learns quickly from small maps on a CPU.

oneDNN, which computes convolutions on a CPU, has no good form of the weight gradient for maps of a
few pixels: with bf16 and AMX it takes up to 20 times as long there as the product of two matrices
that gives the same numbers (docs/experiments.md). Late layers have such maps.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PATCH_BYTES = 4 * 2**20  # of patches at a time, which a cache holds
_NO_CHANGE = ((1, 1), (1, 1), (1, 1), False, (0, 0), 1)  # stride, padding, dilation, ..., groups


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution without bias that keeps the map size at stride 1.

    It is an `nn.Conv2d` but for the speed of its weight gradient, which also has the precision of
    float32 where the step has bf16.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        if learns and self.stride == (1, 1) and input.device.type == "cpu":
            dtype = input.dtype
            if torch.is_autocast_enabled("cpu"):
                dtype = torch.get_autocast_dtype("cpu")
            if max(input.shape[2:]) <= _largest_map(dtype):
                output: Tensor = _SmallMaps.apply(input.to(dtype), self.weight)  # type: ignore[no-untyped-call]
                return output
        return super().forward(input)


def _largest_map(dtype: torch.dtype) -> int:
    """The side in px of the largest map whose gradient a matrix product gives sooner."""
    has_amx = dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    return 5 if has_amx else 3


class _SmallMaps(torch.autograd.Function):
    """The convolution, with `patch_gradient` in place of oneDNN's weight gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        cast = weight.to(x.dtype)
        ctx.save_for_backward(x, cast)
        output: Tensor = torch.ops.aten.convolution(x, cast, None, *_NO_CHANGE)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        wanted = (ctx.needs_input_grad[0], False, False)
        of_x = None
        if wanted[0]:
            of_x = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, *_NO_CHANGE, wanted
            )[0]
        return of_x, patch_gradient(x, gradient) if ctx.needs_input_grad[1] else None


def patch_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of the weight of a 3x3 convolution with stride 1 and padding 1.

    x: (N, C, h, w). gradient: (N, D, h, w), of the output. Returns (D, C, 3, 3) in float32 or
    better: the product of the gradient with the 3x3 patches of x, some images at a time.
    """
    n, channels, h, w = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1).contiguous(), (0, 0, 1, 1, 1, 1))  # (N, h + 2, w + 2, C)
    rows = gradient.permute(0, 2, 3, 1).flatten(1, 2)  # (N, h w, D)
    row, image = (w + 2) * channels, (h + 2) * (w + 2) * channels  # numbers in a row, in an image
    at_once = max(1, _PATCH_BYTES // (h * w * 9 * channels * x.element_size()))
    dtype = torch.promote_types(x.dtype, torch.float32)
    total = torch.zeros(gradient.shape[1], 9 * channels, dtype=dtype)
    for first in range(0, n, at_once):
        part = rows[first : first + at_once].flatten(0, 1)  # (m h w, D)
        # The three pixels of a patch's row lie beside each other, so a patch is three such rows.
        patches = padded.as_strided(
            (len(part) // (h * w), h, w, 3, 3 * channels),
            (image, row, channels, row, 1),
            first * image,
        ).reshape(len(part), -1)  # (m h w, 9 C)
        total += part.T @ patches
    return total.view(-1, 3, 3, channels).permute(0, 3, 1, 2)
