"""Networks for small images: a recipe's model section -> a module with seeded weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import recipe
from ..errors import UsageError
from .imported import check_allowed, import_network
from .norms import make_norm, norm_kind
from .resnet import ResNet, resnet18, resnet34
from .resnet9 import ResNet9
from .summary import LayerRow, layer_table
from .swift import Swift

__all__ = [
    "MODELS",
    "LayerRow",
    "ResNet",
    "ResNet9",
    "Swift",
    "build_model",
    "layer_table",
    "make_norm",
    "models",
    "norm_kind",
    "prepare_model",
]

# Called with in_channels, num_classes and the settings of the recipe section of that name.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet9": ResNet9,
    "swift": Swift,
}

# Below these a pooling layer would run out of map, or a stage would see nothing but padding.
MIN_PX = {"resnet18": 8, "resnet34": 8, "resnet9": 8, "swift": 9}


def build_model(
    spec: recipe.Model,
    *,
    in_channels: int,
    num_classes: int,
    image_size: int,
    seed: int,
    allow_import: bool = False,
) -> nn.Module:
    """Build the network of `spec`, on the CPU in float32, its weights drawn from `seed` alone.

    The global random state is left as it was. A network that is named by an import path is built
    only if `allow_import`, as importing runs code.

    Raises:
        UsageError: the images are too small for the network, `spec` is a custom module, or its
            import is not allowed or fails.
    """
    if isinstance(spec, recipe.Custom):
        raise UsageError(
            f'model.name = "custom" ({spec.target or "no class named"}) cannot be built from a '
            "recipe; pass the module in from Python: resight.train(recipe, model=...)"
        )
    if isinstance(spec, recipe.Import):
        check_allowed(spec, allow_import=allow_import)
    if image_size < (min_px := MIN_PX.get(spec.name, 1)):
        raise UsageError(
            f"images of {image_size} px are too small for {spec.name}, which needs at least "
            f"{min_px} px; set data.image_size={min_px} or larger"
        )
    settings = spec.model_dump(exclude={"name", "weights"})
    # torch.manual_seed would also reseed every GPU; only the CPU's generator is borrowed here.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        if isinstance(spec, recipe.Import):
            return import_network(
                spec, in_channels=in_channels, num_classes=num_classes, image_size=image_size
            )
        return MODELS[spec.name](in_channels=in_channels, num_classes=num_classes, **settings)


def models() -> dict[str, Callable[..., nn.Module]]:
    """Return the constructor of every network, by name."""
    return dict(MODELS)


def prepare_model(model: nn.Module, images: Tensor) -> None:
    """Initialize what depends on data: the whitening layer of a Swift; nothing in other networks.

    `images`: (N, C, H, W) float32, normalized, from the training split without augmentation. At
    most 5,000 are used, evenly spaced, so a sample of that many is enough.
    """
    if isinstance(model, Swift):
        model.whiten_from(images)
