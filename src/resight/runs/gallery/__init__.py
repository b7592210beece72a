"""Pictures and heat maps of the test set, packed small enough for one page."""

from .atlas import SIDE, area_resize
from .gallery import Gallery, Neighbors, Sheet, read_gallery, read_tiles, shared_start
from .neighbors import STRIP_IMAGES, GalleryNeighbors
from .write import GalleryMaps, write_gallery

__all__ = [
    "SIDE",
    "STRIP_IMAGES",
    "Gallery",
    "GalleryMaps",
    "GalleryNeighbors",
    "Neighbors",
    "Sheet",
    "area_resize",
    "read_gallery",
    "read_tiles",
    "shared_start",
    "write_gallery",
]
