"""What a process keeps of the memory that it frees."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import pathlib, resource, torch
from resight.training.device import keep_freed_memory
def resident():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6
torch.ones(2).sum()
if {keep}:
    keep_freed_memory()
before = resident()
[torch.ones(2_000_000) for _ in range(12)]  # 96 MB, freed at once
print(resident() - before)
"""


def kept_megabytes(*, keep: bool) -> float:
    """What a process still has of 96 MB that it has freed."""
    code = SCRIPT.format(keep=keep)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_memory_that_was_freed_is_kept_for_the_next_arrays() -> None:
    assert kept_megabytes(keep=False) < 20  # otherwise the next line could not fail
    assert 90 < kept_megabytes(keep=True) < 120
