"""Records to pictures: each function takes values and gives a matplotlib `Figure`; `save` writes.

Made for print: one scale for what is compared, and the Okabe-Ito colours with a second cue
(line style, marker or sign) for every difference of hue. pyplot is not used, so no window, no
global figure; a user's own matplotlib settings do not change the pictures.

Pictures are uint8 (N, H, W, C), C = 1 or 3. Names and ids come from outside and are drawn as
they are: `$` starts no formula, a control character becomes a question mark.
"""

import io
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, font_manager, style
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .errors import ResightError, UsageError
from .metrics import Calibration, Interval, wilson
from .records import Floats, History, Ints, Predictions

Pictures = NDArray[np.uint8]

BLUE, VERMILION, SKY, GREY = "#0072B2", "#D55E00", "#9CCBEA", "#595959"

_DPI = 160

# Asked for in this order, each glyph from the first that has it, so that names in other scripts
# are readable where the system has a font for them. matplotlib brings DejaVu Sans.
_FONTS = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "Hiragino Sans",
    "Arial Unicode MS",
)
_STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.dpi": _DPI,
    "font.size": 9,
    "grid.color": "#E4E4E4",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "resight",  # the same ids in every run
    "text.parse_math": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@contextmanager
def _style() -> Iterator[None]:
    installed = set(font_manager.get_font_names())
    fonts = [font for font in _FONTS if font in installed]
    with style.context(["default", _STYLE, {"font.family": fonts}]), warnings.catch_warnings():
        # A name may hold letters that no font here has; they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


# --- curves ---------------------------------------------------------------------------------


@_style()
def training_curves(history: History, best_epoch: int | None) -> Figure:
    """Loss and accuracy of each epoch, train and validation on one scale; the best epoch marked.

    Raises UsageError if no epoch is finished.
    """
    rows = _finished(history)
    epochs = [row.epoch for row in rows]
    figure = Figure(figsize=(8, 3.4))
    panels = figure.subplots(1, 2)
    for axes, name, scale in zip(panels, ("loss", "accuracy"), (1, 100), strict=True):
        for split, look in (
            ("train", {"color": BLUE, "linestyle": "--", "marker": "o"}),
            ("val", {"color": VERMILION, "linestyle": "-", "marker": "s"}),
        ):
            values = [getattr(row, f"{split}_{name}") for row in rows]
            curve = [math.nan if v is None or not math.isfinite(v) else scale * v for v in values]
            if np.isfinite(curve).any():
                label = {"train": "train", "val": "validation"}[split]
                size = 3 if len(rows) <= 30 else 0
                axes.plot(epochs, curve, label=label, markersize=size, **look)
        if best_epoch is not None:
            axes.axvline(
                best_epoch, color=GREY, linestyle=":", label=f"best epoch: {best_epoch}", zorder=1
            )
        axes.set_title(name.capitalize() + (" (%)" if scale == 100 else ""))
        axes.set_xlabel("epoch")
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        if name == "loss" or len(rows) == 1:
            axes.update_datalim([(epochs[0], 0)])
            axes.autoscale_view(scalex=False)
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def rates_as_run(history: History) -> Figure:
    """The learning rate and momentum that each step was taken with."""
    steps_per_epoch = _finished(history)[0].step
    title = "Learning rate and momentum as run"
    return schedule_curve(
        history.lrs, history.momenta, steps_per_epoch=steps_per_epoch, title=title
    )


@_style()
def schedule_curve(lrs: Floats, momenta: Floats, *, steps_per_epoch: int, title: str) -> Figure:
    """Learning rate over momentum, by epoch (below) and step (above), corner values written.

    `lrs` and `momenta` are (steps,); NaN in `momenta` stands for none, and an all-NaN row of
    momenta is left out. Step i is drawn at its end, (i + 1) / steps_per_epoch epochs.
    """
    if len(lrs) == 0 or len(lrs) != len(momenta):
        raise UsageError(f"{len(lrs)} learning rates and {len(momenta)} momenta make no curve")
    rows = [("learning rate", lrs, BLUE)]
    if np.isfinite(momenta).any():
        rows.append(("momentum", momenta, VERMILION))
    figure = Figure(figsize=(7, 1.4 + 1.7 * len(rows)))
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    epochs = np.arange(1, len(lrs) + 1) / steps_per_epoch
    for axes, (name, values, colour) in zip(panels, rows, strict=True):
        axes.plot(epochs, values, color=colour, marker="o" if len(lrs) == 1 else "")
        axes.set_ylabel(name)
        axes.set_xlim(-0.02 * epochs[-1], 1.02 * epochs[-1])
        axes.margins(y=0.22)
        _write_corners(axes, epochs, values)
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    above = panels[0].secondary_xaxis(
        "top", functions=(lambda x: x * steps_per_epoch, lambda x: x / steps_per_epoch)
    )
    above.set_xlabel("step")
    above.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.suptitle(_clean(title), x=0.01, ha="left", fontsize=10)
    return figure


