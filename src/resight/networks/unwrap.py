"""A network without the wrappers of training, and the device and precision it computes in."""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

COMPILED_MODULE = "_orig_mod"  # where torch.compile keeps the module it wraps


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of DDP, DataParallel and torch.compile."""
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, COMPILED_MODULE, None), nn.Module):
            model = inner
        else:
            return model


def device_of(model: nn.Module, default: torch.device) -> torch.device:
    """Return the device of the model's first parameter; `default` if it has no parameters."""
    return next((parameter.device for parameter in model.parameters()), default)


def match_weights(images: Tensor, model: nn.Module) -> Tensor:
    """Return the images on the device and in the precision of the model's first float weight."""
    like = next((p for p in model.parameters() if p.is_floating_point()), images)
    return images.to(like.device, like.dtype)
