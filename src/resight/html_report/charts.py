"""The figures of a run as SVG for the page: small, with text to select, in the page's colors."""

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
    summary, rows = run.summary, run.history.epochs
    if rows and rows[0].step:  # a probe takes no steps
        best, val = (summary.best_epoch, summary.data.val) if summary else (None, 0)
        figure = figures.training_curves(run.history, best, val_images=val)
        drawn["curves"] = inline(figure, "curves", "Loss and accuracy of each epoch")
        schedule = schedule_of(run.recipe, steps_per_epoch=rows[0].step)
        drawn["schedule_text"] = Markup.escape(describe(schedule))
        if schedule.total_steps <= MAX_CHART_STEPS:
            drawn["schedule"] = inline(_rates(schedule, rows), "schedule", "Learning rate by epoch")
    if run.lr_curve is not None and np.isfinite(run.lr_curve.losses).any():
        figure = figures.lr_curve(run.lr_curve)
        drawn["lr_range"] = inline(figure, "lr", "Loss against learning rate in the range test")
    if summary and summary.test:
        figure = figures.per_class(summary.test.per_class)
        drawn["per_class"] = inline(figure, "classes", "Accuracy of each class")
        figure = figures.reliability(summary.test.calibration)
        drawn["reliability"] = inline(figure, "reliability", "Accuracy against confidence")
    return drawn


def _rates(schedule: Schedule, rows: Sequence[EpochRow]) -> Figure:
    """The rates that the recipe plans; plateau follows the validation that was measured."""
    metric = getattr(schedule.spec, "metric", None)
    rates = all_rates(schedule, [getattr(row, metric) for row in rows] if metric else [])
    lrs = np.array([rate.lr for rate in rates])
    momenta = np.array([rate.momentum for rate in rates], dtype=np.float64)  # None becomes NaN
    if np.ptp(momenta) == 0:
        momenta[:] = np.nan  # a straight line says nothing
    return figures.schedule_curve(lrs, momenta, steps_per_epoch=schedule.steps_per_epoch, title="")


def inline(figure: Figure, name: str, label: str) -> Markup:
    """Return a figure as an SVG element that fits into the page.

    Its ids begin with `name`, its text is text, and its colors and fonts are those of the page.
    """
    content = io.StringIO()
    with house_style(), mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    # Made by matplotlib a line above, so this is no foreign XML.
    root = ElementTree.fromstring(content.getvalue())
    for parent in root.iter():  # a style element would hold for the whole page
        for child in [c for c in parent if c.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style")]:
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
    """Make ids differ from those of other figures; take colors and fonts from the page."""
    for key in ("id", f"{{{_XLINK}}}href", "clip-path"):
        if key in attributes:
            attributes[key] = re.sub(r"^(url\(#|#|)", rf"\1{name}-", attributes[key])
    if "style" in attributes:
        style = _COLOR.sub(lambda match: _COLORS[match[0]], attributes["style"])
        attributes["style"] = _FONT.sub(_system_font, style)


def _system_font(match: re.Match[str]) -> str:
    family = "var(--sans)"
    return f"font: {match[1] or 400} {match[2]} {family}" if match[2] else f"font-family: {family}"
