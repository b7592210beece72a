"""Recipes as text: TOML in and out, and overrides such as `schedule.epochs=40`.

What is given later wins: defaults < named recipe < file < overrides. A `name` that changes inside
`model`, `optimizer` or `schedule` changes the kind: settings that both kinds have are kept, and
settings of the old kind alone fall away. An optimizer starts from its defaults instead, since a
rate that suits SGD does not suit Adam.
"""

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

import tomli_w
from pydantic import ValidationError

from ..errors import UsageError
from .messages import error_line
from .recipe import KINDS, Recipe
from .section import Section

NestedDict = dict[str, Any]


def to_toml(recipe: Recipe) -> str:
    """Return every setting of a recipe as TOML, which `from_toml` reads back."""
    return tomli_w.dumps(_for_toml(recipe.model_dump()))


def from_toml(text: str, *, base: Recipe | None = None, origin: str = "recipe") -> Recipe:
    """Return the recipe that `text` describes, on top of `base`; errors name `origin`.

    Raises:
        UsageError: not TOML, an unknown key or a bad value.
    """
    return with_changes(base or Recipe(), parse_toml(text, origin), origin=origin)


def parse_toml(text: str, origin: str) -> NestedDict:
    """Return the tables of a TOML text; `UsageError` names the line of a syntax error."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{origin}: not valid TOML: {error}") from error


def with_overrides(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """Apply assignments such as `optimizer.lr=0.1` or `augment.cutout=none` to `recipe`.

    A value is read as TOML where it is TOML, and as a bare word where it is not. The order of the
    assignments does not matter, except that the last one of a path wins.
    """
    changes: list[tuple[str, Any]] = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not all(path.strip().split(".")):
            raise UsageError(
                f'override "{assignment}" is not of the form path=value; '
                "write for example schedule.epochs=40"
            )
        changes.append((path.strip(), _read_value(text.strip())))
    return with_changes(recipe, unflatten(changes), origin="override")


def unflatten(values: Iterable[tuple[str, Any]]) -> NestedDict:
    """Return dotted paths as nested tables: `a.b` -> 1 becomes {"a": {"b": 1}}."""
    tables: NestedDict = {}
    for path, value in values:
        for key in reversed(path.split(".")):
            value = {key: value}
        tables = _merge(tables, value)
    return tables


def with_changes(recipe: Recipe, changes: Mapping[str, Any], *, origin: str) -> Recipe:
    """Return `recipe` with nested `changes` on top, validated as a whole."""
    old = recipe.model_dump()
    for section, kinds in KINDS.items():
        new = changes.get(section)
        if isinstance(new, Mapping) and "name" in new:
            old[section] = _carried_over(old[section], new["name"], kinds)
    try:
        return Recipe.model_validate(_merge(old, changes))
    except ValidationError as error:
        raise UsageError(f"{origin}: {error_line(error)}") from error


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """Stretch or shrink the schedule of `recipe` to `epochs`, in the same shape.

    Peak, warm-up, milestones and cycle length keep their share of the run.
    """
    old = recipe.schedule
    share = epochs / old.epochs

    def scaled(value: float) -> float:
        return round(value * share, 6)  # 0.92, not 0.9199999999999999

    stretched = {
        setting: tuple(map(scaled, value)) if isinstance(value, tuple) else scaled(value)
        for setting in ("peak_epoch", "warmup_epochs", "milestones", "half_cycle_epochs")
        if (value := getattr(old, setting, None)) is not None
    }
    changes = {"schedule": {**stretched, "epochs": epochs}}
    return with_changes(recipe, changes, origin=f"--epochs {epochs}")


def differences(recipe: Recipe, base: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ: path -> (value in `base`, in `recipe`); None if absent."""
    old, new = _flatten(base.model_dump()), _flatten(recipe.model_dump())
    return {p: (old.get(p), new.get(p)) for p in new | old if old.get(p) != new.get(p)}


def _carried_over(old: NestedDict, name: object, kinds: Mapping[str, type[Section]]) -> NestedDict:
    """The settings that a section keeps when its kind becomes `name`."""
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is kinds[old["name"]]:
        return old
    if kind is None or getattr(kind, "RESET_WHEN_SWITCHED", False):
        return {}
    return {key: value for key, value in old.items() if key in kind.model_fields}


def _merge(old: Any, new: Any) -> Any:
    if not isinstance(new, Mapping):
        return new
    base = dict(old) if isinstance(old, Mapping) else {}
    return base | {key: _merge(base.get(key), value) for key, value in new.items()}


def _read_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _for_toml(value: Any) -> Any:
    """TOML has no null, and a section reads best with its name first."""
    if isinstance(value, dict):
        return {k: _for_toml(value[k]) for k in sorted(value, key=lambda k: k != "name")}
    return "none" if value is None else list(value) if isinstance(value, tuple) else value


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> NestedDict:
    flat: NestedDict = {}
    for key, value in nested.items():
        flat |= (
            _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
