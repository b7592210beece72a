"""The doctor: what is wrong, or may be, with a recipe on its data, or with a run.

`diagnosis.diagnose` does it for anyone's own PyTorch objects.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cam.layers import default_layers
from ..datasets import Dataset, Split
from ..datasets.augment import augment, normalize
from ..errors import UsageError
from ..events import OnEvent
from ..metrics.intervals import wilson
from ..networks import layer_table
from ..optim.schedules import steps_per_epoch
from ..recipe import Augment, Plateau, Recipe
from ..recipe.presets import load_recipe
from ..recipe.sources import is_run
from ..runs.run import Run
from ..training.batches import step_generator
from ..training.precision import to_memory_format
from ..training.restore import preserve_state
from ..training.setup import TrainSetup, prepare
from .augment_checks import NUM_DRAWS
from .dataset_checks import DATASET_CHECKS, DatasetProbe
from .diagnose import OBJECT_CHECKS
from .issues import Diagnosis, Issue, Skipped, apply_checks, error, warning
from .probe import run_probe
from .run_checks import RUN_CHECKS

NUM_IMAGES = 256  # images that augmentation and the network are tried on
_OF_MODEL = ("outputs", "start", "gradients", "dropout", "evaluation", "decay")


def doctor(
    what: str | Path | Recipe,
    *,
    data: Dataset | str | Path | None = None,
    device: str = "auto",
    offline: bool = False,
    on_event: OnEvent | None = None,
) -> Diagnosis:
    """Look for what is wrong with a run, or with a recipe and its data before any training.

    Args:
        what: a run folder, which is judged by what lies in it; or a recipe, the name of one, or
            its .toml file, whose data is read and whose network sees one batch.
        data: in place of the recipe's.

    Raises:
        UsageError: it is neither, or recipe, data and device do not fit each other.
    """
    if not isinstance(what, Recipe) and is_run(str(what)):
        if data is not None:
            raise UsageError(
                f"{what} is a run, which is judged by its folder: leave data out, or name a recipe"
            )
        return apply_checks(what if isinstance(what, Run) else Run.open(what), RUN_CHECKS)
    recipe = what if isinstance(what, Recipe) else load_recipe(str(what))
    on_event = on_event or (lambda event: None)
    setup = prepare(
        recipe, data=data, model=None, device=device, offline=offline, on_event=on_event
    )
    return (
        apply_checks(DatasetProbe(setup.dataset), DATASET_CHECKS)
        + apply_checks(setup, RECIPE_CHECKS)
        + _examine_model(setup)
    )


def augmentation(setup: TrainSetup) -> Iterator[Issue]:
    """Every augmentation changes images of this data."""
    train, stats = setup.splits.train, setup.splits.stats
    rows = _evenly(train, NUM_IMAGES)
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


def validation(setup: TrainSetup) -> Iterator[Issue]:
    """Enough images are held out to choose an epoch by."""
    val = setup.splits.val
    if val is None:
        raise Skipped("nothing is held out")
    recipe = setup.recipe
    if recipe.training.select == "last" and not isinstance(recipe.schedule, Plateau):
        raise Skipped("no epoch and no rate is chosen by it")
    width = wilson(round(0.9 * len(val)), len(val))
    half = (width.high - width.low) / 2
    if half > 0.03:
        yield warning(
            f"{len(val)} images are held out, by which 90 % is known to {100 * half:.0f} points: "
            "the best epoch is partly luck",
            "hold more out by data.val_fraction, or take the last epoch of a cycle: "
            "data.val_fraction=none training.select=last",
        )


def steps(setup: TrainSetup) -> Iterator[Issue]:
    """There are steps enough for the schedule, and images enough in each part of a batch."""
    recipe, train = setup.recipe, setup.splits.train
    schedule, size = recipe.schedule, recipe.training.batch_size
    each = steps_per_epoch(len(train), size)
    if each * schedule.epochs < 100:
        yield warning(
            f"{len(train):,} images in batches of {size} for {schedule.epochs} epochs are "
            f"{each * schedule.epochs} steps in all",
            "more epochs, or a smaller training.batch_size",
        )
    if isinstance(schedule, Plateau) and schedule.patience + 2 >= schedule.epochs:
        yield error(
            f"the rate cannot fall within {schedule.epochs} epochs: patience is "
            f"{schedule.patience}",
            "set schedule.patience lower, or train for longer",
        )
    size = min(size, len(train))
    parts = recipe.training.parts(size, train.images.device.type)
    norm = getattr(recipe.model, "norm", "batch")
    if norm == "batch" and size // parts < 8:
        yield warning(
            f"batch norm measures {size // parts} images at a time",
            "give it 16 or more: training.batch_size and training.micro_batch",
        )


def heat_maps(setup: TrainSetup) -> Iterator[Issue]:
    """The last layer that heat maps are made of has 5 x 5 cells, enough to say where."""
    model = setup.state.model
    _, channels, height, width = setup.dataset.train.images.shape
    shape = (channels, height, width)
    layers = setup.recipe.explain.layers or default_layers(model, shape)
    sizes = {row.path: row.map_size for row in layer_table(model, shape)}
    last = sizes.get(layers[-1]) if layers else None
    if not layers or (last and min(last) < 5):
        found = f"{layers[-1]} has {last[0]} x {last[1]}" if last else "no layer has 3 x 3"
        yield warning(
            f"for images of {height} px {found} cells, too few to say where",
            "trust earlier layers more, or keep maps larger: model.last_stage_stride=1 for "
            "resnet18, or data.image_size",
        )


RECIPE_CHECKS: dict[str, Callable[[TrainSetup], Iterator[Issue]]] = {
    "augmentation": augmentation,
    "validation images": validation,
    "steps": steps,
    "heat maps": heat_maps,
}


def _examine_model(setup: TrainSetup) -> Diagnosis:
    """The recipe's network on one batch, as `diagnose` looks at anyone's."""
    state, splits, training = setup.state, setup.splits, setup.recipe.training
    size = min(training.batch_size, len(splits.train))
    size //= training.parts(size, splits.train.images.device.type)  # as much as memory holds
    part = splits.train.select(_evenly(splits.train, min(size, NUM_IMAGES)))
    images = to_memory_format(normalize(part.images, splits.stats), training)
    with preserve_state(state.optimizer, state.model):
        batches = [(images, part.labels)]
        patient = run_probe(state.model, state.optimizer, F.cross_entropy, batches)
        return apply_checks(patient, {name: OBJECT_CHECKS[name] for name in _OF_MODEL})


def _evenly(split: Split, most: int) -> Tensor:
    """Rows of the split, at most so many, from its first to its last."""
    rows = torch.linspace(0, len(split) - 1, min(most, len(split))).long()
    return rows.to(split.images.device)
