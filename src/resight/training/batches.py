"""Batches of a split: their order, their augmentation, and the seeds that decide both.

Batch k of epoch e depends on (seed, e, k) alone, not on earlier draws. So a run can be resumed in
the middle of an epoch without the state of any generator.
"""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from ..datasets import Split, Statistics
from ..datasets.augment import augment, normalize
from ..optim.schedules import check_batch_size, steps_per_epoch
from ..recipe import Augment
from .distributed import SINGLE_PROCESS, Rank

_ORDER, _AUGMENT = 1, 2  # purposes: unrelated streams from one seed
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
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of an epoch, from `first_step` on, shuffled and augmented.

    A batch is (images float32 normalized (N, C, H, W), labels int64 (N,)) on the split's device;
    each of several ranks gets its share.
    """
    device = split.images.device
    order = epoch_order(len(split), seed, epoch).to(device)
    for step in range(first_step, steps_per_epoch(len(split), batch_size)):
        rows = order[step * batch_size : (step + 1) * batch_size]
        part = rank.share(len(rows))
        images = augment(
            split.images[rows[part]],
            spec,
            stats,
            rows=rows,
            epoch=epoch,
            seed=seed,
            generator=step_generator(seed, epoch, step, device),
            part=part,
        )
        yield images, split.labels[rows[part]]


def eval_batches(
    split: Split, stats: Statistics, *, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a split in its own order, normalized only: (images, labels) as in `train_batches`."""
    check_batch_size(batch_size)
    for first in range(0, len(split), batch_size):
        rows = slice(first, first + batch_size)
        yield normalize(split.images[rows], stats), split.labels[rows]