def _write_corners(axes: Axes, x: Floats, values: Floats, most: int = 11) -> None:
    """Write the value where the curve starts, turns, jumps and ends: all, or the outermost."""
    corners = _corners(values)
    if len(corners) > most:
        corners = sorted({0, int(np.nanargmax(values)), int(np.nanargmin(values)), len(values) - 1})
    for i in corners:
        around = values[[max(i - 1, 0), min(i + 1, len(values) - 1)]]
        above = values[i] >= around.mean()
        side = "left" if i == 0 else "right" if i == len(values) - 1 else "center"
        axes.plot(x[i], values[i], "o", color="black", markersize=3, zorder=3)
        axes.annotate(
            f"{values[i]:.4g}",
            (x[i], values[i]),
            xytext=(0, 4 if above else -4),
            textcoords="offset points",
            ha=side if len(values) > 1 else "center",
            va="bottom" if above else "top",
            fontsize=8,
        )


def _corners(values: Floats) -> list[int]:
    """Start, end and every step where the curve changes between rising, flat and falling.

    A corner with the value of the one before says nothing new and is left out.
    """
    change = np.diff(values)
    change[np.abs(change) <= 1e-12 * np.nanmax(np.abs(values))] = 0
    turns = np.flatnonzero(np.diff(np.sign(change))) + 1
    found = [0]
    for i in [*turns.tolist(), len(values) - 1]:
        if not math.isclose(values[i], values[found[-1]], rel_tol=1e-6):
            found.append(i)
    return found


def _finished(history: History) -> Sequence[Any]:
    if not history.epochs:
        raise UsageError("the run has no finished epoch, so there is nothing to draw yet")
    return history.epochs


# --- numbers --------------------------------------------------------------------------------


@_style()
def confusion_matrix(confusion: Ints, classes: Sequence[str]) -> Figure:
    """(K, K) counts [true, pred]; the colour is the share of the row, on a square-root scale.

    The scale makes the rare confusions visible beside the diagonal. Counts are written up to 25
    classes; beyond, only colours; beyond 100, not every name.
    """
    k = len(classes)
    totals = confusion.sum(axis=1, keepdims=True)  # (K, 1)
    shares = confusion / np.maximum(totals, 1)
    side = max(2.2, 0.44 * k) if k <= 25 else 10.5
    figure = Figure(figsize=(side + 2.2, side + 1.4), layout="compressed")
    axes = figure.subplots()
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    picture = axes.imshow(shares, cmap="Blues", norm=norm)
    if k <= 25:
        _write_counts(axes, confusion, colormaps["Blues"](norm(shares)))

    ticks = np.arange(0, k, math.ceil(k / 100))
    names = _short_names(classes, 24)[:: math.ceil(k / 100)]
    size = 8 if k <= 25 else 6
    axes.set_yticks(ticks, names, fontsize=size)
    axes.set_xticks(ticks, names, fontsize=size)
    if max(map(len, names)) * 0.08 > side / k:  # inches: the names do not fit side by side
        slant: dict[str, Any] = {"rotation": 45 if k <= 25 else 90, "rotation_mode": "anchor"}
        axes.set_xticks(ticks, names, fontsize=size, ha="right", va="center", **slant)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.grid(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(
        picture, ax=axes, fraction=0.04, aspect=30, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1]
    )
    bar.ax.set_yticklabels(["0", "1", "5", "20", "50", "100"])
    bar.set_label("% of the true class")
    right, n = int(np.trace(confusion)), int(confusion.sum())
    axes.set_title(f"{right:,} of {n:,} right")
    return figure


def _write_counts(axes: Axes, counts: Ints, colours: Floats) -> None:
    """Write the counts but the zeros, black or white; `colours` are the cells' (K, K, 4)."""
    size = min(8.0, 40 / max(4, len(str(counts.max(initial=0)))))
    light = colours[..., :3] @ (0.299, 0.587, 0.114) > 0.55  # (K, K)
    for true, pred in zip(*np.nonzero(counts), strict=True):
        ink = "black" if light[true, pred] else "white"
        text = str(counts[true, pred])
        axes.text(pred, true, text, ha="center", va="center", fontsize=size, color=ink)


