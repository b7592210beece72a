"""Batch norm over the images of all ranks, as if they were one batch (Peng et al. 2018)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn


class _Sum(torch.autograd.Function):
    """The sum over the ranks; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total


class _SyncNorm(nn.SyncBatchNorm):
    """torch's synchronized batch norm, which a GPU alone computes; and the same for a CPU."""

    process_group = None  # all ranks

    def forward(self, images: Tensor) -> Tensor:
        if not self.training or images.device.type != "cpu":
            return super().forward(images)
        x = images.float().movedim(1, -1)  # (..., C)
        axes = tuple(range(x.ndim - 1))
        count = x.new_tensor([x.numel() // x.shape[-1]])
        sums = _sum(torch.cat([x.sum(axes), count]))  # (C + 1,)
        mean, n = sums[:-1] / sums[-1], sums[-1].detach()
        x = x - mean
        var = _sum(x.square().sum(axes)) / n  # of centered values: nothing cancels out
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), share)
            self.running_var.lerp_(var.detach() * (n / (n - 1)), share)
        x = x * (var + self.eps).rsqrt()
        if self.affine:
            x = x * self.weight + self.bias
        return x.movedim(-1, 1).to(images.dtype)


@contextmanager
def synced_norms(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Have the batch norms of a model use the statistics of all ranks within the block."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    norms = [(m, type(m)) for m in model.modules() if wanted and type(m) in kinds]
    try:
        for norm, _ in norms:
            norm.__class__ = _SyncNorm
        yield
    finally:
        for norm, kind in norms:
            norm.__class__ = kind
