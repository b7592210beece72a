"""How every figure looks, how names are written in it, and how it is saved."""

import io
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib import font_manager, style
from matplotlib.figure import Figure
from matplotlib.text import Text

from ..errors import UsageError
from ..files import atomic_write

BLUE, VERMILION, SKY, GRAY = "#0072B2", "#D55E00", "#9CCBEA", "#595959"

DPI = 160

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
    "figure.dpi": DPI,
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
def house_style() -> Iterator[None]:
    """Draw with the settings above, whatever the user's own are."""
    installed = set(font_manager.get_font_names())
    fonts = [font for font in _FONTS if font in installed]
    with style.context(["default", _STYLE, {"font.family": fonts}]), warnings.catch_warnings():
        # A name may hold letters that no font here has; they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def clean(text: str) -> str:
    """Without line breaks, control characters and halves of surrogate pairs."""
    return "".join(c if c.isprintable() else "?" for c in text)


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters; what is cut is cut from the middle, as ids differ at the end."""
    text = clean(text)
    if len(text) <= limit:
        return text
    tail = (limit - 1) * 2 // 3
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


def short_names(names: Sequence[str], limit: int) -> list[str]:
    """Shortened, and numbered where that has made two of them the same."""
    short = [shorten(name, limit) for name in names]
    counts = Counter(short)
    return [f"{i} {name}" if counts[name] > 1 else name for i, name in enumerate(short)]


def fit_text(text: Text, lead: str, name: str, room: float) -> None:
    """Set a text to `lead` and as much of the name as fits into `room` inches."""
    limit = len(name)
    text.set_text(lead + shorten(name, limit))
    while limit > 1 and (wide := text.get_window_extent().width / DPI) > room:
        limit = max(1, min(limit - 1, int(limit * room / wide) + 1))
        text.set_text(lead + shorten(name, limit))


def check_path(path: Path) -> str:
    """The kind of figure that `path` asks for, png or svg: before what is to be drawn is computed.

    Raises UsageError for another suffix, or a folder that does not exist.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise UsageError(f"cannot write a figure to {path.name}; the name must end in .png or .svg")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: the folder {path.parent} does not exist; make it")
    return kind


def save(figure: Figure, path: Path) -> None:
    """Write a PNG or SVG, by the suffix: whole or not at all, the same bytes for the same figure.

    Raises UsageError for another suffix and ResightError if the file cannot be written.
    """
    content = encoded(figure, check_path(path))
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def encoded(figure: Figure, kind: str = "png") -> bytes:
    """Return a figure as PNG or SVG, the same bytes for the same figure."""
    metadata: dict[str, Any] = {"Software": None} if kind == "png" else {"Date": None}
    picture = io.BytesIO()
    with house_style():
        figure.savefig(picture, format=kind, metadata=metadata)
    return picture.getvalue()
