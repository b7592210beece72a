"""The commands that show what there is: recipes, networks, data."""

import json
from pathlib import Path

from .cli_options import Find, Setting, Show, progress


def recipes(name: str | None = None, /, *, show: Show = Show()) -> int:
    """List the named recipes, or print one in full.

    Parameters
    ----------
    name
        A recipe: prints its TOML, and why it differs from its base.
    """
    from . import listings

    print(listings.recipe_text(name) if name else listings.recipe_list(as_json=show.json))
    return 0


def models(
    name: str | None = None,
    /,
    *,
    set_: Setting = None,
    image_size: int = 32,
    channels: int = 3,
    classes: int = 10,
    show: Show = Show(),
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
    set_: Setting = None,
    out: Path = Path("preview.png"),
    find: Find = Find(),
    show: Show = Show(),
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
    from .look import describe_data

    with progress(show) as watch:
        found = describe_data(
            source,
            recipe=recipe,
            overrides=set_ or [],
            preview=out if preview else None,
            watch=watch,
            **vars(find),
        )
    print(json.dumps(found) if show.json else listings.data_text(found))
    return 0
