"""Pictures and heat maps of the test set, packed small enough for one page."""

from .gallery import Gallery, Sheet, read_gallery, shared_start
from .write import GalleryMaps, write_gallery

__all__ = ["Gallery", "GalleryMaps", "Sheet", "read_gallery", "shared_start", "write_gallery"]
