"""The command that writes the page of a run."""

from .options import CommandResult, OutputOptions, RunFolder, emit


def report(run: RunFolder, /, *, output: OutputOptions = OutputOptions()) -> None:
    """Write a run's report.html, one page, from the run folder alone."""
    from .. import html_report

    page = html_report.write_page(run)
    content = {"report": str(page), "bytes": page.stat().st_size}
    emit(CommandResult(content, f"report     {page}"), output)
