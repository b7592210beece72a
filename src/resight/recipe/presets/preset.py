"""What a named recipe is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A named recipe: how it differs from `base`."""

    summary: str
    source: str  # where the recipe comes from
    base: str | None
    changes: Mapping[str, tuple[Any, str]]  # path of a setting -> (value, why)
    accuracy: str = "-"  # on test images, as measured: docs/results.md
