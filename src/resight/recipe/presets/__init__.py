"""The named recipes. Each states only what differs from its base, and why, a line a setting."""

from pathlib import Path

from ...errors import UsageError, suggest
from .. import Recipe
from ..toml import read_toml, unflatten, with_changes
from .builtin import BUILTIN, Preset
from .course_projects import COURSE_PROJECTS

PRESETS: dict[str, Preset] = {**BUILTIN, **COURSE_PROJECTS}


def get_preset(name: str) -> Recipe:
    """Return the named recipe, with the changes of every recipe below it.

    Raises:
        UsageError: there is no recipe of that name.
    """
    if name not in PRESETS:
        raise UsageError(
            f'there is no recipe "{name}"{suggest(name, PRESETS)} '
            f"(valid: {', '.join(PRESETS)}, or the path of a .toml file)"
        )
    preset = PRESETS[name]
    base = get_preset(preset.base) if preset.base else Recipe()
    changes = unflatten((path, value) for path, (value, _) in preset.changes.items())
    return with_changes(base, {**changes, "name": name}, origin=f"recipe {name}")


def recipes() -> dict[str, Recipe]:
    """Return every named recipe, with the changes of the recipes below it."""
    return {name: get_preset(name) for name in PRESETS}


def load_recipe(name_or_path: str | Recipe) -> Recipe:
    """Return a named recipe, or the one in a TOML file; a `Recipe` is returned as it is.

    A file's `base = "swift"` names the recipe that the file changes.

    Raises:
        UsageError: neither a recipe's name nor a file, or a file with errors.
    """
    if isinstance(name_or_path, Recipe):
        return name_or_path
    path = Path(name_or_path)
    if path.suffix != ".toml":
        return get_preset(name_or_path)
    tables = read_toml(path)
    name = tables.pop("base", None)
    if name is not None and not isinstance(name, str):
        raise UsageError(f"{path}: base = {name} must be the name of a recipe")
    base = get_preset(name) if name else Recipe()
    return with_changes(base, {"name": path.stem, **tables}, origin=str(path))
