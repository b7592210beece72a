"""A recipe that the `tiny` data set is trained by in about a second."""

import resight

SETTINGS = [
    "model.name=swift",
    "model.widths=[8,8,8]",
    "training.batch_size=32",
    "training.micro_batch=none",
    "schedule.name=constant",
    "schedule.epochs=2",
    "optimizer.lr=0.05",
    "augment.crop=none",
    "explain.report=false",
    "explain.pictures=false",
    "explain.images=3",
]
# One epoch at a low rate, so that it errs.
EXPLAINED = [
    "schedule.epochs=1",
    "optimizer.lr=0.001",
    "explain.report=true",
    "explain.images=4",
]


def tiny_recipe(*settings: str) -> resight.Recipe:
    """Return the recipe of the shared run `trained_run`, with some settings changed."""
    return resight.with_overrides(resight.load_recipe("base"), [*SETTINGS, *settings])


def explained_recipe(*settings: str) -> resight.Recipe:
    """Return the recipe of the shared run `explained_run`, with some settings changed.

    That run alone draws curves too: `explain.pictures=true`.
    """
    return tiny_recipe(*EXPLAINED, *settings)
