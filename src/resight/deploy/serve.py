"""A local page to try a run on pictures of your own."""

import base64
from contextlib import suppress
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup
from torch import nn

from ..datasets import Dataset
from ..errors import UsageError
from ..events import Message, OnEvent, show_events
from ..recipe.sources import source_name
from ..runs.run import Run
from .server import MAX_UPLOAD_BYTES, Page, PageServer
from .viewer import Viewer, inspect_picture, open_viewer

DEFAULT_PORT = 8765


def render_page(run: Run, viewer: Viewer) -> Page:
    """Return the page of a run; its policy lets it run its one script and load nothing."""
    here, report = files(__package__), files("resight.html_report")
    script = (here / "page.js").read_text(encoding="utf-8")
    style = "".join((place / "page.css").read_text(encoding="utf-8") for place in (report, here))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((here / "page.html").read_text(encoding="utf-8"))
    content = template.render(
        folder=run.folder.resolve().name,
        name=run.recipe.name,
        source=source_name(run.recipe.data.source),
        test=run.summary.test if run.summary else None,
        classes=viewer.info.classes,
        side=viewer.info.image_size,
        max_bytes=MAX_UPLOAD_BYTES,
        style=Markup(style),
        script=Markup(script),
    )
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return Page(content.encode(), policy)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


def page_server(
    run: str | Path | Run,
    *,
    port: int = DEFAULT_PORT,
    data: Dataset | str | Path | None = None,
    model: nn.Module | None = None,
    device: str = "auto",
    on_event: OnEvent = show_events,
) -> PageServer:
    """Return the server of a run's page, which has its port but serves nothing yet.

    Raises:
        UsageError: no such run, `data` is not its data, or the port cannot be used.
        ResightError: the run has no weights, or they are damaged.
    """
    if not 0 <= port < 2**16:
        raise UsageError(f"port = {port} must be 0 to 65535; 0 takes any that is free")
    run = Run.open(run)
    viewer = open_viewer(run, data=data, model=model, device=device, on_event=on_event)
    return PageServer(
        port, render_page(run, viewer), lambda content: inspect_picture(viewer, content)
    )


def serve_page(server: PageServer) -> None:
    """Serve the page until Ctrl-C."""
    with suppress(KeyboardInterrupt), server:
        server.serve_forever()


def serve(
    run: str | Path | Run,
    *,
    port: int = DEFAULT_PORT,
    data: Dataset | str | Path | None = None,
    model: nn.Module | None = None,
    device: str = "auto",
    on_event: OnEvent = show_events,
) -> None:
    """Show a page on this machine where you drop pictures and see what a run makes of them.

    It shows the prediction, the heat maps of the two likeliest classes, and the most similar
    training images, if the data of the run is at hand: nothing is downloaded. `on_event` gets a
    message with the address. Ctrl-C ends it.

    Raises:
        UsageError: no such run, `data` is not its data, or the port cannot be used.
        ResightError: the run has no weights, or they are damaged.
    """
    server = page_server(run, port=port, data=data, model=model, device=device, on_event=on_event)
    on_event(Message(f"the page is at {server.url}; Ctrl-C ends it"))
    serve_page(server)
