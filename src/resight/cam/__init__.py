"""Heat maps of the evidence for a class, and how far to trust them."""

from .faithfulness import Faithfulness, faithfulness
from .heatmaps import METHODS, heatmaps
from .maps import Heatmaps

__all__ = ["METHODS", "Faithfulness", "Heatmaps", "faithfulness", "heatmaps"]
