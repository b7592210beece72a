"""What `resight data` shows: the content of a data set, and what augmentation makes of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .. import figures
from ..datasets import Dataset, statistics
from ..datasets.augment import augment, check_augment, denormalize
from ..events import OnEvent, Progress
from ..recipe import Recipe
from ..training.batches import step_generator
from ..training.setup import load_dataset

ROWS, DRAWS = 6, 7  # of the preview: images down, augmented draws across


@dataclass(frozen=True)
class DatasetSummary:
    """The size, classes, shape and statistics of a data set."""

    name: str
    train: int  # images
    test: int
    classes: tuple[str, ...]
    shape: tuple[int, ...]  # (C, H, W)
    mean: tuple[float, ...]  # of each channel of the training images, in [0, 1]
    std: tuple[float, ...]
    notes: tuple[str, ...]
    fingerprint: str
    preview: str | None  # the file that shows images and augmentation

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        names = ", ".join(self.classes[:12])
        more = f", ... {len(self.classes)} in all" if len(self.classes) > 12 else ""
        channels, height, width = self.shape
        lines = [
            f"{self.name}: {self.train:,} training and {self.test:,} test images, "
            f"{'gray' if channels == 1 else 'color'}, {height} x {width} px",
            f"classes  {names}{more}",
            f"mean     {_numbers(self.mean)}  (of the training images, in [0, 1])",
            f"std      {_numbers(self.std)}",
            *self.notes,
        ]
        if self.preview:
            lines.append(f"preview  {self.preview}")
        return "\n".join(lines)


def summarize_dataset(
    recipe: Recipe, *, preview: Path | None, offline: bool, on_event: OnEvent
) -> DatasetSummary:
    """Return the summary of a recipe's data; with `preview`, draw a picture as well."""
    dataset = load_dataset(
        recipe,
        None,
        offline=offline,
        on_event=lambda event: on_event(event) if isinstance(event, Progress) else None,
    )
    if preview is not None:
        draw_preview(dataset, recipe, preview)
    stats = statistics(dataset.train)
    return DatasetSummary(
        name=dataset.name,
        train=len(dataset.train),
        test=len(dataset.test),
        classes=tuple(dataset.classes),
        shape=tuple(dataset.train.images.shape[1:]),
        mean=tuple(stats.mean),
        std=tuple(stats.std),
        notes=tuple(dataset.notes),
        fingerprint=dataset.fingerprint,
        preview=str(preview) if preview else None,
    )


def draw_preview(dataset: Dataset, recipe: Recipe, path: Path) -> None:
    """Draw training images, a row each: as they are, then as augmentation changes them."""
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


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
