"""The figures of a run as SVG to be put into the page: small, selectable, in the page's colors."""

import io
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from .. import figures
from ..figures.heat import PALETTE
from ..figures.style import house_style
from ..optim.curve import all_rates
from ..optim.schedules import Schedule, describe, schedule_of
from ..records import EpochRow
from ..runs.run import Run

MAX_CHART_STEPS = 200_000  # of a schedule that is drawn

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"

# The colors of the house style -> properties of the page, which differ in light and dark.
_COLORS = {
    "#ffffff": "var(--paper)",
    "#000000": "currentColor",
    "black": "currentColor",
    "#e4e4e4": "var(--line)",
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--vermilion)",
    "#9ccbea": "var(--sky)",
    "#595959": "var(--dim)",
    "#b5b5b5": "var(--faint)",
}
_COLOR = re.compile("|".join(_COLORS))
_FONT = re.compile(r"font: (?:(\d+) )?([\d.]+px) [^;]*|font-family: [^;]*")


def charts(run: Run) -> dict[str, Markup]:
    """Return the SVG of each figure that can be drawn; `schedule` also has a `schedule_text`."""
    drawn: dict[str, Markup] = {}
    summary = run.summary
    if run.history.epochs:
        figure = figures.training_curves(run.history, summary.best_epoch if summary else None)
        drawn["curves"] = inline(figure, "curves", "Loss and accuracy of each epoch")
    drawn |= _schedule(run)
    if run.lr_curve is not None and np.isfinite(run.lr_curve.losses).any():
        figure = figures.lr_curve(run.lr_curve)
        drawn["lr_range"] = inline(figure, "lr", "Loss against learning rate in the range test")
    if summary and summary.test:
        figure = figures.per_class(summary.test.per_class)
        drawn["per_class"] = inline(figure, "classes", "Accuracy of each class")
        figure = figures.reliability(summary.test.calibration)
        drawn["reliability"] = inline(figure, "reliability", "Accuracy against confidence")
    return drawn


def _schedule(run: Run) -> dict[str, Markup]:
    """The rates as the recipe has them; plateau follows the validation that was measured."""
    rows = run.history.epochs
    if not rows:
        return {}
    schedule = schedule_of(run.recipe, steps_per_epoch=rows[0].step)
    drawn = {"schedule_text": Markup.escape(describe(schedule))}
    if schedule.total_steps <= MAX_CHART_STEPS:
        drawn["schedule"] = inline(_rates(schedule, rows), "schedule", "Learning rate by epoch")
    return drawn


def _rates(schedule: Schedule, rows: Sequence[EpochRow]) -> Figure:
    metric = getattr(schedule.spec, "metric", None)
    values = [getattr(row, metric) for row in rows] if metric else []
    rates = all_rates(schedule, values)
    lrs = np.array([rate.lr for rate in rates])
    momenta = np.array([np.nan if rate.momentum is None else rate.momentum for rate in rates])
    if np.ptp(momenta) == 0:
        momenta = np.full(len(rates), np.nan)  # a straight line says nothing
    return figures.schedule_curve(lrs, momenta, steps_per_epoch=schedule.steps_per_epoch, title="")


def palette() -> list[int]:
    """256 colors of a heat map, from none to the strongest: red, green, blue, red, ..."""
    return [int(c) for c in PALETTE.ravel()]


def inline(figure: Figure, name: str, label: str) -> Markup:
    """An SVG element with ids of its own, text as text, and colors that follow the page."""
    written = io.StringIO()
    with house_style(), mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    # Made by matplotlib a line above, so this is no foreign XML.
    root = ElementTree.fromstring(written.getvalue())
    for child in [c for c in root if c.tag == f"{{{_SVG}}}metadata"]:
        root.remove(child)
    for parent in root.iter():  # a style element would hold for the whole page
        for child in [c for c in parent if c.tag == f"{{{_SVG}}}style"]:
            parent.remove(child)
    for element in root.iter():
        _adapt(element.attrib, name)
        element.tail = None
        element.text = (element.text or "").strip() or None
    width = float(root.attrib.pop("width").removesuffix("pt"))
    for attribute in ("height", "version", "id"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-label", label)
    root.set("style", f"--width: {width:.0f}")
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _adapt(attributes: dict[str, Any], name: str) -> None:
    """Ids that no other figure has; colors and fonts of the page."""
    for key in ("id", f"{{{_XLINK}}}href", "clip-path"):
        if key in attributes:
            value = attributes[key]
            start = {"id": 0, "clip-path": len("url(#")}.get(key, len("#"))
            attributes[key] = f"{value[:start]}{name}-{value[start:]}"
    if "style" in attributes:
        style = _COLOR.sub(lambda match: _COLORS[match[0]], attributes["style"])
        attributes["style"] = _FONT.sub(_system_font, style)


def _system_font(match: re.Match[str]) -> str:
    family = "var(--sans)"
    return f"font: {match[1] or 400} {match[2]} {family}" if match[2] else f"font-family: {family}"
