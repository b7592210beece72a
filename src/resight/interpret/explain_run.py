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
from ..cam.layers import default_layers
from ..datasets import Split, Statistics
from ..errors import ResightError, UsageError
from ..events import Message, OnEvent, Progress
from ..figures import LayerHeatmap, NeighborImages, SheetImages
from ..metrics.mistakes import (
    LabelIssue,
    Mistake,
    MistakeOrder,
    additional_rows,
    csv_rows,
    label_issues,
    mistakes,
    sheet_rows,
)
from ..recipe import Explain, Recipe
from ..records import IntArray, Predictions
from ..runs.gallery import GalleryMaps, write_gallery
from ..runs.run import RunFolder
from ..training.setup import TrainSetup
from .layer_maps import (
    PER_IMAGE,
    LayerMaps,
    areas_table,
    faithfulness_areas,
    layer_maps,
    predicted_and_other,
    shrink_maps,
)
from .neighbors import Neighbors, find_neighbors

NUM_NEIGHBORS = 3  # of each class, beside a suspicious label
MAX_GALLERY_CELLS = 64  # a side, of a map that the gallery is given; it keeps fewer


@dataclass(frozen=True)
class Explanation:
    """What `explain` found, and the names of the files it wrote into `folder`."""

    folder: Path
    files: tuple[str, ...]
    method: str
    layers: tuple[str, ...]  # with the size of their maps
    mistakes: tuple[Mistake, ...]
    suspicious: tuple[LabelIssue, ...]
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
class HeatMaps:
    """Heat maps of some rows of the test set, for two classes each, as the gallery takes them."""

    rows: IntArray  # (R,) the most wanted first
    maps: LayerMaps
    layers: tuple[str, ...]  # with the size of their maps on the sheets
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # of the layers' own maps


@dataclass(frozen=True)
class StepLog:
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
    folder: RunFolder, setup: TrainSetup, predictions: Predictions, on_event: OnEvent
) -> None:
    """Explain a run that has just ended, if its recipe says so; whatever happens, it returns.

    What fails is only a note, and Ctrl-C ends the explanation, not the run, which is complete.
    """
    recipe, splits = setup.recipe, setup.splits
    if not recipe.explain.report:
        return
    subject = Subject(
        setup.state.model, recipe, splits.stats, splits.train, setup.dataset.test, predictions
    )
    outcome, again = StepLog(), f"`resight explain {folder.path}` explains it"
    with outcome.step("explaining it"):
        try:
            found = explain_run(folder, subject, recipe.explain, on_event=on_event)
            if found.failed:
                on_event(Message(f"the run is complete; {again} anew"))
            return
        except KeyboardInterrupt:
            outcome.failed.append("explaining it was interrupted")
    with outcome.step("report.html"):
        html_report.report(folder.path)
    with outcome.step("the watch"):
        on_event(Message(f"the run is complete, but {'; '.join(outcome.failed)}; {again}"))


def explain_run(
    folder: RunFolder,
    subject: Subject,
    asked: Explain,
    *,
    rank: MistakeOrder = "loss",
    on_event: OnEvent,
) -> Explanation:
    """Everything about the mistakes of a finished run, into its folder; `asked` says what.

    Each step fails on its own, and the page, which needs the folder only, is made of what is there.
    """
    path, predictions, pictures = folder.path, subject.predictions, as_pictures(subject.test)
    found = mistakes(predictions, rank=rank)
    suspicious = label_issues(predictions)
    outcome, looked = StepLog(), HeatMaps(np.zeros(0, dtype=np.int64), {}, ())
    with outcome.step("mistakes.csv"):
        folder.write_csv("mistakes.csv", csv_rows(Mistake, found))
        outcome.files.append("mistakes.csv")
    with outcome.step("confused_pairs.png"):
        title = f"The most frequent mistakes, largest {rank} first in each row"
        figure = figures.pair_sheet(pictures, predictions, found, title)
        figures.save(figure, path / "confused_pairs.png")
        outcome.files.append("confused_pairs.png")
    with outcome.step("suspicious_labels.csv"):
        folder.write_csv("suspicious_labels.csv", csv_rows(LabelIssue, suspicious))
        outcome.files.append("suspicious_labels.csv")
    with outcome.step("suspicious_labels.png"):
        (path / "suspicious_labels.png").unlink(missing_ok=True)
        if suspicious:
            on_event(Progress("comparing with training images", 0, None))
            _draw_label_issues(path, subject, pictures, suspicious[: asked.images], outcome)
            outcome.files.append("suspicious_labels.png")
    with outcome.step("heat maps"):
        looked = _heat_maps(folder, subject, asked, rank=rank, on_event=on_event, outcome=outcome)
    with outcome.step("gallery"):
        _write_gallery(path, subject, looked, asked.method)
        outcome.files.append("gallery/")
    with outcome.step("report.html"):
        outcome.files.append(html_report.report(path).name)
    for line in (*outcome.notes, *outcome.failed):
        on_event(Message(line))
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


