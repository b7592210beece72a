"""Check whether a recipe suits its data, before any training."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..cam.layers import default_layers
from ..datasets import Split
from ..datasets.augment import augment, normalize
from ..metrics.intervals import wilson
from ..networks import layer_table
from ..optim.schedules import steps_per_epoch
from ..recipe import Augment, Plateau
from ..training.batches import step_generator
from ..training.setup import TrainSetup
from .augment_checks import NUM_DRAWS
from .issues import Issue, Skipped, by_name, error, warning

MAX_IMAGES = 256  # images that augmentation and the network are tried on


def augmentation(setup: TrainSetup) -> Iterator[Issue]:
    """Check that every augmentation of the recipe changes images of this data.

    Why is this bad:
        The recipe says that images are augmented, and they are not: for example a random flip of
        images that are symmetric.
    Example:
        resight doctor digits --set augment.cutout.prob=0.001
    Fix:
        Remove the augmentation, or set wider limits.
    """
    train, stats = setup.splits.train, setup.splits.stats
    rows = spread_rows(train, MAX_IMAGES)
    images = train.images[rows]
    before = normalize(images, stats)
    for kind, spec in setup.recipe.augment:
        if spec is None:
            continue
        changed = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        for epoch in range(NUM_DRAWS):
            after = augment(
                images,
                Augment(**{kind: spec}),
                stats,
                rows=rows,
                epoch=epoch,
                seed=setup.recipe.seed,
                generator=step_generator(setup.recipe.seed, epoch, 0, images.device),
            )
            changed |= (after != before).flatten(1).any(dim=1)
        count = int(changed.sum())
        if count < 0.05 * len(images):
            yield error(
                f"augment.{kind} changes {count} of {len(images)} images in {NUM_DRAWS} draws",
                f"set augment.{kind}=none, or other limits",
            )


def validation_size(setup: TrainSetup) -> Iterator[Issue]:
    """Check that validation has enough images to choose an epoch by.

    Why is this bad:
        The accuracy on few images is mostly chance, and so is the epoch whose weights are kept.
    Example:
        resight doctor digits --set data.val_fraction=0.02
    Fix:
        Hold out more images, or choose nothing by them: a cycle can keep the weights of its last
        epoch.
    """
    val = setup.splits.val
    if val is None:
        raise Skipped("nothing is held out")
    recipe = setup.recipe
    if recipe.training.select == "last" and not isinstance(recipe.schedule, Plateau):
        raise Skipped("no epoch and no rate is chosen by it")
    interval = wilson(round(0.9 * len(val)), len(val))
    half = (interval.high - interval.low) / 2
    if half > 0.03:
        yield warning(
            f"{len(val)} images are held out, so an accuracy of 90 % is uncertain by "
            f"{100 * half:.0f} points: the best epoch is partly luck",
            "set a larger data.val_fraction, or take the last epoch of a cycle: "
            "data.val_fraction=none training.select=last",
        )


def step_count(setup: TrainSetup) -> Iterator[Issue]:
    """Check that the recipe takes at least 100 steps on this data.

    Why is this bad:
        A schedule with a warm-up needs some steps to rise and fall, and a network needs some to
        learn at all.
    Example:
        resight doctor digits --set training.batch_size=1024
    Fix:
        Train for more epochs, or in smaller batches.
    """
    train, epochs = setup.splits.train, setup.recipe.schedule.epochs
    size = setup.recipe.training.batch_size
    steps = steps_per_epoch(len(train), size) * epochs
    if steps < 100:
        yield warning(
            f"{len(train):,} images in batches of {size} for {epochs} epochs are {steps} steps",
            "more epochs, or a smaller training.batch_size",
        )


def plateau_patience(setup: TrainSetup) -> Iterator[Issue]:
    """Check that a plateau schedule has the time to lower the rate.

    Why is this bad:
        The schedule waits `patience` epochs without progress. If the run has no more epochs than
        that, the rate never falls, and much of the accuracy is missed.
    Example:
        resight doctor digits --set schedule.name=plateau --set schedule.epochs=4
    Fix:
        Set a smaller `schedule.patience`, or train for longer.
    """
    schedule = setup.recipe.schedule
    if isinstance(schedule, Plateau) and schedule.patience + 2 >= schedule.epochs:
        yield error(
            f"the rate cannot fall within {schedule.epochs} epochs: patience is "
            f"{schedule.patience}",
            "set schedule.patience lower, or train for longer",
        )


def batch_norm_images(setup: TrainSetup) -> Iterator[Issue]:
    """Check that batch norm takes its statistics of at least eight images.

    Why is this bad:
        The mean and the variance of few images are mostly noise, and differ from the running
        statistics that evaluation uses.
    Example:
        resight doctor digits --set training.batch_size=16 --set training.micro_batch=4
    Fix:
        Set a larger `training.batch_size` or `training.micro_batch`, or another norm.
    """
    train, training = setup.splits.train, setup.recipe.training
    size = min(training.batch_size, len(train))
    size //= training.parts(size, train.images.device.type)
    if getattr(setup.recipe.model, "norm", "batch") == "batch" and size < 8:
        yield warning(
            f"batch norm takes its statistics of {size} images at a time",
            "give it 16 or more: training.batch_size and training.micro_batch",
        )


def heat_map_size(setup: TrainSetup) -> Iterator[Issue]:
    """Check that the last layer that heat maps are made of has at least 5 x 5 cells.

    Why is this bad:
        A map of 4 x 4 cells is enlarged to the size of the image; it can say which quarter the
        network used, but hardly more.
    Example:
        resight doctor digits --set model.name=resnet18
    Fix:
        Trust the maps of earlier layers more, or keep maps larger with `model.last_stage_stride`
        or `data.image_size`.
    """
    model = setup.state.model
    _, channels, height, width = setup.dataset.train.images.shape
    shape = (channels, height, width)
    layers = setup.recipe.explain.layers or default_layers(model, shape)
    sizes = {row.path: row.map_size for row in layer_table(model, shape)}
    last = sizes.get(layers[-1]) if layers else None
    if not layers or (last and min(last) < 5):
        cells = f"{layers[-1]} has {last[0]} x {last[1]}" if last else "no layer has 3 x 3"
        yield warning(
            f"for images of {height} px {cells} cells, too few to say where",
            "trust earlier layers more, or keep maps larger: model.last_stage_stride=1 for "
            "resnet18, or data.image_size",
        )


def spread_rows(split: Split, limit: int) -> Tensor:
    """Return at most so many rows of the split, evenly spread from its first to its last."""
    rows = torch.linspace(0, len(split) - 1, min(limit, len(split))).long()
    return rows.to(split.images.device)


RECIPE_CHECKS = by_name(
    augmentation, validation_size, step_count, plateau_patience, batch_norm_images, heat_map_size
)
