"""Which images a run is evaluated on, and what the number then means."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from ..datasets import Dataset, Split
from ..datasets.load import load_source
from ..datasets.readers.contents import LoadedData, ReadOptions
from ..datasets.splits import for_evaluation, joined, train_and_val
from ..errors import UsageError, suggest
from ..events import OnEvent, Progress, ignore_events
from ..recipe.toml import with_changes
from ..training.setup import load_dataset
from .checkpoint import ModelInfo
from .run import Run
from .trained_images import count_trained

SplitChoice = Literal["train", "val", "test", "all"]
_CHANGED = (  # of a run that keeps no digests of its training images
    "the data is not what it was in training, so images that the run was trained on may be among "
    "these, and the accuracy may be too high"
)


@dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate on.

    split: None takes the test split, else the validation split, else everything.
    changed_data: go on if the run's own data has changed since, or if most images of other data
    were trained on.
    """

    data: Dataset | str | Path | None = None
    split: SplitChoice | None = None
    changed_data: bool = False
    offline: bool = False
    skip_unreadable: bool = False
    layout: str | None = None


@dataclass(frozen=True)
class EvaluationImages:
    """The images, their labels as the run numbers its classes, and a line on what they are."""

    name: str
    images: Split
    description: str


def evaluation_images(
    run: Run, info: ModelInfo, options: EvaluationOptions, on_event: OnEvent
) -> EvaluationImages:
    """Return the images that a run is evaluated on.

    Of the run's own data these are its test images, never what it was trained on, unless `split`
    asks for that.

    Raises:
        UsageError: the run's own data has changed, most images of other data were trained on, a
            class is unknown to the run, the channels differ, or there is no such split.
    """
    own = _own_data(run, info, options, on_event)
    if own is not None:
        images, description = _own_split(own, info, options.split or "test")
        name, classes = own.name, own.classes
    else:
        recipe = info.recipe.data
        read = ReadOptions(
            image_size=info.image_size,
            skip_unreadable=options.skip_unreadable,
            resize=recipe.resize,
            layout=options.layout,
            on_progress=lambda *progress: on_event(Progress(*progress)),
        )
        name, loaded = load_source(str(options.data), read, offline=options.offline)
        loaded = _with_channels(loaded, recipe.channels)
        images, description = for_evaluation(name, loaded, options.split)
        classes = loaded.classes
    images, note = numbered_as_run(images, name, classes, info.classes)
    _check_channels(images, name, info)
    notes = [description, note]
    if own is None or _has_changed(own, run):
        notes.append(_trained_note(run, images, name, options))
    return EvaluationImages(name, images, "; ".join(filter(None, notes)))


def _trained_note(run: Run, images: Split, name: str, options: EvaluationOptions) -> str:
    """Return what a number means on data that is not the run's as it was; "" for new images.

    Raises:
        UsageError: most images were trained on, and `options` do not say to go on.
    """
    count, total = count_trained(run, images), len(images)
    source, data = run.recipe.data.source, options.data
    is_own = data is None or (not isinstance(data, Dataset) and _is_source(data, source))
    if count is None:
        return _CHANGED if is_own else ""
    if 2 * count > total and not options.changed_data and options.split not in ("train", "all"):
        raise UsageError(
            f"{count:,} of the {total:,} images of {name} are images that the run was trained on, "
            "so the accuracy would say little of new ones; give others, or go on by --changed-data"
        )
    if not count:
        return "the data has changed, but none of these was trained on" if is_own else ""
    return (
        f"the run was trained on {count:,} of these images, pixel for pixel, so the accuracy may "
        "be too high for new ones"
    )


