"""Numbers in any order of axes and any usual range to pixels, uint8 (N, C, H, W).

What a range or an order means is decided by all the numbers, never by the first few images, and is
said in a note. Where two readings are possible and nothing decides, the data is refused.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from .contents import PixelArray
from .limits import check_memory

Array = NDArray[Any]

_CHUNK = 1024  # images converted at a time, to need little memory
_CHANNELS = (1, 3, 4)
_DEEP = 2**14  # numbers above it use 16 bits; a maximum between 8 and 16 bits is unclear
_VALID = "give uint8, or numbers in [0, 255], [0, 1] or [-1, 1]"


@dataclass(frozen=True)
class _Range:
    """What there is among the numbers of some arrays: the least, the greatest, and fractions."""

    low: float
    high: float
    is_whole: bool
    fits_bytes: bool  # (x + 1) * 127.5 is whole, as for bytes that were scaled to [-1, 1]


def to_pixels(
    arrays: Mapping[str, Array], counts: Mapping[str, int]
) -> tuple[dict[str, PixelArray], tuple[str, ...]]:
    """Convert arrays of images, named for messages, to uint8 (N, C, H, W); return notes as well.

    Axes are (N, H, W), (N, H, W, C), (N, C, H, W) or the same with N last, and (N, D) where D
    numbers make a square; C = 1, 3 or 4. Arrays of one type are scaled alike, since one split may
    lack the brightest pixel. counts: the number of labels for each array.

    Raises:
        UsageError: the axes, the type or the range are none that images have.
    """
    ordered: dict[str, Array] = {}
    notes: list[str] = []
    for name, array in arrays.items():
        ordered[name], order_notes = _ordered(array, counts[name], name)
        notes += order_notes
    groups: dict[str, dict[str, Array]] = {}
    for name, array in ordered.items():
        kind = "float" if array.dtype.kind == "f" else str(array.dtype)
        groups.setdefault(kind, {})[name] = array
    pixels: dict[str, PixelArray] = {}
    for group in groups.values():
        convert, note = _conversion(group)
        notes += [note] if note else []
        for name, array in group.items():
            pixels[name], opaque_notes = _converted(array, convert, name)
            notes += opaque_notes
    return {name: pixels[name] for name in arrays}, tuple(dict.fromkeys(notes))


def _chunks(array: Array) -> Iterator[tuple[slice, Array]]:
    for start in range(0, len(array), _CHUNK):
        rows = slice(start, start + _CHUNK)
        yield rows, array[rows]


# --- axes -----------------------------------------------------------------------------------


def _ordered(array: Array, count: int, name: str) -> tuple[Array, list[str]]:
    """Return the images as (N, C, H, W), and a note where their order was not plain."""
    shape, notes = array.shape, []
    if array.ndim in (3, 4) and shape[0] != count and shape[-1] == count:
        array = np.moveaxis(array, -1, 0)
        notes.append(f"{name}: the last axis of {shape} counts the images, as MATLAB has it")
    if array.ndim == 2:
        return _from_rows(array, name)
    if array.ndim == 3:
        array = array[:, None]  # (N, 1, H, W)
    elif array.ndim == 4 and array.shape[3] in _CHANNELS and array.shape[1] not in _CHANNELS:
        array = array.transpose(0, 3, 1, 2)  # (N, C, H, W)
    if array.ndim != 4 or array.shape[1] not in _CHANNELS:
        is_volume = array.ndim == 5 or (array.ndim == 4 and min(shape[1:]) > 8)
        hint = "; volumes are not read, so take slices of them" if is_volume else ""
        raise UsageError(
            f"{name} has shape {shape}; expected (N, H, W), (N, H, W, C) or (N, C, H, W) "
            f"with C = 1, 3 or 4{hint}"
        )
    if not array.size:
        raise UsageError(f"{name} holds no images")
    return array, notes


def _from_rows(array: Array, name: str) -> tuple[Array, list[str]]:
    """Return images of (N, D) numbers: D is a square for gray, or three times one for color."""
    count, size = array.shape
    side = math.isqrt(size)
    if side**2 == size:
        note = f"{name}: {size:,} numbers a row were taken as {side}x{side} px, row by row"
        return array.reshape(count, 1, side, side), [note]
    side = math.isqrt(size // 3)
    if 3 * side**2 != size:
        raise UsageError(
            f"{name} has shape {array.shape}, and {size:,} numbers make no square of gray or "
            "color; reshape them to (N, H, W) or (N, H, W, 3)"
        )
    is_planar = in_planes(array)
    if is_planar is None:
        raise UsageError(
            f"{name} has shape {array.shape}, and its numbers do not show whether the three "
            f"colors of a pixel stand side by side; reshape them to (N, {side}, {side}, 3) or "
            f"(N, 3, {side}, {side})"
        )
    order = "red, then green, then blue" if is_planar else "the colors of a pixel side by side"
    note = f"{name}: {size:,} numbers a row were taken as {side}x{side} px, {order}"
    if is_planar:
        return array.reshape(count, 3, side, side), [note]
    return array.reshape(count, side, side, 3).transpose(0, 3, 1, 2), [note]


def in_planes(array: Array) -> bool | None:
    """Return whether rows of (N, 3 * S * S) numbers hold one color plane after the other.

    False means that the three colors of a pixel stand side by side; None, that nothing shows it.
    Neighboring pixels are alike in the right order. Where that does not tell, as with areas of one
    color, the mean colors do: in the wrong order they are all gray.
    """
    count, size = array.shape
    side = math.isqrt(size // 3)
    rows = array[np.linspace(0, count - 1, min(count, 256)).astype(int)].astype(np.float64)
    planes = rows.reshape(-1, 3, side, side)
    pixels = rows.reshape(-1, side, side, 3).transpose(0, 3, 1, 2)
    rough = [sum(np.abs(np.diff(x, axis=axis)).mean() for axis in (2, 3)) for x in (planes, pixels)]
    if min(rough) < 0.9 * max(rough):
        return bool(rough[0] < rough[1])
    colors = [x.mean(axis=(2, 3)).std(axis=1).mean() for x in (planes, pixels)]
    if min(colors) < 0.5 * max(colors):
        return bool(colors[0] > colors[1])
    return None


# --- ranges ---------------------------------------------------------------------------------


def _range(arrays: Mapping[str, Array]) -> _Range:
    """Return the range of all numbers together.

    Raises:
        UsageError: a number is NaN or infinite.
    """
    lows, highs, is_whole, fits_bytes = [], [], True, True
    for name, array in arrays.items():
        for rows, part in _chunks(array):
            low, high = float(part.min()), float(part.max())
            if not math.isfinite(low + high):
                bad = rows.start + int(np.argmin(np.isfinite(part).all(axis=(1, 2, 3))))
                raise UsageError(
                    f"{name} has a pixel that is NaN or infinite in image {bad}; leave the image "
                    "out, or give the pixel a value"
                )
            lows.append(low)
            highs.append(high)
            if part.dtype.kind == "f":
                is_whole = is_whole and bool((part == np.rint(part)).all())
                fits_bytes = fits_bytes and _fits_bytes(part)
    return _Range(min(lows), max(highs), is_whole, fits_bytes)


def _fits_bytes(part: Array) -> bool:
    bytes_ = (part.astype(np.float64) + 1) * 127.5
    tolerance = max(1e-3, 255 * float(np.finfo(part.dtype).eps))
    return bool((np.abs(bytes_ - np.rint(bytes_)) <= tolerance).all())


def _conversion(arrays: Mapping[str, Array]) -> tuple[Callable[[Array], Array] | None, str]:
    """Return what makes numbers of one type to 0..255, None if they are that, and a note of it."""
    names, first = ", ".join(arrays), next(iter(arrays.values()))
    if first.dtype.kind not in "biuf":
        raise UsageError(f"{names}: images are {first.dtype}, no numbers; {_VALID}")
    if first.dtype.kind == "b":
        return (lambda x: x * 255), f"{names}: True was taken as white, False as black"
    span = _range(arrays)
    low, high = f"{span.low:g}", f"{span.high:g}"
    if first.dtype.kind == "f" and span.low >= 0 and span.high <= 1:
        return (lambda x: x * 255), f"{names}: pixels in [0, 1] were scaled to 0..255"
    if span.is_whole and span.low >= 0:
        if 0 < span.high <= 1:
            return (lambda x: x * 255), f"{names}: pixels of 0 and 1 were scaled to 0 and 255"
        if span.high <= 16:
            note = f"{names}: pixels from {low} to {high} were scaled by 255/16 to 0..255"
            return (lambda x: x * (255 / 16)), note
        if span.high <= 255:
            plain = first.dtype == np.uint8
            return None, "" if plain else f"{names}: {first.dtype} was taken as 0..255"
        if _DEEP < span.high <= 65_535:  # as a picture of 16 bits is read
            return (lambda x: x // 256), f"{names}: 16 bits a pixel, reduced to 8"
    elif span.low >= 0 and 16 < span.high <= 255:
        return None, f"{names}: pixels from {low} to {high} were rounded to 0..255"
    elif -1 <= span.low < 0 and span.high <= 1 and _is_signed(span):
        return (lambda x: (x + 1) * 127.5), f"{names}: pixels in [-1, 1] were scaled to 0..255"
    why = ""
    if span.low < 0:
        why = ", which looks standardized, so the pixels as they were are needed"
    elif span.high > 255:
        why = ", which is neither 8 nor 16 bits"
    raise UsageError(f"{names}: {first.dtype} from {low} to {high}{why}; {_VALID}")


def _is_signed(span: _Range) -> bool:
    """Return whether numbers are pixels scaled to [-1, 1]: bytes once, or from end to end."""
    return span.fits_bytes or (span.low <= -0.9 and span.high >= 0.9)


def _converted(
    array: Array, convert: Callable[[Array], Array] | None, name: str
) -> tuple[PixelArray, list[str]]:
    """Return uint8 (N, C, H, W), with the fourth channel laid over white and gone."""
    count, channels, height, width = array.shape
    has_alpha = channels == 4
    if array.dtype == np.uint8 and not has_alpha and convert is None:
        return np.require(array, requirements="W"), []  # torch takes no others
    check_memory(f"{name}: {count:,} images", count * channels * height * width)
    pixels = np.empty((count, 3 if has_alpha else channels, height, width), dtype=np.uint8)
    for rows, part in _chunks(array):
        part = part.astype(np.float32) if part.itemsize < 4 else part
        bytes_ = np.rint(convert(part) if convert else part)
        if has_alpha:
            color, alpha = bytes_[:, :3], bytes_[:, 3:]
            bytes_ = np.rint(255 + (color.astype(np.float64) - 255) * (alpha / 255))
        pixels[rows] = bytes_
    note = f"{name}: the fourth channel was taken as opacity and laid over white"
    return pixels, [note] if has_alpha else []
