"""The documentation as a site with search: `make site`. The pages are plain Markdown without it."""

import ast
from itertools import groupby
from pathlib import Path

from sphinx.application import Sphinx

import resight

project = "resight"
copyright = "the resight authors"
version = release = resight.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
default_role = "code"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"resight {version}"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True
# Links to files outside docs/ lead nowhere on the site, but they do in the repository.
suppress_warnings = ["myst.xref_missing"]

TITLES = {
    "experiment": "Train",
    "recipe": "Recipes",
    "datasets": "Data",
    "lr_finder": "Find the learning rate",
    "optim": "Schedules",
    "runs": "Runs: evaluate, predict, compare",
    "metrics": "Results",
    "records": "Results",
    "interpret": "Why a prediction was wrong",
    "cam": "Heat maps",
    "diagnosis": "The doctor",
    "networks": "Networks",
    "deploy": "In other programs",
    "html_report": "The report",
    "notebook": "In notebooks",
    "trackers": "Trackers",
    "errors": "Errors",
}


def write_reference(app: Sphinx) -> None:
    """Write a page that has every public name of `__init__.pyi`, under the task that it is for."""
    stub = Path(resight.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    names = [
        (TITLES[node.module.split(".")[0]], alias.name)
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    ]
    order = [*dict.fromkeys(TITLES.values())]
    names.sort(key=lambda entry: order.index(entry[0]))
    lines = ["Reference", "=========", ""]
    for title, group in groupby(names, key=lambda entry: entry[0]):
        lines += [title, "-" * len(title), ""]
        for _, name in group:
            is_class = isinstance(getattr(resight, name), type)
            lines.append(f".. {'autoclass' if is_class else 'autofunction'}:: resight.{name}")
            lines += ["   :members:", ""] if is_class else [""]
    Path(app.srcdir, "reference.rst").write_text("\n".join(lines), encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Have Sphinx write the reference before it reads the pages."""
    app.connect("builder-inited", write_reference)
