"""The commands that show what there is: recipes, networks, data, schedules."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import UsageError
from .options import DataOptions, Device, OutputOptions, SetOption, progress


def recipes(*what: str, device: Device = "auto", show: OutputOptions = OutputOptions()) -> int:
    """List the named recipes; `show NAME`, `diff A B` and `cost` say more.

    Parameters
    ----------
    what
        Nothing; show and a recipe: its TOML, and why it differs from its base; diff and two; cost:
        parameters, operations and the time a run would take here, after a probe of seconds.
    """
    from . import listings

    match what:
        case ():
            print(listings.recipe_list(as_json=show.json))
        case ("cost",):
            print(listings.recipe_costs(device=device, as_json=show.json))
        case ("diff", one, other):
            print(listings.recipe_difference(one, other, as_json=show.json))
        case ("show", name) | (name,) if name not in ("show", "diff", "cost"):
            print(listings.recipe_text(name, as_json=show.json))
        case _:
            raise UsageError(
                f"resight recipes {' '.join(what)}: give nothing, a recipe, show and a recipe, "
                "diff and two recipes, or cost"
            )
    return 0


def models(
    name: str | None = None,
    /,
    *,
    set_: SetOption = None,
    image_size: int = 32,
    channels: int = 3,
    classes: int = 10,
    show: OutputOptions = OutputOptions(),
) -> int:
    """List the networks, or print one layer by layer.

    Parameters
    ----------
    name
        A network: prints shape, map size, receptive field, parameters and FLOP of each layer.
    image_size
        Side of the images, in px.
    channels
        1 or 3.
    classes
        How many classes.
    """
    from . import listings

    if name is None:
        print(listings.model_list(as_json=show.json))
    else:
        shape = (channels, image_size, image_size)
        print(listings.model_table(name, set_ or [], shape, classes, as_json=show.json))
    return 0


def data(
    source: str | None = None,
    /,
    *,
    preview: bool = False,
    recipe: str = "base",
    set_: SetOption = None,
    out: Path = Path("preview.png"),
    find: DataOptions = DataOptions(),
    show: OutputOptions = OutputOptions(),
) -> int:
    """List the built-in data sets, or describe one.

    Parameters
    ----------
    source
        A name or a path.
    preview
        Also draw images before and after augmentation.
    recipe
        Whose augmentation to preview.
    out
        The preview's file.
    """
    from . import listings

    if source is None:
        print(listings.source_list(as_json=show.json))
        return 0
    from .dataset_summary import dataset_summary

    with progress(show) as on_event:
        found = dataset_summary(
            source,
            recipe=recipe,
            overrides=[f"data.skip_unreadable={str(find.skip_unreadable).lower()}", *(set_ or [])],
            preview=out if preview else None,
            offline=find.offline,
            on_event=on_event,
        )
    print(json.dumps(found) if show.json else listings.data_text(found))
    return 0


def schedule(
    recipe: str,
    /,
    *,
    epochs: int | None = None,
    images: int | None = None,
    steps_per_epoch: int | None = None,
    set_: SetOption = None,
    compare: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    metrics: str | None = None,
    out: Path | None = None,
    show: OutputOptions = OutputOptions(),
) -> int:
    """Show learning rate and momentum of a whole run, before any training.

    Parameters
    ----------
    recipe
        A name (see `resight recipes`) or a .toml file.
    epochs
        Stretch or shrink the whole schedule to this many epochs.
    images
        Training images, without those held out; 45,000 if not given.
    steps_per_epoch
        Steps an epoch, where they are known, instead of images.
    compare
        Kinds of schedule to lay over each other, of the same epochs and highest rate.
    metrics
        What plateau watches: a value an epoch with commas between, or a past run's folder.
    out
        Draw a figure: a .png or .svg file.
    """
    from ..recipe.presets import load_recipe
    from ..recipe.toml import with_epochs, with_overrides
    from .schedule_text import show_schedule

    asked = load_recipe(recipe)
    if epochs is not None:
        asked = with_epochs(asked, epochs)
    print(
        show_schedule(
            with_overrides(asked, set_ or []),
            compare=compare or [],
            metrics=metrics,
            steps_per_epoch=steps_per_epoch,
            images=images,
            out=out,
            as_json=show.json,
        )
    )
    return 0
