"""The command that puts runs side by side."""

from pathlib import Path

from .options import OutputOptions, emit
from .streams import write_result


def compare(*runs: Path, out: Path | None = None, output: OutputOptions = OutputOptions()) -> None:
    """Compare runs: accuracies, recipes, and images that flipped.

    Parameters
    ----------
    runs
        Run folders; every run is compared with the first.
    out
        Write the images that one run has right and another has wrong: all into a .csv file, or
        pictures of the most telling into a .png or .svg file.
    """
    from ..runs.compare import compare as compare_runs
    from ..runs.flips import check_out, write_flipped

    if out is not None:
        check_out(out)
    comparison = compare_runs(runs)
    written = write_flipped(comparison, out) if out else 0
    emit(comparison, output)
    if out and not output.json:
        total = len(comparison.flipped)
        write_result(
            f"\n{out}: {written:,} of the {total:,} images that one has right and another has not"
        )
