"""What a full memory looks like, in Python, NumPy, torch and the system."""

import errno

import numpy as np
import pytest
import torch

from refusal import refused
from resight.errors import is_memory_full
from resight.recipe import Training
from resight.training.device import name_full_memory

HUGE = 2**60  # bytes


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: bytes(HUGE),
        lambda: np.empty(HUGE, dtype=np.uint8),
        lambda: torch.empty(HUGE, dtype=torch.uint8),
    ],
)
def test_a_full_memory_is_recognized(allocate: object) -> None:
    assert callable(allocate)
    with pytest.raises((MemoryError, RuntimeError)) as info:
        allocate()
    assert is_memory_full(info.value)
    with (
        refused("the memory of cpu is full; set training.micro_batch to less than 64"),
        name_full_memory(torch.device("cpu"), Training(batch_size=64), 1),
    ):
        allocate()


def test_other_errors_are_not_taken_for_a_full_memory() -> None:
    assert is_memory_full(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert not is_memory_full(OSError(errno.ENOSPC, "No space left on device"))
    assert not is_memory_full(ValueError("out of memory is a phrase in this value"))
    with (
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
        name_full_memory(torch.device("cpu"), Training(batch_size=64), 1),
    ):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
