"""Pictures of many kinds and sizes to uint8 arrays of one size."""

import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import UsageError
from ...recipe import Resize
from ...records import IntArray
from ..dataset import Originals, Split
from ..image_file import ImageFile, ImageStore
from ..tree import Source
from .contents import DEFAULT_PX, LoadedData, PixelArray, ReadOptions, SplitName
from .limits import check_memory
from .picture import (
    Picture,
    SizesDiffer,
    check_size,
    common_px,
    decode_picture,
    default_note,
    default_px,
    fit_square,
    picture_size,
)

_BATCH = 512  # pictures decoded between two reports of progress
_BATCH_BYTES = 2**27  # of the files of a batch, which may be in memory together
_NUM_SIZES = 1000  # pictures, evenly spaced, whose heads tell the median of all sizes
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

    images: Tensor | ImageFile  # uint8 (M, 3, S, S), gray repeated
    channels: int
    rows: IntArray  # (M,) rising: the place of each image among the pictures
    notes: tuple[str, ...]

    def split(self, rows: slice, labels: Tensor, ids: Sequence[str]) -> Split:
        """Return some of the images, with their labels and ids."""
        if isinstance(self.images, Tensor):
            return Split(self.images[rows, : self.channels].contiguous(), labels, ids)
        at = torch.arange(len(self.images))[rows]
        return Split(pixels=self.images, labels=labels, ids=ids, rows=at, channels=self.channels)


def load_pictures(
    classes: tuple[str, ...],
    splits: Mapping[SplitName, tuple[Sequence[str], IntArray]],
    pictures: Pictures,
    *,
    options: ReadOptions,
    notes: tuple[str, ...] = (),
) -> LoadedData:
    """Decode the pictures of all splits of a source.

    splits: ids and labels (N,) of each split. `pictures` has the same order.
    """
    decoded = _decode(pictures, options)
    loaded: dict[SplitName, Split] = {}
    start = 0
    for name, (ids, labels) in splits.items():
        first, end = np.searchsorted(decoded.rows, (start, start + len(ids)))
        rows = decoded.rows[first:end] - start
        loaded[name] = decoded.split(
            slice(first, end), torch.from_numpy(labels[rows]), [ids[row] for row in rows]
        )
        start += len(ids)
    return LoadedData(
        classes,
        train=loaded.get("train"),
        val=loaded.get("val"),
        test=loaded.get("test"),
        notes=notes + decoded.notes,
    )


def read_pictures(
    paths: Sequence[Path], *, image_size: int, channels: int, resize: Resize = "crop"
) -> Split:
    """Decode `paths` for a model that takes `channels` at `image_size` px; every label is -1.

    resize: that of the recipe that the model was trained with.

    Raises:
        UsageError: there are none, or one cannot be read or is smaller than 8 px.
    """
    if not paths:
        raise UsageError("no pictures given; name at least one file")
    names = [str(path) for path in paths]
    return read_sources(names, paths, image_size=image_size, channels=channels, resize=resize)


def read_sources(
    names: Sequence[str],
    sources: Sequence[Source],
    *,
    image_size: int,
    channels: int,
    resize: Resize,
) -> Split:
    """Decode the content of picture files, or the files, as `read_pictures`; `names` are their ids.

    Raises:
        UsageError: one cannot be read or is smaller than 8 px.
    """
    options = ReadOptions(image_size=image_size, resize=resize)
    decoded = _decode(Pictures(names, lambda: sources), options, channels=channels)
    split = decoded.split(slice(None), torch.full((len(names),), -1), names)
    by_name = dict(zip(names, sources, strict=True))
    return replace(split, originals=Originals(lambda ids: map(by_name.__getitem__, ids), resize))


def fit_arrays(
    images: PixelArray, image_size: int | None, resize: Resize = "crop"
) -> tuple[PixelArray, tuple[str, ...]]:
    """Resize decoded images (N, C, H, W) by the rules of `_decode`; return notes if they changed.

    Raises:
        UsageError: they are smaller than 8 px.
    """
    count, channels, height, width = images.shape
    check_size("images", width, height)
    side = image_size or common_px(width, height) or default_px(min(width, height))
    if (height, width) == (side, side):
        return images, ()
    check_memory(f"{count:,} images of {side} px", count * channels * side**2)
    fitted = np.empty((count, channels, side, side), dtype=np.uint8)
    for row, image in enumerate(images):
        pixels = image[0] if channels == 1 else image.transpose(1, 2, 0)  # (H, W) or (H, W, C)
        resized = np.asarray(fit_square(Image.fromarray(pixels), side, resize))
        fitted[row] = resized.reshape(side, side, channels).transpose(2, 0, 1)
    note = f"{count:,} images of {width}x{height} px were resized to {side} px"
    return fitted, (note,) if image_size else (note, default_note(min(width, height)))


