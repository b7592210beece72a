"""Precision and memory layout: how a step or a prediction is computed."""

import torch
from torch import Tensor

from ..recipe import Training

AUTOCAST_DTYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(training: Training, device: torch.device) -> torch.autocast:
    """Return the mixed-precision context of `training.precision`; float32 is a no-op."""
    assert training.precision != "auto", "resolved before the first step"
    dtype = AUTOCAST_DTYPES[training.precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


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
