"""Trainings without an error, as different from each other as trainings are."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, RMSprop
from torch.optim import lr_scheduler as lr
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

import resight

from .base import (
    PLAIN,
    STANDARD,
    Cnn,
    ColorJitter,
    K,
    Normalize,
    Photos,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    ToTensor,
    batch_flip,
    fit,
    loader,
    plain_cnn,
    statistics,
    training,
    validation,
)
from .errors_of_data import rare
from .errors_of_losses import SetUp, batches_of, no_val, several_labels, sides
from .errors_of_steps import PER_EPOCH, STEPS, loop, optimizer_of, per_batch

IMAGENET = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Residual(nn.Module):
    """A block whose last norm starts at 0, as torchvision's zero_init_residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, K)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        return self.head(x.mean((2, 3)))


class Patches(nn.Module):
    """A small vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.position = nn.Parameter(0.02 * torch.randn(16, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, K)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch(images).flatten(2).transpose(1, 2) + self.position  # (N, T, D)
        return self.head(self.norm(self.block(tokens)).mean(1))


class NormalizesItself(nn.Module):
    """Takes pixels from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        mean, std = statistics()
        self.register_buffer("mean", mean.view(3, 1, 1))
        self.register_buffer("std", std.view(3, 1, 1))
        self.body = Cnn()

    def forward(self, images: Tensor) -> Tensor:
        return self.body((images - self.mean) / self.std)


class CosineHead(nn.Module):
    """Compares directions, with a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.weight = Cnn(outputs=16), nn.Parameter(torch.randn(K, 16))
        self.scale = nn.Parameter(torch.tensor(16.0))

    def forward(self, images: Tensor) -> Tensor:
        features = F.normalize(self.body(images), dim=1)
        return self.scale * F.linear(features, F.normalize(self.weight, dim=1))


def pretrain(model: nn.Module) -> None:
    """Give convolutions weights as of a pretrained network, which are not uniform."""
    fit(model, Adam(model.parameters(), lr=0.01), steps=40)


def pretrained(*, freeze: bool = False) -> Any:
    """Return what builds a trained body and a new head."""

    def build() -> Cnn:
        model = Cnn()
        pretrain(model)
        model.head = nn.Linear(16, K)
        if freeze:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.startswith("head"))
        return model

    return build


def head_only(model: Cnn) -> SGD:
    return SGD(model.head.parameters(), lr=0.1, momentum=0.9)


def slower_body(model: Cnn) -> AdamW:
    body = [p for name, p in model.named_parameters() if not name.startswith("head")]
    groups = [{"params": body, "lr": 1e-4}, {"params": model.head.parameters(), "lr": 1e-3}]
    return AdamW(groups, weight_decay=0.01)


def two_decays(model: nn.Module) -> SGD:
    weights = [p for p in model.parameters() if p.ndim > 1]
    flat = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": 5e-4}, {"params": flat, "weight_decay": 0.0}]
    return SGD(groups, lr=0.1, momentum=0.9, nesterov=True)


def warm_up_and_cosine(optimizer: Any) -> lr.SequentialLR:
    parts: Any = [
        lr.LinearLR(optimizer, 0.01, total_iters=20),
        lr.CosineAnnealingLR(optimizer, STEPS - 20),
    ]
    return lr.SequentialLR(optimizer, parts, milestones=[20])


def half_cosine(step: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / STEPS))


def one_cycle_of_resight(optimizer: Any) -> Any:
    schedule = resight.schedule("resnet18-onecycle", steps_per_epoch=PER_EPOCH)
    return resight.ScheduleLR(optimizer, schedule)


class Mixed:
    """Batches in which images and labels are mixed."""

    def __init__(self) -> None:
        self.loader = loader(Photos(*STANDARD), 64)

    def __iter__(self) -> Any:
        for images, labels in self.loader:
            hot = F.one_hot(labels, K).float()
            yield 0.7 * images + 0.3 * images.flip(0), 0.7 * hot + 0.3 * hot.flip(0)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        data = Photos(*STANDARD)
        return (data[int(i)] for i in torch.randperm(len(data)))


class ReadsArrays(Photos):
    """A data set with an augmentation inside __getitem__, and none of torchvision's attributes."""

    def __init__(self) -> None:
        super().__init__(*PLAIN)
        self.change, self.transform = self.transform, None  # type: ignore[assignment]

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return RandomHorizontalFlip()(self.change(self.data[index])), self.targets[index]


