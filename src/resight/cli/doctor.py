"""The command that looks for what is wrong."""

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
    """Look for faults that train without complaint: in a recipe and its data, or in a run.

    Ends with exit code 1 where there is a fault; a doubt may be as intended.

    Parameters
    ----------
    what
        A run folder; or a recipe's name or .toml file, tried on its data before any training.
    data
        A name (see `resight data`) or a path, in place of the recipe's.
    """
    from ..recipe.sources import is_run

    if is_run(what) and set_:
        raise UsageError(f"{what} is a run, whose recipe stands: leave out --set")
    subject = what if is_run(what) else recipe_from_flags(what, data, set_, find)

    from ..diagnosis.doctor import doctor as examined

    with progress(show) as on_event:
        found = examined(
            subject,
            data=data if is_run(what) else None,  # the recipe has it by now
            device=device,
            offline=find.offline,
            on_event=on_event,
        )
    print(json.dumps(found.to_dict()) if show.json else found)
    return 1 if found.faults else 0
