"""What `resight data` shows: the content of a data set, and what augmentation makes of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from .. import figures
from ..datasets import Dataset, statistics
from ..datasets.augment import augment, check_augment, denormalize
from ..events import OnEvent, Progress
from ..recipe import Recipe
from ..records import evenly_spaced
from ..text import table
from ..training.batches import step_generator
from ..training.setup import load_dataset
from .options import CommandResult

ROWS, DRAWS = 6, 7  # of the preview: images down, augmented draws across
MAX_CLASSES, NUM_PICTURES = 20, 8  # of the sheet of classes: rows down, pictures across


def summarize_dataset(
    recipe: Recipe, *, preview: Path | None, sheet: Path | None, offline: bool, on_event: OnEvent
) -> CommandResult:
    """Return how a recipe's data was read: layout, classes, splits and statistics.

    preview: where to draw augmentation; sheet: where to draw pictures of each class.
    """
    dataset = load_dataset(
        recipe,
        None,
        offline=offline,
        on_event=lambda event: on_event(event) if isinstance(event, Progress) else None,
    )
    if preview is not None:
        draw_preview(dataset, recipe, preview)
    if sheet is not None:
        draw_classes(dataset, sheet)
    stats = statistics(dataset.train)
    counts = _counts(dataset)
    channels, height, width = dataset.train.shape[1:]
    content = {
        "name": dataset.name,
        **{name: len(split) for name, split in dataset.splits.items()},
        "classes": dataset.classes,
        "counts": counts,
        "shape": (channels, height, width),
        "mean": stats.mean,  # of each channel of the training images, in [0, 1]
        "std": stats.std,
        "notes": dataset.notes,
        "fingerprint": dataset.fingerprint,
        "preview": str(preview) if preview else None,
        "sheet": str(sheet) if sheet else None,
    }
    lines = [
        f"{dataset.name}: {_sizes(dataset)}, {'gray' if channels == 1 else 'color'}, "
        f"{height} x {width} px, {len(dataset.classes)} classes",
        *dataset.notes,
        "",
        *_class_table(counts, [*dataset.splits]),
        "",
        f"mean         {_numbers(stats.mean)}  (of the training images, in [0, 1])",
        f"std          {_numbers(stats.std)}",
        f"fingerprint  {dataset.fingerprint}",
        *([f"classes      {sheet}: look whether each row is one class"] if sheet else []),
        *([f"preview      {preview}"] if preview else []),
    ]
    return CommandResult(content, "\n".join(lines))


def draw_classes(dataset: Dataset, path: Path) -> None:
    """Draw a row of pictures for each class, so that a wrong reading shows at once."""
    splits = [*dataset.splits.values()]
    labels = torch.cat([split.labels for split in splits])
    pictures = []
    for label in range(min(len(dataset.classes), MAX_CLASSES)):
        rows = (labels == label).nonzero().flatten()
        some = rows[torch.from_numpy(evenly_spaced(len(rows), NUM_PICTURES))]
        images = []
        for split in splits:
            images.append(split.images_at(some[(some >= 0) & (some < len(split))]))
            some = some - len(split)
        pictures.append(torch.cat(images).permute(0, 2, 3, 1).numpy())
    more = len(dataset.classes) - len(pictures)
    notes = [*dataset.notes, *([f"{more:,} more classes are not shown"] if more else [])]
    names = dataset.classes[: len(pictures)]
    figures.save(figures.class_sheet(pictures, names, title=dataset.name, notes=notes), path)


def _sizes(dataset: Dataset) -> str:
    words = {"train": "training", "val": "validation", "test": "test"}
    sizes = [f"{len(split):,} {words[name]}" for name, split in dataset.splits.items()]
    return f"{', '.join(sizes[:-1])} and {sizes[-1]} images"


def _counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Return the number of images of each class in each split."""
    num_classes = len(dataset.classes)
    counts = {
        name: split.labels.bincount(minlength=num_classes).tolist()
        for name, split in dataset.splits.items()
    }
    return {
        word: {name: count[label] for name, count in counts.items()}
        for label, word in enumerate(dataset.classes)
    }


def _class_table(counts: Mapping[str, Mapping[str, int]], splits: Sequence[str]) -> list[str]:
    """Return the lines of a table of the classes; of many, the first, and a line on the others."""
    rows = [
        (word, *(f"{count[name]:,}" for name in splits))
        for word, count in [*counts.items()][:MAX_CLASSES]
    ]
    lines = table(rows, "class", *splits, right=splits).split("\n")
    rest = [sum(count.values()) for count in [*counts.values()][MAX_CLASSES:]]
    if rest:
        lines.append(f"... {len(rest):,} more classes, of {min(rest):,} to {max(rest):,} images")
    return lines


def draw_preview(dataset: Dataset, recipe: Recipe, path: Path) -> None:
    """Draw training images, a row each: as they are, then as augmentation changes them."""
    train = dataset.train
    check_augment(recipe.augment, train.channels, train.shape[-1])
    stats = statistics(dataset.train)
    rows = torch.from_numpy(evenly_spaced(len(train), ROWS))
    images = train.images_at(rows)
    # Consecutive epochs, so that alternating flips show.
    draws = [
        denormalize(
            augment(
                images,
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
        images.permute(0, 2, 3, 1).numpy(), after.permute(0, 1, 3, 4, 2).numpy(), titles
    )
    figures.save(figure, path)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
