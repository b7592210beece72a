"""The doctor: look for errors in a recipe and its data, or in a run.

`diagnosis.diagnose` does so for your own PyTorch objects.
"""

from pathlib import Path

import torch
import torch.nn.functional as F

from ..datasets import Dataset
from ..datasets.augment import normalize
from ..errors import UsageError
from ..events import OnEvent
from ..recipe import Recipe
from ..recipe.presets import load_recipe
from ..recipe.sources import is_run
from ..records import evenly_spaced
from ..runs.run import Run
from ..training.precision import to_memory_format
from ..training.restore import preserve_state
from ..training.setup import TrainSetup, prepare
from .dataset_checks import DATASET_CHECKS, DatasetProbe
from .diagnose import OBJECT_CHECKS
from .issues import Diagnosis, apply_checks
from .probe import MAX_IMAGES, run_probe
from .recipe_checks import RECIPE_CHECKS, images_at_a_time
from .run_checks import RUN_CHECKS

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
    on_event: OnEvent | None = None,
) -> Diagnosis:
    """Look for errors in a run, or in a recipe and its data before any training.

    Args:
        what: a run or its folder, which is judged by its files; or a recipe, its name or its .toml
            file, whose data is read and whose network is given one batch.
        data: in place of the recipe's.

    Raises:
        UsageError: `what` is neither, or recipe, data and device do not fit each other.
    """
    if isinstance(what, Run) or (not isinstance(what, Recipe) and is_run(str(what))):
        if data is not None:
            raise UsageError(
                f"{what} is a run, which is judged by its folder: leave data out, or name a recipe"
            )
        return apply_checks(what if isinstance(what, Run) else Run.open(what), RUN_CHECKS)
    setup = prepare(
        what if isinstance(what, Recipe) else load_recipe(str(what)),
        data=data,
        model=None,
        device=device,
        offline=offline,
        on_event=on_event or (lambda event: None),
    )
    return (
        apply_checks(DatasetProbe(setup.dataset), DATASET_CHECKS)
        + apply_checks(setup, RECIPE_CHECKS)
        + _check_network(setup)
    )


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
