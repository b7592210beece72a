"""The command that puts runs side by side."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..text import TableStyle
from .options import CommandResult, OutputOptions, emit
from .streams import write_result


def compare(
    *runs: Path,
    images: bool = False,
    style: Annotated[TableStyle | None, Parameter(name="--format")] = None,
    out: Path | None = None,
    output: OutputOptions = OutputOptions(),
) -> None:
    """Compare runs: accuracies, recipes, and images that flipped.

    Parameters
    ----------
    runs
        Give run folders; every run is compared with the first.
    images
        Say which images each run gained and lost, for more than two runs of several seeds too.
    style
        Print the table of the runs alone, for a spreadsheet or a paper.
    out
        Write all images that only one run has right into a .csv, the most telling into a .png.
    """
    from ..runs.compare import compare as compare_runs
    from ..runs.flips import check_out, write_flipped

    if out is not None:
        check_out(out)
    comparison = compare_runs(runs)
    written = write_flipped(comparison, out) if out else 0
    if style:
        write_result(comparison.to_table(style))
        return
    emit(CommandResult(comparison.to_dict(), comparison.text(images=images)), output)
    if out and not output.json:
        total = len(comparison.flipped)
        write_result(
            f"\n{out}: {written:,} of the {total:,} images that one has right and another has not"
        )
