"""The documentation as a site with search: `make site`. The pages are plain Markdown without it.

The notebooks are stored without outputs. The site has copies that are executed when it is built.
"""

import ast
import json
import os
from itertools import groupby
from pathlib import Path

from sphinx.application import Sphinx

import resight

project = "resight"
copyright = "the resight authors"
version = release = resight.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
default_role = "code"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_in_temp = True  # runs/ is no part of the checkout
nb_execution_timeout = 600  # seconds for a cell
nb_execution_raise_on_error = True
nb_merge_streams = True
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


def copy_notebooks(app: Sphinx) -> None:
    """Copy the notebooks to where Sphinx reads, with links that hold there, and Colab's badge.

    Colab opens a notebook of a repository on GitHub, whose name GitHub's workflow knows.
    """
    repository = os.environ.get("GITHUB_REPOSITORY")
    folder = Path(app.srcdir, "examples")
    folder.mkdir(exist_ok=True)
    for path in Path(app.srcdir).parent.glob("examples/*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            cell["source"] = [line.replace("](../docs/", "](../") for line in cell["source"]]
        if repository:
            colab = "https://colab.research.google.com"
            badge = f"![Open in Colab]({colab}/assets/colab-badge.svg)"
            address = f"{colab}/github/{repository}/blob/main/examples/{path.name}"
            notebook["cells"][0]["source"] += ["\n", "\n", f"[{badge}]({address})"]
        text, copy = json.dumps(notebook, indent=1), folder / path.name
        if not copy.exists() or copy.read_text(encoding="utf-8") != text:  # Sphinx reads it anew
            copy.write_text(text, encoding="utf-8")


def link_to_copies(app: Sphinx, page: str, source: list[str]) -> None:
    """Let links to the notebooks lead to their executed copies."""
    source[0] = source[0].replace("](../examples/", "](examples/")


def setup(app: Sphinx) -> None:
    """Have Sphinx write the reference and copy the notebooks before it reads the pages."""
    app.connect("builder-inited", write_reference)
    app.connect("builder-inited", copy_notebooks)
    app.connect("source-read", link_to_copies)
