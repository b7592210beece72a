"""The command that writes the page of a run."""

import json
from pathlib import Path

from .options import Show


def report(run: Path, /, *, show: Show = Show()) -> int:
    """Write a run's report.html, one page that opens anywhere, from the run folder alone.

    Parameters
    ----------
    run
        The run folder.
    """
    from ..html_report import build

    path = build(run)
    if show.json:
        print(json.dumps({"report": str(path), "bytes": path.stat().st_size}))
    else:
        print(f"report     {path}")
    return 0