def weighted() -> DataLoader[Any]:
    data = rare(1600)
    weights = [50.0 if target else 1.0 for target in data.targets]
    return DataLoader(data, 32, sampler=WeightedRandomSampler(weights, len(data)))


def halves(part: int) -> Any:
    rows = torch.randperm(320, generator=torch.Generator().manual_seed(1)).tolist()
    data = Photos(*STANDARD) if part == 0 else Photos()
    return Subset(data, rows[:240] if part == 0 else rows[240:])


def tensors(n: int, seed: int) -> TensorDataset:
    data = Photos(n=n, seed=seed)
    return TensorDataset(torch.stack([data[i][0] for i in range(n)]), torch.tensor(data.targets))


def gray(n: int, seed: int) -> TensorDataset:
    images, labels = tensors(n, seed).tensors
    images = images.mean(1, keepdim=True)
    return TensorDataset((images - images.mean()) / images.std(), labels)


def accumulated(model: nn.Module, optimizer: Any, loss_fn: Any) -> Any:
    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        for x, y in zip(images.chunk(2), labels.chunk(2), strict=True):
            (loss_fn(model(x), y) / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def bf16_step(model: nn.Module, optimizer: Any, loss_fn: Any) -> Any:
    def step(images: Tensor, labels: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_fn(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def resized_val() -> Photos:
    return validation(*PLAIN, n=160)


def focal(outputs: Tensor, labels: Tensor) -> Tensor:
    loss = F.cross_entropy(outputs, labels, reduction="none")
    return ((1 - torch.exp(-loss)) ** 2 * loss).mean()


def batch_cutout(images: Tensor) -> Tensor:
    images = images.clone()
    for image, (top, left) in zip(
        images, torch.randint(10, (len(images), 2)).tolist(), strict=True
    ):
        image[:, top : top + 6, left : left + 6] = 0
    return images


CORRECT: dict[str, SetUp] = {
    "a usual one": training,
    "plain SGD, a constant rate": lambda: training(
        optimizer=optimizer_of(SGD, lr=0.1), scheduler=None
    ),
    "Adam, plain network": lambda: training(model=plain_cnn, optimizer=optimizer_of(Adam, lr=1e-3)),
    "AdamW, one cycle": lambda: training(
        optimizer=optimizer_of(AdamW, lr=3e-3, weight_decay=0.05),
        scheduler=lambda o: lr.OneCycleLR(o, 3e-3, total_steps=STEPS),
        steps=STEPS,
    ),
    "SGD with decay for weights": lambda: training(optimizer=two_decays),
    "SGD with decay for all": lambda: training(
        optimizer=optimizer_of(SGD, lr=0.1, weight_decay=5e-4)
    ),
    "RMSprop, exponential": lambda: training(
        optimizer=optimizer_of(RMSprop, lr=1e-3), scheduler=lambda o: lr.ExponentialLR(o, 0.9)
    ),
    "Adagrad, StepLR": lambda: training(
        optimizer=optimizer_of(Adagrad, lr=0.01), scheduler=lambda o: lr.StepLR(o, 6)
    ),
    "NAdam, milestones": lambda: training(
        optimizer=optimizer_of(NAdam, lr=2e-3), scheduler=lambda o: lr.MultiStepLR(o, [10, 15])
    ),
    "warm-up and cosine each batch": per_batch(warm_up_and_cosine),
    "a Lambda each batch": per_batch(lambda o: lr.LambdaLR(o, half_cosine)),
    "a warm-up, then constant": per_batch(
        lambda o: lr.LambdaLR(o, lambda step: min(1, (step + 1) / 20))
    ),
    "a cosine with restarts": per_batch(lambda o: lr.CosineAnnealingWarmRestarts(o, 20, 2)),
    "a cyclic rate": per_batch(lambda o: lr.CyclicLR(o, 0.01, 0.1, step_size_up=50), 2 * STEPS),
    "plateau each epoch": lambda: training(scheduler=lambda o: lr.ReduceLROnPlateau(o, patience=3)),
    "a schedule of resight": lambda: (lambda n: training(scheduler=one_cycle_of_resight, steps=n))(
        resight.schedule("resnet18-onecycle", steps_per_epoch=PER_EPOCH).total_steps
    ),
    "group norm": lambda: training(model=lambda: Cnn(norm=lambda n: nn.GroupNorm(4, n))),
    "layer norm, AdamW": lambda: training(
        model=Patches, optimizer=optimizer_of(AdamW, lr=1e-3, weight_decay=0.05)
    ),
    "instance norm, batches of 4": lambda: training(
        model=lambda: Cnn(norm=lambda n: nn.InstanceNorm2d(n, affine=True)),
        batches=batches_of(Photos(*STANDARD), 4),
    ),
    "a residual block from 0": lambda: training(model=Residual),
    "a head from 0": lambda: training(model=zero_head),
    "a cosine head": lambda: training(model=CosineHead),
    "a model that normalizes": lambda: training(
        model=NormalizesItself,
        data=lambda: Photos(*STANDARD[:3]),
        val=lambda: validation(ToTensor()),
    ),
    "a frozen body": lambda: training(model=pretrained(freeze=True), optimizer=head_only),
    "a body at a lower rate": lambda: training(model=pretrained(), optimizer=slower_body),
    "fine-tuning, statistics of ImageNet": lambda: training(
        model=pretrained(),
        data=lambda: Photos(*STANDARD[:3], IMAGENET),
        val=lambda: validation(ToTensor(), IMAGENET),
        optimizer=optimizer_of(SGD, lr=1e-3, momentum=0.9),
    ),
    "normalized to 0.5": lambda: training(
        data=lambda: Photos(*STANDARD[:3], Normalize((0.5,) * 3, (0.5,) * 3)),
        val=lambda: validation(ToTensor(), Normalize((0.5,) * 3, (0.5,) * 3)),
    ),
    "jitter and erasing": lambda: training(
        data=lambda: Photos(
            RandomCrop(4), RandomHorizontalFlip(), ColorJitter(), *PLAIN, RandomErasing(p=0.25)
        )
    ),
    "no augmentation": lambda: training(data=Photos),
    "augmentation of batches": lambda: training(
        data=Photos, augment={"flip": batch_flip, "cutout": batch_cutout}
    ),
    "augmentation in __getitem__": lambda: training(data=ReadsArrays),
    "mixup": lambda: training(batches=Mixed),
    "a stream": lambda: training(batches=lambda: DataLoader(Stream(), 32)),
    "tensors": lambda: training(data=lambda: tensors(320, 0), val=lambda: tensors(160, 1)),
    "gray images": lambda: training(
        model=lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1568, K)
        ),
        data=lambda: gray(320, 0),
        val=lambda: gray(160, 1),
    ),
    "two halves of one folder": lambda: training(data=lambda: halves(0), val=lambda: halves(1)),
    "one logit": lambda: training(
        model=lambda: Cnn(outputs=1), loss_fn=nn.BCEWithLogitsLoss(), data=sides, val_batches=no_val
    ),
    "one probability": lambda: training(
        model=lambda: plain_cnn(nn.Sigmoid(), outputs=1),
        loss_fn=nn.BCELoss(),
        data=sides,
        val_batches=no_val,
    ),
    "several labels": lambda: training(
        loss_fn=nn.BCEWithLogitsLoss(), data=several_labels, val_batches=no_val
    ),
    "label smoothing": lambda: training(loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1)),
    "focal loss": lambda: training(loss_fn=focal),
    "log-softmax and likelihood": lambda: training(
        model=lambda: plain_cnn(nn.LogSoftmax(1)), loss_fn=nn.NLLLoss()
    ),
    "a rare class, drawn more often": lambda: training(batches=weighted, val_batches=no_val),
    "a rare class, weighted": lambda: training(
        data=lambda: rare(1600),
        model=lambda: Cnn(outputs=2),
        val_batches=no_val,
        loss_fn=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 30.0])),
    ),
    "small batches, group norm": lambda: training(
        model=lambda: Cnn(norm=lambda n: nn.GroupNorm(2, n)),
        batches=batches_of(Photos(*STANDARD), 4),
    ),
    "bfloat16": lambda: training(step=bf16_step),
    "accumulated gradients, clipped": lambda: training(step=accumulated),
    "a usual step": lambda: training(step=loop()),
    "dropout and Adam in a step": lambda: training(
        model=lambda: Cnn(dropout=0.5), optimizer=optimizer_of(Adam, lr=1e-3), step=loop(clip=5.0)
    ),
}


def zero_head() -> Cnn:
    model = Cnn()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    return model
