"""Pictures of any kind and size to uint8 arrays of one size."""

import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ...errors import UsageError
from ..dataset import Split
from .contents import DEFAULT_PX, MIN_PX, PixelArray, ReadOptions, make_split, own_px

Source = Path | bytes

# What Pillow raises, on purpose or not, for files that are cut off, damaged or hostile.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
_BATCH = 512  # pictures decoded between two reports of progress
_HEAVY_BYTES = 16_384  # below it decoding holds the interpreter lock, and threads only cost
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright


@dataclass(frozen=True)
class Pictures:
    """`count` pictures, each a name for messages and a file or its bytes; read more than once."""

    count: int
    each: Callable[[], Iterator[tuple[str, Source]]]


@dataclass(frozen=True)
class DecodedImages:
    """The pictures that could be read. `kept`, (M,), are their rows among those given."""

    images: PixelArray  # (M, C, S, S)
    kept: NDArray[np.int64]
    notes: tuple[str, ...]


@dataclass
class _Picture:
    pixels: NDArray[np.uint8]  # (S, S, 1 or 3)
    changes: list[str] = field(default_factory=list)


@dataclass
class _Unreadable:
    name: str
    reason: str


class _SizesDiffer(Exception):
    """The pictures are not all of the size of the first."""


def decode(
    pictures: Pictures, options: ReadOptions, *, channels: int | None = None
) -> DecodedImages:
    """Decode to uint8, every picture `image_size` px square.

    Larger or smaller pictures are resized (bicubic, shorter side to fit) and center-cropped.
    Without an `image_size` they keep their own if all are the same square, and become 32 px
    otherwise. All gray gives one channel, any color three, unless `channels` says which.

    Raises:
        UsageError: a picture cannot be read (unless `skip_unreadable`) or is smaller than 8 px.
    """
    if options.image_size is not None:
        return _decode(pictures, options, options.image_size, False, channels)
    side = _first_px(pictures)
    try:
        return _decode(pictures, options, side, side != DEFAULT_PX, channels)
    except _SizesDiffer:
        return _decode(pictures, options, DEFAULT_PX, False, channels)


def read_pictures(paths: Sequence[Path], *, image_size: int, channels: int) -> Split:
    """Decode `paths` for a model that takes `channels` at `image_size` px; every label is -1.

    Raises:
        UsageError: there are none, or one cannot be read or is smaller than 8 px.
    """
    if not paths:
        raise UsageError("no pictures given; name at least one file")
    pictures = Pictures(len(paths), lambda: ((str(path), path) for path in paths))
    images = decode(pictures, ReadOptions(image_size=image_size), channels=channels).images
    labels = np.full(len(paths), -1, dtype=np.int64)
    return make_split(images, labels, [str(path) for path in paths])


def fit_arrays(images: PixelArray, image_size: int | None) -> tuple[PixelArray, tuple[str, ...]]:
    """Resize decoded images (N, C, H, W) by the rules of `decode`; also what to note.

    Raises:
        UsageError: they are smaller than 8 px.
    """
    count, channels, height, width = images.shape
    _check_size("images", width, height)
    side = image_size or own_px(width, height)
    if (height, width) == (side, side):
        return images, ()
    fitted = np.empty((count, channels, side, side), dtype=np.uint8)
    for row, image in enumerate(images):
        pixels = image[0] if channels == 1 else image.transpose(1, 2, 0)  # (H, W) or (H, W, C)
        resized = np.asarray(_fit(Image.fromarray(pixels), side)).reshape(side, side, channels)
        fitted[row] = resized.transpose(2, 0, 1)
    return fitted, (f"{count:,} images of {width}x{height} px were resized to {side} px",)


# --- many pictures --------------------------------------------------------------------------


def _first_px(pictures: Pictures) -> int:
    """The size of the first picture that can be read."""
    for _, source in pictures.each():
        try:
            with Image.open(BytesIO(_read(source))) as image:
                return own_px(*image.size)
        except _BROKEN:
            continue
    return DEFAULT_PX


