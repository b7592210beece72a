"""The named recipes. Each states only what differs from its base, and why, a line a setting."""

from pathlib import Path

from ...errors import UsageError, suggest
from .. import Recipe
from ..toml import parse_toml, unflatten, with_changes
from .builtin import BUILTIN
from .course_projects import COURSE_PROJECTS
from .preset import Preset

PRESETS: dict[str, Preset] = {**BUILTIN, **COURSE_PROJECTS}


def get_preset(name: str) -> Recipe:
    """The named recipe, with everything it rests on.

    Raises:
        UsageError: there is no recipe of that name.
    """
    if name not in PRESETS:
        raise UsageError(
            f'there is no recipe "{name}"{suggest(name, PRESETS)} '
            f"(valid: {', '.join(PRESETS)}, or the path of a .toml file)"
        )
    this = PRESETS[name]
    below = get_preset(this.base) if this.base else Recipe()
    changes = unflatten((path, value) for path, (value, _) in this.changes.items())
    return with_changes(below, {**changes, "name": name}, origin=f"recipe {name}")


def recipes() -> dict[str, Recipe]:
    """Every named recipe, resolved."""
    return {name: get_preset(name) for name in PRESETS}


def load_recipe(name_or_path: str) -> Recipe:
    """A named recipe, or the one in a TOML file; a file's `base = "swift"` names what it rests on.

    Raises:
        UsageError: neither a recipe's name nor a file, or a faulty file.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        return get_preset(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"recipe file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"recipe file {path} is not text in UTF-8") from error
    tables = parse_toml(text, str(path))
    base = tables.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise UsageError(f"{path}: base = {base} must be the name of a recipe")
    below = get_preset(base) if base else Recipe()
    return with_changes(below, {"name": path.stem, **tables}, origin=str(path))
