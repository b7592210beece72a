"""Pictures and heat maps of the test set, packed small enough for one page."""

from .atlas import area_resize
from .gallery import Gallery, Sheet, read_gallery, read_tiles, shared_start
from .write import GalleryMaps, write_gallery

__all__ = [
    "Gallery",
    "GalleryMaps",
    "Sheet",
    "area_resize",
    "read_gallery",
    "read_tiles",
    "shared_start",
    "write_gallery",
]
