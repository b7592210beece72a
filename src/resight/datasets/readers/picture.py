"""One picture of any size, decoded to a square of 8-bit pixels, or the reason why it cannot be."""

import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ...errors import UsageError
from ...files import read_bytes
from .contents import DEFAULT_PX, MAX_PX, MIN_PX, PixelArray

Source = Path | bytes  # a file, or its content

MAX_BYTES = 2**28  # of one file
_HUGE_PX = 2**24  # larger pictures are decoded one at a time, which needs less memory
_one_huge = threading.Lock()

# Pillow tries these formats alone, whatever the name of a file ends in. Others of its formats start
# programs: it hands an EPS file to Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")


@dataclass
class Picture:
    """One picture: its pixels, or the reason why it has none."""

    name: str
    pixels: PixelArray | None = None  # (S, S, 1 or 3)
    changes: list[str] = field(default_factory=list)
    reason: str = ""


class SizesDiffer(Exception):
    """The pictures are not all of the size of the first."""


def decode_picture(
    item: tuple[str, Source], *, side: int, same_size: bool, to_gray: bool
) -> Picture:
    """Decode a picture, given by its name for messages and its source, to `side` px square.

    Raises:
        SizesDiffer: `same_size` is set, and the picture is not a square of `side` px.
        UsageError: it is smaller than 8 px, or needs more memory than there is.
    """
    name, source = item
    picture = Picture(name)
    try:
        with open_picture(source) as image:
            size = image.size
            check_size(name, *size)
            if same_size and size != (side, side):
                raise SizesDiffer
            if min(size) > 2 * side:
                image.draft(None, (2 * side, 2 * side))  # JPEG: decode at a fraction of its size
            with _one_huge if image.width * image.height > _HUGE_PX else nullcontext():
                plain = _to_eight_bits(image, picture.changes)
                if size != (side, side):
                    picture.changes.append(f"resized to {side} px, center-cropped where not square")
                    plain = fit_square(plain, side)
        if to_gray and plain.mode != "L":
            picture.changes.append("color, converted to gray")
            plain = plain.convert("L")
        picture.pixels = np.frombuffer(plain.tobytes(), dtype=np.uint8).reshape(side, side, -1)
    except (UsageError, SizesDiffer):
        raise
    except MemoryError as error:
        raise UsageError(
            f"{name}: there is not enough memory to decode it; make it smaller or remove it"
        ) from error
    except UnidentifiedImageError:
        picture.reason = "not a known picture format"
    except Exception as error:  # Pillow raises many kinds for files that are cut off or hostile
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        picture.reason = reason.splitlines()[0]
    return picture


def open_picture(source: Source) -> Image.Image:
    """Open a picture, whose pixels are not decoded yet.

    Raises:
        ValueError: it is empty, no regular file, or too large.
    """
    content = source if isinstance(source, bytes) else _content(source)
    if not content:
        raise ValueError("it is empty")
    return Image.open(BytesIO(content), formats=_FORMATS)


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path, MAX_BYTES)
    except UsageError as error:  # it begins with the name, which the caller's message has too
        raise ValueError(f"it {str(error).removeprefix(f'{path} ')}") from error


def default_px(width: int, height: int) -> int:
    """Return the size where no `image_size` is given: that of the picture, if it is usable."""
    return width if width == height and MIN_PX <= width <= MAX_PX else DEFAULT_PX


def check_size(name: str, width: int, height: int) -> None:
    """Refuse pictures of less than 8 px a side; `name` begins the message."""
    if min(width, height) < MIN_PX:
        raise UsageError(
            f"{name}: {width}x{height} px is too small; at least {MIN_PX} px a side is needed"
        )


def _to_eight_bits(image: Image.Image, changes: list[str]) -> Image.Image:
    """Turn a picture upright, and convert its mode to gray ("L") or "RGB"."""
    if getattr(image, "is_animated", False):
        changes.append("several frames, the first was taken")
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        changes.append("turned upright as their EXIF orientation says")
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit gray; Pillow also keeps it as 32-bit integers
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65_535:
            raise ValueError("its pixels are integers of more than 16 bits")
        changes.append("16 bits a pixel, reduced to 8 (65,535 becomes 255)")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known range")
    is_gray = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            changes.append("transparency, laid over white")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
    elif not is_gray and image.mode != "RGB":
        changes.append(f"color mode {image.mode}, converted to RGB")
    return image.convert("L" if is_gray else "RGB")


def fit_square(image: Image.Image, side: int) -> Image.Image:
    """Resize and crop to a square in one pass: the central square of the shorter side."""
    width, height = image.size
    square = min(width, height)
    left, top = (width - square) / 2, (height - square) / 2
    box = (left, top, left + square, top + square)
    return image.resize((side, side), Image.Resampling.BICUBIC, box)
