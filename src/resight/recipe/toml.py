"""Recipes as text: TOML in and out, overrides such as `schedule.epochs=40`, and faults in one line.

What is given later wins: defaults < named recipe < file < overrides. A `name` that changes inside
`model`, `optimizer` or `schedule` changes the kind: settings that both kinds have are kept, the
others fall away. An optimizer starts afresh instead, since a rate that suits SGD does not suit
Adam.
"""

import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import tomli_w
from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ..errors import UsageError, suggest
from .recipe import KINDS, Recipe
from .section import Section

NestedDict = dict[str, Any]


def to_toml(recipe: Recipe) -> str:
    """Every setting of a recipe, as TOML; `from_toml` gives back an equal recipe."""
    return tomli_w.dumps(_for_toml(recipe.model_dump()))


def from_toml(text: str, *, base: Recipe | None = None, origin: str = "recipe") -> Recipe:
    """The recipe that `text` describes, on top of `base`; `origin` is named in faults.

    Raises:
        UsageError: not TOML, an unknown key or a bad value.
    """
    return with_changes(base or Recipe(), parse_toml(text, origin), origin=origin)


def parse_toml(text: str, origin: str) -> NestedDict:
    """The tables of a TOML text; a fault in its syntax is a `UsageError` naming the line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{origin}: not valid TOML: {error}") from error


def with_overrides(recipe: Recipe, assignments: Iterable[str]) -> Recipe:
    """`recipe` with assignments such as `optimizer.lr=0.1` or `augment.cutout=none` applied.

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
    """Dotted paths as nested tables: `a.b` -> 1 becomes {"a": {"b": 1}}."""
    tables: NestedDict = {}
    for path, value in values:
        for key in reversed(path.split(".")):
            value = {key: value}
        tables = _merge(tables, value)
    return tables


def with_changes(recipe: Recipe, changes: Mapping[str, Any], *, origin: str) -> Recipe:
    """`recipe` with nested `changes` laid over it, validated as a whole."""
    old = recipe.model_dump()
    for section, kinds in KINDS.items():
        new = changes.get(section)
        if isinstance(new, Mapping) and "name" in new:
            old[section] = _carried_over(old[section], new["name"], kinds)
    try:
        return Recipe.model_validate(_merge(old, changes))
    except ValidationError as error:
        raise UsageError(f"{origin}: {_error_line(error)}") from error


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """`recipe` with its whole schedule stretched or shrunk to `epochs`: the same shape.

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
    """Path -> (value in `base`, value in `recipe`) of each setting that differs; None if absent."""
    old, new = _flatten(base.model_dump()), _flatten(recipe.model_dump())
    return {p: (old.get(p), new.get(p)) for p in new | old if old.get(p) != new.get(p)}


def _carried_over(old: NestedDict, name: object, kinds: Mapping[str, type[Section]]) -> NestedDict:
    """What is left of a section when its kind becomes `name`."""
    kind = kinds.get(name) if isinstance(name, str) else None
    if kind is kinds[old["name"]]:
        return old
    if kind is None or getattr(kind, "FRESH_WHEN_SWITCHED", False):
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


# --- faults ---------------------------------------------------------------------------------


def _error_line(error: ValidationError) -> str:
    """The first fault of a recipe: where, what was given, what is valid."""
    fault = error.errors(include_url=False)[0]
    section, keys, field = _locate(fault["loc"])
    path, given = ".".join(keys), fault["input"]
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        valid = list(section.model_fields)
        owners = [name for name, k in KINDS.get(keys[0], {}).items() if keys[-1] in k.model_fields]
        if owners:
            return f"{path} is a setting of {keys[0]}.name = {' or '.join(owners)}, not of this one"
        where = path.rpartition(".")[0] or "the top level"
        return (
            f"unknown key {path}{suggest(keys[-1], valid)} (valid in {where}: {', '.join(valid)})"
        )
    if kind == "value_error":
        return f"{path}: {context['error']}" if path else str(context["error"])
    if kind == "union_tag_invalid":
        valid = [name for name in KINDS[path] if name != "custom"]
        tag = str(context["tag"])
        return f'{path}.name = "{tag}": choose one of {", ".join(valid)}{suggest(tag, valid)}'
    if path in KINDS and not isinstance(given, Mapping):
        return f"{path} = {_shown(given)}: is a section; did you mean {path}.name={given}?"
    valid_values = _valid(field.annotation, field.metadata) if field else "a table of settings"
    hint = suggest(given, _choices(field.annotation)) if field and isinstance(given, str) else ""
    if field and (inner := _section_of(field)):
        hint = f"; set {path}.{next(iter(inner.model_fields))} and the others"
        if type(None) in get_args(field.annotation):
            hint += f", or {path}={{}} for the defaults"
    return f"{path} = {_shown(given)}: must be {valid_values}{hint}"


def _locate(loc: tuple[int | str, ...]) -> tuple[type[Section], list[str], FieldInfo | None]:
    """The section a fault lies in, its path without the union's tag, and its field if known."""
    section: type[Section] = Recipe
    keys: list[str] = []
    field: FieldInfo | None = None
    parts = iter(loc)
    for part in parts:
        if isinstance(part, int) or (field and not _section_of(field) and str(part) != keys[-1]):
            continue  # a place within a list, or pydantic's name for an arm of a union
        if field is not None and (inner := _section_of(field)):
            section = inner
        keys.append(str(part))
        field = section.model_fields.get(str(part))
        if len(keys) == 1 and keys[0] in KINDS:
            tag = next(parts, None)
            if tag is not None:
                section, field = KINDS[keys[0]][str(tag)], None
    return section, keys, field


def _section_of(field: FieldInfo) -> type[Section] | None:
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else str(value)


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for part in get_args(annotation) for choice in _choices(part)]


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_SIGNS = {Gt: ">", Ge: ">=", Lt: "<", Le: "<="}


def _valid(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a field accepts, in words: `a number > 0 and < 1, or "none" for off`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [m for extra in args[1:] for m in getattr(extra, "metadata", [extra])]
        return _valid(args[0], [*inner, *metadata])
    if origin is Literal:
        return "one of " + ", ".join(map(str, args)) if len(args) > 1 else f'"{args[0]}"'
    if origin is tuple:
        count = "" if args[-1] is Ellipsis else f"{len(args)} values, "
        return f"a list of {count}each {_valid(args[0])}"
    if type(None) in args:
        rest = " or ".join(_valid(arg, metadata) for arg in args if arg is not type(None))
        return f'{rest}, or "none" for off'
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "a table of " + ", ".join(annotation.model_fields)
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for bound in metadata
        for kind, sign in _SIGNS.items()
        if isinstance(bound, kind)
        for name in [kind.__name__.lower()]
    ]
    return " ".join([_WORDS.get(annotation, str(annotation)), " and ".join(bounds)]).strip()
