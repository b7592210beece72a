"""Small networks in the shapes of known families, for the layouts of their layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 5


class Block(nn.Module):
    """As in ResNet: two convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(maps)))))
        return F.relu(maps + inner)


class ResNetLike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.layer2 = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), Block(12))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(12, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layer2(self.layer1(F.relu(self.stem(images))))
        return self.fc(self.avgpool(maps).flatten(1))


def vgg_like() -> nn.Module:
    convs = [
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(inplace=True)),
    ]
    head = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    return nn.Sequential(nn.Sequential(*convs), nn.AdaptiveAvgPool2d(4), head)


class Inverted(nn.Module):
    """As in MobileNet: wide, depthwise, narrow, beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 2 * width
        self.conv = nn.Sequential(
            *(nn.Conv2d(width, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True)),
            *(nn.Conv2d(wide, wide, 3, padding=1, groups=wide), nn.ReLU6(inplace=True)),
            nn.Conv2d(wide, width, 1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = maps + self.conv(maps)
        return out


def mobilenet_like() -> nn.Module:
    features = nn.Sequential(nn.Conv2d(3, 12, 3, 4, 1), Inverted(12), nn.Conv2d(12, 16, 1))
    head = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, CLASSES))
    return nn.Sequential(features, nn.ReLU6(), nn.AdaptiveAvgPool2d(1), head)


class ConvNeXtBlock(nn.Module):
    """Channels come first outside and last inside, where a linear layer mixes them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(width, width, 3, 1, 1, groups=width), nn.LayerNorm(width)
        self.pwconv1, self.act = nn.Linear(width, 2 * width), nn.GELU()
        self.pwconv2 = nn.Linear(2 * width, width)

    def forward(self, maps: Tensor) -> Tensor:
        rows = self.norm(self.dwconv(maps).permute(0, 2, 3, 1))
        return maps + self.pwconv2(self.act(self.pwconv1(rows))).permute(0, 3, 1, 2)


class ConvNeXtLike(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.stages = nn.Sequential(ConvNeXtBlock(width), ConvNeXtBlock(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.stages(self.stem(images)).mean((2, 3))))


class Permute(nn.Module):
    """As that of torchvision."""

    def __init__(self, dims: list[int]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(self.dims)


class SelfAttention(nn.Module):
    """(N, T, C), with modules where the weights and the queries can be seen."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.qkv = heads, nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm = nn.LayerNorm(width // heads), nn.Identity()
        self.softmax, self.drop = nn.Softmax(dim=-1), nn.Dropout(0.1)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        n, t, c = tokens.shape
        q, k, v = self.qkv(tokens).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = self.drop(self.softmax(self.q_norm(q) @ self.k_norm(k).mT / 4))
        return self.proj((weights @ v).transpose(1, 2).reshape(n, t, c))


class SwinBlock(nn.Module):
    """Attention within windows of 2x2 cells, in (N, h, w, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), SelfAttention(width)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, maps: Tensor) -> Tensor:
        n, h, w, c = maps.shape
        parts = self.norm1(maps).reshape(n, h // 2, 2, w // 2, 2, c).transpose(2, 3)
        mixed = self.attn(parts.reshape(-1, 4, c)).reshape(n, h // 2, w // 2, 2, 2, c)
        maps = maps + mixed.transpose(2, 3).reshape(n, h, w, c)
        return maps + F.gelu(self.mlp(self.norm2(maps)))


class SwinLike(nn.Module):
    def __init__(self, permute: bool = False) -> None:
        super().__init__()
        self.patch, self.blocks = nn.Conv2d(3, 12, 4, 4), nn.Sequential(SwinBlock(12))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, CLASSES)
        self.permute = Permute([0, 3, 1, 2]) if permute else None

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.blocks(self.patch(images).permute(0, 2, 3, 1)))
        if self.permute is None:
            return self.head(maps.mean((1, 2)))
        return self.head(self.permute(maps).mean((2, 3)))


class ViTBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), SelfAttention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class ViTLike(nn.Module):
    """Patches of 4 px; `prefix` tokens come first, and the first of them has the logits.

    Without a prefix the mean of the tokens has them.
    """

    def __init__(self, prefix: int, size: tuple[int, int] = (32, 32), depth: int = 3) -> None:
        super().__init__()
        cells = size[0] // 4 * (size[1] // 4)
        self.patch, self.prefix = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, prefix, 16))
        self.position = nn.Parameter(torch.randn(1, prefix + cells, 16) / 4)
        self.drop, self.norm = nn.Dropout(0.1), nn.LayerNorm(16)
        self.blocks = nn.Sequential(*(ViTBlock(16) for _ in range(depth)))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch(images).flatten(2).mT  # (N, cells, C)
        tokens = torch.cat([self.prefix.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.norm(self.blocks(self.drop(tokens + self.position)))
        return self.head(tokens[:, 0] if self.prefix.shape[1] else tokens.mean(1))


FAMILIES = {  # network, the layer of its map by default
    "resnet": (ResNetLike, "layer2"),
    "vgg": (vgg_like, "0"),
    "mobilenet": (mobilenet_like, "1"),
    "convnext": (ConvNeXtLike, "stages"),
    "swin": (SwinLike, "norm"),
    "swin with a permutation": (lambda: SwinLike(permute=True), "permute"),
    "vit": (lambda: ViTLike(prefix=1), "blocks.2.norm1"),
    "vit with registers": (lambda: ViTLike(prefix=5), "blocks.2.norm1"),
    "vit with the mean": (lambda: ViTLike(prefix=0), "norm"),
}


def family(name: str) -> nn.Module:
    """Return the network in evaluation mode, its weights drawn from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FAMILIES[name][0]().eval()
