"""Pictures of the test set out of a gallery again."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import ResightError
from ...records import ImageArray
from .gallery import Gallery


def read_tiles(folder: Path, gallery: Gallery, rows: Iterable[int]) -> dict[int, ImageArray]:
    """Return row -> picture (h, w, 3), as the gallery keeps it; rows without one are left out.

    Raises:
        ResightError: a file of the gallery cannot be read.
    """
    wanted = set(rows)
    tiles: dict[int, ImageArray] = {}
    for sheet, kept in gallery.pictures:
        places = {row: i for i, row in enumerate(kept) if row in wanted}
        if not places:
            continue
        file = folder / "gallery" / sheet.file
        try:
            with warnings.catch_warnings():  # it is our own, and may be large
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(file) as image:
                    atlas = np.asarray(image.convert("RGB"))
        except (OSError, Image.DecompressionBombError) as error:
            raise ResightError(f"{file} cannot be read: {error}") from error
        high, wide = sheet.size
        if len(kept) > (atlas.shape[0] // high) * sheet.columns or atlas.shape[1] < wide:
            raise ResightError(f"{file} is damaged: it is too small for {len(kept)} pictures")
        for row, i in places.items():
            y, x = divmod(i, sheet.columns)
            tiles[row] = atlas[y * high : (y + 1) * high, x * wide : (x + 1) * wide]
    return tiles
