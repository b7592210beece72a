"""A first look at data: what is in it, and what augmentation makes of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import figures
from ..datasets import Dataset, statistics
from ..datasets.augment import augment, check_augment, denormalize
from ..events import OnEvent, Progress
from ..recipe import Recipe
from ..recipe.presets import load_recipe
from ..recipe.toml import with_changes, with_overrides
from ..training.batches import step_generator
from ..training.setup import load_dataset

ROWS, DRAWS = 6, 7  # of the preview: images down, augmented draws across


def dataset_summary(
    source: str,
    *,
    recipe: str = "base",
    overrides: Sequence[str] = (),
    preview: Path | None = None,
    offline: bool = False,
    on_event: OnEvent = lambda event: None,
) -> dict[str, Any]:
    """Counts, classes, shape and statistics of a data set; with `preview`, a picture as well.

    `recipe` and `overrides` decide size and augmentation.
    """
    asked = with_changes(load_recipe(recipe), {"data": {"source": source}}, origin="data")
    asked = with_overrides(asked, overrides)
    dataset = load_dataset(
        asked,
        None,
        offline=offline,
        on_event=lambda event: on_event(event) if isinstance(event, Progress) else None,
    )
    if preview is not None:
        draw_preview(dataset, asked, preview)
    stats = statistics(dataset.train)
    return {
        "name": dataset.name,
        "train": len(dataset.train),
        "test": len(dataset.test),
        "classes": list(dataset.classes),
        "shape": list(dataset.train.images.shape[1:]),
        "mean": list(stats.mean),
        "std": list(stats.std),
        "notes": list(dataset.notes),
        "fingerprint": dataset.fingerprint,
        "preview": str(preview) if preview else None,
    }


def draw_preview(dataset: Dataset, recipe: Recipe, path: Path) -> None:
    """A row an image, evenly from the training split: as it is, then as training would see it."""
    images = dataset.train.images
    check_augment(recipe.augment, images.shape[1], images.shape[-1])
    stats = statistics(dataset.train)
    rows = torch.linspace(0, len(images) - 1, min(ROWS, len(images))).long()
    # Consecutive epochs, so that alternating flips show.
    draws = [
        denormalize(
            augment(
                images[rows],
                recipe.augment,
                stats,
                rows=rows,
                epoch=epoch,
                seed=recipe.seed,
                generator=step_generator(recipe.seed, epoch, 0, images.device),
            ),
            stats,
        )
        for epoch in range(DRAWS)
    ]
    after = torch.stack(draws, dim=1)  # (rows, DRAWS, C, H, W)
    titles = [dataset.classes[label] for label in dataset.train.labels[rows].tolist()]
    figure = figures.before_after(
        images[rows].permute(0, 2, 3, 1).numpy(), after.permute(0, 1, 3, 4, 2).numpy(), titles
    )
    figures.save(figure, path)
