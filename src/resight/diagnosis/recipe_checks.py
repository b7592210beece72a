"""Check whether a recipe suits its data, before any training."""

import math
from collections.abc import Iterator

import torch

from ..cam.layers import default_layers
from ..datasets.augment import augment, normalize
from ..metrics.intervals import MIN_TO_TELL, wilson
from ..networks import layer_table
from ..optim.schedules import steps_per_epoch
from ..recipe import Augment, Plateau
from ..records import evenly_spaced
from ..training.batches import step_generator
from ..training.setup import TrainSetup
from .augment_checks import NUM_DRAWS
from .issues import Issue, Skipped, by_name, error, note, warning
from .probe import MAX_IMAGES

MIN_STEPS = 100


def augmentation(setup: TrainSetup) -> Iterator[Issue]:
    """Check that every augmentation of the recipe changes images of this data.

    Why is this bad:
        The images are not augmented, although the recipe says so: for example by a random flip of
        symmetric images.
    Example:
        resight doctor digits --set augment.cutout.prob=0.001
    Fix:
        Remove the augmentation, or set wider limits.
    """
    train, stats = setup.splits.train, setup.splits.stats
    rows = torch.from_numpy(evenly_spaced(len(train), MAX_IMAGES))
    images = train.images_at(rows)
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
        Hold out more images by `data.val_fraction`, or keep the weights of the last epoch of a
        cycle.
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
        yield (warning if len(val) < MIN_TO_TELL else note)(
            f"{len(val)} images are held out, so an accuracy of 90 % is uncertain by "
            f"{100 * half:.0f} points: the best epoch is {'mostly' if half > 0.1 else 'partly'} "
            "luck",
            f"{_more_validation(setup)}, or take the last epoch of a cycle: "
            "data.val_fraction=none training.select=last",
        )


def _more_validation(setup: TrainSetup) -> str:
    """Return how to get more validation images."""
    fraction = setup.recipe.data.val_fraction or 0.0
    if setup.recipe.data.fold is not None:
        return "take fewer folds"
    if setup.dataset.val is not None:
        return "add images to the validation split"
    larger = next((share for share in (0.2, 0.3, 0.5) if share > fraction), None)
    if larger is None:
        return "add images"
    count = round(larger * len(setup.dataset.train))
    return f"set data.val_fraction={larger:g}, which holds out {count:,}"


def step_count(setup: TrainSetup) -> Iterator[Issue]:
    """Check that the recipe takes at least 100 steps on this data.

    Why is this bad:
        A schedule with a warm-up needs steps to rise and fall, and a network needs steps to learn
        at all.
    Example:
        resight doctor digits --set training.batch_size=1024
    Fix:
        Train in smaller batches, and for more epochs. The message names values with about 1,000
        steps.
    """
    if setup.recipe.probe and setup.recipe.probe.only:
        raise Skipped("the head is fitted at once, without steps")
    train, epochs = setup.splits.train, setup.recipe.schedule.epochs
    size = setup.recipe.training.batch_size
    per_epoch = steps_per_epoch(len(train), size)
    if per_epoch * epochs < MIN_STEPS:
        a_epoch = "1 step" if per_epoch == 1 else f"{per_epoch} steps"
        yield warning(
            f"{len(train):,} images in batches of {size} are {a_epoch} an epoch, and "
            f"{per_epoch * epochs} in {epochs} epochs: too few to learn",
            f"set {_more_steps(len(train), size, epochs)}",
        )


def _more_steps(num_images: int, size: int, epochs: int) -> str:
    """Return the settings of a batch of a 16th of the images at most, and about 1,000 steps."""
    smaller = size
    while smaller >= 32 and smaller * 16 > num_images:
        smaller //= 2
    needed = math.ceil(1000 / steps_per_epoch(num_images, smaller) / 5) * 5
    settings = [f"training.batch_size={smaller}"] if smaller < size else []
    settings += [f"schedule.epochs={min(needed, 10_000)}"] if needed > epochs else []
    return " ".join(settings)


def plateau_patience(setup: TrainSetup) -> Iterator[Issue]:
    """Check that a plateau schedule has the time to lower the rate.

    Why is this bad:
        If the run has no more epochs than the `patience` with which the schedule waits for
        progress, the rate never falls, and the accuracy stays low.
    Example:
        resight doctor digits --set schedule.name=plateau --set schedule.epochs=4
    Fix:
        Set a smaller `schedule.patience`, or train for longer.
    """
    schedule = setup.recipe.schedule
    if isinstance(schedule, Plateau) and schedule.patience + 2 >= schedule.epochs:
        yield error(
            f"the rate cannot fall in {schedule.epochs} epochs: patience is {schedule.patience}",
            "set schedule.patience lower, or train for longer",
        )


def batch_norm_images(setup: TrainSetup) -> Iterator[Issue]:
    """Check that batch norm takes its statistics over at least eight images.

    Why is this bad:
        The mean and the variance of few images are mostly noise, and differ from the running
        statistics that evaluation uses.
    Example:
        resight doctor digits --set training.batch_size=16 --set training.micro_batch=4
    Fix:
        Set a larger `training.batch_size` or `training.micro_batch`, or another norm.
    """
    size = images_at_a_time(setup)
    if getattr(setup.recipe.model, "norm", "batch") == "batch" and size < 8:
        yield warning(
            f"batch norm takes its statistics over {size} images at a time",
            "give it 16 or more: training.batch_size and training.micro_batch",
        )


def heat_map_size(setup: TrainSetup) -> Iterator[Issue]:
    """Check that the last layer with heat maps has at least 5 x 5 cells.

    Why is this bad:
        A map of 4 x 4 cells can say which quarter of the image the network used, but hardly more.
    Example:
        resight doctor digits
    Fix:
        Trust the maps of earlier layers more, or keep maps larger with `model.last_stage_stride`
        or `data.image_size`.
    """
    channels, height, width = setup.dataset.train.shape[1:]
    model, shape = setup.state.model, (channels, height, width)
    layers = setup.recipe.explain.layers or default_layers(model, shape)
    sizes = {row.path: row.map_size for row in layer_table(model, shape)}
    last = sizes.get(layers[-1]) if layers else None
    if not layers or (last and min(last) < 5):
        cells = f"{layers[-1]} has {last[0]} x {last[1]}" if last else "no layer has 3 x 3"
        yield warning(
            f"for images of {height} px, {cells} cells, too few to say where",
            "trust earlier layers more, or keep maps larger: model.last_stage_stride=1 for "
            "resnet18, or data.image_size",
        )


def images_at_a_time(setup: TrainSetup) -> int:
    """Return how many images go through the network at a time: a batch, or a micro-batch."""
    train, training = setup.splits.train, setup.recipe.training
    size = min(training.batch_size, len(train))
    return size // training.parts(size, train.device.type)


RECIPE_CHECKS = by_name(
    augmentation, validation_size, step_count, plateau_patience, batch_norm_images, heat_map_size
)
