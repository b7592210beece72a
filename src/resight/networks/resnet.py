"""ResNet-18 and -34 for small images (He et al. 2016, arXiv 1512.03385).

Unlike in the ImageNet form, the small stem is one 3x3 convolution without pooling, so a 32-px image
still has a 32-px map when the first stage begins.
"""

from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ..recipe import Norm
from .conv import Conv3x3
from .head import make_head
from .norms import make_norm


def init_kaiming(model: nn.Module) -> None:
    """Draw convolution weights from N(0, 2 / fan_out) (He et al. 2015), from the global RNG."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)); 1x1 shortcut where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = Conv3x3(in_channels, out_channels, stride=stride)
        self.norm1 = make_norm(norm, out_channels)
        self.conv2 = Conv3x3(out_channels, out_channels)
        self.norm2 = make_norm(norm, out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                make_norm(norm, out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)  # (N, C_out, H / stride, W / stride)
        out = self.norm2(self.conv2(out))
        # In place is safe for autograd: no norm keeps its output for the backward pass.
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


class ResNet(nn.Module):
    """Stem, four stages of basic blocks, and a head: global average pool, dropout, linear.

    `stem`, `layer1` to `layer4` and `head` are the names to give as target layers of heat maps.
    Dropout acts on the pooled features, right before the linear layer. `last_stage_stride = 1`
    leaves the maps of `layer4` as large as those of `layer3`. Smallest image: 8 px.

    The large stem, 7x7 of stride 2 and max pooling, is that of the ImageNet form. Its maps have a
    quarter of the sides that the shapes below say.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        *,
        in_channels: int,
        num_classes: int,
        norm: Norm = "batch",
        dropout: float | None = None,
        last_stage_stride: Literal[1, 2] = 2,
        stem: Literal["small", "large"] = "small",
    ) -> None:
        super().__init__()

        def stage(in_channels: int, out_channels: int, *, depth: int, stride: int) -> nn.Sequential:
            first = BasicBlock(in_channels, out_channels, stride=stride, norm=norm)
            rest = (
                BasicBlock(out_channels, out_channels, stride=1, norm=norm)
                for _ in range(depth - 1)
            )
            return nn.Sequential(first, *rest)

        large = stem == "large"
        first = (
            nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
            if large
            else Conv3x3(in_channels, 64)
        )
        pool = [nn.MaxPool2d(3, stride=2, padding=1)] if large else []
        self.stem = nn.Sequential(first, make_norm(norm, 64), nn.ReLU(inplace=True), *pool)
        self.layer1 = stage(64, 64, depth=depths[0], stride=1)
        self.layer2 = stage(64, 128, depth=depths[1], stride=2)
        self.layer3 = stage(128, 256, depth=depths[2], stride=2)
        self.layer4 = stage(256, 512, depth=depths[3], stride=last_stage_stride)
        self.head = make_head(nn.AdaptiveAvgPool2d(1), nn.Linear(512, num_classes), dropout)
        init_kaiming(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)  # (N, 64, H, W)
        x = self.layer1(x)  # (N, 64, H, W)
        x = self.layer2(x)  # (N, 128, H / 2, W / 2)
        x = self.layer3(x)  # (N, 256, H / 4, W / 4)
        x = self.layer4(x)  # (N, 512, H / 8, W / 8), or H / 4 at last_stage_stride = 1
        logits: Tensor = self.head(x)  # (N, K)
        return logits


# Parameters for 3 channels and 10 classes, the same with any norm: 11,173,962 and 21,282,122.
resnet18 = partial(ResNet, (2, 2, 2, 2))
resnet34 = partial(ResNet, (3, 4, 6, 3))
