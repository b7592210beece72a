"""The command that lists the built-in data sets, or describes one."""

from pathlib import Path

from ..recipe.sources import BUILT_IN
from ..text import table
from .options import (
    CommandResult,
    DataOptions,
    Offline,
    OutputOptions,
    SetOption,
    SkipUnreadable,
    emit,
    progress,
    recipe_from_flags,
)


def data(
    source: str | None = None,
    /,
    *,
    preview: bool = False,
    recipe: str = "base",
    set_: SetOption = None,
    out: Path = Path("preview.png"),
    skip_unreadable: SkipUnreadable = None,
    offline: Offline = False,
    output: OutputOptions = OutputOptions(),
) -> None:
    """List the built-in data sets, or describe one.

    Parameters
    ----------
    source
        A data set's name or path.
    preview
        Also draw images before and after augmentation.
    recipe
        The recipe whose image size and augmentation are used.
    out
        The file of the preview.
    """
    if source is None:
        path = ("PATH", "a folder per class, Parquet, CIFAR archives or folders, .npz")
        rows = table([*BUILT_IN.items(), path], "data", "what it is")
        emit(CommandResult(BUILT_IN, rows), output)
        return
    options = DataOptions(data=source, skip_unreadable=skip_unreadable)
    chosen = recipe_from_flags(recipe, options, set_=set_)

    from .dataset_summary import summarize_dataset

    with progress(output) as on_event:
        summary = summarize_dataset(
            chosen, preview=out if preview else None, offline=offline, on_event=on_event
        )
    emit(summary, output)
