"""The command that looks for errors in a recipe, its data or a run."""

from ..errors import UsageError
from .options import (
    DataOptions,
    Device,
    OutputOptions,
    SetOption,
    emit,
    progress,
    recipe_from_flags,
)


def doctor(
    what: str,
    /,
    *,
    set_: SetOption = None,
    device: Device = "auto",
    data_options: DataOptions = DataOptions(),
    output: OutputOptions = OutputOptions(),
) -> int:
    """Look for errors that do not stop a training: in a recipe and its data, or in a run.

    The exit code is 1 if there is an error; a warning may be intended.

    Parameters
    ----------
    what
        A run folder; or a recipe's name or .toml file, checked with its data before any training.
    """
    from ..recipe.sources import is_run

    if is_run(what) and set_:
        raise UsageError(f"{what} is a run, whose recipe is fixed: leave out --set")
    subject = what if is_run(what) else recipe_from_flags(what, data_options, set_=set_)

    from ..diagnosis.doctor import doctor as run_doctor

    with progress(output) as on_event:
        diagnosis = run_doctor(
            subject,
            data=data_options.data if is_run(what) else None,  # the recipe has it by now
            device=device,
            offline=data_options.offline,
            on_event=on_event,
        )
    emit(diagnosis, output)
    return 1 if diagnosis.errors else 0
