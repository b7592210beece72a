"""Tables and curves as text, for terminals, pipes and logs.

A curve has a frame of 10 + 60 characters. rich and numpy are imported where they are needed.
"""

import io
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from .files import guarded

if TYPE_CHECKING:
    from .records import EpochRow, FloatArray

COLUMNS, ROWS = 60, 10  # of a curve
TABLE_COLUMNS = 160  # at most
MAX_LINE = 2000  # characters
BLOCKS = " ▁▂▃▄▅▆▇█"
TableStyle = Literal["csv", "markdown", "latex"]
_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}
JOINERS = "\u200c\u200d"  # which words of Persian and emojis are made with


def printable(text: str) -> str:
    r"""Return a text with its line breaks, and every other control character as \x1b or \u202e.

    A name from outside may hold sequences that rename the terminal's window, clear its screen or
    turn the direction of writing. So all that is written to a terminal goes through here.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(_escaped(c) if _is_control(c) else c for c in text)


def _is_control(character: str) -> bool:
    """Whether a character is a control, a format mark, half a pair or an odd line break."""
    kind = unicodedata.category(character)
    return kind in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in ("\n", *JOINERS)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def one_line(text: str, limit: int = MAX_LINE) -> str:
    """Return a text as one printable line; of a very long one the middle is left out."""
    line = printable(" ".join(text.split()))
    if len(line) <= limit:
        return line
    return f"{line[: limit // 2]} ... {line[-limit // 2 :]}"


def table(rows: Iterable[Sequence[str]], *columns: str, right: Sequence[str] = ()) -> str:
    """Return rows under columns as text; those in `right` are aligned to the right.

    A table is as wide as it needs, not as the terminal: results are for pipes and files too.
    """
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, show_edge=False)
    for column in columns:
        grid.add_column(
            _cell(column), justify="right" if column in right else "left", overflow="fold"
        )
    for row in rows:
        grid.add_row(*map(_cell, row))
    text = io.StringIO()
    console = Console(
        file=text,
        width=TABLE_COLUMNS,
        markup=False,
        emoji=False,
        force_jupyter=False,  # else a notebook shows the table, and the text is empty
        force_terminal=False,  # else FORCE_COLOR puts colors into files
    )
    console.print(grid)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip("\n").split("\n"))


def _cell(text: str) -> str:
    return printable(text).replace("\n", "\\n")


def styled_table(rows: Iterable[Sequence[str]], columns: Sequence[str], style: TableStyle) -> str:
    """Return rows under columns as CSV, as a table of Markdown, or as LaTeX's `tabular`."""
    lines = [[_cell(cell) for cell in row] for row in (columns, *rows)]
    if style == "csv":
        return "\n".join(",".join(map(_csv_cell, line)) for line in lines)
    if style == "markdown":
        lines.insert(1, ["---"] * len(columns))
        cells = [
            [cell.replace("\\", "\\\\").replace("|", "\\|") for cell in line] for line in lines
        ]
        return "\n".join(f"| {' | '.join(line)} |" for line in cells)
    first, *rest = [" & ".join(map(_latex_cell, line)) + r" \\" for line in lines]
    body = [first, r"\hline", *rest]
    return "\n".join([rf"\begin{{tabular}}{{{'l' * len(columns)}}}", *body, r"\end{tabular}"])


def _csv_cell(cell: str) -> str:
    """Return a cell in quotes where it needs them; no spreadsheet runs it as a formula."""
    cell = guarded(cell)
    return '"' + cell.replace('"', '""') + '"' if {*',"'} & {*cell} else cell


def _latex_cell(cell: str) -> str:
    return re.sub(r"[\\&%$#_{}~^±]", lambda match: _LATEX[match[0]], cell)


def epoch_line(row: "EpochRow", *, star: bool, epochs: int = 0) -> str:
    """Return the figures of an epoch in one line; a star marks the best epoch so far."""
    width = len(str(epochs))
    parts = [
        f"epoch {row.epoch:>{width}}{f'/{epochs}' if epochs else ''}",
        f"train loss {row.train_loss:.3f} acc {row.train_accuracy:.2%}",
    ]
    if row.val_loss is not None and row.val_accuracy is not None:
        parts.append(f"val loss {row.val_loss:.3f} acc {row.val_accuracy:.2%}")
    parts += [f"lr {row.lr:.3g}", f"{row.images_per_sec:,.0f} images/s", f"{row.train_secs:.1f} s"]
    return "  ".join(parts) + (" *" if star else "")


def setting_text(value: Any) -> str:
    """Return the value of a recipe's setting as a table shows it."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)


def plot_bars(values: "FloatArray", *, low: float, high: float, rows: int = ROWS) -> list[str]:
    """Draw a bar a column, from `low` up to the highest value of its column.

    The height is drawn to an eighth of a character.
    """
    share = [(float(column.max()) - low) / (high - low) for column in _columns(values)]
    eighths = [math.ceil(8 * rows * s - 1e-9) for s in share]
    lines = [
        "".join(BLOCKS[min(8, max(0, n - 8 * row))] for n in eighths)
        for row in reversed(range(rows))
    ]
    return _frame(lines, low, high)


def plot_marks(curves: "Mapping[str, FloatArray]", *, high: float) -> list[str]:
    """Draw curves from 0 to `high`, each with its mark; where two cross, the last is on top."""
    grid = [[" "] * COLUMNS for _ in range(ROWS)]  # the lowest row first
    for mark, values in curves.items():
        for x, column in enumerate(_columns(values)):
            low, top = (min(ROWS - 1, int(ROWS * v / high)) for v in (column.min(), column.max()))
            for y in range(low, top + 1):
                grid[y][x] = mark
    return _frame(["".join(row) for row in reversed(grid)], 0.0, high)


def plot_axis(left: str, right: str) -> str:
    """Return the line below a frame: what its left and right ends stand for."""
    return f"{'':10}{left}{right:>{COLUMNS - len(left)}}"


def _columns(values: "FloatArray") -> "list[FloatArray]":
    """The values of each column; fewer values than columns are repeated."""
    import numpy as np

    edges = np.linspace(0, len(values), COLUMNS + 1).tolist()
    return [values[int(a) : max(int(a) + 1, math.ceil(b))] for a, b in pairwise(edges)]


def _frame(rows: Sequence[str], low: float, high: float) -> list[str]:
    labels = [f"{high:.3g}", *[""] * (len(rows) - 2), f"{low:.3g}"]
    lines = [f"{label:>8} │{row}".rstrip() for label, row in zip(labels, rows, strict=True)]
    return [*lines, f"{'':8} └{'─' * COLUMNS}"]
