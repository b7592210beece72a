"""Swift: a small, quick network after airbench (Jordan 2024, arXiv 2404.00498).

What makes it learn in few epochs: a fixed first layer that whitens 2x2 patches, convolutions that
begin as the identity, normalization whose scale is fixed so that only its bias learns, and small
logits.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn

from .conv import Conv3x3
from .head import GlobalMaxPool, make_head

LOGIT_SCALE = 1 / 9
WHITEN_PX = 2  # side of a whitened patch
WHITEN_EPS = 5e-4  # keeps directions of almost no variance from being blown up into noise
WHITEN_IMAGES = 5_000  # more do not change the statistics of 2x2 patches
WHITEN_CHUNK = 25  # images at a time: their patches fit the cache

Activation = Literal["relu", "gelu", "silu"]


# Only ReLU can work in place without a copy of its input.
ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def bias_only_norm(channels: int) -> nn.BatchNorm2d:
    """Return batch norm with its scale fixed at 1 and quick running statistics (momentum 0.4).

    eps stays at 1e-5, where airbench has 1e-12: variances here are of order 1, so training does
    not notice, but a channel that was constant in training is not blown up by 1e6 in evaluation.
    """
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def identity_conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a 3x3 convolution that begins as the identity; filters beyond it are random."""
    conv = Conv3x3(in_channels, out_channels)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:in_channels])
    return conv


def block(in_channels: int, out_channels: int, activation: Activation) -> nn.Sequential:
    """Return a block that maps (N, in_channels, H, W) to (N, out_channels, H // 2, W // 2)."""
    return nn.Sequential(
        OrderedDict(
            conv1=identity_conv(in_channels, out_channels),
            pool=nn.MaxPool2d(2),
            norm1=bias_only_norm(out_channels),
            act1=ACTIVATIONS[activation](),
            conv2=identity_conv(out_channels, out_channels),
            norm2=bias_only_norm(out_channels),
            act2=ACTIVATIONS[activation](),
        )
    )


class Swift(nn.Module):
    """Whitening layer, three blocks of two convolutions, max pool, linear, logits times 1/9.

    `whiten`, `block1` to `block3` and `head` are the names to give as target layers of heat maps.
    The head takes the maximum over the whole map (3x3 at 32 px), so other image sizes work too.
    Smallest image: 9 px.

    The filters of the first layer are random until `whiten_from` sets them, and are never trained.
    Its biases are trained if `whiten_bias`. Without biases the gradient ends at the first block,
    which saves every step the input gradient of a convolution on the largest map.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        widths: tuple[int, int, int] = (32, 128, 128),
        activation: Activation = "relu",
        whiten_bias: bool = True,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        whitened = 2 * in_channels * WHITEN_PX**2
        conv = nn.Conv2d(in_channels, whitened, WHITEN_PX, bias=whiten_bias)
        conv.weight.requires_grad_(False)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        self.whiten = nn.Sequential(OrderedDict(conv=conv, act=ACTIVATIONS[activation]()))
        self.block1 = block(whitened, widths[0], activation)
        self.block2 = block(widths[0], widths[1], activation)
        self.block3 = block(widths[1], widths[2], activation)
        linear = nn.Linear(widths[2], num_classes, bias=False)
        self.head = make_head(GlobalMaxPool(), linear, dropout)

    def forward(self, images: Tensor) -> Tensor:
        x = self.whiten(images)  # (N, 8 C, H - 1, W - 1)
        x = self.block1(x)  # (N, widths[0], 15, 15) from 32 px
        x = self.block2(x)  # (N, widths[1], 7, 7)
        x = self.block3(x)  # (N, widths[2], 3, 3)
        logits: Tensor = self.head(x) * LOGIT_SCALE  # (N, K)
        return logits

    @torch.no_grad()
    def whiten_from(self, images: Tensor) -> None:
        """Set the first layer's filters so that the patches of `images` come out white.

        `images`: (N, C, H, W) float, normalized. At most 5,000 are used, evenly spaced, as a data
        set may be sorted by class.
        """
        filters = whitening_filters(images[:: math.ceil(len(images) / WHITEN_IMAGES)])
        self.whiten.get_parameter("conv.weight").copy_(torch.cat([filters, -filters]))


def whitening_filters(images: Tensor) -> Tensor:
    """Return the eigenvectors of the 2x2 patches of `images`, each over sqrt(eigenvalue + 5e-4).

    (N, C, H, W) float, normalized -> (4 C, C, 2, 2) float64 on the CPU, by falling eigenvalue.
    Sums are in float64, so that devices agree but for last bits. The second moment stands in for
    the covariance, as normalized images have mean 0. LAPACK leaves the sign of an eigenvector open:
    here its first largest component is positive.
    """
    channels = images.shape[1]
    dim = channels * WHITEN_PX**2
    # MPS has no float64.
    device = torch.device("cpu") if images.device.type == "mps" else images.device
    moment = torch.zeros(dim, dim, dtype=torch.float64, device=device)
    count, (h, w) = 0, (side - WHITEN_PX + 1 for side in images.shape[2:])  # of the map
    for chunk in torch.split(images, WHITEN_CHUNK):
        x = chunk.to(device).double().transpose(0, 1)  # (C, n, H, W)
        shifts = list(product(range(WHITEN_PX), repeat=2))
        patches = torch.stack([x[:, :, i : i + h, j : j + w] for i, j in shifts], dim=1)
        patches = patches.reshape(dim, -1)  # (dim, all patches)
        moment += patches @ patches.T
        count += patches.shape[1]
    eigenvalues, columns = torch.linalg.eigh((moment / count).cpu())  # ascending
    vectors: Tensor = columns.T.flip(0)  # (dim, dim), one a row
    size = vectors.abs()
    largest = size > size.amax(dim=1, keepdim=True) * (1 - 1e-6)  # equal but for rounding
    first = largest.int().argmax(dim=1, keepdim=True)
    vectors *= vectors.gather(1, first).sign()
    vectors *= (eigenvalues.flip(0) + WHITEN_EPS).rsqrt()[:, None]
    return vectors.reshape(dim, channels, WHITEN_PX, WHITEN_PX)
