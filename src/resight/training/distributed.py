"""Several processes that train one model together, each on a share of every batch.

Data parallelism, written out: every rank holds the whole state, makes the same draws, computes the
gradients of its share and adds them to everyone's. The sum is the gradient of the whole batch, so
all take the same step and stay equal to the bit; any of them can be saved, or lost.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor


class ExchangeFailed(RuntimeError):
    """The ranks could not exchange: one of them is gone, or they are not at the same step."""


@dataclass(frozen=True)
class Rank:
    """Which of `count` processes this one is; by default it is alone, and shares nothing."""

    index: int = 0
    count: int = 1

    def share(self, n: int) -> slice:
        """The rows of a batch of `n` that are this rank's, as `tensor_split` would divide them.

        A batch that does not give every rank two images is everyone's: batch norm has nothing to
        learn from one.
        """
        if self.copies(n) > 1:
            return slice(0, n)
        size, left = divmod(n, self.count)
        first = self.index * size + min(self.index, left)
        return slice(first, first + size + (self.index < left))

    def copies(self, n: int) -> int:
        """How many ranks see each image of a batch of `n`."""
        return self.count if n < 2 * self.count else 1

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks: one exchange for each dtype of them.

        Every rank gives tensors of the same shapes, in the same order.

        Raises:
            ExchangeFailed: another rank is gone. On a GPU it may show later, and as another error.
        """
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault(tensor.dtype, []).append(tensor)
        for alike in kinds.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in alike])
            try:
                torch.distributed.all_reduce(flat)
            except RuntimeError as error:  # torch has no class of its own for a lost connection
                raise ExchangeFailed(str(error)) from error
            pieces = torch.split(flat, [tensor.numel() for tensor in alike])
            for tensor, piece in zip(alike, pieces, strict=True):
                tensor.detach().copy_(piece.view(tensor.shape))


SINGLE_PROCESS = Rank()
