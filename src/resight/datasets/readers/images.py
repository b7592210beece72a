"""Pictures of any kind and size to uint8 arrays of one size."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ...errors import UsageError
from ...records import IntArray
from ..dataset import Split
from .contents import DEFAULT_PX, MAX_PX, MIN_PX, LoadedData, PixelArray, ReadOptions, make_split

Source = Path | bytes  # a file, or its content

_BATCH = 512  # pictures decoded between two reports of progress
_HEAVY_BYTES = 16_384  # below it decoding holds the interpreter lock, and threads only cost


@dataclass(frozen=True)
class Pictures:
    """Pictures to decode: their names, for messages, and a function that yields their files.

    The function is called more than once, so that the files need not be in memory together.
    """

    names: Sequence[str]
    sources: Callable[[], Iterable[Source]]


@dataclass(frozen=True)
class _DecodedImages:
    """The images of those pictures that could be read."""

    images: PixelArray  # (M, C, S, S)
    rows: IntArray  # (M,) rising: the place of each image among the pictures
    notes: tuple[str, ...]


@dataclass
class _Picture:
    """One picture: its pixels, or the reason why it has none."""

    name: str
    pixels: PixelArray | None = None  # (S, S, 1 or 3)
    changes: list[str] = field(default_factory=list)
    reason: str = ""


class _SizesDiffer(Exception):
    """The pictures are not all of the size of the first."""


def load_pictures(
    classes: tuple[str, ...],
    splits: Sequence[tuple[Sequence[str], IntArray]],
    pictures: Pictures,
    *,
    options: ReadOptions,
    notes: tuple[str, ...],
) -> LoadedData:
    """Decode the pictures of train and, where the source has one, of test.

    splits: ids and labels (N,) of each split. `pictures` has the same order.
    """
    decoded = _decode(pictures, options)
    loaded, start = [], 0
    for ids, labels in splits:
        first, end = np.searchsorted(decoded.rows, (start, start + len(ids)))
        rows = decoded.rows[first:end] - start
        images = decoded.images[first:end]
        loaded.append(make_split(images, labels[rows], [ids[row] for row in rows]))
        start += len(ids)
    return LoadedData(classes, *loaded, notes=notes + decoded.notes)


def read_pictures(paths: Sequence[Path], *, image_size: int, channels: int) -> Split:
    """Decode `paths` for a model that takes `channels` at `image_size` px; every label is -1.

    Raises:
        UsageError: there are none, or one cannot be read or is smaller than 8 px.
    """
    if not paths:
        raise UsageError("no pictures given; name at least one file")
    names = [str(path) for path in paths]
    options = ReadOptions(image_size=image_size)
    images = _decode(Pictures(names, lambda: paths), options, channels=channels).images
    return make_split(images, np.full(len(paths), -1, dtype=np.int64), names)


def fit_arrays(images: PixelArray, image_size: int | None) -> tuple[PixelArray, tuple[str, ...]]:
    """Resize decoded images (N, C, H, W) by the rules of `_decode`; return a note if they changed.

    Raises:
        UsageError: they are smaller than 8 px.
    """
    count, channels, height, width = images.shape
    _check_size("images", width, height)
    side = image_size or _default_px(width, height)
    if (height, width) == (side, side):
        return images, ()
    fitted = np.empty((count, channels, side, side), dtype=np.uint8)
    for row, image in enumerate(images):
        pixels = image[0] if channels == 1 else image.transpose(1, 2, 0)  # (H, W) or (H, W, C)
        resized = np.asarray(_fit(Image.fromarray(pixels), side)).reshape(side, side, channels)
        fitted[row] = resized.transpose(2, 0, 1)
    return fitted, (f"{count:,} images of {width}x{height} px were resized to {side} px",)


# --- many pictures --------------------------------------------------------------------------


def _decode(
    pictures: Pictures, options: ReadOptions, *, channels: int | None = None
) -> _DecodedImages:
    """Decode to uint8, every picture `image_size` px square.

    Larger or smaller pictures are resized (bicubic, shorter side to fit) and center-cropped.
    Without an `image_size` they keep their size if all are the same square, and become 32 px
    otherwise. All gray gives one channel, any color three, unless `channels` says which.

    Raises:
        UsageError: a picture cannot be read (unless `skip_unreadable`) or is smaller than 8 px.
    """
    side = options.image_size or _first_px(pictures)
    try:
        return _decode_at(pictures, options, side, channels)
    except _SizesDiffer:
        return _decode_at(pictures, options, DEFAULT_PX, channels)


def _first_px(pictures: Pictures) -> int:
    """Return the size for all pictures if they are like the first that can be read."""
    for source in pictures.sources():
        try:
            with Image.open(BytesIO(_read(source))) as image:
                return _default_px(*image.size)
        except Exception:  # see _decode_one, which names the file
            continue
    return DEFAULT_PX


def _decode_at(
    pictures: Pictures, options: ReadOptions, side: int, channels: int | None
) -> _DecodedImages:
    count = len(pictures.names)
    images = np.empty((count, 3, side, side), dtype=np.uint8)  # (N, 3, S, S)
    is_gray = np.zeros(count, dtype=np.bool_)
    is_read = np.zeros(count, dtype=np.bool_)
    changes: Counter[str] = Counter()
    skipped: list[str] = []
    same_size = options.image_size is None and side != DEFAULT_PX
    work = partial(_decode_one, side=side, same_size=same_size, to_gray=channels == 1)
    for row, picture in enumerate(_each_decoded(pictures, work, options)):
        if picture.pixels is None:
            if not options.skip_unreadable:
                # A caller that gives the channels named each picture, so none may be skipped.
                skip = ", or skip such files with --skip-unreadable (skip_unreadable=True)"
                raise UsageError(
                    f"{picture.name} cannot be read as a picture ({picture.reason}); fix or "
                    f"remove it{skip if channels is None else ''}"
                )
            skipped.append(picture.name)
            continue
        images[row] = picture.pixels.transpose(2, 0, 1)  # (3, S, S), gray repeated
        is_gray[row] = picture.pixels.shape[2] == 1
        is_read[row] = True
        changes.update(picture.changes)
    rows = np.flatnonzero(is_read)
    if skipped:
        images = images[rows]
    channels = channels or (1 if is_gray[rows].all() else 3)
    if channels == 3 and is_gray.any():
        changes["gray, repeated to RGB"] = int(is_gray.sum())
    notes = [f"{n:,} of {len(rows):,} pictures: {change}" for change, n in changes.items()]
    if skipped:
        names = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        notes.append(f"{len(skipped):,} unreadable pictures skipped: {names}")
    return _DecodedImages(images[:, :channels], rows, tuple(notes))


def _each_decoded(
    pictures: Pictures, work: Callable[[tuple[str, Source]], _Picture], options: ReadOptions
) -> Iterator[_Picture]:
    """Yield the pictures in order; large ones are decoded on several threads."""
    done = 0
    items = zip(pictures.names, pictures.sources(), strict=True)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while batch := list(islice(items, _BATCH)):
            heavy = sum(_bytes(source) for _, source in batch) > _HEAVY_BYTES * len(batch)
            yield from pool.map(work, batch) if heavy else map(work, batch)
            done += len(batch)
            options.on_progress("decode pictures", done, len(pictures.names))


def _bytes(source: Source) -> int:
    if isinstance(source, bytes):
        return len(source)
    return source.stat().st_size if source.is_file() else 0


# --- one picture ----------------------------------------------------------------------------


def _decode_one(item: tuple[str, Source], *, side: int, same_size: bool, to_gray: bool) -> _Picture:
    name, source = item
    picture = _Picture(name)
    try:
        with Image.open(BytesIO(_read(source))) as image:
            size = image.size
            _check_size(name, *size)
            if same_size and size != (side, side):
                raise _SizesDiffer
            if min(size) > 2 * side:
                image.draft(None, (2 * side, 2 * side))  # JPEG: decode at a fraction of its size
            plain = _to_eight_bits(image, picture.changes)
        if size != (side, side):
            picture.changes.append(f"resized to {side} px, center-cropped where not square")
            plain = _fit(plain, side)
        if to_gray and plain.mode != "L":
            picture.changes.append("color, converted to gray")
            plain = plain.convert("L")
        picture.pixels = np.frombuffer(plain.tobytes(), dtype=np.uint8).reshape(side, side, -1)
    except (UsageError, _SizesDiffer):
        raise
    except UnidentifiedImageError:
        picture.reason = "not a known picture format"
    except Exception as error:  # Pillow raises many kinds for files that are cut off or hostile
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        picture.reason = reason.splitlines()[0]
    return picture


def _read(source: Source) -> bytes:
    content = source if isinstance(source, bytes) else source.read_bytes()
    if not content:
        raise ValueError("it is empty")
    return content


def _default_px(width: int, height: int) -> int:
    """Return the size where no `image_size` is given: that of the picture, if it is usable."""
    return width if width == height and MIN_PX <= width <= MAX_PX else DEFAULT_PX


def _check_size(name: str, width: int, height: int) -> None:
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


def _fit(image: Image.Image, side: int) -> Image.Image:
    """Resize and crop to a square in one pass: the central square of the shorter side."""
    width, height = image.size
    square = min(width, height)
    left, top = (width - square) / 2, (height - square) / 2
    box = (left, top, left + square, top + square)
    return image.resize((side, side), Image.Resampling.BICUBIC, box)
