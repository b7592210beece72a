"""Numbers made from predictions: accuracy, calibration, intervals, mistakes and label issues."""

from typing import Literal

MistakeOrder = Literal["loss", "confidence", "margin"]  # by which mistakes are sorted