def numbered_as_run(
    images: Split, name: str, classes: Sequence[str], run_classes: Sequence[str]
) -> tuple[Split, str]:
    """Return images with labels numbered by the run's classes, and a note if some are absent.

    Raises:
        UsageError: an image has a class that the run does not know.
    """
    present = [classes[label] for label in sorted({*images.labels.tolist()}) if label >= 0]
    unknown = [word for word in present if word not in run_classes]
    if unknown:
        raise UsageError(
            f"{name} has images of {_first_names(unknown)}, which the run was not trained on"
            f"{suggest(unknown[0].strip().lower(), run_classes)} (its classes are "
            f"{_first_names(run_classes)}); give data with these classes"
        )
    numbers = {word: number for number, word in enumerate(run_classes)}
    table = torch.tensor([numbers.get(word, -1) for word in classes] + [-1])  # -1 stays -1
    labels = table.to(images.labels.device)[images.labels]
    absent = len(run_classes) - len(present)
    note = f"{len(present)} of the run's {len(run_classes)} classes have images" if absent else ""
    return replace(images, labels=labels), note


def _own_data(
    run: Run, info: ModelInfo, options: EvaluationOptions, on_event: OnEvent
) -> Dataset | None:
    """Return the run's own data if that is what is evaluated, or data in memory; else None.

    Raises:
        UsageError: the run's own data has changed, and `options` do not say to go on.
    """
    data = options.data
    if isinstance(data, Dataset):
        # The recipe's corrections were of the run's own data.
        plain = {"data": {"relabel": None, "exclude": None}}
        recipe = with_changes(info.recipe, plain, origin="evaluate")
        return load_dataset(recipe, data, offline=options.offline, on_event=on_event)
    if data is None or _is_source(data, info.recipe.data.source):
        dataset = load_dataset(
            info.recipe, None, offline=options.offline, on_event=on_event, run_folder=run.folder
        )
        if _has_changed(dataset, run) and not options.changed_data:
            raise UsageError(
                f"the data in {info.recipe.data.source} has changed since the run was trained, so "
                "its test images may be among those that were trained on; put it back, or go on by "
                "--changed-data"
            )
        return dataset
    if run.summary is None:
        return None
    try:  # a copy of the run's data in another place
        dataset = load_dataset(
            info.recipe,
            data,
            offline=options.offline,
            on_event=ignore_events,
            run_folder=run.folder,
        )
    except UsageError:
        return None
    return None if _has_changed(dataset, run) else dataset


def _is_source(data: str | Path, source: str) -> bool:
    """Whether a name or path is the source of a run, whose recipe holds the resolved path."""
    return str(data) == source or str(Path(data).expanduser().resolve()) == source


def _has_changed(dataset: Dataset, run: Run) -> bool:
    """Return whether data is not what the run was trained on."""
    return run.summary is not None and run.summary.data.fingerprint != dataset.fingerprint


def _own_split(dataset: Dataset, info: ModelInfo, split: SplitChoice) -> tuple[Split, str]:
    if split == "test":
        return dataset.test, f"{len(dataset.test):,} images of the test split"
    if split == "train":
        return dataset.train, (
            f"{len(dataset.train):,} images that the run was trained on, which say nothing of new "
            "images"
        )
    if split == "all":
        images = joined([*dataset.splits.values()])
        return images, (
            f"all {len(images):,} images, of which the run was trained on {len(dataset.train):,}"
        )
    _, val = train_and_val(dataset, info.recipe)
    if val is None:
        raise UsageError(
            "the run had no validation images (data.val_fraction = none); take the test split"
        )
    return val, f"{len(val):,} validation images, by which the best epoch was chosen"


def _with_channels(loaded: LoadedData, channels: Literal[1, 3] | None) -> LoadedData:
    if channels is None:
        return loaded
    return loaded.with_splits(
        {name: split.with_channels(channels) for name, split in loaded.splits.items()}
    )


def _check_channels(images: Split, name: str, info: ModelInfo) -> None:
    channels = images.channels
    if channels != info.channels:
        raise UsageError(
            f"the images of {name} have {channels} channels, but the run was trained on "
            f"{info.channels}; give images with {info.channels} channels"
        )


def _first_names(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f", ... {len(names)} in all" if len(names) > limit else "")
