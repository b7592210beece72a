"""Words to choose from that the command line needs before anything heavy is imported."""

from typing import Literal

Rank = Literal["loss", "confidence", "margin"]  # by which mistakes are sorted
