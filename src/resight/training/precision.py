"""Precision and memory layout: how a step or a prediction is computed."""

from typing import Literal

import torch
from torch import Tensor

from ..recipe import Training

AUTOCAST_DTYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_BF16_SINCE, _FP16_SINCE = 8, 7  # compute capability of Nvidia's Ampere (A100) and Volta (V100)


def autocast(training: Training, device: torch.device) -> torch.autocast:
    """Return the mixed-precision context of `training.precision`; float32 is a no-op."""
    assert training.precision != "auto", "resolved before the first step"
    return _autocast(training.precision, device)


def autocast_to_predict(training: Training, device: torch.device) -> torch.autocast:
    """Return the context of `autocast`, but in float32 for fp16 on a CPU.

    A CPU takes several times as long in fp16 as in float32, and a run in fp16 is of a GPU.
    """
    if training.precision == "fp16" and device.type == "cpu":
        return _autocast("float32", device)
    return autocast(training, device)


def _autocast(precision: str, device: torch.device) -> torch.autocast:
    dtype = AUTOCAST_DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def fastest_precision(device: torch.device) -> Literal["float32", "bf16", "fp16"]:
    """Return the precision that "auto" stands for on a device.

    bf16 where there are instructions for it, because it needs no scaled loss; fp16 on a GPU that
    multiplies it quickly and has no bf16 (V100, T4); else float32.
    """
    if supports_bf16(device):
        return "bf16"
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= _FP16_SINCE:
        return "fp16"
    return "float32"


def supports_bf16(device: torch.device) -> bool:
    """Return whether a device has instructions for bf16: AVX-512 BF16 on a CPU, sm_80 on a GPU."""
    if device.type == "cuda":
        is_amd = torch.version.hip is not None
        return is_amd or torch.cuda.get_device_capability(device)[0] >= _BF16_SINCE
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def scales_loss(training: Training, device: torch.device) -> bool:
    """Return whether gradients need a scaled loss, which those of fp16 would underflow without."""
    precision = training.precision
    return (fastest_precision(device) if precision == "auto" else precision) == "fp16"


def layout_for(training: Training, device: torch.device) -> torch.memory_format:
    """Return the memory layout of `training.channels_last`, but on MPS the contiguous one.

    On MPS gradients of batch norm and max pooling are wrong or missing in channels_last
    (https://github.com/pytorch/pytorch/issues/134580).
    """
    channels_last = training.channels_last and device.type != "mps"
    return torch.channels_last if channels_last else torch.contiguous_format


def to_memory_format(images: Tensor, training: Training) -> Tensor:
    """Return `images` in the memory layout of the model."""
    return images.contiguous(memory_format=layout_for(training, images.device))
