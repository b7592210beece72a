"""The command that lists the built-in data sets, or describes one."""

from dataclasses import dataclass
from pathlib import Path

from ..recipe.sources import BUILT_IN
from ..text import table, table_text
from .options import (
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
) -> int:
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
        emit(SourceList(), output)
        return 0
    options = DataOptions(data=source, skip_unreadable=skip_unreadable)
    chosen = recipe_from_flags(recipe, options, set_=set_)

    from .dataset_summary import summarize_dataset

    with progress(output) as on_event:
        summary = summarize_dataset(
            chosen, preview=out if preview else None, offline=offline, on_event=on_event
        )
    emit(summary, output)
    return 0


@dataclass(frozen=True)
class SourceList:
    """The built-in data sets, and what else names data."""

    def to_dict(self) -> dict[str, str]:
        return BUILT_IN

    def __str__(self) -> str:
        sources = table("data", "what it is")
        for name, content in BUILT_IN.items():
            sources.add_row(name, content)
        sources.add_row("PATH", "a folder per class, Parquet, CIFAR archives or folders, .npz")
        return table_text(sources)
