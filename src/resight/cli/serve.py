"""The command that shows a local page to try a run on pictures."""

import signal

from .options import AllowImport, Device, OutputOptions, RunFolder, progress
from .streams import write_result


def serve(
    run: RunFolder,
    /,
    *,
    port: int = 8765,
    data: str | None = None,
    device: Device = "auto",
    allow_import: AllowImport = False,
) -> None:
    """Show a local page where you drop pictures and see what a run makes of them.

    Only this machine can open the page. Ctrl-C ends it.

    Parameters
    ----------
    port
        Serve the page at this port; 0 takes any that is free.
    data
        Read the run's data here, if it has moved.
    """
    # In the background a shell has Ctrl-C ignored; SIGINT ends the page all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    from ..deploy.serve import page_server, serve_page
    from ..runs.run import Run

    with progress(OutputOptions()) as on_event:
        opened = Run.open(run, allow_import=allow_import)
        server = page_server(opened, port=port, data=data, device=device, on_event=on_event)
    write_result(f"page       {server.url}  (Ctrl-C ends it)")
    serve_page(server)
