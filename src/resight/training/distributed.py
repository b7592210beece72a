"""Several processes that train one model together, each on a share of every batch.

Every rank holds the whole state and makes the same draws. DistributedDataParallel (Li et al. 2020)
adds up the gradients of the shares, bucket by bucket while the backward pass goes on. The sum is
the gradient of the whole batch, so all ranks take the same step, and any of them can be saved.
"""

import os
import warnings
import zlib
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from ..errors import ResightError

# torch 2.13 has a new name for it; `sum_over_ranks` does more than that.
_NAMES = signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"


class _RankModel(nn.Module):
    """A model whose gradients ranks share; without images it only uses every weight once."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor | None = None) -> Any:
        if images is not None:
            return self.model(images)
        return sum(weight.sum() for weight in self.parameters() if weight.requires_grad)


class _FirstPass(torch.autograd.Function):
    """A backward pass without images, as torch does two things in the first pass of a process.

    By the order of its gradients torch divides the weights into buckets, and the buckets decide in
    which order the gradients of three or more ranks are added. So a run would not go on exactly
    where it was stopped in the middle of an epoch. And torch warns, in C++, if no weight is unused
    that might be: within a function of autograd, it warns by way of Python.
    """

    @staticmethod
    def forward(ctx: Any, shared: nn.Module) -> None:
        with torch.enable_grad():
            shared().backward()
        shared.zero_grad()


@dataclass(frozen=True)
class Rank:
    """The index of this process among `count`; by default it is alone and shares nothing."""

    index: int = 0
    count: int = 1

    @classmethod
    def of_environment(cls) -> "Rank":
        """Return the rank that torchrun, or what sets the same variables, gave this process."""
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
            return cls()
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))

    def share(self, n: int) -> slice:
        """Return the rows of a batch of `n` that are this rank's, as `tensor_split` divides them.

        A batch too small to give every rank two images goes whole to each: batch norm learns
        nothing from one image.
        """
        if self.copies(n) > 1:
            return slice(0, n)
        size, left = divmod(n, self.count)
        first = self.index * size + min(self.index, left)
        return slice(first, first + size + (self.index < left))

    def copies(self, n: int) -> int:
        """Return how many ranks see each image of a batch of `n`."""
        return self.count if n < 2 * self.count else 1

    def smallest_share(self, n: int) -> int:
        """Return how many images of a batch of `n` every rank has at least."""
        return n * self.copies(n) // self.count

    def wrap(self, model: nn.Module, *, any_branch: bool) -> nn.Module:
        """Return a module whose backward pass makes each gradient the mean over the ranks.

        `any_branch`: whether the ranks may use different weights, which has to be looked for.
        """
        if self.count == 1:
            return model
        options: dict[str, Any] = {_SYNC_BUFFERS: False}
        shared = DistributedDataParallel(
            _RankModel(model), find_unused_parameters=any_branch, **options
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
            _FirstPass.apply(shared)  # type: ignore[no-untyped-call]
        return shared

    @torch.no_grad()
    def sum_(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the ranks, in one exchange for all of them."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        torch.distributed.all_reduce(flat)
        pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Return whether any rank has set its flag; the same for all, by the hosts alone."""
        if self.count == 1:
            return flag
        flags = torch.tensor([int(flag)])
        self.sum_(flags)
        return bool(flags)

    def check_equal(self, model: nn.Module) -> None:
        """Compare a checksum of the weights over the ranks.

        Raises:
            ResightError: they are not the same everywhere; it names the ranks that differ.
        """
        if self.count == 1:
            return
        checksums = torch.zeros(self.count, dtype=torch.int64)
        for weight in model.parameters():
            content = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            checksums[self.index] = zlib.crc32(content.numpy().data, int(checksums[self.index]))
        self.sum_(checksums)
        (usual, _), *others = Counter(checksums.tolist()).most_common()
        if others:
            odd = [str(rank) for rank, sum_ in enumerate(checksums.tolist()) if sum_ != usual]
            raise ResightError(
                f"the weights of rank {', '.join(odd)} differ from those of the other ranks of "
                f"{self.count}: its device or memory is at fault, or its network draws numbers of "
                "its own; go on from the last checkpoint, without that device"
            )


SINGLE_PROCESS = Rank()


def accumulate(model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Have only the last micro-batch of a step exchange gradients, where there are ranks."""
    if last or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()


def sum_over_ranks(
    model: nn.Module, loss: Tensor, correct: Tensor, rank: Rank, *, copies: int
) -> None:
    """Replace loss and `correct` of this rank's share by those of the whole batch.

    Running statistics of norms become the mean over ranks, so that all ranks keep the same model.
    """
    if rank.count == 1:
        return
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.training]
    statistics = [s for norm in norms for s in norm.buffers() if s.is_floating_point()]
    for statistic in statistics:
        statistic /= rank.count
    rank.sum_(loss, correct, *statistics)
    correct //= copies
