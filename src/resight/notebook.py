"""Values as pictures: in notebooks, after `%load_ext resight`, or wherever `show` is called.

The values themselves know nothing of pictures. IPython is told how to show them, when it is asked
to load the extension and not before; it need not be installed.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from . import figures
from .cam import Heatmaps
from .datasets import Dataset
from .errors import ResightError, UsageError
from .figures import LayerHeatmap
from .interpret.explain_run import Explanation
from .lr_finder.suggest import LRCurve
from .metrics.classification import accuracy, confusion
from .metrics.mistakes import group_by_pair
from .optim.curve import trace
from .optim.schedules import Schedule, describe
from .records import History, Predictions
from .runs.run import Run

KINDS = (Dataset, Explanation, Heatmaps, History, LRCurve, Predictions, Run, Schedule)

_MAX_SHOWN = 10  # images and classes of which heat maps are shown, and sheets of an explanation
_MAX_MAPS_A_ROW = 60  # maps in a row, about


@dataclass(frozen=True)
class Display:
    """What a notebook shows in place of a value."""

    text: str  # one line, all there is where pictures cannot be shown
    pictures: tuple[bytes, ...] = field(default=(), repr=False)  # PNG
    notes: tuple[str, ...] = ()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """A lone picture as a PNG, as it says what it is; otherwise the words are shown as well."""
        bundle = {"text/plain": "\n".join((self.text, *self.notes))}
        coded = [b64encode(picture).decode() for picture in self.pictures]
        if len(coded) == 1 and not self.notes:
            bundle["image/png"] = coded[0]
        elif coded:
            words = "".join(f"<p>{escape(line)}</p>" for line in (self.text, *self.notes))
            bundle["text/html"] = words + "".join(
                f'<p><img src="data:image/png;base64,{code}" alt="{escape(self.text)}"></p>'
                for code in coded
            )
        return bundle


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext resight`: results as the last line of a cell show themselves as pictures."""
    for kind in KINDS:
        shell.display_formatter.mimebundle_formatter.for_type(kind, _bundle)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext resight`: as it was before."""
    for kind in KINDS:
        shell.display_formatter.mimebundle_formatter.pop(kind, None)


def _bundle(value: Any) -> dict[str, str]:
    return show(value)._repr_mimebundle_()


def show(value: Any, images: Tensor | None = None, *, classes: Sequence[str] = ()) -> Display:
    """A result as a picture: the last line of a cell, with or without the extension.

    Heat maps are shown over their `images` (N, C, H, W), uint8 or float of any range, if these are
    given; `classes` are the names of all classes.

    Raises:
        UsageError: a value of another kind, or images or names that are not those of the maps.
    """
    if not isinstance(value, KINDS):
        valid = ", ".join(kind.__name__ for kind in KINDS)
        raise UsageError(f"a {type(value).__name__} cannot be shown as a picture (valid: {valid})")
    if isinstance(value, Heatmaps):
        return _heatmaps(value, images, classes)
    if images is not None or classes:
        raise UsageError(f"images and classes go with Heatmaps, not {type(value).__name__}")
    try:
        return _draw(value)
    except ResightError as error:  # there is nothing to draw, such as no finished epoch
        return Display(f"{type(value).__name__}: {error}")


def _draw(
    value: Dataset | Explanation | History | LRCurve | Predictions | Run | Schedule,
) -> Display:
    match value:
        case Run():
            return _run(value)
        case Explanation():
            return _explanation(value)
        case Dataset():
            return _dataset(value)
        case LRCurve(peak=peak, constant=constant, verdict=verdict):
            text = "do not trust it: " + "; ".join(verdict.reasons)
            if verdict.ok:
                text = f"peak {peak:.2g} for one cycle, {constant:.2g} for a rate that is held"
            return Display(f"learning-rate range test: {text}", (_png(figures.lr_curve(value)),))
        case Schedule(steps_per_epoch=steps):
            curve, epochs = trace(value), value.spec.epochs
            title = f"{value.spec.name}: {epochs:,} epochs of {steps:,} steps"
            figure = figures.schedule_curve(
                curve.lrs, curve.momenta, steps_per_epoch=steps, title=title
            )
            notes = (curve.watched,) if curve.watched else ()
            return Display(describe(value), (_png(figure),), notes)
        case History(epochs=rows):
            figure = figures.training_curves(value, None)
            return Display(f"loss and accuracy of {len(rows)} epochs", (_png(figure),))
        case Predictions(classes=classes):
            figure = figures.confusion_matrix(confusion(value), classes)
            return Display(_score(value), (_png(figure),))


def _png(figure: Figure) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "figure.png"
        figures.save(figure, path)
        return path.read_bytes()


def _run(run: Run) -> Display:
    """Accuracy, curves and the worst mistakes."""
    result = (
        f"stopped after {len(run.history.epochs)} epochs; go on with resight.resume(run.folder)"
    )
    if run.predictions is not None:
        result = _score(run.predictions)
    names = ("curves.png", "misclassified.png")
    return Display(f"{run.recipe.name}: {result}; {run.folder}", _files(run.folder, names))


def _score(predictions: Predictions) -> str:
    right = accuracy(predictions)
    return (
        f"{100 * right.value:.1f} % of {right.n:,} images right "
        f"(95 % interval {100 * right.low:.1f} to {100 * right.high:.1f} %)"
    )


def _explanation(explanation: Explanation) -> Display:
    """The sheets of what went wrong, and the most frequent mistakes in words."""
    layers = ", ".join(explanation.layers) or "no layer"
    text = f"{explanation.method} at {layers}; {explanation.folder}"
    pairs = [
        f"{true} taken for {pred}: {len(m)}"
        for (true, pred), m in group_by_pair(explanation.mistakes).items()
    ]
    notes = (
        (f"mistakes: {len(explanation.mistakes)}; most often {', '.join(pairs[:5])}",)
        if pairs
        else ()
    )
    beside = ("correct_", "confused_pairs")  # in the folder, not here
    names = [n for n in explanation.files if n.endswith(".png") and not n.startswith(beside)]
    return Display(
        text, _files(explanation.folder, names[:_MAX_SHOWN]), (*notes, *explanation.notes)
    )


def _files(folder: Path, names: Sequence[str]) -> tuple[bytes, ...]:
    """Those pictures of a folder that are there."""
    return tuple((folder / name).read_bytes() for name in names if (folder / name).is_file())


def _dataset(data: Dataset) -> Display:
    """One training image of each class, the first twenty classes."""
    first: dict[int, int] = {}  # class -> row
    for row, label in enumerate(data.train.labels.tolist()):
        first.setdefault(label, row)
    known = sorted(first)[:20]
    images = data.train.images[[first[k] for k in known]]
    size = "x".join(str(side) for side in images.shape[1:])
    text = (
        f"{data.name}: {len(data.train):,} training and {len(data.test):,} test images {size}, "
        f"{len(data.classes)} classes"
    )
    titles = [data.classes[k] for k in known]
    figure = figures.image_grid(_pixels(images), titles, title=text)
    return Display(text, (_png(figure),))


def _heatmaps(maps: Heatmaps, images: Tensor | None, classes: Sequence[str]) -> Display:
    """A row an image, the first ten: what it was taken for, and every layer and class.

    Of many classes, those with the largest logits of each image.
    """
    n, k = maps.logits.shape
    if images is not None and (
        images.ndim != 4
        or images.shape[1] not in (1, 3)
        or (len(images), *images.shape[2:]) != (n, *maps.image_size)
    ):
        height, width = maps.image_size
        raise UsageError(
            f"images are {tuple(images.shape)}; give the {n} of {height}x{width} px that the maps "
            "are of, with 1 or 3 channels"
        )
    if classes and len(classes) != k:
        raise UsageError(f"{len(classes)} names for {k} classes; give one for each")
    names = classes or [f"class {i}" for i in range(k)]
    best = maps.logits[:_MAX_SHOWN].softmax(dim=1).max(dim=1)
    captions = [
        f"{100 * p:.0f} %  {names[i]}" for p, i in zip(*(x.tolist() for x in best), strict=True)
    ]
    columns, notes = _columns(maps)
    heatmaps = [
        LayerHeatmap(
            layer,
            raw[:_MAX_SHOWN]
            .take_along_dim(columns[:, :, None, None], 1)
            .nan_to_num(0, 0, 0)
            .cpu()
            .numpy(),
        )
        for layer, raw in maps.maps.items()
    ]
    targets = maps.classes[:_MAX_SHOWN].gather(1, columns).tolist()
    class_names = [[names[c] for c in row] for row in targets]
    pictures = None if images is None else _pixels(images[:_MAX_SHOWN])
    figure = figures.heat_grid(pictures, captions, heatmaps, class_names)
    layers = ", ".join(heatmap.name for heatmap in heatmaps)
    text = f"{maps.method} at {layers}, {len(captions)} of {n} images"
    return Display(text, (_png(figure),), notes)


def _columns(maps: Heatmaps) -> tuple[Tensor, tuple[str, ...]]:
    """The maps (n, m) of each image that are shown: of many classes those of largest logit."""
    classes = maps.classes[:_MAX_SHOWN]  # (n, M)
    m, most = classes.shape[1], max(2, min(_MAX_SHOWN, _MAX_MAPS_A_ROW // len(maps.maps)))
    if m <= most:
        return torch.arange(m, device=classes.device).expand(classes.shape), maps.notes
    columns = maps.logits[:_MAX_SHOWN].gather(1, classes).topk(most, dim=1).indices
    return columns, (f"of {m} classes the {most} of largest logit are shown", *maps.notes)


def _pixels(images: Tensor) -> NDArray[np.uint8]:
    """(N, C, H, W) -> uint8 (N, H, W, C); floats from their smallest to their largest."""
    if images.is_floating_point():
        low, high = images.min(), images.max()
        images = (255 * (images - low) / (high - low).clamp(min=1e-12)).round().byte()
    return np.asarray(images.permute(0, 2, 3, 1).cpu().numpy())
