"""What several test files share: a data set of three classes, and two runs on it.

Tests that only read take `trained_run` and `explained_run`, which are made once in each test
process. Tests that write take a copy, `trained_copy` and `explained_copy`.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Several test processes with several threads each would wait for one another most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Results of a CPU repeat to the bit. What a GPU is there for asks for it by name (test_gpu.py).
os.environ.setdefault("RESIGHT_DEVICE", "cpu")

import pytest
import torch
from torch import Tensor

import resight
from resight.datasets import Dataset, Split
from tiny_runs import explained_recipe, tiny_recipe

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CLASSES = ("disc", "bar", "frame")
SIDE = 16


def _pictures(count: int, generator: torch.Generator, prefix: str) -> Split:
    """`count` noisy images, (N, 3, 16, 16) uint8: each class lights up a third of the columns."""
    labels = torch.arange(count) % len(CLASSES)
    images = torch.randint(0, 120, (count, 3, SIDE, SIDE), generator=generator)
    third = torch.arange(SIDE) * len(CLASSES) // SIDE  # (W,) 0 0 .. 1 1 .. 2 2
    lit: Tensor = third == labels[:, None]  # (N, W)
    images += 100 * lit[:, None, None, :]
    ids = tuple(f"{prefix}/{row}" for row in range(count))
    return Split(images=images.to(torch.uint8), labels=labels, ids=ids)


@pytest.fixture(scope="session")
def tiny() -> Dataset:
    """Three classes that a small network learns in a few epochs; 91 + 31 images, both odd."""
    generator = torch.Generator().manual_seed(20)
    return Dataset(
        name="tiny",
        classes=CLASSES,
        train=_pictures(91, generator, "train"),
        test=_pictures(31, generator, "test"),
        notes=(),
    )


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, tiny: Dataset) -> resight.Run:
    """A finished run of two epochs, without pictures and not explained."""
    return resight.train(tiny_recipe(), data=tiny, out=tmp_path_factory.mktemp("out"), name="run")


@pytest.fixture(scope="session")
def explained_run(tmp_path_factory: pytest.TempPathFactory, tiny: Dataset) -> resight.Run:
    """A finished run with mistakes, heat maps, a gallery and a report."""
    out, recipe = tmp_path_factory.mktemp("out"), explained_recipe("explain.pictures=true")
    return resight.train(recipe, data=tiny, out=out, name="run")


@pytest.fixture
def trained_copy(trained_run: resight.Run, tmp_path: Path) -> Path:
    """A folder like that of `trained_run`, to write into."""
    return Path(shutil.copytree(trained_run.folder, tmp_path / "copy"))


@pytest.fixture
def explained_copy(explained_run: resight.Run, tmp_path: Path) -> Path:
    """A folder like that of `explained_run`, to write into."""
    return Path(shutil.copytree(explained_run.folder, tmp_path / "copy"))


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A real browser; see `browser.py`."""
    from browser import chromium

    with chromium() as browser:
        yield browser
