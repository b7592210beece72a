"""What `resight data` shows: the content of a data set, and what augmentation makes of it."""

from collections.abc import Sequence
from pathlib import Path

import torch

from .. import figures
from ..datasets import Dataset, statistics
from ..datasets.augment import augment, check_augment, denormalize
from ..events import OnEvent, Progress
from ..recipe import Recipe
from ..records import evenly_spaced
from ..training.batches import step_generator
from ..training.setup import load_dataset
from .options import CommandResult

ROWS, DRAWS = 6, 7  # of the preview: images down, augmented draws across


def summarize_dataset(
    recipe: Recipe, *, preview: Path | None, offline: bool, on_event: OnEvent
) -> CommandResult:
    """Return the size, classes and statistics of a recipe's data; draw `preview` if it is given."""
    dataset = load_dataset(
        recipe,
        None,
        offline=offline,
        on_event=lambda event: on_event(event) if isinstance(event, Progress) else None,
    )
    if preview is not None:
        draw_preview(dataset, recipe, preview)
    stats = statistics(dataset.train)
    channels, height, width = dataset.train.images.shape[1:]
    content = {
        "name": dataset.name,
        "train": len(dataset.train),
        "test": len(dataset.test),
        "classes": dataset.classes,
        "shape": (channels, height, width),
        "mean": stats.mean,  # of each channel of the training images, in [0, 1]
        "std": stats.std,
        "notes": dataset.notes,
        "fingerprint": dataset.fingerprint,
        "preview": str(preview) if preview else None,
    }
    more = f", ... {len(dataset.classes)} in all" if len(dataset.classes) > 12 else ""
    lines = [
        f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test images, "
        f"{'gray' if channels == 1 else 'color'}, {height} x {width} px",
        f"classes  {', '.join(dataset.classes[:12])}{more}",
        f"mean     {_numbers(stats.mean)}  (of the training images, in [0, 1])",
        f"std      {_numbers(stats.std)}",
        *dataset.notes,
        *([f"preview  {preview}"] if preview else []),
    ]
    return CommandResult(content, "\n".join(lines))


def draw_preview(dataset: Dataset, recipe: Recipe, path: Path) -> None:
    """Draw training images, a row each: as they are, then as augmentation changes them."""
    images = dataset.train.images
    check_augment(recipe.augment, images.shape[1], images.shape[-1])
    stats = statistics(dataset.train)
    rows = torch.from_numpy(evenly_spaced(len(images), ROWS))
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
