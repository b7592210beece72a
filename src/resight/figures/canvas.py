"""A sheet of pictures and words at fixed places: hundreds of pictures in one pair of axes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..records import ImageArray
from .style import DPI, fit_text, sheet

GAP, HEAD = 0.12, 0.4  # inches: the space around things, the title
_MAX_INCHES = (2**16 - 1) / DPI  # inches: what matplotlib can draw has fewer than 2^16 px a side


class Canvas:
    """Places are in inches from the upper left corner; words are cut to the room they have."""

    def __init__(self, width: float, height: float, title: str) -> None:
        if max(width, height) > _MAX_INCHES:
            raise UsageError(
                f"a picture of {width:.0f} x {height:.0f} inches is too large to draw; show fewer "
                "layers, classes or images"
            )
        self.figure = sheet(width, height)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")
        self.axes.set_autoscale_on(False)
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.words(GAP, 0.25, "", title, width - 2 * GAP, fontsize=11)

    def picture(self, x: float, y: float, side: float, pixels: ImageArray) -> None:
        """(H, W, 1 or 3) uint8 in a square of `side`, its proportions kept, its pixels sharp."""
        high, wide = pixels.shape[:2]
        h, w = side * high / max(high, wide), side * wide / max(high, wide)
        x, y = x + (side - w) / 2, y + (side - h) / 2
        self.axes.imshow(
            np.broadcast_to(pixels, (high, wide, 3)),
            extent=(x, x + w, y + h, y),
            aspect="auto",
            interpolation="nearest",
        )

    def words(self, x: float, y: float, lead: str, name: str, room: float, **look: Any) -> None:
        """`lead` and as much of `name` as fits into `room`, standing on the line at `y`."""
        text = self.axes.text(x, y, "", **{"fontsize": 8, "va": "baseline", **look})
        fit_text(text, lead, name, room)

    def line(self, x: float, y: float, length: float, **look: Any) -> None:
        """A rule to the right."""
        self.axes.plot([x, x + length], [y, y], **{"linewidth": 0.6, "color": "#B0B0B0", **look})

    def ramp(self, x: float, y: float, size: tuple[float, float], colors: NDArray[Any]) -> None:
        """A band of colors (n, 3) uint8, from left to right."""
        extent = (x, x + size[0], y + size[1], y)
        self.axes.imshow(colors[None], extent=extent, aspect="auto")
