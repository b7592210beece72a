"""Results as pictures: in notebooks after `%load_ext resight`, or wherever you call `show`.

The results themselves do not know how they are drawn, and IPython need not be installed.
"""

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import events, figures
from ..cam import Heatmaps
from ..datasets import Dataset
from ..errors import ResightError, UsageError
from ..figures import LayerHeatmap
from ..figures.style import encoded
from ..files import atomic_write, read_bytes
from ..interpret.explain_run import Explanation
from ..lr_finder.suggest import LRCurve
from ..metrics.classification import confusion, test_result
from ..metrics.mistakes import group_by_pair
from ..optim.curve import trace
from ..optim.schedules import Schedule, describe
from ..records import History, ImageArray, Predictions
from ..runs.run import Run
from .live import LiveProgress, png_tag

_MAX_SHOWN = 10  # images and classes of which heat maps are shown, and sheets of an explanation
_MAX_MAPS_A_ROW = 60  # heat maps in a row, about
# The page in a frame of no origin: its script cannot reach the notebook around it, whoever made it.
_FRAME = (
    '<iframe sandbox="allow-scripts allow-downloads" title="{title}" srcdoc="{page}" '
    'style="width: 100%; height: 48em; border: 1px solid #ccc"></iframe>'
)


@dataclass(frozen=True)
class Display:
    """What a notebook shows in place of a value."""

    text: str  # one line, all there is where pictures cannot be shown
    pictures: tuple[bytes, ...] = field(default=(), repr=False)  # PNG
    notes: tuple[str, ...] = ()
    page: str | None = field(default=None, repr=False)  # HTML, shown in place of the pictures

    def save(self, path: str | Path) -> tuple[Path, ...]:
        """Write the picture as a PNG; several as `name-1.png`, `name-2.png`, ...; return the files.

        Raises:
            UsageError: there is no picture, or the name does not end in `.png`.
            ResightError: a file cannot be written.
        """
        path = Path(path)
        if not self.pictures or path.suffix != ".png":
            what = "has no picture to save" if not self.pictures else f"is saved as PNG, not {path}"
            raise UsageError(f"{self.text!r} {what}")
        files: tuple[Path, ...] = (path,)
        if len(self.pictures) > 1:
            numbers = range(1, len(self.pictures) + 1)
            files = tuple(path.with_stem(f"{path.stem}-{number}") for number in numbers)
        for file, picture in zip(files, self.pictures, strict=True):
            with atomic_write(file) as temporary:
                temporary.write_bytes(picture)
        return files

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        """Return a lone picture as PNG, which can say what it is, and all else as HTML."""
        lines = (self.text, *self.notes)
        bundle = {"text/plain": "\n".join(lines)}
        if self.page is not None:
            bundle["text/html"] = _FRAME.format(title=escape(self.text), page=escape(self.page))
        elif len(self.pictures) == 1 and not self.notes:
            bundle["image/png"] = b64encode(self.pictures[0]).decode()
        elif self.pictures:
            images = (png_tag(picture, self.text) for picture in self.pictures)
            bundle["text/html"] = "".join(
                f"<p>{part}</p>" for part in (*map(escape, lines), *images)
            )
        return bundle


def show(value: Any, images: Tensor | None = None, *, classes: Sequence[str] = ()) -> Display:
    """Return a result as a picture: the last line of a cell, with or without the extension.

    A run is shown as its report, or as its pictures if it has none yet. Heat maps are shown over
    their `images` (N, C, H, W), uint8 or float of any range, if you pass them; `classes` are the
    names of all classes.

    Raises:
        UsageError: a value of another kind, or images or names that do not fit the heat maps.
    """
    if isinstance(value, Heatmaps):
        return _heatmaps(value, images, classes)
    if images is not None or classes:
        raise UsageError(f"images and classes go with Heatmaps, not {type(value).__name__}")
    shown = _draw(value)
    if isinstance(value, Run) and (report := value.folder / "report.html").is_file():
        return replace(shown, page=read_bytes(report).decode(errors="replace"))
    return shown


