"""Recipes as text: TOML in and out, and overrides such as `schedule.epochs=40`.

What is given later wins: defaults < named recipe < file < overrides. A `name` that changes inside
`model`, `optimizer` or `schedule` changes the kind: settings that both kinds have are kept, and
settings of the old kind alone fall away. An optimizer starts from its defaults instead, since a
rate that suits SGD does not suit Adam.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from ..errors import UsageError
from ..files import read_text
from .messages import error_line
from .recipe import KINDS, Recipe
from .section import Section

NestedDict = dict[str, Any]

MAX_RECIPE_BYTES = 2**18
MAX_KEY_PARTS = 16  # a.b.c has 3, and no setting has more than 4
# ++ and *+ do not try shorter pieces again, and (?<!) does not start within a word: it is linear.
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
# Reading a key takes a time that grows with the square of its parts.
_LONG_KEY = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MAX_KEY_PARTS}}}")


def to_toml(recipe: Recipe) -> str:
    """Return every setting of a recipe as TOML, which `from_toml` reads back."""
    return tomli_w.dumps(_for_toml(recipe.model_dump()))


def from_toml(text: str, *, base: Recipe | None = None, origin: str = "recipe") -> Recipe:
    """Return the recipe that `text` describes, on top of `base`; errors name `origin`.

    Raises:
        UsageError: not TOML, an unknown key or a bad value.
    """
    return with_changes(base or Recipe(), parse_toml(text, origin), origin=origin)


def read_toml(path: Path) -> NestedDict:
    """Return the tables of a recipe's TOML file.

    Raises:
        UsageError: no such file, no text, too long, or not TOML.
    """
    try:
        text = read_text(path, MAX_RECIPE_BYTES)
    except OSError as error:
        raise UsageError(f"recipe file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"recipe file {path} is not text in UTF-8") from error
    return parse_toml(text, str(path))


def parse_toml(text: str, origin: str) -> NestedDict:
    """Return the tables of a TOML text; `UsageError` names the line of a syntax error."""
    try:
        return _loads(text)
    except ValueError as error:
        raise UsageError(f"{origin}: not valid TOML: {error}") from error


def _loads(text: str) -> NestedDict:
    """Return the tables of a text; ValueError says why it cannot be read, or is too deep."""
    if key := _LONG_KEY.search(text):
        raise ValueError(f"a key of more than {MAX_KEY_PARTS} parts: {key.group()[:40]}...")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("its arrays or tables are nested too deeply for a recipe") from error


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
        if path.count(".") >= MAX_KEY_PARTS:
            raise UsageError(
                f'override "{path[:40]}..." has more than {MAX_KEY_PARTS} parts; '
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
    old, new = flatten(base.model_dump()), flatten(recipe.model_dump())
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
        return _loads(f"value = {text}")["value"]
    except ValueError:
        return text


def _for_toml(value: Any) -> Any:
    """TOML has no null, and a section reads best with its name first."""
    if isinstance(value, dict):
        return {k: _for_toml(value[k]) for k in sorted(value, key=lambda k: k != "name")}
    return "none" if value is None else list(value) if isinstance(value, tuple) else value


def flatten(nested: Mapping[str, Any], prefix: str = "") -> NestedDict:
    """Return nested tables as dotted paths, which `unflatten` reads back."""
    flat: NestedDict = {}
    for key, value in nested.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
