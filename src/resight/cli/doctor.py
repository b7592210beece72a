"""The command that looks for errors in a recipe, its data or a run."""

import json

from ..errors import UsageError
from .options import DataOptions, Device, OutputOptions, SetOption, progress, recipe_from_flags


def doctor(
    what: str,
    /,
    *,
    data: str | None = None,
    set_: SetOption = None,
    device: Device = "auto",
    find: DataOptions = DataOptions(),
    show: OutputOptions = OutputOptions(),
) -> int:
    """Look for errors that do not stop a training: in a recipe and its data, or in a run.

    The exit code is 1 if there is an error; a warning may be intended.

    Parameters
    ----------
    what
        A run folder; or a recipe's name or .toml file, checked with its data before any training.
    data
        A name (see `resight data`) or a path, in place of the recipe's.
    """
    from ..recipe.sources import is_run

    if is_run(what) and set_:
        raise UsageError(f"{what} is a run, whose recipe is fixed: leave out --set")
    subject = what if is_run(what) else recipe_from_flags(what, data, set_, find)

    from ..diagnosis.doctor import doctor as run_doctor

    with progress(show) as on_event:
        diagnosis = run_doctor(
            subject,
            data=data if is_run(what) else None,  # the recipe has it by now
            device=device,
            offline=find.offline,
            on_event=on_event,
        )
    print(json.dumps(diagnosis.to_dict()) if show.json else diagnosis)
    return 1 if diagnosis.errors else 0