def _draw(value: Any) -> Display:
    """A value as its pictures; a run has its report only in `show`, as it has megabytes."""
    name = type(value).__name__
    draw = next((DRAW[kind] for kind in type(value).__mro__ if kind in DRAW), None)
    if draw is None:
        valid = ", ".join(kind.__name__ for kind in DRAW)
        raise UsageError(f"a {name} cannot be shown as a picture (valid: {valid})")
    try:
        return draw(value)
    except ResightError as error:  # there is nothing to draw, such as no finished epoch
        return Display(f"{name}: {error}")


def load_ipython_extension(shell: Any) -> None:
    """Let results show themselves on the last line of a cell, and runs while they go.

    `%load_ext resight` calls it. A run that gets an `on_event` of yours shows nothing by itself.
    """
    unload_ipython_extension(shell)  # a second %load_ext changes nothing
    progress = LiveProgress()
    events.show_events_by(progress)
    shell.events.register("pre_run_cell", progress.begin)  # a cell shows what runs in it
    for kind in DRAW:
        formatter = shell.display_formatter.mimebundle_formatter
        formatter.for_type(kind, lambda value: _draw(value)._repr_mimebundle_())


def unload_ipython_extension(shell: Any) -> None:
    """Show results as before: `%unload_ext resight`."""
    events.show_events_by(None)
    for callback in [*shell.events.callbacks["pre_run_cell"]]:
        if isinstance(getattr(callback, "__self__", None), LiveProgress):
            shell.events.unregister("pre_run_cell", callback)
    for kind in DRAW:
        shell.display_formatter.mimebundle_formatter.pop(kind, None)


def _files(folder: Path, names: Sequence[str]) -> tuple[bytes, ...]:
    """The pictures of a folder, without those that are no longer there."""
    return tuple(read_bytes(folder / name) for name in names if (folder / name).is_file())


def _run(run: Run) -> Display:
    """Accuracy, curves and the worst mistakes."""
    result = (
        f"stopped after {len(run.history.epochs)} epochs; go on with resight.resume(run.folder)"
    )
    if run.predictions is not None:
        result = f"test accuracy {run.test}"
    pictures = _files(run.folder, ("curves.png", "misclassified.png"))
    return Display(f"{run.recipe.name}: {result}; {run.folder}", pictures)


def _explanation(explanation: Explanation) -> Display:
    """The sheets of mistakes, and the most frequent mistakes in words."""
    layers = ", ".join(explanation.layers) or "no layer"
    pairs = [
        f"{true} taken for {pred}: {len(group)}"
        for (true, pred), group in group_by_pair(explanation.mistakes).items()
    ]
    words = f"mistakes: {len(explanation.mistakes)}; most often {', '.join(pairs[:5])}"
    names = [
        name
        for name in explanation.files
        if name.endswith(".png") and not name.startswith(("correct_", "confused_pairs"))
    ]
    return Display(
        f"{explanation.method} at {layers}; {explanation.folder}",
        _files(explanation.folder, names[:_MAX_SHOWN]),
        (*([words] if pairs else []), *explanation.notes),
    )


def _dataset(data: Dataset) -> Display:
    """One training image of each class, the first twenty classes."""
    labels, rows = np.unique(data.train.labels.numpy(), return_index=True)
    images = data.train.images_at(torch.from_numpy(rows[:20]))
    size = "x".join(map(str, images.shape[1:]))
    text = (
        f"{data.name}: {len(data.train):,} training and {len(data.test):,} test images {size}, "
        f"{len(data.classes)} classes"
    )
    names = [data.classes[label] for label in labels[:20]]
    return Display(text, (encoded(figures.image_grid(_pixels(images), names, title=text)),))


def _lr_curve(curve: LRCurve) -> Display:
    text = "do not trust it: " + "; ".join(curve.verdict.reasons)
    if curve.verdict.ok:
        text = f"peak {curve.peak:.2g} for one cycle, {curve.constant:.2g} for a rate that is held"
    return Display(f"learning-rate range test: {text}", (encoded(figures.lr_curve(curve)),))


