"""A network without the wrappers of training, and the device and precision of its weights."""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from ..errors import UsageError

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


def check_differentiable(model: nn.Module) -> None:
    """Raise UsageError if a weight was made in inference mode, where autograd cannot follow it."""
    if any(weight.is_inference() for weight in model.parameters() if not is_lazy(weight)):
        raise UsageError(
            "the model's weights were made in inference mode, so nothing can be differentiated by "
            "them; build or load the model outside of torch.inference_mode()"
        )


def match_weights(images: Tensor, model: nn.Module) -> Tensor:
    """Return the images on the device and in the precision of the model's first float weight."""
    like = next((p for p in model.parameters() if p.is_floating_point()), images)
    return images.to(like.device, like.dtype)
