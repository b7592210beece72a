"""Several processes that train one model together, each on a share of every batch.

Data parallelism, written out: every rank holds the whole state, makes the same draws, computes the
gradients of its share, and the ranks sum them. The sum is the gradient of the whole batch, so all
ranks take the same step and stay equal to the bit; any of them can be saved, or lost.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn


class ExchangeFailed(RuntimeError):
    """The ranks could not exchange tensors: one is gone, or they are not at the same step."""


@dataclass(frozen=True)
class Rank:
    """The index of this process among `count`; by default it is alone and shares nothing."""

    index: int = 0
    count: int = 1

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

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, in one exchange for each dtype.

        Every rank gives tensors of the same shapes, in the same order.

        Raises:
            ExchangeFailed: another rank is gone. On a GPU that may show later, as another error.
        """
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        for group in by_dtype.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
            try:
                torch.distributed.all_reduce(flat)
            except RuntimeError as error:  # torch has no class of its own for a lost connection
                raise ExchangeFailed(str(error)) from error
            pieces = torch.split(flat, [tensor.numel() for tensor in group])
            for tensor, piece in zip(group, pieces, strict=True):
                tensor.detach().copy_(piece.view(tensor.shape))


SINGLE_PROCESS = Rank()


def sum_over_ranks(model: nn.Module, loss: Tensor, correct: Tensor, rank: Rank) -> None:
    """Replace gradients, loss and `correct` of this rank's share by those of the whole batch.

    Running statistics of norms become the mean over ranks, so that all ranks keep the same model.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    uses = torch.ones(len(weights), device=loss.device)  # by how many ranks
    unused = [i for i, weight in enumerate(weights) if weight.grad is None]
    for i in unused:
        uses[i] = 0
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    statistics = [s for norm in norms for s in norm.buffers() if s.is_floating_point()]
    for statistic in statistics:
        statistic /= rank.count
    counts = correct.float()  # of one dtype with the rest, so that there is one exchange
    rank.sum_([*gradients, *statistics, uses, loss, counts])
    correct.copy_(counts)
    for i in unused:  # by this rank; another may have taken a branch that this one did not
        if uses[i] > 0:
            weights[i].grad = gradients[i]
