"""Photos, transforms, a small network, and a training without an error to plant errors in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, Dataset

CLASSES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
K, SIDE, CHANNELS = len(CLASSES), 16, torch.tensor([126.0, 118.0, 104.0])
EPOCHS, BATCH = 20, 32


@cache
def photos(n: int = 320, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return smooth color pictures, uint8 (n, 3, 16, 16), and labels that show in them."""
    prototypes = _smooth(K, torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(K, (n,), generator=generator)
    noise = torch.randn(n, 3, SIDE, SIDE, generator=generator)
    waves = 0.8 * prototypes[labels] + 0.7 * _smooth(n, generator) + 0.1 * noise
    pixels = CHANNELS[:, None, None] + 80 * waves
    return pixels.round().clamp(1, 255).byte(), labels


def _smooth(n: int, generator: torch.Generator) -> Tensor:
    """Return waves (n, 3, 16, 16) whose channels are nearly the same, as those of photos are."""
    gray = torch.randn(n, 1, 4, 4, generator=generator)
    color = torch.randn(n, 3, 4, 4, generator=generator)
    return F.interpolate(0.95 * gray + 0.3 * color, size=SIDE, mode="bilinear")


@cache
def statistics() -> tuple[Tensor, Tensor]:
    pixels = photos()[0] / 255
    return pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))


# --- transforms of one image, in the words of torchvision -----------------------------------------


@dataclass
class Compose:
    transforms: Sequence[Callable[[Any], Any]]

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class ToTensor:
    def __call__(self, image: Tensor) -> Tensor:
        return image.float() / 255


@dataclass
class Normalize:
    mean: Any = None
    std: Any = None

    def __call__(self, image: Tensor) -> Tensor:
        mean, std = statistics()
        mean, std = (
            torch.as_tensor(b if a is None else a) for a, b in ((self.mean, mean), (self.std, std))
        )
        return (image - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


@dataclass
class RandomCrop:
    padding: int = 2

    def __call__(self, image: Tensor) -> Tensor:
        padded = F.pad(image, (self.padding,) * 4)
        top, left = torch.randint(2 * self.padding + 1, (2,)).tolist()
        return padded[:, top : top + SIDE, left : left + SIDE]


@dataclass
class RandomHorizontalFlip:
    p: float = 0.5

    def __call__(self, image: Tensor) -> Tensor:
        return image.flip(-1) if torch.rand(1) < self.p else image


@dataclass
class RandomErasing:
    p: float = 0.5
    value: float = 0.0

    def __call__(self, image: Tensor) -> Tensor:
        if torch.rand(1) >= self.p:
            return image
        image = image.clone()
        top, left = torch.randint(SIDE - 5, (2,)).tolist()
        image[:, top : top + 6, left : left + 6] = self.value
        return image


@dataclass
class ColorJitter:
    brightness: float = 0.3

    def __call__(self, image: Tensor) -> Tensor:
        factor = 1 + self.brightness * (2 * torch.rand(1) - 1)
        return (image * factor).clamp(0, 255 if image.dtype == torch.uint8 else 1).to(image.dtype)


PLAIN = (ToTensor(), Normalize())
STANDARD = (RandomCrop(), RandomHorizontalFlip(), *PLAIN)


class Photos(Dataset[tuple[Any, int]]):
    """A data set of photos in the manner of torchvision's CIFAR10."""

    def __init__(
        self,
        *transforms: Callable[[Any], Any],
        n: int = 320,
        seed: int = 0,
        classes: Sequence[str] = CLASSES,
        data: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.data, labels = photos(n, seed) if data is None else data
        self.targets = labels.tolist()
        self.transform = Compose(transforms or PLAIN)
        self.classes = list(classes)
        self.class_to_idx = {name: index for index, name in enumerate(classes)}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.data[index]), self.targets[index]


def validation(*transforms: Callable[[Any], Any], **settings: Any) -> Photos:
    return Photos(*transforms, **{"n": 160, "seed": 1, **settings})


class Cnn(nn.Module):
    """Two convolutions with batch norm, and a head; arguments plant an error."""

    def __init__(
        self,
        *,
        outputs: int = K,
        dropout: float = 0.1,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
        features: Callable[[Tensor], Tensor] = lambda features: features,
        end: Callable[[Tensor], Tensor] = lambda outputs: outputs,
    ) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), norm(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 16, 3, padding=1, bias=False), norm(16)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(16, outputs)
        self.features, self.end = features, end

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(images))), 2)  # (N, 8, 8, 8)
        x = F.relu(self.norm2(self.conv2(x))).mean((2, 3))  # (N, 16)
        return self.end(self.head(self.dropout(self.features(x))))


def plain_cnn(*end: nn.Module, outputs: int = K) -> nn.Sequential:
    """A network without a norm, which shows what was trained by its weights alone."""
    conv = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*conv, nn.Linear(8 * 7 * 7, 32), nn.ReLU(), nn.Linear(32, outputs), *end)


def loader(data: Dataset[Any], batch_size: int = BATCH, **settings: Any) -> DataLoader[Any]:
    return DataLoader(data, batch_size, **{"shuffle": True, **settings})


def sgd(model: nn.Module, **settings: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.05, "momentum": 0.9, **settings})


def cosine(optimizer: Any) -> CosineAnnealingLR:
    return CosineAnnealingLR(optimizer, EPOCHS)


def batch_flip(images: Tensor) -> Tensor:
    return torch.where(
        (torch.rand(len(images)) < 0.5)[:, None, None, None], images.flip(-1), images
    )


def training(
    *,
    model: Callable[[], nn.Module] = Cnn,
    optimizer: Callable[[Any], Any] = sgd,
    loss_fn: Any = F.cross_entropy,
    data: Callable[[], Any] = lambda: Photos(*STANDARD),
    batches: Callable[[], Any] | None = None,
    val: Callable[[], Any] = validation,
    val_batches: Callable[[], Any] | None = None,
    scheduler: Callable[[Any], Any] | None = cosine,
    steps: int = EPOCHS,
    augment: Any = None,
    step: Callable[[Any, Any, Any], Callable[[Any, Any], Any]] | None = None,
) -> dict[str, Any]:
    """Return the arguments of `diagnose` for a usual training, with some of its parts changed."""
    torch.manual_seed(0)
    network = model()
    its_optimizer = optimizer(network)
    arguments = {
        "model": network,
        "optimizer": its_optimizer,
        "loss_fn": loss_fn,
        "batches": loader(data()) if batches is None else batches(),
        "scheduler": scheduler and scheduler(its_optimizer),
        "steps": steps if scheduler else None,
        "val_batches": loader(val(), shuffle=False) if val_batches is None else val_batches(),
        "augment": augment,
    }
    if step is not None:
        arguments["step"] = step(network, its_optimizer, loss_fn)
    return arguments


def fit(model: nn.Module, optimizer: Any, *, steps: int = 40) -> None:
    """Train on the photos, for set-ups that begin with trained weights."""
    data = Photos(*STANDARD)
    for _ in range(steps):
        rows = torch.randint(len(data), (64,)).tolist()
        images = torch.stack([data[row][0] for row in rows])
        optimizer.zero_grad()
        F.cross_entropy(model(images), photos()[1][rows]).backward()
        optimizer.step()
    optimizer.zero_grad()
