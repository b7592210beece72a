"""Figures show the numbers they were given, whole, legible, and in the same bytes every time."""

import io
import itertools
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from resight import figures, metrics
from resight.errors import ResightError, UsageError
from resight.recipe import MultiStep, OneCycle, Triangular
from resight.records import EpochRow, History, Predictions
from resight.schedules import build_schedule

UGLY = ("$x^2", "a_{b", r"\frac", "猫", "line\nbreak", "\udcff", "w" * 60, "W" * 60, "", "$$")


def history(epochs=8, *, val=True, momentum=True, spec=None, steps=5) -> History:
    spec = spec or OneCycle(epochs=epochs, momentum_low=0.85, momentum_high=0.95)
    schedule = build_schedule(spec, lr=0.4, momentum=0.9, steps_per_epoch=steps)
    rates = [schedule.at(step) for step in range(schedule.total_steps)]
    rows = tuple(
        EpochRow(
            epoch=e,
            step=e * steps,
            lr=0.1,
            train_loss=2 / e,
            train_accuracy=1 - 0.8 / e,
            val_loss=2.2 / e if val else None,
            val_accuracy=1 - 0.9 / e if val else None,
            train_secs=1.0,
            images_per_sec=100.0,
        )
        for e in range(1, epochs + 1)
    )
    momenta = [rate.momentum if momentum else np.nan for rate in rates]
    lrs = np.array([rate.lr for rate in rates])
    return History(rows, lrs, np.array(momenta), np.zeros(len(lrs)))


def predictions(n=60, classes=("cat", "dog", "owl"), skill=2.0, ids=None) -> Predictions:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(classes), n)
    logits = rng.normal(size=(n, len(classes))) + skill * np.eye(len(classes))[labels]
    ids = ids or tuple(f"test/{i:05d}.png" for i in range(n))
    return Predictions(ids, logits.astype(np.float32), labels, tuple(classes))


def pictures(n, channels=3, size=8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, size, size, channels), np.uint8)


def many(k) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(k))


def confusion(classes, n=300) -> Figure:
    return figures.confusion_matrix(metrics.confusion(predictions(n, classes)), classes)


def grid(rows, *, channels=3, classes=("cat", "dog", "owl"), ids=None) -> Figure:
    p = predictions(classes=classes, ids=ids)
    rows = np.arange(rows)
    return figures.prediction_grid(pictures(len(rows), channels), p, rows, "Some images")


EVERY_FIGURE = {
    "curves": lambda: figures.training_curves(history(), 5),
    "curves, 1 epoch": lambda: figures.training_curves(history(1), 1),
    "curves, no validation": lambda: figures.training_curves(history(40, val=False), None),
    "rates": lambda: figures.rates_as_run(history()),
    "rates, 1 step": lambda: figures.rates_as_run(history(1, steps=1)),
    "rates, no momentum": lambda: figures.rates_as_run(history(momentum=False)),
    "rates, zigzag": lambda: figures.rates_as_run(history(50, spec=Triangular(epochs=50))),
    "confusion, 1 class": lambda: confusion(("cat",)),
    "confusion, 2 classes": lambda: confusion(("cat", "dog")),
    "confusion, 25 classes": lambda: confusion(many(25)),
    "confusion, 100 classes": lambda: confusion(many(100)),
    "confusion, ugly": lambda: confusion(UGLY),
    "confusion, large counts": lambda: figures.confusion_matrix(
        np.full((3, 3), 1234567), ("a", "b", "c")
    ),
    "per class": lambda: figures.per_class(metrics.per_class_accuracy(predictions())),
    "per class, 100 and ugly": lambda: figures.per_class(
        metrics.per_class_accuracy(predictions(classes=many(90) + UGLY))
    ),
    "reliability": lambda: figures.reliability(metrics.calibration(predictions(500))),
    "reliability, 1 image": lambda: figures.reliability(metrics.calibration(predictions(1))),
    "images": lambda: figures.image_grid(pictures(7), many(7), columns=3, title="Seven"),
    "images, none": lambda: figures.image_grid(pictures(0), [], title="None"),
    "images, one": lambda: figures.image_grid(pictures(1), ["x" * 90], title="$t" * 99),
    "predictions": lambda: grid(20),
    "predictions, none": lambda: grid(0),
    "predictions, grey": lambda: grid(3, channels=1),
    "predictions, ugly": lambda: grid(20, classes=UGLY, ids=(*UGLY, *["deep/" * 40] * 50)),
    "before and after": lambda: figures.before_after(
        pictures(2), np.stack([pictures(3)] * 2), [*UGLY[:1], UGLY[6]]
    ),
}


@pytest.fixture(params=EVERY_FIGURE, ids=str)
def figure(request) -> Figure:
    return EVERY_FIGURE[request.param]()


def texts(figure: Figure) -> list[Text]:
    """What is written, once it has been laid out."""
    figures.save(figure, Path(figure_folder) / "layout.png")
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    return [text for text in found if text.axes is None or text.axes.get_visible()]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]
