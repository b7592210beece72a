"""ResNet-9, the 6,573,130-parameter network of the DAWNBench recipes (Page 2018)."""

from collections import OrderedDict

from torch import Tensor, nn

from ..recipe import Norm
from .conv import Conv3x3
from .head import GlobalMaxPool, make_head
from .norms import make_norm
from .resnet import init_kaiming


class Residual(nn.Sequential):
    """x + its layers applied to x, with no activation after the sum."""

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for layer in self:
            out = layer(out)
        return x + out  # not in place: the backward pass of the last ReLU needs its output


def conv_block(
    in_channels: int, out_channels: int, *, norm: Norm, pool: bool = False
) -> nn.Sequential:
    """conv, (max pool 2,) norm, ReLU. Pooling before the norm leaves it a quarter of the work."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=Conv3x3(in_channels, out_channels))
    if pool:
        layers["pool"] = nn.MaxPool2d(2)
    layers["norm"] = make_norm(norm, out_channels)
    layers["act"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


class ResNet9(nn.Module):
    """Eight convolutions, two of the stages with a residual pair, and a linear layer.

    `prep`, `layer1` to `layer3` and `head` are the names to give as target layers of heat maps.
    The head takes the maximum over the whole map (4x4 at 32 px), so other image sizes work too.
    Smallest image: 8 px. The maxima are large, so with `logit_scale` 1 a new network is confident
    and wrong, with a loss above that of guessing. With Page's 0.125 its first loss is near that of
    guessing, and it can be trained at higher rates.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        norm: Norm = "batch",
        dropout: float | None = None,
        logit_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.logit_scale = logit_scale

        def down(in_channels: int, out_channels: int) -> nn.Sequential:
            return conv_block(in_channels, out_channels, norm=norm, pool=True)

        def residual(channels: int) -> Residual:
            return Residual(*(conv_block(channels, channels, norm=norm) for _ in range(2)))

        self.prep = conv_block(in_channels, 64, norm=norm)
        self.layer1 = nn.Sequential(OrderedDict(down=down(64, 128), residual=residual(128)))
        self.layer2 = down(128, 256)
        self.layer3 = nn.Sequential(OrderedDict(down=down(256, 512), residual=residual(512)))
        self.head = make_head(GlobalMaxPool(), nn.Linear(512, num_classes), dropout)
        init_kaiming(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.prep(images)  # (N, 64, H, W)
        x = self.layer1(x)  # (N, 128, H / 2, W / 2)
        x = self.layer2(x)  # (N, 256, H / 4, W / 4)
        x = self.layer3(x)  # (N, 512, H / 8, W / 8)
        logits: Tensor = self.head(x) * self.logit_scale  # (N, K)
        return logits