@_style()
def per_class(accuracies: Mapping[str, Interval | None]) -> Figure:
    """The accuracy of each class with its 95 % interval, the best class on top."""
    known = {name: interval for name, interval in accuracies.items() if interval is not None}
    order = sorted(known, key=lambda name: known[name].value)
    names = [name for name, interval in accuracies.items() if interval is None] + order
    short = dict(zip(accuracies, _short_names(list(accuracies), 28), strict=True))
    step, size = (0.26, 8) if len(names) <= 30 else (0.13, 6)
    figure = Figure(figsize=(6.4, 1.1 + step * max(len(names), 2)))
    axes = figure.subplots()
    for y, name in enumerate(names):
        text = "no images"
        if name in known:
            interval = known[name]
            value, low, high = 100 * interval.value, 100 * interval.low, 100 * interval.high
            axes.barh(y, value, height=0.7, color=SKY)
            axes.plot([low, high], [y, y], color="black", linewidth=1.2, marker="|", markersize=4)
            text = f"{value:.1f}   of {interval.n:,}"
        axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=size)
    axes.set_yticks(range(len(names)), [short[name] for name in names], fontsize=size)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(0, 100)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("accuracy (%), with its 95 % interval")
    return figure


@_style()
def reliability(calibration: Calibration) -> Figure:
    """Accuracy against confidence with 95 % intervals, above the number of images in each bin."""
    figure = Figure(figsize=(4.4, 5.2))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1, label="perfect")
    label = "model, with 95 % intervals"
    for row in calibration.bins:
        left, width = 100 * row.low, 100 * (row.high - row.low)
        bottom.bar(left, row.count, width, align="edge", color=SKY, edgecolor="white")
        if row.confidence is None or row.accuracy is None:
            continue
        share = wilson(round(row.accuracy * row.count), row.count)
        x = 100 * row.confidence
        top.plot([x, x], [100 * share.low, 100 * share.high], color=BLUE, linewidth=1)
        top.plot(x, 100 * share.value, "o", color=BLUE, markersize=4, clip_on=False, label=label)
        label = "_"  # one entry in the legend
    top.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy (%)")
    top.set_title(f"Expected calibration error {100 * calibration.ece:.1f} %")
    figure.legend(loc="outside lower center", ncols=2)
    bottom.set(xlabel="confidence (%)", ylabel="images")
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    return figure


# --- pictures -------------------------------------------------------------------------------


@_style()
def image_grid(
    images: Pictures, titles: Sequence[str], *, columns: int = 5, title: str = ""
) -> Figure:
    """(N, H, W, C) pictures in rows, each under its title; without any, the figure says so."""
    _check_pictures(images, titles, "titles")
    figure, cells = _grid(images, _lefts(min(columns, len(images))), title, above=0.18)
    for axes, text in zip(cells, titles, strict=True):
        _write(axes, "", text, (0, 1), 3)
    return figure


@_style()
def prediction_grid(
    images: Pictures, predictions: Predictions, rows: Ints, title: str, *, columns: int = 5
) -> Figure:
    """What the model said of some images: sign, confidence, prediction, true class and id.

    `rows` (R,) chooses from `predictions`; `images` (R, H, W, C) are the pictures of these rows.
    Without rows the figure says that there are none.
    """
    _check_pictures(images, rows, "rows")
    n = len(predictions)
    figure, cells = _grid(
        images,
        _lefts(min(columns, len(images))),
        title,
        above=0.34,
        below=0.16,
        nothing=f"none of {n:,} images" if n else "no images",
    )
    for axes, row in zip(cells, rows, strict=True):
        sign, colour = ("✓", BLUE) if predictions.correct[row] else ("✗", VERMILION)
        verdict = f"{sign} {100 * predictions.confidence[row]:.0f} %  "
        said = predictions.classes[predictions.preds[row]]
        true = predictions.classes[predictions.labels[row]]
        _write(axes, verdict, said, (0, 1), 14, color=colour, fontweight="bold")
        _write(axes, "true: ", true, (0, 1), 4)
        _write(axes, "", predictions.ids[row], (0, 0), -9, fontsize=6.5, color=GREY)
    return figure


@_style()
def before_after(before: Pictures, after: Pictures, titles: Sequence[str]) -> Figure:
    """Augmentation: a row an image, the original, then its draws.

    `before` is (N, H, W, C), `after` (N, D, H, W, C): D >= 1 draws of each of the N images.
    """
    _check_pictures(before, titles, "titles")
    n = len(before)
    if after.ndim != 5 or len(after) != n or after.shape[1] == 0:
        raise UsageError(
            f"after has shape {after.shape}; for {n} images it must be "
            f"({n}, draws, height, width, channels)"
        )
    draws = after.shape[1]
    lefts = _lefts(draws + 1)
    lefts[1:] = [left + 2 * _GAP for left in lefts[1:]]  # sets the original apart
    together = np.concatenate([before[:, None], after], axis=1)  # (N, 1 + D, H, W, C)
    flat = together.reshape(-1, *before.shape[1:])
    figure, cells = _grid(flat, lefts, "Original, then as augmented", above=0.18)
    for axes, text in zip(cells[:: draws + 1], titles, strict=True):
        _write(axes, "", text, (0, 1), 3)
    return figure


