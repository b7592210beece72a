"""The pictures that people look at: the files that the images of a split were made from.

A network sees photos at 32 or 64 px, which is too little for a person. So reports and sheets go
back to the files. A picture that no longer gives the image of the split is not shown: what is
looked at is always what the network saw, with more pixels.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from PIL import Image

from ..files import read_bytes
from ..recipe import Resize
from ..records import ImageArray, IntArray
from .dataset import Split
from .readers.picture import MAX_BYTES, decode_picture, open_picture
from .tree import Source

SHOWN_PX = 224  # a side, at most
_BATCH = 16  # files that may be in memory together


@dataclass(frozen=True, eq=False)
class ShownImages:
    """R pictures of one size to look at, in place of the images of a split.

    pictures: uint8 (R, P, P, 1 or 3), or (R, H, W, 1 or 3) where they are the images themselves.
    seen_px: the side of the images; None where nothing larger is shown.
    num_stand_ins: so many are images of the split, because their files are gone or have changed.
    """

    pictures: ImageArray
    seen_px: int | None = None
    num_stand_ins: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say below the pictures, one line each."""
        lines = []
        if self.seen_px:
            px = self.pictures.shape[1]
            lines.append(f"shown at up to {px} px; the network saw {self.seen_px} px")
        if self.num_stand_ins:
            lines.append(
                f"{self.num_stand_ins:,} of {len(self.pictures):,} pictures are shown as the "
                "network saw them, because their files are gone or have changed"
            )
        return tuple(lines)


def display_images(
    split: Split, rows: IntArray | None = None, *, px: int = SHOWN_PX
) -> ShownImages:
    """Return the pictures of some rows (R,), by default of all, at up to `px` a side.

    They are turned, cropped and colored as the images of the split were, and no smaller than these.
    The side of all is that of the largest. Without larger originals they are the images as they
    are, byte for byte. Nothing is raised: the image of the split stands in for a file that is gone.
    """
    chosen = split if rows is None else split.select(torch.from_numpy(rows))
    images = images_as_pictures(chosen)
    if chosen.originals is None or px <= max(images.shape[1:3]) or not len(chosen):
        return ShownImages(images)
    sources: Iterable[Source] | None = ()
    with suppress(Exception):  # readers of damaged files and archives raise many kinds
        sources = chosen.originals.sources(chosen.ids)
    if sources is None:
        return ShownImages(images)
    work = partial(_picture, px=px, resize=chosen.originals.resize)
    pictures = list(_decoded(work, chosen.ids, _endless(sources), images))
    missing = sum(picture is None for picture in pictures)
    seen = images.shape[1]
    side = max((len(picture) for picture in pictures if picture is not None), default=seen)
    if side == seen:
        return ShownImages(images, num_stand_ins=missing)
    shown = np.empty((len(images), side, side, images.shape[3]), dtype=np.uint8)
    for row, (picture, image) in enumerate(zip(pictures, images, strict=True)):
        if picture is None:
            shown[row] = _enlarged(image, side, Image.Resampling.NEAREST)
        else:
            shown[row] = _enlarged(picture, side, Image.Resampling.BICUBIC)
    return ShownImages(shown, seen, missing)


def images_as_pictures(split: Split) -> ImageArray:
    """Return the images of a split as figures take them, (N, H, W, C)."""
    return np.asarray(split.images.permute(0, 2, 3, 1).cpu().numpy())


def _decoded(
    work: Callable[[str, Source, ImageArray], ImageArray | None],
    ids: Sequence[str],
    sources: Iterator[Source],
    images: ImageArray,
) -> Iterator[ImageArray | None]:
    """Yield the picture (S, S, 1 or 3) of each id; None where it is not that of the image."""
    with warnings.catch_warnings(), ThreadPoolExecutor(2) as pool:
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for start in range(0, len(ids), _BATCH):
            part = slice(start, start + _BATCH)
            yield from pool.map(work, ids[part], islice(sources, _BATCH), images[part])


def _endless(sources: Iterable[Source]) -> Iterator[Source]:
    """Yield the file or the content of each picture; from the first that cannot be had on, none."""
    with suppress(Exception):
        yield from sources
    while True:
        yield b""


def _picture(
    name: str, source: Source, image: ImageArray, *, px: int, resize: Resize
) -> ImageArray | None:
    """Return a picture at its own size, up to `px`; None if `image` was not made from it."""
    seen = len(image)
    try:
        content = source if isinstance(source, bytes) else read_bytes(source, MAX_BYTES)
        with open_picture(content) as opened:
            width, height = opened.size
        own = max(width, height) if resize == "pad" else min(width, height)
        decode = partial(
            decode_picture,
            (name, content),
            same_size=False,
            to_gray=image.shape[2] == 1,
            resize=resize,
        )
        same = decode(side=seen).pixels
        if same is None or not np.array_equal(np.broadcast_to(same, image.shape), image):
            return None
        return decode(side=min(px, own)).pixels if own > seen else same
    except Exception:  # a file that is gone, cut off or hostile; the image stands in for it
        return None


def _enlarged(picture: ImageArray, side: int, how: Image.Resampling) -> ImageArray:
    """(S, S, 1 or 3) -> (side, side, 1 or 3)."""
    if len(picture) == side:
        return picture
    flat = picture[..., 0] if picture.shape[2] == 1 else picture
    resized = Image.fromarray(flat).resize((side, side), how)
    return np.asarray(resized).reshape(side, side, -1)
