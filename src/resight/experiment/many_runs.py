"""Many runs of one recipe: over seeds, over folds, and beside what a project has published."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..datasets import Dataset
from ..events import OnEvent, ignore_events
from ..recipe import Recipe
from ..recipe.presets import load_recipe
from ..recipe.toml import with_changes
from ..runs.folds import CrossValidation, fold_recipes, predict_out_of_fold, write_out_of_fold
from ..runs.reproduction import Reproduction, project_recipe, write_reproduction
from ..runs.run import Run
from ..runs.series import Series, check_same, run_each, seed_recipes, write_series
from ..training.setup import load_dataset
from . import resume, train


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
    on_event: OnEvent = ignore_events,
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
    on_event: OnEvent = ignore_events,
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
    on_event: OnEvent = ignore_events,
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
        write_out_of_fold(folder, predictions, dataset.train, count=recipe.explain.images)
    result = CrossValidation(
        folder=folder,
        recipe=recipe,
        runs=runs,
        interrupted=predictions is None,
        predictions=predictions,
    )
    write_series(result)
    return result


def _train_each(
    folder: Path,
    recipes: Mapping[str, Recipe],
    *,
    data: Dataset | str | Path | None,
    on_event: OnEvent,
    **options: Any,
) -> tuple[Dataset, tuple[Run, ...]]:
    """Train recipes that differ in seed or fold alone; return their data and the finished runs."""
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
