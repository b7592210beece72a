"""A 3x3 convolution that is quick on small maps too, on a CPU.

oneDNN, which computes convolutions on a CPU, is slow on maps of a few pixels, with AMX above all.
The product of two matrices gives the same numbers up to 20 times sooner there: one holds the
weights, the other the 3x3 patches of all pixels (docs/experiments.md). Late layers have such maps.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PATCH_BYTES = 4 * 2**20  # of patches at a time, which a cache holds
_WIDE = 512  # channels from which the product is quicker for output and input gradient too
_GEOMETRY = ((1, 1), (1, 1), (1, 1), False, (0, 0), 1)  # stride 1, padding 1, as aten takes it


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution without bias that keeps the map size at stride 1.

    It is an `nn.Conv2d` but for how it learns from small maps on a CPU: sooner, and its weight
    gradient has the precision of float32 where the step has bf16.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        dtype = _step_dtype(input, self.weight)
        if dtype is None or self.stride != (1, 1) or max(input.shape[2:]) > _largest_map(dtype):
            return super().forward(input)
        x = input.to(dtype)
        output: Tensor = _SmallMaps.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return output


def _step_dtype(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """The precision in which a weight learns from images (N, C, h, w) on a CPU; None elsewhere."""
    learns = torch.is_grad_enabled() and weight.requires_grad and x.device.type == "cpu"
    if not learns or x.ndim != 4 or not len(x):
        return None
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return x.dtype if x.dtype == weight.dtype else None  # torch refuses the mixture


def _largest_map(dtype: torch.dtype) -> int:
    """The side in px of the largest map that is quicker by the product; 0 if none is.

    In bf16 that takes AMX: with AVX-512 alone, oneDNN is quicker.
    """
    if dtype == torch.bfloat16:
        return 5 if torch.cpu._is_amx_tile_supported() else 0
    return 3 if dtype == torch.float32 else 0


class _SmallMaps(torch.autograd.Function):
    """The convolution of maps (N, C, h, w) with a weight (D, C, 3, 3)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        cast = weight.to(x.dtype)
        ctx.save_for_backward(x, cast)
        if _has_quick_output(x, weight):
            return patch_product(x, cast)
        output: Tensor = torch.ops.aten.convolution(x, cast, None, *_GEOMETRY)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        of_x = None
        if ctx.needs_input_grad[0]:
            if _has_quick_output(x, weight):  # a convolution too, with the filters turned round
                of_x = patch_product(gradient, weight.flip(2, 3).transpose(0, 1))
            else:
                of_x = torch.ops.aten.convolution_backward(
                    gradient, x, weight, None, *_GEOMETRY, (True, False, False)
                )[0]
        return of_x, patch_gradient(x, gradient) if ctx.needs_input_grad[1] else None


def _has_quick_output(x: Tensor, weight: Tensor) -> bool:
    """Whether the product gives the output, and the gradient of x, sooner as well."""
    return max(x.shape[2:]) <= 2 or min(weight.shape[:2]) >= _WIDE


def patch_product(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve x (N, C, h, w) with a weight (D, C, 3, 3), stride 1, padding 1 -> (N, D, h, w)."""
    n, _, h, w = x.shape
    columns = weight.permute(2, 3, 1, 0).flatten(0, 2)  # (9 C, D)
    rows = [patches @ columns for patches in _patches(x)]
    return torch.cat(rows).view(n, h, w, -1).permute(0, 3, 1, 2)


def patch_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of the weight of a 3x3 convolution with stride 1 and padding 1.

    x: (N, C, h, w). gradient: (N, D, h, w), of the output. Returns (D, C, 3, 3) in float32 or
    better.
    """
    channels, dtype = x.shape[1], torch.promote_types(x.dtype, torch.float32)
    rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)  # (N h w, D)
    total, first = torch.zeros(rows.shape[1], 9 * channels, dtype=dtype), 0
    for patches in _patches(x):
        total += rows[first : first + len(patches)].T @ patches
        first += len(patches)
    return total.view(-1, 3, 3, channels).permute(0, 3, 1, 2)


def _patches(x: Tensor) -> Iterator[Tensor]:
    """Yield the 3x3 patches of all pixels of x (N, C, h, w), m images at a time: (m h w, 9 C)."""
    n, channels, h, w = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1).contiguous(), (0, 0, 1, 1, 1, 1))  # (N, h + 2, w + 2, C)
    row, image = (w + 2) * channels, (h + 2) * (w + 2) * channels  # numbers in a row, in an image
    at_once = max(1, _PATCH_BYTES // (h * w * 9 * channels * x.element_size()))
    for first in range(0, n, at_once):
        m = min(at_once, n - first)
        # The three pixels of a patch's row lie beside each other, so a patch is three such rows.
        shape, strides = (m, h, w, 3, 3 * channels), (image, row, channels, row, 1)
        yield padded.as_strided(shape, strides, first * image).reshape(m * h * w, -1)
