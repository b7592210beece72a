"""How much may be read: what does not fit into this machine's memory is refused beforehand."""

import os

from ...errors import UsageError

GIB = 2**30
_MAX_RATIO = 200  # pictures do not get smaller than to a hundredth of their bytes


def check_memory(name: str, num_bytes: int) -> None:
    """Refuse data whose arrays are larger than the memory of this machine.

    Raises:
        UsageError: the message begins with `name`.
    """
    memory = _memory_bytes()
    if memory is not None and num_bytes > memory:
        raise UsageError(
            f"{name} need {num_bytes / GIB:,.1f} GiB of memory, and this machine has "
            f"{memory / GIB:,.1f}; give fewer images, or smaller ones by data.image_size"
        )


def check_unpacked(name: str, *, packed: int, unpacked: int) -> None:
    """Refuse a small file that unpacks to more than 1 GiB: it was made to fill the memory.

    packed, unpacked: in bytes.

    Raises:
        UsageError: the message begins with `name`.
    """
    if unpacked > max(GIB, _MAX_RATIO * packed):
        raise UsageError(
            f"{name} is refused: {packed:,} bytes would unpack to {unpacked / GIB:,.1f} GiB, "
            "which pictures never do; get the original file"
        )


def _memory_bytes() -> int | None:
    """Return the memory of this machine; None where the system does not tell, as on Windows."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