def _decode(
    pictures: Pictures, options: ReadOptions, side: int, same_size: bool, channels: int | None
) -> DecodedImages:
    images = np.empty((pictures.count, 3, side, side), dtype=np.uint8)  # (N, 3, S, S)
    gray = np.zeros(pictures.count, dtype=np.bool_)
    kept: list[int] = []
    changes: Counter[str] = Counter()
    skipped: list[str] = []
    work = partial(_decode_one, side=side, same_size=same_size, to_gray=channels == 1)
    for row, result in enumerate(_each_decoded(pictures, work, options)):
        if isinstance(result, _Unreadable):
            if not options.skip_unreadable:
                # Pictures named one by one, for a model whose channels are known, are not skipped.
                skip = ", or skip such files with --skip-unreadable (skip_unreadable=True)"
                raise UsageError(
                    f"{result.name} cannot be read as a picture ({result.reason}); fix or remove "
                    f"it{skip if channels is None else ''}"
                )
            skipped.append(result.name)
            continue
        images[row] = result.pixels.transpose(2, 0, 1)  # (3, S, S), gray repeated
        gray[row] = result.pixels.shape[2] == 1
        changes.update(result.changes)
        kept.append(row)
    rows = np.array(kept, dtype=np.int64)
    if len(rows) < pictures.count:
        images = images[rows]
    channels = channels or (1 if gray[rows].all() else 3)
    if channels == 3 and gray[rows].any():
        changes["gray, repeated to RGB"] = int(gray[rows].sum())
    notes = [f"{n:,} of {len(rows):,} pictures: {change}" for change, n in changes.items()]
    if skipped:
        names = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        notes.append(f"{len(skipped):,} unreadable pictures skipped: {names}")
    return DecodedImages(images[:, :channels], rows, tuple(notes))


def _each_decoded(
    pictures: Pictures,
    work: Callable[[tuple[str, Source]], _Picture | _Unreadable],
    options: ReadOptions,
) -> Iterator[_Picture | _Unreadable]:
    """The pictures in order; large ones on several threads."""
    done = 0
    items = pictures.each()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while batch := list(islice(items, _BATCH)):
            heavy = sum(_bytes(source) for _, source in batch) > _HEAVY_BYTES * len(batch)
            yield from pool.map(work, batch) if heavy else map(work, batch)
            done += len(batch)
            options.on_progress("decode pictures", done, pictures.count)


def _bytes(source: Source) -> int:
    if isinstance(source, bytes):
        return len(source)
    return source.stat().st_size if source.is_file() else 0


# --- one picture ----------------------------------------------------------------------------


def _decode_one(
    item: tuple[str, Source], *, side: int, same_size: bool, to_gray: bool
) -> _Picture | _Unreadable:
    name, source = item
    try:
        with Image.open(BytesIO(_read(source))) as image:
            width, height = image.size
            _check_size(name, width, height)
            if same_size and (width, height) != (side, side):
                raise _SizesDiffer
            changes: list[str] = []
            if min(width, height) > 2 * side:
                image.draft(None, (2 * side, 2 * side))  # JPEG: decode at a fraction of its size
            if getattr(image, "is_animated", False):
                changes.append("several frames, the first was taken")
            upright = _turn_upright(image, changes)
            plain = _to_eight_bits(upright, changes)
            if (width, height) != (side, side):
                changes.append(f"resized to {side} px, center-cropped where not square")
                plain = _fit(plain, side)
            if to_gray and plain.mode != "L":
                changes.append("color, converted to gray")
                plain = plain.convert("L")
            pixels = np.frombuffer(plain.tobytes(), dtype=np.uint8)
            return _Picture(pixels.reshape(side, side, -1), changes)
    except UsageError:
        raise
    except UnidentifiedImageError:
        return _Unreadable(name, "not a known picture format")
    except _BROKEN as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return _Unreadable(name, reason.splitlines()[0])


def _read(source: Source) -> bytes:
    content = source if isinstance(source, bytes) else source.read_bytes()
    if not content:
        raise ValueError("it is empty")
    return content


def _check_size(name: str, width: int, height: int) -> None:
    if min(width, height) < MIN_PX:
        raise UsageError(
            f"{name}: {width}x{height} px is too small; at least {MIN_PX} px a side is needed"
        )


def _turn_upright(image: Image.Image, changes: list[str]) -> Image.Image:
    """Undo the turn or flip that a camera wrote into the EXIF data."""
    image.load()
    if image.getexif().get(_ORIENTATION, 1) == 1:
        return image
    changes.append("turned upright as their EXIF orientation says")
    return ImageOps.exif_transpose(image)


def _to_eight_bits(image: Image.Image, changes: list[str]) -> Image.Image:
    """Any mode to gray ("L") or "RGB"."""
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


def _fit(image: Image.Image, side: int) -> Image.Image:
    """Resize and crop to a square in one pass: the central square of the shorter side."""
    width, height = image.size
    square = min(width, height)
    left, top = (width - square) / 2, (height - square) / 2
    box = (left, top, left + square, top + square)
    return image.resize((side, side), Image.Resampling.BICUBIC, box)
