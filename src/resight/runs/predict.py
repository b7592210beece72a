"""What a run predicts for picture files of your own, and what its answers are worth."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..datasets import Split, read_pictures
from ..datasets.readers.labeled import natural_order
from ..datasets.tree import list_folder
from ..errors import UsageError
from ..events import Message, OnEvent, Progress, show_events
from ..files import write_csv
from ..metrics.confidence import THRESHOLDS, CoverageRow, check_threshold, with_temperature
from ..metrics.intervals import Interval
from ..networks.unwrap import device_of
from ..text import table
from ..training.device import pick_device
from ..training.features import features
from .checkpoint import ModelInfo, load_model
from .confidence import Reference, read_reference
from .inference import predict_images
from .run import Run

_CHUNK = 256  # pictures that are decoded and predicted together


@dataclass(frozen=True)
class ImagePrediction:
    """What a network makes of one picture: class names with probabilities, likeliest first.

    unsure: whether the probability is below the threshold that was asked for.
    distance: from the training pictures in the network's features; 99 % of the validation images
    have at most 1. None where the run cannot tell.
    """

    id: str
    ranking: tuple[tuple[str, float], ...]
    unsure: bool = False
    distance: float | None = None

    @property
    def unlike(self) -> bool:
        """Whether the picture is unlike the training pictures: its distance is above 1."""
        return self.distance is not None and self.distance > 1

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as plain Python, fit for JSON."""
        judged = {"unsure": self.unsure, "distance": self.distance, "unlike": self.unlike}
        return {"id": self.id, "classes": dict(self.ranking), **judged}