def _check_pictures(images: Pictures, partners: Sequence[Any] | Ints, what: str) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UsageError(
            f"images are {images.dtype} {images.shape}; figures take uint8 (N, H, W, 1 or 3)"
        )
    if len(images) != len(partners):
        raise UsageError(f"{len(images)} images but {len(partners)} {what}; give one for each")


_SIDE, _GAP, _HEAD = 1.4, 0.12, 0.36  # inches: a picture, the space around it, the title


def _lefts(columns: int) -> list[float]:
    """Where each column begins, in inches."""
    return [_GAP + column * (_SIDE + _GAP) for column in range(max(columns, 1))]


def _grid(
    images: Pictures,
    lefts: Sequence[float],
    title: str,
    *,
    above: float,
    below: float = 0.0,
    nothing: str = "no images",
) -> tuple[Figure, list[Axes]]:
    """(N, H, W, C) pictures, in columns that begin at `lefts`, and their axes.

    All in inches and fixed, with `above` and `below` left for text: what is written cannot
    change the size of a picture.
    """
    high = _SIDE * min(max(images.shape[1] / max(images.shape[2], 1), 0.5), 2.0)
    rows = max(1, math.ceil(len(images) / len(lefts)))
    pitch = above + high + below + _GAP
    width, height = max(lefts[-1] + _SIDE + _GAP, 4.5), _HEAD + rows * pitch
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("none")
    heading = figure.text(_GAP / width, 1 - 0.25 / height, "", fontsize=11)
    _fit(heading, "", title, width - 2 * _GAP)
    if len(images) == 0:
        figure.text(0.5, 0.4, nothing, ha="center", fontsize=11, color=GREY)
    cells = []
    for i, image in enumerate(images):
        row, column = divmod(i, len(lefts))
        bottom = height - _HEAD - row * pitch - above - high
        box = (lefts[column] / width, bottom / height, _SIDE / width, high / height)
        cells.append(axes := figure.add_axes(box))
        axes.axis("off")
        axes.imshow(image[:, :, 0] if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=255)
    return figure, cells


def _write(
    axes: Axes, lead: str, name: str, corner: tuple[int, int], lift: float, **look: Any
) -> None:
    """Write `lead` and a name, as wide as the picture at most, `lift` points over its corner."""
    text = axes.annotate(
        "",
        corner,
        (0, lift),
        xycoords="axes fraction",
        textcoords="offset points",
        **{"fontsize": 8, "annotation_clip": False, **look},
    )
    _fit(text, lead, name, _SIDE)


# --- text and files -------------------------------------------------------------------------


def _clean(text: str) -> str:
    """Without line breaks, control characters and halves of surrogate pairs."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _shorten(text: str, limit: int) -> str:
    """At most `limit` characters; what is cut is cut from the middle, as ids differ at the end."""
    text = _clean(text)
    if len(text) <= limit:
        return text
    tail = (limit - 1) * 2 // 3
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


def _short_names(names: Sequence[str], limit: int) -> list[str]:
    """Shortened, and numbered where that has made two of them the same."""
    short = [_shorten(name, limit) for name in names]
    return [f"{i} {name}" if short.count(name) > 1 else name for i, name in enumerate(short)]


def _fit(text: Text, lead: str, name: str, room: float) -> None:
    """Set a text to `lead` and as much of the name as fits into `room` inches."""
    limit = len(name)
    text.set_text(lead + _shorten(name, limit))
    while limit > 1 and (wide := text.get_window_extent().width / _DPI) > room:
        limit = max(1, min(limit - 1, int(limit * room / wide) + 1))
        text.set_text(lead + _shorten(name, limit))


def save(figure: Figure, path: Path) -> None:
    """Write a PNG or SVG, by the suffix: whole or not at all, the same bytes for the same figure.

    Raises UsageError for another suffix and ResightError if the file cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise UsageError(f"cannot write a figure to {path.name}; the name must end in .png or .svg")
    metadata: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None}
    picture = io.BytesIO()
    with _style():
        figure.savefig(picture, format=kind, metadata=metadata)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(picture.getvalue())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ResightError(f"cannot write {path}: {error.strerror}") from error