def _decode(
    pictures: Pictures, options: ReadOptions, *, channels: int | None = None
) -> _DecodedImages:
    """Decode to uint8, every picture `image_size` px square.

    Larger or smaller pictures are resized by `fit_square`. Without an `image_size` they keep their
    size if all are the same square; otherwise `default_px` decides, and a note says so. All gray
    gives one channel, any color three, unless `channels` says which.

    Raises:
        UsageError: a picture cannot be read (unless `skip_unreadable`) or is smaller than 8 px.
    """
    with warnings.catch_warnings():  # on metadata; what Pillow cannot decode is an error
        warnings.filterwarnings("ignore", module=r"PIL\.")
        if side := options.image_size or _first_px(pictures, options):
            with suppress(SizesDiffer):
                return _decode_at(pictures, options, side, channels)
        median = _median_px(pictures)
        sized = replace(options, image_size=default_px(median))
        decoded = _decode_at(pictures, sized, default_px(median), channels)
        return replace(decoded, notes=(default_note(median), *decoded.notes))


def _first_px(pictures: Pictures, options: ReadOptions) -> int | None:
    """Return the size that all pictures keep if they are like the first that can be read."""
    for source in pictures.sources():
        try:
            return common_px(*picture_size(source))
        except Exception:  # see decode_picture, which names the file
            if not options.skip_unreadable:
                break
    return None


def _median_px(pictures: Pictures) -> int:
    """Return the median of the shorter sides, from the heads of some pictures; none is decoded."""
    step = math.ceil(len(pictures.names) / _NUM_SIZES) or 1
    sides = []
    for source in islice(pictures.sources(), 0, None, step):
        with suppress(Exception):  # see decode_picture, which names the file
            sides.append(min(picture_size(source)))
    return int(np.median(sides)) if sides else DEFAULT_PX


def _decode_at(
    pictures: Pictures, options: ReadOptions, side: int, channels: int | None
) -> _DecodedImages:
    count = len(pictures.names)
    images = ImageStore(count, (3, side, side))
    is_gray = np.zeros(count, dtype=np.bool_)
    is_read = np.zeros(count, dtype=np.bool_)
    changes: Counter[str] = Counter()
    skipped: list[str] = []
    work = partial(
        decode_picture,
        side=side,
        same_size=options.image_size is None,
        to_gray=channels == 1,
        resize=options.resize,
    )
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
        images.add(picture.pixels.transpose(2, 0, 1))  # (1 or 3, S, S)
        is_gray[row] = picture.pixels.shape[2] == 1
        is_read[row] = True
        changes.update(picture.changes)
    rows = np.flatnonzero(is_read)
    channels = channels or (1 if is_gray[rows].all() else 3)
    if channels == 3 and is_gray.any():
        changes["gray, repeated to RGB"] = int(is_gray.sum())
    notes = [f"{n:,} of {len(rows):,} pictures: {change}" for change, n in changes.items()]
    if skipped:
        names = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        notes.append(f"{len(skipped):,} unreadable pictures skipped: {names}")
    return _DecodedImages(images.finish(), channels, rows, tuple(notes))


def _each_decoded(
    pictures: Pictures, work: Callable[[tuple[str, Source]], Picture], options: ReadOptions
) -> Iterator[Picture]:
    """Yield the pictures in order; large ones are decoded on several threads."""
    done = 0
    items = zip(pictures.names, pictures.sources(), strict=True)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while batch := _batch(items):
            heavy = sum(_bytes(source) for _, source in batch) > _HEAVY_BYTES * len(batch)
            yield from pool.map(work, batch) if heavy else map(work, batch)
            done += len(batch)
            options.on_progress("decode pictures", done, len(pictures.names))


def _batch(items: Iterator[tuple[str, Source]]) -> list[tuple[str, Source]]:
    """Return the next pictures, as many as are decoded together."""
    batch: list[tuple[str, Source]] = []
    num_bytes = 0
    for item in items:
        batch.append(item)
        num_bytes += _bytes(item[1])
        if len(batch) == _BATCH or num_bytes >= _BATCH_BYTES:
            break
    return batch


def _bytes(source: Source) -> int:
    if isinstance(source, bytes):
        return len(source)
    return source.stat().st_size if source.is_file() else 0
