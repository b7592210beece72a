"""The command that writes the page of a run."""

import json
from pathlib import Path

from .options import OutputOptions


def report(run: Path, /, *, show: OutputOptions = OutputOptions()) -> int:
    """Write a run's report.html, one page that opens anywhere, from the run folder alone.

    Parameters
    ----------
    run
        The run folder.
    """
    from .. import html_report

    path = html_report.report(run)
    if show.json:
        print(json.dumps({"report": str(path), "bytes": path.stat().st_size}))
    else:
        print(f"report     {path}")
    return 0