def _heat_maps(
    folder: RunFolder,
    subject: Subject,
    asked: Explain,
    *,
    rank: MistakeOrder,
    on_event: OnEvent,
    outcome: StepLog,
) -> HeatMaps:
    """Heat maps of the images on the sheets, which are drawn, and of more for the gallery."""
    predictions, model, test = subject.predictions, subject.model, subject.test
    wrong, right = sheet_rows(predictions, asked.images, rank=rank)
    sheet = np.concatenate([wrong, right])
    layers = asked.layers or default_layers(model, test.images.shape[1:])
    if not layers:
        outcome.notes.append(
            f"{type(model).__name__} has no layer whose output is a map (N, C, h, w) "
            "of a size to look at, so there are no heat maps; name layers to look at others"
        )
        return HeatMaps(sheet[:0], {}, ())
    more = sheet[:0]
    if asked.method in PER_IMAGE:
        outcome.notes.append(
            f"{asked.method} is slow: heat maps of the {len(sheet)} images on the sheets"
        )
    else:
        more = additional_rows(predictions, asked.maps, sheet)
    total, both = len(sheet) + len(more), predicted_and_other(predictions)

    def look(rows: IntArray, before: int, side: int | None) -> LayerMaps:
        return layer_maps(
            model,
            test,
            subject.stats,
            both[rows],
            layers=layers,
            method=asked.method,
            rows=rows,
            side=side,
            on_batch=lambda done: on_event(
                Progress(f"heat maps of {total:,} images", before + done, total)
            ),
        )

    maps = look(sheet, 0, None)
    with outcome.step("sheets of heat maps"):
        _draw_heat(folder, subject, maps, wrong, right, rank=rank, asked=asked, outcome=outcome)
    names = tuple(LayerHeatmap(layer, values).name for layer, values in maps.items())
    sizes = {layer: values.shape[-2:] for layer, values in maps.items()}
    maps = {layer: shrink_maps(values, MAX_GALLERY_CELLS) for layer, values in maps.items()}
    if len(more):
        rest = look(more, len(sheet), MAX_GALLERY_CELLS)
        maps = {layer: np.concatenate([maps[layer], rest[layer]]) for layer in layers}
    return HeatMaps(np.concatenate([sheet, more]), maps, names, sizes)


def _draw_heat(
    folder: RunFolder,
    subject: Subject,
    maps: LayerMaps,
    wrong: IntArray,
    right: IntArray,
    *,
    rank: MistakeOrder,
    asked: Explain,
    outcome: StepLog,
) -> None:
    """The sheets, and `heatmaps.csv`; maps are those of the wrong rows, then of the right ones."""
    predictions, rows = subject.predictions, np.concatenate([wrong, right])
    pictures, others = as_pictures(subject.test), predicted_and_other(predictions)[:, 1]
    numbers: LayerMaps = {}
    with outcome.step("deletion and insertion"):
        said = predictions.preds[rows]
        numbers = faithfulness_areas(
            subject.model, subject.test, subject.stats, said, maps, rows=rows
        )
        folder.write_csv("heatmaps.csv", areas_table(predictions, rows, numbers, asked.method))
        outcome.files.append("heatmaps.csv")
    worst = f"Misclassified, the {len(wrong)} of largest {rank}, pair by pair"
    for name, at, title in (
        ("misclassified", slice(0, len(wrong)), worst),
        ("correct", slice(len(wrong), None), "Correct, evenly from the test set"),
    ):
        heats = [
            LayerHeatmap(layer, values[at], numbers[layer][at] if numbers else None)
            for layer, values in maps.items()
        ]
        chosen = rows[at]
        shown = SheetImages(pictures[chosen], predictions, chosen, others[chosen])
        figure = figures.heat_sheet(shown, heats, f"{title}: {asked.method}")
        file = f"{name}_{asked.method}.png"
        figures.save(figure, folder.path / file)
        outcome.files.append(file)


def _write_gallery(path: Path, subject: Subject, looked: HeatMaps, method: str) -> None:
    """The gallery; without heat maps, it has the pictures."""
    is_right = subject.predictions.correct[looked.rows][:, None, None]
    kept = [
        # The other map of a right answer is of the runner-up, which the gallery has no place for.
        GalleryMaps(layer, v[:, 0], np.where(is_right, v[:, 0], v[:, 1]), looked.sizes[layer])
        for layer, v in looked.maps.items()
    ]
    pictures = as_pictures(subject.test)
    write_gallery(path, pictures, subject.predictions, rows=looked.rows, maps=kept, method=method)


def _draw_label_issues(
    path: Path,
    subject: Subject,
    pictures: NDArray[np.uint8],
    found: Sequence[LabelIssue],
    outcome: StepLog,
) -> None:
    """`label_issues.png`: each beside its nearest training images of both classes."""
    predictions, rows = subject.predictions, np.array([label.row for label in found])
    beside: list[tuple[NeighborImages, NeighborImages]] = []
    note = ""
    with outcome.step("neighbors of suspicious labels"):
        try:
            names = predictions.classes
            alike, note = find_neighbors(
                subject.model,
                subject.test.select(torch.from_numpy(rows)),
                subject.train,
                [(names.index(label.given), names.index(label.suggested)) for label in found],
                subject.stats,
                k=NUM_NEIGHBORS,
                training=subject.recipe.training,
            )
            beside = [(_as_shown(given), _as_shown(other)) for given, other in alike]
        except UsageError as error:
            outcome.notes.append(f"suspicious labels without neighbors: {error}")
    title = "Is it the label? The most suspicious first"
    figure = figures.label_issue_sheet(pictures[rows], found, beside, title, note=note)
    figures.save(figure, path / "suspicious_labels.png")


def _as_shown(alike: Neighbors) -> NeighborImages:
    return NeighborImages(as_pictures(alike.images), alike.images.ids, alike.cosines)


def as_pictures(split: Split) -> NDArray[np.uint8]:
    """(N, H, W, C) as figures take them."""
    return np.asarray(split.images.permute(0, 2, 3, 1).cpu().numpy())
