"""The bundled data set: handwritten digits (see ATTRIBUTION.md)."""

from pathlib import Path

import numpy as np

from ..contents import LoadedData, ReadOptions, make_split
from ..images import fit_arrays

_FILE = Path(__file__).with_name("digits.csv.gz")
_PX = 32
_EVERY = 5  # one in five of each digit is a test image


def read(options: ReadOptions) -> LoadedData:
    """Return 1,797 gray digits, enlarged from 8 px to 32 (or `image_size`).

    Every fifth image of each digit, in the order of the file, is a test image. So the test set is
    the same on every machine.
    """
    table = np.loadtxt(_FILE, delimiter=",", dtype=np.int64)  # (N, 64 + 1)
    labels = table[:, 64]
    images = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8)
    images, _ = fit_arrays(images.reshape(-1, 1, 8, 8), options.image_size or _PX)  # (N, 1, S, S)
    is_test = np.zeros(len(labels), dtype=np.bool_)
    for digit in range(10):
        is_test[np.flatnonzero(labels == digit)[_EVERY - 1 :: _EVERY]] = True
    train, test = (
        make_split(images[rows], labels[rows], [f"digits/row-{row:04}" for row in rows])
        for rows in (np.flatnonzero(~is_test), np.flatnonzero(is_test))
    )
    return LoadedData(tuple("0123456789"), train, test=test)
