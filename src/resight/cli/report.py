"""The command that writes the page of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .options import OutputOptions, RunFolder, emit


@dataclass(frozen=True)
class ReportFile:
    """The page that was written."""

    path: Path

    def to_dict(self) -> dict[str, Any]:
        return {"report": str(self.path), "bytes": self.path.stat().st_size}

    def __str__(self) -> str:
        return f"report     {self.path}"


def report(run: RunFolder, /, *, output: OutputOptions = OutputOptions()) -> int:
    """Write a run's report.html, one page, from the run folder alone."""
    from .. import html_report

    emit(ReportFile(html_report.report(run)), output)
    return 0
