"""Everything before the first step: from a recipe and its data to a model on a device."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ..cam.layers import check_layers
from ..datasets import Dataset, Split, Statistics, load, statistics
from ..datasets.augment import check_augment
from ..datasets.corrections import corrected
from ..datasets.hub import pin
from ..datasets.splits import train_and_val
from ..errors import UsageError
from ..events import Message, OnEvent, Progress
from ..networks import MIN_PX
from ..optim.schedules import describe
from ..recipe import Normalization, Recipe
from ..recipe.sources import HubName, find_source
from ..recipe.toml import with_changes
from .autotune import resolve_auto
from .device import pick_device
from .network import init_model, model_changes
from .state import TrainData, TrainState, init_state

CORRECTIONS = ("relabel", "exclude")  # settings of `data` that name a table
# Of 1.2 million photos, as torchvision has it.
_IMAGENET = Statistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True)
class TrainSetup:
    """Everything that a run needs before its first step, or before a checkpoint is loaded."""

    recipe: Recipe  # resolved: data and model written down, no "auto" left
    dataset: Dataset
    splits: TrainData
    state: TrainState

    @property
    def device(self) -> torch.device:
        """The device that it trains on."""
        return self.splits.train.device


def resolve(
    recipe: Recipe,
    data: Dataset | str | Path | None,
    model: nn.Module | None,
    *,
    allow_import: bool = True,
    fresh: bool = True,
    offline: bool = False,
) -> Recipe:
    """Return the recipe that names the data and the model passed in; paths become absolute.

    A data set of the hub becomes that of the commit which its revision means now. A network to
    import is imported here, before any data is read, and its code is identified.
    """
    changes = {
        "model": model_changes(
            recipe.model, model, allow_import=allow_import, fresh=fresh, offline=offline
        )
    }
    if isinstance(data, Dataset):
        changes["data"] = {"source": data.name}
    else:
        source = find_source(str(data or recipe.data.source))
        if isinstance(source, HubName):
            source = pin(source, offline=offline)
        changes["data"] = {"source": str(source.resolve() if isinstance(source, Path) else source)}
    for name in CORRECTIONS:
        if path := getattr(recipe.data, name):
            changes["data"][name] = str(Path(path).expanduser().resolve())
    return with_changes(recipe, changes, origin="train")


def prepare(
    recipe: Recipe,
    *,
    data: Dataset | str | Path | None,
    model: nn.Module | None,
    device: str,
    offline: bool,
    on_event: OnEvent,
    allow_import: bool = True,
    fresh: bool = True,
    run_folder: Path | None = None,
) -> TrainSetup:
    """Check, load, split and build everything that a run needs before its first step.

    allow_import: whether the recipe may name a network to import, which runs code: the recipe of a
    person may, that of a run folder may not by itself.
    fresh: False for a run that is resumed, whose checkpoint has all weights.
    run_folder: that of a run that is resumed, whose tables of corrections are taken.

    Raises:
        UsageError: recipe, data, model and device do not fit each other.
    """
    chosen = pick_device(device)
    if recipe.training.deterministic:  # cuBLAS asks once, at the first matrix product
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    recipe = resolve(recipe, data, model, allow_import=allow_import, fresh=fresh, offline=offline)
    data = data if isinstance(data, Dataset) else None  # the recipe has its name or path now
    dataset = load_dataset(recipe, data, offline=offline, on_event=on_event, run_folder=run_folder)
    splits = make_splits(recipe, dataset, chosen)
    model = init_model(
        recipe,
        splits,
        model,
        allow_import=allow_import,
        fresh=fresh,
        offline=offline,
        on_event=on_event,
    )
    state = init_state(recipe, splits, model)
    if recipe.explain.report and recipe.explain.layers:
        check_layers(state.model, recipe.explain.layers, dataset.train.shape[1:])
    recipe, lines = resolve_auto(recipe, state, splits)
    steps = [] if recipe.probe and recipe.probe.only else [describe(state.schedule)]
    for line in (*steps, *lines):
        on_event(Message(line))
    return TrainSetup(recipe, dataset, splits, state)


def load_dataset(
    recipe: Recipe,
    data: Dataset | str | Path | None,
    *,
    offline: bool,
    on_event: OnEvent,
    run_folder: Path | None = None,
) -> Dataset:
    """Load `data`, by default the recipe's own, and make the recipe's corrections.

    With `run_folder`, the tables of corrections are the copies in it. The data set's notes become
    messages.
    """
    tables = correction_tables(recipe, run_folder)
    if not isinstance(data, Dataset):
        data = load.data(
            str(data or recipe.data.source),
            image_size=recipe.data.image_size,
            offline=offline,
            skip_unreadable=recipe.data.skip_unreadable,
            resize=recipe.data.resize,
            layout=recipe.data.layout,
            label_column=recipe.data.label_column,
            classes=recipe.data.classes,
            on_progress=lambda *progress: on_event(Progress(*progress)),
        )
    if tables:
        data = corrected(data, **tables)
    if (channels := recipe.data.channels) is not None:
        data = replace(
            data,
            train=data.train.with_channels(channels),
            val=data.val and data.val.with_channels(channels),
            test=data.test.with_channels(channels),
        )
    for note in data.notes:
        on_event(Message(note))
    return data


def correction_tables(recipe: Recipe, run_folder: Path | None = None) -> dict[str, Path]:
    """Return the paths of the recipe's tables of corrections, by the names of their settings.

    A run keeps copies, so that it can be explained when a table was changed or removed since.

    Raises:
        UsageError: a table does not exist.
    """
    tables = {}
    for name in CORRECTIONS:
        if given := getattr(recipe.data, name):
            copy = run_folder and run_folder / f"{name}.csv"
            path = copy if copy and copy.is_file() else Path(given).expanduser()
            if not path.exists():
                raise UsageError(f"data.{name} = {given!r} does not exist; give a CSV file")
            tables[name] = path
    return tables


def make_splits(recipe: Recipe, dataset: Dataset, device: torch.device) -> TrainData:
    """Make the training and validation split on the device; the test set stays where it is."""
    channels, size = dataset.train.channels, dataset.train.shape[-1]
    check_augment(recipe.augment, channels, size)
    early, name = recipe.training.progressive, recipe.model.name
    smallest = MIN_PX.get(name, 1)
    if early and not smallest <= early.px < size:
        raise UsageError(
            f"training.progressive.px = {early.px} is not below the images' {size} px and at least "
            f"{smallest}, which {name} needs"
        )
    train_split, val = train_and_val(dataset, recipe)
    return TrainData(
        train=train_split.to(device),
        val=val and val.to(device),
        stats=_statistics(recipe.data.normalize, train_split),
        classes=dataset.classes,
    )


def _statistics(normalize: str | Normalization, train: Split) -> Statistics:
    """Return the mean and deviation that images are normalized by, as `data.normalize` says."""
    if normalize == "measured":
        return statistics(train)
    stats = _IMAGENET if isinstance(normalize, str) else Statistics(normalize.mean, normalize.std)
    channels = train.channels
    if not len(stats.mean) == len(stats.std) == channels:
        raise UsageError(
            f"data.normalize has {len(stats.mean)} means and {len(stats.std)} deviations, but the "
            f"images have {channels} channels; give one of each a channel, or "
            'data.normalize = "measured"'
        )
    return stats
