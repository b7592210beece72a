"""Is the peak of a range test the same whatever the loss? Twelve losses, five optimizers.

    python bench/lr_losses.py            # about two minutes on one core

The bundled digits at 16 px, a small network with batch norm, batches of 64. A loss of the same
gradients as cross entropy must give the same peak; others the same within a factor, as a rule two.
For SGD, which multiplies the gradient, a loss times 0.01 has its peak at 100 times the rate: its
range is moved by as much, and its peak is divided by it.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

import resight
from resight.lr_finder.range_test import default_range

K = 10
SEEDS = (0, 1, 2)
OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter]], Optimizer]] = {
    "SGD": lambda weights: SGD(weights, lr=0.1),
    "SGD, momentum": lambda weights: SGD(weights, lr=0.1, momentum=0.9),
    "Adam": lambda weights: Adam(weights, lr=1e-3),
    "AdamW": lambda weights: AdamW(weights, lr=1e-3),
    "RMSprop": lambda weights: RMSprop(weights, lr=1e-3),
}


def network(last: nn.Module | None = None) -> nn.Sequential:
    """A small network for digits (N, 1, 16, 16); `last` comes after its logits."""
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(96, K), last or nn.Identity()),
    )


def one_hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels, K).float()


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Lin et al. 2017, https://arxiv.org/abs/1708.02002, with gamma = 2."""
    nll = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - (-nll).exp()) ** 2 * nll).mean()


def distillation(logits: Tensor, labels: Tensor) -> Tensor:
    """Half cross entropy, half the divergence from a teacher that is right, and not too sure."""
    teacher = F.softmax(3 * one_hot(labels), dim=1)
    divergence = F.kl_div(F.log_softmax(logits, dim=1), teacher, reduction="batchmean")
    return 0.5 * F.cross_entropy(logits, labels) + 0.5 * divergence


@dataclass(frozen=True)
class Case:
    """A loss, what the network ends with, and the factor on its gradient."""

    loss: Callable[[Tensor, Tensor], Tensor]
    last: Callable[[], nn.Module] = nn.Identity
    scale: float = 1.0
    l1: float = 0.0  # times the sum of |w|, added to the loss


CASES = {
    "cross entropy": Case(F.cross_entropy),
    "cross entropy + 5": Case(lambda out, y: F.cross_entropy(out, y) + 5),
    "cross entropy x 0.01": Case(lambda out, y: 0.01 * F.cross_entropy(out, y), scale=0.01),
    "label smoothing 0.1": Case(nn.CrossEntropyLoss(label_smoothing=0.1)),
    "focal": Case(focal),
    "multi-margin": Case(F.multi_margin_loss),
    "NLL of log-softmax": Case(F.nll_loss, lambda: nn.LogSoftmax(dim=1)),
    "BCE, multi-label": Case(  # the mean over images and classes
        lambda out, y: F.binary_cross_entropy_with_logits(out, one_hot(y)), scale=1 / K
    ),
    "soft labels": Case(lambda out, y: F.cross_entropy(out, 0.9 * one_hot(y) + 0.01)),
    "MSE": Case(lambda out, y: F.mse_loss(out, one_hot(y))),
    "distillation": Case(distillation),
    "L1 penalty": Case(F.cross_entropy, l1=1e-3),
}


def measure(case: Case, optimizer: str, seed: int) -> resight.LRCurve:
    """The range test of one loss and optimizer."""
    train = resight.data("digits", image_size=16).train
    images = (train.images[:, :1].float() - train.images.float().mean()) / 80
    torch.manual_seed(seed)
    order = torch.randperm(len(train))
    pairs = [(images[rows], train.labels[rows]) for rows in torch.split(order, 64)][:-1]
    model = network(case.last())
    built = OPTIMIZERS[optimizer](model.parameters())
    factor = 1 / case.scale if isinstance(built, SGD) else 1.0

    def loss_fn(out: Tensor, y: Tensor) -> Tensor:
        penalty = sum((p.abs().sum() for p in model.parameters()), torch.zeros(()))
        return case.loss(out, y) + case.l1 * penalty if case.l1 else case.loss(out, y)

    start, end = (factor * rate for rate in default_range(built))
    curve = resight.lr_range_test(model, built, loss_fn, pairs, start=start, end=end, seed=seed)
    peak = None if curve.peak is None else curve.peak / factor
    return resight.LRCurve(**{**vars(curve), "peak": peak})


def main() -> None:
    print("| loss | " + " | ".join(OPTIMIZERS) + " |")
    print("|" + " --- |" * (len(OPTIMIZERS) + 1))
    plain = {
        optimizer: [measure(CASES["cross entropy"], optimizer, seed).peak for seed in SEEDS]
        for optimizer in OPTIMIZERS
    }
    near = total = 0
    for name, case in CASES.items():
        cells = []
        for optimizer in OPTIMIZERS:
            curves = [measure(case, optimizer, seed) for seed in SEEDS]
            ratios = [
                curve.peak / reference
                for curve, reference in zip(curves, plain[optimizer], strict=True)
                if curve.peak and reference
            ]
            trusted = sum(curve.verdict.ok for curve in curves)
            near += sum(0.5 <= ratio <= 2 for ratio in ratios)
            total += len(SEEDS)
            middle = f"{statistics.median(ratios):.2f}" if ratios else "-"
            cells.append(f"{middle} ({trusted} of {len(SEEDS)} trusted)")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\nwithin a factor of two of cross entropy: {near} of {total}")


if __name__ == "__main__":
    main()
