"""Heat maps of any number of layers and classes, as a notebook shows them: a row an image."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ..errors import UsageError
from ..records import ImageArray
from .canvas import GAP, HEAD, Canvas
from .heat import LayerHeatmap, blend_heatmap, positive_map
from .style import house_style

_SIDE, _PITCH, _ROW = 1.0, 1.08, 1.22  # inches: a picture, with the gap, with the words above it


@house_style()
def heat_grid(
    pictures: ImageArray | None,
    captions: Sequence[str],
    heats: Sequence[LayerHeatmap],
    names: Sequence[Sequence[str]],
) -> Figure:
    """Each picture, what was `captions` of it, and the map of every layer and class over its gray.

    Maps are (R, M, h, w), raw and signed; `names` are those of the M classes of each of R images.
    Without `pictures` (R, H, W, 1 or 3) the maps are shown on black.
    """
    shapes = {heat.maps.shape[:2] for heat in heats}
    if shapes != {(len(captions), len(names[0]) if names else 0)} or len(names) != len(captions):
        raise UsageError(
            f"{len(captions)} images have {len(names)} rows of names and maps of (images, classes) "
            f"{sorted(shapes)}; give a row of names an image and a map a name"
        )
    lead, m = _PITCH + 0.1, len(names[0])
    width = max(2 * GAP + lead + len(heats) * (m * _PITCH + 0.1), 4.5)
    title = "Yellow: the strongest evidence at that layer in that image"
    canvas = Canvas(width, HEAD + 0.2 + len(captions) * _ROW, title)
    for j, heat in enumerate(heats):
        x = GAP + lead + j * (m * _PITCH + 0.1)
        canvas.words(x, HEAD + 0.1, "", heat.name, m * _PITCH, fontsize=9, fontweight="bold")
    for i, text in enumerate(captions):
        y = HEAD + 0.34 + i * _ROW
        canvas.words(GAP, y - 0.05, "", text, _SIDE, fontweight="bold")
        if pictures is not None:
            canvas.picture(GAP, y, _SIDE, pictures[i])
        for j, heat in enumerate(heats):
            black = np.zeros((*heat.maps.shape[2:], 1), np.uint8)
            picture = black if pictures is None else pictures[i]
            for k, (name, scaled) in enumerate(
                zip(names[i], positive_map(heat.maps[i]), strict=True)
            ):
                x = GAP + lead + j * (m * _PITCH + 0.1) + k * _PITCH
                canvas.words(x, y - 0.05, "for ", name, _SIDE)
                canvas.picture(x, y, _SIDE, blend_heatmap(picture, scaled))
                if not scaled.any():
                    canvas.words(x + 0.05, y + 0.15, "", "none", _SIDE, color="white")
    return canvas.figure
