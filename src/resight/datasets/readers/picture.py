"""One picture of any size, decoded to a square of 8-bit pixels, or the reason why it cannot be."""

import threading
from contextlib import nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ...errors import UsageError
from ...files import check_file, read_bytes
from ...recipe import Resize
from ..tree import Source
from .contents import DEFAULT_PX, MAX_PX, MIN_PX, PixelArray

MAX_BYTES = 2**28  # of one file
PHOTO_PX = 64  # a side of photos where no size is given
_HUGE_PX = 2**24  # larger pictures are decoded one at a time, which needs less memory
_one_huge = threading.Lock()
_RESIZED: dict[Resize, str] = {
    "crop": "center-cropped where not square",
    "stretch": "stretched to a square where not square",
    "pad": "with black bars where not square",
}

# Pillow tries these formats alone, whatever the name of a file ends in. Others of its formats start
# programs: it hands an EPS file to Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA")
_HEIC = (b"heic", b"heix", b"hevc")  # among the brands of a file that begins with "ftyp"


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
    item: tuple[str, Source],
    *,
    side: int,
    same_size: bool,
    to_gray: bool,
    resize: Resize = "crop",
) -> Picture:
    """Decode a picture, given by its name for messages and its source, to `side` px square.

    If it has another size, `fit_square` changes it as `resize` says.

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
                    picture.changes.append(f"resized to {side} px, {_RESIZED[resize]}")
                    plain = fit_square(plain, side, resize)
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
    if content[4:8] == b"ftyp" and any(brand in content[8:40] for brand in _HEIC):
        raise ValueError("it is a HEIC photo, whatever its name ends in; convert it to JPEG")
    return Image.open(BytesIO(content), formats=_FORMATS)


def picture_size(source: Source) -> tuple[int, int]:
    """Return the width and height of a picture, of which only the head is read.

    Raises:
        Exception: of many kinds, as Pillow has them; or a UsageError for a file that is no regular
            one, or too large.
    """
    if isinstance(source, Path):
        check_file(source, MAX_BYTES)
    with Image.open(
        BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS
    ) as image:
        return image.size


def _content(path: Path) -> bytes:
    try:
        return read_bytes(path, MAX_BYTES)
    except UsageError as error:  # it begins with the name, which the caller's message has too
        raise ValueError(f"it {str(error).removeprefix(f'{path} ')}") from error


def common_px(width: int, height: int) -> int | None:
    """Return the size that pictures of this width and height keep; None if they cannot."""
    return width if width == height and MIN_PX <= width <= MAX_PX else None


def default_px(median: int) -> int:
    """Return the size of pictures that cannot keep theirs, by the median of their shorter sides.

    Photos become 64 px, which show four times the pixels of 32 px for four times the cost of a
    step. Smaller pictures become 32 px, as nothing is gained by enlarging them.
    """
    return PHOTO_PX if median >= PHOTO_PX else DEFAULT_PX


def default_note(median: int) -> str:
    """Return what to say of the default size: why it was taken, and how to take another one."""
    side = default_px(median)
    larger = side * 3 // 2
    more = f"data.image_size={larger} for more detail; each step then costs 2.25 times as much"
    return (
        f"no image size was set: the shorter sides of the pictures have a median of {median:,} px, "
        f"so {side} px were taken; set "
        f"{more if median >= larger else 'data.image_size to change that'}"
    )


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


def fit_square(image: Image.Image, side: int, resize: Resize = "crop") -> Image.Image:
    """Resize to a square of `side` px, bicubic, in one pass.

    "crop" takes the central square of the shorter side, "stretch" changes the proportions, and
    "pad" keeps the whole picture in the middle of black bars. The bars are black so that a person
    and a heat map can tell them from the picture, which repeated border pixels would continue.
    """
    width, height = image.size
    if resize == "crop":
        square = min(width, height)
        left, top = (width - square) / 2, (height - square) / 2
        box = (left, top, left + square, top + square)
        return image.resize((side, side), Image.Resampling.BICUBIC, box)
    if resize == "stretch" or width == height:
        return image.resize((side, side), Image.Resampling.BICUBIC)
    wide, tall = (max(1, round(side * length / max(width, height))) for length in image.size)
    canvas = Image.new(image.mode, (side, side))
    inner = image.resize((wide, tall), Image.Resampling.BICUBIC)
    canvas.paste(inner, ((side - wide) // 2, (side - tall) // 2))
    return canvas
