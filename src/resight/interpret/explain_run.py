"""A finished run explained: its mistakes, heat maps and suspicious labels, and report.html.

`Predictions -> Mistakes -> Evidence -> sheets, gallery -> report.html`
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .. import figures, html_report
from ..cam.layers import usual_layers
from ..datasets import Split, Statistics
from ..errors import ResightError, UsageError
from ..events import Loading, Note, Watch
from ..figures import LayerHeat, Neighbours, Shown
from ..metrics.mistakes import (
    Mistake,
    Rank,
    SuspiciousLabel,
    mistakes,
    more_rows,
    sheet_rows,
    suspicious_labels,
    table,
)
from ..recipe import Explain, Recipe
from ..records import Ints, Predictions
from ..runs.gallery import LayerMaps, write_gallery
from ..runs.run import RunFolder
from ..training.setup import Beginning
from .layer_maps import PER_IMAGE, Evidence, areas, areas_table, averaged, evidence, two_classes
from .neighbors import Alike, most_alike

NEIGHBOURS = 3  # of each class, beside a suspicious label
KEPT_CELLS = 64  # a side, of a map that the gallery is given; it keeps fewer


@dataclass(frozen=True)
class Explanation:
    """What `explain` found, and the names of the files it wrote into `folder`."""

    folder: Path
    files: tuple[str, ...]
    method: str
    layers: tuple[str, ...]  # with the size of their maps
    mistakes: tuple[Mistake, ...]
    suspicious: tuple[SuspiciousLabel, ...]
    notes: tuple[str, ...]  # what to know of it, one line each
    failed: tuple[str, ...] = ()  # the steps that went wrong, one line each


@dataclass(frozen=True)
class Subject:
    """A trained network, and what it was trained on and asked about."""

    model: nn.Module
    recipe: Recipe
    stats: Statistics
    train: Split
    test: Split
    predictions: Predictions  # of `test`


@dataclass(frozen=True)
class Looked:
    """Heat maps of some rows of the test set, for two classes each, as the gallery takes them."""

    rows: Ints  # (R,) the most wanted first
    maps: Evidence
    layers: tuple[str, ...]  # with the size of their maps on the sheets
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # of the layers' own maps


@dataclass(frozen=True)
class Outcome:
    """What has come of the steps so far."""

    files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """What goes wrong inside is a line in `failed`, and the other steps go on.

        The one place that catches everything: networks and watches are anybody's code, and what
        breaks in them must cost neither a training that is done nor the steps that would work.
        """
        try:
            yield
        except Exception as error:
            line, name = str(error).partition("\n")[0], type(error).__name__
            if not isinstance(error, ResightError):
                line = f"{name}: {line}" if line else name
            self.failed.append(f"{what} failed: {line}")


def explain_finished(
    folder: RunFolder, begun: Beginning, predictions: Predictions, watch: Watch
) -> None:
    """Explain a run that has just ended, if its recipe says so; whatever happens, it returns.

    What fails is only a note, and Ctrl-C ends the explanation, not the run, which is complete.
    """
    recipe, splits = begun.recipe, begun.splits
    if not recipe.explain.report:
        return
    subject = Subject(
        begun.state.model, recipe, splits.stats, splits.train, begun.dataset.test, predictions
    )
    outcome, again = Outcome(), f"`resight explain {folder.path}` explains it"
    with outcome.step("explaining it"):
        try:
            found = explain_run(folder, subject, recipe.explain, watch=watch)
            if found.failed:
                watch(Note(f"the run is complete; {again} anew"))
            return
        except KeyboardInterrupt:
            outcome.failed.append("explaining it was interrupted")
    with outcome.step("report.html"):
        html_report.build(folder.path)
    with outcome.step("the watch"):
        watch(Note(f"the run is complete, but {'; '.join(outcome.failed)}; {again}"))


def explain_run(
    folder: RunFolder, subject: Subject, asked: Explain, *, rank: Rank = "loss", watch: Watch
) -> Explanation:
    """Everything about the mistakes of a finished run, into its folder; `asked` says what.

    Each step fails on its own, and the page, which needs the folder only, is made of what is there.
    """
    path, predictions, pictures = folder.path, subject.predictions, as_pictures(subject.test)
    found = mistakes(predictions, rank=rank)
    suspicious = suspicious_labels(predictions)
    outcome, looked = Outcome(), Looked(np.zeros(0, dtype=np.int64), {}, ())
    with outcome.step("mistakes.csv"):
        folder.write_csv("mistakes.csv", table(Mistake, found))
        outcome.files.append("mistakes.csv")
    with outcome.step("confused_pairs.png"):
        title = f"The most frequent mistakes, largest {rank} first in each row"
        figure = figures.pair_sheet(pictures, predictions, found, title)
        figures.save(figure, path / "confused_pairs.png")
        outcome.files.append("confused_pairs.png")
    with outcome.step("suspicious_labels.csv"):
        folder.write_csv("suspicious_labels.csv", table(SuspiciousLabel, suspicious))
        outcome.files.append("suspicious_labels.csv")
    with outcome.step("suspicious_labels.png"):
        (path / "suspicious_labels.png").unlink(missing_ok=True)
        if suspicious:
            watch(Loading("comparing with training images", 0, None))
            _draw_suspicious(path, subject, pictures, suspicious[: asked.images], outcome)
            outcome.files.append("suspicious_labels.png")
    with outcome.step("heat maps"):
        looked = _look(folder, subject, asked, rank=rank, watch=watch, outcome=outcome)
    with outcome.step("gallery"):
        _keep(path, subject, looked, asked.method)
        outcome.files.append("gallery/")
    with outcome.step("report.html"):
        outcome.files.append(html_report.build(path).name)
    for line in (*outcome.notes, *outcome.failed):
        watch(Note(line))
    return Explanation(
        folder=path,
        files=tuple(outcome.files),
        method=asked.method,
        layers=looked.layers,
        mistakes=tuple(found),
        suspicious=tuple(suspicious),
        notes=tuple(outcome.notes),
        failed=tuple(outcome.failed),
    )


def _look(
    folder: RunFolder,
    subject: Subject,
    asked: Explain,
    *,
    rank: Rank,
    watch: Watch,
    outcome: Outcome,
) -> Looked:
    """Heat maps of the images on the sheets, which are drawn, and of more for the gallery."""
    predictions, model, test = subject.predictions, subject.model, subject.test
    wrong, right = sheet_rows(predictions, asked.images, rank=rank)
    sheet = np.concatenate([wrong, right])
    layers = asked.layers or usual_layers(model, test.images.shape[1:])
    if not layers:
        outcome.notes.append(
            f"{type(model).__name__} has no layer whose output is a map (N, C, h, w) "
            "of a size to look at, so there are no heat maps; name layers to look at others"
        )
        return Looked(sheet[:0], {}, ())
    more = sheet[:0]
    if asked.method in PER_IMAGE:
        outcome.notes.append(
            f"{asked.method} is slow: heat maps of the {len(sheet)} images on the sheets"
        )
    else:
        more = more_rows(predictions, asked.maps, sheet)
    total, both = len(sheet) + len(more), two_classes(predictions)

    def look(rows: Ints, before: int, side: int | None) -> Evidence:
        return evidence(
            model,
            test,
            subject.stats,
            both[rows],
            layers=layers,
            method=asked.method,
            rows=rows,
            side=side,
            on_batch=lambda done: watch(
                Loading(f"heat maps of {total:,} images", before + done, total)
            ),
        )

    maps = look(sheet, 0, None)
    with outcome.step("sheets of heat maps"):
        _draw_heat(folder, subject, maps, wrong, right, rank=rank, asked=asked, outcome=outcome)
    names = tuple(LayerHeat(layer, values).name for layer, values in maps.items())
    sizes = {layer: values.shape[-2:] for layer, values in maps.items()}
    maps = {layer: averaged(values, KEPT_CELLS) for layer, values in maps.items()}
    if len(more):
        rest = look(more, len(sheet), KEPT_CELLS)
        maps = {layer: np.concatenate([maps[layer], rest[layer]]) for layer in layers}
    return Looked(np.concatenate([sheet, more]), maps, names, sizes)


def _draw_heat(
    folder: RunFolder,
    subject: Subject,
    maps: Evidence,
    wrong: Ints,
    right: Ints,
    *,
    rank: Rank,
    asked: Explain,
    outcome: Outcome,
) -> None:
    """The sheets, and `heatmaps.csv`; maps are those of the wrong rows, then of the right ones."""
    predictions, rows = subject.predictions, np.concatenate([wrong, right])
    pictures, others = as_pictures(subject.test), two_classes(predictions)[:, 1]
    numbers: Evidence = {}
    with outcome.step("deletion and insertion"):
        said = predictions.preds[rows]
        numbers = areas(subject.model, subject.test, subject.stats, said, maps, rows=rows)
        folder.write_csv("heatmaps.csv", areas_table(predictions, rows, numbers, asked.method))
        outcome.files.append("heatmaps.csv")
    worst = f"Misclassified, the {len(wrong)} of largest {rank}, pair by pair"
    for name, at, title in (
        ("misclassified", slice(0, len(wrong)), worst),
        ("correct", slice(len(wrong), None), "Correct, evenly from the test set"),
    ):
        heats = [
            LayerHeat(layer, values[at], numbers[layer][at] if numbers else None)
            for layer, values in maps.items()
        ]
        chosen = rows[at]
        shown = Shown(pictures[chosen], predictions, chosen, others[chosen])
        figure = figures.heat_sheet(shown, heats, f"{title}: {asked.method}")
        file = f"{name}_{asked.method}.png"
        figures.save(figure, folder.path / file)
        outcome.files.append(file)


def _keep(path: Path, subject: Subject, looked: Looked, method: str) -> None:
    """The gallery; without heat maps, it has the pictures."""
    is_right = subject.predictions.correct[looked.rows][:, None, None]
    kept = [
        # The other map of a right answer is of the runner-up, which the gallery has no place for.
        LayerMaps(layer, v[:, 0], np.where(is_right, v[:, 0], v[:, 1]), looked.sizes[layer])
        for layer, v in looked.maps.items()
    ]
    pictures = as_pictures(subject.test)
    write_gallery(path, pictures, subject.predictions, rows=looked.rows, maps=kept, method=method)


def _draw_suspicious(
    path: Path,
    subject: Subject,
    pictures: NDArray[np.uint8],
    found: Sequence[SuspiciousLabel],
    outcome: Outcome,
) -> None:
    """`suspicious_labels.png`: each beside its nearest training images of both classes."""
    predictions, rows = subject.predictions, np.array([label.row for label in found])
    beside: list[tuple[Neighbours, Neighbours]] = []
    note = ""
    with outcome.step("neighbours of suspicious labels"):
        try:
            names = predictions.classes
            alike, note = most_alike(
                subject.model,
                subject.test.select(torch.from_numpy(rows)),
                subject.train,
                [(names.index(label.given), names.index(label.suggested)) for label in found],
                subject.stats,
                k=NEIGHBOURS,
                training=subject.recipe.training,
            )
            beside = [(_as_shown(given), _as_shown(other)) for given, other in alike]
        except UsageError as error:
            outcome.notes.append(f"suspicious labels without neighbours: {error}")
    title = "Is it the label? The most suspicious first"
    figure = figures.suspicious_sheet(pictures[rows], found, beside, title, note=note)
    figures.save(figure, path / "suspicious_labels.png")


def _as_shown(alike: Alike) -> Neighbours:
    return Neighbours(as_pictures(alike.images), alike.images.ids, alike.cosines)


def as_pictures(split: Split) -> NDArray[np.uint8]:
    """(N, H, W, C) as figures take them."""
    return np.asarray(split.images.permute(0, 2, 3, 1).cpu().numpy())
