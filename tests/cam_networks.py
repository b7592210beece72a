"""Networks for the tests of heat maps: small, seeded, with batch norms that do something."""

import torch
from torch import Tensor, nn

from resight import recipe
from resight.networks import build_model

LAYERS = {
    "swift": ["block1", "block2", "block3"],
    "resnet9": ["prep", "layer2", "layer3"],
    "resnet18": ["layer2", "layer3.0.conv2", "layer4"],
}
SPECS = {
    "swift": recipe.Swift(widths=(8, 16, 16)),
    "resnet9": recipe.ResNet9(),
    "resnet18": recipe.ResNet(name="resnet18"),
}
N, K, PX = 4, 10, 20


def network(name: str) -> nn.Module:
    """In evaluation mode, its running statistics and shifts moved away from 0 and 1."""
    model = build_model(SPECS[name], in_channels=3, num_classes=K, image_size=PX, seed=1)
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
                (module.bias, -0.3, 0.3),
            ):
                with torch.no_grad():
                    values.uniform_(low, high, generator=generator)
    return model.eval()


def pictures(n: int = N, px: int = PX) -> Tensor:
    return torch.randn(n, 3, px, px, generator=torch.Generator().manual_seed(3))


def labels(n: int = N) -> Tensor:
    return torch.arange(n) * 3 % K
