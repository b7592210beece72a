"""Batches of a split: their order, their augmentation, and the seeds that decide both.

Batch k of epoch e depends on (seed, e, k) alone, not on earlier draws. So a run can be resumed in
the middle of an epoch without the state of any generator.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Generator, Tensor

from ..datasets import Split, Statistics
from ..datasets.augment import Labels, augment_labeled, normalize
from ..optim.schedules import check_batch_size, steps_per_epoch
from ..recipe import Augment, Balance, power_of
from .distributed import SINGLE_PROCESS, Rank

# Purposes: unrelated streams from one seed. From 3 on they are those of dropout, in loop.py.
_CLASS_ORDER, _ORDER, _AUGMENT = 0, 1, 2
_MASK64 = 0xFFFFFFFFFFFFFFFF


def mix_seed(*parts: int) -> int:
    """Mix integers, in their order, into one seed in 0..2**63 - 1.

    Neighboring seeds, epochs and steps give unrelated results, in the low 32 bits too, which
    are all that PyTorch's CPU generator reads. SplitMix64 (Steele et al. 2014), once per part.
    """
    state = 0
    for part in parts:
        z = (state + part + 0x9E3779B97F4A7C15) & _MASK64
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _MASK64
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _MASK64
        state = z ^ z >> 31
    return state >> 1


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """Order the rows 0..n - 1 for an epoch: (n,) int64 on the CPU, of (seed, epoch) alone."""
    generator = torch.Generator().manual_seed(mix_seed(seed, epoch, 0, _ORDER))
    return torch.randperm(n, generator=generator)


def balanced_order(labels: Tensor, balance: Balance, *, seed: int, epoch: int) -> Tensor:
    """Order rows for an epoch in which small classes come more often: (N,) int64 on the CPU.

    labels: (N,). The share of a class of n_k images is in proportion to n_k ** (1 - power), the
    same in every epoch; with "balanced" all classes come as often as another, up to rounding.

    A class goes through all of its images, in a new order each time, before one of them comes
    again. An epoch begins where the one before it ended, so of a large class too no image is left
    out for long. As the number of its images in an epoch is fixed, the place where a class begins
    is known without the epochs before: the order is a pure function of labels, seed and epoch.
    """
    labels = labels.cpu()
    counts = torch.bincount(labels)  # (K,)
    drawn = _quotas(counts, len(labels), 1 - power_of(balance))
    rows = []
    for label in counts.nonzero().flatten().tolist():
        own, n = (labels == label).nonzero().flatten(), int(drawn[label])
        cycle, first = divmod(epoch * n, len(own))
        orders = []
        for number in range(cycle, cycle + 1 + (first + n - 1) // len(own)):
            seed_of_order = mix_seed(seed, number, label, _CLASS_ORDER)
            generator = torch.Generator().manual_seed(seed_of_order)
            orders.append(own[torch.randperm(len(own), generator=generator)])
        rows.append(torch.cat(orders)[first : first + n])
    return torch.cat(rows)[epoch_order(len(labels), seed, epoch)]


def _quotas(counts: Tensor, total: int, power: float) -> Tensor:
    """Divide `total` among classes in proportion to counts ** power: (K,) int64.

    Largest remainders are rounded up, the first of equal ones. A class with images gets at least 1.
    """
    shares = torch.where(counts > 0, counts.double() ** power, 0)  # (K,)
    shares *= total / shares.sum()
    quotas = shares.floor().long()
    rest = (quotas - shares).argsort(stable=True)[: total - int(quotas.sum())]
    quotas[rest] += 1
    return quotas


def step_generator(seed: int, epoch: int, step: int, device: torch.device) -> Generator:
    """Make the generator for the augmentation of one batch, of (seed, epoch, step) alone."""
    return torch.Generator(device).manual_seed(mix_seed(seed, epoch, step, _AUGMENT))


def train_batches(
    split: Split,
    spec: Augment,
    stats: Statistics,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    first_step: int = 0,
    rank: Rank = SINGLE_PROCESS,
    balance: Balance | None = None,
) -> Iterator[tuple[Tensor, Labels]]:
    """Yield the batches of an epoch, from `first_step` on, shuffled and augmented.

    A batch is (images float32 normalized (N, C, H, W), labels int64 (N,)) on the split's device,
    with mixup or cutmix `MixedLabels` in place of the labels; each of several ranks gets its share.
    """
    device = split.device
    order = epoch_order(len(split), seed, epoch)
    if balance is not None:
        order = balanced_order(split.labels, balance, seed=seed, epoch=epoch)
    order = order.to(device)
    steps = range(first_step, steps_per_epoch(len(split), batch_size))
    batches = [order[step * batch_size : (step + 1) * batch_size] for step in steps]
    for step, rows, images in zip(steps, batches, read_ahead(split, batches), strict=True):
        part = rank.share(len(rows))
        yield augment_labeled(
            images,
            split.labels[rows],
            spec,
            stats,
            rows=rows,
            epoch=epoch,
            seed=seed,
            generator=step_generator(seed, epoch, step, device),
            part=part,
        )


def eval_batches(
    split: Split, stats: Statistics, *, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a split in its own order, normalized only: (images, labels) as in `train_batches`."""
    check_batch_size(batch_size)
    batches = [slice(first, first + batch_size) for first in range(0, len(split), batch_size)]
    for rows, images in zip(batches, read_ahead(split, batches), strict=True):
        yield normalize(images, stats), split.labels[rows]


def read_ahead(split: Split, batches: Sequence[Tensor | slice]) -> Iterator[Tensor]:
    """Yield the images at the rows of each batch.

    While a batch is in use, a thread reads the next one, unless the images lie in the memory of the
    device anyway.
    """
    if split.is_on_device:
        yield from map(split.images_at, batches)
        return
    with ThreadPoolExecutor(1) as reader:
        coming = (reader.submit(split.images_at, rows) for rows in batches)
        current = next(coming, None)
        while current is not None:
            following = next(coming, None)
            yield current.result()
            current = following
