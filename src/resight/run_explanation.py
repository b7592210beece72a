"""A finished run explained: its mistakes, heat maps and suspicious labels, and report.html.

`Predictions -> Mistakes -> Evidence -> sheets, gallery -> report.html`
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import figures, html_report
from .datasets import Split, Statistics
from .errors import ResightError, UsageError
from .evidence import PER_IMAGE, Evidence, evidence, usual_layers
from .figures import LayerHeat, Neighbours, Shown
from .gallery import LayerMaps, write_gallery
from .mistakes import (
    Mistake,
    Rank,
    SuspiciousLabel,
    mistakes,
    sheet_rows,
    suspicious_labels,
    table,
)
from .neighbours import features, nearest
from .preparation import Beginning, Loading, Note, Watch
from .recipe import Explain, Recipe
from .records import Ints, Predictions
from .run_folder import RunFolder

COMPARED = 10_000  # training images, at most, among which the neighbours are looked for
NEIGHBOURS = 3  # of each class, beside a suspicious label


@dataclass(frozen=True)
class Explanation:
    """What `explain` found, and the names of the files it wrote into `folder`."""

    folder: Path
    files: tuple[str, ...]
    method: str
    layers: tuple[str, ...]  # with the size of their maps
    mistakes: tuple[Mistake, ...]
    suspicious: tuple[SuspiciousLabel, ...]
    notes: tuple[str, ...]  # what could not be done, one line each


@dataclass(frozen=True)
class Subject:
    """A trained network, and what it was trained on and asked about."""

    model: nn.Module
    recipe: Recipe
    stats: Statistics
    train: Split
    test: Split
    predictions: Predictions  # of `test`


def explain_finished(
    folder: RunFolder, begun: Beginning, predictions: Predictions, watch: Watch
) -> None:
    """Explain a run that has just ended, if its recipe says so. What fails is only a note."""
    recipe, splits = begun.recipe, begun.splits
    if not recipe.explain.report:
        return
    subject = Subject(
        begun.state.model, recipe, splits.stats, splits.train, begun.dataset.test, predictions
    )
    try:
        explain_run(folder, subject, recipe.explain, watch=watch)
    except (ResightError, RuntimeError) as error:  # torch's own: memory, or a network it cannot do
        line = str(error).partition("\n")[0]
        watch(Note(f"the run is complete, but `resight explain {folder.path}` failed: {line}"))


def explain_run(
    folder: RunFolder, subject: Subject, asked: Explain, *, rank: Rank = "loss", watch: Watch
) -> Explanation:
    """Everything about the mistakes of a finished run, into its folder; `asked` says what."""
    path, predictions = folder.path, subject.predictions
    pictures = as_pictures(subject.test)
    found = mistakes(predictions, rank=rank)
    folder.write_csv("mistakes.csv", table(Mistake, found))
    heading = f"The most frequent mistakes, largest {rank} first in each row"
    figures.save(
        figures.pair_sheet(pictures, predictions, found, heading), path / "confused_pairs.png"
    )
    files, notes = ["mistakes.csv", "confused_pairs.png"], []

    suspicious = suspicious_labels(predictions)
    folder.write_csv("suspicious_labels.csv", table(SuspiciousLabel, suspicious))
    files.append("suspicious_labels.csv")
    (path / "suspicious_labels.png").unlink(missing_ok=True)
    if suspicious:
        watch(Loading("comparing with training images", 0, None))
        files.append("suspicious_labels.png")
        notes += _draw_suspicious(path, subject, pictures, suspicious[: asked.images])

    layers = asked.layers or usual_layers(subject.model, subject.test.images.shape[1:])
    if not layers:
        notes.append(
            f"{type(subject.model).__name__} has no layer whose output is a map (N, C, h, w) "
            "of a size to look at, so there are no heat maps; name layers to look at others"
        )
    heats, more = _draw_heat(path, subject, asked, layers, rank=rank, watch=watch)
    notes += more
    if layers:
        files += [f"misclassified_{asked.method}.png", f"correct_{asked.method}.png"]
    files += ["gallery/", html_report.build(path).name]
    for note in notes:
        watch(Note(note))
    return Explanation(
        path, tuple(files), asked.method, heats, tuple(found), tuple(suspicious), tuple(notes)
    )


def _draw_heat(
    path: Path,
    subject: Subject,
    asked: Explain,
    layers: Sequence[str],
    *,
    rank: Rank,
    watch: Watch,
) -> tuple[tuple[str, ...], list[str]]:
    """Sheets of wrong and right images and the gallery; names of the layers, and notes."""
    predictions, pictures = subject.predictions, as_pictures(subject.test)
    wrong, right = sheet_rows(predictions, asked.images, rank=rank)
    rows = _rows_with_maps(predictions, asked, wrong, right) if layers else wrong[:0]
    notes = []
    if layers and asked.method in PER_IMAGE:
        notes.append(f"{asked.method} is slow: heat maps of the {len(rows)} images on the sheets")
    others = np.where(predictions.correct, runners_up(predictions), predictions.labels)[rows]
    maps: Evidence = {}
    if layers:
        what = f"heat maps of {len(rows):,} images"
        maps = evidence(
            subject.model,
            subject.test.select(torch.from_numpy(rows)),
            subject.stats,
            np.stack([predictions.preds[rows], others], axis=1),
            layers=layers,
            method=asked.method,
            on_batch=lambda done: watch(Loading(what, done, len(rows))),
        )
    place = {row: i for i, row in enumerate(rows.tolist())}
    worst = f"Misclassified, the {len(wrong)} of largest {rank}, pair by pair"
    for name, chosen, title in (
        ("misclassified", wrong, worst),
        ("correct", right, "Correct, evenly from the test set"),
    ):
        at = [place[row] for row in chosen.tolist() if row in place]
        heats = [LayerHeat(layer, values[at]) for layer, values in maps.items()]
        if layers:
            shown = Shown(pictures[chosen], predictions, chosen, others[at])
            figures.save(
                figures.heat_sheet(shown, heats, f"{title}: {asked.method}"),
                path / f"{name}_{asked.method}.png",
            )
    is_right = predictions.correct[rows][:, None, None]
    kept = [
        # The other map of a right answer is of the runner-up, which the gallery has no place for.
        LayerMaps(layer, values[:, 0], np.where(is_right, values[:, 0], values[:, 1]))
        for layer, values in maps.items()
    ]
    write_gallery(path, pictures, predictions, rows=rows, maps=kept, method=asked.method)
    names = tuple(LayerHeat(layer, values).name for layer, values in maps.items())
    return names, notes


def _rows_with_maps(predictions: Predictions, asked: Explain, wrong: Ints, right: Ints) -> Ints:
    """Rows to look at: those on the sheets, then the other mistakes, then right ones evenly."""
    rows = np.concatenate([wrong, right])
    if asked.method in PER_IMAGE:
        return rows
    more = np.array([m.row for m in mistakes(predictions)], dtype=np.int64)
    more = more[~np.isin(more, rows)]
    room = max(asked.maps - len(rows), 0)
    rows = np.concatenate([rows, more[:room]])
    rest = np.setdiff1d(np.flatnonzero(predictions.correct), rows)
    room = min(max(asked.maps - len(rows), 0), len(rest))
    return np.concatenate([rows, rest[np.linspace(0, len(rest) - 1, room).astype(int)]])


def _draw_suspicious(
    path: Path, subject: Subject, pictures: NDArray[np.uint8], found: Sequence[SuspiciousLabel]
) -> list[str]:
    """`suspicious_labels.png`: each beside its nearest training images of both classes."""
    predictions, train = subject.predictions, subject.train
    rows = np.array([label.row for label in found])
    evenly = torch.linspace(0, len(train) - 1, min(COMPARED, len(train))).long()
    compared, notes, beside = train.select(evenly), [], []
    asked = subject.test.select(torch.from_numpy(rows)).to(train.images.device)
    try:
        queries, known = (
            features(subject.model, split, subject.stats, training=subject.recipe.training)
            for split in (asked, compared)
        )
    except UsageError as error:
        notes.append(f"suspicious labels without neighbours: {error}")
    else:
        for query, label in zip(queries, found, strict=True):
            pair = [
                _most_alike(query, known, compared, predictions.classes.index(name))
                for name in (label.given, label.suggested)
            ]
            beside.append((pair[0], pair[1]))
    of = f"{len(compared):,} of " if len(compared) < len(train) else ""
    figure = figures.suspicious_sheet(
        pictures[rows],
        found,
        beside,
        "Is it the label? The most suspicious first",
        note=f"most alike among {of}{len(train):,} training images, by cosine of the features "
        "that the last linear layer is given"
        if beside
        else "",
    )
    figures.save(figure, path / "suspicious_labels.png")
    return notes


def _most_alike(query: Tensor, known: Tensor, split: Split, label: int) -> Neighbours:
    """The nearest images of `split` with that label; `known` are the features of all."""
    of_class = (split.labels == label).nonzero().flatten()
    rows, cosines = nearest(query[None], known[of_class], NEIGHBOURS)
    chosen = split.select(of_class[rows[0]])
    return Neighbours(as_pictures(chosen), chosen.ids, tuple(cosines[0].tolist()))


def runners_up(predictions: Predictions) -> Ints:
    """(N,) the class with the second largest logit."""
    logits = predictions.logits.copy()
    logits[np.arange(len(predictions)), predictions.preds] = -np.inf
    return np.asarray(logits.argmax(axis=1), dtype=np.int64)


def as_pictures(split: Split) -> NDArray[np.uint8]:
    """(N, H, W, C) as figures take them."""
    return np.asarray(split.images.permute(0, 2, 3, 1).cpu().numpy())