def _schedule(schedule: Schedule) -> Display:
    curve, steps = trace(schedule), schedule.steps_per_epoch
    title = f"{schedule.spec.name}: {schedule.spec.epochs:,} epochs of {steps:,} steps"
    figure = figures.schedule_curve(curve.lrs, curve.momenta, steps_per_epoch=steps, title=title)
    return Display(
        describe(schedule), (encoded(figure),), (curve.watched,) if curve.watched else ()
    )


def _history(history: History) -> Display:
    picture = encoded(figures.training_curves(history, None))
    return Display(f"loss and accuracy of {len(history.epochs)} epochs", (picture,))


def _predictions(predictions: Predictions) -> Display:
    picture = encoded(figures.confusion_matrix(confusion(predictions), predictions.classes))
    return Display(f"accuracy {test_result(predictions)}", (picture,))


def _heatmaps(
    heatmaps: Heatmaps, images: Tensor | None = None, names: Sequence[str] = ()
) -> Display:
    """A row an image, the first ten: its prediction, and a map of every layer and class.

    Of many classes, those with the largest logits of each image.
    """
    n, k = heatmaps.logits.shape
    height, width = heatmaps.image_size
    if images is not None and images.shape not in {(n, c, height, width) for c in (1, 3)}:
        raise UsageError(
            f"images are {tuple(images.shape)}; give the {n} of {height}x{width} px that the maps "
            "are of, with 1 or 3 channels"
        )
    if names and len(names) != k:
        raise UsageError(f"{len(names)} names for {k} classes; give one for each")
    names = names or [f"class {i}" for i in range(k)]
    logits, classes = heatmaps.logits[:_MAX_SHOWN], heatmaps.classes[:_MAX_SHOWN]  # (n, K), (n, M)
    maps = {layer: raw[:_MAX_SHOWN].nan_to_num(0, 0, 0) for layer, raw in heatmaps.maps.items()}
    notes = heatmaps.notes
    m, most = classes.shape[1], max(2, min(_MAX_SHOWN, _MAX_MAPS_A_ROW // len(maps)))
    if m > most:
        columns = logits.gather(1, classes).topk(most, dim=1).indices  # (n, most)
        classes = classes.gather(1, columns)
        at = columns[:, :, None, None]
        maps = {layer: raw.take_along_dim(at, 1) for layer, raw in maps.items()}
        notes = (f"of {m} classes the {most} of largest logit are shown", *notes)
    probs, preds = heatmaps.probabilities()[:_MAX_SHOWN].max(dim=1)
    heats = [LayerHeatmap(layer, raw.cpu().numpy()) for layer, raw in maps.items()]
    figure = figures.heat_grid(
        None if images is None else _pixels(images[:_MAX_SHOWN]),
        [
            f"{100 * p:.0f} %  {names[i]}"
            for p, i in zip(probs.tolist(), preds.tolist(), strict=True)
        ],
        heats,
        [[names[c] for c in row] for row in classes.tolist()],
    )
    layers = ", ".join(heat.name for heat in heats)
    text = f"{heatmaps.method} at {layers}, {len(logits)} of {n} images"
    return Display(text, (encoded(figure),), notes)


def _pixels(images: Tensor) -> ImageArray:
    """(N, C, H, W) -> uint8 (N, H, W, C); floats from their smallest to their largest."""
    if images.is_floating_point():
        low, high = images.min(), images.max()
        images = (255 * (images - low) / (high - low).clamp(min=1e-12)).round().byte()
    return np.asarray(images.permute(0, 2, 3, 1).cpu().numpy())


DRAW: dict[type, Callable[[Any], Display]] = {
    Dataset: _dataset,
    Explanation: _explanation,
    Heatmaps: _heatmaps,
    History: _history,
    LRCurve: _lr_curve,
    Predictions: _predictions,
    Run: _run,
    Schedule: _schedule,
}
