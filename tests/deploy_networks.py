"""Networks of ours with weights of their seed, and pixels, for the tests of exported programs."""

import torch
from torch import Tensor, nn

from resight import recipe
from resight.datasets import Statistics
from resight.datasets.augment import normalize
from resight.networks import build_model

STATS = Statistics((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
NETWORKS = {
    "swift": recipe.Swift(),
    "resnet9": recipe.ResNet9(),
    "resnet9 with scaled logits": recipe.ResNet9(logit_scale=0.125),
    "resnet18": recipe.ResNet(),
    "resnet18 with layer norm": recipe.ResNet(norm="layer"),
    "resnet18 with large maps": recipe.ResNet(last_stage_stride=1, dropout=0.2),
}


def make_network(spec: recipe.Model, *, channels: int = 3) -> nn.Module:
    """A network whose batch norms have seen images, so that no channel is idle."""
    model = build_model(spec, in_channels=channels, num_classes=5, image_size=32, seed=1)
    stats = Statistics(STATS.mean[:channels], STATS.std[:channels])
    with torch.no_grad():
        model.train()(normalize(pixels(16, channels=channels), stats))
    return model.eval()


def pixels(count: int, *, channels: int = 3) -> Tensor:
    """The same noise at each call, uint8 (count, channels, 32, 32)."""
    generator = torch.Generator().manual_seed(3)
    shape = (count, channels, 32, 32)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
