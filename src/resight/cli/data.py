"""The command that lists the built-in data sets, describes one, or shows what is cached."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..recipe.sources import BUILT_IN, find_source
from ..text import table
from .options import (
    Classes,
    CommandResult,
    DataOptions,
    Layout,
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
    out: Annotated[Path, Parameter(help="Draw the preview into this file.")] = Path("preview.png"),
    sheet: Path | None = None,
    layout: Layout = None,
    classes: Classes = None,
    skip_unreadable: SkipUnreadable = None,
    offline: Offline = False,
    cache: bool = False,
    clear_cache: bool = False,
    output: OutputOptions = OutputOptions(),
) -> None:
    """List the built-in data sets, or say how one was read.

    Parameters
    ----------
    source
        Give a data set's name or path; by default the built-in ones are listed.
    preview
        Also draw images before and after augmentation, to --out.
    recipe
        Use the image size and augmentation of this recipe for --preview.
    sheet
        Draw a row of images for each class into this file; by default classes.png for a path.
    cache
        List what is in the cache, with sizes, and the limit.
    clear_cache
        Remove the data set from the cache, or everything if you give none.
    """
    if cache or clear_cache:
        from .cached_data import clear, list_cache

        return emit(clear(source) if clear_cache else list_cache(), output)
    if source is None:
        return emit(_built_in(), output)
    flags = DataOptions(source, layout=layout, classes=classes, skip_unreadable=skip_unreadable)
    chosen = recipe_from_flags(recipe, flags, set_=set_)

    from .dataset_summary import summarize_dataset

    files = {"preview": out if preview else None, "sheet": sheet or _default_sheet(source)}
    with progress(output) as on_event:
        summary = summarize_dataset(chosen, **files, offline=offline, on_event=on_event)
    return emit(summary, output)


def _default_sheet(source: str) -> Path | None:
    """Return where a sheet of data by path is drawn; None where it cannot be, or would be data."""
    location, here = find_source(source), Path.cwd()
    if not isinstance(location, Path) or here.is_relative_to(location.resolve()):
        return None
    return Path("classes.png") if os.access(here, os.W_OK) else None


def _built_in() -> CommandResult:
    name = ("hf:OWNER/NAME", "a data set of the Hugging Face hub, if it has Parquet files")
    path = ("PATH", "a folder a class, a table of file and label, arrays, a zip: see docs/data.md")
    return CommandResult(BUILT_IN, table([*BUILT_IN.items(), name, path], "data", "what it is"))
