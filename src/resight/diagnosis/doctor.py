"""The doctor: look for errors in a recipe and its data, or in a run.

`diagnosis.diagnose` does so for your own PyTorch objects.
"""

import re
from pathlib import Path

import torch
import torch.nn.functional as F

from .. import figures
from ..datasets import Dataset
from ..datasets.augment import normalize
from ..errors import UsageError
from ..events import Message, OnEvent, ignore_events
from ..recipe import Recipe
from ..recipe.presets import load_recipe
from ..recipe.sources import is_run
from ..records import evenly_spaced
from ..runs.run import Run
from ..training.precision import to_memory_format
from ..training.restore import preserve_state
from ..training.setup import TrainSetup, prepare
from .copy_pairs import write_pairs
from .dataset_checks import DATASET_CHECKS
from .dataset_probe import DatasetProbe
from .diagnose import OBJECT_CHECKS
from .issues import Diagnosis, apply_checks
from .probe import MAX_IMAGES, run_probe
from .recipe_checks import RECIPE_CHECKS, images_at_a_time
from .run_checks import RUN_CHECKS

PRODUCTS_BEFORE_TRAINING = 2**24  # pairs of images that are compared
NETWORK_CHECKS = (
    "outputs",
    "first-loss",
    "gradients",
    "initial-weights",
    "dropout",
    "evaluation-mode",
    "weight-decay",
)


def doctor(
    what: str | Path | Recipe | Run,
    *,
    data: Dataset | str | Path | None = None,
    device: str = "auto",
    offline: bool = False,
    pairs: str | Path | None = None,
    allow_import: bool = False,
    on_event: OnEvent | None = None,
) -> Diagnosis:
    """Look for errors in a run, or in a recipe and its data before any training.

    Args:
        what: a run or its folder, which is judged by its files; or a recipe, its name or its .toml
            file, whose data is read and whose network is given one batch.
        data: in place of the recipe's.
        pairs: a PNG or SVG file in which the near copies of training images are drawn; their ids
            are written beside it as .csv.
        allow_import: whether a recipe may import its network, which runs code. A run is judged
            without its network.

    Raises:
        UsageError: `what` is neither, or recipe, data and device do not fit each other.
    """
    if isinstance(what, Run) or (not isinstance(what, Recipe) and is_run(str(what))):
        if data is not None or pairs is not None:
            name = "data" if data is not None else "pairs"
            raise UsageError(
                f"{what} is a run, which is judged by its folder: leave {name} out, or name a "
                "recipe"
            )
        return apply_checks(what if isinstance(what, Run) else Run.open(what), RUN_CHECKS)
    if pairs is not None:
        figures.check_path(Path(pairs))
    on_event = on_event or ignore_events
    setup = prepare(
        what if isinstance(what, Recipe) else load_recipe(str(what)),
        data=data,
        model=None,
        device=device,
        offline=offline,
        on_event=on_event,
        allow_import=allow_import,
    )
    probe = DatasetProbe(setup.dataset, balanced=setup.recipe.balances_classes)
    diagnosis = apply_checks(probe, DATASET_CHECKS) + apply_checks(setup, RECIPE_CHECKS)
    if pairs is not None:
        on_event(Message(write_pairs(probe, Path(pairs))))
    return diagnosis + _check_network(setup)


def tell_issues(setup: TrainSetup, on_event: OnEvent, *, in_minutes: bool = False) -> None:
    """Say which errors and warnings the recipe and its data have, before the first step.

    The network is not run, and near copies are looked for among a part of the images of a large
    data set, so that it takes about a second. Nothing is refused. `in_minutes`: the length of the
    run in minutes chose its epochs, so that setting them would change nothing.
    """
    probe = DatasetProbe(
        setup.dataset,
        balanced=setup.recipe.balances_classes,
        max_products=PRODUCTS_BEFORE_TRAINING,
    )
    checks = {name: check for name, check in RECIPE_CHECKS.items() if name != "heat-map-size"}
    diagnosis = apply_checks(probe, DATASET_CHECKS) + apply_checks(setup, checks)
    issues = (*diagnosis.errors, *diagnosis.warnings)
    for issue in issues:
        fix = issue.fix
        if in_minutes:
            fix = re.sub(r"^set schedule\.epochs=\d+", "give more minutes", fix)
            fix = re.sub(r" schedule\.epochs=\d+", ", or give more minutes", fix)
        text = f"{issue.severity} {issue.check}: {issue.message}; {fix}"
        on_event(Message(text, issue.severity))
    if issues:
        on_event(Message("resight doctor shows more, with the same recipe and data"))


def _check_network(setup: TrainSetup) -> Diagnosis:
    """Check the recipe's network on one batch, as `diagnose` checks yours."""
    state, splits = setup.state, setup.splits
    rows = evenly_spaced(len(splits.train), min(images_at_a_time(setup), MAX_IMAGES))
    part = splits.train.select(torch.from_numpy(rows))
    images = to_memory_format(normalize(part.images, splits.stats), setup.recipe.training)
    batches = [(images, part.labels)]
    with preserve_state(state.optimizer, state.model):
        probe = run_probe(state.model, state.optimizer, F.cross_entropy, batches)
        return apply_checks(probe, {name: OBJECT_CHECKS[name] for name in NETWORK_CHECKS})
