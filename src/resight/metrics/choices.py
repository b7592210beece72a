"""Words to choose from that the command line needs before anything heavy is imported."""

from typing import Literal

MistakeOrder = Literal["loss", "confidence", "margin"]  # by which mistakes are sorted