@dataclass(frozen=True)
class PicturePredictions(Sequence[ImagePrediction]):
    """The predictions of picture files, in order, and what stands beside them.

    unreadable: the files that could not be read, with the reason.
    coverage: the table of thresholds, from the run's validation images; empty without them.
    """

    pictures: tuple[ImagePrediction, ...]
    classes: tuple[str, ...]
    temperature: float
    unreadable: dict[str, str]
    unsure_below: float | None
    coverage: tuple[CoverageRow, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: Any) -> Any:
        return self.pictures[row]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python, fit for JSON."""
        return {
            "pictures": [picture.to_dict() for picture in self.pictures],
            "unreadable": self.unreadable,
            "temperature": self.temperature,
            "unsure_below": self.unsure_below,
            "coverage": [asdict(row) for row in self.coverage],
        }

    def text(self, top: int) -> str:
        """Return a line for each picture with its `top` classes, and the table of thresholds."""
        lines = [_line(picture, top) for picture in self.pictures]
        if self.unsure_below is not None and self.coverage:
            lines += ["", "of the run's validation images, if only sure answers count:"]
            lines += [coverage_text(self.coverage)]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text(3)

    def write_csv(self, path: Path) -> None:
        """Write a row for each picture: file, class, marks, and the probability of each class."""
        header = ["file", "class", "confidence", "unsure", "distance", "unlike"]
        rows: list[list[Any]] = [header + [f"p({name})" for name in self.classes]]
        for picture in self.pictures:
            probs, (name, confidence) = dict(picture.ranking), picture.ranking[0]
            marks = [picture.unsure, picture.distance, picture.unlike]
            if picture.distance is None:
                marks[2] = None
            rows.append([picture.id, name, confidence, *marks, *(probs[c] for c in self.classes)])
        write_csv(path, rows)


def _line(picture: ImagePrediction, top: int) -> str:
    shares = ", ".join(f"{name} {p:.1%}" for name, p in picture.ranking[:top])
    marks = ["unsure"] if picture.unsure else []
    if picture.unlike:
        marks.append(f"unlike the training pictures (distance {picture.distance:.1f})")
    return f"{picture.id}: {shares}" + (f"  [{'; '.join(marks)}]" if marks else "")


def coverage_text(rows: Sequence[CoverageRow]) -> str:
    """Return the table of thresholds as text, in percent with 95 % intervals."""
    cells = [
        (f">= {row.threshold:g}", *map(_percent, (row.coverage, row.accuracy))) for row in rows
    ]
    return table(cells, "confidence", "answered, %", "correct among them, %")


def _percent(share: Interval | None) -> str:
    if share is None:
        return "-"
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def predict(
    run: str | Path | Run,
    images: Sequence[str | Path],
    *,
    unsure_below: float | None = None,
    skip_unreadable: bool = False,
    model: nn.Module | None = None,
    device: str = "auto",
    on_event: OnEvent = show_events,
) -> PicturePredictions:
    """Classify picture files by a run's kept weights, sized and colored as in training.

    `images` are files, folders with pictures anywhere below them, and patterns such as
    `photos/*.jpg`. Probabilities are at the run's temperature. `unsure_below` marks answers whose
    probability is lower. With `skip_unreadable`, files that cannot be read are listed in the
    result, unless none can be.

    Raises:
        UsageError: no pictures, or one that does not exist or cannot be read.
    """
    if not images:
        raise UsageError("no pictures were given; name at least one file")
    if unsure_below is not None:
        check_threshold(unsure_below)
    run = Run.open(run)
    network, info = load_model(
        run.folder, model, pick_device(device), allow_import=run.allow_import
    )
    paths = [path for image in images for path in _expand(Path(image))]
    reference = read_reference(run.folder, info)
    for note in _notes(info, reference, unsure_below):
        on_event(Message(note))
    pictures: list[ImagePrediction] = []
    unreadable: dict[str, str] = {}
    for first in range(0, len(paths), _CHUNK):
        for part in _read(paths[first : first + _CHUNK], info, skip_unreadable, unreadable):
            pictures += _predict(network, part, info, reference, unsure_below)
        on_event(Progress("predict", min(first + _CHUNK, len(paths)), len(paths)))
    if not pictures:
        rest = f" (nor can {len(paths) - 1:,} others be read)" if len(paths) > 1 else ""
        raise UsageError(f"{next(iter(unreadable.values()))}{rest}")
    thresholds = THRESHOLDS if unsure_below is None else (*THRESHOLDS, unsure_below)
    return PicturePredictions(
        pictures=tuple(pictures),
        classes=info.classes,
        temperature=info.temperature,
        unreadable=unreadable,
        unsure_below=unsure_below,
        coverage=reference.coverage_rows(thresholds),
    )


def _notes(info: ModelInfo, reference: Reference, unsure_below: float | None) -> Iterator[str]:
    """Yield what is different from training, and what the run cannot tell."""
    yield from info.notes
    if reference.note:
        yield f"no picture is called unlike the training pictures: {reference.note}"
    if unsure_below is not None and not len(reference.confidence):
        yield "there is no table of thresholds, as it takes validation images"


def _expand(path: Path) -> list[Path]:
    """Return the pictures below a folder, the files that a pattern matches, or the file itself.

    Raises:
        UsageError: there is none.
    """
    if path.is_dir():
        tree = list_folder(path)
        if not tree.pictures:
            raise UsageError(f"{path} holds no pictures; it has {tree.overview()}")
        return [tree.path(name) for name in natural_order(tree.pictures)]
    if path.exists() or not glob.has_magic(str(path)):
        return [path]
    matches = [match for match in glob.glob(str(path), recursive=True) if Path(match).is_file()]
    if not matches:
        raise UsageError(f"no file matches {path}; see what is there, or name a folder")
    return [Path(match) for match in natural_order(matches)]


def _read(
    paths: Sequence[Path], info: ModelInfo, skip: bool, unreadable: dict[str, str]
) -> Iterator[Split]:
    """Yield the pictures that can be read, in order; note the reason for each that cannot.

    One that cannot is found by halving, so that good pictures are decoded together.
    """
    try:
        yield read_pictures(
            paths,
            image_size=info.image_size,
            channels=info.channels,
            resize=info.recipe.data.resize,
        )
    except UsageError as error:
        if not skip:
            raise
        if len(paths) == 1:
            unreadable[str(paths[0])] = str(error)
            return
        middle = len(paths) // 2
        yield from _read(paths[:middle], info, skip, unreadable)
        yield from _read(paths[middle:], info, skip, unreadable)


def _predict(
    model: nn.Module,
    images: Split,
    info: ModelInfo,
    reference: Reference,
    unsure_below: float | None,
) -> Iterator[ImagePrediction]:
    predictions = with_temperature(predict_images(model, images, info), info.temperature)
    distances = None
    if not reference.note:
        on_device = images.to(device_of(model, images.device))
        queries = features(model, on_device, info.stats, training=info.recipe.training).cpu()
        distances = reference.distances(queries)
    for row, (id, probs) in enumerate(zip(predictions.ids, predictions.probs, strict=True)):
        order = (-predictions.logits[row]).argsort(kind="stable")
        yield ImagePrediction(
            id,
            tuple((info.classes[k], float(probs[k])) for k in order),
            unsure_below is not None and bool(probs.max() < unsure_below),
            None if distances is None else float(distances[row]),
        )
