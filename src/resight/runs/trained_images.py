"""Which images a run was trained on: 8 bytes an image, so that they are noticed in other data."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from ..datasets import Split
from .parts import DAMAGE, read_arrays, write_arrays
from .run import Run

FILE = "trained_images.npz"


def write_trained_images(run: Run, train: Split) -> None:
    """Keep a digest of the pixels of each training image in the run folder."""
    write_arrays(run.folder / FILE, {"digests": np.unique(_digests(train))})


def count_trained(run: Run, images: Split) -> int | None:
    """Return how many images the run was trained on, pixel for pixel; None if that is not known.

    Runs of earlier versions do not have the file.
    """
    try:
        known = read_arrays(run.folder / FILE)["digests"]
    except DAMAGE:
        return None
    return int(np.isin(_digests(images), known).sum())


def _digests(split: Split) -> NDArray[np.uint64]:
    """Return a digest of the pixels of each image, (N,)."""
    digests = [
        blake2b(image.tobytes(), digest_size=8).digest()
        for images in split.parts()
        for image in images.cpu().numpy()
    ]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)
