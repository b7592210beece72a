"""The command that looks for errors in a recipe, its data or a run."""

from pathlib import Path

from ..errors import UsageError
from .options import (
    AllowImport,
    DataOptions,
    Device,
    OutputOptions,
    SetOption,
    emit,
    progress,
    recipe_from_flags,
)


def doctor(
    subject: str,
    /,
    *,
    set_: SetOption = None,
    pairs: Path | None = None,
    device: Device = "auto",
    allow_import: AllowImport = False,
    data_options: DataOptions = DataOptions(),
    output: OutputOptions = OutputOptions(),
) -> int:
    """Look for errors that do not stop a training: in a recipe and its data, or in a run.

    The exit code is 1 if there is an error; a warning may be intended.

    Parameters
    ----------
    subject
        Give a run folder; or a recipe's name or .toml file, to check it before any training.
    pairs
        Draw the near copies of training images into this picture file, with a table beside it.
    """
    from ..recipe.sources import is_run

    run = is_run(subject)
    if run and set_:
        raise UsageError(f"{subject} is a run, whose recipe is fixed: leave out --set")
    recipe = None if run else recipe_from_flags(subject, data_options, set_=set_)

    from ..diagnosis.doctor import doctor as run_doctor

    with progress(output) as on_event:
        diagnosis = run_doctor(
            recipe or subject,
            data=data_options.data if run else None,  # the recipe has it by now
            device=device,
            offline=data_options.offline,
            pairs=pairs,
            allow_import=allow_import,
            on_event=on_event,
        )
    emit(diagnosis, output)
    return 1 if diagnosis.errors else 0
