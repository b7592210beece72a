"""Precision and memory layout: how a step or a prediction is computed."""

import torch
from torch import Tensor

from ..recipe import Training

AUTOCAST_DTYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(training: Training, device: torch.device) -> torch.autocast:
    """The mixed-precision context that `training.precision` asks for; float32 is a no-op."""
    assert training.precision != "auto", "settled before the first step"
    dtype = AUTOCAST_DTYPES[training.precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def layout_for(training: Training, device: torch.device) -> torch.memory_format:
    """The memory layout that `training.channels_last` asks for, but on MPS the plain one.

    There gradients of batch norm and max pooling are wrong or missing in channels_last
    (https://github.com/pytorch/pytorch/issues/134580).
    """
    wanted = training.channels_last and device.type != "mps"
    return torch.channels_last if wanted else torch.contiguous_format


def to_memory_format(images: Tensor, training: Training) -> Tensor:
    """`images` in the memory layout of the model."""
    return images.contiguous(memory_format=layout_for(training, images.device))
