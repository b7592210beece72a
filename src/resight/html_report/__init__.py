"""A run as one page that needs nothing else: no server, no network, no other file.

`charts` draws the figures of a run, `view` puts it into words and numbers, and `page.html`,
`page.css` and `page.js` show them.

Names, ids and recipes come from outside. jinja2 escapes all that is written into the page; the
data for the script is JSON in which no character can end a script; the script writes text, never
HTML; and a content security policy lets the page run this one script and load nothing.
"""

import base64
import json
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

from ..files import write_text
from ..runs.predictions_folder import open_folder
from ..runs.run import Run
from .view import view


def write_page(run: str | Path | Run) -> Path:
    """Write `report.html` into a run folder, from its files alone; return its path.

    What a run lacks, because it was interrupted or not explained, the page says.

    Raises:
        UsageError: it is no run folder.
        ResightError: the page cannot be written.
    """
    run = open_folder(run)
    here = files(__package__)
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((here / "page.html").read_text(encoding="utf-8"))
    context, data = view(run)
    page = template.render(
        **context,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(sha256(script.encode()).digest()).decode(),
        data=Markup(script_json(data)),
    )
    path = run.folder / "report.html"
    write_text(path, page)
    return path


def script_json(data: object) -> str:
    r"""JSON that may stand inside a script element: `<`, `>`, `&`, U+2028 and U+2029 as \uXXXX."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
